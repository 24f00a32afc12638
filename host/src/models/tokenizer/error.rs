//! Every way reading a tokenizer's own files can fail, with the file and what is wrong in it.

use std::path::PathBuf;

/// Why a tokenizer's files cannot be read. `path` is always the file the error is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The operating system could not read it.
    #[error("{path}: {cause}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        cause: std::io::Error,
    },
    /// The file is not what its name says, or is damaged.
    #[error("{path}: {problem}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// A field of tokenizer_config.json or its like has a value that is not read.
    #[error("{path}: {field}: {problem}", path = .path.display())]
    Config {
        /// The file with the field.
        path: PathBuf,
        /// Name of the field as the file spells it.
        field: String,
        /// What it holds, and what it may hold.
        problem: String,
    },
    /// The tokenizer is of a class whose rules are not known here.
    #[error(
        "{path}: texts of a {class} are not split here (AlbertTokenizer's spiece.model, BertTokenizer's vocab.txt and any tokenizer.json are); give token ids instead",
        path = .path.display()
    )]
    Class {
        /// The file that names the class.
        path: PathBuf,
        /// The class in transformers.
        class: String,
    },
    /// The folder has no tokenizer.
    #[error("{path}: no tokenizer here: tokenizer.json, spiece.model or vocab.txt is needed", path = .path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
}
