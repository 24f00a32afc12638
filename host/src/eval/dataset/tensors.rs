//! Rows of a safetensors file: token ids, and what goes with them.

use super::row::compares_labels;
use super::{Dataset, InputsError, Row, sample};
use std::collections::BTreeSet;
use std::path::Path;
use thimble_device::engine::tensors::{Tensor, TensorFile};
use thimble_shared::model::Config;

const IDS: &str = "input_ids";

/// Rows of a safetensors file: `input_ids` and what goes with it, alone or under prefixes (`s16.input_ids`).
pub(super) fn tensors(path: &Path, config: &Config, most: usize) -> Result<Dataset, InputsError> {
    let file = TensorFile::read(path)?;
    let prefixes: BTreeSet<String> = file
        .names()
        .filter_map(|name| name.strip_suffix(IDS))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .map(str::to_string)
        .collect();
    let mut rows = Vec::new();
    for prefix in &prefixes {
        rows.extend(prefixed(path, &file, prefix, config)?);
    }
    if rows.is_empty() {
        return Err(InputsError::Empty {
            path: path.to_path_buf(),
            expected: "expected a tensor input_ids",
        });
    }
    let rows = sample(rows.len(), most).into_iter().map(|i| rows[i].clone()).collect();
    Ok(Dataset {
        given: true,
        rows,
        ..Dataset::default()
    })
}

/// The rows under one prefix.
fn prefixed(path: &Path, file: &TensorFile, prefix: &str, config: &Config) -> Result<Vec<Row>, InputsError> {
    let bad = |tensor: &str, problem: String| InputsError::Tensor {
        path: path.to_path_buf(),
        tensor: format!("{prefix}{tensor}"),
        problem,
    };
    let tensor = |name: &str| file.integers(&format!("{prefix}{name}"));
    let ids = tensor(IDS)?.ok_or_else(|| bad(IDS, "is not there".into()))?;
    let (count, shape) = split(&ids.shape, config).map_err(|problem| bad(IDS, problem))?;
    if count == 0 {
        return Ok(vec![]);
    }
    // With at least one row, the file's own size bounds this product.
    let size: usize = shape.iter().product();
    let like = |name: &'static str, default: i64| -> Result<Tensor<i64>, InputsError> {
        match tensor(name)? {
            None => Ok(Tensor {
                shape: ids.shape.clone(),
                data: vec![default; ids.data.len()],
            }),
            Some(t) if t.shape == ids.shape => Ok(t),
            Some(t) => Err(bad(name, format!("has shape {:?}, input_ids {:?}", t.shape, ids.shape))),
        }
    };
    let (mask, types) = (like("attention_mask", 1)?, like("token_type_ids", 0)?);
    let labels = match compares_labels(config) {
        true => tensor("labels")?,
        false => None,
    };
    if let Some(labels) = labels.as_ref().filter(|l| l.shape.first() != Some(&count)) {
        return Err(bad(
            "labels",
            format!("has shape {:?}, there are {count} inputs", labels.shape),
        ));
    }
    let targets = targets(file, &format!("{prefix}labels"), count, config).map_err(|problem| bad("labels", problem))?;
    let mut rows = Vec::with_capacity(count);
    for i in 0..count {
        let part = |t: &Tensor<i64>| t.data[i * size..(i + 1) * size].to_vec();
        let row = Row {
            shape: shape.clone(),
            input_ids: part(&ids),
            attention_mask: part(&mask),
            token_type_ids: part(&types),
            labels: labels.as_ref().map(|l| {
                let each = l.data.len() / count;
                l.data[i * each..(i + 1) * each].to_vec()
            }),
            targets: targets.as_ref().map(|t| {
                let each = t.len() / count;
                t[i * each..(i + 1) * each].to_vec()
            }),
            blanks: vec![],
        };
        row.check(config)
            .map_err(|problem| bad(IDS, format!("row {i}: {problem}")))?;
        rows.push(row);
    }
    Ok(rows)
}

/// A regression's values in the tensor `name`, floats or integers, of `count` rows.
fn targets(file: &TensorFile, name: &str, count: usize, config: &Config) -> Result<Option<Vec<f32>>, String> {
    if !config.predicts_values() {
        return Ok(None);
    }
    let (shape, data) = match (file.floats(name), file.integers(name)) {
        (Ok(Some(t)), _) => (t.shape, t.data),
        (_, Ok(Some(t))) => (t.shape, t.data.iter().map(|&v| v as f32).collect()),
        (Ok(None), _) | (_, Ok(None)) => return Ok(None),
        (Err(problem), Err(_)) => return Err(problem.to_string()),
    };
    if shape.first() != Some(&count) {
        return Err(format!("has shape {shape:?}, there are {count} inputs"));
    }
    Ok(Some(data))
}

/// How many rows a tensor of `shape` holds, and the shape of each. A multiple-choice model takes two dimensions as the
/// choices of one question.
fn split(shape: &[usize], config: &Config) -> Result<(usize, Vec<usize>), String> {
    match (shape, config.head.takes_choices()) {
        ([batch, seq], false) => Ok((*batch, vec![1, *seq])),
        ([choices, seq], true) => Ok((1, vec![1, *choices, *seq])),
        ([batch, choices, seq], true) => Ok((*batch, vec![1, *choices, *seq])),
        (_, false) => Err(format!("has shape {shape:?}, must be [batch, seq]")),
        (_, true) => Err(format!(
            "has shape {shape:?}, must be [choices, seq] or [batch, choices, seq]"
        )),
    }
}
