//! Says a foreign graph in ONNX's standard operators: ONNX Runtime's fused nodes are taken apart, quantized weights are
//! dequantized when asked, and the graph is cut at inner values when asked. In comes an ONNX file, out comes one in memory
//! that computes the same, which the recognition and the proof read in its stead; none where there is nothing to do.

mod attention;
mod blocks;
mod fused;
mod graph;
mod qlinear;
mod quantized;
mod stored;

use super::ImportError;
use crate::onnx::flow::{Flow, port_name};
use crate::onnx::kinds::Kinds;
use crate::onnx::slim::model_bytes;
use crate::onnx::{OnnxError, OnnxFile};
use crate::render::text::printable;
use graph::{Graph, TooMuch};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use stored::{Packing, Rounded, Scaling};
use thimble_shared::onnx::protobuf::{Fields, Message, WireError};
use thimble_shared::onnx::reader::{self, AttributeView, ModelView, NodeView, TensorView};

/// Where ONNX Runtime's own operators live.
const MICROSOFT: &str = "com.microsoft";

/// Operators only a quantized model has, beside those whose names begin with QLinear.
const QUANTIZED: [&str; 13] = [
    "DynamicQuantizeLinear",
    "QuantizeLinear",
    "DequantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QAttention",
    "MatMulNBits",
    "QGemm",
    "MatMulBnb4",
    "GatherBlockQuantized",
    "QEmbedLayerNormalization",
];

/// Whether only a quantized model has the operator.
pub fn is_quantized(op: &str) -> bool {
    op.starts_with("QLinear") || QUANTIZED.contains(&op)
}

/// How much what is made may take: as many times the model's bytes, and as many more.
const MOST_TIMES: u64 = 16;
const MOST_FREE: u64 = 1 << 20;

/// Why a node cannot be taken apart.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    #[error("{0}")]
    Other(String),
}

/// What to do to a file.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Values to cut the graph at; none leaves its outputs.
    pub outputs: Vec<String>,
    /// Whether quantized weights are taken as they are.
    pub dequantize: bool,
}

/// A file said in standard operators.
pub struct Decomposed {
    pub file: OnnxFile,
    pub notes: Vec<String>,
    /// Its attention reads only how many ones a mask has: it states ALBERT for masks that end in zeros alone.
    pub right_padded: bool,
    /// The first node that was left as it is, and why.
    pub left: Option<String>,
}

/// Three parts of a stored tensor, side by side along its last dimension.
#[derive(Clone, Debug)]
struct Thirds {
    parts: [String; 3],
    /// Columns of each.
    width: usize,
}

/// The work on one file.
struct Decomposition<'f, 'a> {
    file: &'a OnnxFile,
    view: &'f ModelView<'a>,
    flow: &'f Flow<'a>,
    kinds: Kinds<'f, 'a>,
    needed: HashSet<&'a str>,
    tensors: HashMap<&'a str, TensorView<'a>>,
    graph: Graph<'a>,
    thirds: HashMap<String, Thirds>,
    masks: HashMap<(&'a str, u32), String>,
    dequantized: HashMap<(&'a str, Scaling<'a>, Packing), String>,
    /// Tensors that were made of integers.
    rounded: Vec<Rounded>,
    /// Nodes that an earlier one has taken in.
    done: HashSet<usize>,
    right_padded: bool,
    /// Quantized tensors whose originals the file holds too, and those that another one is a rounding of as well.
    originals: usize,
    again: usize,
}

/// The outputs asked for, where each is a value of the graph.
fn outputs<'a>(
    file: &OnnxFile,
    view: &ModelView<'a>,
    flow: &Flow<'a>,
    wanted: &[String],
) -> Result<Vec<&'a str>, ImportError> {
    let mut own = Vec::new();
    for port in &view.outputs {
        own.push(port_name(port).map_err(|e| file.wire_error(e))?);
    }
    if wanted.is_empty() {
        return Ok(own);
    }
    let mut found = Vec::new();
    for name in wanted {
        match flow.maker.get_key_value(name.as_str()) {
            Some((&value, _)) => found.push(value),
            None => {
                return Err(ImportError::Unsupported {
                    file: file.path.display().to_string(),
                    problem: format!(
                        "no node makes a value '{}'; {}",
                        printable(name),
                        flow.similar(&own, name)
                    ),
                });
            }
        }
    }
    Ok(found)
}

