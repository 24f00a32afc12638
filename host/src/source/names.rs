//! Matches stored tensor names with thimble's: undoes prefixes and old spellings, pairs every weight the graph needs with its
//! tensor, and reports all that do not fit in one error. In come raw tensors, out go f32 values by thimble's names.

use super::config::Described;
use super::error::{Mismatch, Misshapen};
use super::raw::RawTensor;
use super::{SourceError, Weight};
use crate::ram;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Prefixes that wrappers put before every name: DataParallel, torch.compile, and the head classes themselves.
const PREFIXES: [&str; 3] = ["module.", "_orig_mod.", "albert."];

/// Index buffers some versions of transformers store; they hold 0, 1, 2 ... and zeros.
const BUFFERS: [&str; 2] = ["embeddings.position_ids", "embeddings.token_type_ids"];

/// Parts of ALBERT that not every head reads.
const OPTIONAL_PARTS: [&str; 5] = ["pooler", "predictions", "sop_classifier", "classifier", "qa_outputs"];

const DECODER: &str = "predictions.decoder.weight";
const DECODER_BIAS: &str = "predictions.decoder.bias";
const BIAS: &str = "predictions.bias";
const WORD: &str = "embeddings.word_embeddings.weight";

/// The stored tensors by canonical name: that of the bare `AlbertModel`, with `weight` and `bias`.
#[derive(Debug)]
pub struct Stored<'a> {
    tensors: BTreeMap<String, RawTensor<'a>>,
    /// Whether names carried `albert.`, so that errors name tensors as this file would.
    prefixed: bool,
}

