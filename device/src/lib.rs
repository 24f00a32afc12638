//! The engine that maps a thimble model and computes it in tract plans, as a library: the board's program and the host's
//! calibration both run it in process. Kernels read weight panels where the file has them; nothing is copied or repacked.

pub mod bench;
pub mod buffer;
pub mod elementwise;
pub mod image;
pub mod kernel;
pub mod map;
pub mod measure;
pub mod pool;
pub mod tensors;
