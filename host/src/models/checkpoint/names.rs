//! Matches stored tensor names with thimble's: takes off what all names have in common, pairs every weight the graph needs with
//! its tensor, and reports all that do not fit in one error. In come raw tensors, out go f32 values by thimble's names.

use super::described::{Certainty, Described};
use super::error::{Mismatch, Misshapen};
use super::prefix::{MODEL_PARTS, part, prefix};
use super::raw::RawTensor;
use super::spelling::{transformers, unwrapped};
use super::{SourceError, Weight};
use crate::fs::ram;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use thimble_shared::model::head::masked_lm;
use thimble_shared::model::{FamilyRow, Role, Site};

/// Index buffers some versions of transformers store; they hold 0, 1, 2 ... and zeros.
const BUFFERS: [&str; 2] = ["embeddings.position_ids", "embeddings.token_type_ids"];

/// Tensors of trainers' own that change no output of a head: a layer over the logits, and weights of losses.
const HARMLESS: [&str; 6] = ["crf", "loss", "loss_fct", "loss_fn", "criterion", "metrics"];

/// Names of tensors in notes and errors before the rest becomes a count.
const MAX_NAMED: usize = 4;

/// The stored tensors by canonical name: that of the bare model in transformers, with `weight` and `bias`.
#[derive(Debug)]
pub struct Stored<'a> {
    /// Whose names they are.
    pub family: &'static FamilyRow,
    tensors: BTreeMap<String, RawTensor<'a>>,
    /// Tensors that are neither the model's nor a head's.
    others: Vec<RawTensor<'a>>,
    /// What stands before the model's names in this file.
    prefix: String,
    /// What was done to names, for the user to read.
    pub notes: Vec<String>,
}

impl<'a> Stored<'a> {
    pub fn new(raw: Vec<RawTensor<'a>>, family: &'static FamilyRow) -> Result<Stored<'a>, SourceError> {
        let (prefix, model) = prefix(&raw, family)?;
        let optional = family.optional_parts();
        let mut stored = Stored {
            family,
            tensors: BTreeMap::new(),
            others: Vec::new(),
            prefix,
            notes: Vec::new(),
        };
        let mut other_words = false;
        for tensor in raw {
            let name = unwrapped(&tensor.name);
            let (name, respelled) = match part(&name, &model, &optional) {
                Some(rest) => transformers(rest, family),
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
        if !["", family.names.prefix].contains(&stored.prefix.as_str()) {
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
        let usual = self.family.names.prefix;
        let bare = name.strip_prefix(usual).unwrap_or(name);
        match self.tensors.get(&transformers(bare, self.family).0) {
            Some(first) if self.prefix.is_empty() || self.prefix == usual => Err(twin(tensor, &first.name)),
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

    /// Whether the matrix, table or gain of a role outside layers is stored.
    pub fn has(&self, role: Role) -> bool {
        self.tensors.contains_key(&self.family.weight(role, None))
    }

    /// The shape of the matrix, table or gain of a role.
    pub fn shape(&self, role: Role, site: Option<Site>) -> Option<&[usize]> {
        self.tensors
            .get(&self.family.weight(role, site))
            .map(|t| t.shape.as_slice())
    }

    /// How many groups of layers the names count, and how many layers in each.
    pub fn groups(&self) -> (usize, usize) {
        let all: BTreeSet<Site> = self
            .tensors
            .keys()
            .filter_map(|name| self.family.site_of(name))
            .collect();
        let count = |of: fn(&Site) -> usize| all.iter().map(of).collect::<BTreeSet<_>>().len().max(1);
        (count(|site| site.group), count(|site| site.inner))
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

    /// The word embeddings.
    pub fn word(&self) -> Option<&RawTensor<'a>> {
        self.tensors.get(&self.family.weight(Role::Word, None))
    }

    /// The name of the masked-LM decoder's matrix.
    pub fn decoder(&self) -> String {
        self.family.weight(masked_lm::DECODER, None)
    }

    /// The other name of the decoder's bias.
    fn decoder_bias(&self) -> String {
        format!("{}.bias", self.family.module(masked_lm::DECODER, None))
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

/// Settles whether the decoder is tied, then takes every weight of `described.config` out of `stored`. `read` is told which
/// bytes of the files are not needed again.
pub fn assemble(
    stored: &Stored,
    described: &mut Described,
    path: &Path,
    read: &dyn Fn(&[u8]),
) -> Result<BTreeMap<String, Weight>, SourceError> {
    let (mut used, family) = (BTreeSet::new(), stored.family);
    if described.config.head.has_decoder() {
        described.config.tied_decoder = tied(stored, described, read)?;
        used.extend([stored.decoder(), stored.decoder_bias()]);
    }
    let mut mismatch = Mismatch {
        architecture: described.architecture.to_string(),
        prefix: stored.prefix.clone(),
        ..Mismatch::default()
    };
    let mut pairs = Vec::new();
    for spec in described.config.weights() {
        let name = family.tensor(&spec);
        // The decoder's bias is one parameter with two names; where both are stored, transformers computes with the decoder's.
        let found = stored
            .tensors
            .get(&stored.decoder_bias())
            .filter(|_| name == family.names.decoder_bias)
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
    let (mut left_out, optional) = (BTreeSet::new(), family.optional_parts());
    for (name, tensor) in stored.tensors.iter().filter(|(name, _)| !used.contains(*name)) {
        match optional
            .iter()
            .find(|part| name.split('.').next() == Some(part.as_str()))
        {
            Some(part) => drop(left_out.insert(part)),
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
    let name = stored.decoder();
    let Some(decoder) = stored.tensors.get(&name) else {
        return Ok(described.tie);
    };
    let same = match stored.word() {
        Some(word) if word.shape == decoder.shape => bits_equal(&values(word, read)?, &values(decoder, read)?),
        _ => false,
    };
    if same && !described.tie {
        described.notes.push(format!(
            "tie_word_embeddings is false, but {name} equals the word embedding: stored once"
        ));
    }
    if !same && described.tie {
        described.notes.push(format!(
            "{name} differs from the word embedding: kept as a weight of its own, as transformers 5 does (before 5 it was ignored)"
        ));
    }
    Ok(same)
}

/// Says which of two decoder biases that differ is the model's.
fn two_biases(stored: &Stored, described: &mut Described, read: &dyn Fn(&[u8])) -> Result<(), SourceError> {
    if !described.config.head.has_decoder() {
        return Ok(());
    }
    if let (Some(bias), Some(decoder)) = (
        stored.tensors.get(stored.family.names.decoder_bias),
        stored.tensors.get(&stored.decoder_bias()),
    ) && !bits_equal(&values(bias, read)?, &values(decoder, read)?)
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