/// Rewrites a file where that is needed.
pub fn decompose(file: &OnnxFile, wanted: &Wanted) -> Result<Option<Decomposed>, ImportError> {
    let view = file.view()?;
    let flow = Flow::of(&view).map_err(|e| file.wire_error(e))?;
    let outputs = outputs(file, &view, &flow, &wanted.outputs)?;
    let needed = flow.needed(outputs.iter().copied());
    let is_needed = |n: &NodeView<'_>| n.outputs.iter().any(|o| needed.contains(o));
    let count = |is: &dyn Fn(&NodeView<'_>) -> bool| {
        let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
        for node in view.nodes.iter().filter(|n| is_needed(n) && is(n)) {
            *ops.entry(node.op).or_default() += 1;
        }
        ops
    };
    let quantized = count(&|n| is_quantized(n.op));
    let fused = count(&|n| n.domain == MICROSOFT && !is_quantized(n.op));
    // What is quantized is refused by its own name unless it was asked for.
    let dequantize = wanted.dequantize && !quantized.is_empty();
    if (wanted.outputs.is_empty() && fused.is_empty() && !dequantize) || (!quantized.is_empty() && !wanted.dequantize) {
        return Ok(None);
    }
    let mut work = Decomposition::new(file, &view, &flow, needed).map_err(|e| said(file, &e))?;
    let mut left = None;
    for (i, node) in view.nodes.iter().enumerate() {
        if work.done.contains(&i) || !node.outputs.iter().any(|o| work.needed.contains(o)) {
            continue;
        }
        match work.node(node) {
            Ok(()) => {}
            // What belongs to a larger graph may stay as it is; what the ALBERT needs is refused where it is missed.
            Err(Problem::Other(problem)) => {
                let out = node.outputs.first().copied().unwrap_or_default();
                left.get_or_insert_with(|| format!("node '{}' ({}) {problem}", printable(out), printable(node.op)));
                work.graph.copy(node, None, None);
            }
            Err(e) => return Err(said(file, &e)),
        }
    }
    let (right_padded, originals, again) = (work.right_padded, work.originals, work.again);
    let bytes = work.finish(&outputs).map_err(|e| said(file, &e))?;
    let listed = |ops: &BTreeMap<&str, usize>| {
        let list: Vec<String> = ops.iter().map(|(op, n)| format!("{n} {}", printable(op))).collect();
        list.join(", ")
    };
    let mut notes = Vec::new();
    if !fused.is_empty() {
        notes.push(format!(
            "its fused operators ({}) are read as the equivalent standard operators",
            listed(&fused)
        ));
    }
    if dequantize {
        notes.push(format!(
            "its weights are quantized ({}) and taken as they are: what that cost in quality stays lost, and the file it was made from keeps it; the proof is of the file with its weights dequantized",
            listed(&quantized)
        ));
    }
    if originals > 0 {
        notes.push(format!(
            "of {originals} of its quantized tensors the file holds the originals too, which are taken"
        ));
    }
    if again > 0 {
        notes.push(format!(
            "of its quantized tensors {again} are another rounding of one before, within both roundings, which stands for them"
        ));
    }
    Ok(Some(Decomposed {
        file: OnnxFile::made(&file.path, bytes)?,
        notes,
        right_padded,
        left,
    }))
}

fn said(file: &OnnxFile, problem: &Problem) -> ImportError {
    ImportError::Unsupported {
        file: file.path.display().to_string(),
        problem: problem.to_string(),
    }
}

