//! From what people have to a model: checkpoints, ONNX files of other tools, tokenizers.

pub mod checkpoint;
pub mod error;
pub(crate) mod file_names;
pub(crate) mod graft;
pub(crate) mod huggingface_folder;
pub mod image;
pub mod model_file;
pub mod onnx_import;
pub(crate) mod raw_json;
pub mod read_options;
pub mod tokenizer;
pub mod tokenizer_json;
