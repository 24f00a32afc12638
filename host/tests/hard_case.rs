//! Outlier channels: albert-deb with adjacent weights rescaled by random powers of two, or with outliers planted into its
//! activations, computes the same in f32, but round-to-nearest int8 of it loses its mind. The solver must not.

use std::path::{Path, PathBuf};
use thimble::budget::preparations::STEPS;
use thimble::budget::solver::{Task, solve};
use thimble::cmd::shrink::split;
use thimble::eval::dataset::{self, Row};
use thimble::eval::metrics::Loss;
use thimble::eval::runner;
use thimble::models::image::image_of;
use thimble::models::model_file::ModelSource;
use thimble::quantize::equalize::equalize;
use thimble::quantize::quantizer::{Quantizer, uniform};
use thimble_shared::artifact::Provenance;
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::dtype::{Format, Values};
use thimble_shared::model::Model;
use thimble_shared::random;

fn albert_deb() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/albert-deb")
}

fn f32s<'a>(model: &'a mut Model, name: &str) -> &'a mut Vec<f32> {
    let values = model.weights.get_mut(name).and_then(Values::f32s_mut);
    values.unwrap_or_else(|| panic!("{name} is an f32 weight"))
}

/// Multiplies channel j by `factor(j)` where it is produced and divides it where it is consumed.
fn spoil(model: &mut Model, produced: &[&str], consumed: &str, channels: usize, factor: impl Fn(usize) -> f32) {
    for name in produced {
        let values = f32s(model, name);
        let width = values.len() / channels;
        values
            .chunks_mut(width)
            .enumerate()
            .for_each(|(j, row)| row.iter_mut().for_each(|x| *x *= factor(j)));
    }
    f32s(model, consumed)
        .chunks_mut(channels)
        .for_each(|row| row.iter_mut().enumerate().for_each(|(j, x)| *x /= factor(j)));
}

/// The hard case: value against output map, query against key, embedding LayerNorm against map.
fn hard(source: &Model, factor: impl Fn(u64) -> f32) -> Model {
    let mut model = source.clone();
    let (hidden, embedding) = (model.config.hidden_size, model.config.embedding_size);
    spoil(&mut model, &["0.0.v", "0.0.v.bias"], "0.0.o", hidden, |j| {
        factor(j as u64)
    });
    spoil(
        &mut model,
        &["embed_norm.weight", "embed_norm.bias"],
        "map",
        embedding,
        |j| factor(1000 + j as u64),
    );
    // q against k: both produce, so one is multiplied and the other divided.
    for (name, sign) in [("0.0.q", 1), ("0.0.q.bias", 1), ("0.0.k", -1), ("0.0.k.bias", -1)] {
        let values = f32s(&mut model, name);
        let width = values.len() / hidden;
        for (j, row) in values.chunks_mut(width).enumerate() {
            let f = factor(2000 + j as u64);
            row.iter_mut().for_each(|x| if sign > 0 { *x *= f } else { *x /= f });
        }
    }
    model
}

fn random(i: u64) -> u64 {
    random::at(0, i)
}

fn loss(reference: &Model, candidate: &Model, rows: &[Row]) -> Loss {
    let outputs = |model: &Model| runner::outputs(&image_of(model).unwrap(), rows).unwrap();
    runner::compare(&reference.config, rows, &outputs(reference), &outputs(candidate)).unwrap()
}

/// The solver at int8's size, tuned on some rows, judged on all the others.
fn shrunk(model: &Model, rows: &dataset::Dataset) -> (Loss, Loss) {
    let (tune, judge) = split(rows, 48);
    let int8 = Quantizer::new(model)
        .model(&uniform(&model.config, Format::I8))
        .unwrap();
    let formats = [Format::F32, Format::F16, Format::I8, Format::I8A];
    let onnx = LowerOptions::default();
    let provenance = Provenance::default();
    let budget = thimble_shared::artifact::size(&int8.graph(), onnx, &provenance).unwrap() as u64;
    let task = Task {
        source: model,
        tune: &tune,
        report: &judge,
        formats: &formats,
        steps: &STEPS,
        budget,
        onnx,
        provenance: &provenance,
    };
    let Ok(plan) = solve(&task, |_| {}).unwrap() else {
        panic!("int8's own size is no less than the floor")
    };
    assert!(plan.bytes <= budget);
    (loss(model, &int8, &judge), plan.loss)
}

#[test]
fn powers_of_two_between_adjacent_weights_cost_nothing() {
    let subject = ModelSource::open(&albert_deb()).unwrap();
    let source = subject.model().unwrap();
    let rows = dataset::load(
        Some(&albert_deb().join("test.jsonl")),
        &source.config,
        subject.tokenizer(),
        None,
    )
    .unwrap();
    let power = |i: u64| 2f32.powi((random(i) % 13) as i32 - 6);
    let model = hard(&source, power);

    let same = loss(&source, &model, &rows.rows[..50]);
    assert!(
        same.outputs.values().all(|d| d.max_abs == 0.0),
        "the function is the same to the last bit: {same:?}"
    );
    let same = loss(&model, &equalize(&model), &rows.rows[..50]);
    assert!(
        same.outputs.values().all(|d| d.max_abs == 0.0),
        "equalizing keeps it so: {same:?}"
    );

    let (nearest, solved) = shrunk(&model, &rows);
    println!(
        "round to nearest: {:?} agree, {:?} right",
        nearest.agreement, nearest.accuracy
    );
    println!(
        "solver:           {:?} agree, {:?} right",
        solved.agreement, solved.accuracy
    );
    assert!(
        nearest.agreement.unwrap() < 0.97,
        "the case is hard: {:?}",
        nearest.agreement
    );
    assert!(solved.agreement.unwrap() >= 0.99, "{:?}", solved.agreement);
    assert!(solved.accuracy.unwrap() >= 0.835, "{:?}", solved.accuracy);
}

