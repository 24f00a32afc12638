//! `thimble slim`: a smaller ONNX file that computes the same.

use super::outcome::Outcome;
use crate::fs::atomic::{self, Output, WriteError, refuse_inputs};
use crate::onnx::OnnxFile;
use crate::onnx::slim::{Chunks, SlimOptions, SlimReport, Slimmed, model_bytes, slim_over};
use crate::render::text::{exact, percent, remark};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::artifact::{self, ArtifactError};

#[derive(Debug, clap::Args)]
pub struct SlimArgs {
    /// Read this ONNX file, ALBERT or not. Results may differ in the last bits if the runtime fuses differently
    pub file: PathBuf,
    /// Write the ONNX file here. External data goes to OUT.onnx.data; when it replaces a file, first under a name with its
    /// checksum
    #[arg(short, long, value_name = "OUT.onnx")]
    pub output: PathBuf,
    /// Keep only these outputs (inner values are allowed) and the inputs and nodes they need
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub outputs: Vec<String>,
    /// Shorten the names of inner values and drop those of nodes
    #[arg(long)]
    pub short_names: bool,
    /// Drop the model's own metadata as well; programs may read it
    #[arg(long)]
    pub strip_metadata: bool,
    /// Drop the declared shapes of inner values as well; a runtime may then fuse and round differently
    #[arg(long)]
    pub strip_shapes: bool,
    /// Store external data inside the file
    #[arg(long)]
    pub one_file: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &SlimArgs) -> Result<Outcome> {
    let file = OnnxFile::open(&args.file)?;
    // A board reads its weights in place, where rewriting would move them to.
    let own = artifact::open(file.bytes());
    if matches!(own, Ok(_) | Err(ArtifactError::OtherRuntime(_))) {
        bail!(
            "{}: is a thimble file, and no byte of it is to spare; thimble export and thimble shrink make smaller ones",
            args.file.display()
        );
    }
    let place = Place::new(&args.output, file.paths())?;
    let options = SlimOptions {
        outputs: args.outputs.clone(),
        short_names: args.short_names,
        strip_metadata: args.strip_metadata,
        strip_shapes: args.strip_shapes,
        one_file: args.one_file,
    };
    let before = model_bytes(&file);
    let saving = write_slim(&file, &options, &place, |after| {
        if after > before && !options.leaves_out() {
            bail!(
                "{}: nothing to save: it has {before} bytes with its external data, parts of which several tensors share, and would take {after}; nothing is written",
                args.file.display()
            );
        }
        Ok(())
    })?;
    tell(args, &file, before, &saving, &place.data, options.leaves_out());
    Ok(Outcome::yes(match args.json {
        true => json(args, before, &saving),
        false => text(args, before, &saving, &place.data),
    }))
}

/// Where a smaller model goes: its own file, and its external data beside it.
pub(super) struct Place {
    model: PathBuf,
    data: PathBuf,
    data_name: String,
    inputs: Vec<PathBuf>,
}

impl Place {
    /// Of an output that replaces none of `inputs`: neither a model nor a file its numbers lie in may go.
    ///
    /// # Errors
    /// Where the output is an input, cannot be written, or has a name that ONNX cannot refer to.
    pub(super) fn new(output: &Path, inputs: Vec<PathBuf>) -> Result<Place> {
        let (data, data_name) = data_beside(output)?;
        for output in [output, &data] {
            refuse_inputs(output, inputs.iter().map(PathBuf::as_path))?;
            atomic::can_be_written(output)?;
        }
        Ok(Place {
            model: output.to_path_buf(),
            data,
            data_name,
            inputs,
        })
    }
}

/// What was written.
pub(super) struct Saving {
    /// Bytes of the model and its external data.
    pub(super) bytes: u64,
    /// Bytes of the external data alone, where there is any.
    pub(super) external: Option<u64>,
    done: SlimReport,
}

/// Writes `file` without what no output needs; `check` hears how many bytes it takes before anything is written.
pub(super) fn write_slim(
    file: &OnnxFile,
    options: &SlimOptions,
    place: &Place,
    check: impl FnOnce(u64) -> Result<()>,
) -> Result<Saving> {
    // What lies there is looked at, and then replaced.
    let _alone = atomic::alone(atomic::folder(&place.model));
    let replaces = place.model.exists() && place.data.exists();
    let mut passing = None;
    let (slimmed, referring) = slim_over(file, options, &place.data_name, |data| {
        let name = replaces.then(|| atomic::passing_name(&place.data, data.pieces.iter().map(AsRef::as_ref)))?;
        Some(passing.insert(name).file_name()?.to_string_lossy().into_owned())
    })?;
    // What is written next comes from the file's own pages.
    file.unchanged()?;
    check(slimmed.bytes())?;
    if let Some(name) = &passing {
        refuse_inputs(name, place.inputs.iter().map(PathBuf::as_path))?;
    }
    let meanwhile = passing.as_deref().zip(referring.as_ref());
    if let Err(e) = write(&place.model, &place.data, &slimmed, meanwhile) {
        // Pages that are gone cannot be written either, and that is the cause to name.
        file.unchanged()?;
        return Err(e.into());
    }
    atomic::clear_passing(&place.data, &place.inputs);
    Ok(Saving {
        bytes: slimmed.bytes(),
        external: slimmed.data.as_ref().map(|data| data.len),
        done: slimmed.done,
    })
}

