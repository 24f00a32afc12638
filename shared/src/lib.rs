//! What thimble's host and device agree on: ALBERT as a [`graph`], the one file that is both valid ONNX and the image the
//! board maps ([`artifact`]), and the schemas of reports and targets. No network, no terminal, no inference engine here.

pub mod artifact;
pub mod audit;
pub mod decode;
pub mod file_kind;
pub mod files;
pub mod graph;
pub mod lower;
pub mod memory;
pub mod number;
pub mod onnx_read;
pub mod onnx_write;
pub mod panel;
pub mod report;
pub mod stored;
pub mod target;
pub mod terminal;
pub mod weights;
pub mod wire;
