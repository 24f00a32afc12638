//! `thimble shrink`: the ONNX file with the least measured loss under a budget, or the whole frontier of bytes against loss.

mod attention;
mod beside;
mod bounds;
mod output;
mod rows;

use super::args::{self, OnnxArgs, RowArgs, SourceArgs, bytes, format, milliseconds, ram, share};
use super::outcome::Outcome;
use crate::boards::profiles;
use crate::budget::answer::{Answer, NOTHING_FINITE};
use crate::budget::chart;
use crate::budget::integer_arithmetic::{Prefer, Trade};
use crate::budget::loss_cache;
use crate::budget::memory_need;
use crate::budget::preparations::{PreparationStep, PrepareOptions, STEPS};
use crate::budget::question::Question;
use crate::budget::sensitivity::Search;
use crate::budget::sizes::Sizes;
use crate::budget::solver::Plan;
use crate::cmd::export::{self, Written};
use crate::cmd::verify;
use crate::eval::metrics::{Objective, decides};
use crate::fs::atomic::{can_be_written, refuse_inputs, write_together};
use crate::fs::interrupt::Farewell;
use crate::models::model_file::ModelSource;
use crate::models::tokenizer_json;
use crate::quantize::prune::Levers;
use crate::quantize::vocabulary;
use crate::render::listener::stopped;
use crate::render::progress::Bar;
use crate::render::text::remark;
use anyhow::{Context, Result, bail};
use attention::{AttentionArg, Refusal, Ways};
use bounds::Bounds;
use bytesize::ByteSize;
use std::path::{Path, PathBuf};
use thimble_shared::artifact::runtime::Runtime;
use thimble_shared::dtype::{Format, Offered};
use thimble_shared::model::{Config, Role, Site};

pub use rows::split;

/// Arguments of `thimble shrink`.
#[derive(Debug, clap::Args)]
pub struct ShrinkArgs {
    /// Read this model: a checkpoint (its folder or weights file), another tool's ONNX, or a thimble file
    pub source: PathBuf,
    /// Limit the file to this size: 12MiB (1024²), 12MB (1000²) or a plain number of bytes
    #[arg(long, value_parser = bytes)]
    pub budget: Option<ByteSize>,
    /// Write the ONNX file here, and the tokenizer beside it
    #[arg(short, long, value_name = "OUT.onnx", required_unless_present_any = ["dry_run", "frontier"])]
    pub output: Option<PathBuf>,
    /// Measure the loss on these inputs: JSON, CSV, TSV or lines of text, with labels if there are any, or safetensors
    #[arg(long, value_name = "X.jsonl")]
    pub calibrate: Option<PathBuf>,
    /// Tune on at most this many calibration rows; up to 256 others are held out for the report
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = args::rows)]
    pub rows: usize,
    /// Require this agreement with the original's decisions, 0 to 1: with a budget, refuse a result below it; without one,
    /// find the smallest file that reaches it
    #[arg(long, value_name = "F", value_parser = share)]
    pub min_agreement: Option<f64>,
    /// Limit the RAM that the device program is predicted to need at --seq tokens
    #[arg(long, value_name = "SIZE", value_parser = ram)]
    pub max_ram: Option<ByteSize>,
    /// Limit the milliseconds that one inference of --seq tokens is predicted to take on the target
    #[arg(long, value_name = "MS", requires = "target", value_parser = milliseconds)]
    pub max_latency: Option<f64>,
    /// Minimize this loss [default: kl for a model that decides something, else error]
    #[arg(long, value_enum)]
    pub objective: Option<Objective>,
    /// Round to nearest and skip all preparation, whatever it costs
    #[arg(long)]
    pub nearest: bool,
    /// Try only these preparation steps [default: all]
    #[arg(
        long,
        value_enum,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "nearest"
    )]
    pub prepare: Vec<PreparationStep>,
    /// Choose between integer arithmetic and f32 arithmetic (w8, f16, f32), which loses less and is slower
    #[arg(long, value_enum, value_name = "WHAT", default_value_t, conflicts_with = "formats")]
    pub prefer: Prefer,
    /// Multiply so in attention; its own products, not the linear maps, which --prefer and --formats are for
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub attention: AttentionArg,
    /// Formats to choose from.
    #[arg(long, value_name = "LIST", value_delimiter = ',', help = formats_help(), ignore_case = true, value_parser = format())]
    pub formats: Vec<Format>,
    /// Name the board the file is for; its RAM must hold the file
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// Print what would be written and its size, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// How the file states itself in ONNX.
    #[command(flatten)]
    pub onnx: OnnxArgs,
    // Groups with a heading of their own come last: what follows one would stand under its heading.
    /// What is asked of the frontier, in place of or beside a file.
    #[command(flatten)]
    pub frontier: FrontierArgs,
    /// What may be left out of the model first.
    #[command(flatten)]
    pub levers: LeverArgs,
    /// How rows are read.
    #[command(flatten)]
    pub rows_of: RowArgs,
    /// How the source is read.
    #[command(flatten)]
    pub reading: SourceArgs,
}

