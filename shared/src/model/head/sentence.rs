//! Sentence embeddings, as sentence-transformers computes them: the tokens' hidden states pooled in one or more ways side by
//! side, then dense layers, then perhaps a length of 1.

use super::{AnswerKind, HeadRow};
use crate::model::config::{Activation, Config};
use crate::model::network::{Extent, HIDDEN, HeadSteps, Op, Pooling, Value};
use crate::model::weight::{Role, WeightList};
use serde::{Deserialize, Serialize};
use std::fmt;

pub const ROW: HeadRow = HeadRow {
    name: "sentence embedding",
    flag: ("sentence", "Sentence embedding"),
    class: "SentenceTransformer",
    answer: AnswerKind::Embedding,
    answered_by: OUTPUT,
    needs_pooler: false,
    has_decoder: false,
    has_labels: false,
    takes_choices: false,
    gives_hidden: true,
    modules: &[],
    weights,
    steps,
};

/// How the tokens of a text become its embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sentence {
    /// At least one, each at most once, in the order of their vectors.
    pub pooling: Vec<Pooling>,
    /// At most [`MOST_DENSE`], one after another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dense: Vec<Dense>,
    /// Whether the embedding is given the length 1.
    #[serde(default)]
    pub normalize: bool,
    /// Most tokens of a text, special ones among them; what comes after is cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// What is put before every text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
}

/// A linear map of the embedding, with a bias.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dense {
    /// Numbers it gives.
    pub size: usize,
    /// None leaves them as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
}

/// Most dense layers.
pub const MOST_DENSE: usize = 4;
/// Longest prompt, in bytes.
pub const MOST_PROMPT: usize = 4096;

/// The output's name in ONNX files of sentence-transformers and Optimum.
pub const OUTPUT: Value = "sentence_embedding";

/// The weight of each dense layer, its value before the activation, and its value.
const DENSE: [(Role, Value, Value); MOST_DENSE] = [
    (Role::Head("dense"), "dense_map", "dense_out"),
    (Role::Head("dense2"), "dense2_map", "dense2_out"),
    (Role::Head("dense3"), "dense3_map", "dense3_out"),
    (Role::Head("dense4"), "dense4_map", "dense4_out"),
];

/// The name of the weight of the dense layer `number`, from 0.
pub fn dense_weight(number: usize) -> Option<&'static str> {
    DENSE.get(number).map(|(role, ..)| role.name())
}

impl Sentence {
    /// One way of pooling, and nothing else.
    pub fn pooled(pooling: Pooling) -> Sentence {
        Sentence {
            pooling: vec![pooling],
            dense: vec![],
            normalize: false,
            max_tokens: None,
            prompt: None,
        }
    }

    /// What is wrong with it, if anything is; no size may be above `most`.
    pub fn problem(&self, most: usize) -> Option<String> {
        let repeated = (1..self.pooling.len()).any(|i| self.pooling[..i].contains(&self.pooling[i]));
        if self.pooling.is_empty() || repeated {
            return Some("pooling has each way at most once, and at least one".into());
        }
        if self.dense.len() > MOST_DENSE {
            return Some(format!("{} dense layers, at most {MOST_DENSE}", self.dense.len()));
        }
        if let Some(prompt) = self.prompt.as_ref().filter(|prompt| prompt.len() > MOST_PROMPT) {
            return Some(format!("a prompt of {} bytes, at most {MOST_PROMPT}", prompt.len()));
        }
        let mut sizes = self.dense.iter().map(|dense| dense.size).chain(self.max_tokens);
        let wrong = sizes.find(|size| !(1..=most).contains(size));
        wrong.map(|size| format!("a size of {size}, must be 1 to {most}"))
    }

    /// Numbers of the embedding of a model with this hidden size.
    pub fn size(&self, hidden: usize) -> usize {
        let pooled = hidden.saturating_mul(self.pooling.len());
        self.dense.last().map_or(pooled, |dense| dense.size)
    }
}

/// "mean and max pooling, dense 256 tanh, normalized, at most 128 tokens", and the prompt
impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ways: Vec<&str> = self.pooling.iter().map(|pooling| pooling.name()).collect();
        write!(f, "{} pooling", ways.join(" and "))?;
        for dense in &self.dense {
            write!(f, ", dense {}", dense.size)?;
            if let Some(activation) = dense.activation {
                write!(f, " {}", activation.name())?;
            }
        }
        if self.normalize {
            f.write_str(", normalized")?;
        }
        if let Some(most) = self.max_tokens {
            write!(f, ", at most {most} tokens")?;
        }
        match &self.prompt {
            Some(prompt) => write!(f, ", prompt {prompt:?}"),
            None => Ok(()),
        }
    }
}

