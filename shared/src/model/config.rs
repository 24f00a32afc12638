//! The hyperparameters of a model. What a family of encoders and a head are stands in their rows, above this file; here is only
//! which ones a model has.

use super::activation::Activation;
use super::attention::AttentionArithmetic;
use super::sentence::Sentence;
use serde::{Deserialize, Serialize};

/// What the model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// No head: `last_hidden_state`, and `pooler_output` where the model has a pooler.
    None,
    /// A score for every token of the vocabulary at every position.
    MaskedLm,
    /// The masked-LM scores, and whether two texts stand in order.
    PreTraining,
    /// One score a label for a whole row, or values of a regression.
    SequenceClassification,
    /// One score a label at every token.
    TokenClassification,
    /// A start and an end score at every token.
    QuestionAnswering,
    /// One score a choice; inputs are `[batch, choices, seq]`.
    MultipleChoice,
    /// A vector a text: `sentence_embedding`, as sentence-transformers makes it.
    SentenceEmbedding,
}

/// Which encoder a model has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelFamily {
    /// ALBERT, Lan et al. 2019.
    #[default]
    Albert,
}

impl ModelFamily {
    /// Whether it is the one that files do not name.
    fn is_unsaid(&self) -> bool {
        *self == ModelFamily::default()
    }
}

/// The network of a model, under Hugging Face's names where they have one. [`Config::check`] says what must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The encoder; what its layers and embeddings are stands in its row.
    #[serde(default, skip_serializing_if = "ModelFamily::is_unsaid")]
    pub family: ModelFamily,
    /// Rows of the word table; token ids are below it.
    pub vocab_size: usize,
    /// Columns of the word, position and token type tables.
    pub embedding_size: usize,
    /// Width of the hidden states that layers read and give; a multiple of `num_attention_heads`.
    pub hidden_size: usize,
    /// Passes through a group; each pass runs the `inner_group_num` layers of one group ([`Config::layer_groups`]).
    pub num_hidden_layers: usize,
    /// Groups of layers with weights of their own; groups are shared by the layers that run them.
    pub num_hidden_groups: usize,
    /// Layers with weights of their own in each group; they run one after another.
    pub inner_group_num: usize,
    /// Attention heads of each layer.
    pub num_attention_heads: usize,
    /// Width between the two feed-forward maps.
    pub intermediate_size: usize,
    /// Rows of the position table: most tokens of a sequence.
    pub max_position_embeddings: usize,
    /// Rows of the token type table; type ids are below it.
    pub type_vocab_size: usize,
    /// What every LayerNorm adds to the variance.
    pub layer_norm_eps: f32,
    /// Behind the first feed-forward map of every layer, and in the masked-LM head.
    pub activation: Activation,
    /// What stands behind the last layer.
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
    /// The arithmetic of attention's products in every layer.
    #[serde(default, skip_serializing_if = "AttentionArithmetic::is_unsaid")]
    pub attention: AttentionArithmetic,
}

/// A hyperparameter that no model can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// Name of the field in [`Config`].
    pub field: &'static str,
    /// What it is and what it must be.
    pub problem: String,
}

impl Config {
    /// Most tokens of an input that a text becomes.
    pub fn max_tokens(&self) -> usize {
        let own = self.sentence.as_ref().and_then(|sentence| sentence.max_tokens);
        own.map_or(self.max_position_embeddings, |own| {
            own.min(self.max_position_embeddings)
        })
    }

    /// Width of one attention head: `hidden_size / num_attention_heads`.
    ///
    /// # Panics
    /// Where `num_attention_heads` is 0, which [`Config::check`] refuses.
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
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) use crate::test_support::tiny;

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
}
