//! What a user says of a source that its files leave open.

use std::path::PathBuf;
use thimble_shared::model::Head;

/// How a model is read where its folder or file leaves it open.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadOptions {
    /// The head to make, whatever class config.json names.
    pub head: Option<Head>,
    /// The folder of a LoRA adapter to merge into the checkpoint.
    pub adapter: Option<PathBuf>,
    /// The values of an ONNX file that hold what the model gives, in place of its outputs.
    pub output_values: Vec<String>,
    /// Take the weights of a quantized ONNX file as they are.
    pub dequantize: bool,
}
