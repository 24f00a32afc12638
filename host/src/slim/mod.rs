//! Makes an ONNX file smaller without touching what it computes: equal tensors are kept once, Identity nodes folded, what no
//! output needs cut, doc strings and stack traces left out, numbers stored raw. In comes any ONNX file, out come the pieces
//! of the new one, borrowed from the old one's map where they are large; the exact size is known before anything is written.

mod rewrite;

use crate::onnx::flow::{Flow, port_name};
use crate::onnx::same::{self, Same};
use crate::onnx::{OnnxError, OnnxFile, Place};
use rewrite::{Rewriter, defined_within};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use thimble_shared::onnx_read::ModelView;

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Keep only these graph outputs.
    pub outputs: Vec<String>,
    /// Give inner values short names and nodes none.
    pub short_names: bool,
    /// Leave the model's own `metadata_props` out too: programs may read them.
    pub strip_metadata: bool,
    /// Put external data into the file.
    pub one_file: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SlimError {
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    #[error("{file}: has no output '{name}'; it has {has}")]
    NoOutput { file: String, name: String, has: String },
    #[error(
        "{file}: in one file it would take {bytes} bytes, and an ONNX file holds at most 2 GiB; leave --one-file out"
    )]
    TooLarge { file: String, bytes: u64 },
}

/// Bytes that lie in several places.
#[derive(Default)]
pub struct Rope<'a> {
    pub pieces: Vec<Cow<'a, [u8]>>,
    pub len: u64,
}

impl<'a> Rope<'a> {
    pub fn push(&mut self, piece: Cow<'a, [u8]>) {
        self.len += piece.len() as u64;
        match (self.pieces.last_mut(), piece) {
            // Small pieces are gathered, so that there are few.
            (Some(Cow::Owned(last)), Cow::Owned(piece)) => last.extend_from_slice(&piece),
            (_, piece) => self.pieces.push(piece),
        }
    }

    pub fn append(&mut self, other: Rope<'a>) {
        other.pieces.into_iter().for_each(|p| self.push(p));
    }
}

/// What was taken out, in numbers a person asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Done {
    pub duplicates: usize,
    pub transposed: usize,
    pub identities: usize,
    pub dead_nodes: usize,
    pub dead_tensors: usize,
    /// Numbers moved from typed fields to raw bytes.
    pub made_raw: usize,
}

/// The new file, not yet written.
pub struct Slimmed<'a> {
    pub model: Rope<'a>,
    /// External data, if the input had it and it was not asked into one file.
    pub data: Option<Rope<'a>>,
    pub done: Done,
}

impl Slimmed<'_> {
    pub fn bytes(&self) -> u64 {
        self.model.len + self.data.as_ref().map_or(0, |d| d.len)
    }
}

/// Bytes of a model, the external files it uses included.
pub fn model_bytes(file: &OnnxFile) -> u64 {
    let external: u64 = file
        .externals()
        .filter_map(|(_, bytes)| bytes.ok())
        .map(|b| b.len() as u64)
        .sum();
    file.bytes().len() as u64 + external
}

/// `data_name` is what the file will call its external data.
pub fn slim<'a>(file: &'a OnnxFile, options: &Options, data_name: &str) -> Result<Slimmed<'a>, SlimError> {
    let view = file.view()?;
    let plan = Plan::new(file, &view, options)?;
    for aligned in [64, 1] {
        let slimmed = Rewriter::new(file, &view, &plan, options, data_name, aligned).write()?;
        if options.one_file && slimmed.model.len > i32::MAX as u64 {
            return Err(SlimError::TooLarge {
                file: file.path.display().to_string(),
                bytes: slimmed.model.len,
            });
        }
        // The file as it is would be no copy without the data it refers to.
        let alone = file.externals().next().is_none();
        if slimmed.bytes() <= model_bytes(file) || (aligned == 1 && !alone) {
            return Ok(slimmed);
        }
    }
    // Nothing could be won, and rewriting costs a few bytes: the file as it is.
    let mut model = Rope::default();
    model.push(Cow::Borrowed(file.bytes()));
    Ok(Slimmed {
        model,
        data: None,
        done: Done::default(),
    })
}

