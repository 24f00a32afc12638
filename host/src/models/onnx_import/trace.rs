//! Reads a foreign graph as people draw it: linear maps and LayerNorms instead of MatMul, Add and ReduceMean, with the
//! exporter's plumbing (Reshape, Transpose, Cast, Identity) looked through. Values keep the file's names.

use super::ImportError;
use super::weights::StoredMatrix;
use crate::onnx::flow::{Flow, port_name};
use crate::onnx::{Held, OnnxFile};
use crate::render::text::printable;
use half::{bf16, f16};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use thimble_shared::onnx::reader::{self, AttributeView, ModelView, NodeView};

/// One linear map: `out = x · Wᵀ + bias`.
#[derive(Clone, Debug)]
pub struct Linear<'a> {
    pub x: &'a str,
    pub out: &'a str,
    /// `[out, in]`.
    pub weight: StoredMatrix<'a>,
    pub bias: Option<StoredMatrix<'a>>,
}

impl Linear<'_> {
    /// Inputs and outputs.
    pub fn size(&self) -> (usize, usize) {
        let shape = self.weight.shape();
        (shape[1], shape[0])
    }
}

/// One LayerNorm.
#[derive(Clone, Debug)]
pub struct Norm<'a> {
    pub x: &'a str,
    pub out: &'a str,
    pub weight: StoredMatrix<'a>,
    pub bias: StoredMatrix<'a>,
    pub eps: f32,
}

/// Whether a matrix may be that of a linear map. A tensor without elements takes no bytes whatever its other dimension says, so
/// that number is nobody's to allocate by.
fn is_map(m: &StoredMatrix<'_>) -> bool {
    m.shape().len() == 2 && !m.shape().contains(&0)
}

pub struct Trace<'a> {
    pub file: &'a OnnxFile,
    pub view: Rc<ModelView<'a>>,
    pub flow: Rc<Flow<'a>>,
    /// Values that the outputs are computed from.
    needed: HashSet<&'a str>,
    tensors: HashMap<&'a str, Held<'a>>,
    pub linears: Vec<Linear<'a>>,
    pub norms: Vec<Norm<'a>>,
    /// Linear maps by the value they make.
    pub by_out: HashMap<&'a str, usize>,
    /// Where values are made that the plumbing must not be traced past.
    norm_of: HashMap<&'a str, usize>,
}

/// Nodes that move numbers without computing, by their first input.
const PLUMBING: [&str; 9] = [
    "Reshape",
    "Transpose",
    "Cast",
    "Identity",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Dropout",
    "Expand",
];

/// Whether a node is attention or its Softmax, whatever fused or quantized form it has.
fn attends(node: &NodeView<'_>) -> bool {
    matches!(node.op, "Softmax" | "QLinearSoftmax") || node.op.ends_with("Attention")
}

/// Longest walk back through plumbing.
const MAX_STEPS: usize = 64;

