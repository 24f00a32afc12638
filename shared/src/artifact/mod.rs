//! The one file that is both valid ONNX and the image the board maps. Writing: a [`Model`] becomes aligned payloads, the
//! nodes `lower` states, and the ModelSpec in `metadata_props`. Opening: metadata and initializers are checked against each
//! other, and every tensor becomes a byte range. [`crate::artifact::verify`] holds the nodes to the ModelSpec. docs/format.md describes the bytes.

pub mod emit;
pub mod layout;
pub mod runtime;
pub mod tensors;
pub mod verify;

use self::tensors::Part;
use crate::artifact::emit::{LowerOptions, OPSETS, lower};
use crate::artifact::layout::{ALIGNMENT, TAIL};
use crate::artifact::runtime::{Order, Runtime};
use crate::dtype::{self, Format, I8_INPUTS};
use crate::file_kind::FileKind;
use crate::model::family;
use crate::model::sentence::Sentence;
use crate::model::weights::Weights;
use crate::model::{AttentionArithmetic, Config, ConfigError, Kind, Model, ModelSpec, WeightSpec};
use crate::onnx::reader::{self, ModelView, ReadError, TensorView};
use crate::onnx::writer::{self, DataType, OnnxModel};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::ops::Range;

/// The newest version of the `thimble.graph` text, and the last this program reads: that of the newest format, family or field. A
/// file states the least version that has what it uses, so that older programs read all they can.
pub const SCHEMA: u32 = newest(&[
    dtype::SINCE,
    family::SINCE,
    Sentence::SINCE,
    Runtime::SINCE,
    AttentionArithmetic::SINCE,
]);

const fn newest(versions: &[u32]) -> u32 {
    let (mut newest, mut at) = (1, 0);
    while at < versions.len() {
        if versions[at] > newest {
            newest = versions[at];
        }
        at += 1;
    }
    newest
}

/// The key in `metadata_props` of the JSON that states the network and the formats; a file with it is thimble's.
pub const KEY_GRAPH: &str = "thimble.graph";
pub(crate) const KEY_VERSION: &str = "thimble.version";
const KEY_FORMATS: &str = "thimble.formats";
const KEY_SOURCE: &str = "thimble.source_sha256";
const KEY_TOKENIZER: &str = "thimble.tokenizer_sha256";
const KEY_LABELS: &str = "thimble.labels";

/// Where a model came from; hexadecimal SHA-256 digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Of the checkpoint's weights file, or of the ONNX file that was imported; `None` where nobody stated it.
    pub source_sha256: Option<String>,
    /// Of the tokenizer.json beside the file; `None` where there was none.
    pub tokenizer_sha256: Option<String>,
}

/// A tensor's place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Element type of the initializer.
    pub data_type: DataType,
    /// Shape of the initializer as stored: a linear weight has the shape of its panels.
    pub dims: Vec<usize>,
    /// Bytes of the file that hold the payload; the start is a multiple of [`layout::ALIGNMENT`].
    pub range: Range<usize>,
}

/// A checked file: what it says of itself, and where its numbers lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// Network and formats, as the metadata state them.
    pub graph: ModelSpec,
    /// How the network is stated in ONNX.
    pub options: LowerOptions,
    /// Version of thimble that wrote the file.
    pub version: String,
    /// What the model was made of.
    pub provenance: Provenance,
    /// By initializer name: see [`Part::of`].
    pub tensors: BTreeMap<String, Stored>,
}

