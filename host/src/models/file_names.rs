//! Names that files have in folders of Hugging Face's libraries.

/// Sizes of a model, or options of a part of one.
pub const CONFIG: &str = "config.json";
/// A tokenizer, whole.
pub const TOKENIZER: &str = "tokenizer.json";
/// Options of a tokenizer.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Weights in one file, the first that is there.
pub const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
