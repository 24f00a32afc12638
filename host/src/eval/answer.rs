//! What outputs of the desk's rows say. The answers themselves are thimble-text's, which the board prints with as well.

use crate::eval::dataset::Row;
use crate::eval::metrics::NamedOutputs;
use crate::models::tokenizer_json::{Encoded, Tokenizer};
use thimble_shared::decode::AnswerOptions;
use thimble_shared::model::Config;
use thimble_text::answer;
pub use thimble_text::answer::{Answer, AnswerError, per_token};

/// What was asked. The encodings (one, or one per choice or window) and the tokenizer give the answer its words; without them
/// it speaks in token ids.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// One row; for question answering one per window.
    pub rows: &'a [Row],
    /// In the order of the rows' sequences; empty where only token ids were given.
    pub encoded: &'a [Encoded],
    /// The model's; `None` where only token ids were given.
    pub tokenizer: Option<&'a Tokenizer>,
    /// How question answering chooses among spans.
    pub options: AnswerOptions,
}

/// Reads the answer of a model of `config` out of `outputs`, one for each of the rows asked.
///
/// # Errors
/// Any [`AnswerError`].
pub fn answer(config: &Config, outputs: &[NamedOutputs], asked: Asked) -> Result<Answer, AnswerError> {
    let rows: Vec<answer::Row> = asked.rows.iter().map(borrowed).collect();
    let outputs: Vec<answer::Outputs> = outputs.iter().map(numbers).collect();
    answer::answer(
        config,
        &outputs,
        answer::Asked {
            rows: &rows,
            encoded: asked.encoded,
            tokenizer: asked.tokenizer,
            options: asked.options,
        },
    )
}

fn borrowed(row: &Row) -> answer::Row<'_> {
    answer::Row {
        shape: &row.shape,
        ids: &row.input_ids,
        types: &row.token_type_ids,
        mask: &row.attention_mask,
    }
}

fn numbers(outputs: &NamedOutputs) -> answer::Outputs<'_> {
    let named = outputs.iter();
    named
        .map(|(name, tensor)| (name.as_str(), tensor.data.as_slice()))
        .collect()
}
