//! A model said once, in its own terms: hyperparameters ([`config`]), the sharing of layers, the weights with their logical
//! shapes ([`weight`]), and the steps of the computation ([`network`]) from the encoder ([`family`]) to the head ([`head`]). Nothing here knows a file:
//! `artifact::emit` states the network in ONNX, and the device builds tract plans of it.

pub mod activation;
pub mod attention;
pub mod config;
pub mod family;
pub mod head;
pub mod network;
pub mod sentence;
pub mod weight;
pub mod weights;
mod whole;

pub use activation::Activation;
pub use attention::AttentionArithmetic;
pub use config::{Config, ConfigError, Head, ModelFamily};
pub use family::FamilyRow;
pub use head::AnswerKind;
pub use weight::{Kind, Role, Site, Slot, WeightSpec};

use crate::dtype::Format;
use std::collections::BTreeMap;
use weights::Weights;

/// The network and the format of each table and linear map. Vectors are f32 and not listed.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The hyperparameters.
    pub config: Config,
    /// By weight name; a table or linear map that is not listed is f32.
    pub formats: BTreeMap<String, Format>,
}

impl ModelSpec {
    /// The same format for every table and linear map.
    pub fn uniform(config: Config, format: Format) -> ModelSpec {
        let formats = config
            .weights()
            .into_iter()
            .filter(|w| w.kind != Kind::Vector)
            .map(|w| (w.name, format))
            .collect();
        ModelSpec { config, formats }
    }

    /// The format of a weight by its name, f32 where none is listed.
    pub fn format(&self, name: &str) -> Format {
        self.formats.get(name).copied().unwrap_or(Format::F32)
    }
}

/// A ModelSpec with its numbers, in logical order: what is written to a file and read back from one.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The hyperparameters.
    pub config: Config,
    /// By weight name; each in the format it is stored in, vectors in f32.
    pub weights: Weights,
}

impl Model {
    /// The hyperparameters and the format each table and linear map is in.
    pub fn graph(&self) -> ModelSpec {
        let formats = self
            .config
            .weights()
            .into_iter()
            .filter(|w| w.kind != Kind::Vector)
            .filter_map(|w| self.weights.get(&w.name).map(|v| (w.name, v.format())))
            .collect();
        ModelSpec {
            config: self.config.clone(),
            formats,
        }
    }
}