impl<'a> Trace<'a> {
    pub fn new(file: &'a OnnxFile, view: Rc<ModelView<'a>>, flow: Rc<Flow<'a>>) -> Result<Trace<'a>, ImportError> {
        if !view.functions.is_empty() {
            return Err(ImportError::Unsupported {
                file: file.path.display().to_string(),
                problem: "holds local functions, which torch 2.5 and 2.6 leave in with dynamo=True; export it with optimize=True, or inline them with onnx.inliner".into(),
            });
        }
        let outputs: Result<Vec<&str>, _> = view.outputs.iter().map(|o| port_name(o)).collect();
        let needed = flow.needed(outputs.map_err(|e| file.wire_error(e))?);
        let tensors = file
            .tensors(&view)?
            .into_iter()
            .filter(|h| h.place.is_value() && !h.name.is_empty())
            .map(|h| (h.name, h))
            .collect();
        let mut trace = Trace {
            file,
            view,
            flow,
            needed,
            tensors,
            linears: Vec::new(),
            norms: Vec::new(),
            by_out: HashMap::new(),
            norm_of: HashMap::new(),
        };
        for i in 0..trace.view.nodes.len() {
            if let Some(linear) = trace.linear(i)? {
                trace.by_out.insert(linear.out, trace.linears.len());
                trace.linears.push(linear);
            }
        }
        for i in 0..trace.view.nodes.len() {
            if let Some(norm) = trace.norm(i)? {
                trace.norm_of.insert(norm.out, trace.norms.len());
                trace.norms.push(norm);
            }
        }
        Ok(trace)
    }

    /// Whether an output is computed from what the node makes.
    pub fn needs(&self, node: &NodeView<'a>) -> bool {
        node.outputs.iter().any(|o| self.needed.contains(o))
    }

    /// The element type of the file's matrices if all are of one that thimble does not read.
    pub fn strange_weights(&self) -> Option<i64> {
        const FLOATS: [i64; 7] = [11, 17, 18, 19, 20, 23, 24];
        let matrices = || self.view.initializers.iter().filter(|t| t.dims.len() == 2);
        let read = matrices().any(|t| StoredMatrix::of(t.clone(), t.name).is_float());
        matrices().map(|t| t.data_type).find(|t| !read && FLOATS.contains(t))
    }

    pub fn unsupported(&self, problem: String) -> ImportError {
        ImportError::Unsupported {
            file: self.file.path.display().to_string(),
            problem,
        }
    }

    /// The graph was not recognized. That it is no ALBERT is said only where it has no attention at all: another spelling is no
    /// other model.
    pub fn not_albert(&self, problem: impl Into<String>) -> ImportError {
        let attends = |n: &NodeView<'_>| n.op == "Einsum" || attends(n);
        let (file, problem, looks) = (self.file.path.display().to_string(), problem.into(), self.looks());
        if self.view.nodes.iter().any(attends) {
            ImportError::Unrecognized { file, problem, looks }
        } else {
            ImportError::NotAlbert { file, problem, looks }
        }
    }

    /// Whether a LayerNorm makes `value`.
    pub fn is_norm(&self, value: &str) -> bool {
        self.norm_of.contains_key(value)
    }

    pub fn node(&self, value: &str) -> Option<&NodeView<'a>> {
        self.flow.maker.get(value).map(|&i| &self.view.nodes[i])
    }

