//! What thimble's host and device agree on: ALBERT as a [`model`], the one file that is both valid ONNX and the image the
//! board maps ([`artifact`]), and the schemas of reports and targets. No network, no terminal, no inference engine here.
//!
//! A model written to bytes and read back:
//!
//! ```
//! use thimble_shared::artifact::emit::LowerOptions;
//! use thimble_shared::artifact::{self, Provenance};
//! use thimble_shared::dtype::{Format, Values};
//! use thimble_shared::model::{Activation, AttentionArithmetic, Config, Head, Kind, Model, ModelFamily};
//!
//! let config = Config {
//!     family: ModelFamily::Albert,
//!     vocab_size: 97,
//!     embedding_size: 12,
//!     hidden_size: 24,
//!     num_hidden_layers: 3,
//!     num_hidden_groups: 1,
//!     inner_group_num: 1,
//!     num_attention_heads: 2,
//!     intermediate_size: 40,
//!     max_position_embeddings: 32,
//!     type_vocab_size: 2,
//!     layer_norm_eps: 1e-12,
//!     activation: Activation::GeluNew,
//!     head: Head::None,
//!     tied_decoder: false,
//!     pooler: false,
//!     labels: vec![],
//!     multi_label: false,
//!     regression: false,
//!     hidden_shift: false,
//!     sentence: None,
//!     attention: AttentionArithmetic::F32,
//! };
//! let weights = config
//!     .weights()
//!     .into_iter()
//!     .map(|weight| {
//!         let format = match weight.kind {
//!             Kind::Vector => Format::F32,
//!             Kind::Table | Kind::Linear => Format::I8,
//!         };
//!         let numbers = vec![0.5f32; weight.elements()];
//!         let values = Values::round_to_nearest(format, &numbers, weight.rows());
//!         (weight.name, values)
//!     })
//!     .collect();
//! let model = Model { config, weights };
//!
//! let file = artifact::write(&model, LowerOptions::default(), &Provenance::default())?;
//! let opened = artifact::open(&file)?;
//! assert_eq!(opened.model(&file)?, model);
//! # Ok::<(), artifact::ArtifactError>(())
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]

/// The version of the JSON that commands print, but for reports, which have [`board::report::SCHEMA`].
pub const ANSWER_SCHEMA: u32 = 1;

pub mod artifact;
pub mod board;
pub mod built;
pub mod decode;
pub mod dtype;
pub mod file_kind;
pub mod files;
pub mod model;
pub mod onnx;
pub mod random;
pub mod spelling;
pub mod terminal;
#[cfg(test)]
#[path = "../../tests/support/mod.rs"]
mod test_support;

// Tests of several crates share a file that names this one.
#[cfg(test)]
extern crate self as thimble_shared;
