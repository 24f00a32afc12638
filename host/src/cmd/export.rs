//! `thimble export`: checkpoint → one ONNX file in one number format throughout.

use super::args::{OnnxArgs, SourceArgs, attention, format};
use super::outcome::Outcome;
use crate::fs::atomic::{self, Content, Output, write_outputs_together};
use crate::models::file_names;
use crate::models::huggingface_folder;
use crate::models::model_file::ModelSource;
use crate::models::tokenizer::TokenizerSource;
use crate::models::tokenizer_json;
use crate::quantize::quantizer::{Quantizer, uniform, vanished};
use crate::render::text::{exact, say};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io::Error;
use std::path::{Path, PathBuf};
use thimble_device::image::mmap::ModelMap;
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::artifact::emit::{LowerOptions, Runtime};
use thimble_shared::artifact::verify;
use thimble_shared::artifact::{Provenance, Writer};
use thimble_shared::dtype::{Format, Values};
use thimble_shared::files;
use thimble_shared::model::{AttentionArithmetic, Model};
use thimble_text::tokenizer_beside;

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Read this model: a checkpoint (its folder or weights file), another tool's ONNX, or a thimble file
    pub source: PathBuf,
    /// Write the ONNX file here, and the tokenizer beside it
    #[arg(short, long, value_name = "OUT.onnx")]
    pub output: PathBuf,
    /// Store every table and linear weight in this format [default: f32, or those of the thimble file read]
    #[arg(long, value_name = "FORMAT", ignore_case = true, value_parser = format())]
    pub precision: Option<Format>,
    /// Multiply in this arithmetic in attention: int8 is faster and loses a little [default: f32, or that of the thimble file read]
    #[arg(long, value_name = "WHAT", value_parser = attention())]
    pub attention: Option<AttentionArithmetic>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub onnx: OnnxArgs,
    #[command(flatten)]
    pub reading: SourceArgs,
}

pub fn run(args: &ExportArgs) -> Result<Outcome> {
    check_output(&args.output, args.onnx.runtime)?;
    let source = args.reading.open(&args.source)?;
    refuse_inputs(&source, &args.output, args.onnx.runtime)?;
    let mut model = source.model()?;
    let mut lost = vec![];
    let runtime = args.onnx.runtime;
    if let Some(precision) = args.precision {
        let made = Quantizer::new(&model).model(&uniform(&model.config, runtime.suited(precision)))?;
        lost = vanished(&model, &made);
        model = Cow::Owned(made);
    }
    if let Cow::Owned(suited) = suited(&model, runtime) {
        model = Cow::Owned(suited);
    }
    if let Some(attention) = attention_of(args, model.config.attention)? {
        model.to_mut().config.attention = attention;
    }
    let written = write(&source, &model, args.onnx.over(source.options()), &args.output)?;
    if args.json {
        let lost: Vec<_> = lost
            .iter()
            .map(|(name, zeros, of)| json!({"name": name, "zeros": zeros, "numbers": of}))
            .collect();
        let file = |(path, bytes): &(String, u64)| json!({"file": path, "bytes": bytes});
        let json = json!({
            "schema": ANSWER_SCHEMA,
            "model": file(&written.model),
            "tokenizer": written.tokenizer.as_ref().map(file),
            "vanished": lost,
        });
        return Ok(Outcome::yes(format!("{json:#}\n")));
    }
    let mut text = written.report();
    for (name, zeros, of) in lost {
        writeln!(text, "{name}: {zeros} of {of} numbers are zero in f16")?;
    }
    Ok(Outcome::yes(text))
}

/// The arithmetic of attention, where it is not the one that the model has.
fn attention_of(args: &ExportArgs, own: AttentionArithmetic) -> Result<Option<AttentionArithmetic>> {
    let attention = match (args.attention, args.onnx.runtime) {
        (Some(attention), Runtime::Board) => attention,
        (None, Runtime::Board) => own,
        (Some(AttentionArithmetic::F32) | None, Runtime::OnnxRuntime | Runtime::Onnx) => AttentionArithmetic::F32,
        (Some(AttentionArithmetic::Int8), runtime) => {
            bail!("--attention int8 is for boards; --for {runtime} leaves attention to that runtime")
        }
    };
    Ok((attention != own).then_some(attention))
}

