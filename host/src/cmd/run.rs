//! `thimble run`: one inference on this machine, in the device's engine, answered as a person would read it.

use crate::answer::{Asked, answer};
use crate::cli::{Outcome, RunArgs};
use crate::evaluate;
use crate::inputs::Row;
use crate::subject::Subject;
use crate::text::{printable, say};
use crate::tokenise::{Encoded, Tokeniser};
use crate::tokenizer;
use anyhow::{Context, Result, bail};
use thimble_device::engine::{Engine, EngineOptions};
use thimble_shared::graph::{Config, Head};

pub fn run(args: &RunArgs) -> Result<Outcome> {
    let subject = Subject::open_with(&args.file, &args.reading.options())?;
    let config = subject.config().clone();
    let named = args.tokenizer.as_deref().map(tokenizer::named).transpose()?;
    if let Some(note) = named.as_ref().and_then(|source| source.note()) {
        say(&format!("note: {}", printable(&note)));
    }
    let tokenizer = named.as_ref().or(subject.tokenizer());
    let tokeniser = tokenizer.map(|source| source.open(&config)).transpose()?;
    let (row, encoded) = match (&args.text, &args.ids) {
        (Some(text), _) => {
            let Some(tokeniser) = &tokeniser else {
                bail!(
                    "{}: --text needs a tokenizer beside the model (tokenizer.json, spiece.model or vocab.txt); name one with --tokenizer or give --ids",
                    args.file.display()
                );
            };
            let encoded = encode(tokeniser, &config, text, &args.pair)?;
            if encoded.iter().any(|e| e.truncated) {
                say(&format!(
                    "warning: the text is longer than the model's {} positions and was cut",
                    tokeniser.max_length()
                ));
            }
            if let Some(scarce) = tokeniser.scarce() {
                say(&format!("warning: {scarce}"));
            }
            if encoded.iter().any(|e| e.unknown) {
                say("warning: a text becomes nothing but unknown tokens: the tokenizer does not know its characters");
            }
            (
                Row::of(&encoded, tokeniser.pad_id(), config.head == Head::MultipleChoice),
                encoded,
            )
        }
        (None, Some(ids)) => {
            let mut row = Row::sequence(ids);
            if config.head == Head::MultipleChoice {
                row.shape = vec![1, 1, ids.len()];
            }
            (row, vec![])
        }
        (None, None) => bail!("give --text or --ids"),
    };
    let mapped = subject.mapped();
    let engine = Engine::new(subject.image()?, EngineOptions::default())?;
    let outputs = evaluate::run(&engine, &row).with_context(|| args.file.display().to_string())?;
    mapped.iter().try_for_each(|file| file.unchanged())?;
    let answer = answer(
        &config,
        &outputs,
        Asked {
            row: &row,
            encoded: &encoded,
            tokeniser: tokeniser.as_ref(),
        },
    )?;
    if !args.json {
        return Ok(Outcome::yes(format!("{}\n", answer.to_string().trim_end())));
    }
    let mut json = serde_json::to_value(&answer)?;
    json["schema"] = 1.into();
    json["input_ids"] = row.input_ids.into();
    Ok(Outcome::yes(format!("{json:#}\n")))
}

/// One encoding, or for multiple choice one per `--pair`.
fn encode(tokeniser: &Tokeniser, config: &Config, text: &str, pairs: &[String]) -> Result<Vec<Encoded>> {
    match (config.head, pairs) {
        (Head::MultipleChoice, []) => bail!("a multiple choice model needs --pair once per choice"),
        (Head::MultipleChoice, pairs) => pairs.iter().map(|p| Ok(tokeniser.encode(text, Some(p))?)).collect(),
        (Head::QuestionAnswering, []) => {
            bail!("a question answering model needs the question as --text, the context as --pair")
        }
        (_, []) => Ok(vec![tokeniser.encode(text, None)?]),
        (_, [pair]) => Ok(vec![tokeniser.encode(text, Some(pair))?]),
        (head, _) => bail!(
            "--pair was given {} times, a model with head {} takes one",
            pairs.len(),
            head.name()
        ),
    }
}
