//! How the hidden states of a text become its embedding: what sentence-transformers' modules.json says, as a configuration holds it.

use super::activation::Activation;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What sentence-transformers raises a divisor to at least.
pub const LEAST_COUNT: f32 = 1e-9;
/// What it puts in place of a token that does not count, before the largest is taken.
pub const LEAST_TOKEN: f32 = -1e9;
/// What PyTorch raises a length to at least before it divides by it.
pub const LEAST_LENGTH: f32 = 1e-12;

/// How the tokens of a row become one vector, as sentence-transformers' `Pooling` does it. Only tokens whose mask is 1 count, and
/// means divide by at least [`LEAST_COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first token, whatever its mask.
    First,
    /// The last token that counts; 0 where there is none.
    Last,
    /// The largest number of each channel; [`LEAST_TOKEN`] where no token counts.
    Max,
    /// The mean.
    Mean,
    /// The sum over the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean in which the token at position `i`, from 0, weighs `i + 1`.
    WeightedMean,
}

impl Pooling {
    /// All of them.
    pub const ALL: [Pooling; 6] = [
        Pooling::First,
        Pooling::Last,
        Pooling::Max,
        Pooling::Mean,
        Pooling::MeanSqrtLen,
        Pooling::WeightedMean,
    ];

    /// sentence-transformers' name.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::First => "cls",
            Pooling::Last => "lasttoken",
            Pooling::Max => "max",
            Pooling::Mean => "mean",
            Pooling::MeanSqrtLen => "mean_sqrt_len_tokens",
            Pooling::WeightedMean => "weightedmean",
        }
    }

    /// Whether it reads the mask.
    pub fn reads_mask(self) -> bool {
        self != Pooling::First
    }
}

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

impl Sentence {
    /// The version of the `thimble.graph` text that brought it.
    pub const SINCE: u32 = 3;

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

#[cfg(test)]
mod tests {
    use super::*;

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
