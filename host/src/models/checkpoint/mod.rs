//! Reads an ALBERT checkpoint: in comes a directory (or its weights file), out comes the graph's configuration and
//! every weight as f32 in logical row-major order, under thimble's names. Nothing in a checkpoint is ever executed.

mod adapter;
mod config;
mod config_file;
mod described;
mod error;
mod fields;
mod folder;
mod foreign;
mod hint;
mod hub;
pub(crate) mod json;
mod labels;
mod legacy;
mod listing;
mod locate;
mod map;
mod names;
mod pickle;
mod prefix;
mod raw;
pub(crate) mod sentence_transformers;
mod shards;
mod spelling;
mod tensorflow;
mod tensors;
mod torch;
mod yaml;
mod zip;

pub use config::ProblemType;
pub use error::{Mismatch, Misshapen, PickleError, SourceError};
pub use tensorflow::BundleError;

use crate::models::read_options::ReadOptions;
use crate::models::tokenizer::{self, TokenizerSource};
use listing::Located;
use sentence_transformers::Embedding;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use thimble_device::image::digest;
use thimble_shared::model::head::sequence;
use thimble_shared::model::{AnswerKind, Config, Head};

/// One weight in logical order, `[out, in]` or `[rows, cols]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// `[out, in]`, `[rows, cols]` or, for a vector, `[len]`.
    pub shape: Vec<usize>,
    /// Product of `shape` numbers.
    pub data: Vec<f32>,
}

/// A checkpoint, read.
#[derive(Clone, Debug)]
pub struct Source {
    /// The network as the checkpoint's configuration states it.
    pub config: Config,
    /// Every weight of `config.weights()`, by thimble's name; all finite.
    pub weights: BTreeMap<String, Weight>,
    /// The transformers class the checkpoint is for, e.g. `AlbertForMaskedLM`.
    pub architecture: String,
    /// What was decided or left out on the way, for the user to read.
    pub notes: Vec<String>,
    /// The weights file(s) read.
    pub files: Vec<PathBuf>,
    /// The config.json read.
    pub config_file: PathBuf,
    /// Their size in bytes.
    pub bytes: u64,
    /// SHA-256 in hex of the weights file; of several shards, of their `sha256sum` lines in order of name.
    pub sha256: String,
    /// Element types the weights are stored in, e.g. `f16`.
    pub stored_as: Vec<String>,
    /// The tokenizer beside the weights, when there is one.
    pub tokenizer: Option<TokenizerSource>,
}

/// Reads the checkpoint at `path`: a directory, a file of weights with its configuration beside it, or a shard index.
///
/// # Errors
/// Any [`SourceError`].
pub fn read(path: &Path) -> Result<Source, SourceError> {
    read_with(path, &ReadOptions::default())
}

/// Reads the checkpoint at `path` as `options` say.
///
/// # Errors
/// Any [`SourceError`].
pub fn read_with(path: &Path, options: &ReadOptions) -> Result<Source, SourceError> {
    let Found {
        located,
        embedding,
        of_sentence_transformers,
    } = locate(path, options)?;
    let adapter = options.adapter.as_deref().map(adapter::Adapter::open).transpose()?;
    let (mut json, config_notes) = config_file::read(&located.config)?;
    let files = located
        .weights
        .iter()
        .map(|p| map::Mapped::open(p))
        .collect::<Result<Vec<_>, _>>()?;
    let mut notes = located.notes;
    let mut tokenizer = tokenizer::beside(&located.dir, &mut notes);
    if embedding.as_ref().is_some_and(|embedding| embedding.lower_case) {
        tokenizer = tokenizer.map(TokenizerSource::lower_casing);
    }
    let of_tensorflow = files.first().is_some_and(tensorflow::is_index);
    let base = stored(&files, located.promised.as_ref(), &json, &mut notes)?;
    notes.extend(config_notes);
    let mut head = options.head;
    let merged = match &adapter {
        Some(adapter) => adapter.merge(&base)?,
        None => Vec::new(),
    };
    let mut stored = base;
    if let Some(adapter) = &adapter {
        head = head.or_else(|| adapter.head(&merged, &stored));
        notes.push(adapter.note(&merged));
        notes.extend(adapter::fit_vocabulary(&mut json, &merged, &stored));
        stored = stored.with(adapter::raw(&merged, &adapter.weights().path));
    }
    if adapter.is_some() || of_tensorflow {
        notes.extend(fit_labels(&mut json, &stored));
    }
    if let Some(embedding) = &embedding {
        stored = stored.with(embedding.tensors()?);
        head = Some(Head::SentenceEmbedding);
    }
    let sentence = embedding.as_ref().map(|embedding| embedding.sentence.clone());
    let mut described = config::read(&located.config, &json, &stored, head, sentence)?;
    if let Some(embedding) = &embedding {
        embedding.fits(&described.config)?;
    }
    if let Some(adapter) = &adapter {
        adapter.settle_decoder(&merged, &mut described)?;
    }
    if of_sentence_transformers && described.config.head == Head::None {
        // What sentence-transformers computes has no use for the pooler.
        described.config.pooler = false;
        notes.push("outputs are hidden states, no sentence embeddings".into());
    }
    let dense = || embedding.iter().flat_map(Embedding::weights);
    let release = |part: &[u8]| files.iter().chain(dense()).for_each(|file| file.release(part));
    let weights = names::assemble(&stored, &mut described, path, &release)?;
    // Numbers of which some are old and some new are no checkpoint's.
    let opened = files.iter().chain(adapter.as_ref().map(|a| a.weights()));
    let opened: Vec<&map::Mapped> = opened.chain(dense()).collect();
    opened.iter().try_for_each(|file| file.unchanged())?;
    let stored_as: BTreeSet<_> = stored.iter().map(|t| t.dtype.to_string()).collect();
    notes.append(&mut described.notes);
    Ok(Source {
        config: described.config,
        weights,
        architecture: described.architecture,
        notes,
        bytes: opened.iter().map(|f| f.bytes().len() as u64).sum(),
        sha256: sha256(&opened)?,
        files: read_files(located.weights, adapter.as_ref(), embedding.as_ref()),
        config_file: located.config,
        stored_as: stored_as.into_iter().collect(),
        tokenizer,
    })
}

