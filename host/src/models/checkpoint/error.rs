//! Every way reading a checkpoint can fail, with the file, the tensor and the field it failed at. The texts say what was
//! found and what would work, causes included: no error has a `source()` that a printer of chains would say again.

use super::tensorflow::BundleError;
use std::fmt;
use std::path::PathBuf;
use thimble_shared::file_kind::FileKind;

/// Why a checkpoint cannot be read. `path` is always the file the error is about.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The operating system could not open or read it.
    #[error("{path}: {cause}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        cause: std::io::Error,
    },
    /// A weights file could not be mapped, or was written to while it was read.
    #[error("{0}")]
    Map(thimble_device::image::mmap::MapError),
    /// The folder holds no weights, or a file of weights could not be found in it.
    #[error("{dir}: no checkpoint here: expected config.json with model.safetensors or pytorch_model.bin{hint}", dir = .dir.display())]
    NoCheckpoint {
        /// The folder that was searched.
        dir: PathBuf,
        /// What stands there instead and what to do then; may be empty.
        hint: String,
    },
    /// Weights were found without a configuration.
    #[error("{path}: no such file; a checkpoint's configuration (config.json, albert_config.json or config.yml) must stand beside its weights", path = .path.display())]
    NoConfig {
        /// Where the configuration was expected.
        path: PathBuf,
    },
    /// Nothing is at the path.
    #[error("{path}: no such file or folder{hint}", path = .path.display())]
    Absent {
        /// As it was given.
        path: PathBuf,
        /// A name that is close, or how to fetch the model; may be empty.
        hint: String,
    },
    /// The `.index` file of a TensorFlow checkpoint is damaged.
    #[error("{path}: TensorFlow checkpoint: {cause}", path = .path.display())]
    TensorFlow {
        /// The index.
        path: PathBuf,
        /// What is wrong in it.
        cause: BundleError,
    },
    /// The file or folder is of a known kind, and its content is not one that is read.
    #[error("{path}: not a checkpoint thimble reads: {problem}", path = .path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What was found, and what works instead.
        problem: String,
    },
    /// A field of a configuration has a value that ALBERT here cannot have, or is missing.
    #[error("{path}: {field}: {problem}", path = .path.display())]
    Config {
        /// The configuration.
        path: PathBuf,
        /// Name of the field as the file spells it.
        field: String,
        /// What it holds, and what it may hold.
        problem: String,
    },
    /// The header of a safetensors file is damaged.
    #[error("{path}: {cause}", path = .path.display())]
    Safetensors {
        /// The safetensors file.
        path: PathBuf,
        /// What the safetensors library found.
        cause: safetensors::SafeTensorError,
    },
    /// The file is of a kind that holds no weights.
    #[error("{path}: {kind}", path = .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its kind, which prints what to do then.
        kind: FileKind,
    },
    /// A stream of pickles of `torch.save` before 1.6 is damaged.
    #[error("{path}: torch.save's format before 1.6: {problem}", path = .path.display())]
    Stream {
        /// The weights file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The zip archive of `torch.save` is damaged.
    #[error("{path}: zip archive: {problem}", path = .path.display())]
    Zip {
        /// The weights file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The pickle of a torch file is damaged or asks for something that is not read.
    #[error("{path}: pickle at byte {at}: {cause}", path = .path.display())]
    Pickle {
        /// The weights file.
        path: PathBuf,
        /// Offset in the pickle, not in the file.
        at: usize,
        /// What was refused.
        cause: PickleError,
    },
    /// One tensor cannot be read: its type, size or place in the file.
    #[error("{path}: tensor {tensor}: {problem}", path = .path.display())]
    Tensor {
        /// The file that holds it.
        path: PathBuf,
        /// Its name as the file spells it.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The tensors do not fit the configuration.
    #[error("{path}: {cause}", path = .path.display())]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// All that do not fit, not the first one only.
        cause: Box<Mismatch>,
    },
    /// The machine has no memory for the weights.
    #[error("{path}: its weights take {need} bytes of memory in f32, and there are {have} ({by})", path = .path.display())]
    Memory {
        /// The checkpoint.
        path: PathBuf,
        /// Bytes the weights take in f32.
        need: u64,
        /// Bytes that are available.
        have: u64,
        /// What sets that limit, e.g. a control group.
        by: String,
    },
}

/// What the pickle interpreter refuses. Nothing in a pickle is ever executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// The pickle ends before its STOP.
    #[error("ends in the middle of an instruction")]
    Truncated,
    /// An opcode outside those of a state dict.
    #[error("opcode {name} (0x{code:02x}) is not one that torch uses for a state dict")]
    Opcode {
        /// The byte.
        code: u8,
        /// Its name in Python's pickletools.
        name: &'static str,
    },
    /// A class or function that is not allowed; its module and name.
    #[error(
        "global {0} is not allowed; only tensors in plain or ordered dictionaries are read, and nothing is executed (save model.state_dict())"
    )]
    Global(String),
    /// `torch.save(model)` in place of `torch.save(model.state_dict())`.
    #[error(
        "it is a whole pickled module ({class}), not its weights; nothing in a checkpoint is executed, so save its state dict where its classes are installed: torch.save(torch.load(FILE, weights_only=False){at}.state_dict(), NEW)"
    )]
    Module {
        /// The model's class.
        class: String,
        /// How Python gets it out of what the file holds.
        at: String,
    },
    /// A training state without a model.
    #[error("it holds an optimizer's state and no weights; name the file that the model was saved to")]
    Optimizer,
    /// Instructions that contradict each other; what was found.
    #[error("{0}")]
    Malformed(String),
}

