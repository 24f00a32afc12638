//! Every way reading a tokenizer's own files can fail, with the file and what is wrong in it.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    #[error("{path}: {cause}", path = .path.display())]
    Io { path: PathBuf, cause: std::io::Error },
    #[error("{path}: {problem}", path = .path.display())]
    Format { path: PathBuf, problem: String },
    #[error("{path}: {field}: {problem}", path = .path.display())]
    Config {
        path: PathBuf,
        field: String,
        problem: String,
    },
    #[error(
        "{path}: texts of a {class} are not split here (AlbertTokenizer's spiece.model, BertTokenizer's vocab.txt and any tokenizer.json are); give token ids instead",
        path = .path.display()
    )]
    Class { path: PathBuf, class: String },
    #[error("{path}: no tokenizer here: tokenizer.json, spiece.model or vocab.txt is needed", path = .path.display())]
    Missing { path: PathBuf },
}