/// The model with each weight's numbers in the format that the runtime is fast at.
fn suited(model: &Model, runtime: Runtime) -> Cow<'_, Model> {
    let changes = |values: &Values| runtime.suited(values.format()) != values.format();
    if !model.weights.values().any(changes) {
        return Cow::Borrowed(model);
    }
    // The numbers are the same: what differs is the arithmetic.
    let same = |values: &Values| values.exactly(runtime.suited(values.format()));
    let weights = model
        .weights
        .iter()
        .map(|(name, values)| (name.clone(), same(values).unwrap_or_else(|| values.clone())));
    Cow::Owned(Model {
        config: model.config.clone(),
        weights: weights.collect(),
    })
}

/// What was put on disk.
pub struct Written {
    pub model: (String, u64),
    pub tokenizer: Option<(String, u64)>,
}

impl Written {
    pub fn report(&self) -> String {
        let mut text = format!("{}: {}\n", self.model.0, exact(self.model.1));
        if let Some((path, bytes)) = &self.tokenizer {
            text.push_str(&format!("{path}: {}\n", exact(*bytes)));
        }
        text
    }
}

impl OnnxArgs {
    /// What was asked for, and otherwise what the source has.
    pub fn over(&self, source: LowerOptions) -> LowerOptions {
        LowerOptions {
            opset: self.opset.unwrap_or(source.opset),
            seq: self.seq.or(source.seq),
            runtime: self.runtime,
        }
    }
}

/// Where a model comes from, and the compact tokenizer that travels with it.
pub fn provenance(source: &ModelSource) -> Result<(Provenance, Option<String>)> {
    let tokenizer = source.tokenizer().map(TokenizerSource::compact).transpose()?;
    let provenance = Provenance {
        source_sha256: source.source_sha256(),
        tokenizer_sha256: tokenizer.as_ref().map(|t| tokenizer_json::sha256(t.as_bytes())),
    };
    Ok((provenance, tokenizer))
}

/// Writes the model and its tokenizer, both being on disk before the first takes its place, and checks the file against its own ModelSpec first.
pub fn write(source: &ModelSource, model: &Model, onnx: LowerOptions, output: &Path) -> Result<Written> {
    let (provenance, tokenizer) = provenance(source)?;
    write_parts(model, onnx, &provenance, tokenizer, output)
}

/// Writes a model and the tokenizer it is written with.
pub fn write_parts(
    model: &Model,
    onnx: LowerOptions,
    provenance: &Provenance,
    tokenizer: Option<String>,
    output: &Path,
) -> Result<Written> {
    let writer = Writer::new(model, onnx, provenance)?;
    if is_folder(output, onnx.runtime) {
        return write_folder(&writer, model, tokenizer, output);
    }
    let beside = tokenizer_beside(output);
    if let Some(text) = &tokenizer {
        warn_of_another(output, &beside, text);
    }
    let model = Output {
        content: Content::Made {
            fill: &|out| writer.write_to(out),
            check: &states_its_graph,
        },
        ..Output::new(output, &[])
    };
    let text = tokenizer.as_ref().map(|text| Output::new(&beside, text.as_bytes()));
    write_outputs_together(&[model].into_iter().chain(text).collect::<Vec<_>>())?;
    Ok(Written {
        model: (output.display().to_string(), writer.size() as u64),
        tokenizer: tokenizer.map(|t| (beside.display().to_string(), t.len() as u64)),
    })
}

/// Says that a tokenizer takes the place of another model's: `small` and `small.onnx` have theirs under one name.
fn warn_of_another(output: &Path, beside: &Path, tokenizer: &str) {
    let other = match output.extension() {
        Some(end) if end == "onnx" => output.with_extension(""),
        _ => with_onnx(output),
    };
    let replaced = files::read(beside).is_ok_and(|there| there != tokenizer.as_bytes());
    if other.is_file() && replaced {
        say(&format!(
            "warning: {} is the tokenizer of {}, too, and is replaced: that model takes no texts from here on; name the outputs apart",
            beside.display(),
            other.display()
        ));
    }
}

/// The model that ends in .onnx and whose tokenizer has the name of that of `model`.
fn with_onnx(model: &Path) -> PathBuf {
    let mut name = model.as_os_str().to_os_string();
    name.push(".onnx");
    name.into()
}

