//! Every way reading a checkpoint can fail, with the file, the tensor and the field it failed at. The texts say what was
//! found and what would work, causes included: no error has a `source()` that a printer of chains would say again.

use super::tensorflow::BundleError;
use std::fmt;
use std::path::PathBuf;
use thimble_shared::file_kind::FileKind;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{path}: {cause}", path = .path.display())]
    Io { path: PathBuf, cause: std::io::Error },
    #[error("{0}")]
    Map(thimble_device::image::mmap::MapError),
    #[error("{dir}: no checkpoint here: expected config.json with model.safetensors or pytorch_model.bin{hint}", dir = .dir.display())]
    NoCheckpoint { dir: PathBuf, hint: String },
    #[error("{path}: no such file; a checkpoint's configuration (config.json, albert_config.json or config.yml) must stand beside its weights", path = .path.display())]
    NoConfig { path: PathBuf },
    #[error("{path}: no such file or folder{hint}", path = .path.display())]
    Absent { path: PathBuf, hint: String },
    #[error("{path}: TensorFlow checkpoint: {cause}", path = .path.display())]
    TensorFlow { path: PathBuf, cause: BundleError },
    #[error("{path}: not a checkpoint thimble reads: {problem}", path = .path.display())]
    Format { path: PathBuf, problem: String },
    #[error("{path}: {field}: {problem}", path = .path.display())]
    Config {
        path: PathBuf,
        field: String,
        problem: String,
    },
    #[error("{path}: {cause}", path = .path.display())]
    Safetensors {
        path: PathBuf,
        cause: safetensors::SafeTensorError,
    },
    #[error("{path}: {kind}", path = .path.display())]
    Foreign { path: PathBuf, kind: FileKind },
    #[error("{path}: torch.save's format before 1.6: {problem}", path = .path.display())]
    Stream { path: PathBuf, problem: String },
    #[error("{path}: zip archive: {problem}", path = .path.display())]
    Zip { path: PathBuf, problem: String },
    #[error("{path}: pickle at byte {at}: {cause}", path = .path.display())]
    Pickle {
        path: PathBuf,
        at: usize,
        cause: PickleError,
    },
    #[error("{path}: tensor {tensor}: {problem}", path = .path.display())]
    Tensor {
        path: PathBuf,
        tensor: String,
        problem: String,
    },
    #[error("{path}: {cause}", path = .path.display())]
    Mismatch { path: PathBuf, cause: Box<Mismatch> },
    #[error("{path}: its weights take {need} bytes of memory in f32, and there are {have} ({by})", path = .path.display())]
    Memory {
        path: PathBuf,
        need: u64,
        have: u64,
        by: String,
    },
}

/// What the pickle interpreter refuses. Nothing in a pickle is ever executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    #[error("ends in the middle of an instruction")]
    Truncated,
    #[error("opcode {name} (0x{code:02x}) is not one that torch uses for a state dict")]
    Opcode { code: u8, name: &'static str },
    #[error(
        "global {0} is not allowed; only tensors in plain or ordered dictionaries are read, and nothing is executed (save model.state_dict())"
    )]
    Global(String),
    #[error(
        "it is a whole pickled module ({class}), not its weights; nothing in a checkpoint is executed, so save its state dict where its classes are installed: torch.save(torch.load(FILE, weights_only=False){at}.state_dict(), NEW)"
    )]
    Module {
        class: String,
        /// How Python gets it out of what the file holds.
        at: String,
    },
    #[error("it holds an optimizer's state and no weights; name the file that the model was saved to")]
    Optimizer,
    #[error("{0}")]
    Malformed(String),
}

/// One stored tensor whose shape is not the one the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshapen {
    pub name: String,
    pub expected: Vec<usize>,
    pub found: Vec<usize>,
}

/// All tensors that do not fit the configuration, in one error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Name and shape expected.
    pub missing: Vec<(String, Vec<usize>)>,
    /// Name and shape found.
    pub extra: Vec<(String, Vec<usize>)>,
    pub misshapen: Vec<Misshapen>,
    pub architecture: String,
    /// What stands before every name of the file.
    pub prefix: String,
}

impl Mismatch {
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
