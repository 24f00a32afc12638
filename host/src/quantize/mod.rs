//! From numbers to fewer bits: preparing a model, rounding it, and leaving out what it does not need.

pub mod equalize;
pub mod error;
pub(crate) mod gptq;
pub mod outlier_split;
pub mod prune;
pub mod quantizer;
pub mod shift;
pub(crate) mod variants;
pub mod vocabulary;