/// Arguments of `thimble shrink` for the frontier of bytes against loss.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Frontier")]
pub struct FrontierArgs {
    /// Print bytes against loss, from the smallest file to fp32
    #[arg(long)]
    pub frontier: bool,
    /// Solve for this many budgets
    #[arg(long, value_name = "N", default_value_t = 12, requires = "frontier", value_parser = points)]
    pub points: usize,
    /// Add to each point the same formats rounded to nearest without rescaling
    #[arg(long, requires = "frontier")]
    pub baseline: bool,
    /// Draw the frontier as an SVG file
    #[arg(long, value_name = "FILE", requires = "frontier")]
    pub svg: Option<PathBuf>,
    /// Draw the frontier as a self-contained HTML page
    #[arg(long, value_name = "FILE", requires = "frontier")]
    pub html: Option<PathBuf>,
}

/// Arguments of `thimble shrink` for what can be left out before anything is rounded.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Leaving parts out")]
pub struct LeverArgs {
    /// Leave out the pooler of a model that has no head
    #[arg(long)]
    pub drop_pooler: bool,
    /// Cut the position embeddings to this many tokens
    #[arg(long, value_name = "N")]
    pub max_seq: Option<usize>,
    /// Drop vocabulary rows that this text never produces: lines of text, JSON, CSV or TSV
    #[arg(long, value_name = "FILE")]
    pub vocab_from: Option<PathBuf>,
}

fn points(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (2..=100).contains(&n) => Ok(n),
        _ => Err(format!("'{text}' is not a number of points; write 2 to 100")),
    }
}

/// Runs `thimble shrink`: one check after another, before the work begins, so it is not cut into parts.
///
/// # Errors
/// Arguments that contradict each other, files that cannot be read or written, and a model that no candidate measures on.
/// Limits that cannot be met are an outcome, not an error.
pub fn run(args: &ShrinkArgs) -> Result<Outcome> {
    if !chosen_by_size(args) && args.min_agreement.is_none() && !args.frontier.frontier {
        bail!(
            "say how small: --budget SIZE for the file, --max-ram SIZE or --max-latency MS on a board, or --min-agreement F for the \
             smallest file that reaches it; --frontier shows all sizes (thimble.toml may name them)"
        );
    }
    let target = args.target.as_deref().map(profiles::find).transpose()?;
    let written = [&args.output, &args.frontier.svg, &args.frontier.html];
    let written: Vec<&PathBuf> = written.into_iter().flatten().collect();
    // Before a model is read, which may take a while.
    written
        .iter()
        .try_for_each(|output| match Some(*output) == args.output.as_ref() {
            true => export::check_output(output, args.onnx.runtime),
            false => Ok(can_be_written(output)?),
        })?;
    refuse_what_boards_are_for(args)?;
    let opened = args.reading.open(&args.source)?;
    check_arguments(args, &opened, &written)?;
    let config = opened.config().clone();

    let (mut provenance, mut tokenizer) = export::provenance(&opened)?;
    let (levers, cut) = levers(args, &opened)?;
    if let Some(cut) = &cut {
        provenance.tokenizer_sha256 = Some(tokenizer_json::sha256(cut.tokenizer.as_bytes()));
        tokenizer = Some(cut.tokenizer.clone());
    }
    let original = opened.model()?;
    let left = if levers.any() {
        Some(levers.apply(&original)?)
    } else {
        None
    };
    let source = left.as_ref().unwrap_or(&original);

    let inputs = rows::load(args, &config, &levers, &opened)?;
    let (tune, report) = rows::split(&inputs, args.rows);
    if let Some(vocabulary) = &levers.vocabulary {
        rows::warn_of_lost_tokens(vocabulary, &inputs);
    }
    let formats = formats(args);
    let onnx = args.onnx.over(opened.options());
    let question = Question {
        original: &original,
        source,
        vocabulary: levers.vocabulary.as_ref(),
        tune: &tune,
        report: &report,
        formats: &formats,
        integers_only: args.formats.is_empty() && args.prefer == Prefer::Speed,
        attention: args.attention.measured_in(),
        objective: args.objective.unwrap_or_else(|| Objective::default_of(&config)),
        onnx,
        provenance: &provenance,
    };
    let sizes = Sizes::new(&question);
    let open = attention::Open::of(args, &question, target.as_ref(), &sizes, tokenizer.as_deref())?;
    let mut about = output::About {
        args,
        bounds: open.bounds(),
        target: target.as_ref(),
        tuned: tune.len(),
        reported: report.len(),
        held_out: inputs.rows.len() >= rows::SPLIT_FROM,
        calibrated: inputs.given,
        tokenizer: tokenizer.as_ref().map(String::len),
        savings: Vec::new(),
        attention: None,
        question: &question,
    };
    let ways = match open.ways(&sizes, smallest(args).is_some())? {
        Ok(ways) => ways,
        Err(Refusal::Floor(floor)) => return Ok(Outcome::no(about.below_floor(&floor))),
        Err(Refusal::TooSlow(reason)) => return Ok(Outcome::no(about.refused(&[reason], None))),
    };
    about.bounds = ways.bounds();

    memory_need::check(&memory_need::Task {
        config: &source.config,
        formats: &formats,
        rows: &inputs.rows,
        calibrated: !args.nearest,
    })?;
    search(about, sizes, &ways, &levers, tokenizer)
}

