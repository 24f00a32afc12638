//! `thimble verify`: how far apart two models are, on the same inputs, in the device's engine.

use super::args::{RowArgs, SourceArgs, rows, share};
use super::outcome::Outcome;
use crate::eval::dataset;
use crate::eval::metrics::{Loss, decides};
use crate::eval::runner::{Judge, Vocabulary};
use crate::models::model_file::ModelSource;
use crate::quantize::vocabulary;
use crate::render::progress::{Bar, Watch};
use crate::render::text::{Align, remark, say, table};
use anyhow::{Error, Result, anyhow, bail};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::decode::Scoring;
use thimble_shared::model::{AnswerKind, Config};

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Compare with this model: a checkpoint, another tool's ONNX, or a thimble file
    pub reference: PathBuf,
    /// Judge this model
    pub candidate: PathBuf,
    /// Run on these inputs: JSON, CSV, TSV, lines of text or safetensors [default: made-up token sequences]
    #[arg(long, value_name = "X")]
    pub inputs: Option<PathBuf>,
    /// Use at most this many rows
    #[arg(long, value_name = "N", value_parser = rows)]
    pub rows: Option<usize>,
    /// Exit 1 when the share of equal decisions is below this, 0 to 1
    #[arg(long, value_name = "F", value_parser = share)]
    pub min_agreement: Option<f64>,
    /// Exit 1 when an output differs by more than this
    #[arg(long, value_name = "X", value_parser = difference)]
    pub max_abs: Option<f64>,
    /// Compare labels by position, whatever their names and problem type
    #[arg(long)]
    pub ignore_labels: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub rows_of: RowArgs,
    #[command(flatten)]
    pub reading: SourceArgs,
}

fn difference(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err(format!("'{text}' is not a difference; write a number of at least 0")),
    }
}

pub fn run(args: &VerifyArgs) -> Result<Outcome> {
    let reference = args.reading.open(&args.reference)?;
    let candidate = ModelSource::open(&args.candidate)?;
    let config = reference.config().clone();
    let vocabulary = vocabulary(&reference, &candidate)?;
    refuse_strangers(&config, candidate.config(), vocabulary.is_some(), args.ignore_labels)?;
    if config.pooler && !candidate.config().pooler {
        remark("note: the candidate has no pooler; pooler_output is not compared");
    }
    if args.min_agreement.is_some() && !decides(&config) {
        bail!("--min-agreement: {}; use --max-abs", decides_nothing(&config));
    }
    let shorter = Config {
        max_position_embeddings: config
            .max_position_embeddings
            .min(candidate.config().max_position_embeddings),
        ..config.clone()
    };
    let path = args.inputs.as_deref();
    let options = (args.rows_of)
        .options(("--inputs", path.is_some()))
        .map_err(Error::msg)?;
    let inputs = dataset::load_with(path, &shorter, reference.tokenizer(), args.rows, &options)?;
    inputs.read_as.iter().for_each(|form| remark(&format!("note: {form}")));
    inputs.warnings().iter().for_each(|w| say(&format!("warning: {w}")));
    if inputs.truncated > 0 {
        say(&format!(
            "warning: {} texts were longer than the model's positions and were cut",
            inputs.truncated
        ));
    }
    let rows = inputs.rows.len();
    let mapped = [reference.mapped(), candidate.mapped()];
    let judge = Judge::new(&config, &reference.image()?, inputs.rows, vocabulary.as_ref());
    let bar = Mutex::new(Bar::counter("comparing", rows));
    let row_done = || bar.lock().unwrap_or_else(PoisonError::into_inner).step("rows");
    let loss = judge.loss_told(&candidate.image()?, &row_done)?;
    drop(bar);
    mapped.iter().flatten().try_for_each(|file| file.unchanged())?;
    let mut reasons = Vec::new();
    if let (Some(least), share) = (args.min_agreement, loss.agreement.unwrap_or(0.0))
        && share < least
    {
        reasons.push(format!("agreement {share:.4} is below {least}"));
    }
    for (name, _) in loss.outputs.iter().filter(|(_, d)| d.max_abs.is_infinite()) {
        reasons.push(format!("the candidate's {name} holds NaN or an infinity"));
    }
    if let Some(most) = args.max_abs {
        for (name, d) in loss.outputs.iter().filter(|(_, d)| d.max_abs > most) {
            reasons.push(format!("{name} differs by {:.3e}, more than {most:e}", d.max_abs));
        }
    }
    let text = if args.json {
        let mut json = serde_json::to_value(&loss)?;
        json["schema"] = ANSWER_SCHEMA.into();
        json["calibrated"] = inputs.given.into();
        json["reasons"] = reasons.clone().into();
        format!("{json:#}\n")
    } else {
        let no = reasons.iter().map(|r| format!("no: {r}\n")).collect::<String>();
        describe(&loss) + &no
    };
    Ok(if reasons.is_empty() {
        Outcome::yes(text)
    } else {
        Outcome::no(text)
    })
}

/// Why no agreement can be asked of a model.
pub fn decides_nothing(config: &Config) -> String {
    if config.predicts_values() {
        "the model gives values and decides nothing".into()
    } else {
        format!("a model with head {} decides nothing", config.head.name())
    }
}