fn weights(config: &Config, list: &mut WeightList) {
    let Some(sentence) = &config.sentence else { return };
    if config.hidden_shift {
        list.vector(Role::HiddenShift, config.hidden_size);
    }
    let mut size = config.hidden_size.saturating_mul(sentence.pooling.len());
    for (dense, (role, ..)) in sentence.dense.iter().zip(DENSE) {
        list.linear(role, dense.size, size);
        size = dense.size;
    }
}

fn steps(config: &Config, head: &mut HeadSteps) {
    let Some(sentence) = &config.sentence else { return };
    let mut hidden = HIDDEN;
    if config.hidden_shift {
        let (input, vector) = (HIDDEN, Role::HiddenShift);
        hidden = head.step(Op::AddVector { input, vector }, "shifted");
    }
    // The value of the step that ends the head is the output.
    let several = sentence.pooling.len() > 1;
    let mut left = usize::from(several) + sentence.dense.len() + usize::from(sentence.normalize);
    let name = |own: Value, left: usize| if left == 0 { OUTPUT } else { own };
    let mut inputs = vec![];
    for &pooling in &sentence.pooling {
        let own = match pooling {
            Pooling::First => "pool_first",
            Pooling::Last => "pool_last",
            Pooling::Max => "pool_max",
            Pooling::Mean => "pool_mean",
            Pooling::MeanSqrtLen => "pool_mean_sqrt_len",
            Pooling::WeightedMean => "pool_weighted_mean",
        };
        inputs.push(head.step(Op::Pool { input: hidden, pooling }, name(own, left)));
    }
    let mut value = inputs.first().copied().unwrap_or(hidden);
    if several {
        left -= 1;
        value = head.step(Op::Concat { inputs }, name("pooled", left));
    }
    for (layer, (role, before, own)) in sentence.dense.iter().zip(DENSE) {
        left = left.saturating_sub(1);
        let op = Op::Linear {
            weight: role,
            bias: role,
            input: value,
            activation: layer.activation.map(|activation| (activation, before)),
        };
        value = head.step(op, name(own, left));
    }
    if sentence.normalize {
        value = head.step(Op::Normalize { input: value }, OUTPUT);
    }
    head.output(value, Extent::Row(sentence.size(config.hidden_size)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::tests::tiny;
    use crate::model::head::Head;
    use crate::model::network::Network;

    #[test]
    fn the_last_step_makes_the_output() {
        let dense = Dense {
            size: 5,
            activation: None,
        };
        let cases: [(&[Pooling], usize, bool, usize); 5] = [
            (&[Pooling::Mean], 0, false, 24),
            (&[Pooling::Mean, Pooling::Last], 0, false, 48),
            (&[Pooling::Max], 0, true, 24),
            (&[Pooling::First], 2, false, 5),
            (&[Pooling::First, Pooling::Mean], 1, true, 5),
        ];
        for (pooling, count, normalize, size) in cases {
            let sentence = Sentence {
                pooling: pooling.to_vec(),
                dense: vec![dense; count],
                normalize,
                ..Sentence::pooled(Pooling::Mean)
            };
            let config = Config {
                sentence: Some(sentence.clone()),
                ..tiny(Head::SentenceEmbedding)
            };
            config.check().unwrap();
            let network = Network::of(&config);
            let made = network.head.iter().filter(|step| step.output == OUTPUT).count();
            assert_eq!(made, 1, "{sentence}");
            assert_eq!(network.head.last().unwrap().output, OUTPUT, "{sentence}");
            assert_eq!(network.outputs[0].extent, Extent::Row(size), "{sentence}");
        }
    }

    #[test]
    fn what_no_file_may_say_is_refused() {
        type Spoil = fn(&mut Sentence);
        let dense = Dense {
            size: 1,
            activation: None,
        };
        let cases: [(&str, Spoil); 6] = [
            ("at least one", |s| s.pooling.clear()),
            ("at most once", |s| s.pooling = vec![Pooling::Mean; 2]),
            ("5 dense layers, at most 4", |s| s.dense = vec![s.dense[0]; 5]),
            ("a size of 0", |s| s.dense[0].size = 0),
            ("a size of 0", |s| s.max_tokens = Some(0)),
            ("a prompt of 4097 bytes", |s| s.prompt = Some("x".repeat(4097))),
        ];
        for (words, spoil) in cases {
            let mut sentence = Sentence {
                dense: vec![dense],
                ..Sentence::pooled(Pooling::Mean)
            };
            assert_eq!(sentence.problem(100), None);
            spoil(&mut sentence);
            assert!(sentence.problem(100).unwrap().contains(words), "{words}");
        }
    }
}
