//! How values flow through a graph: which node makes a value, which nodes read it (nested graphs included), and what the
//! outputs need. Names are the file's own.

use super::MAX_NESTING;
use crate::render::text::printable;
use std::collections::{HashMap, HashSet};
use thimble_shared::onnx::protobuf::{Fields, WireError};
use thimble_shared::onnx::reader::{self, ModelView, NodeView};

/// Values named in one line at most.
const NAMED: usize = 8;

pub struct Flow<'a> {
    /// Per node, what it reads: its inputs, and for nested graphs every name read inside.
    pub reads: Vec<Vec<&'a str>>,
    pub maker: HashMap<&'a str, usize>,
    pub readers: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Flow<'a> {
    pub fn of(view: &ModelView<'a>) -> Result<Flow<'a>, WireError> {
        let mut flow = Flow {
            reads: Vec::with_capacity(view.nodes.len()),
            maker: HashMap::new(),
            readers: HashMap::new(),
        };
        for (i, node) in view.nodes.iter().enumerate() {
            let reads = reads(node)?;
            for name in &reads {
                flow.readers.entry(name).or_default().push(i);
            }
            for name in node.outputs.iter().filter(|n| !n.is_empty()) {
                flow.maker.insert(name, i);
            }
            flow.reads.push(reads);
        }
        Ok(flow)
    }

    pub fn readers(&self, name: &str) -> &[usize] {
        self.readers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Values a person may have meant by `name`, in words: those that hold its last part, or the outputs.
    pub fn similar(&self, outputs: &[&'a str], name: &str) -> String {
        let part = name.rsplit(['/', '.', ':']).find(|p| !p.is_empty()).unwrap_or(name);
        let mut near: Vec<&str> = self.maker.keys().copied().filter(|n| n.contains(part)).collect();
        near.sort_unstable();
        let (said, list) = if near.is_empty() {
            ("its outputs are", outputs)
        } else {
            ("there are", near.as_slice())
        };
        let shown: Vec<String> = list.iter().take(NAMED).map(|n| format!("'{}'", printable(n))).collect();
        let rest = match list.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{said} {}{rest}", shown.join(", "))
    }

    /// Every value that `outputs` depend on, themselves included.
    pub fn needed(&self, outputs: impl IntoIterator<Item = &'a str>) -> HashSet<&'a str> {
        let mut seen: HashSet<&str> = HashSet::new();
        let mut open: Vec<&str> = outputs.into_iter().collect();
        while let Some(name) = open.pop() {
            if seen.insert(name)
                && let Some(&node) = self.maker.get(name)
            {
                open.extend(&self.reads[node]);
            }
        }
        seen
    }
}

/// Names a node reads, those read inside its nested graphs included.
pub fn reads<'a>(node: &NodeView<'a>) -> Result<Vec<&'a str>, WireError> {
    let mut names: Vec<&str> = node.inputs.iter().copied().filter(|n| !n.is_empty()).collect();
    inner_reads(node, &mut names, 0)?;
    Ok(names)
}

fn inner_reads<'a>(node: &NodeView<'a>, names: &mut Vec<&'a str>, depth: usize) -> Result<(), WireError> {
    if depth > MAX_NESTING {
        return Err(WireError::Nesting(MAX_NESTING));
    }
    for encoded in &node.attributes {
        for graph in reader::attribute(encoded)?.graphs {
            for field in Fields::new(graph) {
                let field = field?;
                match field.number {
                    1 => {
                        let inner = reader::node(field.fields()?)?;
                        names.extend(inner.inputs.iter().filter(|n| !n.is_empty()));
                        inner_reads(&inner, names, depth + 1)?;
                    }
                    // A nested graph may hand an outer value straight out.
                    12 => names.push(port_name(field.bytes()?)?),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// Name of an encoded `ValueInfoProto`.
pub fn port_name(encoded: &[u8]) -> Result<&str, WireError> {
    for field in Fields::new(encoded) {
        let field = field?;
        if field.number == 1 {
            return field.text();
        }
    }
    Ok("")
}

/// Element type of a `ValueInfoProto` and its dims, where they are numbers.
pub fn port_shape(encoded: &[u8]) -> Result<(i64, Vec<Option<i64>>), WireError> {
    let (mut element, mut dims) = (0, Vec::new());
    for kind in Fields::new(encoded) {
        let kind = kind?;
        if kind.number != 2 {
            continue;
        }
        for tensor in kind.fields()? {
            let tensor = tensor?;
            if tensor.number != 1 {
                continue;
            }
            for field in tensor.fields()? {
                let field = field?;
                match field.number {
                    1 => element = field.int()?,
                    2 => {
                        for dim in field.fields()? {
                            let dim = dim?;
                            let mut value = None;
                            for part in dim.fields()? {
                                let part = part?;
                                if part.number == 1 {
                                    value = Some(part.int()?);
                                }
                            }
                            dims.push(value);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    Ok((element, dims))
}
