//! Matches stored tensor names with thimble's: takes off what all names have in common, pairs every weight the graph needs with
//! its tensor, and reports all that do not fit in one error. In come raw tensors, out go f32 values by thimble's names.

use super::described::{Certainty, Described};
use super::error::{Mismatch, Misshapen};
use super::prefix::{MODEL_PARTS, OPTIONAL_PARTS, USUAL_PREFIX, part, prefix};
use super::raw::RawTensor;
use super::spelling::{transformers, unwrapped};
use super::{SourceError, Weight};
use crate::fs::ram;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use thimble_shared::model::Head;

/// Index buffers some versions of transformers store; they hold 0, 1, 2 ... and zeros.
const BUFFERS: [&str; 2] = ["embeddings.position_ids", "embeddings.token_type_ids"];

/// Tensors of trainers' own that change no output of a head: a layer over the logits, and weights of losses.
const HARMLESS: [&str; 6] = ["crf", "loss", "loss_fct", "loss_fn", "criterion", "metrics"];

/// Names of tensors in notes and errors before the rest becomes a count.
const MAX_NAMED: usize = 4;

pub const DECODER: &str = "predictions.decoder.weight";
const DECODER_BIAS: &str = "predictions.decoder.bias";
const BIAS: &str = "predictions.bias";
pub const WORD: &str = "embeddings.word_embeddings.weight";

/// The stored tensors by canonical name: that of the bare `AlbertModel`, with `weight` and `bias`.
#[derive(Debug)]
pub struct Stored<'a> {
    tensors: BTreeMap<String, RawTensor<'a>>,
    /// Tensors that are neither the model's nor a head's.
    others: Vec<RawTensor<'a>>,
    /// What stands before the model's names in this file.
    prefix: String,
    /// What was done to names, for the user to read.
    pub notes: Vec<String>,
}

impl<'a> Stored<'a> {
    pub fn new(raw: Vec<RawTensor<'a>>) -> Result<Stored<'a>, SourceError> {
        let (prefix, model) = prefix(&raw)?;
        let mut stored = Stored {
            tensors: BTreeMap::new(),
            others: Vec::new(),
            prefix,
            notes: Vec::new(),
        };
        let mut other_words = false;
        for tensor in raw {
            let name = unwrapped(&tensor.name);
            let (name, respelled) = match part(&name, &model) {
                Some(rest) => transformers(rest),
                None => {
                    stored.refuse_twin(&name, &tensor)?;
                    stored.others.push(tensor);
                    continue;
                }
            };
            other_words |= respelled;
            if BUFFERS.contains(&name.as_str()) {
                continue;
            }
            if let Some(first) = stored.tensors.get(&name) {
                return Err(twin(&tensor, &first.name));
            }
            stored.tensors.insert(name, tensor);
        }
        if !["", USUAL_PREFIX].contains(&stored.prefix.as_str()) {
            let note = format!("names begin with '{}', which is taken off", stored.prefix);
            stored.notes.push(note);
        }
        if other_words {
            stored.notes.push(
                "names are another implementation's (layer_shared, attention.self and such): read as transformers'"
                    .into(),
            );
        }
        Ok(stored)
    }

    /// A tensor of another prefix must not be one that was read already.
    fn refuse_twin(&self, name: &str, tensor: &RawTensor) -> Result<(), SourceError> {
        let bare = name.strip_prefix(USUAL_PREFIX).unwrap_or(name);
        match self.tensors.get(&transformers(bare).0) {
            Some(first) if self.prefix.is_empty() || self.prefix == USUAL_PREFIX => Err(twin(tensor, &first.name)),
            _ => Ok(()),
        }
    }

    /// A tensor by its canonical name.
    pub fn get(&self, name: &str) -> Option<&RawTensor<'a>> {
        self.tensors.get(name)
    }

