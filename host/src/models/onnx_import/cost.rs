//! What running a foreign file for the proof may cost. A small file can ask for any amount of work: a constant stretched and
//! multiplied, a declared length. The bounds follow from the ALBERT that was read out of the file and the input it is given:
//! what takes many times what that model takes is refused before it is run.

use super::ImportError;
use super::trace::Trace;
use crate::render::text::printable;
use thimble_device::engine::Input;
use thimble_shared::model::Config;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::bail;
use tract_onnx::tract_hir::infer::{Factoid, InferenceOp};

/// Most numbers one value may hold, whatever the model: 1 GiB of f32.
const MOST_NUMBERS: f64 = (1u64 << 28) as f64;

/// Most multiplications all inputs of a proof may take together: some seconds, and for each byte of weights as many as an
/// ALBERT with its 12 uses of a byte takes for some thousand tokens.
const MOST_WORK: f64 = (1u64 << 36) as f64;
const WORK_PER_BYTE: f64 = (1u64 << 17) as f64;

/// How many times the model's own work and largest value the file may take: exporters spell operations out, and masks and
/// positions are computed from constants of every shape.
const SLACK: f64 = 4.0;
/// Work and numbers that are always allowed: the smallest models are mostly what stands around them.
const FREE_WORK: f64 = (1u64 << 28) as f64;
const FREE_NUMBERS: f64 = (1u64 << 20) as f64;

/// Nodes an exporter needs at most for a layer, and outside of them.
const NODES_PER_LAYER: usize = 500;
const NODES_AROUND: usize = 2000;

/// Operators no ALBERT has that take more time than what they read and write shows.
pub const STRANGE: [&str; 14] = [
    "If",
    "Loop",
    "Scan",
    "LSTM",
    "GRU",
    "RNN",
    "Conv",
    "ConvTranspose",
    "STFT",
    "DFT",
    "NonMaxSuppression",
    "Resize",
    "MaxPool",
    "AveragePool",
];

/// Refuses a graph that is too large to be an ALBERT's, or holds what none has.
pub fn check_nodes(trace: &Trace<'_>, layers: usize) -> Result<(), ImportError> {
    let most = layers.saturating_mul(NODES_PER_LAYER).saturating_add(NODES_AROUND);
    let needed = || trace.view.nodes.iter().filter(|n| trace.needs(n));
    let count = needed().count();
    if count > most {
        return Err(trace.unsupported(format!(
            "its outputs need {count} nodes, and the proof runs {most} at most for {layers} layers"
        )));
    }
    match needed().find(|n| STRANGE.contains(&n.op)) {
        Some(node) => Err(trace.unsupported(format!(
            "node '{}' is a {}, which no ALBERT has",
            printable(node.outputs.first().copied().unwrap_or_default()),
            node.op
        ))),
        None => Ok(()),
    }
}

/// What the model itself takes for one input.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Multiplications.
    pub work: f64,
    /// Numbers in the largest value.
    pub numbers: f64,
}

impl Cost {
    pub fn of(config: &Config, input: &Input) -> Cost {
        let seq = input.shape.last().copied().unwrap_or(1) as f64;
        let tokens = input.input_ids.len() as f64;
        let (hidden, inner) = (config.hidden_size as f64, config.intermediate_size as f64);
        let (embedding, words) = (config.embedding_size as f64, config.vocab_size as f64);
        let layers = config.num_hidden_layers as f64;
        let decodes = config.head.has_decoder();
        let layer = tokens * (4.0 * hidden * hidden + 2.0 * hidden * inner) + 2.0 * tokens * seq * hidden;
        let around = tokens * embedding * (2.0 * hidden + if decodes { words } else { 0.0 });
        let scores = tokens * seq * config.num_attention_heads as f64;
        let weights = config.weights().iter().map(|w| w.elements()).max().unwrap_or(0) as f64;
        let widest = if decodes { inner.max(words) } else { inner }.max(hidden);
        Cost {
            work: layers * layer + around,
            numbers: scores.max(tokens * widest).max(weights),
        }
    }

    /// What the file may take for it.
    fn allowed(self) -> Cost {
        Cost {
            work: SLACK * self.work + FREE_WORK,
            numbers: (SLACK * self.numbers + FREE_NUMBERS).min(MOST_NUMBERS),
        }
    }
}

/// Why a proof would take too long or too much memory on its face: the model is large, or its declared shapes are.
pub fn too_much(costs: &[Cost], model_bytes: u64) -> Option<String> {
    let numbers = costs.iter().map(|c| c.numbers).fold(0.0, f64::max);
    if numbers > MOST_NUMBERS {
        return Some(format!(
            "at the length and batch its inputs are fixed at, one value has {numbers} numbers, and the proof runs {MOST_NUMBERS} at most"
        ));
    }
    let (work, most) = (
        costs.iter().map(|c| c.work).sum::<f64>(),
        MOST_WORK + WORK_PER_BYTE * model_bytes as f64,
    );
    (work > most).then(|| {
        format!(
            "the proof would take {work:.1e} multiplications, and for a file of {model_bytes} bytes {most:.1e} at most"
        )
    })
}

