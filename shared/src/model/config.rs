//! The hyperparameters of a model, and what must hold of them.

use super::head::sentence::Sentence;
use super::head::{AnswerKind, Head};
use super::weight;
use super::weight::WeightSpec;
use crate::dtype::I4_BLOCK;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · Φ(x) by erf.
    Gelu,
    /// The tanh form: 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))).
    GeluNew,
    Relu,
    Silu,
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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub vocab_size: usize,
    pub embedding_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_hidden_groups: usize,
    pub inner_group_num: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f32,
    pub activation: Activation,
    pub head: Head,
    /// The masked-LM decoder is the word embedding, stored once.
    pub tied_decoder: bool,
    /// Whether the model computes `pooler_output` (head none) or a head that reads it.
    pub pooler: bool,
    /// One name per classifier output (sequence and token classification), in order; empty for other heads.
    pub labels: Vec<String>,
    /// The labels do not exclude each other: each has a probability of its own (sigmoid instead of softmax).
    #[serde(default)]
    pub multi_label: bool,
    /// The outputs of sequence classification are values, measured by squared error, though their number or `multi_label` does
    /// not show it: a regression with several labels, or one label whose `problem_type` nobody stated (its score is a sigmoid).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub regression: bool,
    /// The layers work on hidden states that lie `hidden_shift`, a vector of its own, below Hugging Face's:
    /// `last_hidden_state`, and what sentences are pooled of, is what the last layer gives plus that vector. Only where hidden states
    /// leave the model: the biases of other heads absorb it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden_shift: bool,
    /// How tokens become a sentence's embedding; of that head alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentence: Option<Sentence>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    pub field: &'static str,
    pub problem: String,
}

/// The largest value any size field may take: keeps every product of two within u64 and refuses absurd files early.
const MAX_DIM: usize = 1 << 24;
const MAX_LAYERS: usize = 1024;

/// Whether a weight fits `most` bytes in every format, padding included. On a 32-bit board a product that wraps would make
/// a huge table look like a small one whose bytes are all there.
fn addressable(shape: &[usize], most: u64) -> bool {
    // No format pads a dimension by more than an int4 block, and none takes more than four bytes a number.
    let padded = |&n: &usize| (n as u64).checked_next_multiple_of(I4_BLOCK as u64);
    let bytes = shape.iter().try_fold(4u64, |bytes, n| bytes.checked_mul(padded(n)?));
    bytes.is_some_and(|bytes| bytes <= most)
}

