//! The arithmetic of a LoRA adapter, as PEFT's `merge_and_unload` has it. In come the adapter's tensors and the base model's, out
//! come the changed ones in f32; sums are made in f64. peft/tuners/lora/layer.py, `get_delta_weight` and `merge`.

use super::super::SourceError;
use super::super::names::{Stored, shared};
use super::super::raw::RawTensor;
use super::super::spelling::canonical;
use super::config::{AdapterConfig, MERGE_IN_PEFT};
use super::{Merged, ONE_TABLE};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use thimble_shared::model::head::masked_lm;
use thimble_shared::model::{FamilyRow, Role};

/// What PEFT puts before the name of each of the base model's modules.
const PREFIX: &str = "base_model.model.";

/// Wrappers inside names: where a module's own layer, and where a copy that is trained and saved, is kept.
const WRAPPERS: [&str; 3] = [".base_layer", ".modules_to_save.default", ".modules_to_save"];

/// Whether the adapter brings a copy of the word embedding of its own (`modules_to_save` has it as transformers' classes name it):
/// the decoder that was one with it then keeps the base's table.
pub fn saves_word(config: &AdapterConfig, family: &FamilyRow) -> bool {
    config.saves(&format!("{}{}", family.names.prefix, family.module(Role::Word, None)))
}

/// Which of a module's tensors one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// `[rank, in]`
    A,
    /// `[out, rank]`
    B,
    /// `[out]`, added to the module's bias.
    BiasOfB,
    /// `[rank, rows]` of an embedding table
    TableA,
    /// `[columns, rank]`
    TableB,
    /// DoRA's length of each row, `[out]`
    Magnitude,
}

/// How PEFT ends the names of a module's tensors.
const ENDS: [(&str, Part); 7] = [
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_B.bias", Part::BiasOfB),
    (".lora_embedding_A", Part::TableA),
    (".lora_embedding_B", Part::TableB),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
];

/// A matrix read whole, row-major.
#[derive(Clone, Debug)]
struct Matrix {
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// A module's tensors.
#[derive(Default)]
struct Adapted<'a> {
    /// The module as the adapter names it, which is what its configuration's patterns are for.
    spelled: String,
    parts: BTreeMap<Part, &'a RawTensor<'a>>,
}

/// The adapter's tensors by the canonical name of their module, and those it brings whole by their own.
#[derive(Default)]
struct Sorted<'a> {
    modules: BTreeMap<String, Adapted<'a>>,
    whole: BTreeMap<String, &'a RawTensor<'a>>,
}

/// All tensors of `base` that the adapter changes or adds.
pub fn merge(
    path: &Path,
    config: &AdapterConfig,
    tensors: &[RawTensor],
    base: &Stored,
) -> Result<Vec<Merged>, SourceError> {
    let (sorted, decoder) = (sort(path, tensors, base.family)?, base.decoder());
    // What is read is copied: hundreds of views of one storage are not.
    let named: Vec<(String, &RawTensor)> = tensors.iter().map(|t| (t.name.clone(), t)).collect();
    shared(&named, path)?;
    let named = sorted
        .modules
        .keys()
        .filter_map(|module| base.get(&format!("{module}.weight")));
    let named: Vec<(String, &RawTensor)> = named.map(|t| (t.name.clone(), t)).collect();
    shared(&named, path)?;
    let mut merged: BTreeMap<String, Matrix> = BTreeMap::new();
    let mut tables = BTreeSet::new();
    for (name, tensor) in sorted.whole {
        merged.insert(name, read(tensor)?);
    }
    for (canonical, Adapted { spelled: module, parts }) in sorted.modules {
        let mut target = |end: &str| -> Result<(String, Matrix), SourceError> {
            let name = format!("{canonical}.{end}");
            let stored = match merged.remove(&name) {
                Some(brought) => brought,
                None if name == decoder && base.get(&name).is_none() && base.word().is_some() => {
                    return Err(wrong(
                        path,
                        &module,
                        &format!("is adapted, and is the word embedding as well: {ONE_TABLE}. {MERGE_IN_PEFT}"),
                    ));
                }
                None => read(base.get(&name).ok_or_else(|| {
                    wrong(
                        path,
                        &module,
                        "is adapted, but the model has no weight of that name: is it the adapter's base?",
                    )
                })?)?,
            };
            Ok((name, stored))
        };
        let (name, mut weight) = target("weight")?;
        let bias = match parts.get(&Part::BiasOfB) {
            Some(added) => Some((target("bias")?, read(added)?)),
            None => None,
        };
        let scale = adapt(path, config, &module, &parts, &mut weight)?;
        if parts.contains_key(&Part::TableA) {
            tables.insert(name.clone());
        }
        merged.insert(name, weight);
        if let Some(((name, bias), added)) = bias {
            let sum = plus(bias, scale, &added);
            let other = || wrong(path, &module, "has a bias of another length than the model's");
            merged.insert(name, sum.ok_or_else(other)?);
        }
    }
    // A checkpoint with a decoder has the map before it, tied or not.
    if saves_word(config, base.family)
        && base.has(masked_lm::DENSE)
        && base.get(&decoder).is_none()
        && !merged.contains_key(&decoder)
        && let Some(table) = base.word()
    {
        merged.insert(decoder, read(table)?);
    }
    Ok(merged
        .into_iter()
        .map(|(name, matrix)| Merged {
            table: tables.contains(&name),
            name,
            shape: matrix.shape,
            bytes: matrix.data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        })
        .collect())
}

/// `bias` + `scale` · `added`; none where their shapes differ.
fn plus(mut bias: Matrix, scale: f64, added: &Matrix) -> Option<Matrix> {
    if bias.shape != added.shape {
        return None;
    }
    for (old, new) in bias.data.iter_mut().zip(&added.data) {
        *old = (f64::from(*old) + scale * f64::from(*new)) as f32;
    }
    Some(bias)
}