/// The model as tract runs it, refused if a value or all the work is beyond what `cost` allows. tract computes constants while
/// it works out shapes, so each node is looked at before it does.
pub fn typed(mut model: InferenceModel, cost: Cost) -> TractResult<TypedModel> {
    let allowed = cost.allowed();
    let mut work = 0.0;
    for id in model.eval_order()? {
        work += ahead(&model, id, &allowed)?;
        spend(work, &allowed)?;
        step(&mut model, id)?;
    }
    let model = model.into_typed()?;
    let mut work = 0.0;
    for node in &model.nodes {
        let mut made = 0.0;
        for output in &node.outputs {
            let dims: Option<Vec<i64>> = output.fact.shape.iter().map(|d| d.to_i64().ok()).collect();
            let Some(dims) = dims else {
                bail!(
                    "the size of '{}' is not known before it is computed",
                    printable(&node.name)
                );
            };
            made += numbers(dims.into_iter(), &node.name, &allowed)?;
        }
        let costs = node.op.cost(&model.node_input_facts(node.id)?)?;
        let counted = costs.iter().filter(|(kind, _)| kind.is_compute());
        work += made
            + counted
                .map(|(_, n)| n.to_i64().map_or(f64::MAX, |n| n as f64))
                .sum::<f64>();
        spend(work, &allowed)?;
    }
    Ok(model)
}

fn spend(work: f64, allowed: &Cost) -> TractResult<()> {
    if work > allowed.work {
        bail!(
            "it takes more than {:.1e} multiplications, and this ALBERT takes no more than a quarter of that",
            allowed.work
        );
    }
    Ok(())
}

fn numbers(dims: impl Iterator<Item = i64>, name: &str, allowed: &Cost) -> TractResult<f64> {
    let count: f64 = dims.map(|d| d as f64).product();
    if count > allowed.numbers {
        bail!(
            "'{}' has {count} numbers, and the proof runs values of {} at most for this ALBERT",
            printable(name),
            allowed.numbers
        );
    }
    Ok(count)
}

/// The work of a node that tract would compute at once, its inputs being constants. Its outputs' shapes are worked out first,
/// from rules alone.
fn ahead(model: &InferenceModel, id: usize, allowed: &Cost) -> TractResult<f64> {
    let dims = |fact: &InferenceFact| -> Vec<i64> {
        let dims = fact.shape.concretize().unwrap_or_default();
        dims.iter().map(|d| d.to_i64().unwrap_or(1)).collect()
    };
    let node = model.node(id);
    let (inputs, _) = model.node_facts(id)?;
    let constant = !inputs.is_empty() && inputs.iter().all(|f| f.value.is_concrete());
    let widest = inputs.iter().flat_map(|f| dims(f)).max().unwrap_or(1) as f64;
    let count = |fact: &InferenceFact| dims(fact).iter().map(|&d| d as f64).product::<f64>();
    let mut work: f64 = inputs.iter().map(|f| count(f)).sum();
    let name = node.op.name();
    let sums = ["MatMul", "Gemm", "EinSum"].iter().any(|op| name.contains(op));
    for fact in &inferred(model, id, |op, i, o, seen| op.infer_facts(i, o, seen))? {
        let made = numbers(dims(fact).into_iter(), &node.name, allowed)?;
        work += if sums { made * widest } else { made };
    }
    Ok(if constant { work } else { 0.0 })
}

/// Lets tract work out a node, whose constants it computes.
fn step(model: &mut InferenceModel, id: usize) -> TractResult<()> {
    let made = inferred(model, id, |op, i, o, seen| op.infer(i, o, seen))?;
    for (slot, fact) in made.into_iter().enumerate() {
        let outlet = OutletId::new(id, slot);
        let fact = fact.unify(model.outlet_fact(outlet)?)?;
        model.set_outlet_fact(outlet, fact)?;
    }
    Ok(())
}

type Facts<'a> = TVec<&'a InferenceFact>;
type Inferred = TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)>;

/// What is known of a node's outputs once `rule` has been asked.
fn inferred(
    model: &InferenceModel,
    id: usize,
    rule: impl Fn(&mut dyn InferenceOp, Facts<'_>, Facts<'_>, Facts<'_>) -> Inferred,
) -> TractResult<TVec<InferenceFact>> {
    let node = model.node(id);
    let (inputs, outputs) = model.node_facts(id)?;
    let seen = node.op.observe_outlets(model, node)?;
    let seen = seen.iter().map(|o| model.outlet_fact(*o)).collect::<TractResult<_>>()?;
    let (_, made, _) = rule(node.op.clone().as_mut(), inputs, outputs, seen)?;
    Ok(made)
}