impl<'f, 'a> Decomposition<'f, 'a> {
    fn new(
        file: &'a OnnxFile,
        view: &'f ModelView<'a>,
        flow: &'f Flow<'a>,
        needed: HashSet<&'a str>,
    ) -> Result<Decomposition<'f, 'a>, Problem> {
        let held = file.tensors(view)?;
        let tensors: HashMap<&str, TensorView<'_>> = held
            .into_iter()
            .filter(|h| h.place.is_value() && !h.name.is_empty())
            .map(|h| (h.name, h.view))
            .collect();
        let mut prefix = String::from("thimble.");
        while flow
            .readers
            .keys()
            .chain(flow.maker.keys())
            .any(|n| n.starts_with(&prefix))
        {
            prefix.insert(0, '~');
        }
        let most = model_bytes(file).saturating_mul(MOST_TIMES).saturating_add(MOST_FREE);
        Ok(Decomposition {
            file,
            view,
            flow,
            kinds: Kinds::of(view, flow)?,
            needed,
            tensors,
            graph: Graph::new(prefix, usize::try_from(most).unwrap_or(usize::MAX)),
            thirds: HashMap::new(),
            masks: HashMap::new(),
            dequantized: HashMap::new(),
            rounded: Vec::new(),
            done: HashSet::new(),
            right_padded: false,
            originals: 0,
            again: 0,
        })
    }

    /// Takes one node apart, or over.
    fn node(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        if matches!(node.domain, "" | "ai.onnx" | MICROSOFT) {
            match node.op {
                "DequantizeLinear" => return self.dequantize(node),
                "QuantizeLinear" => return self.quantize(node),
                "DynamicQuantizeLinear" => return self.dynamic_quantize(node),
                "MatMulInteger" => return self.matmul_integer(node),
                "QLinearMatMul" => return self.qlinear_matmul(node),
                _ => {}
            }
        }
        if node.domain != MICROSOFT {
            self.graph.copy(node, None, None);
            return Ok(());
        }
        match node.op {
            "Gelu" | "BiasGelu" | "FastGelu" | "QuickGelu" => self.gelu(node),
            "SkipLayerNormalization" => self.skip_norm(node),
            "EmbedLayerNormalization" => self.embedding(node),
            "FusedMatMul" | "TransposeMatMul" => self.fused_matmul(node),
            "FusedGemm" => self.fused_gemm(node),
            "BiasSoftmax" => self.bias_softmax(node),
            "Attention" => {
                let weight = self.input(node, 1)?;
                self.attention(node, weight, 3)
            }
            "MultiHeadAttention" => self.multi_head(node),
            "MatMulIntegerToFloat" => self.matmul_float(node, 3, 5, 6),
            "DynamicQuantizeMatMul" => self.matmul_float(node, 2, 3, 4),
            "QAttention" => self.quantized_attention(node),
            "QGemm" => self.gemm(node),
            "QEmbedLayerNormalization" => self.quantized_embedding(node),
            "MatMulNBits" => self.matmul_bits(node),
            "GatherBlockQuantized" => self.gather_blocks(node),
            op if op.starts_with("QLinear") => self.qlinear(node),
            _ => Err(Problem::Other(
                "is an operator of ONNX Runtime that thimble cannot decompose".into(),
            )),
        }
    }