/// The tensors of a checkpoint's weights files, under canonical names.
fn stored<'a>(
    files: &'a [map::Mapped],
    promised: Option<&BTreeSet<String>>,
    json: &serde_json::Value,
    notes: &mut Vec<String>,
) -> Result<names::Stored<'a>, SourceError> {
    let family = config::family(json);
    let tensors = if files.first().is_some_and(tensorflow::is_index) {
        notes.extend(tensorflow::note_on_activation(json));
        tensorflow::tensors(files, family)?
    } else {
        let listed = tensors::stored(files, promised)?;
        notes.extend(listed.notes);
        listed.tensors
    };
    let stored = names::Stored::new(tensors, family)?;
    notes.extend(stored.notes.iter().cloned());
    Ok(stored)
}

/// The files of weights, of the adapter and of the sentence embedding.
fn read_files(
    weights: Vec<PathBuf>,
    adapter: Option<&adapter::Adapter>,
    embedding: Option<&Embedding>,
) -> Vec<PathBuf> {
    let mut read = weights;
    read.extend(
        adapter
            .iter()
            .flat_map(|a| [a.weights().path.clone(), a.config_file.clone()]),
    );
    read.extend(embedding.iter().flat_map(|e| e.paths()));
    read
}

/// Whether `path` can only be meant as a checkpoint, by its name or what stands at it: neither a file of thimble's nor ONNX.
pub fn is_checkpoint(path: &Path) -> bool {
    path.is_dir()
        || hub::is_id(path)
        || listing::is_dangling(path)
        || tensorflow::is_checkpoint(path)
        || foreign::advice_for_file(path).is_some()
}

/// A checkpoint's files.
struct Found {
    located: Located,
    /// How its hidden states become an embedding, where it is one of sentence-transformers and no other head is wanted.
    embedding: Option<Embedding>,
    of_sentence_transformers: bool,
}

/// Finds the checkpoint that `path` leads to.
fn locate(path: &Path, options: &ReadOptions) -> Result<Found, SourceError> {
    let opened = folder::resolve(path)?;
    if let Some(advice) = foreign::advice_for_file(path) {
        return Err(SourceError::Format {
            path: path.to_path_buf(),
            problem: advice,
        });
    }
    adapter::refuse(&opened.path, options.adapter.is_some())?;
    let mut located = if tensorflow::is_chosen(&opened.path) {
        tensorflow::locate(&opened.path)?
    } else {
        locate::locate(&opened.path)?
    };
    let mut notes = opened.notes;
    let mut embedding = None;
    if let Some(modules) = &opened.modules {
        let wanted = options.head.is_none_or(|head| head.answer() == AnswerKind::Embedding);
        if wanted && modules.pools() {
            embedding = Some(modules.embedding()?);
        }
        notes.push(modules.note(embedding.as_ref()));
        notes.extend(embedding.iter().flat_map(|embedding| embedding.notes.clone()));
    }
    located.notes.splice(0..0, notes);
    Ok(Found {
        located,
        embedding,
        of_sentence_transformers: opened.modules.is_some(),
    })
}

/// Makes the labels of a config that another classifier's was those of the classifier stored.
fn fit_labels(json: &mut serde_json::Value, stored: &names::Stored) -> Option<String> {
    let rows = *stored.shape(sequence::CLASSIFIER, None)?.first()?;
    // One row is a choice's score as often as a regression: the config decides.
    (rows > 1).then(|| adapter::fit_labels(json, rows)).flatten()
}

/// Whether a folder holds a checkpoint's weights.
pub fn holds_weights(dir: &Path) -> bool {
    locate::has_weights(dir)
}

/// The files the weights and the configuration of the checkpoint at `path` are read from.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let Found { located, embedding, .. } = locate(path, &ReadOptions::default())?;
    let own = located.weights.into_iter().chain([located.config]);
    Ok(own.chain(embedding.iter().flat_map(Embedding::paths)).collect())
}

/// Bytes of the weights file(s) of the checkpoint at `path`, without reading them.
pub fn weight_file_bytes(path: &Path) -> Result<u64, SourceError> {
    let Found { located, embedding, .. } = locate(path, &ReadOptions::default())?;
    let size = |p: &PathBuf| {
        std::fs::metadata(p)
            .map(|m| m.len())
            .map_err(|cause| SourceError::Io { path: p.clone(), cause })
    };
    let dense = embedding.iter().flat_map(Embedding::weights).map(|file| &file.path);
    located.weights.iter().chain(dense).map(size).sum()
}

fn sha256(files: &[&map::Mapped]) -> Result<String, SourceError> {
    match files {
        [file] => file.sha256(),
        shards => {
            let line = |f: &&map::Mapped| Ok(format!("{}  {}\n", f.sha256()?, f.file_name()));
            let lines = shards.iter().map(line).collect::<Result<String, SourceError>>()?;
            Ok(digest::sha256(lines.as_bytes()))
        }
    }
}