/// Why a file is not thimble's, contradicts itself, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The bytes are no sound ONNX file.
    #[error("{0}; the file is truncated, damaged or something else")]
    Read(ReadError),
    /// The file is of another kind, told by its bytes.
    #[error("{0}")]
    Foreign(FileKind),
    /// A sound ONNX file without [`KEY_GRAPH`].
    #[error("an ONNX file, but not thimble's: metadata_props has no '{KEY_GRAPH}'; make one with `thimble export`")]
    NotThimble,
    /// A value in `metadata_props` is missing, malformed or of a newer version.
    #[error("metadata '{key}': {problem}")]
    Metadata {
        /// Key of the value.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The hyperparameters cannot be those of a model.
    #[error("metadata '{KEY_GRAPH}', {0}")]
    Config(#[from] ConfigError),
    /// An operator set that the lowering cannot state itself in.
    #[error("opset {0} is outside {min} to {max}", min = OPSETS.start(), max = OPSETS.end())]
    Opset(i64),
    /// A fixed sequence length beyond the model's positions.
    #[error("seq {seq} is outside 1 to the model's max_position_embeddings {max}")]
    Seq {
        /// The length asked for or stated.
        seq: usize,
        /// `max_position_embeddings`.
        max: usize,
    },
    /// A tensor is missing, of another shape or type than the metadata say, or holds a number that may not stand there.
    #[error("tensor '{name}': {problem}")]
    Tensor {
        /// Name of the initializer.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A payload is not aligned, so kernels cannot read it in place.
    #[error(
        "tensor '{name}' starts at byte {offset}, not at a multiple of {ALIGNMENT}: the file was re-saved by another tool; \
         run `thimble export` on it or on its checkpoint again"
    )]
    Misaligned {
        /// Name of the initializer.
        name: String,
        /// Byte of the file where its payload starts.
        offset: usize,
    },
    /// Writing failed.
    #[error("cannot be written: {0}")]
    Write(#[from] io::Error),
    /// The file is made for another runtime than a board's.
    #[error(
        "made for {0} (--for {0}), and a board maps what is made for it; `thimble export FILE -o OUT.onnx` makes that of this file"
    )]
    OtherRuntime(Runtime),
    /// The zero bytes that kernels may read behind the last payload are not there.
    #[error(
        "fewer than {TAIL} bytes follow the last payload: the file was re-saved by another tool; run `thimble export` again"
    )]
    NoTail,
}

impl From<ReadError> for ArtifactError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Foreign(kind) => ArtifactError::Foreign(kind),
            other => ArtifactError::Read(other),
        }
    }
}

