//! What a value behind the last hidden state is computed from: the pooler, a map of the pooled token or of every token, a decoder.

use super::trace::{Linear, Norm, Trace};
use thimble_shared::onnx::reader::NodeView;

/// A part of a value: the first, the second, or one that nothing says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    At(usize),
    Some,
}

/// What an output is computed from.
#[derive(Clone, Copy)]
pub enum Origin<'t, 'a> {
    Hidden,
    Pooled(&'t Linear<'a>),
    /// A map of the pooled token.
    OfPooled(&'t Linear<'a>, &'t Linear<'a>),
    /// A map of every token; which part of its channels where it is not all of them.
    OfTokens(&'t Linear<'a>, Option<Part>),
    /// Dense, LayerNorm, decoder.
    Decoded(&'t Linear<'a>, &'t Norm<'a>, &'t Linear<'a>),
}

/// What `name` is computed from, where a head gives it. A part of what a head gives is none, but for the two of a question's
/// answer.
pub fn origin<'t, 'a>(trace: &'t Trace<'a>, name: &'a str, last: &'a str) -> Option<Origin<'t, 'a>> {
    let (base, part) = strip(trace, name);
    if base == last && part.is_none() {
        return Some(Origin::Hidden);
    }
    if let Some(pooler) = pooler(trace, base, last) {
        return Some(Origin::Pooled(pooler));
    }
    let map = &trace.linears[*trace.by_out.get(base)?];
    let (read, of_first) = strip(trace, map.x);
    if read == last && of_first.is_none() {
        return (part.is_none() || map.size().1 == 2).then_some(Origin::OfTokens(map, part));
    }
    if part.is_some() {
        return None;
    }
    if let Some(pooler) = pooler(trace, read, last) {
        return Some(Origin::OfPooled(pooler, map));
    }
    let norm = trace.norms.iter().find(|n| n.out == read)?;
    let dense = trace
        .linears
        .iter()
        .find(|l| trace.source(l.x) == last && trace.between(l.out, norm.x).is_some())?;
    Some(Origin::Decoded(dense, norm, map))
}

/// The value `name` is a view of, and which part of it.
pub fn strip<'a>(trace: &Trace<'a>, name: &'a str) -> (&'a str, Option<Part>) {
    let (mut name, mut part) = (trace.source(name), None);
    for _ in 0..16 {
        match trace.node(name) {
            Some(node)
                if matches!(node.op, "Slice" | "Split" | "Gather")
                    && !trace.by_out.contains_key(name)
                    && !node.inputs.is_empty() =>
            {
                part = Some(match part {
                    None => place(trace, node, name),
                    Some(_) => Part::Some,
                });
                name = trace.source(node.inputs[0]);
            }
            _ => break,
        }
    }
    (name, part)
}

/// Which of two parts `name` is, where the node that takes it says so.
fn place<'a>(trace: &Trace<'a>, node: &NodeView<'a>, name: &str) -> Part {
    if node.op == "Split" {
        return node
            .outputs
            .iter()
            .position(|o| *o == name)
            .map_or(Part::Some, Part::At);
    }
    let starts = trace.attribute(node, "starts").ok().flatten().map(|a| a.ints);
    let stated = node.inputs.get(1).and_then(|n| trace.numbers(n).ok().flatten());
    let first = match (starts.as_deref(), stated.as_deref()) {
        (Some(&[first]), _) => first,
        (None, Some(&[first])) => first as i64,
        _ => return Part::Some,
    };
    usize::try_from(if first < 0 { first + 2 } else { first }).map_or(Part::Some, Part::At)
}

/// The map whose tanh `value` is, if it reads one token of the last hidden state.
fn pooler<'t, 'a>(trace: &'t Trace<'a>, value: &'a str, last: &'a str) -> Option<&'t Linear<'a>> {
    let tanh = trace.node(value).filter(|n| n.op == "Tanh")?;
    let map = &trace.linears[*trace.by_out.get(trace.source(tanh.inputs.first()?))?];
    let (read, first) = strip(trace, map.x);
    (read == last && first.is_some()).then_some(map)
}
