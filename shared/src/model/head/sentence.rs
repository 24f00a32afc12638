//! Sentence embeddings, as sentence-transformers computes them: the tokens' hidden states pooled in one or more ways side by
//! side, then dense layers, then perhaps a length of 1.

use super::HeadRow;
use crate::model::config::{Activation, Config};
use crate::model::network::{Extent, HIDDEN, HeadSteps, Op, Pooling, Value};
use crate::model::weight::{Role, WeightList};
use serde::{Deserialize, Serialize};

pub const ROW: HeadRow = HeadRow {
    name: "sentence embedding",
    class: "SentenceTransformer",
    needs_pooler: false,
    has_decoder: false,
    has_labels: false,
    takes_choices: false,
    weights,
    steps,
};

/// How tokens become the embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sentence {
    /// At least one, each at most once, in the order of their vectors.
    pub pooling: Vec<Pooling>,
    /// At most [`DENSE_MOST`], one after another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dense: Vec<Dense>,
    /// Whether the embedding is given the length 1.
    #[serde(default)]
    pub normalize: bool,
    /// Most tokens of a text, special ones among them; what comes after is cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
}

/// A linear map of the embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dense {
    pub size: usize,
    /// None leaves the map as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
}

/// Most dense layers.
pub const DENSE_MOST: usize = 4;
/// Weight, value before the activation, and value of each dense layer.
const DENSE: [(Role, Value, Value); DENSE_MOST] = [
    (Role::Head("dense"), "dense.map", "dense.out"),
    (Role::Head("dense2"), "dense2.map", "dense2.out"),
    (Role::Head("dense3"), "dense3.map", "dense3.out"),
    (Role::Head("dense4"), "dense4.map", "dense4.out"),
];

/// The output's name in ONNX files of sentence-transformers and Optimum.
pub const OUTPUT: Value = "sentence_embedding";

impl Sentence {
    /// What is wrong with it, if anything is.
    pub fn problem(&self) -> Option<String> {
        let repeated = (1..self.pooling.len()).any(|i| self.pooling[..i].contains(&self.pooling[i]));
        if self.pooling.is_empty() || repeated {
            return Some("pooling has each way at most once, and at least one".to_string());
        }
        (self.dense.len() > DENSE_MOST).then(|| format!("{} dense layers, at most {DENSE_MOST}", self.dense.len()))
    }

    /// The size of the embedding of a model with this hidden size.
    pub fn size(&self, hidden: usize) -> usize {
        let pooled = hidden.saturating_mul(self.pooling.len());
        self.dense.last().map_or(pooled, |dense| dense.size)
    }
}

fn weights(config: &Config, list: &mut WeightList) {
    let Some(sentence) = &config.sentence else { return };
    let mut size = config.hidden_size.saturating_mul(sentence.pooling.len());
    for (dense, (role, _, _)) in sentence.dense.iter().zip(DENSE) {
        list.linear(role, dense.size, size);
        size = dense.size;
    }
}

fn steps(config: &Config, head: &mut HeadSteps) {
    let Some(sentence) = &config.sentence else { return };
    let pooled = |pooling: &Pooling| -> Value {
        match pooling {
            Pooling::First => "pooled.first",
            Pooling::Max => "pooled.max",
            Pooling::Mean => "pooled.mean",
            Pooling::MeanSqrtLen => "pooled.mean_sqrt_len",
            Pooling::WeightedMean => "pooled.weighted_mean",
        }
    };
    // The last step makes the output: every one is told whether it is.
    let dense = &sentence.dense;
    let last = |after: usize, own: Value| match after {
        0 => OUTPUT,
        _ => own,
    };
    let behind = dense.len() + usize::from(sentence.normalize);
    let several = sentence.pooling.len() > 1;
    let mut inputs = vec![];
    for pooling in &sentence.pooling {
        let op = Op::Pool {
            input: HIDDEN,
            pooling: *pooling,
        };
        inputs.push(head.step(op, last(behind + usize::from(several), pooled(pooling))));
    }
    let mut value = match inputs.as_slice() {
        [one] => one,
        _ => head.step(Op::Concat { inputs }, last(behind, "pooled")),
    };
    for (i, (layer, (role, before, out))) in dense.iter().zip(DENSE).enumerate() {
        let op = Op::Linear {
            weight: role,
            bias: role,
            input: value,
            activation: layer.activation.map(|activation| (activation, before)),
        };
        value = head.step(op, last(behind - i - 1, out));
    }
    if sentence.normalize {
        value = head.step(Op::Normalize { input: value }, OUTPUT);
    }
    head.output(value, Extent::Row(sentence.size(config.hidden_size)));
}
