//! Takes ALBERT out of an ONNX file another tool wrote. In comes any .onnx, out comes thimble's `Model` with the numbers as
//! they were stored, proven: the file itself under tract-onnx and the rebuilt ModelSpec under the engine must agree on inputs
//! made up for the purpose. A file that is no ALBERT, or is another ALBERT than was read out of it, is refused.

mod answers;
mod bounds;
mod companions;
mod cost;
mod decompose;
mod embedding;
mod equivalence;
mod error;
mod head;
mod layers;
mod origin;
mod ports;
mod samples;
mod sentence;
mod trace;
mod weights;

use crate::models::tokenizer::TokenizerSource;
use crate::onnx::flow::Flow;
use crate::onnx::{OnnxError, OnnxFile, element_type};
use crate::render::text::printable;
use decompose::Wanted;
use embedding::Embedding;
pub use error::{ImportError, Inside};
use head::{HeadError, Top};
use layers::Body;
pub use ports::MaskForm;
use ports::{Foreign, Inputs};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use thimble_device::image::digest;
use thimble_shared::dtype::{Numbers, Values};
use thimble_shared::model::sentence::{Pooling, Sentence};
use thimble_shared::model::weights::Weights;
use thimble_shared::model::{AnswerKind, Config, Head, Kind, Model};
use thimble_shared::onnx::reader::ModelView;
use trace::Trace;
use weights::StoredMatrix;

/// An ALBERT read out of somebody's ONNX file.
pub struct Imported {
    /// Configuration, and weights as they were stored.
    pub model: Model,
    /// SHA-256 of the .onnx file.
    pub sha256: String,
    /// The tokenizer beside the file; `None` where there is none.
    pub tokenizer: Option<TokenizerSource>,
    /// Every file it was read from.
    pub files: Vec<PathBuf>,
    /// What was decided or left out on the way, for the user to read.
    pub notes: Vec<String>,
    /// Fixed by the file: its sequence length.
    pub seq: Option<usize>,
    /// Where it stands in the file's graph.
    pub wiring: Wiring,
}

/// The values of a graph between which an ALBERT stands, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Token ids `[batch, seq]`, an input of the graph.
    pub ids: String,
    /// Token types, where the graph has them.
    pub types: Option<String>,
    /// What says which tokens are real, where an input does.
    pub mask: Option<String>,
    /// How it says so.
    pub form: MaskForm,
    /// Whether the graph's inputs are `[batch, choices, seq]`.
    pub choices: bool,
    /// The hidden states after the embedding and after every layer; the last is what the ALBERT gives.
    pub states: Vec<String>,
}

impl Wiring {
    fn of(recognized: &Recognized<'_>) -> Wiring {
        let inputs = &recognized.inputs;
        Wiring {
            ids: inputs.ids.into(),
            types: inputs.types.map(str::to_string),
            mask: inputs.mask.map(str::to_string),
            form: inputs.form,
            choices: inputs.shape.len() == 3,
            states: recognized.states.iter().map(|state| state.to_string()).collect(),
        }
    }
}

/// How a file is read where it leaves that open.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The values that hold what the model gives, in place of the file's outputs.
    pub outputs: Vec<String>,
    /// Take quantized weights as they are.
    pub dequantize: bool,
    /// The head to make; the file's own where none is named.
    pub head: Option<Head>,
}

/// What recognition finds before any proof.
struct Recognized<'a> {
    config: Config,
    weights: BTreeMap<String, StoredMatrix<'a>>,
    /// The value that holds the hidden state after the embedding and after every layer.
    states: Vec<&'a str>,
    /// The file's outputs and what thimble calls them.
    outputs: Vec<(&'a str, &'static str)>,
    inputs: Inputs<'a>,
    notes: Vec<String>,
}

/// How a file is read.
struct Reading {
    head: Option<Head>,
    /// Its weights were quantized.
    dequantized: bool,
    /// It was found to state ALBERT only for masks that end in zeros.
    right_padded: bool,
    /// Whether advice is proven before it is given.
    proves: bool,
    /// Whether what is pooled from hidden states is read.
    pools: bool,
}

/// Reads and proves the model in the file at `path`.
pub fn open(path: &Path) -> Result<Imported, ImportError> {
    open_with(path, &ImportOptions::default())
}