/// Refuses arguments that contradict each other or the model, and outputs that are inputs or named twice.
fn check_arguments(args: &ShrinkArgs, source: &ModelSource, written: &[&PathBuf]) -> Result<()> {
    for (i, output) in written.iter().enumerate() {
        export::refuse_inputs(source, output, args.onnx.runtime)?;
        let texts = [&args.calibrate, &args.levers.vocab_from];
        refuse_inputs(output, texts.into_iter().flatten().map(PathBuf::as_path))?;
        if written[..i].contains(output) {
            bail!("{} is named twice as an output", output.display());
        }
    }
    refuse_what_nothing_decides(args, source.config())?;
    if wants_a_file(args) && !chosen_by_size(args) && args.min_agreement.is_none() {
        bail!(
            "--frontier alone writes no file; to choose one give --budget, --max-ram, --max-latency or --min-agreement"
        );
    }
    if let (Some(seq), Some(max)) = (args.onnx.seq, args.levers.max_seq)
        && seq > max
    {
        bail!("--seq {seq}: --max-seq leaves {max} positions");
    }
    Ok(())
}

/// Measures, chooses the formats, holds the choice to the limits and writes the file.
fn search<'a>(
    mut about: output::About<'a>,
    sizes: Sizes,
    ways: &Ways<'a>,
    levers: &Levers,
    tokenizer: Option<String>,
) -> Result<Outcome> {
    let (args, question) = (about.args, about.question);
    let farewell = Farewell::new(match loss_cache::is_kept() {
        true => {
            "interrupted: no file was written; the losses of finished stages are kept, and the same command goes on from them"
        }
        false => "interrupted: no file was written",
    });
    let mut watch = Bar::default();
    let steps = steps(args);
    let options = PrepareOptions {
        steps: &steps,
        most: about.bounds.limits.bytes,
    };
    let mut search = Search::measure(sizes, options, &mut watch)?;
    let points = if args.frontier.frontier {
        let (count, baseline) = (args.frontier.points, args.frontier.baseline);
        let limits = ways.of_frontier(&mut search);
        Some(search.frontier(limits, count, baseline, &mut watch)?)
    } else {
        None
    };
    let drawn = match &points {
        Some(points) => draw(args, &about, points)?,
        None => vec![],
    };
    if args.frontier.frontier && !wants_a_file(args) {
        drop((watch, farewell));
        let points = points.as_deref().unwrap_or_default();
        return Ok(Outcome::yes(about.frontier(points, &drawn)));
    }

    let settled = match ways.settle(&mut search, args, smallest(args), &mut watch)? {
        Ok(settled) => settled,
        Err(reason) => return Ok(Outcome::no(about.refused(&[reason], points.as_deref()))),
    };
    (about.bounds, about.attention) = (settled.bounds, Some(settled.attention));
    let (answer, trade) = settled.chosen;
    let plan = search.plan(answer, about.bounds.limits.bytes, trade, &mut watch)?;
    drop((watch, farewell));
    about.savings = savings(question, levers, &plan)?;

    // The last moment: what is written is written whole.
    if stopped() {
        bail!("interrupted: no file was written");
    }
    let reasons = unmet(&about, &plan);
    let written: Option<Written> = match &args.output {
        Some(output) if reasons.is_empty() && !args.dry_run => Some(export::write_parts(
            &plan.model,
            question.onnx,
            question.provenance,
            tokenizer,
            output,
        )?),
        _ => None,
    };
    let text = about.plan(&plan, points.as_deref(), &drawn, &reasons, written.as_ref());
    Ok(if reasons.is_empty() {
        Outcome::yes(text)
    } else {
        Outcome::no(text)
    })
}

