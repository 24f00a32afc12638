//! Takes ALBERT out of an ONNX file another tool wrote. In comes any .onnx, out comes thimble's `Model` with the numbers as
//! they were stored, proven: the file itself under tract-onnx and the rebuilt Graph under the engine must agree on inputs
//! made up for the purpose. A file that is no ALBERT, or is another ALBERT than was read out of it, is refused.

mod cost;
mod embedding;
mod head;
mod layers;
mod neighbours;
mod prove;
mod sane;
mod trace;
mod weights;

use crate::onnx::flow::Flow;
use crate::onnx::{OnnxError, OnnxFile, element_type};
use crate::text::printable;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use thimble_shared::graph::{Config, Kind, Model};
use thimble_shared::number::Values;
use thimble_shared::onnx_read::ModelView;
use thimble_shared::weights::Weights;
use trace::Trace;
use weights::Matrix;

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    #[error("{file}: this is no ALBERT: {problem}; it looks like {looks}")]
    NotAlbert {
        file: String,
        problem: String,
        looks: String,
    },
    #[error(
        "{file}: its weights are already quantised ({how}); import the file it was quantised from, and let thimble quantise"
    )]
    Quantised { file: String, how: String },
    #[error("{file}: {problem}")]
    Unsupported { file: String, problem: String },
    #[error("{file}: tract-onnx, which must run the file for the proof, cannot: {problem}")]
    Runner { file: String, problem: String },
    #[error(
        "{file}: read as ALBERT, but the proof fails: the file and the model read out of it part at {place} (by {gap:.3e}, at most {limit:.1e} is rounding)"
    )]
    Parts {
        file: String,
        place: String,
        gap: f64,
        limit: f64,
    },
}

/// An ALBERT read out of somebody's ONNX file.
pub struct Imported {
    pub model: Model,
    /// SHA-256 of the .onnx file.
    pub sha256: String,
    pub tokenizer: Option<PathBuf>,
    /// Every file it was read from.
    pub files: Vec<PathBuf>,
    pub notes: Vec<String>,
    /// Fixed by the file: its sequence length.
    pub seq: Option<usize>,
}

/// What recognition finds before any proof.
struct Recognised<'a> {
    config: Config,
    weights: BTreeMap<String, Matrix<'a>>,
    /// The value that holds the hidden state after the embedding and after every layer.
    states: Vec<&'a str>,
    /// The file's outputs and what thimble calls them.
    outputs: Vec<(&'a str, &'static str)>,
    inputs: Inputs<'a>,
    notes: Vec<String>,
}

/// The file's inputs by what goes into them, with the dims it fixes.
#[derive(Clone, Debug, Default)]
struct Inputs<'a> {
    ids: &'a str,
    types: Option<&'a str>,
    mask: Option<&'a str>,
    /// `[batch, seq]` or `[batch, choices, seq]`; none where the file leaves it open.
    shape: Vec<Option<usize>>,
}

/// Reads and proves the model in the file at `path`.
pub fn open(path: &Path) -> Result<Imported, ImportError> {
    let file = OnnxFile::open(path)?;
    let view = Rc::new(file.view()?);
    let flow = Rc::new(Flow::of(&view).map_err(|e| file.wire_error(e))?);
    let (mut recognised, beside) = recognise(&file, view, flow)?;
    let model = model(&file, &recognised)?;
    let shapes = prove::prove(&file, &recognised, &model)?;
    recognised.notes.extend(shapes);
    let mut files = file.paths();
    files.extend(beside.config);
    let sha256 = Sha256::digest(file.bytes())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    // Numbers of which some are old and some new are no model's.
    file.unchanged().map_err(OnnxError::from)?;
    recognised.notes.insert(
        0,
        format!(
            "{}: ALBERT with {} layers, head: {}; the file under tract-onnx and what was read out of it agree",
            path.display(),
            model.config.num_hidden_layers,
            model.config.head.name()
        ),
    );
    Ok(Imported {
        seq: recognised.inputs.shape.last().copied().flatten(),
        model,
        sha256,
        tokenizer: beside.tokenizer,
        files,
        notes: recognised.notes,
    })
}

/// What a file would be imported as: read from its structure, without proof.
pub struct Outline {
    pub config: Config,
    pub seq: Option<usize>,
    pub tokenizer: Option<PathBuf>,
}

