//! `thimble run`: one inference on this machine, in the device's engine, answered as a person would read it.

use super::args::SourceArgs;
use super::outcome::Outcome;
use crate::eval::answer::{Asked, answer, per_token};
use crate::eval::dataset::Row;
use crate::eval::runner;
use crate::models::model_file::ModelSource;
use crate::models::tokenizer;
use crate::models::tokenizer_json::{Encoded, Tokenizer};
use crate::render::text::{printable, remark, say};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use thimble_device::engine::{Engine, EngineOptions};
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::decode::{AnswerOptions, MAX_ANSWER};
use thimble_shared::model::{Config, Head};
use thimble_text::questions;

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Run this model: a thimble file, a checkpoint, or another tool's ONNX
    pub file: PathBuf,
    /// Run on this text; a masked LM fills its mask tokens; given several times, sentence embeddings are compared
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    pub text: Vec<String>,
    /// Add a second text: the context of a question; for multiple choice, give it once per choice
    #[arg(long, requires = "text")]
    pub pair: Vec<String>,
    /// Run on these token ids, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub ids: Option<Vec<i64>>,
    /// Use this tokenizer.json, spiece.model, vocab.txt or their folder instead of the tokenizer beside the model
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help = max_answer_help())]
    pub max_answer: Option<u32>,
    /// Allow the empty answer, for models trained on unanswerable questions (SQuAD 2.0)
    #[arg(long)]
    pub allow_no_answer: bool,
    /// Print the label of every token instead of spans
    #[arg(long)]
    pub per_token: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reading: SourceArgs,
}

fn max_answer_help() -> String {
    format!("Limit an answer to a question to this many tokens [default: {MAX_ANSWER}]")
}

pub fn run(args: &RunArgs) -> Result<Outcome> {
    let source = ModelSource::open_with(&args.file, &args.reading.options())?;
    let config = source.config().clone();
    refuse_what_says_nothing(args, config.head)?;
    let named = args.tokenizer.as_deref().map(tokenizer::named).transpose()?;
    if let Some(note) = named.as_ref().and_then(|source| source.note()) {
        remark(&format!("note: {}", printable(&note)));
    }
    let tokenizer = named.as_ref().or(source.tokenizer());
    let tokenizer = tokenizer.map(|source| source.open(&config)).transpose()?;
    let (rows, encoded) = match (args.text.as_slice(), &args.ids) {
        ([], Some(ids)) => {
            let mut row = Row::sequence(ids);
            if config.head.takes_choices() {
                row.shape = vec![1, 1, ids.len()];
            }
            (vec![row], vec![])
        }
        ([], None) => bail!("give --text or --ids"),
        (given, _) => {
            let Some(tokenizer) = &tokenizer else {
                bail!(
                    "{}: --text needs a tokenizer beside the model (tokenizer.json, spiece.model or vocab.txt); name one with --tokenizer or give --ids",
                    args.file.display()
                );
            };
            texts(tokenizer, &config, given, &args.pair)?
        }
    };
    let mapped = source.mapped();
    let engine = Engine::new(source.image()?, EngineOptions::default())?;
    let outputs = rows.iter().map(|row| runner::run(&engine, row));
    let outputs = outputs
        .collect::<std::result::Result<Vec<_>, _>>()
        .with_context(|| args.file.display().to_string())?;
    mapped.iter().try_for_each(|file| file.unchanged())?;
    let answer = answer(
        &config,
        &outputs,
        Asked {
            rows: &rows,
            encoded: &encoded,
            tokenizer: tokenizer.as_ref(),
            options: AnswerOptions {
                max_answer: args.max_answer.map_or(MAX_ANSWER, |n| n as usize),
                allow_none: args.allow_no_answer,
            },
        },
    )?;
    if !args.json {
        let text = if args.per_token {
            per_token(&answer)
        } else {
            answer.to_string()
        };
        return Ok(Outcome::yes(format!("{}\n", text.trim_end())));
    }
    let mut json = serde_json::to_value(&answer)?;
    json["schema"] = ANSWER_SCHEMA.into();
    json["input_ids"] = match rows.as_slice() {
        [row] => row.input_ids.clone().into(),
        windows => windows
            .iter()
            .map(|row| row.input_ids.clone())
            .collect::<Vec<_>>()
            .into(),
    };
    Ok(Outcome::yes(format!("{json:#}\n")))
}

/// Options that would do nothing for a model's head.
fn refuse_what_says_nothing(args: &RunArgs, head: Head) -> Result<()> {
    let wrong = [
        ("--max-answer", args.max_answer.is_some(), Head::QuestionAnswering),
        ("--allow-no-answer", args.allow_no_answer, Head::QuestionAnswering),
        ("--per-token", args.per_token, Head::TokenClassification),
    ];
    match wrong
        .into_iter()
        .find(|(_, given, wanted)| *given && wanted.answer() != head.answer())
    {
        Some((option, _, wanted)) => bail!(
            "{option} is for {}, this model's head is {}",
            wanted.name(),
            head.name()
        ),
        None => Ok(()),
    }
}

/// The rows to run, one, one per window or one per text, and their encodings.
fn texts(
    tokenizer: &Tokenizer,
    config: &Config,
    given: &[String],
    pairs: &[String],
) -> Result<(Vec<Row>, Vec<Encoded>)> {
    if let Some(scarce) = tokenizer.scarce() {
        say(&format!("warning: {scarce}"));
    }
    let groups = questions::rows(tokenizer, config, given, pairs)?;
    for warning in questions::warnings(tokenizer, &groups) {
        say(&format!("warning: {warning}"));
    }
    let row = |group: &Vec<Encoded>| Row::of(group, tokenizer.pad_id(), config.head.takes_choices());
    Ok((groups.iter().map(row).collect(), groups.into_iter().flatten().collect()))
}