impl Config {
    /// Everything that must hold before shapes are derived from the fields.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |field, problem: String| Err(ConfigError { field, problem });
        let sizes = [
            ("vocab_size", self.vocab_size, MAX_DIM),
            ("embedding_size", self.embedding_size, MAX_DIM),
            ("hidden_size", self.hidden_size, MAX_DIM),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_hidden_groups", self.num_hidden_groups, MAX_LAYERS),
            ("inner_group_num", self.inner_group_num, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_DIM),
            ("intermediate_size", self.intermediate_size, MAX_DIM),
            ("max_position_embeddings", self.max_position_embeddings, MAX_DIM),
            ("type_vocab_size", self.type_vocab_size, MAX_DIM),
        ];
        for (field, value, max) in sizes {
            if value == 0 || value > max {
                return bad(field, format!("is {value}, must be 1 to {max}"));
            }
        }
        let steps = self.num_hidden_layers.saturating_mul(self.inner_group_num);
        if steps > MAX_LAYERS {
            return bad(
                "inner_group_num",
                format!("{steps} layers in all, at most {MAX_LAYERS} are built"),
            );
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return bad(
                "num_attention_heads",
                format!(
                    "{} does not divide hidden_size {}",
                    self.num_attention_heads, self.hidden_size
                ),
            );
        }
        if self.num_hidden_groups > self.num_hidden_layers {
            return bad(
                "num_hidden_groups",
                format!(
                    "{} groups for {} layers leave some unused",
                    self.num_hidden_groups, self.num_hidden_layers
                ),
            );
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            return bad(
                "layer_norm_eps",
                format!("is {}, must be finite and not negative", self.layer_norm_eps),
            );
        }
        if self.head.needs_pooler() && !self.pooler {
            return bad("pooler", format!("the {} head needs it", self.head.name()));
        }
        if self.tied_decoder && !self.head.has_decoder() {
            return bad("tied_decoder", format!("the {} head has no decoder", self.head.name()));
        }
        if self.hidden_shift && !self.head.row().gives_hidden {
            return bad(
                "hidden_shift",
                format!("the {} head gives no hidden states", self.head.name()),
            );
        }
        if self.head.row().has_labels == self.labels.is_empty() {
            return bad(
                "labels",
                format!("{} names for a {} head", self.labels.len(), self.head.name()),
            );
        }
        if self.sentence.is_some() != (self.head.answer() == AnswerKind::Embedding) {
            return bad("sentence", format!("does not go with the {} head", self.head.name()));
        }
        if let Some(problem) = self.sentence.as_ref().and_then(|sentence| sentence.problem(MAX_DIM)) {
            return bad("sentence", problem);
        }
        if self.regression && self.head.answer() != AnswerKind::Labels {
            return bad("regression", format!("the {} head has none", self.head.name()));
        }
        for weight in self.weights() {
            if !addressable(&weight.shape, isize::MAX as u64) {
                return Err(ConfigError {
                    field: "weights",
                    problem: format!(
                        "{} {:?} is larger than this machine can address",
                        weight.name, weight.shape
                    ),
                });
            }
        }
        Ok(())
    }

    /// Whether the outputs are values rather than decisions: a sequence classifier whose loss is the squared error, as
    /// transformers chooses it for `problem_type` regression and for one label without `problem_type`.
    pub fn predicts_values(&self) -> bool {
        self.head.answer() == AnswerKind::Labels && (self.regression || (self.labels.len() == 1 && !self.multi_label))
    }

    /// The version of the `thimble.graph` text that brought what this network has.
    pub fn since(&self) -> u32 {
        match (&self.sentence, self.hidden_shift) {
            (Some(_), _) => 3,
            (None, true) => 2,
            (None, false) => 1,
        }
    }

    /// Most tokens of an input that a text becomes.
    pub fn max_tokens(&self) -> usize {
        let own = self.sentence.as_ref().and_then(|sentence| sentence.max_tokens);
        own.map_or(self.max_position_embeddings, |own| {
            own.min(self.max_position_embeddings)
        })
    }

    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Group of each layer, by Hugging Face's rule: `int(i / (layers / groups))` in floating point.
    pub fn layer_groups(&self) -> Vec<usize> {
        let per_group = self.num_hidden_layers as f64 / self.num_hidden_groups as f64;
        (0..self.num_hidden_layers)
            .map(|i| ((i as f64 / per_group) as usize).min(self.num_hidden_groups - 1))
            .collect()
    }

    /// Every weight of the model, in the order files store them.
    pub fn weights(&self) -> Vec<WeightSpec> {
        weight::of(self)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::head::sentence::Dense;
    use crate::model::network::Pooling;

    pub(crate) fn tiny(head: Head) -> Config {
        Config {
            vocab_size: 97,
            embedding_size: 12,
            hidden_size: 24,
            num_hidden_layers: 3,
            num_hidden_groups: 1,
            inner_group_num: 1,
            num_attention_heads: 2,
            intermediate_size: 40,
            max_position_embeddings: 32,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            activation: Activation::GeluNew,
            head,
            tied_decoder: head.has_decoder(),
            pooler: head.needs_pooler(),
            multi_label: false,
            regression: false,
            hidden_shift: false,
            sentence: (head == Head::SentenceEmbedding).then(|| Sentence {
                pooling: vec![Pooling::Mean, Pooling::Max],
                dense: vec![Dense {
                    size: 10,
                    activation: Some(Activation::Tanh),
                }],
                normalize: true,
                max_tokens: Some(16),
                prompt: None,
            }),
            labels: match head.row().has_labels {
                true => vec!["a".into(), "b".into(), "c".into()],
                false => vec![],
            },
        }
    }

    #[test]
    fn a_weight_whose_bytes_wrap_is_not_a_small_one() {
        let board32 = i32::MAX as u64;
        let cases: [(&[usize], bool); 5] = [
            (&[30_000, 128], true),
            (&[65_536, 65_536], false),
            (&[1 << 15, 1 << 14], false),
            (&[MAX_DIM, MAX_DIM], false),
            (&[MAX_DIM], true),
        ];
        for (shape, fits) in cases {
            assert_eq!(addressable(shape, board32), fits, "{shape:?}");
        }
        assert!(addressable(&[MAX_DIM, MAX_DIM], i64::MAX as u64));
        assert!(!addressable(&[usize::MAX, 2], board32) && !addressable(&[usize::MAX; 3], i64::MAX as u64));
    }

    #[test]
    fn layers_fall_into_groups_as_in_hugging_face() {
        let cases: [(usize, usize, &[usize]); 4] = [
            (5, 2, &[0, 0, 0, 1, 1]),
            (12, 1, &[0; 12]),
            (4, 4, &[0, 1, 2, 3]),
            (7, 3, &[0, 0, 0, 1, 1, 2, 2]),
        ];
        for (layers, groups, want) in cases {
            let config = Config {
                num_hidden_layers: layers,
                num_hidden_groups: groups,
                ..tiny(Head::None)
            };
            assert_eq!(config.layer_groups(), want, "{layers} layers, {groups} groups");
        }
    }

    #[test]
    fn albert_base_has_its_published_parameter_count() {
        let config = Config {
            vocab_size: 30000,
            embedding_size: 128,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            pooler: true,
            ..tiny(Head::None)
        };
        assert_eq!(
            config.weights().iter().map(WeightSpec::elements).sum::<usize>(),
            11_683_584
        );
    }

    #[test]
    fn impossible_configs_are_refused_by_field() {
        type Spoil = fn(&mut Config);
        let cases: [(&str, Spoil); 6] = [
            ("inner_group_num", |c| c.inner_group_num = 1000),
            ("num_attention_heads", |c| c.num_attention_heads = 5),
            ("hidden_size", |c| c.hidden_size = usize::MAX),
            ("num_hidden_groups", |c| c.num_hidden_groups = 4),
            ("layer_norm_eps", |c| c.layer_norm_eps = f32::NAN),
            ("labels", |c| c.labels = vec!["x".into()]),
        ];
        for (field, spoil) in cases {
            let mut config = tiny(Head::MaskedLm);
            spoil(&mut config);
            assert_eq!(config.check().unwrap_err().field, field);
        }
    }
}
