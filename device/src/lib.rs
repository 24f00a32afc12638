//! The engine that maps a thimble model and computes it in tract plans, as a library: the board's program and the host's
//! calibration both run it in process. Kernels read weight panels where the file has them; nothing is copied or repacked.
//!
//! One sequence of token ids through a model file:
//!
//! ```no_run
//! use std::path::Path;
//! use thimble_device::image::mmap::ModelMap;
//! use thimble_device::{Engine, EngineOptions, Image, Input};
//!
//! let map = ModelMap::open(Path::new("model.onnx"), false)?;
//! let engine = Engine::new(Image::new(map), EngineOptions::default())?;
//! let outputs = engine.run(&Input::sequence(&[2, 10975, 15, 51, 204, 3]))?;
//! for (name, tensor) in &outputs.0 {
//!     println!("{name} {:?}", tensor.shape);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod bench;
#[allow(unsafe_code)]
pub mod block_cache;
pub mod cli;
pub mod engine;
#[cfg(target_os = "linux")]
mod guest_init;
#[allow(unsafe_code)]
pub mod image;
pub(crate) mod log;
pub mod platform;
pub mod serve;
pub mod session;

pub use engine::{Engine, EngineError, EngineOptions, Input, InputError, Outputs};
pub use image::Image;

/// The program's memory, where the program makes it its allocator ([`block_cache::Global`]); elsewhere nothing is in it.
static HEAP: block_cache::Reuse = block_cache::Reuse::new();