#[test]
fn factors_that_are_no_powers_of_two_cost_nothing_either() {
    let subject = ModelSource::open(&albert_deb()).unwrap();
    let source = subject.model().unwrap();
    let rows = dataset::load(
        Some(&albert_deb().join("test.jsonl")),
        &source.config,
        subject.tokenizer(),
        Some(600),
    )
    .unwrap();
    let factor = |i: u64| ((random(i ^ 77) % 8001) as f32 / 1000.0 - 4.0).exp();
    let model = hard(&source, factor);
    let (nearest, solved) = shrunk(&model, &rows);
    println!(
        "round to nearest: {:?} agree, solver {:?}",
        nearest.agreement, solved.agreement
    );
    assert!(
        nearest.agreement.unwrap() < 0.97,
        "the case is hard: {:?}",
        nearest.agreement
    );
    assert!(solved.agreement.unwrap() >= 0.985, "{:?}", solved.agreement);
}

/// A channel that `norms` make lies `by` lower; the biases of its readers and those behind the residual make up for it.
fn lower(model: &mut Model, norms: &[&str], readers: &[&str], back: &str, channel: usize, by: f32) {
    for norm in norms {
        f32s(model, &format!("{norm}.bias"))[channel] -= by;
    }
    for reader in readers {
        let bias = f32s(model, &format!("{reader}.bias")).len();
        let width = f32s(model, reader).len() / bias;
        let column: Vec<f32> = f32s(model, reader)
            .iter()
            .skip(channel)
            .step_by(width)
            .copied()
            .collect();
        let biases = f32s(model, &format!("{reader}.bias"));
        biases.iter_mut().zip(column).for_each(|(b, w)| *b += by * w);
    }
    f32s(model, &format!("{back}.bias"))[channel] += by;
}

/// As `scripts/spoil --kind activations`, taller: channels at 45 times the others' RMS in what layers read, as PL-BERT has them,
/// and two channels near 16 behind gelu, which cancel.
fn outliers(source: &Model) -> Model {
    const PAIRS: usize = 1;
    let mut model = source.clone();
    let hidden = model.config.hidden_size;
    lower(
        &mut model,
        &["map", "0.0.ffn_norm"],
        &["0.0.q", "0.0.k", "0.0.v", "pooler"],
        "0.0.o",
        77,
        45.0,
    );
    lower(&mut model, &["0.0.attn_norm"], &["0.0.up"], "0.0.down", 31, 45.0);
    let wide = model.config.intermediate_size;
    let noise = |i: usize| (random(i as u64 ^ 0x5117) % 2001) as f32 / 1000.0 - 1.0;
    let up: Vec<f32> = (0..PAIRS * hidden).map(|i| 0.3 * noise(i)).collect();
    f32s(&mut model, "0.0.up").extend([up.clone(), up].concat());
    f32s(&mut model, "0.0.up.bias").extend([16.0; 2 * PAIRS]);
    let down = std::mem::take(f32s(&mut model, "0.0.down"));
    let columns = |row: usize| (0..PAIRS).map(move |i| 0.05 * noise(7_000 + row * PAIRS + i));
    let rows = down.chunks(wide).enumerate();
    *f32s(&mut model, "0.0.down") = rows
        .flat_map(|(i, row)| {
            row.iter()
                .copied()
                .chain(columns(i))
                .chain(columns(i).map(|x| -x))
                .collect::<Vec<f32>>()
        })
        .collect();
    model.config.intermediate_size += 2 * PAIRS;
    model
}

#[test]
fn outliers_in_the_activations_cost_nothing() {
    let subject = ModelSource::open(&albert_deb()).unwrap();
    let source = subject.model().unwrap();
    let jsonl = albert_deb().join("test.jsonl");
    let rows = dataset::load(Some(&jsonl), &source.config, subject.tokenizer(), Some(600)).unwrap();
    let model = outliers(&source);
    let same = loss(&source, &model, &rows.rows[..50]);
    assert!(
        same.outputs.values().all(|d| d.max_abs < 1e-3 * d.reference_std) && same.agreement == Some(1.0),
        "the function is the same: {same:?}"
    );
    let (nearest, solved) = shrunk(&model, &rows);
    println!(
        "outliers planted: round to nearest {:?} agree, KL {:?}; solver {:?}, KL {:?}",
        nearest.agreement, nearest.kl, solved.agreement, solved.kl
    );
    // albert-deb's labels are robust; its distributions are not.
    assert!(nearest.kl.unwrap() > 3e-4, "the case is hard: {:?}", nearest.kl);
    assert!(solved.kl.unwrap() < nearest.kl.unwrap() / 5.0, "{:?}", solved.kl);
    assert!(solved.agreement.unwrap() >= 0.995, "{:?}", solved.agreement);
}
