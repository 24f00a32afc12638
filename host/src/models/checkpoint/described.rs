//! What a configuration and the tensors' names say of a model.

use std::path::PathBuf;
use thimble_shared::model::Config;

/// What config.json settles, beyond the graph itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    pub config: Config,
    /// The class named or inferred, e.g. `AlbertForMaskedLM`.
    pub architecture: String,
    /// How that is known.
    pub certainty: Certainty,
    /// `tie_word_embeddings`: whether a masked-LM decoder may be the word embedding.
    pub tie: bool,
    pub notes: Vec<String>,
}

/// How sure the choice of a head is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The configuration names a class of transformers, the user a head, or there is no head.
    Settled,
    /// By the tensors alone: the configuration, and what it says of the class.
    Inferred(PathBuf, String),
}
