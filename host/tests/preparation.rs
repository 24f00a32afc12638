//! What is done to a model before its numbers are rounded must not change what it computes in f32: shifts of activations and
//! splits of outlier channels, on every fixture and head, groups and inner layers included, whatever the attention mask.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use support::fixture;
use thimble::eval::dataset::{self, Row};
use thimble::eval::runner;
use thimble::models::image::image_of;
use thimble::models::model_file::ModelSource;
use thimble::quantize::outlier_split::split;
use thimble::quantize::shift::{Reach, Shift};
use thimble_shared::dtype::{Format, Values};
use thimble_shared::model::{AnswerKind, Model, ModelSpec};

/// Every fixture whose weights lie here.
const MODELS: [&str; 9] = [
    "albert-brackets",
    "albert-choice-tiny",
    "albert-deb",
    "albert-mlm-tiny",
    "albert-pretraining-tiny",
    "albert-qa-tiny",
    "albert-seq-tiny",
    "albert-tiny-groups",
    "albert-tok-tiny",
];

/// Largest difference allowed, in units of the largest output: what f32 sums in another order differ by.
const EXACT: f32 = 1e-5;

fn model(name: &str) -> Model {
    ModelSource::open(&fixture(name)).unwrap().model().unwrap().into_owned()
}

/// Made-up rows, and the same with holes in their masks, with padding on the left, and with no real token at all.
fn rows(model: &Model) -> Vec<Row> {
    let plain = dataset::load(None, &model.config, None, Some(6)).unwrap().rows;
    let masked = |mask: fn(usize) -> i64| {
        plain.iter().map(move |row| Row {
            attention_mask: (0..row.attention_mask.len()).map(mask).collect(),
            ..row.clone()
        })
    };
    let holes = masked(|i| i64::from(i % 3 != 1));
    let left = masked(|i| i64::from(i > 1));
    let nothing = masked(|_| 0);
    plain.iter().cloned().chain(holes).chain(left).chain(nothing).collect()
}

/// Largest difference of any output at any position, masked ones included, in units of the largest output.
fn apart(a: &Model, b: &Model, rows: &[Row]) -> f32 {
    let outputs = |model: &Model| runner::outputs(&image_of(model).unwrap(), rows).unwrap();
    let (ours, theirs) = (outputs(a), outputs(b));
    let mut most = 0f32;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (name, x) in ours {
            let scale = x.data.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
            for (x, y) in x.data.iter().zip(&theirs[name].data) {
                let gap = (x - y).abs() / scale;
                most = if gap.is_nan() { f32::INFINITY } else { most.max(gap) };
            }
        }
    }
    most
}

/// The vectors of `b` that differ from those of `a`.
fn changed(a: &Model, b: &Model) -> Vec<String> {
    let differs = |(name, values): &(&String, &Values)| a.weights.get(name) != Some(*values);
    b.weights.iter().filter(differs).map(|(name, _)| name.clone()).collect()
}

/// How many biases a shift of all places moves: those of every map but `q`'s twins are counted once each.
fn shiftable(model: &Model) -> usize {
    let config = &model.config;
    let layers = config.num_hidden_groups * config.inner_group_num;
    // embed_norm and map; of each layer q, k, v, o, both LayerNorms, up and down; what the head reads.
    let decoder = if config.head.has_decoder() { 3 } else { 0 };
    let head = match config.head.answer() {
        AnswerKind::Hidden | AnswerKind::TokenLabels | AnswerKind::Span | AnswerKind::Embedding => 1,
        AnswerKind::Vocabulary | AnswerKind::VocabularyAndOrder | AnswerKind::Labels | AnswerKind::Choice => 0,
    };
    2 + 8 * layers + decoder + head + usize::from(config.pooler)
}

#[test]
fn shifts_keep_the_function_in_f32() {
    for name in MODELS {
        let source = model(name);
        let rows = rows(&source);
        let shift = Shift::calibrate(&source, &rows).unwrap();
        let int8: BTreeMap<String, Format> = ModelSpec::uniform(source.config.clone(), Format::I8).formats;
        for reach in [Reach::Inside, Reach::Everywhere] {
            let mut shifted = source.clone();
            shift.apply(&mut shifted, &int8, reach);
            let gap = apart(&source, &shifted, &rows);
            assert!(gap <= EXACT, "{name}, {reach:?}: {gap:e}");
            if reach == Reach::Everywhere {
                assert_eq!(
                    shifted.config.hidden_shift,
                    source.config.head.row().gives_hidden,
                    "{name}"
                );
                let found = changed(&source, &shifted);
                assert_eq!(found.len(), shiftable(&source), "{name}: {found:?}");
            }
        }
        let mut plain = source.clone();
        let f32s = ModelSpec::uniform(source.config.clone(), Format::F32).formats;
        shift.apply(&mut plain, &f32s, Reach::Everywhere);
        assert_eq!(plain, source, "{name}: nothing is rounded, so nothing is shifted");
    }
}

/// One channel far from zero at every token is what shifts are for: the means must come out of the activations.
#[test]
fn a_shift_takes_an_outlier_channel_out_of_what_is_read() {
    let mut source = model("albert-brackets");
    if let Some(bias) = source.weights.get_mut("0.0.attn_norm.bias").and_then(Values::f32s_mut) {
        bias[5] -= 20.0;
    }
    let rows = rows(&source);
    let shift = Shift::calibrate(&source, &rows).unwrap();
    let int8 = ModelSpec::uniform(source.config.clone(), Format::I8).formats;
    let center = shift.center("0.0.up", &int8, Reach::Everywhere).unwrap();
    let others = center.iter().enumerate().filter(|(i, _)| *i != 5);
    let most = others.fold(0f32, |m, (_, c)| m.max(c.abs()));
    assert!(center[5] < -15.0 && most < 10.0, "{} beside {most}", center[5]);
    assert_eq!(shift.center("0.0.down", &int8, Reach::Everywhere), None, "behind gelu");
    assert_eq!(shift.center("0.0.up", &int8, Reach::Nowhere), None);
}

#[test]
fn splits_keep_the_function_in_f32() {
    let mut found = 0;
    for name in MODELS {
        let source = model(name);
        let rows = rows(&source);
        let Some(wider) = split(&source, &rows[..6]).unwrap() else {
            continue;
        };
        found += 1;
        assert!(wider.config.intermediate_size > source.config.intermediate_size);
        let gap = apart(&source, &wider, &rows);
        assert!(gap <= EXACT, "{name}: {gap:e}");
    }
    assert!(found > 0, "some fixture is wide enough to be split");
}