/// One stored tensor whose shape is not the one the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshapen {
    /// As the file spells it.
    pub name: String,
    /// Shape by the configuration, `[out, in]` or `[rows, cols]`.
    pub expected: Vec<usize>,
    /// Shape in the file.
    pub found: Vec<usize>,
}

/// All tensors that do not fit the configuration, in one error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Name and shape expected.
    pub missing: Vec<(String, Vec<usize>)>,
    /// Name and shape found.
    pub extra: Vec<(String, Vec<usize>)>,
    /// Tensors under the right name with a wrong shape.
    pub misshapen: Vec<Misshapen>,
    /// The transformers class whose tensors were expected.
    pub architecture: String,
    /// What stands before every name of the file.
    pub prefix: String,
}

impl Mismatch {
    /// Whether every tensor fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.misshapen.is_empty()
    }
}

/// Tensors that are named before the rest becomes a count.
const SHOWN: usize = 4;

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (missing, extra, shape) = (self.missing.len(), self.extra.len(), self.misshapen.len());
        let counts: Vec<String> = [(shape, "of another shape"), (missing, "missing"), (extra, "unknown")]
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        write!(
            f,
            "tensors do not fit {} and its configuration ({}",
            self.architecture,
            counts.join(", ")
        )?;
        if !self.prefix.is_empty() {
            write!(f, "; names begin with '{}'", self.prefix)?;
        }
        let misshapen = self
            .misshapen
            .iter()
            .take(SHOWN)
            .map(|m| format!("{}: expected {:?}, found {:?}", m.name, m.expected, m.found));
        let plain = |list: &[(String, Vec<usize>)]| -> Vec<String> {
            let shown = list.iter().take(SHOWN);
            shown.map(|(name, shape)| format!("{name} {shape:?}")).collect()
        };
        let lists = [
            ("shape", misshapen.collect()),
            ("missing", plain(&self.missing)),
            ("unknown", plain(&self.extra)),
        ];
        // Each list shows its first, and what room is left goes to them in order.
        let mut room = SHOWN - counts.len();
        let mut join = "): ";
        for (what, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            let more = room.min(list.len() - 1);
            room -= more;
            write!(f, "{join}{what} {}", list[..=more].join(", "))?;
            join = "; ";
        }
        match (missing + extra + shape).checked_sub(SHOWN) {
            None | Some(0) => {}
            Some(rest) => write!(f, "; and {rest} more")?,
        }
        match missing {
            0 => Ok(()),
            _ => f.write_str("; --head NAME makes another head"),
        }
    }
}

impl std::error::Error for Mismatch {}