/// Reads and proves the model in the file at `path` as `options` say.
pub fn open_with(path: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    let original = OnnxFile::open(path)?;
    let wanted = Wanted {
        outputs: options.outputs.clone(),
        dequantize: options.dequantize,
    };
    let plain = decompose::decompose(&original, &wanted)?;
    let file = plain.as_ref().map_or(&original, |p| &p.file);
    let view = Rc::new(file.view()?);
    let flow = Rc::new(Flow::of(&view).map_err(|e| file.wire_error(e))?);
    let left = plain.as_ref().and_then(|p| p.left.as_deref());
    let reading = Reading {
        head: options.head,
        dequantized: options.dequantize,
        right_padded: plain.as_ref().is_some_and(|p| p.right_padded),
        proves: true,
        pools: true,
    };
    let proven = |reading: &Reading| {
        let (mut recognized, beside) = recognize(file, view.clone(), flow.clone(), reading)?;
        let model = model(file, &recognized)?;
        let told = equivalence::prove(file, &mut recognized, &model);
        let pooled = model.config.head.answer() == AnswerKind::Embedding;
        Ok((recognized, beside, model, told, pooled))
    };
    let (mut recognized, mut beside, mut model, mut told, pooled) =
        proven(&reading).map_err(|e: ImportError| e.besides(left))?;
    if let (Err(ImportError::Parts { gap, .. }), true, None) = (&told, pooled, reading.head) {
        let note = format!(
            "what it pools of hidden states is another function than was read (by {gap:.3e}): hidden states are made"
        );
        let reading = Reading {
            pools: false,
            ..reading
        };
        (recognized, beside, model, told, _) = proven(&reading).map_err(|e| e.besides(left))?;
        recognized.notes.push(note);
    }
    recognized.notes.extend(told.map_err(|e| e.besides(left))?);
    if recognized.inputs.right_padded {
        recognized.notes.push(
            "its attention reads how many tokens of a row are real, not which: as ALBERT it is proven for padding on the right"
                .into(),
        );
    }
    recognized.notes.extend(plain.iter().flat_map(|p| p.notes.clone()));
    let mut files = original.paths();
    files.extend(beside.config);
    let sha256 = digest::sha256(original.bytes());
    // Numbers of which some are old and some new are no model's.
    original.unchanged().map_err(OnnxError::from)?;
    recognized.notes.insert(
        0,
        format!(
            "{}: ALBERT with {} layers, head: {}; the file under tract-onnx and what was read out of it agree",
            path.display(),
            model.config.num_hidden_layers,
            model.config.head.name()
        ),
    );
    Ok(Imported {
        seq: recognized.inputs.shape.last().copied().flatten(),
        wiring: Wiring::of(&recognized),
        model,
        sha256,
        tokenizer: beside.tokenizer,
        files,
        notes: recognized.notes,
    })
}

/// What a file would be imported as: read from its structure, without proof.
pub struct Outline {
    /// Configuration as far as the graph shows it.
    pub config: Config,
    /// Sequence length, where the file fixes one.
    pub seq: Option<usize>,
    /// The tokenizer beside the file; `None` where there is none.
    pub tokenizer: Option<TokenizerSource>,
}

/// The outline of a file.
pub fn outline(file: &OnnxFile) -> Result<Outline, ImportError> {
    let plain = decompose::decompose(file, &Wanted::default())?;
    let file = plain.as_ref().map_or(file, |p| &p.file);
    let view = Rc::new(file.view()?);
    let flow = Rc::new(Flow::of(&view).map_err(|e| file.wire_error(e))?);
    let reading = Reading {
        head: None,
        dequantized: false,
        right_padded: false,
        proves: false,
        pools: true,
    };
    let (recognized, beside) = recognize(file, view, flow, &reading)?;
    Ok(Outline {
        seq: recognized.inputs.shape.last().copied().flatten(),
        config: recognized.config,
        tokenizer: beside.tokenizer,
    })
}

/// The values that hold the last hidden state of each ALBERT in a file, whatever stands around them; at least one.
///
/// # Errors
/// Where no ALBERT is found.
pub fn last_hidden_states(file: &OnnxFile, dequantize: bool) -> Result<Vec<String>, ImportError> {
    let wanted = Wanted {
        dequantize,
        ..Wanted::default()
    };
    let plain = decompose::decompose(file, &wanted)?;
    let file = plain.as_ref().map_or(file, |p| &p.file);
    let view = Rc::new(file.view()?);
    let flow = Rc::new(Flow::of(&view).map_err(|e| file.wire_error(e))?);
    let trace = Trace::new(file, view, flow)?;
    let (first, found) = body(&trace)?;
    let mut states = vec![found.states.last().copied().unwrap_or(first.out).to_string()];
    for embedding in embedding::find(&trace)? {
        let last = layers::find(&trace, &embedding)
            .ok()
            .and_then(|body| body.states.last().copied());
        states.extend(last.map(str::to_string).filter(|last| !states.contains(last)));
    }
    Ok(states)
}

