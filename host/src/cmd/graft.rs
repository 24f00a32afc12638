//! `thimble graft`: a shrunk encoder in the place of the ALBERT in a larger graph.

use super::args::{RowArgs, rows};
use super::outcome::Outcome;
use super::slim::{self, Saving};
use crate::eval::dataset;
use crate::eval::metrics::Loss;
use crate::eval::runner::Judge;
use crate::models::graft::{gives_hidden_states, graft, opset_for};
use crate::models::image::image_of;
use crate::models::model_file::ModelSource;
use crate::models::onnx_import::{self, ImportOptions};
use crate::onnx::OnnxFile;
use crate::onnx::slim::{SlimOptions, model_bytes};
use crate::quantize::prune::Levers;
use crate::render::progress::{Bar, Watch};
use crate::render::text::{exact, percent, printable, remark, say};
use anyhow::{Context, Error, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::artifact::emit::{LowerOptions, Runtime};
use thimble_shared::artifact::{Provenance, Writer};
use thimble_shared::model::{Config, Head, Model};

#[derive(Debug, clap::Args)]
pub struct GraftArgs {
    /// Read this ONNX file, which holds an ALBERT and more
    pub file: PathBuf,
    /// Put this encoder in: a file that thimble made with --for onnxruntime or --for onnx
    #[arg(long, value_name = "SMALL.onnx")]
    pub encoder: PathBuf,
    /// Write the ONNX file here. External data goes to OUT.onnx.data
    #[arg(short, long, value_name = "OUT.onnx")]
    pub output: PathBuf,
    /// Compare the two encoders on these inputs: JSON, CSV, TSV, lines of text or safetensors [default: made-up token sequences]
    #[arg(long, value_name = "X")]
    pub inputs: Option<PathBuf>,
    /// Compare on at most this many rows
    #[arg(long, value_name = "N", value_parser = rows)]
    pub rows: Option<usize>,
    /// Read the ALBERT in the file though its weights are quantized
    #[arg(long)]
    pub dequantize: bool,
    /// Replace the ALBERT that ends in this value, where the file holds several
    #[arg(long, value_name = "VALUE")]
    pub at: Option<String>,
    /// Store external data inside the file
    #[arg(long)]
    pub one_file: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub rows_of: RowArgs,
}

/// Runs `thimble graft`.
///
/// # Errors
/// Files that cannot be read or written, a graph without an ALBERT, and an encoder that does not fit it.
pub fn run(args: &GraftArgs) -> Result<Outcome> {
    let graph = OnnxFile::open(&args.file)?;
    let encoder = ModelSource::open(&args.encoder)?;
    let inputs = graph
        .paths()
        .into_iter()
        .chain(encoder.files().into_iter().map(Path::to_path_buf))
        .collect();
    let place = slim::Place::new(&args.output, inputs)?;
    let options = encoder.options();
    if options.runtime == Runtime::Board {
        let path = args.encoder.display();
        bail!(
            "{path}: it is laid out for a board, or not thimble's; thimble export {path} --head none --for onnxruntime -o SMALL.onnx makes an encoder of a checkpoint"
        );
    }
    let opset = opset_for(&graph)?;
    gives_hidden_states(encoder.config()).with_context(|| args.encoder.display().to_string())?;
    let theirs = onnx_import::open_with(
        &args.file,
        &ImportOptions {
            outputs: vec![hidden_state(args, &graph)?],
            dequantize: args.dequantize,
            head: Some(Head::None),
        },
    )?;
    theirs
        .notes
        .iter()
        .for_each(|note| remark(&format!("note: {}", printable(note))));
    same_network(&theirs.model.config, encoder.config())
        .map_err(|problem| Error::msg(format!("{}: {problem}", args.encoder.display())))?;

    let model = encoder.model()?;
    let options = LowerOptions {
        opset,
        seq: None,
        ..options
    };
    let writer = Writer::new(&model, options, &Provenance::default())?;
    let mut bytes = Vec::with_capacity(writer.size());
    writer.write_to(&mut bytes).context("stating the encoder")?;
    let made = graft(&graph, &theirs.wiring, &bytes)?;
    drop(bytes);
    // What takes longest comes when the graft is known to hold.
    let loss = compare(args, &theirs.model, &model)?;
    let options = SlimOptions {
        one_file: args.one_file,
        ..SlimOptions::default()
    };
    let saving = slim::write_slim(&made, &options, &place, |_| Ok(()))?;
    graph.unchanged()?;
    Ok(Outcome::yes(match args.json {
        true => json(args, &graph, &loss, &saving)?,
        false => text(args, &graph, &loss, &saving),
    }))
}

/// The last hidden state of the ALBERT that is to be replaced.
fn hidden_state(args: &GraftArgs, graph: &OnnxFile) -> Result<String> {
    if let Some(value) = &args.at {
        return Ok(value.clone());
    }
    let mut states = onnx_import::last_hidden_states(graph, args.dequantize)?;
    if states.len() > 1 {
        let names: Vec<String> = states.iter().map(|name| format!("'{}'", printable(name))).collect();
        bail!(
            "{}: it holds {} ALBERTs, which end in {}; name the one to replace with --at, and graft again for the next",
            args.file.display(),
            states.len(),
            names.join(", ")
        );
    }
    Ok(states.remove(0))
}

/// What has to be equal for one encoder to stand in the place of another.
fn same_network(theirs: &Config, ours: &Config) -> Result<(), String> {
    let facts = |config: &Config| {
        [
            ("hidden_size", config.hidden_size),
            ("vocab_size", config.vocab_size),
            ("num_hidden_layers", config.num_hidden_layers * config.inner_group_num),
            ("type_vocab_size", config.type_vocab_size),
        ]
    };
    for ((name, theirs), (_, ours)) in facts(theirs).into_iter().zip(facts(ours)) {
        if theirs != ours {
            return Err(format!(
                "its {name} is {ours}, that of the ALBERT in the graph {theirs}"
            ));
        }
    }
    if ours.max_position_embeddings < theirs.max_position_embeddings {
        say(&format!(
            "warning: the encoder has {} positions, the ALBERT in the graph {}: longer inputs will fail",
            ours.max_position_embeddings, theirs.max_position_embeddings
        ));
    }
    Ok(())
}

/// How far the hidden states of the two are apart, in the device's engine.
fn compare(args: &GraftArgs, theirs: &Model, ours: &Model) -> Result<Loss> {
    let bare = |model: &Model| -> Result<Model> {
        let levers = Levers {
            drop_pooler: model.config.pooler,
            ..Levers::default()
        };
        Ok(levers.apply(model)?)
    };
    let (theirs, ours) = (bare(theirs)?, bare(ours)?);
    let config = Config {
        max_position_embeddings: theirs
            .config
            .max_position_embeddings
            .min(ours.config.max_position_embeddings),
        ..theirs.config.clone()
    };
    let given = args.inputs.as_deref();
    let options = args
        .rows_of
        .options(("--inputs", given.is_some()))
        .map_err(Error::msg)?;
    let inputs = dataset::load_with(given, &config, None, args.rows, &options)?;
    let rows = inputs.rows.len();
    let judge = Judge::new(&theirs.config, &image_of(&theirs)?, inputs.rows, None);
    let bar = Mutex::new(Bar::counter("comparing", rows));
    let row_done = || bar.lock().unwrap_or_else(PoisonError::into_inner).step("rows");
    Ok(judge.loss_told(&image_of(&ours)?, &row_done)?)
}

fn json(args: &GraftArgs, graph: &OnnxFile, loss: &Loss, saving: &Saving) -> Result<String> {
    let json = serde_json::json!({
        "schema": ANSWER_SCHEMA,
        "input": args.file.display().to_string(),
        "encoder": args.encoder.display().to_string(),
        "output": args.output.display().to_string(),
        "before": model_bytes(graph),
        "after": saving.bytes,
        "external": saving.external,
        "loss": serde_json::to_value(loss)?,
    });
    Ok(format!("{json:#}\n"))
}

fn text(args: &GraftArgs, graph: &OnnxFile, loss: &Loss, saving: &Saving) -> String {
    let before = model_bytes(graph);
    format!(
        "{}: {}\nhidden states: {:.4} of their standard deviation apart (RMS), over {} inputs\n{}: {}, {} of it\n",
        args.file.display(),
        exact(before),
        loss.score().relative_rms(),
        loss.rows,
        args.output.display(),
        exact(saving.bytes),
        percent(saving.bytes, before)
    )
}