/// What happens to each value, tensor and node.
struct Plan<'a> {
    /// Values that go by another name now.
    renamed: HashMap<&'a str, &'a str>,
    /// Tensors made from another one by a Transpose: name and source, in order.
    turned: Vec<(&'a str, &'a str)>,
    /// Names of tensors that are not stored any more.
    dropped: HashSet<&'a str>,
    /// Nodes kept, by index.
    nodes: Vec<bool>,
    needed: HashSet<&'a str>,
    outputs: HashSet<&'a str>,
    /// Names that a nested graph defines for itself.
    nested: HashSet<&'a str>,
    done: Done,
}

impl<'a> Plan<'a> {
    fn new(file: &OnnxFile, view: &ModelView<'a>, options: &Options) -> Result<Plan<'a>, SlimError> {
        let wire = |e| file.wire_error(e);
        let flow = Flow::of(view).map_err(wire)?;
        let names = |ports: &[&'a [u8]]| ports.iter().map(|p| port_name(p)).collect::<Result<Vec<&'a str>, _>>();
        let (inputs, all_outputs) = (names(&view.inputs).map_err(wire)?, names(&view.outputs).map_err(wire)?);
        if let Some(name) = options.outputs.iter().find(|o| !all_outputs.contains(&o.as_str())) {
            return Err(SlimError::NoOutput {
                file: file.path.display().to_string(),
                name: name.clone(),
                has: all_outputs.join(", "),
            });
        }
        let wanted = |name: &&str| options.outputs.is_empty() || options.outputs.iter().any(|o| o == name);
        let outputs: HashSet<&str> = all_outputs.iter().copied().filter(wanted).collect();
        let inputs: HashSet<&str> = inputs.into_iter().collect();
        let mut plan = Plan {
            renamed: HashMap::new(),
            turned: Vec::new(),
            dropped: HashSet::new(),
            nodes: vec![true; view.nodes.len()],
            needed: HashSet::new(),
            outputs,
            nested: HashSet::new(),
            done: Done::default(),
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
        plan.tensors(file, view, &flow, &inputs)?;
        plan.cut(view, &flow);
        Ok(plan)
    }

    /// The name a value goes by now.
    fn resolve(&self, name: &'a str) -> &'a str {
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

    /// Keeps equal tensors once. An initializer that is also an input may be given another value, so it is left alone.
    fn tensors(
        &mut self,
        file: &OnnxFile,
        view: &ModelView<'a>,
        flow: &Flow<'a>,
        inputs: &HashSet<&str>,
    ) -> Result<(), SlimError> {
        let held = file.tensors(view)?;
        let needed = flow.needed(self.outputs.iter().copied());
        let free = |name: &str| !name.is_empty() && !inputs.contains(name) && !self.outputs.contains(name);
        let candidates: Vec<usize> = (0..held.len())
            .filter(|&i| held[i].place != Place::Inner && free(held[i].name) && needed.contains(held[i].name))
            .collect();
        let same = same::find(file, &held, &candidates)?;
        let mut turned: HashMap<&str, &str> = HashMap::new();
        for &i in &candidates {
            let name = held[i].name;
            match same.get(&i) {
                Some(&Same::Bytes(j)) if self.rename(name, held[j].name) => {
                    self.dropped.insert(name);
                    self.done.duplicates += 1;
                }
                // A Constant node may stand after the place where its transpose is first read.
                Some(&Same::Transposed(j))
                    if held[j].place == Place::Initializer && turns(view.opset, held[j].view.data_type) =>
                {
                    match turned.get(held[j].name) {
                        Some(first) if self.rename(name, first) => {}
                        Some(_) => self.turned.push((name, held[j].name)),
                        None => {
                            turned.insert(held[j].name, name);
                            self.turned.push((name, held[j].name));
                        }
                    }
                    self.dropped.insert(name);
                    self.done.transposed += 1;
                }
                _ => {}
            }
        }
        self.settle();
        Ok(())
    }

    /// Cuts what no output needs.
    fn cut(&mut self, view: &ModelView<'a>, flow: &Flow<'a>) {
        let source: HashMap<&str, &str> = self.turned.iter().copied().collect();
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