fn tensor_error(name: &str, problem: impl Into<String>) -> ArtifactError {
    ArtifactError::Tensor {
        name: name.to_string(),
        problem: problem.into(),
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GraphText {
    schema: u32,
    opset: i64,
    seq: Option<usize>,
    /// What the file is for; left out where that is a board.
    #[serde(rename = "for", default, skip_serializing_if = "Runtime::is_board")]
    runtime: Runtime,
    config: Config,
    weights: Vec<WeightText>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct WeightText {
    name: String,
    shape: Vec<usize>,
    format: Format,
}

fn check_options(config: &Config, options: LowerOptions) -> Result<(), ArtifactError> {
    if !OPSETS.contains(&options.opset) {
        return Err(ArtifactError::Opset(options.opset));
    }
    if config.attention != AttentionArithmetic::F32 && options.runtime != Runtime::Board {
        return Err(bad_graph(format!(
            "attention in {} is for boards, and the file is for {}",
            config.attention, options.runtime
        )));
    }
    if let Some(seq) = options.seq
        && !(1..=config.max_position_embeddings).contains(&seq)
    {
        return Err(ArtifactError::Seq {
            seq,
            max: config.max_position_embeddings,
        });
    }
    Ok(())
}

fn check_formats(graph: &ModelSpec) -> Result<(), ArtifactError> {
    let mut weights = graph.config.weights().into_iter();
    match weights.find(|w| !tensors::fits(w, graph.format(&w.name))) {
        None => Ok(()),
        Some(w) => Err(tensor_error(
            &w.name,
            format!(
                "has {} inputs, more than the {I8_INPUTS} that int8 sums hold; store it as f32, f16 or w8",
                w.shape[1]
            ),
        )),
    }
}

pub(crate) fn assemble(
    graph: &ModelSpec,
    options: LowerOptions,
    provenance: &Provenance,
) -> Result<OnnxModel, ArtifactError> {
    graph.config.check()?;
    check_options(&graph.config, options)?;
    check_formats(graph)?;
    let weights: Vec<WeightText> = graph
        .config
        .weights()
        .into_iter()
        .filter(|w| w.kind != Kind::Vector)
        .map(|w| WeightText {
            format: graph.format(&w.name),
            name: w.name,
            shape: w.shape,
        })
        .collect();
    let mut formats: Vec<String> = weights.iter().map(|w| w.format.to_string()).collect();
    formats.sort();
    formats.dedup();
    let text = GraphText {
        schema: weights
            .iter()
            .map(|w| w.format.since())
            .fold(graph.config.since().max(options.runtime.since()), u32::max),
        opset: options.opset,
        seq: options.seq,
        runtime: options.runtime,
        config: graph.config.clone(),
        weights,
    };
    let json = |key, value: serde_json::Result<String>| {
        value.map_err(|e| ArtifactError::Metadata {
            key,
            problem: e.to_string(),
        })
    };
    let mut metadata = vec![
        (KEY_GRAPH.to_string(), json(KEY_GRAPH, serde_json::to_string(&text))?),
        (KEY_VERSION.to_string(), env!("CARGO_PKG_VERSION").to_string()),
        (KEY_FORMATS.to_string(), formats.join(",")),
    ];
    for (key, value) in [
        (KEY_SOURCE, &provenance.source_sha256),
        (KEY_TOKENIZER, &provenance.tokenizer_sha256),
    ] {
        metadata.extend(value.iter().map(|v| (key.to_string(), v.clone())));
    }
    if !graph.config.labels.is_empty() {
        metadata.push((
            KEY_LABELS.to_string(),
            json(KEY_LABELS, serde_json::to_string(&graph.config.labels))?,
        ));
    }
    let lowered = lower(graph, options);
    Ok(OnnxModel {
        name: graph.config.family.row().model_type.to_string(),
        opset: options.opset,
        producer_version: env!("CARGO_PKG_VERSION").to_string(),
        metadata,
        nodes: lowered.nodes,
        constants: lowered.constants,
        mapped: tensors::tensors(graph, options.runtime.order()),
        inputs: lowered.inputs,
        outputs: lowered.outputs,
    })
}

/// The exact size of the file [`write()`] makes of a model with this graph.
///
/// # Errors
/// Hyperparameters, options or formats that no file can have.
pub fn size(graph: &ModelSpec, options: LowerOptions, provenance: &Provenance) -> Result<usize, ArtifactError> {
    Ok(writer::size(&assemble(graph, options, provenance)?))
}

/// The whole file. Same model and options, same bytes.
///
/// # Errors
/// Those of [`Writer::new`].
pub fn write(model: &Model, options: LowerOptions, provenance: &Provenance) -> Result<Vec<u8>, ArtifactError> {
    let writer = Writer::new(model, options, provenance)?;
    let mut file = Vec::with_capacity(writer.size());
    writer.write_to(&mut file)?;
    Ok(file)
}

/// A file that can be written: everything of it is settled and its numbers are fit to be stored.
pub struct Writer<'a> {
    model: &'a Model,
    onnx: OnnxModel,
    order: Order,
}

impl<'a> Writer<'a> {
    /// Checks the model and lays its file out.
    ///
    /// # Errors
    /// What a file cannot hold, by tensor or field.
    pub fn new(model: &'a Model, options: LowerOptions, provenance: &Provenance) -> Result<Writer<'a>, ArtifactError> {
        model.config.check()?;
        check_values(model)?;
        let onnx = assemble(&model.graph(), options, provenance)?;
        Ok(Writer {
            model,
            onnx,
            order: options.runtime.order(),
        })
    }

    /// The exact size of the file, bytes.
    pub fn size(&self) -> usize {
        writer::size(&self.onnx)
    }

    /// Writes the file from its first byte to its last; of its numbers a small part is held at a time. Same model and options,
    /// same bytes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let weights = self.model.config.weights();
        let parts: HashMap<String, (&WeightSpec, Part)> = weights
            .iter()
            .flat_map(|w| Part::ALL.map(|part| (part.of(&w.name), (w, part))))
            .collect();
        writer::write_to(&self.onnx, out, |tensor, out| {
            let (spec, part) = parts[&tensor.name];
            tensors::write_payload(spec, &self.model.weights[&spec.name], part, self.order, out)
        })
    }
}

/// Every weight present and fit to be stored.
fn check_values(model: &Model) -> Result<(), ArtifactError> {
    for spec in model.config.weights() {
        let problem = match model.weights.get(&spec.name) {
            Some(values) => tensors::problem(&spec, values),
            None => Some("is missing".to_string()),
        };
        if let Some(problem) = problem {
            return Err(tensor_error(&spec.name, problem));
        }
    }
    Ok(())
}

/// Opens a file: checks that metadata and initializers agree and that every payload can be mapped.
///
/// # Errors
/// Any [`ArtifactError`] but [`ArtifactError::Write`].
pub fn open(bytes: &[u8]) -> Result<Artifact, ArtifactError> {
    let artifact = open_view(&reader::model(bytes)?, bytes.len(), Placement::Mapped)?;
    if artifact.options.runtime != Runtime::Board {
        return Err(ArtifactError::OtherRuntime(artifact.options.runtime));
    }
    check_small(&artifact, bytes)?;
    Ok(artifact)
}

/// Opens a file that another tool has saved again, or one made for another runtime: all of [`open`] but where payloads lie. It can be
/// read and written anew, not mapped.
///
/// # Errors
/// Those of [`open`] but [`ArtifactError::Misaligned`], [`ArtifactError::NoTail`] and [`ArtifactError::OtherRuntime`].
pub fn open_resaved(bytes: &[u8]) -> Result<Artifact, ArtifactError> {
    open_view(&reader::model(bytes)?, bytes.len(), Placement::Anywhere)
}

/// Looks at every scale and vector. They lie together and are few, and one NaN among them spoils every output without a
/// word. The numbers themselves are looked at when a file is written: here that would read the whole file from storage.
fn check_small(artifact: &Artifact, file: &[u8]) -> Result<(), ArtifactError> {
    for spec in artifact.graph.config.weights() {
        let (part, problem): (Part, fn(&[f32]) -> Option<&'static str>) = match spec.kind {
            Kind::Vector => (Part::Numbers, tensors::float_problem),
            Kind::Table | Kind::Linear => (Part::Scales, tensors::scale_problem),
        };
        let name = part.of(&spec.name);
        if let Some(payload) = artifact.payload(file, &name)
            && let Some(problem) = problem(&tensors::f32s(payload))
        {
            return Err(tensor_error(&name, problem));
        }
    }
    Ok(())
}

/// Where payloads may lie in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Aligned and followed by the tail: kernels can compute from a map.
    Mapped,
    Anywhere,
}

pub(crate) fn open_view(
    view: &ModelView<'_>,
    file_len: usize,
    placement: Placement,
) -> Result<Artifact, ArtifactError> {
    let meta = |key: &str| {
        view.metadata
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.to_string())
    };
    let text = graph_text(&meta(KEY_GRAPH).ok_or(ArtifactError::NotThimble)?)?;
    text.config.check()?;
    if text.opset != view.opset {
        return Err(bad_graph(format!(
            "opset {} but the file imports {}",
            text.opset, view.opset
        )));
    }
    let options = LowerOptions {
        opset: text.opset,
        seq: text.seq,
        runtime: text.runtime,
    };
    check_options(&text.config, options)?;
    if text.runtime.since() > text.schema {
        return Err(bad_graph(format!(
            "schema {}, but what it is for came with schema {}",
            text.schema,
            text.runtime.since()
        )));
    }
    let formats = listed_formats(&text)?;
    let graph = ModelSpec {
        config: text.config,
        formats,
    };
    check_formats(&graph)?;
    let tensors = locate(view, &graph, options.runtime.order(), file_len, placement)?;
    Ok(Artifact {
        graph,
        options,
        version: meta(KEY_VERSION).unwrap_or_default(),
        provenance: Provenance {
            source_sha256: meta(KEY_SOURCE),
            tokenizer_sha256: meta(KEY_TOKENIZER),
        },
        tensors,
    })
}