/// The agreement that the smallest file is to reach, where that is what is asked for.
fn smallest(args: &ShrinkArgs) -> Option<f64> {
    let by_bytes = args.budget.is_some() || args.max_ram.is_some();
    args.min_agreement.filter(|_| !by_bytes || args.frontier.frontier)
}

/// An answer, and what it traded where integer arithmetic was weighed.
type Chosen = (Answer, Option<Trade>);

/// The formats that lose least, or with `smallest` the smallest file of that agreement; the reason where there are none.
fn choose(
    search: &mut Search,
    args: &ShrinkArgs,
    bounds: &Bounds,
    smallest: Option<f64>,
    watch: &mut Bar,
) -> Result<Result<Chosen, String>> {
    let answer = match smallest {
        Some(share) => search.smallest(share, &bounds.limits, watch)?,
        None => search.answer(&bounds.limits, watch)?,
    };
    let Some(answer) = answer else {
        let reason = match smallest {
            Some(share) => format!(
                "no file within the limits agrees on {:.2} % of the decisions",
                share * 100.0
            ),
            None if bounds.latency.is_some() => "no formats keep to all of the limits together".to_string(),
            None => bail!("{NOTHING_FINITE}"),
        };
        return Ok(Err(reason));
    };
    Ok(Ok(match args.prefer {
        Prefer::Balance if args.formats.is_empty() && smallest.is_none() => {
            let (answer, trade) = search.widen(answer, &bounds.limits, watch)?;
            (answer, Some(trade))
        }
        _ => (answer, None),
    }))
}

/// The limits that the plan does not keep to.
fn unmet(about: &output::About, plan: &Plan) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(least) = about.args.min_agreement {
        let share = plan.loss.agreement.unwrap_or(0.0);
        if share < least {
            reasons.push(format!(
                "agreement {share:.4} is below --min-agreement {least}; a larger budget may keep it"
            ));
        }
    }
    reasons.extend(about.bounds.beyond_board(about.target, plan.bytes));
    reasons
}

/// The steps of preparation to try.
fn steps(args: &ShrinkArgs) -> Vec<PreparationStep> {
    let asked = |step: &PreparationStep| args.prepare.is_empty() || args.prepare.contains(step);
    STEPS.into_iter().filter(|step| !args.nearest && asked(step)).collect()
}

/// Formats on offer unless others are named.
fn offered(prefer: Prefer) -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(move |f| match f.row().offered {
        Offered::Always => true,
        Offered::ForLoss => match prefer {
            Prefer::Loss => true,
            // Balance comes to w8 where the loss is not good without it.
            Prefer::Balance | Prefer::Speed => false,
        },
        Offered::Never => false,
    })
}

fn formats_help() -> String {
    let offered: Vec<Format> = offered(Prefer::Balance).collect();
    let names: Vec<&str> = offered.iter().map(|f| f.name()).collect();
    let integers: Vec<&str> = offered
        .iter()
        .filter(|f| f.quantizes_input())
        .map(|f| f.name())
        .collect();
    let (last, first) = integers.split_last().unwrap_or((&"none", &[]));
    format!(
        "Choose from these formats, whatever --prefer says [default: {}; with --prefer speed, linear maps take {} and \
         {last} only]; with --for onnxruntime or onnx i8t stands for i8, w4 for i4",
        names.join(","),
        first.join(", ")
    )
}

/// The formats the search chooses from.
fn formats(args: &ShrinkArgs) -> Vec<Format> {
    let mut formats = args.formats.clone();
    if formats.is_empty() {
        formats.extend(offered(args.prefer));
    }
    // What the runtime is fast at has the same numbers.
    for format in &mut formats {
        *format = args.onnx.runtime.suited(*format);
    }
    formats.sort();
    formats.dedup();
    formats
}

