//! Hugging Face's golden cases for the Rust judges: inputs (i64, as the file's ports take them) and outputs (f32) by name,
//! read from `golden.safetensors`, and the artifacts exported from each fixture by the real program.

use crate::support::fixture;
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Every model with golden values.
pub const GOLDEN: [&str; 9] = [
    "albert-base-rand",
    "albert-choice-tiny",
    "albert-deb",
    "albert-mlm-tiny",
    "albert-pretraining-tiny",
    "albert-qa-tiny",
    "albert-seq-tiny",
    "albert-tiny-groups",
    "albert-tok-tiny",
];

pub struct Case {
    pub prefix: String,
    /// Shape of each input: `[batch, seq]`, or `[1, choices, seq]` for multiple choice.
    pub dims: Vec<usize>,
    pub feeds: BTreeMap<String, Vec<i64>>,
    pub golden: BTreeMap<String, Vec<f32>>,
    /// Shape of each golden value.
    pub shapes: BTreeMap<String, Vec<usize>>,
}

impl Case {
    /// Pairs of values anyone promises: at positions whose mask is 1, or all of a value that has no positions.
    pub fn promised<'a>(
        &'a self,
        name: &str,
        ours: &'a [f32],
        theirs: &'a [f32],
    ) -> impl Iterator<Item = (f32, f32)> + 'a {
        assert_eq!(ours.len(), theirs.len(), "{} {name}: number of values", self.prefix);
        let mask = &self.feeds["attention_mask"];
        let per_token = self.shapes[name].starts_with(&self.dims);
        let width = if per_token { ours.len() / mask.len() } else { 1 };
        ours.iter()
            .zip(theirs)
            .enumerate()
            .filter(move |(i, _)| !per_token || mask[i / width] == 1)
            .map(|(_, (&a, &b))| (a, b))
    }

    /// Largest difference over the promised values; NaN counts as infinite.
    pub fn gap(&self, name: &str, ours: &[f32], theirs: &[f32]) -> f32 {
        self.promised(name, ours, theirs).fold(0.0, |most, (a, b)| {
            let gap = (a - b).abs();
            if gap.is_nan() { f32::INFINITY } else { most.max(gap) }
        })
    }
}

fn numbers<T, const N: usize>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty());
    chunks.iter().map(|&c| from(c)).collect()
}

pub fn cases(model: &str) -> Vec<Case> {
    let bytes = std::fs::read(fixture(model).join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let prefixes: BTreeSet<&str> = tensors
        .names()
        .into_iter()
        .filter_map(|n| n.split('.').next())
        .collect();
    let case = |prefix: &str| {
        let mut case = Case {
            prefix: prefix.to_string(),
            dims: vec![],
            feeds: BTreeMap::new(),
            golden: BTreeMap::new(),
            shapes: BTreeMap::new(),
        };
        for (name, tensor) in tensors.tensors() {
            let Some(name) = name.strip_prefix(&format!("{prefix}.")) else {
                continue;
            };
            if tensor.dtype() == safetensors::Dtype::I64 {
                case.dims = tensor.shape().to_vec();
                case.feeds
                    .insert(name.to_string(), numbers(tensor.data(), i64::from_le_bytes));
            } else {
                case.shapes.insert(name.to_string(), tensor.shape().to_vec());
                case.golden
                    .insert(name.to_string(), numbers(tensor.data(), f32::from_le_bytes));
            }
        }
        if model.contains("choice") {
            // The stored rows are the choices of one question.
            case.dims.insert(0, 1);
        }
        case
    };
    prefixes.into_iter().map(case).collect()
}

/// A temporary folder that lives as long as the test program.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// albert-base-rand's checkpoint, made by the example once.
fn base_rand() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let out = folder().join("albert-base-rand");
        let bin = Path::new(env!("CARGO_BIN_EXE_thimble"));
        let example = bin.with_file_name("examples").join("albert_base_rand");
        let made = Command::new(&example).arg(&out).output();
        assert!(
            made.is_ok_and(|done| done.status.success()),
            "{} makes albert-base-rand (cargo builds it with the tests)",
            example.display()
        );
        out
    })
}

pub fn source(model: &str) -> PathBuf {
    if model == "albert-base-rand" {
        base_rand().to_path_buf()
    } else {
        fixture(model)
    }
}

/// Exports with the real program and returns the file.
pub fn export(model: &str, precision: &str, opset: i64) -> PathBuf {
    export_with(model, precision, opset, "f32")
}

/// The same with attention in this arithmetic.
pub fn export_with(model: &str, precision: &str, opset: i64, attention: &str) -> PathBuf {
    let out = folder().join(format!("{model}-{precision}-{opset}-{attention}.onnx"));
    let done = Command::new(env!("CARGO_BIN_EXE_thimble"))
        .arg("export")
        .arg(source(model))
        .arg("-o")
        .arg(&out)
        .args(["--precision", precision, "--opset", &opset.to_string()])
        .args(["--attention", attention])
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "export {model} {precision}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    out
}
