//! `run` on texts: the tokenizer beside the model splits them, the engine computes them, and what is printed is what
//! `thimble run` prints, by the same code. In: a session and texts; out: one answer, or one for each line of a file.

use std::io::{self, Write};
use std::path::Path;

use super::args::TextOptions;
use super::ask::indented;
use super::error::CliError;
use super::texts_file::Texts;
use crate::answers::{Caller, text};
use crate::log;
use crate::session::{Session, SessionError};
use crate::{Input, Outputs};
use serde_json::{Value, json};
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::decode::AnswerOptions;
use thimble_shared::terminal::printable;
use thimble_text::answer::{Answer, Asked, Row, answer};
use thimble_text::{Encoded, Tokenizer, questions, tokenizer_beside};

/// The answer to what the options give. Those of a file's lines are printed as they come.
///
/// # Errors
/// Where there is no tokenizer, texts and model do not go together, or a file cannot be read.
pub fn run(session: &Session, options: &TextOptions, named: Option<&Path>, json: bool) -> Result<String, CliError> {
    let (tokenizer, notes) = text::tokenizer(session, named, Caller::Server)?;
    notes.iter().for_each(|note| log::line(note));
    let Some(tokenizer) = tokenizer else {
        return Err(CliError::NoTokenizer {
            file: session.file.display().to_string(),
            beside: tokenizer_beside(&session.file).display().to_string(),
        });
    };
    let Some(file) = &options.file else {
        let answer = ask(session, &tokenizer, &options.text, &options.pair)?;
        return Ok(match json {
            true => format!("{:#}\n", answer.json()?),
            false => answer.text(),
        });
    };
    let mut lines = Texts::open(file)?;
    let mut out = io::stdout().lock();
    while let Some(text) = lines.next()? {
        let answer = ask(session, &tokenizer, std::slice::from_ref(&text), &options.pair)?;
        let said = match json {
            true => format!("{}\n", answer.json()?),
            false => format!("{}\n{}", printable(&text), indented(&answer.text())),
        };
        match out.write_all(said.as_bytes()).and_then(|()| out.flush()) {
            // Whoever read the answers has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.map_err(CliError::Output)?,
        }
    }
    Ok(String::new())
}

/// One answer, and the ids it was computed from.
struct Said {
    answer: Answer,
    ids: Vec<Vec<i64>>,
}

impl Said {
    fn text(&self) -> String {
        format!("{}\n", self.answer.to_string().trim_end())
    }

    /// As `thimble run --json` prints it.
    fn json(&self) -> Result<Value, CliError> {
        let mut json = serde_json::to_value(&self.answer).map_err(|e| CliError::Output(e.into()))?;
        json["schema"] = ANSWER_SCHEMA.into();
        json["input_ids"] = match self.ids.as_slice() {
            [ids] => json!(ids),
            windows => json!(windows),
        };
        Ok(json)
    }
}

fn ask(session: &Session, tokenizer: &Tokenizer, texts: &[String], pairs: &[String]) -> Result<Said, CliError> {
    let config = session.engine.config();
    let groups = questions::rows(tokenizer, config, texts, pairs)?;
    for warning in questions::warnings(tokenizer, &groups) {
        log::line(&format!("warning: {warning}"));
    }
    let choices = config.head.takes_choices();
    let inputs: Vec<Input> = groups
        .iter()
        .map(|group| input(group, tokenizer.pad_id(), choices))
        .collect();
    let outputs = inputs.iter().map(|input| session.run(input));
    let outputs = outputs.collect::<Result<Vec<Outputs>, SessionError>>()?;
    session.unchanged()?;
    let rows: Vec<Row> = inputs.iter().map(row).collect();
    let named: Vec<_> = outputs.iter().map(numbers).collect();
    let encoded: Vec<Encoded> = groups.into_iter().flatten().collect();
    let asked = Asked {
        rows: &rows,
        encoded: &encoded,
        tokenizer: Some(tokenizer),
        options: AnswerOptions::default(),
    };
    let answer = answer(config, &named, asked).map_err(CliError::Answer)?;
    Ok(Said {
        answer,
        ids: inputs.into_iter().map(|input| input.input_ids).collect(),
    })
}

/// One sequence, or a question's choices padded to the longest.
fn input(group: &[Encoded], pad: i64, choices: bool) -> Input {
    let seq = group.iter().map(|e| e.ids.len()).max().unwrap_or(0);
    let mut input = Input {
        shape: match choices {
            true => vec![1, group.len(), seq],
            false => vec![1, seq],
        },
        input_ids: Vec::new(),
        attention_mask: None,
        token_type_ids: None,
    };
    let (mut types, mut mask) = (Vec::new(), Vec::new());
    for one in group {
        let padding = std::iter::repeat_n(0, seq - one.ids.len());
        input
            .input_ids
            .extend(one.ids.iter().copied().chain(padding.clone().map(|_| pad)));
        types.extend(one.types.iter().copied().chain(padding.clone()));
        mask.extend(std::iter::repeat_n(1, one.ids.len()).chain(padding));
    }
    (input.token_type_ids, input.attention_mask) = (Some(types), Some(mask));
    input
}

fn row(input: &Input) -> Row<'_> {
    Row {
        shape: &input.shape,
        ids: &input.input_ids,
        types: input.token_type_ids.as_deref().unwrap_or_default(),
        mask: input.attention_mask.as_deref().unwrap_or_default(),
    }
}

fn numbers(outputs: &Outputs) -> thimble_text::answer::Outputs<'_> {
    outputs
        .0
        .iter()
        .map(|(name, t)| (name.as_str(), t.data.as_slice()))
        .collect()
}
