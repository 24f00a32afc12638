//! How an output is pooled from the last hidden state: as sentence-transformers and Optimum export it, dense layers and a length of
//! 1 included. In comes an output, out come the ways of pooling and the maps behind them. It is told by the operators on the way,
//! and proven later, as everything is.

use super::answers::POOLING;
use super::origin::strip;
use super::trace::{Linear, Trace};
use std::collections::HashSet;
use thimble_shared::model::Activation;
use thimble_shared::model::head::sentence::OUTPUT;
use thimble_shared::model::sentence::{Dense, MOST_DENSE, Pooling, Sentence};

/// An embedding, and the maps of its dense layers.
pub struct Embedded<'t, 'a> {
    pub sentence: Sentence,
    pub dense: Vec<&'t Linear<'a>>,
}

/// What a length, or what a vector is divided by to have the length 1, is spelt in.
const LENGTH: [&str; 14] = [
    "Abs",
    "Cast",
    "Clip",
    "Constant",
    "Expand",
    "Identity",
    "Max",
    "Mul",
    "Pow",
    "ReduceL2",
    "ReduceSum",
    "ReduceSumSquare",
    "Shape",
    "Sqrt",
];

/// What activations are spelt in.
const ACTIVATION: [&str; 12] = [
    "Add", "Cast", "Constant", "Div", "Erf", "Gelu", "Identity", "Mul", "Pow", "Relu", "Sigmoid", "Tanh",
];

/// Most nodes that any of these takes.
const MOST_NODES: usize = 256;

/// How `name` is pooled from `last`; none where it is not. Dense layers count under the library's own name alone: a map of the
/// first token may be anybody's classifier.
pub fn embedded<'t, 'a>(trace: &'t Trace<'a>, name: &'a str, last: &'a str) -> Option<Embedded<'t, 'a>> {
    let mut at = trace.source(name);
    let vector = normalized(trace, at);
    let normalize = vector.is_some();
    at = vector.map_or(at, |vector| trace.source(vector));
    let (mut layers, mut dense) = (Vec::new(), Vec::new());
    while name == OUTPUT
        && let Some((map, activation)) = layer(trace, at)
    {
        if layers.len() == MOST_DENSE || map.bias.is_none() {
            return None;
        }
        layers.push(Dense {
            size: map.size().1,
            activation,
        });
        dense.push(map);
        at = trace.source(map.x);
    }
    layers.reverse();
    dense.reverse();
    let sentence = Sentence {
        pooling: poolings(trace, at, last)?,
        dense: layers,
        normalize,
        ..Sentence::pooled(Pooling::Mean)
    };
    sentence
        .problem(usize::MAX)
        .is_none()
        .then_some(Embedded { sentence, dense })
}

/// The vector that `value` is over its length.
fn normalized<'a>(trace: &Trace<'a>, value: &'a str) -> Option<&'a str> {
    let node = trace.node(value)?;
    let &vector = node.inputs.first()?;
    if node.op == "LpNormalization" {
        return Some(vector);
    }
    let &divisor = node.inputs.get(1).filter(|_| node.op == "Div")?;
    let source = trace.source(vector);
    let way = walk(trace, divisor, |at| trace.source(at) == source, &LENGTH)?;
    let is_length = way.has("ReduceL2") || way.has("Sqrt");
    (!way.ends.is_empty() && is_length).then_some(vector)
}

/// The map whose activation `value` is.
fn layer<'t, 'a>(trace: &'t Trace<'a>, value: &'a str) -> Option<(&'t Linear<'a>, Option<Activation>)> {
    let way = walk(trace, value, |at| trace.by_out.contains_key(at), &ACTIVATION)?;
    let mut maps: Vec<usize> = way
        .ends
        .iter()
        .filter_map(|end| trace.by_out.get(end).copied())
        .collect();
    maps.dedup();
    let &[map] = maps.as_slice() else { return None };
    let has = |op| way.has(op);
    let activation = if has("Erf") || has("Gelu") {
        Some(Activation::Gelu)
    } else if has("Sigmoid") {
        Some(Activation::Silu)
    } else if has("Tanh") {
        Some(if has("Mul") {
            Activation::GeluNew
        } else {
            Activation::Tanh
        })
    } else {
        has("Relu").then_some(Activation::Relu)
    };
    Some((&trace.linears[map], activation))
}

