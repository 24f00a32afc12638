//! Decides what happens to each value, tensor and node of a file that is to get smaller. In come the file's nodes and the
//! outputs to keep, out comes what is left out, what goes by another name, and what is made by a Transpose.

use super::SlimError;
use crate::onnx::flow::{Flow, port_name};
use crate::onnx::same::{self, Same};
use crate::onnx::slim::SlimReport;
use crate::onnx::slim::rewrite::defined_within;
use crate::onnx::{Held, OnnxFile, PayloadPlace, tensor_bytes};
use crate::render::text::printable;
use std::collections::{HashMap, HashSet};
use thimble_shared::onnx::reader::{self, ModelView};

/// What is kept, renamed and left out. Names are the file's own.
#[derive(Default)]
pub struct SlimPlan<'a> {
    /// Values that go by another name now.
    pub renamed: HashMap<&'a str, &'a str>,
    /// Tensors made from an initializer by a Transpose before all nodes: name and source, in order.
    pub turned: Vec<(&'a str, &'a str)>,
    /// The same for what a Constant node makes, by the node whose place the Transpose takes: it may not stand earlier.
    pub turned_at: HashMap<usize, (&'a str, &'a str)>,
    /// Names of tensors that are not stored any more.
    pub dropped: HashSet<&'a str>,
    /// Nodes kept, by index.
    pub nodes: Vec<bool>,
    /// Values that some kept output needs, by their new names.
    pub needed: HashSet<&'a str>,
    /// Outputs of the new file.
    pub outputs: HashSet<&'a str>,
    /// Those that are inner values of the file; the inputs they do not need are left out.
    pub inner: Vec<&'a str>,
    /// Names that a nested graph defines for itself.
    pub nested: HashSet<&'a str>,
    /// What was taken out so far.
    pub done: SlimReport,
}

impl<'a> SlimPlan<'a> {
    /// The plan that keeps `outputs`; all of them where none are named.
    pub fn new(
        file: &OnnxFile,
        view: &ModelView<'a>,
        flow: &Flow<'a>,
        outputs: &[String],
    ) -> Result<SlimPlan<'a>, SlimError> {
        let wire = |e| file.wire_error(e);
        let names = |ports: &[&'a [u8]]| ports.iter().map(|p| port_name(p)).collect::<Result<Vec<&'a str>, _>>();
        let (inputs, all_outputs) = (names(&view.inputs).map_err(wire)?, names(&view.outputs).map_err(wire)?);
        let mut inner = Vec::new();
        for name in outputs.iter().filter(|o| !all_outputs.contains(&o.as_str())) {
            match flow.maker.get_key_value(name.as_str()) {
                Some((&value, _)) => inner.push(value),
                None => {
                    return Err(SlimError::NoOutput {
                        file: file.path.display().to_string(),
                        name: printable(name),
                        has: flow.similar(&all_outputs, name),
                    });
                }
            }
        }
        let wanted = |name: &&str| outputs.is_empty() || outputs.iter().any(|o| o == name);
        let mut plan = SlimPlan {
            nodes: vec![true; view.nodes.len()],
            outputs: all_outputs
                .iter()
                .copied()
                .filter(wanted)
                .chain(inner.iter().copied())
                .collect(),
            inner,
            ..SlimPlan::default()
        };
        for node in &view.nodes {
            defined_within(&node.attributes, &mut plan.nested, 0).map_err(wire)?;
        }
        for (i, node) in view.nodes.iter().enumerate() {
            if let ("Identity", "" | "ai.onnx", &[from], &[to]) =
                (node.op, node.domain, node.inputs.as_slice(), node.outputs.as_slice())
                && !plan.outputs.contains(to)
                && plan.rename(to, from)
            {
                plan.nodes[i] = false;
                plan.done.identities += 1;
            }
        }
        let held = file.tensors(view)?;
        let inputs: HashSet<&str> = inputs.into_iter().collect();
        let needed = flow.needed(plan.outputs.iter().copied());
        let kept = plan.outputs.clone();
        // An initializer that is also an input may be given another value, so it is left alone.
        let free =
            |name: &str| !name.is_empty() && !inputs.contains(name) && !kept.contains(name) && needed.contains(name);
        let candidates: Vec<usize> = (0..held.len())
            .filter(|&i| held[i].place.is_value() && free(held[i].name))
            .collect();
        plan.tensors(file, view, flow, &held, &candidates)?;
        plan.constants(file, view, free)?;
        plan.settle();
        plan.cut(view, flow);
        Ok(plan)
    }