pub fn outline<'a>(file: &'a OnnxFile, view: Rc<ModelView<'a>>, flow: Rc<Flow<'a>>) -> Result<Outline, ImportError> {
    let (recognised, beside) = recognise(file, view, flow)?;
    Ok(Outline {
        seq: recognised.inputs.shape.last().copied().flatten(),
        config: recognised.config,
        tokenizer: beside.tokenizer,
    })
}

fn recognise<'a>(
    file: &'a OnnxFile,
    view: Rc<ModelView<'a>>,
    flow: Rc<Flow<'a>>,
) -> Result<(Recognised<'a>, neighbours::Neighbours), ImportError> {
    let trace = Trace::new(file, view, flow)?;
    // Leftovers that no output needs say nothing of the weights.
    let quantised: Vec<&str> = trace
        .view
        .nodes
        .iter()
        .filter(|n| trace.needs(n))
        .map(|n| n.op)
        .filter(|op| QUANTISED.contains(op))
        .collect();
    if let Some(first) = quantised.first() {
        return Err(ImportError::Quantised {
            file: file.path.display().to_string(),
            how: format!("{} nodes such as {first}", quantised.len()),
        });
    }
    if let Some(kind) = trace.strange_weights() {
        return Err(trace.unsupported(format!(
            "its weights are {}, and thimble reads f32, f16 and bf16; convert them first",
            element_type(kind)
        )));
    }
    sane::check(&trace)?;
    let embedding = embedding::find(&trace)?;
    let body = layers::find(&trace, &embedding)?;
    let head = head::find(&trace, &embedding, &body)?;
    let mut weights = embedding.weights;
    weights.extend(body.weights);
    weights.extend(head.weights);
    let mut config = Config {
        labels: head.labels,
        head: head.head,
        pooler: head.pooler,
        tied_decoder: head.tied,
        ..body.config
    };
    let mut notes = embedding.notes;
    notes.extend(head.notes);
    let beside = neighbours::read(&file.path, &mut config, &mut notes);
    config.check().map_err(|e| trace.unsupported(e.to_string()))?;
    cost::check_nodes(&trace, config.num_hidden_layers)?;
    Ok((
        Recognised {
            config,
            weights,
            states: body.states,
            outputs: head.outputs,
            inputs: embedding.inputs,
            notes,
        },
        beside,
    ))
}

/// Operators only a quantised model has.
const QUANTISED: [&str; 12] = [
    "DynamicQuantizeLinear",
    "QuantizeLinear",
    "DequantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QAttention",
    "MatMulNBits",
    "QGemm",
];

/// The numbers, in thimble's order: f16 stays f16 where a table or linear map is stored so; bf16 is
/// widened, which changes no number.
fn model(file: &OnnxFile, recognised: &Recognised<'_>) -> Result<Model, ImportError> {
    let mut weights = Weights::new();
    for spec in recognised.config.weights() {
        let shown = || file.path.display().to_string();
        let Some(matrix) = recognised.weights.get(&spec.name) else {
            return Err(ImportError::Unsupported {
                file: shown(),
                problem: format!("weight {} was not found", spec.name),
            });
        };
        if matrix.shape() != spec.shape {
            return Err(ImportError::Unsupported {
                file: shown(),
                problem: format!(
                    "tensor '{}', read as {}, has shape {:?}, not {:?}",
                    printable(matrix.name()),
                    spec.name,
                    matrix.shape(),
                    spec.shape
                ),
            });
        }
        let values = matrix.values(file)?;
        let values = match values {
            Values::F16(half) if spec.kind == Kind::Vector => Values::F32(half.iter().map(|h| h.to_f32()).collect()),
            other => other,
        };
        let finite = match &values {
            Values::F32(v) => v.iter().all(|x| x.is_finite()),
            Values::F16(v) => v.iter().all(|x| x.is_finite()),
            _ => true,
        };
        if !finite {
            return Err(ImportError::Unsupported {
                file: shown(),
                problem: format!("tensor '{}' holds NaN or an infinity", printable(matrix.name())),
            });
        }
        weights.insert(spec.name, values);
    }
    Ok(Model {
        config: recognised.config.clone(),
        weights,
    })
}
