//! Reads a Hugging Face ALBERT checkpoint: in comes a directory (or its weights file), out comes the graph's configuration and
//! every weight as f32 in logical row-major order, under thimble's names. Nothing in a checkpoint is ever executed.

mod checkpoint;
mod config;
mod error;
mod map;
mod names;
mod pickle;
mod raw;
mod torch;
mod zip;

pub use error::{Mismatch, Misshapen, PickleError, SourceError};

use crate::subject::ReadOptions;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use thimble_shared::graph::Config;

/// One weight in logical order, `[out, in]` or `[rows, cols]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// A checkpoint, read.
#[derive(Clone, Debug)]
pub struct Source {
    pub config: Config,
    /// Every weight of `config.weights()`, by thimble's name; all finite.
    pub weights: BTreeMap<String, Weight>,
    /// The transformers class the checkpoint is for, e.g. `AlbertForMaskedLM`.
    pub architecture: &'static str,
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
    /// The tokenizer.json beside the weights, when there is one.
    pub tokenizer: Option<PathBuf>,
}

/// Reads the checkpoint at `path`: a directory, a .safetensors or .bin file with config.json beside it, or a shard index.
pub fn read(path: &Path) -> Result<Source, SourceError> {
    read_with(path, &ReadOptions::default())
}

/// Reads the checkpoint at `path` as `options` say.
pub fn read_with(path: &Path, options: &ReadOptions) -> Result<Source, SourceError> {
    let located = checkpoint::locate(path)?;
    let json = checkpoint::read_json(&located.config)?;
    let files = located
        .weights
        .iter()
        .map(|p| map::Mapped::open(p))
        .collect::<Result<Vec<_>, _>>()?;
    let stored = names::Stored::new(checkpoint::tensors(&files, located.promised.as_ref())?)?;
    let mut described = config::read(&located.config, &json, &stored, options.head)?;
    let read = |part: &[u8]| files.iter().for_each(|file| file.release(part));
    let weights = names::assemble(&stored, &mut described, path, &read)?;
    // Numbers of which some are old and some new are no checkpoint's.
    files.iter().try_for_each(map::Mapped::unchanged)?;
    let stored_as: BTreeSet<_> = stored.iter().map(|t| t.dtype.to_string()).collect();
    let mut notes = located.notes;
    notes.append(&mut described.notes);
    if described.config.multi_label {
        notes.push("problem_type is multi_label_classification: each label has a probability of its own".into());
    }
    Ok(Source {
        config: described.config,
        weights,
        architecture: described.architecture,
        notes,
        bytes: files.iter().map(|f| f.bytes().len() as u64).sum(),
        sha256: sha256(&files)?,
        files: located.weights,
        config_file: located.config,
        stored_as: stored_as.into_iter().collect(),
        tokenizer: located.tokenizer,
    })
}

/// The files the weights and the configuration of the checkpoint at `path` are read from.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let located = checkpoint::locate(path)?;
    Ok(located.weights.into_iter().chain([located.config]).collect())
}

/// Bytes of the weights file(s) of the checkpoint at `path`, without reading them.
pub fn weight_file_bytes(path: &Path) -> Result<u64, SourceError> {
    let located = checkpoint::locate(path)?;
    let size = |p: &PathBuf| {
        std::fs::metadata(p)
            .map(|m| m.len())
            .map_err(|cause| SourceError::Io { path: p.clone(), cause })
    };
    located.weights.iter().map(size).sum()
}

fn sha256(files: &[map::Mapped]) -> Result<String, SourceError> {
    match files {
        [file] => file.sha256(),
        shards => {
            let line = |f: &map::Mapped| Ok(format!("{}  {}\n", f.sha256()?, f.file_name()));
            let lines = shards.iter().map(line).collect::<Result<String, SourceError>>()?;
            Ok(map::hex(&Sha256::digest(lines)))
        }
    }
}