    /// The name a value goes by now.
    pub fn resolve(&self, name: &'a str) -> &'a str {
        self.renamed.get(name).copied().unwrap_or(name)
    }

    /// Lets the value `from` go by the name `to`. A nested graph that defines a `to` of its own would read that one instead,
    /// so such a value keeps its name.
    fn rename(&mut self, from: &'a str, to: &'a str) -> bool {
        let free = !self.nested.contains(to);
        if free {
            self.renamed.insert(from, to);
        }
        free
    }

    /// Follows every new name to its end: nodes may stand in any order, so an Identity may hand on what a later one makes,
    /// or a tensor that goes by another name itself.
    fn settle(&mut self) {
        let settled: Vec<(&str, &str)> = self
            .renamed
            .iter()
            .map(|(&from, &to)| {
                let mut end = to;
                // Identities in a circle are no valid graph, but must not hang.
                for _ in 0..self.renamed.len() {
                    match self.renamed.get(end) {
                        Some(&next) => end = next,
                        None => break,
                    }
                }
                (from, end)
            })
            .collect();
        self.renamed.extend(settled);
    }

    /// Keeps equal tensors once.
    fn tensors(
        &mut self,
        file: &OnnxFile,
        view: &ModelView<'a>,
        flow: &Flow<'a>,
        held: &[Held<'a>],
        candidates: &[usize],
    ) -> Result<(), SlimError> {
        let same = same::find(file, held, candidates)?;
        // What repeats tensor `j`, plain or turned, and is still there by its own name, for others that repeat it too.
        let mut heirs: HashMap<(usize, bool), &str> = HashMap::new();
        for &i in candidates {
            let name = held[i].name;
            let (j, turned) = match same.get(&i) {
                Some(&Same::Bytes(j)) => (j, false),
                Some(&Same::Transposed(j)) => (j, true),
                None => continue,
            };
            if !turned && self.rename(name, held[j].name) {
                self.dropped.insert(name);
                self.done.duplicates += 1;
                continue;
            }
            if let Some(&heir) = heirs.get(&(j, turned))
                && self.rename(name, heir)
            {
                let made = self.dropped.contains(heir);
                self.dropped.insert(name);
                *(if made {
                    &mut self.done.transposed
                } else {
                    &mut self.done.duplicates
                }) += 1;
                continue;
            }
            if turned && turns(view.opset, held[j].view.data_type) {
                match (held[j].place, flow.maker.get(name)) {
                    (PayloadPlace::Constant, Some(&node)) => {
                        self.turned_at.insert(node, (name, held[j].name));
                    }
                    _ => self.turned.push((name, held[j].name)),
                }
                self.dropped.insert(name);
                self.done.transposed += 1;
            }
            heirs.entry((j, turned)).or_insert(name);
        }
        Ok(())
    }

    /// Keeps equal Constant nodes once whose values have no bytes to compare: single numbers, lists and texts in attributes.
    fn constants(
        &mut self,
        file: &OnnxFile,
        view: &ModelView<'a>,
        free: impl Fn(&str) -> bool,
    ) -> Result<(), SlimError> {
        let mut first: HashMap<&[u8], &str> = HashMap::new();
        for node in &view.nodes {
            let (&[encoded], &[name]) = (node.attributes.as_slice(), node.outputs.as_slice()) else {
                continue;
            };
            if node.op != "Constant" || !matches!(node.domain, "" | "ai.onnx") || !free(name) {
                continue;
            }
            let tensor = reader::attribute(encoded).map_err(|e| file.wire_error(e))?.tensor;
            if tensor.is_some_and(|t| tensor_bytes(&t).is_some()) {
                continue;
            }
            match first.get(encoded) {
                Some(to) if self.rename(name, to) => {
                    self.dropped.insert(name);
                    self.done.duplicates += 1;
                }
                Some(_) => {}
                None => {
                    first.insert(encoded, name);
                }
            }
        }
        Ok(())
    }

    /// Cuts what no output needs.
    fn cut(&mut self, view: &ModelView<'a>, flow: &Flow<'a>) {
        let source: HashMap<&str, &str> = self.turned.iter().chain(self.turned_at.values()).copied().collect();
        let mut open: Vec<&str> = self.outputs.iter().copied().collect();
        while let Some(name) = open.pop().map(|n| self.resolve(n)) {
            if !self.needed.insert(name) {
                continue;
            }
            if let Some(from) = source.get(name) {
                open.push(from);
            } else if let Some(&node) = flow.maker.get(name) {
                open.extend(&flow.reads[node]);
            }
        }
        for (i, node) in view.nodes.iter().enumerate() {
            let makes = |o: &&'a str| self.needed.contains(o) && !self.dropped.contains(o);
            if self.nodes[i] && !node.outputs.iter().any(makes) {
                self.nodes[i] = false;
                let constant = node.outputs.first().is_some_and(|o| self.dropped.contains(o));
                self.done.dead_nodes += usize::from(!constant);
            }
        }
        self.turned.retain(|(name, _)| self.needed.contains(name));
        self.turned_at.retain(|_, (name, _)| self.needed.contains(name));
    }
}

/// Whether the operator set's Transpose takes the element type (`TensorProto.DataType`), which ONNX's checker asks too.
fn turns(opset: i64, data_type: i64) -> bool {
    match data_type {
        1..=7 | 10..=13 => opset >= 1,
        16 => opset >= 13,
        _ => false,
    }
}