    pub fn attribute(&self, node: &NodeView<'a>, name: &str) -> Result<Option<AttributeView<'a>>, ImportError> {
        for encoded in &node.attributes {
            let attribute = reader::attribute(encoded).map_err(|e| self.file.wire_error(e))?;
            if attribute.name == name {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }

    /// A stored tensor of floats, through Identity, Cast, Transpose and Reshape.
    pub fn matrix(&self, name: &str) -> Result<Option<StoredMatrix<'a>>, ImportError> {
        self.matrix_within(name, MAX_STEPS)
    }

    fn matrix_within(&self, name: &str, steps: usize) -> Result<Option<StoredMatrix<'a>>, ImportError> {
        if let Some(held) = self.tensors.get(name) {
            let matrix = StoredMatrix::of(held.view.clone(), held.name);
            return Ok(matrix.is_float().then_some(matrix));
        }
        let Some(node) = self.node(name).filter(|_| steps > 0) else {
            return Ok(None);
        };
        let Some(&from) = node.inputs.first() else {
            return Ok(None);
        };
        match node.op {
            "Identity" | "Cast" => self.matrix_within(from, steps - 1),
            "Transpose" => {
                let Some(matrix) = self.matrix_within(from, steps - 1)? else {
                    return Ok(None);
                };
                let perm = self.attribute(node, "perm")?.map(|a| a.ints);
                let swaps = perm.is_none_or(|p| p == [1, 0]);
                Ok((matrix.shape().len() == 2 && swaps).then(|| matrix.turn()))
            }
            _ => Ok(None),
        }
    }

    /// The numbers of a small tensor, whatever its type, through Identity and Cast.
    pub fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>, ImportError> {
        let mut name = name;
        for _ in 0..MAX_STEPS {
            if let Some(held) = self.tensors.get(name) {
                return self.small(held);
            }
            let Some(node) = self.node(name) else { return Ok(None) };
            match (node.op, node.inputs.first()) {
                ("Identity" | "Cast" | "Unsqueeze" | "Squeeze" | "Reshape", Some(from)) => name = from,
                ("Constant", _) => return self.constant(node),
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// A Constant node that says its value without a tensor.
    fn constant(&self, node: &NodeView<'a>) -> Result<Option<Vec<f64>>, ImportError> {
        let Some(encoded) = node.attributes.first() else {
            return Ok(None);
        };
        let a = reader::attribute(encoded).map_err(|e| self.file.wire_error(e))?;
        Ok(match a.name {
            "value_float" => Some(vec![f64::from(a.float)]),
            "value_int" => Some(vec![a.int as f64]),
            "value_floats" => Some(a.floats.iter().map(|&f| f64::from(f)).collect()),
            "value_ints" => Some(a.ints.iter().map(|&i| i as f64).collect()),
            _ => None,
        })
    }

    fn small(&self, held: &Held<'a>) -> Result<Option<Vec<f64>>, ImportError> {
        const MOST: usize = 1 << 16;
        if crate::onnx::tensor_bytes(&held.view).is_none_or(|n| n > MOST) {
            return Ok(None);
        }
        let bytes = self.file.payload(&held.view)?;
        fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
            bytes.chunks_exact(N).map(|b| b.try_into().ok().map(&read)).collect()
        }
        Ok(match held.view.data_type {
            1 => each(&bytes, |b| f64::from(f32::from_le_bytes(b))),
            6 => each(&bytes, |b| f64::from(i32::from_le_bytes(b))),
            7 => each(&bytes, |b| i64::from_le_bytes(b) as f64),
            10 => each(&bytes, |b| f64::from(f16::from_le_bytes(b).to_f32())),
            16 => each(&bytes, |b| f64::from(bf16::from_le_bytes(b).to_f32())),
            11 => each(&bytes, f64::from_le_bytes),
            _ => None,
        })
    }

    /// The parts of a shape that are written down: one entry per dimension, none where it is computed.
    pub fn shape(&self, name: &str) -> Result<Vec<Option<i64>>, ImportError> {
        if let Some(numbers) = self.numbers(name)? {
            return Ok(numbers.into_iter().map(|n| Some(n as i64)).collect());
        }
        let mut node = self.node(name);
        for _ in 0..4 {
            match node {
                Some(cast) if matches!(cast.op, "Cast" | "Identity") && !cast.inputs.is_empty() => {
                    node = self.node(cast.inputs[0]);
                }
                _ => break,
            }
        }
        let Some(node) = node.filter(|n| n.op == "Concat") else {
            return Ok(vec![None]);
        };
        let mut shape = Vec::new();
        for part in node.inputs.clone() {
            match self.numbers(part)? {
                Some(numbers) => shape.extend(numbers.into_iter().map(|n| Some(n as i64))),
                None => shape.push(None),
            }
        }
        Ok(shape)
    }

    /// The value that plumbing hands on as `name`.
    pub fn source(&self, name: &'a str) -> &'a str {
        let mut name = name;
        for _ in 0..MAX_STEPS {
            if self.by_out.contains_key(name) || self.norm_of.contains_key(name) {
                return name;
            }
            match self.node(name) {
                Some(node) if PLUMBING.contains(&node.op) && !node.inputs.is_empty() => name = node.inputs[0],
                _ => return name,
            }
        }
        name
    }

    /// The linear map whose output reaches `name` through plumbing and scaling by a number.
    pub fn linear_behind(&self, name: &'a str) -> Option<usize> {
        self.linear_within(name, MAX_STEPS, &mut HashSet::new())
    }

    /// Values that were looked at already are not looked at again: products of products would take for ever.
    fn linear_within(&self, name: &'a str, steps: usize, seen: &mut HashSet<&'a str>) -> Option<usize> {
        if let Some(&linear) = self.by_out.get(name) {
            return Some(linear);
        }
        if self.norm_of.contains_key(name) || steps == 0 {
            return None;
        }
        let node = self.node(name)?;
        match node.op {
            op if PLUMBING.contains(&op) => self.linear_within(node.inputs.first()?, steps - 1, seen),
            "Mul" | "Div" if seen.insert(name) => {
                node.inputs.iter().find_map(|i| self.linear_within(i, steps - 1, seen))
            }
            _ => None,
        }
    }

    /// Whether `name` is the sum of two values, in any order, through plumbing.
    pub fn is_sum(&self, name: &'a str, a: &'a str, b: &'a str) -> bool {
        let name = self.source(name);
        let Some(node) = self.node(name).filter(|n| n.op == "Add" && n.inputs.len() == 2) else {
            return false;
        };
        let (x, y) = (self.source(node.inputs[0]), self.source(node.inputs[1]));
        (x == a && y == b) || (x == b && y == a)
    }

    /// The LayerNorm of the sum of two values.
    pub fn norm_of_sum(&self, a: &'a str, b: &'a str) -> Option<&Norm<'a>> {
        self.norms.iter().find(|n| self.is_sum(n.x, a, b))
    }

    fn linear(&self, i: usize) -> Result<Option<Linear<'a>>, ImportError> {
        let node = &self.view.nodes[i];
        let (Some(&x), Some(&w), Some(&y)) = (node.inputs.first(), node.inputs.get(1), node.outputs.first()) else {
            return Ok(None);
        };
        if !matches!(node.op, "MatMul" | "Gemm" | "Einsum") || self.matrix(x)?.is_some() {
            return Ok(None);
        }
        if node.op == "Einsum" {
            let Some(weight) = self.contracted(node, w)? else {
                return Ok(None);
            };
            return self.biased(x, y, weight).map(Some);
        }
        let Some(weight) = self.matrix(w)?.filter(is_map) else {
            return Ok(None);
        };
        if node.op == "Gemm" {
            let flag = |name: &str| Ok::<_, ImportError>(self.attribute(node, name)?.is_some_and(|a| a.int != 0));
            let one = |name: &str| Ok::<_, ImportError>(self.attribute(node, name)?.is_none_or(|a| a.float == 1.0));
            if flag("transA")? || !one("alpha")? || !one("beta")? {
                return Ok(None);
            }
            let weight = if flag("transB")? { weight } else { weight.turn() };
            let Some(name) = node.inputs.get(2).filter(|n| !n.is_empty()) else {
                return self.biased(x, y, weight).map(Some);
            };
            let bias = self.matrix(name)?;
            return Ok(Some(Linear {
                x,
                out: y,
                weight,
                bias,
            }));
        }
        self.biased(x, y, weight.turn()).map(Some)
    }

    /// The weight, `[out, in]`, of an Einsum that contracts the last dimensions of its first input with a stored tensor:
    /// "bfnd,ndh->bfh" is the map after attention as transformers before 4.9 spell it.
    fn contracted(&self, node: &NodeView<'a>, w: &str) -> Result<Option<StoredMatrix<'a>>, ImportError> {
        let Some(equation) = self.attribute(node, "equation")?.map(|a| a.string) else {
            return Ok(None);
        };
        let equation: String = String::from_utf8_lossy(equation).split_whitespace().collect();
        let Some((reads, makes)) = equation.split_once("->") else {
            return Ok(None);
        };
        let Some((x, y)) = reads.split_once(',').filter(|(x, y)| x.is_ascii() && y.is_ascii()) else {
            return Ok(None);
        };
        // The kept letters of the input come first in the output, the weight's own letters last.
        let kept = x.chars().zip(makes.chars()).take_while(|(a, b)| a == b).count();
        let (summed, own) = (&x[kept..], makes.get(kept..).unwrap_or_default());
        if summed.is_empty() || own.is_empty() || !makes.is_ascii() {
            return Ok(None);
        }
        let turned = if y == format!("{summed}{own}") {
            true
        } else if y == format!("{own}{summed}") {
            false
        } else {
            return Ok(None);
        };
        let shape = |m: &StoredMatrix<'a>| -> Option<Vec<usize>> {
            let dims = m.shape();
            let split = if turned { summed.len() } else { own.len() };
            (dims.len() == y.len() && !dims.contains(&0))
                .then(|| vec![dims[..split].iter().product(), dims[split..].iter().product()])
        };
        if let Some(matrix) = self.matrix(w)?
            && let Some(flat) = shape(&matrix)
        {
            // A tensor of two dimensions may be turned already, and is then no plain run of numbers.
            let matrix = if flat == matrix.shape() {
                matrix
            } else {
                StoredMatrix {
                    reshaped: Some(flat),
                    ..matrix
                }
            };
            return Ok(Some(if turned { matrix.turn() } else { matrix }));
        }
        // The weight may be reshaped in the file; as a matrix it is what it was before.
        let Some(made) = self.behind(self.value(w), "Reshape") else {
            return Ok(None);
        };
        let Some(&from) = made.inputs.first() else {
            return Ok(None);
        };
        let matrix = self.matrix(from)?.filter(is_map);
        Ok(matrix.map(|m| if turned { m.turn() } else { m }))
    }

    /// A value's name as the file has it.
    fn value(&self, name: &str) -> &'a str {
        self.flow.maker.get_key_value(name).map_or("", |(n, _)| n)
    }

    /// The linear map of `weight`, with the bias that an Add of a vector puts behind `y`, maybe after a Cast or Reshape.
    fn biased(&self, x: &'a str, y: &'a str, weight: StoredMatrix<'a>) -> Result<Linear<'a>, ImportError> {
        let mut at = y;
        for _ in 0..4 {
            let readers: Vec<usize> = self.flow.readers(at).to_vec();
            for reader in &readers {
                let add = &self.view.nodes[*reader];
                if add.op != "Add" || add.inputs.len() != 2 {
                    continue;
                }
                let other = if add.inputs[0] == at {
                    add.inputs[1]
                } else {
                    add.inputs[0]
                };
                if let Some(bias) = self.matrix(other)?.filter(|b| b.shape() == [weight.shape()[0]])
                    && let Some(&out) = add.outputs.first()
                {
                    return Ok(Linear {
                        x,
                        out,
                        weight,
                        bias: Some(bias),
                    });
                }
            }
            match readers.as_slice() {
                &[only] if matches!(self.view.nodes[only].op, "Cast" | "Identity" | "Reshape") => {
                    at = self.view.nodes[only].outputs.first().copied().unwrap_or(at);
                }
                _ => break,
            }
        }
        Ok(Linear {
            x,
            out: y,
            weight,
            bias: None,
        })
    }

    fn norm(&self, i: usize) -> Result<Option<Norm<'a>>, ImportError> {
        let node = &self.view.nodes[i];
        if node.op == "LayerNormalization" {
            let (&[x, w, b], Some(&out)) = (node.inputs.as_slice(), node.outputs.first()) else {
                return Ok(None);
            };
            let (Some(weight), Some(bias)) = (self.matrix(w)?, self.matrix(b)?) else {
                return Ok(None);
            };
            // The operator normalizes over as many dimensions as its scale has, ALBERT over the last one alone.
            if weight.shape().len() != 1 || bias.shape() != weight.shape() {
                return Ok(None);
            }
            let eps = self.attribute(node, "epsilon")?.map_or(1e-5, |a| a.float);
            return Ok(Some(Norm {
                x,
                out,
                weight,
                bias,
                eps,
            }));
        }
        if let Some(norm) = self.spelt_norm(node)? {
            return Ok(Some(norm));
        }
        self.folded_norm(node)
    }

    /// The number that is added to a variance before its square root, and the variance's node, from the root.
    fn root(&self, sqrt: &NodeView<'a>) -> Result<Option<f32>, ImportError> {
        let Some(plus) = sqrt.inputs.first().and_then(|x| self.behind(x, "Add")) else {
            return Ok(None);
        };
        let mut eps = None;
        for input in &plus.inputs {
            if let Some(&[number]) = self.numbers(input)?.as_deref() {
                eps = Some(number as f32);
            }
        }
        Ok(eps)
    }

    /// Epsilon where `name` is `1 / sqrt(var + eps)`, as a Reciprocal or a division.
    fn inverse_root(&self, name: &'a str) -> Result<Option<f32>, ImportError> {
        if let Some(node) = self.behind(name, "Reciprocal") {
            let sqrt = node.inputs.first().and_then(|x| self.behind(x, "Sqrt"));
            return sqrt.map_or(Ok(None), |sqrt| self.root(sqrt));
        }
        if let Some(&[one, root]) = self.behind(name, "Div").map(|n| n.inputs.as_slice())
            && self.numbers(one)?.as_deref() == Some(&[1.0])
            && let Some(sqrt) = self.behind(root, "Sqrt")
        {
            return self.root(sqrt);
        }
        Ok(None)
    }

    /// `x * m + (bias - mean * m)` with `m = weight / sqrt(var + eps)`, matched from its last Add: TensorFlow's spelling, as
    /// tf2onnx keeps it.
    fn folded_norm(&self, add: &NodeView<'a>) -> Result<Option<Norm<'a>>, ImportError> {
        let (&[a, b], Some(&out)) = (add.inputs.as_slice(), add.outputs.first()) else {
            return Ok(None);
        };
        if add.op != "Add" {
            return Ok(None);
        }
        for (scaled, shift) in [(a, b), (b, a)] {
            let (Some(scaled), Some(shift)) = (self.behind(scaled, "Mul"), self.behind(shift, "Sub")) else {
                continue;
            };
            let (&[p, q], &[bias, moved]) = (scaled.inputs.as_slice(), shift.inputs.as_slice()) else {
                continue;
            };
            let is_vector = |m: &StoredMatrix<'a>| m.shape().len() == 1 && m.shape()[0] > 1;
            let (Some(bias), Some(moved)) = (self.matrix(bias)?.filter(is_vector), self.behind(moved, "Mul")) else {
                continue;
            };
            for (x, factor) in [(p, q), (q, p)] {
                if !moved.inputs.contains(&factor) {
                    continue;
                }
                let Some(mul) = self.behind(factor, "Mul") else {
                    continue;
                };
                if let Some((inverse, weight)) = self.with_vector(mul, "Mul")?
                    && let Some(eps) = self.inverse_root(inverse)?
                    && weight.shape() == bias.shape()
                {
                    return Ok(Some(Norm {
                        x,
                        out,
                        weight,
                        bias,
                        eps,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// `((x - mean) / sqrt(var + eps)) * weight + bias`, matched from its last Add.
    fn spelt_norm(&self, add: &NodeView<'a>) -> Result<Option<Norm<'a>>, ImportError> {
        let (Some((scaled, bias)), Some(&out)) = (self.with_vector(add, "Add")?, add.outputs.first()) else {
            return Ok(None);
        };
        let Some(mul) = self.behind(scaled, "Mul") else {
            return Ok(None);
        };
        let Some((ratio, weight)) = self.with_vector(mul, "Mul")? else {
            return Ok(None);
        };
        // A division by the deviation, or a product with its inverse.
        let (centered, eps) =
            if let Some(&[centered, deviation]) = self.behind(ratio, "Div").map(|n| n.inputs.as_slice()) {
                let Some(sqrt) = self.behind(deviation, "Sqrt") else {
                    return Ok(None);
                };
                (centered, self.root(sqrt)?)
            } else if let Some(&[p, q]) = self.behind(ratio, "Mul").map(|n| n.inputs.as_slice()) {
                match (self.inverse_root(q)?, self.inverse_root(p)?) {
                    (Some(eps), _) => (p, Some(eps)),
                    (None, eps) => (q, eps),
                }
            } else {
                return Ok(None);
            };
        let Some(sub) = self.behind(centered, "Sub") else {
            return Ok(None);
        };
        let (Some(&x), Some(eps)) = (sub.inputs.first(), eps) else {
            return Ok(None);
        };
        Ok(Some(Norm {
            x,
            out,
            weight,
            bias,
            eps,
        }))
    }

    /// A node of two inputs of which one is a stored vector: the other input, and the vector.
    fn with_vector(&self, node: &NodeView<'a>, op: &str) -> Result<Option<(&'a str, StoredMatrix<'a>)>, ImportError> {
        let &[a, b] = node.inputs.as_slice() else {
            return Ok(None);
        };
        if node.op != op {
            return Ok(None);
        }
        for (value, vector) in [(a, b), (b, a)] {
            if let Some(matrix) = self
                .matrix(vector)?
                .filter(|m| m.shape().len() == 1 && m.shape()[0] > 1)
            {
                return Ok(Some((value, matrix)));
            }
        }
        Ok(None)
    }

    /// The node that makes `name`, through Cast and Identity, if it is an `op`.
    fn behind(&self, name: &'a str, op: &str) -> Option<&NodeView<'a>> {
        let mut node = self.node(name)?;
        for _ in 0..4 {
            if !matches!(node.op, "Cast" | "Identity") {
                break;
            }
            node = self.node(node.inputs.first()?)?;
        }
        (node.op == op).then_some(node)
    }

    /// Operators on the way from `from` to `to`, if there is a way that computes no other linear map.
    pub fn between(&self, from: &str, to: &'a str) -> Option<BTreeMap<&'a str, usize>> {
        let mut ops = BTreeMap::new();
        let mut reached = false;
        let mut seen: HashSet<&str> = HashSet::new();
        let mut open = vec![to];
        while let Some(name) = open.pop() {
            if name == from {
                reached = true;
                continue;
            }
            if !seen.insert(name) || self.by_out.contains_key(name) || self.norm_of.contains_key(name) {
                continue;
            }
            if let Some(node) = self.node(name) {
                *ops.entry(node.op).or_default() += 1;
                open.extend(node.inputs.iter().filter(|n| !n.is_empty()));
            }
        }
        reached.then_some(ops)
    }

    /// What a file that is no ALBERT may be, for the person who named it.
    fn looks(&self) -> String {
        let count = |op: &str| self.view.nodes.iter().filter(|n| n.op == op).count();
        let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
        for node in &self.view.nodes {
            *ops.entry(node.op).or_default() += 1;
        }
        let attention = self.view.nodes.iter().filter(|n| attends(n)).count();
        let named = |part: &str| self.view.initializers.iter().any(|t| t.name.contains(part));
        if count("Conv") > 4 && attention == 0 {
            return format!("a convolutional network ({} Conv nodes)", count("Conv"));
        }
        for (part, name) in [
            ("bert.encoder.layer", "BERT"),
            ("roberta", "RoBERTa"),
            ("distilbert", "DistilBERT"),
            ("gpt", "GPT"),
        ] {
            if named(part) {
                return format!("{name} (by the names of its weights)");
            }
        }
        if attention > 0 && !self.linears.is_empty() {
            return format!(
                "a transformer with {attention} attentions and {} linear maps",
                self.linears.len()
            );
        }
        let mut most: Vec<(&str, usize)> = ops.into_iter().filter(|(op, _)| *op != "Constant").collect();
        most.sort_by_key(|(op, n)| (std::cmp::Reverse(*n), *op));
        let list: Vec<String> = most
            .iter()
            .take(3)
            .map(|(op, n)| format!("{n} {}", printable(op)))
            .collect();
        match list.as_slice() {
            [] => "a graph without nodes".into(),
            list => format!("a graph of {}", list.join(", ")),
        }
    }
}
