//! Why models could not be run on rows and compared.

use crate::eval::metrics::LossError;
use crate::models::image::ImageError;
use thimble_device::engine::EngineError;

/// Why rows have no outputs or no loss.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A row failed; rows are counted from 1.
    #[error("input row {row}")]
    Row {
        /// Which row.
        row: usize,
        /// Why.
        #[source]
        cause: Box<EvalError>,
    },
    /// The engine refused a model or an input.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The model could not be laid out in memory.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Two models' outputs cannot be compared.
    #[error(transparent)]
    Loss(#[from] LossError),
    /// Outputs of the original that were written to a scratch file could not be read.
    #[error("the original's outputs")]
    Kept(#[from] std::io::Error),
    /// A thread of the evaluation panicked.
    #[error("an evaluation thread panicked")]
    Thread,
    /// Whoever asked for the evaluation wants it no more.
    #[error("interrupted")]
    Interrupted,
    /// The model decides something, but on none of the inputs.
    #[error(
        "the model decides nothing on the {rows} inputs: each needs at least two choices to decide between, or two tokens an \
         answer may start at"
    )]
    NothingDecided {
        /// How many inputs there were.
        rows: usize,
    },
}

impl EvalError {
    /// The error of the row at `index`, counted from 0.
    pub(crate) fn at_row(self, index: usize) -> EvalError {
        EvalError::Row {
            row: index + 1,
            cause: Box::new(self),
        }
    }
}
