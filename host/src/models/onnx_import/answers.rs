//! What outputs are made of where no head makes them: an answer of the logits behind it, a sentence of the hidden states, or
//! something of a larger graph. In comes an output, out come the values of a head it is made of, or words.

use super::cost::STRANGE;
use super::origin::{Origin, origin};
use super::trace::Trace;
use crate::render::text::printable;
use std::collections::{BTreeMap, HashSet};

/// An output that is computed without weights from what a head gives.
pub struct Answer<'t, 'a> {
    /// The values of the head.
    pub made_of: Vec<(&'a str, Origin<'t, 'a>)>,
    /// The operators that make it, the last one first.
    pub spelt: Vec<&'a str>,
}

/// Operators that mix numbers with weights, or run a graph of their own.
const MIXING: [&str; 3] = ["MatMul", "Gemm", "Einsum"];

/// More nodes than any answer behind logits has.
const MOST_NODES: usize = 64;

/// What pooling over tokens and normalizing are spelt in; none of them has weights.
pub const POOLING: [&str; 39] = [
    "Add",
    "ArgMax",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "CumSum",
    "Div",
    "Equal",
    "Expand",
    "Gather",
    "GatherElements",
    "GatherND",
    "GlobalAveragePool",
    "Identity",
    "Less",
    "LpNormalization",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "Pow",
    "Range",
    "Reciprocal",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "Shape",
    "Slice",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// The values of a head that `name` is an answer made of: probabilities, a choice, a yes or no, one of several labels. All of
/// one head: what else it is computed from has no weights.
pub fn answered<'t, 'a>(trace: &'t Trace<'a>, name: &'a str, last: &'a str) -> Option<Answer<'t, 'a>> {
    let (mut seen, mut open) = (HashSet::new(), vec![name]);
    let (mut made_of, mut spelt) = (Vec::new(), Vec::new());
    // Plumbing between the answer and what it is made of belongs to neither.
    while let Some(at) = open.pop().map(|n| trace.source(n)) {
        if !seen.insert(at) {
            continue;
        }
        match origin(trace, at, last) {
            Some(Origin::Hidden | Origin::Pooled(_)) => return None,
            Some(origin) => {
                made_of.push((at, origin));
                continue;
            }
            // A map or norm is a head's, and found above, or somebody else's.
            None if trace.by_out.contains_key(at) || trace.is_norm(at) || at == last => return None,
            None => {}
        }
        let Some(node) = trace.node(at) else { continue };
        let standard = matches!(node.domain, "" | "ai.onnx");
        if !standard || MIXING.contains(&node.op) || STRANGE.contains(&node.op) || seen.len() > MOST_NODES {
            return None;
        }
        if matches!(node.op, "Shape" | "Size" | "Constant") {
            continue;
        }
        if !spelt.contains(&node.op) {
            spelt.push(node.op);
        }
        open.extend(node.inputs.iter().rev().filter(|n| !n.is_empty()));
    }
    let shared = |a: &Origin<'_, '_>, b: &Origin<'_, '_>| match (a, b) {
        (Origin::OfTokens(a, Some(_)), Origin::OfTokens(b, Some(_))) => std::ptr::eq(*a, *b),
        _ => false,
    };
    let one = made_of.iter().skip(1).all(|(_, o)| shared(o, &made_of[0].1));
    (!made_of.is_empty() && !spelt.is_empty() && one).then_some(Answer { made_of, spelt })
}

/// Whether `name` is computed from `last` without weights.
pub fn pools<'a>(trace: &Trace<'a>, name: &'a str, last: &'a str) -> bool {
    let (mut seen, mut open, mut reached) = (HashSet::new(), vec![name], false);
    while let Some(at) = open.pop() {
        if at == last {
            reached = true;
            continue;
        }
        if !seen.insert(at) {
            continue;
        }
        if trace.by_out.contains_key(at) || trace.is_norm(at) {
            return false;
        }
        if let Some(node) = trace.node(at) {
            if !POOLING.contains(&node.op) {
                return false;
            }
            open.extend(node.inputs.iter().filter(|n| !n.is_empty()));
        }
    }
    reached
}

/// Values of outputs named in one line at most.
const NAMED: usize = 4;

/// What stands between the last hidden state and outputs that no head makes.
pub fn foreign<'a>(trace: &Trace<'a>, last: &'a str, unknown: &[&'a str]) -> String {
    let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut seen, mut open) = (HashSet::new(), unknown.to_vec());
    let mut reached = false;
    while let Some(at) = open.pop() {
        if at == last {
            reached = true;
        } else if seen.insert(at)
            && let Some(node) = trace.node(at)
        {
            *ops.entry(node.op).or_default() += 1;
            open.extend(node.inputs.iter().filter(|n| !n.is_empty()));
        }
    }
    let names: Vec<String> = unknown
        .iter()
        .take(NAMED)
        .map(|n| format!("'{}'", printable(n)))
        .collect();
    let rest = unknown.len().saturating_sub(NAMED);
    let more = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    if !reached {
        return format!(
            "its outputs {}{more} are not computed from what ALBERT gives",
            names.join(", ")
        );
    }
    // Constants and shapes say nothing of what a graph is.
    let mut most: Vec<(&str, usize)> = ops.into_iter().filter(|(op, _)| !POOLING.contains(op)).collect();
    most.sort_by_key(|(op, n)| (std::cmp::Reverse(*n), *op));
    let list: Vec<String> = most
        .iter()
        .take(NAMED)
        .map(|(op, n)| format!("{n} {}", printable(op)))
        .collect();
    format!(
        "its outputs {}{more} are computed from what ALBERT gives in a way no head of ALBERT's computes them ({})",
        names.join(", "),
        list.join(", ")
    )
}
