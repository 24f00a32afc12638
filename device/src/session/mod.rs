//! A model file opened for work: its bytes, the engine made of them, and inputs as a user names them. Times are
//! milliseconds, sizes bytes; errors name the file they are about.

mod input;

pub use input::InputSource;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::engine::tensors::TensorError;
use crate::image::digest;
use crate::image::mmap::{MapError, ModelFile, ModelMap};
use crate::image::pages;
use crate::platform::board;
use crate::platform::process::Resident;
use crate::{Engine, EngineError, EngineOptions, Image, Input, InputError, Outputs, block_cache};
use thimble_shared::artifact::tensors::Part;
use thimble_shared::board::memory::{self, Need};
use thimble_shared::board::report::{EngineReport, ModelReport};

/// Version of tract in the workspace's Cargo.toml; a test holds them together.
pub const TRACT: &str = "0.23.9";

/// Tokens of a sequence nobody chose the length of.
pub const DEFAULT_SEQ: usize = 128;
/// Sequences of one pass where a bench names no number.
pub const DEFAULT_BATCH: usize = 1;

/// Tokens computed in one pass of `run`: rows beyond it wait their turn, so that memory stays bounded.
const TOKENS_AT_ONCE: usize = 2048;

/// Why a model cannot be opened, or an input not run. The texts name the file or the flag.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The output file is one of the inputs.
    #[error("{output} is an input; name another output file")]
    OverInput {
        /// The path of `--output`.
        output: PathBuf,
    },
    /// The model file cannot be opened or mapped, or was written to while it was in use.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The file is no model the engine runs.
    #[error("{file}: {source}")]
    Model {
        /// The model file.
        file: PathBuf,
        /// What is wrong in it.
        source: EngineError,
    },
    /// The engine refused an input or failed on it.
    #[error(transparent)]
    Run(EngineError),
    /// A file of inputs or outputs cannot be read or written.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// A file of inputs lacks the one that every model needs.
    #[error("{file} has no input_ids; it has {found}")]
    NoIds {
        /// The file of inputs.
        file: PathBuf,
        /// Names of the tensors it has.
        found: String,
    },
    /// Two inputs of one file differ in shape.
    #[error("{file}: {tensor} has shape {found:?}, input_ids {wanted:?}")]
    Shape {
        /// The file of inputs.
        file: PathBuf,
        /// The input that differs from `input_ids`.
        tensor: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// Shape of `input_ids`, `[batch, seq]`.
        wanted: Vec<usize>,
    },
    /// A bench was given a file with several rows.
    #[error("bench times one sequence at a time, {file} has {rows}")]
    OneSequence {
        /// The file of inputs.
        file: PathBuf,
        /// Rows of its `input_ids`.
        rows: usize,
    },
    /// `--pin` names cores that the process may not use, or the system has no such call.
    #[error("--pin: these cores are not available: {0}")]
    Pin(io::Error),
    /// The model is not the one that was asked for.
    #[error("{file}: its SHA-256 is {found}, not the {wanted} of --sha256")]
    Digest {
        /// The model file.
        file: PathBuf,
        /// Its SHA-256, lower-case hexadecimal.
        found: String,
        /// The SHA-256 that was asked for.
        wanted: String,
    },
}

/// Where the model's bytes are.
pub(crate) enum Held {
    /// Pages of a file, which others may write to.
    Mapped(Arc<ModelFile>),
    /// Memory of our own.
    Copied(Arc<Image>),
}

impl Held {
    /// Of the very bytes that are computed from, whatever their name leads to by now.
    pub(crate) fn sha256(&self) -> Result<String, MapError> {
        match self {
            Held::Mapped(file) => file.sha256(),
            Held::Copied(image) => Ok(digest::sha256(image.bytes())),
        }
    }
}

/// How a model is opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionOptions {
    /// Threads to compute on; as many as there are physical cores where left out.
    pub threads: Option<usize>,
    /// A kernel's name, instead of the best one.
    pub kernel: Option<String>,
    /// Lock the mapped pages in RAM.
    pub lock: bool,
    /// Read the file into memory of the process's own instead of mapping it.
    pub copy: bool,
    /// The process does nothing else: its allocator is set for one model, and the code that only loading needs is let go. A program
    /// that opens a model beside other work leaves both alone.
    pub whole_process: bool,
}

/// An engine with the model file it was made of.
pub struct Session {
    /// Runs inputs; its plans are built.
    pub engine: Engine,
    /// The model file, as it was named.
    pub file: PathBuf,
    /// Size of the model file.
    pub bytes: u64,
    /// From opening the file to the engine being ready to run.
    pub load_ms: f64,
    pub(crate) held: Held,
    locked: bool,
    /// The process does nothing else.
    #[cfg(feature = "text")]
    whole_process: bool,
    /// What the program needs beside the model and activations, by what was resident before the model was opened; bytes.
    program: u64,
}