/// The error of a graph description that does not hold.
fn bad_graph(problem: String) -> ArtifactError {
    ArtifactError::Metadata {
        key: KEY_GRAPH,
        problem,
    }
}

/// Reads the graph's description, whose schema this program must know.
fn graph_text(text: &str) -> Result<GraphText, ArtifactError> {
    let bad = bad_graph;
    let raw: serde_json::Value = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    match raw.get("schema").and_then(|s| s.as_u64()) {
        Some(schema) if (1..=u64::from(SCHEMA)).contains(&schema) => {}
        Some(schema) => {
            return Err(bad(format!(
                "schema {schema}, this program reads 1 to {SCHEMA}; use a newer thimble"
            )));
        }
        None => return Err(bad("no schema number".into())),
    }
    serde_json::from_value(raw).map_err(|e| bad(e.to_string()))
}

/// The format of each weight, by name; the list must be the one the configuration has.
fn listed_formats(text: &GraphText) -> Result<BTreeMap<String, Format>, ArtifactError> {
    let bad = bad_graph;
    let specs: Vec<WeightSpec> = text
        .config
        .weights()
        .into_iter()
        .filter(|w| w.kind != Kind::Vector)
        .collect();
    if specs.len() != text.weights.len() {
        return Err(bad(format!(
            "{} weights listed, the config has {}",
            text.weights.len(),
            specs.len()
        )));
    }
    let mut formats = BTreeMap::new();
    if text.config.since() > text.schema {
        return Err(bad(format!(
            "schema {}, but the network has what came with schema {}",
            text.schema,
            text.config.since()
        )));
    }
    for (spec, said) in specs.iter().zip(&text.weights) {
        if spec.name != said.name || spec.shape != said.shape {
            return Err(bad(format!(
                "weight '{}' {:?} stands where the config has '{}' {:?}",
                said.name, said.shape, spec.name, spec.shape
            )));
        }
        if said.format.since() > text.schema {
            return Err(bad(format!(
                "schema {}, but weight '{}' is in {}, which came with schema {}",
                text.schema,
                said.name,
                said.format,
                said.format.since()
            )));
        }
        formats.insert(said.name.clone(), said.format);
    }
    Ok(formats)
}