/// The path of the external data beside a model, and its name in the model.
fn data_beside(output: &Path) -> Result<(PathBuf, String)> {
    let mut data_path = output.to_path_buf().into_os_string();
    data_path.push(".data");
    let data_path = PathBuf::from(data_path);
    // The model refers to its data by name, and names in ONNX are text.
    let Some(data_name) = data_path.file_name().and_then(|n| n.to_str()).map(str::to_string) else {
        bail!(
            "{}: is no file name, or not UTF-8, which ONNX needs to refer to data beside it",
            output.display()
        );
    };
    if output.file_name().is_none() {
        bail!("{}: is no file name", output.display());
    }
    Ok((data_path, data_name))
}

/// Writes the model and its data. `meanwhile` is the data's passing name and the model that refers to it.
fn write(
    output: &Path,
    data_path: &Path,
    slimmed: &Slimmed<'_>,
    meanwhile: Option<(&Path, &Chunks<'_>)>,
) -> Result<(), WriteError> {
    let model = Output::pieces(output, &slimmed.model.pieces);
    match &slimmed.data {
        Some(data) => atomic::write_model(
            &model,
            &Output::pieces(data_path, &data.pieces),
            meanwhile.map(|(name, model)| (name, Output::pieces(output, &model.pieces))),
        ),
        None => atomic::write_all(&[model]),
    }
}

/// Says what is worth a note of the files written.
fn tell(args: &SlimArgs, file: &OnnxFile, before: u64, saving: &Saving, data_path: &Path, leaves_out: bool) {
    let (after, done) = (saving.bytes, &saving.done);
    if after > before {
        remark("note: it is larger than before, by what names and Transpose nodes take; without flags it would not be");
    } else if file.bytes().len() as u64 == after && after == before && !leaves_out {
        remark("note: nothing could be saved; the file is a copy");
    }
    // Whoever reads a value decides what a runtime may fuse it with, and these change who does.
    if done.duplicates + done.transposed + done.dead_nodes > 0 || !args.outputs.is_empty() || args.strip_shapes {
        remark(
            "note: the graph computes the same; results may differ in the last bits if the runtime fuses differently",
        );
    }
    if saving.external.is_none() && data_path.exists() {
        remark(&format!(
            "note: {} is left from an earlier run; the model does not refer to it",
            data_path.display()
        ));
    }
    if saving.external.is_none() && file.paths().len() > 1 && !args.one_file {
        remark("note: the external data is in the file now, where it takes fewer bytes than beside it");
    }
}

/// The outcome as one JSON object.
fn json(args: &SlimArgs, before: u64, saving: &Saving) -> String {
    let json = serde_json::json!({
        "schema": ANSWER_SCHEMA,
        "input": args.file.display().to_string(),
        "output": args.output.display().to_string(),
        "before": before,
        "after": saving.bytes,
        "external": saving.external,
        "done": saving.done,
    });
    format!("{json:#}\n")
}

/// The outcome in lines for people.
fn text(args: &SlimArgs, before: u64, saving: &Saving, data_path: &Path) -> String {
    let (after, done) = (saving.bytes, &saving.done);
    let mut text = format!("{}: {}\n", args.file.display(), exact(before));
    for (count, what) in [
        (done.duplicates, "byte-identical copies kept once"),
        (done.transposed, "transposed copies made by a Transpose"),
        (done.identities, "Identity nodes folded"),
        (done.dead_nodes, "nodes no output needs cut"),
        (done.dead_tensors, "tensors no output needs cut"),
        (done.made_raw, "tensors made raw"),
    ] {
        if count > 0 {
            text.push_str(&format!("  {count} {what}\n"));
        }
    }
    text.push_str(&format!(
        "{}: {}, {} of it\n",
        args.output.display(),
        exact(after),
        percent(after, before)
    ));
    if let Some(bytes) = saving.external {
        text.push_str(&format!("  of that {} in {}\n", exact(bytes), data_path.display()));
    }
    text
}