    /// These tensors, with others in place of those that have their names, or beside them.
    pub fn with(mut self, others: Vec<RawTensor<'a>>) -> Stored<'a> {
        self.tensors.extend(others.into_iter().map(|t| (t.name.clone(), t)));
        self
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape a tensor has, by canonical name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// How many groups of layers the names count, and how many layers in each.
    pub fn groups(&self) -> (usize, usize) {
        let numbers = |name: &String| {
            let rest = name.strip_prefix("encoder.albert_layer_groups.")?;
            let (group, rest) = rest.split_once(".albert_layers.")?;
            let inner = rest.split('.').next()?;
            Some((group.parse::<usize>().ok()?, inner.parse::<usize>().ok()?))
        };
        let all: BTreeSet<(usize, usize)> = self.tensors.keys().filter_map(numbers).collect();
        let count = |of: fn(&(usize, usize)) -> usize| all.iter().map(of).collect::<BTreeSet<_>>().len().max(1);
        (count(|n| n.0), count(|n| n.1))
    }

    /// Whether something of that name lies outside the model and its heads.
    pub fn has_beside(&self, word: &str) -> bool {
        self.others.iter().any(|t| t.name.split('.').any(|part| part == word))
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
        if MODEL_PARTS.contains(&part) {
            format!("{}{name}", self.prefix)
        } else {
            name.to_string()
        }
    }
}

fn twin(tensor: &RawTensor, first: &str) -> SourceError {
    SourceError::Tensor {
        path: tensor.path.to_path_buf(),
        problem: format!("is the same weight as {first}"),
        tensor: tensor.name.clone(),
    }
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
            _ => {
                let mut modules = Head::ALL.iter().flat_map(|head| head.row().modules);
                let module = modules.find(|(own, _)| *own == base);
                module.map_or(base, |(_, theirs)| theirs).to_string()
            }
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
        prefix: stored.prefix.clone(),
        ..Mismatch::default()
    };
    let mut pairs = Vec::new();
    for spec in described.config.weights() {
        let name = hugging_face(&spec.name);
        // The decoder's bias is one parameter with two names; where both are stored, transformers computes with the decoder's.
        let found = stored
            .tensors
            .get(DECODER_BIAS)
            .filter(|_| name == BIAS)
            .or_else(|| stored.tensors.get(&name));
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
        let others = stored.others.iter().map(|t| (t.name.clone(), t.shape.clone()));
        mismatch.extra.extend(others);
        return Err(SourceError::Mismatch {
            path: path.to_path_buf(),
            cause: Box::new(mismatch),
        });
    }
    for part in left_out {
        described.notes.push(format!(
            "{part} left out: no output of {} needs it",
            described.architecture
        ));
    }
    others(stored, described)?;
    shared(&pairs, path)?;
    two_biases(stored, described, read)?;
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
pub fn shared(pairs: &[(String, &RawTensor)], path: &Path) -> Result<(), SourceError> {
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
            "{DECODER} differs from the word embedding: kept as a weight of its own, as transformers 5 does (before 5 it was ignored)"
        ));
    }
    Ok(same)
}

/// Says which of two decoder biases that differ is the model's.
fn two_biases(stored: &Stored, described: &mut Described, read: &dyn Fn(&[u8])) -> Result<(), SourceError> {
    if !described.config.head.has_decoder() {
        return Ok(());
    }
    if let (Some(bias), Some(decoder)) = (stored.tensors.get(BIAS), stored.tensors.get(DECODER_BIAS))
        && !bits_equal(&values(bias, read)?, &values(decoder, read)?)
    {
        described.notes.push(format!(
            "{} and {} differ: the decoder's counts, as in transformers",
            bias.name, decoder.name
        ));
    }
    Ok(())
}

/// Notes the tensors that no head uses. Where the head was told by the tensors alone, a layer that thimble does not know may
/// stand before it, and the answers would be wrong.
fn others(stored: &Stored, described: &mut Described) -> Result<(), SourceError> {
    if stored.others.is_empty() {
        return Ok(());
    }
    let harmless = |t: &RawTensor| t.name.split('.').any(|part| HARMLESS.contains(&part));
    let layers: Vec<&RawTensor> = stored
        .others
        .iter()
        .filter(|t| t.shape.len() > 1 && !harmless(t))
        .collect();
    if let Certainty::Inferred(path, said) = &described.certainty
        && !layers.is_empty()
    {
        return Err(SourceError::Config {
            path: path.clone(),
            field: "architectures".into(),
            problem: format!(
                "{said}, and no head that thimble knows uses {}; --head NAME makes a model without them",
                named(&layers)
            ),
        });
    }
    let all: Vec<&RawTensor> = stored.others.iter().collect();
    described.notes.push(format!(
        "{} left out: no output of {} needs them",
        named(&all),
        described.architecture
    ));
    Ok(())
}

/// A few tensors by name, and how many more there are.
fn named(tensors: &[&RawTensor]) -> String {
    let names: Vec<&str> = tensors.iter().take(MAX_NAMED).map(|t| t.name.as_str()).collect();
    match tensors.len().saturating_sub(MAX_NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
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
