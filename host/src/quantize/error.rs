//! Why a model's numbers could not be prepared or rounded.

use crate::models::image::ImageError;
use thimble_device::engine::EngineError;

/// Why a model has no quantized form.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The model has no such weight.
    #[error("weight '{0}' is missing")]
    Missing(String),
    /// Numbers of a weight are beyond fp16's range.
    #[error(
        "weight '{name}': {beyond} of {count} numbers exceed fp16's ±65504, {most} the most; they are not clamped: leave it in f32 or i8 (`shrink` may choose; `export --precision fp16` cannot)"
    )]
    F16Overflow {
        /// Name of the weight.
        name: String,
        /// How many numbers are beyond the range.
        beyond: usize,
        /// How many numbers the weight has.
        count: usize,
        /// The largest magnitude.
        most: f32,
    },
    /// Statistics of the calibration rows could not be gathered; the cause in words, since several weights ask for it.
    #[error("calibrating: {0}")]
    Calibration(String),
    /// Whoever asked for the work wants it no more.
    #[error("interrupted")]
    Interrupted,
    /// A calibration row failed; rows are counted from 1.
    #[error("calibration row {row}")]
    Row {
        /// Which row.
        row: usize,
        /// Why.
        #[source]
        cause: EngineError,
    },
    /// The engine refused the model.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The model could not be laid out in memory.
    #[error(transparent)]
    Image(#[from] ImageError),
}
