//! What thimble's host and device agree on: ALBERT as a [`model`], the one file that is both valid ONNX and the image the
//! board maps ([`artifact`]), and the schemas of reports and targets. No network, no terminal, no inference engine here.

pub mod artifact;
pub mod board;
pub mod decode;
pub mod dtype;
pub mod file_kind;
pub mod files;
pub mod model;
pub mod onnx;
pub mod spelling;
pub mod terminal;