impl Session {
    /// Loads the model at `path`.
    ///
    /// # Errors
    /// [`SessionError::Map`] where the file cannot be read, [`SessionError::Model`] where it is no model that is run here.
    pub fn load(path: &Path, options: &SessionOptions) -> Result<Session, SessionError> {
        Session::open(ModelFile::open(path)?, options, None)
    }

    /// Loads the model, which must have the digest `wanted`.
    ///
    /// # Errors
    /// [`SessionError::Map`], [`SessionError::Model`] and [`SessionError::Digest`].
    pub fn open(file: ModelFile, options: &SessionOptions, wanted: Option<&str>) -> Result<Session, SessionError> {
        let start = Instant::now();
        let program = Resident::now()
            .total
            .map_or(memory::PROGRAM, |now| now + memory::GROWTH);
        if options.whole_process {
            block_cache::loading();
        }
        let (path, bytes) = (file.path().to_path_buf(), file.bytes());
        let file = Arc::new(file);
        let (image, held) = match options.copy {
            true => {
                let image = file.copy()?;
                (image.clone(), Held::Copied(image))
            }
            false => (
                Image::new(ModelMap::of(&file, options.lock)?),
                Held::Mapped(file.clone()),
            ),
        };
        if let Some(wanted) = wanted {
            agree(&path, held.sha256()?, wanted)?;
        }
        let kernels = EngineOptions {
            threads: options.threads.unwrap_or_else(board::default_threads),
            force_kernel: options.kernel.clone(),
        };
        let engine = Engine::new(image, kernels);
        // What was wrong with the file may be that somebody was writing it: then that is the thing to say.
        file.unchanged()?;
        let engine = engine.map_err(|source| SessionError::Model {
            file: path.clone(),
            source,
        })?;
        if options.whole_process {
            crate::HEAP.release();
            block_cache::repeating();
            pages::forget_code();
        }
        let load_ms = milliseconds(start);
        Ok(Session {
            engine,
            file: path,
            bytes,
            load_ms,
            held,
            locked: options.lock,
            #[cfg(feature = "text")]
            whole_process: options.whole_process,
            program,
        })
    }

    /// An error where somebody wrote to what is computed from: nothing that came of it can be trusted.
    ///
    /// # Errors
    /// [`SessionError::Map`].
    pub fn unchanged(&self) -> Result<(), SessionError> {
        match &self.held {
            Held::Mapped(file) => Ok(file.unchanged()?),
            Held::Copied(_) => Ok(()),
        }
    }

    /// Gives back what opening something beside the model, as a tokenizer, took and freed.
    #[cfg(feature = "text")]
    pub(crate) fn settle(&self) {
        if self.whole_process {
            crate::HEAP.release();
            block_cache::trim();
        }
    }

    fn copied(&self) -> bool {
        matches!(self.held, Held::Copied(_))
    }

    /// What one pass is expected to need.
    pub(crate) fn predicted(&self, rows: usize, seq: usize) -> Need {
        let whole = self.copied() || self.locked;
        let need = Need {
            program: self.program,
            ..self.engine.need(rows, seq, self.bytes, whole)
        };
        if self.copied() { need.copied() } else { need }
    }

    /// The input that is asked for.
    ///
    /// # Errors
    /// Where a file of inputs cannot be read or holds no input of this model.
    pub fn input(&self, source: &InputSource) -> Result<Input, SessionError> {
        source.read(self.engine.config())
    }

    /// Runs all rows, a bounded number of tokens at a time.
    ///
    /// # Errors
    /// [`SessionError::Run`].
    pub fn run(&self, input: &Input) -> Result<Outputs, SessionError> {
        let row = input
            .shape
            .iter()
            .skip(1)
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .unwrap_or(usize::MAX);
        let rows = input.shape.first().copied().unwrap_or(0);
        let at_once = (TOKENS_AT_ONCE / row.max(1)).max(1);
        if rows <= at_once {
            return self.engine.run(input).map_err(SessionError::Run);
        }
        let mut all = Outputs::default();
        for first in (0..rows).step_by(at_once) {
            let part = slice(input, first, at_once.min(rows - first), row);
            let outputs = self.engine.run(&part).map_err(SessionError::Run)?;
            append(&mut all, outputs);
        }
        Ok(all)
    }