/// Finds the ALBERT in a graph: of several embeddings that look like one, the first that layers follow.
fn body<'a>(trace: &Trace<'a>) -> Result<(Embedding<'a>, Body<'a>), ImportError> {
    let mut lacking = None;
    match embedding::find(trace) {
        Ok(candidates) => {
            for embedding in candidates {
                match layers::find(trace, &embedding) {
                    Ok(body) => return Ok((embedding, body)),
                    Err(e) => drop(lacking.get_or_insert(e)),
                }
            }
        }
        Err(e) => lacking = Some(e),
    }
    let lacking = lacking.unwrap_or_else(|| trace.not_albert("there is no embedding"));
    let problem = match &lacking {
        ImportError::NotAlbert { problem, .. } | ImportError::Unrecognized { problem, .. } => problem.clone(),
        _ => return Err(lacking),
    };
    match layers::anywhere(trace)? {
        Some((layers, from, to)) => Err(ImportError::Inside(Box::new(Inside {
            file: trace.file.path.display().to_string(),
            layers,
            from: printable(from),
            to: printable(to),
            problem: format!("what comes before is not recognized: {problem}"),
            advice: String::new(),
        }))),
        None => Err(lacking),
    }
}

fn recognize<'a>(
    file: &'a OnnxFile,
    view: Rc<ModelView<'a>>,
    flow: Rc<Flow<'a>>,
    reading: &Reading,
) -> Result<(Recognized<'a>, companions::Neighbors), ImportError> {
    let trace = Trace::new(file, view, flow)?;
    readable(&trace, reading.dequantized)?;
    let (embedding, body) = body(&trace)?;
    let last = body.states.last().copied().unwrap_or(embedding.out);
    let inside = |problem: String, advice: String| {
        ImportError::Inside(Box::new(Inside {
            file: file.path.display().to_string(),
            layers: body.config.num_hidden_layers * body.config.inner_group_num,
            from: printable(embedding.inputs.ids),
            to: printable(last),
            problem,
            advice,
        }))
    };
    let (mut inputs, told) = ports::complete(&trace, embedding.inputs.clone(), last).map_err(|e| match e {
        Foreign::Said(problem) => inside(problem, String::new()),
        Foreign::Unreadable(e) => e,
    })?;
    inputs.right_padded |= reading.right_padded;
    let choices = inputs.shape.len() == 3;
    let mut head = head::find(&trace, &embedding, &body, choices, reading.pools).map_err(|e| match e {
        HeadError::Foreign(problem) => {
            let (problem, advice) = foreign_head(
                problem,
                &embedding,
                &body,
                alone(file, &embedding, &body, &inputs, reading),
            );
            inside(problem, advice)
        }
        HeadError::Import(e) => e,
    })?;
    pool(&trace, reading, &mut head)?;
    if let Some(wanted) = reading.head.filter(|w| *w != head.head) {
        head.make(&trace, wanted, last)?;
    }
    let mut weights = embedding.weights;
    weights.extend(body.weights);
    weights.extend(head.weights);
    let mut config = Config {
        labels: head.labels,
        head: head.head,
        pooler: head.pooler,
        tied_decoder: head.tied,
        sentence: head.sentence,
        ..body.config
    };
    let mut notes = embedding.notes;
    notes.extend(told);
    if reading.dequantized {
        notes.extend(rounded_apart(&config));
    }
    notes.extend(head.notes);
    let beside = companions::read(&file.path, head.sigmoid, &mut config, &mut notes);
    config.check().map_err(|e| trace.unsupported(e.to_string()))?;
    cost::check_nodes(&trace, config.num_hidden_layers)?;
    Ok((
        Recognized {
            config,
            weights,
            states: body.states,
            outputs: head.outputs,
            inputs,
            notes,
        },
        beside,
    ))
}

/// Makes a sentence's embedding of bare hidden states, where a file beside the graph or the user says so.
fn pool(trace: &Trace<'_>, reading: &Reading, head: &mut Top<'_>) -> Result<(), ImportError> {
    let asked = reading.head.map(|head| head.answer() == AnswerKind::Embedding);
    if head.head == Head::None && reading.pools && asked != Some(false) {
        match (companions::pooling(&trace.file.path), asked) {
            (Some(Ok((sentence, dir))), _) => {
                head.notes
                    .push(format!("{} pools its hidden states: {sentence}", dir.display()));
                head.pool(sentence);
            }
            (Some(Err(why)), Some(_)) => return Err(trace.unsupported(format!("--head sentence: {why}"))),
            (Some(Err(why)), None) => head.notes.push(format!("{why}; hidden states are made")),
            (None, Some(_)) => {
                head.notes
                    .push("nothing says how tokens become a sentence's embedding: it is their mean".into());
                head.pool(Sentence::pooled(Pooling::Mean));
            }
            (None, None) => {}
        }
    }
    Ok(())
}

