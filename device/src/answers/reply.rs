//! What comes of a request: its line of JSON, and the decision as values.

use super::lines::Best;

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    json: String,
    best: Best,
    embedding: Option<Vec<f32>>,
}

impl Reply {
    pub(super) fn new(mut line: Vec<u8>, best: Best, embedding: Option<Vec<f32>>) -> Reply {
        line.truncate(line.trim_ascii_end().len());
        Reply {
            // It is serde's own writing, which is UTF-8.
            json: String::from_utf8(line).unwrap_or_default(),
            best,
            embedding,
        }
    }

    /// The answer as one JSON object: the fields that docs/serve.md lists, without `id` and `ms`. A number that is not finite is
    /// null.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The answer in a word: the label of a classifier (of several that may hold the likeliest), the name of a regression's one
    /// value, the text that answers a question, or the likeliest token for the first mask token of a text. `None` where the head
    /// has no such word; for multiple choice see [`Reply::index`].
    pub fn label(&self) -> Option<&str> {
        self.best.label.as_deref()
    }

    /// The number of that label or token, or of the choice.
    pub fn index(&self) -> Option<usize> {
        self.best.index
    }

    /// The probability of the answer as the pipelines of transformers give it, or the value of a regression.
    pub fn score(&self) -> Option<f64> {
        self.best.score
    }

    /// The embedding of a sentence encoder.
    pub fn embedding(&self) -> Option<&[f32]> {
        self.embedding.as_deref()
    }
}