/// Finds every stored tensor among the initializers.
fn locate(
    view: &ModelView<'_>,
    graph: &ModelSpec,
    order: Order,
    file_len: usize,
    placement: Placement,
) -> Result<BTreeMap<String, Stored>, ArtifactError> {
    let mut by_name: HashMap<&str, &TensorView> = HashMap::with_capacity(view.initializers.len());
    for tensor in &view.initializers {
        if by_name.insert(tensor.name, tensor).is_some() {
            return Err(tensor_error(tensor.name, "stands twice among the initializers"));
        }
    }
    let mut stored = BTreeMap::new();
    for want in tensors::tensors(graph, order) {
        let name = want.name.as_str();
        let tensor = by_name
            .get(name)
            .ok_or_else(|| tensor_error(name, "is missing from the initializers"))?;
        let dims: Vec<i64> = want.dims.iter().map(|&d| d as i64).collect();
        if tensor.dims != dims || tensor.data_type != want.data_type.code() {
            return Err(tensor_error(
                name,
                format!(
                    "has ONNX type {} and dims {:?}, the graph needs type {} and {:?}",
                    tensor.data_type,
                    tensor.dims,
                    want.data_type.code(),
                    dims
                ),
            ));
        }
        if tensor.external {
            return Err(tensor_error(
                name,
                "keeps its numbers in another file; thimble's are one file: run `thimble export` again",
            ));
        }
        let range = tensor
            .raw
            .clone()
            .ok_or_else(|| tensor_error(name, "has no raw_data; the file was re-saved by another tool"))?;
        if range.len() != want.bytes() {
            return Err(tensor_error(
                name,
                format!("has {} bytes, its dims need {}", range.len(), want.bytes()),
            ));
        }
        if placement == Placement::Mapped && !range.start.is_multiple_of(ALIGNMENT) {
            return Err(ArtifactError::Misaligned {
                name: want.name,
                offset: range.start,
            });
        }
        if placement == Placement::Mapped && file_len - range.end < TAIL {
            return Err(ArtifactError::NoTail);
        }
        stored.insert(
            want.name,
            Stored {
                data_type: want.data_type,
                dims: want.dims,
                range,
            },
        );
    }
    Ok(stored)
}

