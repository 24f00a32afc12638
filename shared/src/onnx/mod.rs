//! ONNX as bytes: the protobuf wire format, and a reader and a writer of models.

pub mod protobuf;
pub mod reader;
pub mod writer;
