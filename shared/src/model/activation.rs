//! Activation functions of feed-forward maps and heads.

use serde::{Deserialize, Serialize};

/// An activation function, as Hugging Face's `hidden_act` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · Φ(x) by erf.
    Gelu,
    /// The tanh form: 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))).
    GeluNew,
    /// max(x, 0).
    Relu,
    /// x · σ(x), Hugging Face's `silu` and `swish`.
    Silu,
    /// tanh(x).
    Tanh,
}

impl Activation {
    /// The name for a person.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Gelu => "gelu",
            Activation::GeluNew => "gelu_new",
            Activation::Relu => "relu",
            Activation::Silu => "silu",
            Activation::Tanh => "tanh",
        }
    }
}
