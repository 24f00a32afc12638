//! The texts of a command line as what is run: one group of encodings a row, the choices of a question in one group, a long
//! context in one group a window. What does not go together is refused in the words of the options `--text` and `--pair`.

use crate::{Encoded, TokenizeError, Tokenizer};
use thimble_shared::model::{AnswerKind, Config};

/// Why texts are no input of a model.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// A text could not be split.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// Several texts for a model that takes one; how many, and the head's name.
    #[error("--text is given {0} times; only sentence embeddings are compared, this model's head is {1}")]
    Texts(usize, &'static str),
    /// Pairs beside several texts; how many texts.
    #[error("--pair goes with one --text, {0} are given")]
    PairOfSeveral(usize),
    /// A multiple choice without choices.
    #[error("a multiple choice model needs --pair once per choice")]
    NoChoices,
    /// A question without a context.
    #[error("a question answering model needs the question as --text, the context as --pair")]
    NoContext,
    /// More pairs than the head takes; how many, and the head's name.
    #[error("--pair was given {0} times, a model with head {1} takes one")]
    Pairs(usize, &'static str),
    /// No text at all.
    #[error("no --text was given")]
    NoText,
}

/// One group of encodings for each row that is run.
///
/// # Errors
/// Any [`QuestionError`].
pub fn rows(
    tokenizer: &Tokenizer,
    config: &Config,
    texts: &[String],
    pairs: &[String],
) -> Result<Vec<Vec<Encoded>>, QuestionError> {
    let (answer, name) = (config.head.answer(), config.head.name());
    let text = match texts {
        [] => return Err(QuestionError::NoText),
        [text] => text,
        several if answer != AnswerKind::Embedding => return Err(QuestionError::Texts(several.len(), name)),
        several if !pairs.is_empty() => return Err(QuestionError::PairOfSeveral(several.len())),
        several => {
            let encoded = several.iter().map(|text| Ok(vec![tokenizer.encode(text, None)?]));
            return encoded.collect();
        }
    };
    match (answer, pairs) {
        (AnswerKind::Span, [context]) => {
            let windows = tokenizer.windows(text, context)?;
            Ok(windows.into_iter().map(|window| vec![window]).collect())
        }
        (AnswerKind::Choice, []) => Err(QuestionError::NoChoices),
        (AnswerKind::Choice, pairs) => {
            let choices = pairs.iter().map(|pair| Ok(tokenizer.encode(text, Some(pair))?));
            Ok(vec![choices.collect::<Result<Vec<_>, QuestionError>>()?])
        }
        (AnswerKind::Span, []) => Err(QuestionError::NoContext),
        (_, []) => Ok(vec![vec![tokenizer.encode(text, None)?]]),
        (_, [pair]) => Ok(vec![vec![tokenizer.encode(text, Some(pair))?]]),
        (_, pairs) => Err(QuestionError::Pairs(pairs.len(), name)),
    }
}

/// What a user is warned of: texts that were cut, those that the tokenizer does not know, and those that are none.
pub fn warnings(tokenizer: &Tokenizer, rows: &[Vec<Encoded>]) -> Vec<String> {
    let mut warnings = Vec::new();
    if rows.iter().flatten().any(|e| e.truncated) {
        warnings.push(format!(
            "the text is longer than the model's {} positions and was cut",
            tokenizer.max_length()
        ));
    }
    if rows.iter().flatten().any(|e| e.empty) {
        warnings.push("a text is empty or blank: the answer is to special tokens alone".to_string());
    }
    if rows.iter().flatten().any(|e| e.unknown) {
        warnings
            .push("a text becomes nothing but unknown tokens: the tokenizer does not know its characters".to_string());
    }
    warnings
}