/// What stands between a value and others.
struct Way<'a> {
    /// The nodes' operators, with the first value each makes and those it reads, the last node first.
    nodes: Vec<(&'a str, &'a str, Vec<&'a str>)>,
    /// The values it came to.
    ends: Vec<&'a str>,
}

impl Way<'_> {
    fn has(&self, op: &str) -> bool {
        self.nodes.iter().any(|(own, ..)| *own == op)
    }
}

/// Walks back from `from` to values that are an `end`, through these operators alone. None where something else stands in the way.
fn walk<'a>(trace: &Trace<'a>, from: &'a str, end: impl Fn(&'a str) -> bool, through: &[&str]) -> Option<Way<'a>> {
    let (mut seen, mut open) = (HashSet::new(), vec![from]);
    let mut way = Way {
        nodes: vec![],
        ends: vec![],
    };
    while let Some(at) = open.pop() {
        if end(at) {
            way.ends.push(at);
            continue;
        }
        if !seen.insert(at) {
            continue;
        }
        if seen.len() > MOST_NODES || trace.by_out.contains_key(at) || trace.is_norm(at) {
            return None;
        }
        // A stored number, or an input of the file.
        let Some(node) = trace.node(at) else { continue };
        if !through.contains(&node.op) {
            return None;
        }
        let inputs: Vec<&str> = node
            .inputs
            .iter()
            .copied()
            .filter(|name| !name.is_empty())
            .take(MOST_NODES)
            .collect();
        open.extend(&inputs);
        way.nodes.push((node.op, at, inputs));
    }
    Some(way)
}

/// The ways of pooling whose vectors stand side by side in `value`.
fn poolings<'a>(trace: &Trace<'a>, value: &'a str, last: &'a str) -> Option<Vec<Pooling>> {
    match trace.node(value).filter(|node| node.op == "Concat") {
        Some(concat) if concat.inputs.len() > Pooling::ALL.len() => None,
        Some(concat) => concat.inputs.iter().map(|part| pooling(trace, part, last)).collect(),
        None => pooling(trace, value, last).map(|one| vec![one]),
    }
}

/// How `value` is pooled from the tokens of `last`.
fn pooling<'a>(trace: &Trace<'a>, value: &'a str, last: &'a str) -> Option<Pooling> {
    if let (base, Some(_)) = strip(trace, value)
        && base == last
    {
        return Some(Pooling::First);
    }
    let way = walk(trace, value, |at| at == last, &POOLING)?;
    // Operators on what is pooled, and those of the weights and counts beside it.
    let mut pooled = HashSet::from([last]);
    for _ in 0..way.nodes.len() {
        let before = pooled.len();
        let reads = |inputs: &[&str]| inputs.iter().any(|input| pooled.contains(input));
        let more: Vec<&str> = way
            .nodes
            .iter()
            .filter(|(_, _, inputs)| reads(inputs))
            .map(|(_, out, _)| *out)
            .collect();
        pooled.extend(more);
        if pooled.len() == before {
            break;
        }
    }
    let (own, beside): (Vec<_>, Vec<_>) = way.nodes.iter().partition(|(_, out, _)| pooled.contains(out));
    if own.is_empty() {
        return None;
    }
    let own = |op| own.iter().any(|(other, ..)| *other == op);
    let beside = |op| beside.iter().any(|(other, ..)| *other == op);
    if own("ReduceMax") {
        Some(Pooling::Max)
    } else if own("GatherElements") || own("GatherND") || own("Gather") {
        Some(if own("Mul") { Pooling::Last } else { Pooling::First })
    } else if !["ReduceSum", "ReduceMean", "GlobalAveragePool"].into_iter().any(own) {
        None
    } else if beside("CumSum") || beside("Range") {
        Some(Pooling::WeightedMean)
    } else if own("Sqrt") || beside("Sqrt") {
        Some(Pooling::MeanSqrtLen)
    } else {
        Some(Pooling::Mean)
    }
}
