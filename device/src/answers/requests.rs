//! What is asked of a model, built field by field or read from JSON.

use super::request;
use super::request_json::{List, Raw};

/// One request: token ids, or a text, and what of the answer is wanted. It is checked when it is answered.
///
/// ```
/// use thimble_device::answers::Request;
///
/// let sentence = Request::text("small boards");
/// let question = Request::text("Who stalled?").with_pair("The mill, when the water froze.").max_answer(8);
/// let ids = Request::ids([2, 17, 9, 3]).with_types([0, 0, 1, 1]);
/// let same = Request::json(r#"{"ids": [2, 17, 9, 3], "types": [0, 0, 1, 1]}"#);
/// ```
#[derive(Clone, Debug)]
pub struct Request {
    /// The fields, or what is wrong with the JSON they were to be read from.
    pub(super) raw: Result<Box<Raw>, String>,
}

impl Request {
    fn with(mut self, set: impl FnOnce(&mut Raw)) -> Request {
        if let Ok(raw) = &mut self.raw {
            set(raw);
        }
        self
    }

    fn empty() -> Request {
        Request {
            raw: Ok(Box::default()),
        }
    }

    /// A text: special tokens are the tokenizer's affair. For question answering it is the question.
    pub fn text(text: impl Into<String>) -> Request {
        Request::empty().with(|raw| raw.text = Some(text.into()))
    }

    /// One sequence of token ids, special tokens included.
    pub fn ids(ids: impl Into<Vec<i64>>) -> Request {
        Request::empty().with(|raw| raw.ids = Some(List::Numbers(ids.into())))
    }

    /// Several sequences of token ids, one a choice, for multiple choice.
    pub fn choices(rows: impl Into<Vec<Vec<i64>>>) -> Request {
        Request::empty().with(|raw| raw.choices = Some(List::Rows(rows.into())))
    }

    /// A request in the JSON of docs/serve.md, without `op`. Its `id` is not repeated in the answer.
    pub fn json(json: &str) -> Request {
        Request {
            raw: request::read(json.as_bytes()).1.map(Box::new),
        }
    }

    /// The second text; for question answering the context.
    pub fn with_pair(self, pair: impl Into<String>) -> Request {
        self.with(|raw| raw.pair = Some(pair.into()))
    }

    /// The choices as texts, each a pair of the text.
    pub fn with_choices(self, choices: impl Into<Vec<String>>) -> Request {
        self.with(|raw| raw.choices = Some(List::Texts(choices.into())))
    }

    /// The token types of the ids, as many values.
    pub fn with_types(self, types: impl Into<Vec<i64>>) -> Request {
        self.with(|raw| raw.types = Some(List::Numbers(types.into())))
    }

    /// The positions of a head with one answer a token; without it all, and of a masked LM with a text its mask tokens.
    pub fn at(self, positions: impl Into<Vec<i64>>) -> Request {
        self.with(|raw| raw.at = Some(List::Numbers(positions.into())))
    }

    /// Candidates for each position of a masked LM (5).
    pub fn top(self, candidates: u32) -> Request {
        self.with(|raw| raw.top = Some(candidates))
    }

    /// Also the outputs that have a vocabulary or a hidden state for each token.
    pub fn full(self) -> Request {
        self.with(|raw| raw.full = true)
    }

    /// Most tokens of the answer to a question.
    pub fn max_answer(self, tokens: u32) -> Request {
        self.with(|raw| raw.max_answer = Some(tokens))
    }

    /// Allows the empty answer to a question.
    pub fn allow_no_answer(self) -> Request {
        self.with(|raw| raw.no_answer = true)
    }
}
