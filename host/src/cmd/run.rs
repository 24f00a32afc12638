//! `thimble run`: one inference on this machine, in the device's engine, answered as a person would read it.

use super::args::SourceArgs;
use super::outcome::Outcome;
use crate::eval::answer::{Answer, Asked, answer, per_token};
use crate::eval::dataset::Row;
use crate::eval::runner;
use crate::models::tokenizer_json::{Encoded, Tokenizer};
use crate::render::listener::listener;
use crate::render::text::{printable, say};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use thimble_device::engine::{Engine, EngineOptions};
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::decode::{AnswerOptions, MAX_ANSWER};
use thimble_shared::files;
use thimble_shared::model::{Config, Head};
use thimble_text::questions;

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Run this model: a thimble file, a checkpoint, or another tool's ONNX
    pub file: PathBuf,
    /// Run on this text; a masked LM fills its mask tokens; given several times, sentence embeddings are compared
    #[arg(long, conflicts_with = "ids")]
    pub text: Vec<String>,
    /// Run on every line of this file by itself, - for stdin; blank lines are passed over
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "ids"])]
    pub texts: Option<PathBuf>,
    /// Add a second text: the context of a question; for multiple choice, give it once per choice
    #[arg(long, conflicts_with = "ids")]
    pub pair: Vec<String>,
    /// Run on these token ids, separated by commas
    #[arg(long, value_parser = ids)]
    pub ids: Option<TokenIds>,
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

/// What `--ids` says: one sequence.
#[derive(Clone, Debug)]
pub struct TokenIds(Vec<i64>);

fn ids(text: &str) -> std::result::Result<TokenIds, String> {
    let ids = text.split(',').map(|id| id.trim().parse::<i64>());
    let ids = ids.collect::<std::result::Result<Vec<_>, _>>();
    ids.map(TokenIds)
        .map_err(|_| "token ids are whole numbers with commas between, like 2,17,3".into())
}

/// What is asked, the engine that computes it, and how its answer is printed.
struct Asking<'a> {
    args: &'a RunArgs,
    config: &'a Config,
    engine: &'a Engine,
    tokenizer: Option<&'a Tokenizer>,
}

impl Asking<'_> {
    /// The answer to rows, which encodings of texts belong to or none.
    fn answer(&self, rows: &[Row], encoded: &[Encoded]) -> Result<Answer> {
        let outputs = rows.iter().map(|row| runner::run(self.engine, row));
        let outputs = outputs
            .collect::<std::result::Result<Vec<_>, _>>()
            .with_context(|| self.args.file.display().to_string())?;
        let asked = Asked {
            rows,
            encoded,
            tokenizer: self.tokenizer,
            options: AnswerOptions {
                max_answer: self.args.max_answer.map_or(MAX_ANSWER, |n| n as usize),
                allow_none: self.args.allow_no_answer,
            },
        };
        Ok(answer(self.config, &outputs, asked)?)
    }

    /// The answer to texts.
    fn texts(&self, given: &[String]) -> Result<(Answer, Vec<Row>)> {
        let Some(tokenizer) = self.tokenizer else {
            bail!(
                "{}: a text needs a tokenizer beside the model (tokenizer.json, spiece.model or vocab.txt); name one with --tokenizer or give --ids",
                self.args.file.display()
            );
        };
        let (rows, encoded) = texts(tokenizer, self.config, given, &self.args.pair)?;
        Ok((self.answer(&rows, &encoded)?, rows))
    }

    fn text(&self, answer: &Answer) -> String {
        match self.args.per_token {
            true => per_token(answer),
            false => answer.to_string(),
        }
    }

    fn json(&self, answer: &Answer, rows: &[Row]) -> Result<Value> {
        let mut json = serde_json::to_value(answer)?;
        json["schema"] = ANSWER_SCHEMA.into();
        json["input_ids"] = match rows {
            [row] => row.input_ids.clone().into(),
            windows => windows
                .iter()
                .map(|row| row.input_ids.clone())
                .collect::<Vec<_>>()
                .into(),
        };
        Ok(json)
    }

    /// The answers to a file's lines, each printed when it is known; handed back where nothing may be printed.
    fn lines(&self, path: &Path) -> Result<String> {
        let mut kept = String::new();
        for line in lines(path)? {
            let line = line.with_context(|| format!("--texts {}", path.display()))?;
            let (answer, rows) = self.texts(std::slice::from_ref(&line))?;
            let said = match self.args.json {
                true => format!("{}\n", self.json(&answer, &rows)?),
                false => {
                    let text = self.text(&answer);
                    let indented: String = text.trim_end().lines().map(|line| format!("  {line}\n")).collect();
                    format!("{}\n{indented}", printable(&line))
                }
            };
            if listener().is_some() {
                kept += &said;
                continue;
            }
            let mut out = std::io::stdout().lock();
            match out.write_all(said.as_bytes()).and_then(|()| out.flush()) {
                // Whoever read the answers has seen enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                written => written.context("stdout")?,
            }
        }
        Ok(kept)
    }
}

