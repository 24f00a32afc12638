//! Why a path holds no model that can be used, in one line.

use super::image::ImageError;
use crate::models::checkpoint::SourceError;
use crate::models::onnx_import::ImportError;
use std::path::{Path, PathBuf};
use thimble_device::image::mmap::MapError;
use thimble_shared::artifact::ArtifactError;
use thimble_shared::model::Activation;

/// Why a model named on the command line cannot be opened or used.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] SourceError),
    /// Another tool's ONNX cannot be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A file cannot be mapped, or changed while it was.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A model cannot be laid out in memory.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Numbers of a file of thimble's cannot be read.
    #[error(transparent)]
    Numbers(#[from] ArtifactError),
    /// A file of thimble's is damaged.
    #[error("{}: {cause}", path.display())]
    Artifact {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: ArtifactError,
    },
    /// A file cannot be read.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// A board was to run what is no file of thimble's.
    #[error("{}: a board runs files of thimble's; make one with thimble export or shrink", path.display())]
    NotForBoards {
        /// What was named.
        path: PathBuf,
    },
    /// The tokenizer beside a model is no longer the one that was found.
    #[error("{}: it was replaced while it was read; run this again", path.display())]
    Replaced {
        /// The tokenizer.
        path: PathBuf,
    },
    /// A folder holds ONNX under another name than usual.
    #[error("{}: no {usual} here, but {found}; name the file itself", dir.display())]
    OtherOnnx {
        /// The folder.
        dir: PathBuf,
        /// The usual names.
        usual: String,
        /// What is there.
        found: String,
    },
    /// An option says how another kind of model is read.
    #[error("{}: {problem}", path.display())]
    Misplaced {
        /// What was named.
        path: PathBuf,
        /// Which options, and what they are for.
        problem: &'static str,
    },
    /// Dense layers cannot be written for sentence-transformers.
    #[error("cannot write the dense layers for sentence-transformers: {0}")]
    DenseLayers(#[from] safetensors::SafeTensorError),
    /// A dense layer has an activation that sentence-transformers has no class for.
    #[error(
        "sentence-transformers has no dense layer with {}, so no folder is written for it; -o OUT.onnx writes the file alone", .0.name()
    )]
    DenseActivation(Activation),
    /// The nodes of a file do not state what its metadata say.
    #[error("{}: nodes and metadata contradict each other: {differences}", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// The differences, separated by semicolons.
        differences: String,
    },
}

impl ModelError {
    pub(super) fn io(path: &Path, cause: std::io::Error) -> ModelError {
        ModelError::Io {
            path: path.to_path_buf(),
            cause,
        }
    }

    pub(super) fn artifact(path: &Path, cause: ArtifactError) -> ModelError {
        ModelError::Artifact {
            path: path.to_path_buf(),
            cause,
        }
    }

    pub(super) fn misplaced(path: &Path, problem: &'static str) -> ModelError {
        ModelError::Misplaced {
            path: path.to_path_buf(),
            problem,
        }
    }
}
