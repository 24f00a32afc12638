//! The engine that maps a thimble model and computes it in tract plans, as a library: the board's program and the host's
//! calibration both run it in process. Kernels read weight panels where the file has them; nothing is copied or repacked.

pub mod args;
pub mod attention;
pub mod bench;
pub mod board;
pub mod buffer;
pub mod cli;
pub mod context;
pub mod elementwise;
pub mod embed;
pub mod engine;
pub mod fault;
pub mod heap;
pub mod heat;
pub mod image;
#[cfg(target_os = "linux")]
mod init;
pub mod kernel;
pub mod linear;
pub mod map;
pub mod measure;
pub mod norm;
pub mod plan;
pub mod pool;
pub mod power;
pub mod process;
pub mod profile;
pub mod serve;
pub mod session;
#[cfg(test)]
mod shapes;
mod show;
pub mod sysfs;
pub mod tensors;
pub mod weight;

pub use engine::{Engine, EngineError, EngineOptions, Input, InputError, Outputs};
pub use image::Image;

/// The program's memory, where the program makes it its allocator ([`heap::Global`]); elsewhere nothing is in it.
static HEAP: heap::Reuse = heap::Reuse::new();