/// How the candidate's tokens are called by the reference, where its vocabulary was cut.
fn vocabulary(reference: &ModelSource, candidate: &ModelSource) -> Result<Option<Vocabulary>> {
    let sizes = (reference.config().vocab_size, candidate.config().vocab_size);
    match (reference.tokenizer(), candidate.tokenizer()) {
        (Some(a), Some(b)) if sizes.1 < sizes.0 => Ok(vocabulary::between(a, b, sizes)?),
        _ => Ok(None),
    }
}

/// Models are compared on the same inputs, output by output: what both must have in common.
fn refuse_strangers(a: &Config, b: &Config, cut: bool, ignore_labels: bool) -> Result<()> {
    let differs = |what: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
        anyhow!("the models cannot be compared: {what} is {a:?} in the reference and {b:?} in the candidate")
    };
    if a.head != b.head {
        return Err(differs("the head", &a.head.name(), &b.head.name()));
    }
    if a.labels.len() != b.labels.len() {
        return Err(differs("the number of labels", &a.labels.len(), &b.labels.len()));
    }
    if a.labels != b.labels && !ignore_labels {
        let ask = "--ignore-labels compares them in their order";
        return Err(anyhow!(
            "{}; {ask}",
            differs("the list of labels", &a.labels, &b.labels)
        ));
    }
    let (ours, theirs) = (Scoring::of(a), Scoring::of(b));
    if a.head.answer() == AnswerKind::Labels && ours != theirs && !ignore_labels {
        let ask = "set the same problem_type in both, or compare the bare outputs with --ignore-labels";
        return Err(anyhow!(
            "{}; {ask}",
            differs("the score of a label", &ours.name(), &theirs.name())
        ));
    }
    let embeddings = [a, b].map(|c| c.sentence.as_ref().map(|sentence| sentence.size(c.hidden_size)));
    if embeddings[0] != embeddings[1] {
        let [a, b] = embeddings.map(Option::unwrap_or_default);
        return Err(differs("the size of embeddings", &a, &b));
    }
    let sizes = [
        ("vocab_size", a.vocab_size, b.vocab_size),
        ("hidden_size", a.hidden_size, b.hidden_size),
        ("type_vocab_size", a.type_vocab_size, b.type_vocab_size),
    ];
    match sizes
        .into_iter()
        .find(|(what, a, b)| a != b && !(cut && *what == "vocab_size"))
    {
        Some((what, a, b)) => Err(differs(what, &a, &b)),
        None => Ok(()),
    }
}

/// The loss as a person reads it.
pub fn describe(loss: &Loss) -> String {
    let mut text = String::new();
    if let (Some(agreement), Some(kl)) = (loss.agreement, loss.kl) {
        text.push_str(&format!(
            "agreement {:.2} % of {} decisions{}, KL {kl:.3e} nats\n",
            agreement * 100.0,
            loss.decisions,
            interval(loss.agreement_interval)
        ));
    }
    if let Some(top5) = loss.top5 {
        text.push_str(&format!(
            "top 5 overlap {:.2} % at {} {}\n",
            top5.overlap * 100.0,
            top5.positions,
            if top5.at_blanks {
                "blanks"
            } else {
                "positions, all that are real"
            }
        ));
    }
    if let Some(f1) = loss.span_f1 {
        text.push_str(&format!("answer spans overlap with F1 {f1:.4}\n"));
    }
    if let Some(order) = loss.pair_order {
        text.push_str(&format!(
            "rank correlation {:.6} of the cosines of {} pairs of inputs, which differ by {:.3e} at most\n",
            order.spearman, order.pairs, order.max_cosine_difference
        ));
    }
    if let (Some(before), Some(after)) = (loss.reference_accuracy, loss.accuracy) {
        text.push_str(&format!(
            "accuracy {:.2} %{}, the reference's {:.2} %\n",
            after * 100.0,
            interval(loss.accuracy_interval),
            before * 100.0
        ));
    }
    if let (Some(before), Some(after)) = (loss.reference_squared_error, loss.squared_error) {
        text.push_str(&format!(
            "mean squared error against the given values {after:.6}, the reference's {before:.6}\n"
        ));
    }
    let rows: Vec<Vec<String>> = loss
        .outputs
        .iter()
        .map(|(name, d)| {
            vec![
                name.clone(),
                format!("{:.3e}", d.max_abs),
                format!("{:.3e}", d.plain()),
                format!("{:.3e}", d.relative()),
                format!("{:.7}", d.cosine),
            ]
        })
        .collect();
    let aligns = [Align::Left, Align::Right, Align::Right, Align::Right, Align::Right];
    let heads = ["output", "max |Δ|", "RMS / std", "RMS / channel std", "cosine"];
    text + &table(&heads, &aligns, &rows)
}

fn interval(interval: Option<(f64, f64)>) -> String {
    interval.map_or(String::new(), |(low, high)| {
        format!(" (95 %: {:.2} to {:.2} %)", low * 100.0, high * 100.0)
    })
}