/// Adds a module's change to its weight; gives the scale.
fn adapt(
    path: &Path,
    config: &AdapterConfig,
    module: &str,
    parts: &BTreeMap<Part, &RawTensor>,
    weight: &mut Matrix,
) -> Result<f64, SourceError> {
    let is_table = parts.contains_key(&Part::TableA) || parts.contains_key(&Part::TableB);
    let (a, b) = if is_table {
        (Part::TableA, Part::TableB)
    } else {
        (Part::A, Part::B)
    };
    let part = |part| match parts.get(&part) {
        Some(tensor) => read(tensor),
        None => Err(wrong(path, module, "has one of LoRA's two matrices, not both")),
    };
    let (a, b) = (part(a)?, part(b)?);
    let magnitude = parts.get(&Part::Magnitude).map(|tensor| read(tensor)).transpose()?;
    let (&[rank, columns], &[rows, inner]) = (&a.shape[..], &b.shape[..]) else {
        return Err(wrong(path, module, "has matrices that are none"));
    };
    let asked = if is_table { [columns, rows] } else { [rows, columns] };
    if rank != inner || weight.shape != asked {
        return Err(wrong(
            path,
            module,
            &format!(
                "has A {:?} and B {:?}, which do not change a weight of {:?}",
                a.shape, b.shape, weight.shape
            ),
        ));
    }
    if config.dora != magnitude.is_some() || (config.dora && is_table) {
        return Err(wrong(
            path,
            module,
            &format!("is half DoRA: use_dora is {}. {MERGE_IN_PEFT}", config.dora),
        ));
    }
    let scale = config.scale(module, rank)?;
    for row in 0..rows {
        let mut change = vec![0f64; columns];
        for (k, a) in a.data.chunks_exact(columns.max(1)).enumerate() {
            let b = f64::from(b.data[row * rank + k]);
            for (sum, a) in change.iter_mut().zip(a) {
                *sum += b * f64::from(*a);
            }
        }
        for (column, change) in change.into_iter().enumerate() {
            let at = if is_table {
                column * rows + row
            } else {
                row * columns + column
            };
            weight.data[at] = (f64::from(weight.data[at]) + scale * change) as f32;
        }
    }
    if let Some(magnitude) = magnitude {
        lengthen(path, module, &magnitude, columns, weight)?;
    }
    Ok(scale)
}

/// DoRA: each row of W + scale · B · A gets the length that was trained for it. peft/tuners/lora/dora.py.
fn lengthen(
    path: &Path,
    module: &str,
    magnitude: &Matrix,
    columns: usize,
    weight: &mut Matrix,
) -> Result<(), SourceError> {
    if magnitude.data.len() != weight.shape[0] {
        return Err(wrong(
            path,
            module,
            "has a magnitude vector of another length than its weight has rows",
        ));
    }
    for (row, &length) in weight.data.chunks_exact_mut(columns.max(1)).zip(&magnitude.data) {
        let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        for x in row {
            *x = (f64::from(*x) * f64::from(length) / norm) as f32;
        }
    }
    Ok(())
}

/// Takes PEFT's names apart.
fn sort<'a>(path: &Path, tensors: &'a [RawTensor<'a>], family: &FamilyRow) -> Result<Sorted<'a>, SourceError> {
    let mut sorted = Sorted::default();
    for tensor in tensors {
        let Some(name) = tensor.name.strip_prefix(PREFIX) else {
            return Err(wrong(
                path,
                &tensor.name,
                "is no name of PEFT's (base_model.model.…): is this a whole model that is called an adapter?",
            ));
        };
        // Older versions keep the adapter's own name in the middle of names.
        let name = name.replace("_A.default", "_A").replace("_B.default", "_B");
        if name.contains(".original_module") {
            continue;
        }
        let end = ENDS
            .iter()
            .find_map(|(end, part)| Some((name.strip_suffix(end)?, *part)));
        if let Some((module, part)) = end {
            let adapted = sorted.modules.entry(canonical(module, family)).or_default();
            adapted.spelled = module.to_string();
            if let Some(first) = adapted.parts.insert(part, tensor) {
                return Err(wrong(
                    path,
                    &tensor.name,
                    &format!("is the same matrix as {}", first.name),
                ));
            }
        } else if name.contains(".lora_") || name.contains("token_adapter") {
            return Err(wrong(path, &tensor.name, &format!("is not supported. {MERGE_IN_PEFT}")));
        } else {
            let plain = WRAPPERS
                .iter()
                .fold(name.clone(), |name, wrapper| name.replace(wrapper, ""));
            // With bias="all" PEFT stores a saved module's bias again under its wrapper's name.
            if plain == name {
                sorted.whole.insert(canonical(&plain, family), tensor);
            } else {
                sorted.whole.entry(canonical(&plain, family)).or_insert(tensor);
            }
        }
    }
    if sorted.modules.is_empty() {
        return Err(SourceError::Format {
            path: path.to_path_buf(),
            problem: "it holds none of LoRA's matrices".into(),
        });
    }
    Ok(sorted)
}

fn wrong(path: &Path, tensor: &str, problem: &str) -> SourceError {
    SourceError::Tensor {
        path: path.to_path_buf(),
        tensor: tensor.into(),
        problem: problem.into(),
    }
}

fn read(tensor: &RawTensor) -> Result<Matrix, SourceError> {
    let data = tensor
        .to_f32(&|_| ())
        .map_err(|problem| wrong(tensor.path, &tensor.name, &problem))?;
    Ok(Matrix {
        shape: tensor.shape.clone(),
        data,
    })
}