/// What is said where something reads the last hidden state that no head of ALBERT's is, and what works then. `alone` is whether
/// the ALBERT would be taken by itself.
fn foreign_head(
    problem: String,
    embedding: &Embedding<'_>,
    body: &Body<'_>,
    alone: Result<(), String>,
) -> (String, String) {
    let problem = match &body.after {
        Some(after) => format!("{problem}; after it, {after}"),
        None => problem,
    };
    let last = body.states.last().copied().unwrap_or(embedding.out);
    let advice = match alone {
        Ok(()) => format!("; --output-value '{}' takes the ALBERT alone", printable(last)),
        Err(why) => format!("; what stands there is no ALBERT that thimble states: {why}"),
    };
    (problem, advice)
}

/// A note where a quantized file holds several sets of weights: a quantizer may have rounded one set several ways.
fn rounded_apart(config: &Config) -> Option<String> {
    let sets = config.num_hidden_groups * config.inner_group_num;
    (sets > 1).then(|| {
        format!(
            "its {} layers hold {sets} sets of weights, read as {} groups of {}: where a quantizer rounded one set several ways, the file it was made from holds the one",
            config.num_hidden_layers * config.inner_group_num,
            config.num_hidden_groups,
            config.inner_group_num
        )
    })
}

/// Whether the ALBERT without a head would pass the proof; why not, in words.
fn alone(
    file: &OnnxFile,
    embedding: &Embedding<'_>,
    body: &Body<'_>,
    inputs: &Inputs<'_>,
    reading: &Reading,
) -> Result<(), String> {
    if !reading.proves {
        return Ok(());
    }
    let weights = embedding.weights.iter().chain(&body.weights);
    let mut recognized = Recognized {
        config: body.config.clone(),
        weights: weights.map(|(name, matrix)| (name.clone(), matrix.clone())).collect(),
        states: body.states.clone(),
        outputs: vec![],
        inputs: inputs.clone(),
        notes: vec![],
    };
    let proven = model(file, &recognized).and_then(|model| equivalence::prove(file, &mut recognized, &model));
    proven.map(drop).map_err(|e| match e {
        ImportError::Parts { place, gap, .. } => format!("they part at {place} (by {gap:.3e})"),
        other => other.to_string(),
    })
}

/// Refuses what is not read at all: quantized weights, strange ones, absurd shapes.
fn readable(trace: &Trace<'_>, dequantized: bool) -> Result<(), ImportError> {
    // Leftovers that no output needs say nothing of the weights.
    let quantized: Vec<&str> = trace
        .view
        .nodes
        .iter()
        .filter(|n| trace.needs(n))
        .map(|n| n.op)
        .filter(|op| decompose::is_quantized(op))
        .collect();
    // Where weights were dequantized, what is left belongs to something around the ALBERT, or fails the proof.
    if let Some(first) = quantized.first().filter(|_| !dequantized) {
        return Err(ImportError::Quantized {
            file: trace.file.path.display().to_string(),
            how: format!("{} nodes such as {first}", quantized.len()),
        });
    }
    if let Some(kind) = trace.strange_weights() {
        return Err(trace.unsupported(format!(
            "its weights are {}, and thimble reads f32, f16 and bf16; convert them first",
            element_type(kind)
        )));
    }
    bounds::check(trace)
}

/// The numbers, in thimble's order: f16 stays f16 where a table or linear map is stored so; bf16 is
/// widened, which changes no number.
fn model(file: &OnnxFile, recognized: &Recognized<'_>) -> Result<Model, ImportError> {
    let mut weights = Weights::new();
    for spec in recognized.config.weights() {
        let shown = || file.path.display().to_string();
        let Some(matrix) = recognized.weights.get(&spec.name) else {
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
        let values = match spec.kind {
            Kind::Vector => Values::f32(values.to_f32()),
            Kind::Table | Kind::Linear => values,
        };
        let finite = match values.numbers() {
            Numbers::F32(v) => v.iter().all(|x| x.is_finite()),
            Numbers::F16(v) => v.iter().all(|x| x.is_finite()),
            Numbers::I8 { .. } | Numbers::I4 { .. } => true,
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
        config: recognized.config.clone(),
        weights,
    })
}