    /// The encoded model: what was made, the tensors it reads, the inputs it needs and the outputs that were asked for.
    fn finish(self, outputs: &[&'a str]) -> Result<Vec<u8>, Problem> {
        let mut work = self;
        for &out in outputs {
            let now = work.graph.now(out);
            if now != out {
                work.graph.renamed(out, &now);
            }
        }
        let read: BTreeSet<String> = work.graph.reads()?.into_iter().collect();
        let mut rest = Message::default();
        for tensor in &work.view.initializers {
            if read.contains(tensor.name) || outputs.contains(&tensor.name) {
                rest.bytes(5, tensor.encoded);
            }
        }
        for sparse in &work.view.sparse {
            rest.bytes(15, sparse);
        }
        for port in &work.view.inputs {
            if read.contains(port_name(port)?) {
                rest.bytes(11, port);
            }
        }
        let own: HashMap<&str, &[u8]> = work
            .view
            .outputs
            .iter()
            .map(|p| Ok((port_name(p)?, *p)))
            .collect::<Result<_, WireError>>()?;
        for name in outputs {
            match own.get(name) {
                Some(port) => rest.bytes(12, port),
                None => {
                    let mut port = Message::default();
                    port.text(1, name);
                    rest.message(12, &port);
                }
            }
        }
        let mut model = Message::default();
        for field in Fields::new(work.file.bytes()) {
            let field = field?;
            match (field.number, field.value) {
                (1, _) => model.int(1, field.int()?),
                (8 | 25, _) => model.bytes(field.number, field.bytes()?),
                _ => {}
            }
        }
        let graph = work.graph.finish(&rest);
        model.message(7, &graph);
        Ok(model.0)
    }

    /// An input that must be there.
    fn input(&self, node: &NodeView<'a>, i: usize) -> Result<&'a str, Problem> {
        self.maybe(node, i)
            .ok_or_else(|| Problem::Other(format!("has no input {i}")))
    }

    fn maybe(&self, node: &NodeView<'a>, i: usize) -> Option<&'a str> {
        node.inputs.get(i).copied().filter(|n| !n.is_empty())
    }

    fn output(&self, node: &NodeView<'a>) -> Result<&'a str, Problem> {
        let out = node.outputs.first().copied().filter(|n| !n.is_empty());
        out.ok_or_else(|| Problem::Other("has no output".into()))
    }

    fn made_by(&self, name: &str) -> Option<&'f NodeView<'a>> {
        self.flow.maker.get(name).map(|&i| &self.view.nodes[i])
    }

    fn is_needed(&self, name: &str) -> bool {
        !name.is_empty() && self.needed.contains(name)
    }

    fn stored_tensor(&self, name: &str) -> Result<TensorView<'a>, Problem> {
        self.tensors
            .get(name)
            .cloned()
            .ok_or_else(|| Problem::Other(format!("computes '{}', which is stored in an ALBERT", printable(name))))
    }

    fn attribute(&self, node: &NodeView<'a>, name: &str) -> Result<Option<AttributeView<'a>>, Problem> {
        for encoded in &node.attributes {
            let attribute = reader::attribute(encoded)?;
            if attribute.name == name {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }

    fn int(&self, node: &NodeView<'a>, name: &str) -> Result<Option<i64>, Problem> {
        Ok(self.attribute(node, name)?.map(|a| a.int))
    }

    fn float(&self, node: &NodeView<'a>, name: &str) -> Result<Option<f32>, Problem> {
        Ok(self.attribute(node, name)?.map(|a| a.float))
    }

    fn ints(&self, node: &NodeView<'a>, name: &str) -> Result<Option<Vec<i64>>, Problem> {
        Ok(self.attribute(node, name)?.map(|a| a.ints))
    }

    fn text(&self, node: &NodeView<'a>, name: &str) -> Result<Option<String>, Problem> {
        let found = self.attribute(node, name)?;
        Ok(found.map(|a| String::from_utf8_lossy(a.string).into_owned()))
    }

    /// Splits a stored vector or matrix into three along its last dimension. `name` is the file's, or one that was made.
    fn thirds(&mut self, name: &str) -> Result<Thirds, Problem> {
        if let Some(known) = self.thirds.get(name) {
            return Ok(known.clone());
        }
        let (data_type, dims, bytes) = match self.graph.made(name) {
            Some(made) => made,
            None => {
                let tensor = self.stored_tensor(name)?;
                let dims: Vec<usize> = tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
                (tensor.data_type, dims, self.file.payload(&tensor)?.into_owned())
            }
        };
        let last = dims.last().copied().unwrap_or(0);
        let count: usize = dims.iter().product();
        if count == 0 || !last.is_multiple_of(3) || dims.len() > 2 || !bytes.len().is_multiple_of(count) {
            return Err(Problem::Other(format!(
                "has '{}' of {dims:?}, which is no query, key and value side by side",
                printable(name)
            )));
        }
        let (row, third) = (bytes.len() / count * last, bytes.len() / count * (last / 3));
        let mut shape = dims.clone();
        if let Some(width) = shape.last_mut() {
            *width = last / 3;
        }
        let step = self.step(name);
        let mut parts = Vec::with_capacity(3);
        for i in 0..3 {
            let part: Vec<u8> = bytes
                .chunks_exact(row)
                .flat_map(|r| &r[i * third..(i + 1) * third])
                .copied()
                .collect();
            parts.push(match step {
                Some(step) => self.rounding(&shape, &graph::f32s(&part), step)?,
                None => self.graph.new_tensor(data_type, &shape, &part)?,
            });
        }
        let parts = <[String; 3]>::try_from(parts).map_err(|_| Problem::Other("has no three parts".into()))?;
        let thirds = Thirds { parts, width: last / 3 };
        self.thirds.insert(name.to_string(), thirds.clone());
        Ok(thirds)
    }
}
