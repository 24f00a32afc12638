//! thimble's host side: reads ALBERT models, solves the byte budget with measured loss, writes the one file that is ONNX and
//! memory image, and puts it on boards. The program `thimble` is a thin wrapper over [`cli::main`].
//!
//! Arrows go downwards: `cmd` → `budget`, `boards` → `quantize`, `eval` → `models` → `onnx` → `render`, `fs`.

#![deny(unsafe_code)]

pub mod boards;
pub mod budget;
pub mod cli;
pub mod cmd;
pub mod eval;
#[allow(unsafe_code)]
pub mod fs;
pub mod models;
pub mod onnx;
pub mod quantize;
pub mod render;