impl Artifact {
    /// The bytes of a stored tensor. `file` must be the file this artifact was opened from.
    pub fn payload<'a>(&self, file: &'a [u8], name: &str) -> Option<&'a [u8]> {
        file.get(self.tensors.get(name)?.range.clone())
    }

    /// Reads every number back into logical order.
    ///
    /// # Errors
    /// [`ArtifactError::Tensor`] where a number may not stand there. `file` must be the file that was opened.
    pub fn model(&self, file: &[u8]) -> Result<Model, ArtifactError> {
        self.model_of(file, &|_| ())
    }

    /// The same; `read` is told which bytes of the file are not needed again.
    ///
    /// # Errors
    /// Those of [`Artifact::model`].
    pub fn model_of<'a>(&self, file: &'a [u8], read: &dyn Fn(&'a [u8])) -> Result<Model, ArtifactError> {
        let mut weights = Weights::new();
        for spec in self.graph.config.weights() {
            let values = tensors::read(&spec, self.stored_as(&spec), |part| self.part(file, &spec, part), read)?;
            weights.insert(spec.name, values);
        }
        let model = Model {
            config: self.graph.config.clone(),
            weights,
        };
        check_values(&model)?;
        Ok(model)
    }

    /// Looks at every stored number, a small part at a time: an error where one may not stand there.
    pub(crate) fn check_numbers<'a>(&self, file: &'a [u8], read: &dyn Fn(&'a [u8])) -> Result<(), ArtifactError> {
        for spec in self.graph.config.weights() {
            let get = |part| self.part(file, &spec, part);
            if let Some(problem) = tensors::stored_problem(&spec, self.stored_as(&spec), get, read)? {
                return Err(tensor_error(&spec.name, problem));
            }
        }
        Ok(())
    }

    /// How a weight is stored.
    fn stored_as(&self, spec: &WeightSpec) -> (Format, Order) {
        let format = match spec.kind {
            Kind::Vector => Format::F32,
            Kind::Table | Kind::Linear => self.graph.format(&spec.name),
        };
        (format, self.options.runtime.order())
    }

    fn part<'a>(&self, file: &'a [u8], spec: &WeightSpec, part: Part) -> Result<&'a [u8], ArtifactError> {
        let name = part.of(&spec.name);
        self.payload(file, &name)
            .ok_or_else(|| tensor_error(&name, "is not in the file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::verify;
    use crate::dtype::Values;
    use crate::model::Head;
    use crate::model::config::tests::tiny;

    fn model(head: Head, format: Format) -> Model {
        let config = tiny(head);
        let weights = config
            .weights()
            .into_iter()
            .map(|w| {
                let data: Vec<f32> = (0..w.elements())
                    .map(|i| ((i * 7919 + w.name.len()) % 1000) as f32 / 500.0 - 1.0)
                    .collect();
                let format = if w.kind == Kind::Vector { Format::F32 } else { format };
                (w.name.clone(), Values::round_to_nearest(format, &data, w.rows()))
            })
            .collect();
        Model { config, weights }
    }

    fn file(head: Head, format: Format) -> Vec<u8> {
        write(&model(head, format), LowerOptions::default(), &Provenance::default()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_for_every_head_and_format() {
        let heads = [
            Head::MaskedLm,
            Head::None,
            Head::PreTraining,
            Head::SequenceClassification,
            Head::QuestionAnswering,
            Head::SentenceEmbedding,
        ];
        // An interpreter takes minutes for one file.
        let (heads, formats) = match cfg!(miri) {
            true => (&heads[..1], &[Format::F16, Format::I8A, Format::I4][..]),
            false => (&heads[..], &Format::ALL[..]),
        };
        for &head in heads {
            for &format in formats {
                let model = model(head, format);
                let file = file(head, format);
                let artifact = open(&file).unwrap();
                assert_eq!(artifact.model(&file).unwrap(), model);
                assert_eq!(
                    file.len(),
                    size(&model.graph(), LowerOptions::default(), &Provenance::default()).unwrap()
                );
                assert_eq!(verify::differences(&file).unwrap(), Vec::<String>::new());
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "reads several files")]
    fn a_file_states_the_least_version_that_has_its_formats() {
        for format in Format::ALL {
            let said = format!("{{\"schema\":{},", format.since());
            let whole = file(Head::None, format);
            let at = whole.windows(said.len()).position(|w| w == said.as_bytes());
            let at = at.unwrap_or_else(|| panic!("{format} has no {said}")) + said.len() - 2;
            let swapped = |version: u8| {
                let mut file = whole.clone();
                file[at] = version;
                open(&file).map(|artifact| artifact.graph.formats)
            };
            for version in 1..=SCHEMA {
                let found = swapped(b'0' + version as u8);
                if version >= format.since() {
                    assert!(found.is_ok(), "{format} in {version}");
                    continue;
                }
                let words = format!("is in {format}, which came with schema {}", format.since());
                assert!(found.unwrap_err().to_string().contains(&words), "{format} in {version}");
            }
            let error = swapped(b'0' + SCHEMA as u8 + 1).unwrap_err().to_string();
            let words = format!("schema {}, this program reads 1 to {SCHEMA}", SCHEMA + 1);
            assert!(error.contains(&words), "{error}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "reads several files")]
    fn a_sentence_embedding_states_version_3() {
        let mut file = file(Head::SentenceEmbedding, Format::I8);
        let said = b"{\"schema\":3,";
        let at = file.windows(said.len()).position(|w| w == said).unwrap() + said.len() - 2;
        assert!(open(&file).unwrap().graph.config.sentence.is_some());
        file[at] = b'2';
        let error = open(&file).unwrap_err().to_string();
        assert!(
            error.contains("schema 2, but the network has what came with schema 3"),
            "{error}"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "reads hundreds of files")]
    fn every_truncation_is_an_error() {
        let file = file(Head::SequenceClassification, Format::I8);
        for len in (0..file.len()).step_by(97).chain(file.len() - 200..file.len()) {
            assert!(open(&file[..len]).is_err(), "{len} of {} bytes opened", file.len());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "reads hundreds of files")]
    fn every_flipped_byte_is_an_error_or_opens_without_a_panic() {
        let whole = file(Head::None, Format::I8);
        for at in (0..whole.len().min(20_000)).step_by(3) {
            let mut file = whole.clone();
            file[at] ^= 0x55;
            if open(&file).is_ok() {
                let _ = verify::differences(&file);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "reads hundreds of files")]
    fn edited_nodes_and_metadata_are_named() {
        let whole = file(Head::None, Format::F32);
        let swap = |from: &str, to: &str| {
            let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let mut file = whole.clone();
            file[at..at + to.len()].copy_from_slice(to.as_bytes());
            file
        };
        let cases = [
            ("Softmax", "Hardmax", "L0.probs"),
            ("LayerNormalization", "layerNormalization", "embed"),
        ];
        for (from, to, node) in cases {
            let differences = verify::differences(&swap(from, to)).unwrap();
            assert!(differences.iter().any(|d| d.contains(node)), "{from}: {differences:?}");
        }
        let error = open(&swap("\"hidden_size\":24", "\"hidden_size\":48"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("weight"), "{error}");
        let error = open(&swap("\"gelu_new\"", "\"gelu_old\"")).unwrap_err().to_string();
        assert!(error.contains("gelu_old"), "{error}");
    }
}
