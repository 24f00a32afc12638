//! The engine that maps a thimble model and computes it in tract plans, as a library: the board's program and the host's
//! calibration both run it in process. Kernels read weight panels where the file has them; nothing is copied or repacked.

pub mod attention;
pub mod bench;
pub mod board;
pub mod buffer;
pub mod context;
pub mod elementwise;
pub mod embed;
pub mod engine;
pub mod fault;
pub mod heap;
pub mod heat;
pub mod image;
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
#[cfg(test)]
mod shapes;
mod sysfs;
pub mod tensors;
pub mod weight;

pub use engine::{Engine, EngineError, EngineOptions, Input, InputError, Outputs};
pub use image::Image;