    /// Tokens of one sequence, `seq` or what nobody chose, and the RAM it is expected to need.
    ///
    /// # Errors
    /// [`SessionError::Run`] where `seq` is beyond the model's positions.
    pub fn need(&self, seq: Option<usize>) -> Result<(usize, Need), SessionError> {
        let max = self.engine.config().max_position_embeddings;
        let seq = seq.unwrap_or(DEFAULT_SEQ.min(max));
        if seq > max {
            return Err(SessionError::Run(InputError::TooLong { seq, max }.into()));
        }
        Ok((seq, self.predicted(1, seq)))
    }

    /// What a report says of the model, without its SHA-256.
    pub fn model(&self) -> ModelReport {
        let formats = &self.engine.artifact().graph.formats;
        ModelReport {
            file: self.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            sha256: None,
            bytes: self.bytes,
            formats: formats
                .iter()
                .map(|(name, format)| (name.clone(), format.name().to_string()))
                .collect(),
            weights: self.weights(),
        }
    }

    /// Bytes of every weight in the file; scales and multipliers count to their weight, biases to their linear map.
    fn weights(&self) -> BTreeMap<String, u64> {
        let artifact = self.engine.artifact();
        let mut bytes = BTreeMap::new();
        for weight in artifact.graph.config.weights() {
            let stored = |part: Part| artifact.tensors.get(&part.of(&weight.name));
            let all = Part::ALL.into_iter().filter_map(stored);
            let map = weight.role.at(weight.site);
            let owner = if artifact.graph.formats.contains_key(&map) {
                map
            } else {
                weight.name.clone()
            };
            *bytes.entry(owner).or_default() += all.map(|stored| stored.range.len() as u64).sum::<u64>();
        }
        bytes
    }

    /// What a report says of program, kernels and threads; `pinned` is left empty.
    pub fn engine_report(&self) -> EngineReport {
        let kernels = self.engine.kernels();
        EngineReport {
            version: env!("CARGO_PKG_VERSION").to_string(),
            tract: TRACT.to_string(),
            kernels: vec![
                format!("f32 {}", kernels.f32.name()),
                format!("i8 {}", kernels.i8.name()),
            ],
            threads: u32::try_from(self.engine.threads()).unwrap_or(u32::MAX),
            locked: self.locked,
            copied: self.copied(),
            pinned: Vec::new(),
        }
    }
}

/// Milliseconds since `start`.
pub fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// `count` rows of `row` tokens each, from row `first`.
fn slice(input: &Input, first: usize, count: usize, row: usize) -> Input {
    let cut = |values: &[i64]| values.get(first * row..(first + count) * row).unwrap_or(&[]).to_vec();
    let mut shape = input.shape.clone();
    shape[0] = count;
    Input {
        shape,
        input_ids: cut(&input.input_ids),
        attention_mask: input.attention_mask.as_deref().map(cut),
        token_type_ids: input.token_type_ids.as_deref().map(cut),
    }
}

fn append(all: &mut Outputs, part: Outputs) {
    if all.0.is_empty() {
        *all = part;
        return;
    }
    for ((_, to), (_, from)) in all.0.iter_mut().zip(part.0) {
        to.shape[0] += from.shape[0];
        to.data.extend(from.data);
    }
}

pub(crate) fn agree(file: &Path, found: String, wanted: &str) -> Result<(), SessionError> {
    if found == wanted {
        return Ok(());
    }
    Err(SessionError::Digest {
        file: file.to_path_buf(),
        found,
        wanted: wanted.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensors::Tensor;

    #[test]
    fn the_tract_named_is_the_tract_pinned() {
        let manifest = include_str!("../../../Cargo.toml");
        assert!(manifest.contains(&format!("tract-core = \"={TRACT}\"")));
    }

    #[test]
    fn rows_cut_apart_and_put_together() {
        let input = Input {
            shape: vec![3, 2],
            input_ids: vec![1, 2, 3, 4, 5, 6],
            attention_mask: Some(vec![1, 1, 1, 0, 1, 1]),
            token_type_ids: None,
        };
        let part = slice(&input, 1, 2, 2);
        assert_eq!(
            (part.shape, part.input_ids, part.attention_mask),
            (vec![2, 2], vec![3, 4, 5, 6], Some(vec![1, 0, 1, 1]))
        );
        let logits = |rows: usize, data: &[f32]| {
            Outputs(vec![(
                "logits".to_string(),
                Tensor {
                    shape: vec![rows, 1],
                    data: data.to_vec(),
                },
            )])
        };
        let mut all = Outputs::default();
        append(&mut all, logits(2, &[1.0, 2.0]));
        append(&mut all, logits(1, &[3.0]));
        assert_eq!(all, logits(3, &[1.0, 2.0, 3.0]));
    }
}