/// Predictions are of the board's program: for a file that it does not run there are none.
fn refuse_what_boards_are_for(args: &ShrinkArgs) -> Result<()> {
    if args.onnx.runtime == Runtime::Board {
        return Ok(());
    }
    let given = [
        (args.max_ram.is_some(), "--max-ram"),
        (args.max_latency.is_some(), "--max-latency"),
        (args.target.is_some(), "--target"),
    ];
    match given.into_iter().find(|(given, _)| *given) {
        Some((_, option)) => bail!(
            "{option} is for a board, and --for {} makes a file that no board runs; leave one of them out",
            args.onnx.runtime
        ),
        None => Ok(()),
    }
}

/// Whether a limit of bytes, RAM or time is given.
fn chosen_by_size(args: &ShrinkArgs) -> bool {
    args.budget.is_some() || args.max_ram.is_some() || args.max_latency.is_some()
}

/// Whether one file is to be chosen, beside or without a frontier.
fn wants_a_file(args: &ShrinkArgs) -> bool {
    args.output.is_some() || args.dry_run || !args.frontier.frontier
}

fn refuse_what_nothing_decides(args: &ShrinkArgs, config: &Config) -> Result<()> {
    if decides(config) {
        return Ok(());
    }
    let why = verify::decides_nothing(config);
    if args.min_agreement.is_some() {
        bail!("--min-agreement: {why}");
    }
    if args.objective.is_some_and(Objective::needs_decisions) {
        bail!("--objective: {why}; use cosine or error");
    }
    Ok(())
}

/// The levers asked for, and the vocabulary cut for them.
fn levers(args: &ShrinkArgs, source: &ModelSource) -> Result<(Levers, Option<vocabulary::Cut>)> {
    let cut = match &args.levers.vocab_from {
        None => None,
        Some(corpus) => {
            let Some(tokenizer) = source.tokenizer() else {
                bail!("--vocab-from: the model has no tokenizer beside it, which this option needs");
            };
            let cut = vocabulary::cut(corpus, tokenizer, source.config().vocab_size).context("--vocab-from")?;
            remark(&format!(
                "note: {} texts produce or need {} of {} tokens",
                cut.texts,
                cut.vocabulary.kept.len(),
                cut.before
            ));
            Some(cut)
        }
    };
    let levers = Levers {
        drop_pooler: args.levers.drop_pooler,
        max_seq: args.levers.max_seq,
        vocabulary: cut.as_ref().map(|c| c.vocabulary.clone()),
    };
    // Before anything is read or measured for a lever that cannot be pulled.
    levers.config(source.config())?;
    Ok((levers, cut))
}

/// Bytes each lever saves in the formats chosen: what the file would have without it.
fn savings(question: &Question, levers: &Levers, plan: &Plan) -> Result<Vec<(&'static str, u64)>> {
    let mut formats = plan.problem.formats_of(&plan.choice);
    // The pooler that is gone would have the format of the other maps.
    let of_layers = Role::AttentionOutput.at(Site::all(&question.original.config).next());
    if let Some(&format) = formats.get(Role::Map.name()).or_else(|| formats.get(&of_layers)) {
        formats.entry(Role::Pooler.name().into()).or_insert(format);
    }
    let size = |levers: &Levers| -> Result<u64> {
        let graph = thimble_shared::model::ModelSpec {
            config: levers.config(&question.original.config)?,
            formats: formats.clone(),
        };
        Ok(thimble_shared::artifact::size(&graph, question.onnx, question.provenance)? as u64)
    };
    let with_all = size(levers)?;
    let each = levers.each().into_iter();
    each.map(|(name, lever)| Ok((name, size(&levers.but(&lever))?.saturating_sub(with_all))))
        .collect()
}

/// Draws the frontier where that was asked for; the files' names.
fn draw(args: &ShrinkArgs, about: &output::About, points: &[crate::budget::frontier::Point]) -> Result<Vec<String>> {
    let source = args.source.file_name().map_or(args.source.as_os_str(), |name| name);
    let drawing = chart::Drawing {
        title: source.to_string_lossy().into_owned(),
        rows: about.rows_reported(),
        objective: about.question.objective,
        points,
        budget: about.byte_limit(),
        least_agreement: args.min_agreement,
    };
    let (svg, html) = (drawing.svg(), drawing.html());
    let files = [(&args.frontier.svg, &svg), (&args.frontier.html, &html)];
    let files: Vec<(&Path, &[u8])> = files
        .into_iter()
        .filter_map(|(path, text)| Some((path.as_deref()?, text.as_bytes())))
        .collect();
    write_together(&files)?;
    Ok(files.iter().map(|(path, _)| path.display().to_string()).collect())
}
