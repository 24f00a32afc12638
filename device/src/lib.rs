//! The engine that maps a thimble model and computes it in tract plans, as a library: the board's program and the host's
//! calibration both run it in process. Kernels read weight panels where the file has them; nothing is copied or repacked.
//!
//! A program that asks a model takes three types: [`Responder`] answers [`Request`]s (texts or token ids, one or many) with
//! [`Reply`]s (labels, scores, JSON). One that wants the outputs as numbers runs an [`Input`] through a [`Session`]:
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture/example_model.rs"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = &example_model("front-page");
//! use thimble_device::session::{Session, SessionOptions};
//! use thimble_device::{Input, Request, Responder};
//!
//! let model = Responder::open(path, &SessionOptions::default(), None)?;
//! let reply = model.answer(Request::ids([2, 75, 15, 51, 3]))?;
//! println!("{:?} {:?}", reply.label(), reply.score());
//!
//! let outputs = model.session().run(&Input::sequence(&[2, 75, 15, 51, 3]))?;
//! for (name, tensor) in &outputs.0 {
//!     println!("{name} {:?} {:?}", tensor.shape, tensor.data);
//! }
//! # assert_eq!(outputs.get("logits").unwrap().shape, [1, 2]);
//! # assert!(Session::load(std::path::Path::new("no.onnx"), &SessionOptions::default()).is_err());
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod answers;
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

pub use answers::{Reply, Request, Responder};
pub use engine::{Engine, EngineError, EngineOptions, Input, InputError, Outputs};
pub use image::Image;
pub use session::Session;

/// The program's memory, where the program makes it its allocator ([`block_cache::Global`]); elsewhere nothing is in it.
static HEAP: block_cache::Reuse = block_cache::Reuse::new();
