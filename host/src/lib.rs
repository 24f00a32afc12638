//! thimble's host side: reads ALBERT models, solves the byte budget with measured loss, writes the one file that is ONNX and
//! memory image, and puts it on boards. The program `thimble` is a thin wrapper over [`cli::main`].
//!
//! Imports go down the rooms as ARCHITECTURE.md draws them, never up.
//!
//! A checkpoint read, rounded to int8 and written:
//!
//! ```no_run
//! use std::path::Path;
//! use thimble::models::checkpoint;
//! use thimble::models::model_file::Checkpoint;
//! use thimble::quantize::quantizer::{Quantizer, uniform};
//! use thimble_shared::artifact::emit::LowerOptions;
//! use thimble_shared::artifact::{self, Provenance};
//! use thimble_shared::dtype::Format;
//!
//! let source = checkpoint::read(Path::new("albert-base-v2"))?;
//! let provenance = Provenance {
//!     source_sha256: Some(source.sha256.clone()),
//!     tokenizer_sha256: None,
//! };
//! let model = Checkpoint::from(source).model;
//! let int8 = Quantizer::new(&model).model(&uniform(&model.config, Format::I8))?;
//! let file = artifact::write(&int8, LowerOptions::default(), &provenance)?;
//! std::fs::write("albert-base-v2.onnx", file)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod boards;
pub mod budget;
pub mod cli;
pub mod cmd;
pub mod eval;
#[allow(unsafe_code)]
pub(crate) mod fs;
pub mod inspect;
pub mod models;
pub mod onnx;
pub mod quantize;
pub mod render;
#[cfg(test)]
#[path = "../../tests/support/mod.rs"]
mod test_support;
