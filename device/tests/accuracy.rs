//! Trained models keep their answers: int8 and f16 against Hugging Face's f32 logits on the classifiers' test rows.

mod fixture;
#[path = "../../tests/support/mod.rs"]
mod support;

use fixture::{Checkpoint, engine};
use support::{fixture, npy};
use thimble_device::{Engine, Input};
use thimble_shared::decode;
use thimble_shared::dtype::Format;

/// Data of a fixture's .npy file and its last dimension.
fn data(name: &str, file: &str) -> (Vec<u8>, usize) {
    let (shape, data) = npy(&fixture(&format!("{name}/{file}")));
    (data, *shape.last().unwrap())
}

fn ids(name: &str) -> (Vec<i64>, usize) {
    let (data, seq) = data(name, "test_input_ids_i16.npy");
    (
        data.chunks_exact(2)
            .map(|b| i64::from(i16::from_le_bytes([b[0], b[1]])))
            .collect(),
        seq,
    )
}

fn logits(name: &str) -> (Vec<f32>, usize) {
    let (data, width) = data(name, "test_logits_fp32.npy");
    (
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect(),
        width,
    )
}

fn run(engine: &Engine, ids: &[i64], seq: usize) -> Vec<f32> {
    let mut all = vec![];
    for batch in ids.chunks(8 * seq) {
        let input = Input {
            shape: vec![batch.len() / seq, seq],
            input_ids: batch.to_vec(),
            attention_mask: Some(batch.iter().map(|&id| i64::from(id != 0)).collect()),
            token_type_ids: None,
        };
        all.extend(&engine.run(&input).unwrap().get("logits").unwrap().data);
    }
    all
}

#[test]
fn the_section_classifier_keeps_its_labels() {
    let (ids, seq) = ids("albert-deb");
    let (want, width) = logits("albert-deb");
    let rows = 320;
    for (format, floor, apart) in [
        (Format::F32, 1.0, 2e-4),
        (Format::F16, 0.99, 0.1),
        (Format::I8, 0.97, 1.5),
        (Format::I8A, 0.97, 1.5),
    ] {
        let engine = engine(&Checkpoint::read("albert-deb").model(format));
        let got = run(&engine, &ids[..rows * seq], seq);
        let same = got
            .chunks(width)
            .zip(want.chunks(width))
            .filter(|(a, b)| decode::argmax(a) == decode::argmax(b))
            .count();
        let max = got.iter().zip(&want).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        println!("{format}: {same} of {rows} labels agree, logits at most {max:.2e} apart");
        assert!(
            same as f64 >= floor * rows as f64 && max < apart,
            "{format}: {same} of {rows}, {max}"
        );
    }
}

#[test]
fn the_bracket_matcher_keeps_its_answers() {
    let (ids, seq) = ids("albert-brackets");
    let (want, width) = logits("albert-brackets");
    let rows = 100;
    for (format, floor) in [
        (Format::F32, 1.0),
        (Format::F16, 0.99),
        (Format::I8, 0.98),
        (Format::I8A, 0.98),
    ] {
        let engine = engine(&Checkpoint::read("albert-brackets").model(format));
        let got = run(&engine, &ids[..rows * seq], seq);
        let real: Vec<usize> = (0..rows * seq).filter(|&i| ids[i] != 0).collect();
        let label = |values: &[f32], i: usize| decode::argmax(&values[i * width..][..width]);
        let same = real.iter().filter(|&&i| label(&got, i) == label(&want, i)).count();
        println!("{format}: {same} of {} tokens agree", real.len());
        assert!(
            same as f64 >= floor * real.len() as f64,
            "{format}: {same} of {}",
            real.len()
        );
    }
}