/// Whether an output is a folder as Hugging Face's tools want it: for another runtime than a board's, what does not end in .onnx.
fn is_folder(output: &Path, runtime: Runtime) -> bool {
    let is_onnx = |end: &OsStr| end.eq_ignore_ascii_case("onnx");
    runtime != Runtime::Board && !output.extension().is_some_and(is_onnx)
}

/// An error where a model cannot be written to `output`: before it is read, which may take a while.
pub fn check_output(output: &Path, runtime: Runtime) -> Result<()> {
    let inside = output.join(file_names::CONFIG);
    match (is_folder(output, runtime), std::fs::metadata(output)) {
        (true, Ok(meta)) if meta.is_dir() => Ok(atomic::can_be_written(&inside)?),
        (true, Ok(_)) => bail!(
            "{}: is a file; name OUT.onnx, or a folder for the model and its tokenizer",
            output.display()
        ),
        _ => Ok(atomic::can_be_written(&plain(output))?),
    }
}

/// A path without a slash at its end.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Folders that were made for an output. They go again if it is not written.
#[derive(Default)]
struct Folders(Vec<PathBuf>);

impl Folders {
    fn make(&mut self, dir: &Path) -> Result<()> {
        let missing = dir
            .ancestors()
            .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
        let mut missing: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
        missing.reverse();
        self.0.extend(missing);
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        // One that holds something stays.
        self.0.iter().rev().for_each(|dir| drop(std::fs::remove_dir(dir)));
    }
}

/// Writes the model into a folder, with the files that Hugging Face's tools want beside it.
fn write_folder(writer: &Writer, model: &Model, tokenizer: Option<String>, dir: &Path) -> Result<Written> {
    let dir = plain(dir);
    let path = dir.join(huggingface_folder::MODEL);
    let files: Vec<(PathBuf, Vec<u8>)> = huggingface_folder::files(model, tokenizer.as_deref())?
        .into_iter()
        .map(|(name, bytes)| (dir.join(name), bytes))
        .collect();
    // Files of another model would be read with this one.
    for name in [huggingface_folder::MODULES, file_names::TOKENIZER] {
        let other = dir.join(name);
        if other.exists() && !files.iter().any(|(path, _)| *path == other) {
            bail!("{}: is another model's; name another folder", other.display());
        }
    }
    let mut folders = Folders::default();
    for path in files.iter().map(|(path, _)| path).chain([&path]) {
        folders.make(atomic::folder(path))?;
    }
    let onnx = Output {
        content: Content::Made {
            fill: &|out| writer.write_to(out),
            check: &states_its_graph,
        },
        ..Output::new(&path, &[])
    };
    let beside = files.iter().map(|(path, text)| Output::new(path, text));
    write_outputs_together(&std::iter::once(onnx).chain(beside).collect::<Vec<_>>())?;
    folders.0.clear();
    Ok(Written {
        model: (path.display().to_string(), writer.size() as u64),
        tokenizer: tokenizer.map(|t| (dir.join(file_names::TOKENIZER).display().to_string(), t.len() as u64)),
    })
}

/// An error where a file just made does not say what its ModelSpec says.
fn states_its_graph(path: &Path) -> std::io::Result<()> {
    let map = ModelMap::open(path, false).map_err(Error::other)?;
    let differences = verify::differences_of(map.bytes(), &|part| map.release(part)).map_err(Error::other)?;
    match differences.first() {
        None => Ok(()),
        Some(difference) => Err(Error::other(format!(
            "the file made does not state its metadata: {difference}"
        ))),
    }
}

/// An output may replace an older one, but nothing that was read: a failed or wrong write must lose nothing.
pub fn refuse_inputs(source: &ModelSource, output: &Path, runtime: Runtime) -> Result<()> {
    let of_folder = [
        file_names::CONFIG,
        file_names::TOKENIZER,
        file_names::TOKENIZER_CONFIG,
        huggingface_folder::MODEL,
        huggingface_folder::MODULES,
    ];
    if is_folder(output, runtime) {
        for output in of_folder.map(|name| output.join(name)) {
            atomic::refuse_inputs(&output, source.files())?;
        }
        return check_output(output, runtime);
    }
    for output in [output, &tokenizer_beside(output)] {
        atomic::refuse_inputs(output, source.files())?;
        atomic::can_be_written(output)?;
    }
    Ok(())
}