/// The lines of a file or of stdin that are not blank.
fn lines(path: &Path) -> Result<Box<dyn Iterator<Item = std::io::Result<String>>>> {
    let from: Box<dyn BufRead> = match path.as_os_str() == "-" {
        true => Box::new(BufReader::new(std::io::stdin())),
        false => {
            let file = files::open(path).with_context(|| format!("--texts {}", path.display()))?;
            Box::new(BufReader::new(file))
        }
    };
    let said = |line: &std::io::Result<String>| line.as_ref().map_or(true, |line| !line.trim().is_empty());
    Ok(Box::new(from.lines().filter(said)))
}

pub fn run(args: &RunArgs) -> Result<Outcome> {
    if args.text.is_empty() && args.ids.is_none() && args.texts.is_none() {
        bail!("say what to run on: --text TEXT, --texts FILE with a text a line (- for stdin), or --ids 2,17,3");
    }
    if args.text.is_empty() && args.texts.is_none() && !args.pair.is_empty() {
        bail!("--pair goes with --text or --texts");
    }
    let source = args.reading.open(&args.file)?;
    let config = source.config().clone();
    refuse_what_says_nothing(args, config.head)?;
    let tokenizer = source.tokenizer().map(|source| source.open(&config)).transpose()?;
    if let Some(scarce) = tokenizer.as_ref().and_then(Tokenizer::scarce)
        && args.ids.is_none()
    {
        say(&format!("warning: {scarce}"));
    }
    let mapped = source.mapped();
    let engine = Engine::new(source.image()?, EngineOptions::default())?;
    let asking = Asking {
        args,
        config: &config,
        engine: &engine,
        tokenizer: tokenizer.as_ref(),
    };
    if let Some(path) = &args.texts {
        let text = asking.lines(path)?;
        mapped.iter().try_for_each(|file| file.unchanged())?;
        return Ok(Outcome::yes(text));
    }
    let (answer, rows) = match &args.ids {
        Some(TokenIds(ids)) => {
            let mut row = Row::sequence(ids);
            if config.head.takes_choices() {
                row.shape = vec![1, 1, ids.len()];
            }
            let rows = vec![row];
            (asking.answer(&rows, &[])?, rows)
        }
        None => asking.texts(&args.text)?,
    };
    mapped.iter().try_for_each(|file| file.unchanged())?;
    Ok(Outcome::yes(match args.json {
        true => format!("{:#}\n", asking.json(&answer, &rows)?),
        false => format!("{}\n", asking.text(&answer).trim_end()),
    }))
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
    let groups = questions::rows(tokenizer, config, given, pairs)?;
    for warning in questions::warnings(tokenizer, &groups) {
        say(&format!("warning: {warning}"));
    }
    let row = |group: &Vec<Encoded>| Row::of(group, tokenizer.pad_id(), config.head.takes_choices());
    Ok((groups.iter().map(row).collect(), groups.into_iter().flatten().collect()))
}
