//! Finds what a foreign ALBERT makes of its last hidden state: the pooler, a classifier, a masked-LM decoder. Which head it
//! is follows from what its outputs are computed from; their names are only said back to the user.

use super::ImportError;
use super::embedding::Embedding;
use super::layers::Body;
use super::trace::{Linear, Norm, Trace};
use super::weights::Matrix;
use crate::onnx::element_type;
use crate::onnx::flow::{port_name, port_shape};
use crate::text::printable;
use std::collections::{BTreeMap, HashSet};
use thimble_shared::model::Head;

pub struct Top<'a> {
    pub weights: BTreeMap<String, Matrix<'a>>,
    pub head: Head,
    pub pooler: bool,
    /// The decoder is the word embedding.
    pub tied: bool,
    /// Made-up names, one per class.
    pub labels: Vec<String>,
    /// A Sigmoid follows the logits: each label has a probability of its own.
    pub sigmoid: bool,
    /// The file's outputs, and thimble's names of them.
    pub outputs: Vec<(&'a str, &'static str)>,
    pub notes: Vec<String>,
}

/// What an output is computed from.
#[derive(Clone, Copy)]
enum Origin<'t, 'a> {
    Hidden,
    Pooled(&'t Linear<'a>),
    /// A map of the pooled token.
    OfPooled(&'t Linear<'a>, &'t Linear<'a>),
    /// A map of every token; whether only some of its channels.
    OfTokens(&'t Linear<'a>, bool),
    /// Dense, LayerNorm, decoder.
    Decoded(&'t Linear<'a>, &'t Norm<'a>, &'t Linear<'a>),
}

/// What is made of the values that a model answers with: probabilities, a choice, a yes or no.
const ANSWERS: [&str; 9] = [
    "Softmax",
    "LogSoftmax",
    "Sigmoid",
    "Hardmax",
    "ArgMax",
    "TopK",
    "ReduceMax",
    "Greater",
    "GreaterOrEqual",
];

/// What pooling over tokens and normalising are spelt in; none of them has weights.
const POOLING: [&str; 32] = [
    "Add",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Expand",
    "Gather",
    "GlobalAveragePool",
    "Identity",
    "LpNormalization",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "Pow",
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
];

pub fn find<'a>(
    trace: &Trace<'a>,
    embedding: &Embedding<'a>,
    body: &Body<'a>,
    choices: bool,
) -> Result<Top<'a>, HeadError> {
    let last = body.states.last().copied().unwrap_or(embedding.out);
    let mut origins: Vec<(&'a str, Origin<'_, 'a>)> = Vec::new();
    let (mut notes, mut unknown) = (Vec::new(), Vec::new());
    let (mut pooled, mut sigmoid) = (false, false);
    let mut names = Vec::new();
    for port in &trace.view.outputs {
        names.push(
            port_name(port)
                .map_err(|e| trace.file.wire_error(e))
                .map_err(ImportError::from)?,
        );
    }
    for &name in &names {
        if let Some(origin) = origin(trace, name, last) {
            origins.push((name, origin));
        } else if body.states.contains(&trace.source(name)) {
            notes.push(format!(
                "output '{}', an inner hidden state, is left out",
                printable(name)
            ));
        } else if let Some((inner, spelt)) = answered(trace, name)
            && let Some(origin) = origin(trace, inner, last)
        {
            sigmoid |= spelt.contains(&"Sigmoid");
            notes.push(format!(
                "output '{}' is {} of '{}': left out, the values before it are made",
                printable(name),
                spelt.join(" of "),
                printable(inner)
            ));
            if !origins.iter().any(|(known, _)| *known == inner) {
                origins.push((inner, origin));
            }
        } else if pools(trace, name, last) {
            pooled = true;
            notes.push(format!(
                "output '{}' is pooled from the last hidden state, '{}': left out, last_hidden_state is made",
                printable(name),
                printable(last)
            ));
        } else {
            unknown.push(name);
        }
    }
    if origins.is_empty() && pooled {
        origins.push((last, Origin::Hidden));
    }
    if origins.is_empty() {
        return Err(HeadError::Foreign(foreign(trace, last, &unknown)));
    }
    for name in unknown {
        notes.push(format!(
            "output '{}' is computed in a way no head of ALBERT's computes it: left out",
            printable(name)
        ));
    }
    let mut top = Top {
        weights: BTreeMap::new(),
        head: Head::None,
        pooler: false,
        tied: false,
        labels: vec![],
        sigmoid,
        outputs: vec![],
        notes,
    };
    top.settle(trace, embedding, choices, &origins)?;
    for port in &trace.view.outputs {
        let wire = |e| ImportError::from(trace.file.wire_error(e));
        let (name, (element, _)) = (port_name(port).map_err(wire)?, port_shape(port).map_err(wire)?);
        let kept = top.outputs.iter().find(|(theirs, _)| *theirs == name);
        // 1 is f32, 0 nothing declared.
        if let (Some((_, ours)), true) = (kept, element > 1) {
            let note = format!(
                "its output '{}' is {}; here {ours} is f32",
                printable(name),
                element_type(element)
            );
            top.notes.push(note);
        }
    }
    Ok(top)
}

