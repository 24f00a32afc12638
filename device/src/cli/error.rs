//! Why the program cannot do what it was asked: what opening, running, tensors and serving give, and what only a command meets.

use std::io;

use crate::answers::ResponderError;
use crate::engine::tensors::TensorError;
use crate::serve::ServeError;
use crate::session::SessionError;

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The model cannot be opened or run.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Tensors could not be read or written.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// The server cannot start or go on.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The model's tokenizer cannot be opened.
    #[error(transparent)]
    Answers(#[from] ResponderError),
    /// Texts are no input of this model.
    #[cfg(feature = "text")]
    #[error(transparent)]
    Question(#[from] thimble_text::questions::QuestionError),
    /// The outputs say nothing.
    #[cfg(feature = "text")]
    #[error("{0}")]
    Answer(thimble_text::answer::AnswerError),
    /// Writing stdout failed for another reason than a reader that went away.
    #[error("stdout: {0}")]
    Output(io::Error),
    /// A file of texts cannot be read.
    #[error("--texts {file}: {source}")]
    Texts {
        /// The file, as it was named.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A server cannot be asked.
    #[error("{socket}: {problem}")]
    Asking {
        /// The server's socket.
        socket: String,
        /// Why.
        problem: String,
    },
    /// No tokenizer was named, and none lies beside the model.
    #[cfg(feature = "text")]
    #[error(
        "{file}: --text needs the tokenizer that lies beside the model ({beside}); name one with --tokenizer or give --ids"
    )]
    NoTokenizer {
        /// The model.
        file: String,
        /// Where its tokenizer would be.
        beside: String,
    },
    /// The option needs texts, and this program was built without the `text` feature.
    #[cfg(not(feature = "text"))]
    #[error(
        "--{0}: this is the lean program, which takes token ids only; a thimble-device whose --version says \"with text\" takes texts"
    )]
    #[cfg(not(feature = "text"))]
    NoText(&'static str),
}
