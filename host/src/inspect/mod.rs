//! Where the bytes of an ONNX file are, and why. For thimble's own files: per weight, its format, bytes and share, with
//! whatever the file's nodes state differently from its ModelSpec; for any ONNX: its bytes by cause, what each fix would save,
//! and its initializers by size. Sizes are bytes.

pub(crate) mod causes;
pub(crate) mod fixes;
pub(crate) mod growth;
pub mod html;
pub mod ledger;
pub(crate) mod tiles;

use crate::onnx::flow::Flow;
use crate::onnx::{OnnxError, OnnxFile, element_type};
use crate::render::text::shell_path;
use causes::Account;
use std::path::Path;
use std::rc::Rc;

use serde::Serialize;
use std::collections::BTreeMap;
use thimble_device::image::pages;
use thimble_shared::ANSWER_SCHEMA;
use thimble_shared::artifact::emit::{Runtime, scale};
use thimble_shared::artifact::verify;
use thimble_shared::artifact::{self, Artifact, ArtifactError};
use thimble_shared::dtype::Format;
use thimble_shared::model::sentence::Sentence;
use thimble_shared::model::{AttentionArithmetic, Kind, WeightSpec};
use thimble_shared::onnx::reader;

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartBytes {
    /// Of a thimble weight or of an initializer.
    pub name: String,
    /// As the file states it; a negative size of a foreign file shows as 0.
    pub shape: Vec<usize>,
    /// Number format of a thimble weight, or element type of an initializer, with a word where it lies in another file.
    pub format: String,
    /// Bytes in the file, scales included.
    pub bytes: u64,
    /// How many times the layers use it.
    pub uses: usize,
    /// What a weight of thimble's is in the network; none for an initializer.
    #[serde(skip)]
    pub spec: Option<WeightSpec>,
}

/// What `thimble inspect` says of one file; `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Version of the JSON's schema, 1.
    pub schema: u32,
    /// Path as it was given.
    pub file: String,
    /// Size of the file itself, external files not included.
    pub bytes: u64,
    /// "thimble" or "onnx".
    pub kind: &'static str,
    /// Program that wrote the file; empty where it does not say.
    pub producer: String,
    /// Version of the default operator set; 0 when none is imported.
    pub opset: i64,
    /// What a file of thimble's is made for: board, onnxruntime or onnx.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// Name of the head, for thimble's own files.
    pub head: Option<String>,
    /// How tokens become a sentence's embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentence: Option<Sentence>,
    /// Layers of the network, for thimble's own files.
    pub layers: Option<usize>,
    /// The arithmetic of attention where it is not f32, for thimble's own files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionArithmetic>,
    /// Weights in the order of the network, or a foreign file's initializers, largest first.
    pub parts: Vec<PartBytes>,
    /// Bytes that are no weight's: nodes, names, metadata, alignment.
    pub rest: u64,
    /// SHA-256 of the checkpoint, where a file of thimble's states it.
    pub source_sha256: Option<String>,
    /// SHA-256 of the tokenizer.json, where a file of thimble's states it.
    pub tokenizer_sha256: Option<String>,
    /// What the nodes state differently from the ModelSpec, or a stored number that may not stand there.
    pub differences: Vec<String>,
    /// Every byte by cause, external files included.
    pub account: Account,
    /// What would make the file smaller, the most first.
    pub fixes: Vec<Fix>,
}

/// One way to a smaller file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fix {
    /// What the fix does, for people.
    pub what: String,
    /// The command line that does it.
    pub command: String,
    /// Size of the model after it, external files included.
    pub bytes: u64,
    /// Bytes it takes off the model as it is now.
    pub saves: u64,
}

/// Why a file cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// A file of thimble's contradicts itself.
    #[error("{path}: {source}")]
    Artifact {
        /// The file.
        path: String,
        /// What is wrong in it.
        source: ArtifactError,
    },
    /// The file, or one its tensors point to, cannot be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
}

impl Explanation {
    /// What the same weights take in f32, row-major.
    pub fn parameters(&self) -> u64 {
        self.parts
            .iter()
            .map(|p| p.shape.iter().product::<usize>() as u64)
            .sum()
    }
}