/// Why no head was found.
pub enum HeadError {
    /// Something else reads the last hidden state, in these words.
    Foreign(String),
    Import(ImportError),
}

impl From<ImportError> for HeadError {
    fn from(e: ImportError) -> HeadError {
        HeadError::Import(e)
    }
}

/// The value that an answer is made of, and the operators that make it, the last one first.
fn answered<'a>(trace: &Trace<'a>, name: &'a str) -> Option<(&'a str, Vec<&'a str>)> {
    let (mut at, mut spelt) = (trace.source(name), Vec::new());
    for _ in 0..16 {
        match trace.node(at) {
            Some(node) if ANSWERS.contains(&node.op) && !trace.by_out.contains_key(at) && !node.inputs.is_empty() => {
                spelt.push(node.op);
                at = trace.source(node.inputs[0]);
            }
            _ => break,
        }
    }
    // Plumbing between the answer and what it is made of belongs to neither.
    (!spelt.is_empty()).then_some((at, spelt))
}

/// Whether `name` is computed from `last` without weights.
fn pools<'a>(trace: &Trace<'a>, name: &'a str, last: &'a str) -> bool {
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
fn foreign<'a>(trace: &Trace<'a>, last: &'a str, unknown: &[&'a str]) -> String {
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

impl<'a> Top<'a> {
    fn settle(
        &mut self,
        trace: &Trace<'a>,
        embedding: &Embedding<'a>,
        choices: bool,
        origins: &[(&'a str, Origin<'_, 'a>)],
    ) -> Result<(), ImportError> {
        let decoder = origins.iter().find_map(|(_, o)| match o {
            Origin::Decoded(dense, norm, decoder) => Some((*dense, *norm, *decoder)),
            _ => None,
        });
        let of_pooled = origins.iter().find_map(|(_, o)| match o {
            Origin::OfPooled(pooler, map) => Some((*pooler, *map)),
            _ => None,
        });
        let of_tokens = origins.iter().find_map(|(_, o)| match o {
            Origin::OfTokens(map, cut) => Some((*map, *cut)),
            _ => None,
        });
        let pooled = origins.iter().find_map(|(_, o)| match o {
            Origin::Pooled(pooler) => Some(*pooler),
            _ => None,
        });
        match (decoder, of_pooled, of_tokens) {
            (Some((dense, norm, decoder)), sop, _) => {
                self.head = if sop.is_some() {
                    Head::PreTraining
                } else {
                    Head::MaskedLm
                };
                self.linear(trace, "mlm.dense", dense)?;
                self.weights.insert("mlm.norm.weight".into(), norm.weight.clone());
                self.weights.insert("mlm.norm.bias".into(), norm.bias.clone());
                self.linear(trace, "mlm.decoder", decoder)?;
                let same_shape = decoder.weight.shape() == embedding.word.shape();
                self.tied =
                    same_shape && decoder.weight.fingerprint(trace.file)? == embedding.word.fingerprint(trace.file)?;
                if self.tied {
                    self.weights.remove("mlm.decoder");
                }
                if let Some((pooler, map)) = sop {
                    self.pooler(trace, pooler)?;
                    self.linear(trace, "sop", map)?;
                }
            }
            (None, Some((pooler, map)), _) => {
                self.pooler(trace, pooler)?;
                self.linear(trace, "classifier", map)?;
                if choices {
                    self.head = Head::MultipleChoice;
                } else {
                    self.head = Head::SequenceClassification;
                    self.labels = labels(map.size().1);
                }
            }
            (None, None, Some((map, true))) if map.size().1 == 2 => {
                self.head = Head::QuestionAnswering;
                self.linear(trace, "qa", map)?;
            }
            (None, None, Some((map, _))) => {
                self.head = Head::TokenClassification;
                self.linear(trace, "classifier", map)?;
                self.labels = labels(map.size().1);
            }
            (None, None, None) => {
                self.head = Head::None;
                if let Some(pooler) = pooled {
                    self.pooler(trace, pooler)?;
                }
            }
        }
        let mut spans = ["start_logits", "end_logits"].into_iter();
        for (name, origin) in origins {
            let ours = match (self.head, origin) {
                (Head::None, Origin::Hidden) => Some("last_hidden_state"),
                (Head::None, Origin::Pooled(_)) => Some("pooler_output"),
                (Head::PreTraining, Origin::Decoded(..)) => Some("prediction_logits"),
                (Head::PreTraining, Origin::OfPooled(..)) => Some("sop_logits"),
                (Head::QuestionAnswering, Origin::OfTokens(..)) => spans.next(),
                (Head::MaskedLm, Origin::Decoded(..))
                | (Head::SequenceClassification | Head::MultipleChoice, Origin::OfPooled(..))
                | (Head::TokenClassification, Origin::OfTokens(..)) => Some("logits"),
                _ => None,
            };
            match ours {
                // Several outputs may hold the same values.
                Some(ours) if self.outputs.iter().any(|(_, known)| *known == ours) => {}
                Some(ours) => self.outputs.push((name, ours)),
                None => self.notes.push(format!("output '{}' is left out", printable(name))),
            }
        }
        if self.outputs.is_empty() {
            return Err(trace.not_albert("it has no output thimble could compare"));
        }
        Ok(())
    }

    /// Makes another head of what the file holds: only none can be made of every other.
    pub fn make(&mut self, trace: &Trace<'a>, wanted: Head, last: &'a str) -> Result<(), ImportError> {
        if wanted != Head::None {
            return Err(trace.unsupported(format!(
                "--head {}: the file holds what the head {} needs, and only none can be made of it instead",
                wanted.name(),
                self.head.name()
            )));
        }
        self.notes.push(format!("its head, {}, is left out", self.head.name()));
        self.head = Head::None;
        self.tied = false;
        self.labels = vec![];
        self.weights.retain(|name, _| self.pooler && name.starts_with("pooler"));
        self.outputs = vec![(last, "last_hidden_state")];
        Ok(())
    }

    fn linear(&mut self, trace: &Trace<'a>, name: &str, linear: &Linear<'a>) -> Result<(), ImportError> {
        let Some(bias) = linear.bias.clone() else {
            return Err(trace.not_albert(format!("its head's map {name} has no bias")));
        };
        self.weights.insert(name.to_string(), linear.weight.clone());
        self.weights.insert(format!("{name}.bias"), bias);
        Ok(())
    }

    fn pooler(&mut self, trace: &Trace<'a>, pooler: &Linear<'a>) -> Result<(), ImportError> {
        self.pooler = true;
        self.linear(trace, "pooler", pooler)
    }
}

fn labels(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("LABEL_{i}")).collect()
}

/// The value `name` is a view of, and whether only a part of it.
fn strip<'a>(trace: &Trace<'a>, name: &'a str) -> (&'a str, bool) {
    let (mut name, mut cut) = (trace.source(name), false);
    for _ in 0..16 {
        match trace.node(name) {
            Some(node)
                if matches!(node.op, "Slice" | "Split" | "Gather")
                    && !trace.by_out.contains_key(name)
                    && !node.inputs.is_empty() =>
            {
                cut = true;
                name = trace.source(node.inputs[0]);
            }
            _ => break,
        }
    }
    (name, cut)
}

fn origin<'t, 'a>(trace: &'t Trace<'a>, name: &'a str, last: &'a str) -> Option<Origin<'t, 'a>> {
    let (base, cut) = strip(trace, name);
    if base == last && !cut {
        return Some(Origin::Hidden);
    }
    if let Some(pooler) = pooler(trace, base, last) {
        return Some(Origin::Pooled(pooler));
    }
    let map = &trace.linears[*trace.by_out.get(base)?];
    let (read, first) = strip(trace, map.x);
    if read == last && !first {
        return Some(Origin::OfTokens(map, cut));
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

/// The map whose tanh `value` is, if it reads one token of the last hidden state.
fn pooler<'t, 'a>(trace: &'t Trace<'a>, value: &'a str, last: &'a str) -> Option<&'t Linear<'a>> {
    let tanh = trace.node(value).filter(|n| n.op == "Tanh")?;
    let map = &trace.linears[*trace.by_out.get(trace.source(tanh.inputs.first()?))?];
    let (read, first) = strip(trace, map.x);
    (read == last && first).then_some(map)
}
