//! Every way reading a checkpoint can fail, with the file, the tensor and the field it failed at. The texts say what was
//! found and what would work, causes included: no error has a `source()` that a printer of chains would say again.

use std::fmt;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{path}: {cause}", path = .path.display())]
    Io { path: PathBuf, cause: std::io::Error },
    #[error("{0}")]
    Map(thimble_device::map::MapError),
    #[error("{dir}: no checkpoint here: expected config.json with model.safetensors or pytorch_model.bin{hint}", dir = .dir.display())]
    NoCheckpoint { dir: PathBuf, hint: String },
    #[error("{path}: no such file; a checkpoint's config.json must stand beside its weights", path = .path.display())]
    NoConfig { path: PathBuf },
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
    Mismatch { path: PathBuf, cause: Mismatch },
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
}

impl Mismatch {
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.misshapen.is_empty()
    }
}

/// Lines shown per list before the rest becomes a count.
const SHOWN: usize = 12;

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (missing, extra, shape) = (self.missing.len(), self.extra.len(), self.misshapen.len());
        write!(f, "tensors do not fit {} and config.json:", self.architecture)?;
        let mut join = "";
        for (count, what) in [(shape, "of another shape"), (missing, "missing"), (extra, "unknown")] {
            if count > 0 {
                write!(f, "{join} {count} {what}")?;
                join = ",";
            }
        }
        list(f, &self.misshapen, |f, m| {
            write!(f, "shape    {}: expected {:?}, found {:?}", m.name, m.expected, m.found)
        })?;
        list(f, &self.missing, |f, (name, shape)| {
            write!(f, "missing  {name} {shape:?}")
        })?;
        list(f, &self.extra, |f, (name, shape)| {
            write!(f, "unknown  {name} {shape:?}")
        })
    }
}

impl std::error::Error for Mismatch {}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    line: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for item in items.iter().take(SHOWN) {
        f.write_str("\n  ")?;
        line(f, item)?;
    }
    if items.len() > SHOWN {
        write!(f, "\n  ... and {} more", items.len() - SHOWN)?;
    }
    Ok(())
}