/// Explains the file at `path`.
///
/// # Errors
/// Where the file cannot be read, or is thimble's and contradicts itself.
pub fn explain(path: &Path) -> Result<Explanation, ExplainError> {
    let file = OnnxFile::open(path)?;
    let (bytes, view) = (file.bytes(), Rc::new(file.view()?));
    let artifact = |source| ExplainError::Artifact {
        path: path.display().to_string(),
        source,
    };
    let flow = Rc::new(Flow::of(&view).map_err(|e| file.wire_error(e))?);
    let account = causes::account(&file, &view, &flow)?;
    let opened = artifact::open(bytes);
    let mut resaved = matches!(opened, Err(ArtifactError::Misaligned { .. } | ArtifactError::NoTail));
    let unmapped = resaved || matches!(opened, Err(ArtifactError::OtherRuntime(_)));
    let opened = if unmapped {
        artifact::open_resaved(bytes)
    } else {
        opened
    };
    let mut explanation = match opened {
        Ok(opened) => own(&opened, &file).map_err(artifact)?,
        Err(ArtifactError::NotThimble) => foreign(&view, &account),
        Err(_) if view.initializers.iter().any(|t| t.external) => {
            resaved = true;
            foreign(&view, &account)
        }
        Err(other) => return Err(artifact(other)),
    };
    explanation.account = account;
    if resaved {
        let again = resaved_note(&file.path, explanation.kind);
        explanation.account.notes.push(again);
    }
    explanation.account.notes.extend(session_note(&explanation));
    explanation.file = path.display().to_string();
    explanation.bytes = bytes.len() as u64;
    explanation.producer = view.producer.to_string();
    explanation.opset = view.opset;
    explanation.rest = explanation
        .account
        .total()
        .saturating_sub(explanation.parts.iter().map(|p| p.bytes).sum::<u64>());
    if explanation.kind == "onnx" {
        explanation.fixes = fixes::of(&file, view, flow, &explanation.account)?;
    }
    file.unchanged().map_err(OnnxError::from)?;
    Ok(explanation)
}

/// What a session of ONNX Runtime's may be told so that it needs less RAM. MatMulNBits needs its packed weights: unpacked ones
/// are widened at every use.
fn session_note(explanation: &Explanation) -> Option<String> {
    let runtime = explanation.runtime?;
    let in_blocks = explanation.parts.iter().any(|part| part.format == Format::W4.name());
    (runtime.is_onnxruntime() && !in_blocks).then(|| {
        "made for ONNX Runtime, which keeps a packed copy of each weight: with the session entry session.disable_prepacking=1 it \
         needs less RAM and more time (docs/onnx-runtime.md)"
            .to_string()
    })
}

/// What has become of a file of thimble's that another tool has saved again, and the way back.
fn resaved_note(path: &Path, kind: &str) -> String {
    let file = shell_path(path);
    let back = match kind {
        "thimble" => format!("thimble export {file} -o OUT.onnx writes it as it was"),
        _ => format!("thimble slim {file} -o ONE.onnx --one-file, then thimble export ONE.onnx -o OUT.onnx"),
    };
    format!("another tool has saved this file of thimble's again, and no board can map it as it lies now: {back}")
}

fn empty(kind: &'static str) -> Explanation {
    Explanation {
        schema: ANSWER_SCHEMA,
        file: String::new(),
        bytes: 0,
        kind,
        producer: String::new(),
        opset: 0,
        runtime: None,
        head: None,
        sentence: None,
        layers: None,
        attention: None,
        parts: vec![],
        rest: 0,
        source_sha256: None,
        tokenizer_sha256: None,
        differences: vec![],
        account: Account::default(),
        fixes: vec![],
    }
}

fn own(artifact: &Artifact, file: &OnnxFile) -> Result<Explanation, ArtifactError> {
    let config = &artifact.graph.config;
    let stored = |name: &str| artifact.tensors.get(name).map_or(0, |s| s.range.len() as u64);
    let groups = config.layer_groups();
    let parts = config
        .weights()
        .into_iter()
        .map(|spec| {
            let layer_group = spec.name.split('.').next().and_then(|g| g.parse::<usize>().ok());
            let uses = layer_group.map_or(1, |group| groups.iter().filter(|&&g| g == group).count());
            let format = if spec.kind == Kind::Vector {
                "f32".into()
            } else {
                artifact.graph.format(&spec.name).to_string()
            };
            PartBytes {
                bytes: stored(&spec.name) + stored(&scale(&spec.name)),
                name: spec.name.clone(),
                shape: spec.shape.clone(),
                format,
                uses,
                spec: Some(spec),
            }
        })
        .collect();
    Ok(Explanation {
        runtime: Some(artifact.options.runtime),
        head: Some(config.head.name().to_string()),
        sentence: config.sentence.clone(),
        layers: Some(config.num_hidden_layers),
        attention: Some(config.attention).filter(|arithmetic| *arithmetic != AttentionArithmetic::F32),
        parts,
        source_sha256: artifact.provenance.source_sha256.clone(),
        tokenizer_sha256: artifact.provenance.tokenizer_sha256.clone(),
        differences: {
            // Reading the file took other parts of the program than reading its numbers does.
            pages::forget_program();
            verify::differences_of(file.bytes(), &|part| file.release(part))?
        },
        ..empty("thimble")
    })
}

fn foreign(view: &reader::ModelView<'_>, account: &Account) -> Explanation {
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for input in view.nodes.iter().flat_map(|n| &n.inputs) {
        *uses.entry(input).or_default() += 1;
    }
    let mut parts: Vec<PartBytes> = view
        .initializers
        .iter()
        .zip(&account.tensors)
        .map(|(t, tensor)| PartBytes {
            name: t.name.to_string(),
            shape: t.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect(),
            format: match t.external {
                true => format!("{}, in another file", element_type(t.data_type)),
                false => element_type(t.data_type).to_string(),
            },
            bytes: tensor.bytes,
            uses: uses.get(t.name).copied().unwrap_or(0),
            spec: None,
        })
        .collect();
    parts.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.name.cmp(&b.name)));
    Explanation { parts, ..empty("onnx") }
}