impl<'a> Stored<'a> {
    pub fn new(raw: Vec<RawTensor<'a>>) -> Result<Stored<'a>, SourceError> {
        let mut tensors: BTreeMap<String, RawTensor<'a>> = BTreeMap::new();
        let mut prefixed = false;
        for tensor in raw {
            let (name, albert) = canonical(&tensor.name);
            prefixed |= albert;
            if BUFFERS.contains(&name.as_str()) {
                continue;
            }
            if let Some(first) = tensors.get(&name) {
                return Err(SourceError::Tensor {
                    path: tensor.path.to_path_buf(),
                    problem: format!("is the same weight as {}", first.name),
                    tensor: tensor.name,
                });
            }
            tensors.insert(name, tensor);
        }
        Ok(Stored { tensors, prefixed })
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn count(&self) -> usize {
        self.tensors.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &RawTensor<'a>> {
        self.tensors.values()
    }

    /// A canonical name as this file would spell it.
    fn spelled(&self, name: &str) -> String {
        let part = name.split('.').next().unwrap_or(name);
        let base = ["embeddings", "encoder", "pooler"].contains(&part);
        if self.prefixed && base {
            format!("albert.{name}")
        } else {
            name.to_string()
        }
    }
}

/// The canonical name, and whether `albert.` was taken off.
fn canonical(stored: &str) -> (String, bool) {
    let mut name = stored;
    let mut albert = false;
    while let Some((prefix, rest)) = PREFIXES.iter().find_map(|p| Some((*p, name.strip_prefix(p)?))) {
        albert |= prefix == "albert.";
        name = rest;
    }
    // TensorFlow's spelling of LayerNorm's parameters, kept by the first PyTorch ports.
    for (old, new) in [(".gamma", ".weight"), (".beta", ".bias")] {
        if let Some(base) = name.strip_suffix(old)
            && (base.ends_with("LayerNorm") || base.ends_with("layer_norm"))
        {
            return (format!("{base}{new}"), albert);
        }
    }
    (name.to_string(), albert)
}

/// The canonical Hugging Face name of one of thimble's weights.
fn hugging_face(name: &str) -> String {
    if name == "mlm.decoder.bias" {
        return BIAS.into();
    }
    let (base, parameter) = match name.rsplit_once('.') {
        Some((base, parameter @ ("weight" | "bias"))) => (base, parameter),
        _ => (name, "weight"),
    };
    let module = match base {
        "word" => "embeddings.word_embeddings".to_string(),
        "position" => "embeddings.position_embeddings".into(),
        "type" => "embeddings.token_type_embeddings".into(),
        "embed_norm" => "embeddings.LayerNorm".into(),
        "map" => "encoder.embedding_hidden_mapping_in".into(),
        "qa" => "qa_outputs".into(),
        "mlm.dense" => "predictions.dense".into(),
        "mlm.norm" => "predictions.LayerNorm".into(),
        "mlm.decoder" => "predictions.decoder".into(),
        "sop" => "sop_classifier.classifier".into(),
        _ => match base.split('.').collect::<Vec<_>>().as_slice() {
            [group, inner, part] => {
                let part = match *part {
                    "q" => "attention.query",
                    "k" => "attention.key",
                    "v" => "attention.value",
                    "o" => "attention.dense",
                    "attn_norm" => "attention.LayerNorm",
                    "up" => "ffn",
                    "down" => "ffn_output",
                    "ffn_norm" => "full_layer_layer_norm",
                    other => other,
                };
                format!("encoder.albert_layer_groups.{group}.albert_layers.{inner}.{part}")
            }
            _ => base.to_string(),
        },
    };
    format!("{module}.{parameter}")
}

/// Settles whether the decoder is tied, then takes every weight of `described.config` out of `stored`. `read` is told which
/// bytes of the files are not needed again.
pub fn assemble(
    stored: &Stored,
    described: &mut Described,
    path: &Path,
    read: &dyn Fn(&[u8]),
) -> Result<BTreeMap<String, Weight>, SourceError> {
    let mut used = BTreeSet::new();
    if described.config.head.has_decoder() {
        described.config.tied_decoder = tied(stored, described, read)?;
        used.extend([DECODER.to_string(), DECODER_BIAS.to_string()]);
    }
    let mut mismatch = Mismatch {
        architecture: described.architecture.to_string(),
        ..Mismatch::default()
    };
    let mut pairs = Vec::new();
    for spec in described.config.weights() {
        let name = hugging_face(&spec.name);
        // The decoder's bias is one parameter with two names.
        let found = stored
            .tensors
            .get(&name)
            .or_else(|| stored.tensors.get(DECODER_BIAS).filter(|_| name == BIAS));
        match found {
            None => mismatch.missing.push((stored.spelled(&name), spec.shape)),
            Some(tensor) if tensor.shape != spec.shape => mismatch.misshapen.push(Misshapen {
                name: tensor.name.clone(),
                expected: spec.shape,
                found: tensor.shape.clone(),
            }),
            Some(tensor) => pairs.push((spec.name, tensor)),
        }
        used.insert(name);
    }
    let mut left_out = BTreeSet::new();
    for (name, tensor) in stored.tensors.iter().filter(|(name, _)| !used.contains(*name)) {
        match OPTIONAL_PARTS
            .iter()
            .find(|part| name.split('.').next() == Some(**part))
        {
            Some(part) => drop(left_out.insert(*part)),
            None => mismatch.extra.push((tensor.name.clone(), tensor.shape.clone())),
        }
    }
    if !mismatch.is_empty() {
        return Err(SourceError::Mismatch {
            path: path.to_path_buf(),
            cause: mismatch,
        });
    }
    for part in left_out {
        described.notes.push(format!(
            "{part} left out: no output of {} needs it",
            described.architecture
        ));
    }
    shared(&pairs, path)?;
    same_bias(stored, described, read)?;
    room(&pairs, path)?;
    pairs
        .into_iter()
        .map(|(name, tensor)| {
            Ok((
                name,
                Weight {
                    shape: tensor.shape.clone(),
                    data: values(tensor, read)?,
                },
            ))
        })
        .collect()
}

/// How many weights' worth of numbers may be read from one number stored. Trainers let two share a storage; a file that
/// lets hundreds of layers share one would take memory out of all proportion to its size.
const MOST_SHARED: usize = 16;

/// Refuses weights that this machine has no memory for: the kernel promises more than it has, and kills whoever takes it at its
/// word.
fn room(pairs: &[(String, &RawTensor)], path: &Path) -> Result<(), SourceError> {
    let numbers = |t: &RawTensor| t.shape.iter().fold(4u64, |n, &d| n.saturating_mul(d as u64));
    let need = pairs.iter().fold(0u64, |sum, (_, t)| sum.saturating_add(numbers(t)));
    match ram::available(0) {
        Some(available) if available.bytes < need => Err(SourceError::Memory {
            path: path.to_path_buf(),
            need,
            have: available.bytes,
            by: available.by,
        }),
        _ => Ok(()),
    }
}

/// Refuses weights that are all views of the same few bytes.
fn shared(pairs: &[(String, &RawTensor)], path: &Path) -> Result<(), SourceError> {
    let storages: BTreeSet<(usize, usize)> = pairs
        .iter()
        .map(|(_, t)| (t.bytes.as_ptr().addr(), t.bytes.len()))
        .collect();
    let stored = storages.iter().fold(0usize, |sum, (_, len)| sum.saturating_add(*len));
    let asked = pairs.iter().fold(0usize, |sum, (_, t)| {
        let elements = t.shape.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        sum.saturating_add(elements.saturating_mul(t.dtype.bytes().unwrap_or(1)))
    });
    if asked > stored.saturating_mul(MOST_SHARED) {
        return Err(SourceError::Format {
            path: path.to_path_buf(),
            problem: format!("its weights take {asked} bytes and are views of {stored} bytes stored"),
        });
    }
    Ok(())
}

/// Whether the masked-LM decoder is the word embedding: it is when the file does not store it (and the configuration ties),
/// or stores an exact duplicate.
fn tied(stored: &Stored, described: &mut Described, read: &dyn Fn(&[u8])) -> Result<bool, SourceError> {
    let Some(decoder) = stored.tensors.get(DECODER) else {
        return Ok(described.tie);
    };
    let same = match stored.tensors.get(WORD) {
        Some(word) if word.shape == decoder.shape => bits_equal(&values(word, read)?, &values(decoder, read)?),
        _ => false,
    };
    if same && !described.tie {
        described.notes.push(format!(
            "tie_word_embeddings is false, but {DECODER} equals the word embedding: stored once"
        ));
    }
    if !same && described.tie {
        described.notes.push(format!(
            "{DECODER} differs from the word embedding: kept as a weight of its own"
        ));
    }
    Ok(same)
}

fn same_bias(stored: &Stored, described: &Described, read: &dyn Fn(&[u8])) -> Result<(), SourceError> {
    if !described.config.head.has_decoder() {
        return Ok(());
    }
    match (stored.tensors.get(BIAS), stored.tensors.get(DECODER_BIAS)) {
        (Some(bias), Some(other)) if !bits_equal(&values(bias, read)?, &values(other, read)?) => {
            Err(SourceError::Tensor {
                path: other.path.to_path_buf(),
                tensor: other.name.clone(),
                problem: format!(
                    "differs from {}; the model has one such bias, and which is meant cannot be told",
                    bias.name
                ),
            })
        }
        _ => Ok(()),
    }
}

fn bits_equal(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// The tensor as f32, every number finite.
fn values(tensor: &RawTensor, read: &dyn Fn(&[u8])) -> Result<Vec<f32>, SourceError> {
    let problem = |problem| SourceError::Tensor {
        path: tensor.path.to_path_buf(),
        tensor: tensor.name.clone(),
        problem,
    };
    let data = tensor.to_f32(read).map_err(problem)?;
    match data.iter().position(|x| !x.is_finite()) {
        None => Ok(data),
        Some(first) => {
            let count = data.iter().filter(|x| !x.is_finite()).count();
            Err(problem(format!(
                "{count} of {} numbers are not finite in f32, the first at index {first}: {}",
                data.len(),
                data[first]
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_and_old_spellings_come_off() {
        let cases = [
            ("albert.embeddings.word_embeddings.weight", WORD),
            ("module.albert.embeddings.word_embeddings.weight", WORD),
            ("_orig_mod.module.embeddings.word_embeddings.weight", WORD),
            ("albert.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"),
            ("predictions.LayerNorm.beta", "predictions.LayerNorm.bias"),
            (
                "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm.beta",
                "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm.bias",
            ),
            ("head.gamma", "head.gamma"),
        ];
        for (stored, want) in cases {
            assert_eq!(canonical(stored).0, want);
        }
    }

    #[test]
    fn every_weight_has_its_hugging_face_name() {
        let cases = [
            ("word", WORD),
            ("map.bias", "encoder.embedding_hidden_mapping_in.bias"),
            ("embed_norm.weight", "embeddings.LayerNorm.weight"),
            (
                "1.0.q",
                "encoder.albert_layer_groups.1.albert_layers.0.attention.query.weight",
            ),
            (
                "0.1.down.bias",
                "encoder.albert_layer_groups.0.albert_layers.1.ffn_output.bias",
            ),
            (
                "0.0.ffn_norm.weight",
                "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm.weight",
            ),
            ("pooler", "pooler.weight"),
            ("classifier.bias", "classifier.bias"),
            ("mlm.decoder", DECODER),
            ("mlm.decoder.bias", BIAS),
            ("sop.bias", "sop_classifier.classifier.bias"),
        ];
        for (name, want) in cases {
            assert_eq!(hugging_face(name), want);
        }
    }
}
