//! `thimble export`: checkpoint → one ONNX file in one number format throughout.

use crate::cli::{ExportArgs, OnnxArgs, Outcome};
use crate::quantise::{Quantiser, uniform};
use crate::store::write_whole;
use crate::subject::{Subject, tokenizer_beside};
use crate::text::exact;
use crate::tokenise;
use anyhow::{Context, Result, bail};
use std::borrow::Cow;
use std::path::Path;
use thimble_shared::artifact::{self, Provenance};
use thimble_shared::audit;
use thimble_shared::graph::Model;
use thimble_shared::lower::LowerOptions;

pub fn run(args: &ExportArgs) -> Result<Outcome> {
    refuse_same_file(&args.source, &args.output)?;
    let subject = Subject::open(&args.source)?;
    let mut model = subject.model()?;
    if let Some(precision) = args.precision {
        model = Cow::Owned(Quantiser::new(&model).model(&uniform(&model.config, precision.format()))?);
    }
    let written = write(&subject, &model, &args.onnx, &args.output)?;
    Ok(Outcome::yes(written.report()))
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

impl From<&OnnxArgs> for LowerOptions {
    fn from(args: &OnnxArgs) -> Self {
        LowerOptions {
            opset: args.opset,
            seq: args.seq,
        }
    }
}

/// Where a model comes from, and the compact tokenizer that travels with it.
pub fn provenance(subject: &Subject) -> Result<(Provenance, Option<String>)> {
    let tokenizer = subject.tokenizer().map(tokenise::compact).transpose()?;
    let provenance = Provenance {
        source_sha256: subject.source_sha256(),
        tokenizer_sha256: tokenizer.as_ref().map(|t| tokenise::sha256(t.as_bytes())),
    };
    Ok((provenance, tokenizer))
}

/// Writes the model and its tokenizer, each wholly or not at all, and checks the file against its own Graph first.
pub fn write(subject: &Subject, model: &Model, onnx: &OnnxArgs, output: &Path) -> Result<Written> {
    let (provenance, tokenizer) = provenance(subject)?;
    let bytes = artifact::write(model, onnx.into(), &provenance)?;
    if let Some(difference) = audit::differences(&bytes)?.first() {
        bail!("the file made does not state its Graph: {difference}");
    }
    let beside = tokenizer_beside(output);
    if let Some(text) = &tokenizer {
        write_whole(&beside, text.as_bytes())?;
    }
    write_whole(output, &bytes)?;
    Ok(Written {
        model: (output.display().to_string(), bytes.len() as u64),
        tokenizer: tokenizer.map(|t| (beside.display().to_string(), t.len() as u64)),
    })
}

/// The output may replace an older one, but not the input: it may be mapped, and a failed write must lose nothing.
pub fn refuse_same_file(source: &Path, output: &Path) -> Result<()> {
    if output.exists() {
        let same = |p: &Path| p.canonicalize().with_context(|| p.display().to_string());
        if same(source)? == same(output)? {
            bail!("{} is the input; name another output file", output.display());
        }
    }
    Ok(())
}
