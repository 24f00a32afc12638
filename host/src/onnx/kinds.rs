//! What is known of an inner value without running the graph: its element type and its number of dimensions. In come a
//! graph's declarations and operators, out come answers by simple rules, or none where no rule says it.

use super::element::{BOOL, F32, I32, I64, U8};
use super::flow::{Flow, port_name, port_shape};
use std::cell::RefCell;
use std::collections::HashMap;
use thimble_shared::onnx::protobuf::WireError;
use thimble_shared::onnx::reader::{self, ModelView, NodeView};

/// Longest walk back through operators.
const MAX_STEPS: usize = 256;

/// Deepest look into the values that a value is made of: some hundred layers, and no deep stack.
const MAX_DEPTH: usize = 1024;

/// Most dimensions a value may have here: what is beyond is damage.
const MAX_RANK: usize = 64;

/// The length of a list that says a shape.
fn length_of(dim: Option<&i64>) -> Option<usize> {
    dim.and_then(|&d| usize::try_from(d).ok()).filter(|n| *n <= MAX_RANK)
}

/// Element types and ranks of a graph's values.
pub struct Kinds<'v, 'a> {
    view: &'v ModelView<'a>,
    flow: &'v Flow<'a>,
    /// What inputs, outputs and inner values are declared as, and initializers are.
    declared: HashMap<&'a str, (i64, usize)>,
    /// First dimensions of initializers.
    lengths: HashMap<&'a str, i64>,
    /// Lengths of lists worked out, by node.
    counts: RefCell<HashMap<usize, Option<usize>>>,
    /// Ranks worked out, by node.
    ranks: RefCell<HashMap<usize, Option<usize>>>,
}

/// Whether a declared type says that a value is a tensor with a shape; one of no dimensions may be a scalar.
fn shaped(encoded: &[u8]) -> Result<bool, WireError> {
    use thimble_shared::onnx::protobuf::Fields;
    for field in Fields::new(encoded) {
        let field = field?;
        if field.number != 2 {
            continue;
        }
        for kind in field.fields()? {
            let kind = kind?;
            if kind.number != 1 {
                continue;
            }
            for part in kind.fields()? {
                if part?.number == 2 {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

impl<'v, 'a> Kinds<'v, 'a> {
    pub fn of(view: &'v ModelView<'a>, flow: &'v Flow<'a>) -> Result<Kinds<'v, 'a>, WireError> {
        let mut declared = HashMap::new();
        for port in view.inputs.iter().chain(&view.outputs).chain(&view.declared) {
            if shaped(port)? {
                let (element, dims) = port_shape(port)?;
                declared.insert(port_name(port)?, (element, dims.len()));
            }
        }
        let mut lengths = HashMap::new();
        for tensor in &view.initializers {
            lengths.extend(tensor.dims.first().map(|&d| (tensor.name, d)));
            declared.insert(tensor.name, (tensor.data_type, tensor.dims.len()));
        }
        Ok(Kinds {
            view,
            flow,
            declared,
            lengths,
            counts: RefCell::default(),
            ranks: RefCell::default(),
        })
    }

    fn node(&self, name: &str) -> Option<&NodeView<'a>> {
        self.flow.maker.get(name).map(|&i| &self.view.nodes[i])
    }

    /// An attribute's integer.
    fn int(node: &NodeView<'a>, name: &str) -> Option<i64> {
        let mut found = node.attributes.iter().filter_map(|e| reader::attribute(e).ok());
        found.find(|a| a.name == name).map(|a| a.int)
    }

    /// The type and rank of a Constant's value.
    fn constant(node: &NodeView<'a>) -> Option<(i64, usize)> {
        let a = reader::attribute(node.attributes.first()?).ok()?;
        Some(match (a.name, a.tensor) {
            (_, Some(tensor)) => (tensor.data_type, tensor.dims.len()),
            ("value_float", _) => (F32, 0),
            ("value_floats", _) => (F32, 1),
            ("value_int", _) => (I64, 0),
            ("value_ints", _) => (I64, 1),
            _ => return None,
        })
    }

    /// The element type of a value, by ONNX's number.
    pub fn element(&self, name: &str) -> Option<i64> {
        let mut name = name;
        for _ in 0..MAX_STEPS {
            if let Some((element, _)) = self.declared.get(name).filter(|(e, _)| *e > 0) {
                return Some(*element);
            }
            let node = self.node(name)?;
            match node.op {
                "Cast" => return Kinds::int(node, "to"),
                "Constant" => return Kinds::constant(node).map(|k| k.0),
                "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" => return Some(I64),
                "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" | "Not" | "Xor"
                | "IsNaN" | "IsInf" => return Some(BOOL),
                // Their outputs are of different types, or of one that attributes name.
                "If"
                | "Loop"
                | "Scan"
                | "TopK"
                | "Dropout"
                | "ConstantOfShape"
                | "RandomNormal"
                | "RandomUniform"
                | "DynamicQuantizeLinear"
                | "Unique" => {
                    return None;
                }
                "MatMulInteger" | "ConvInteger" => return Some(I32),
                "QuantizeLinear" => match node.inputs.get(2).filter(|n| !n.is_empty()) {
                    Some(zero) => name = zero,
                    None => return Some(U8),
                },
                "Where" | "DequantizeLinear" => name = node.inputs.get(1)?,
                "EmbedLayerNormalization" | "OneHot" => name = node.inputs.get(2)?,
                _ => name = node.inputs.iter().find(|n| !n.is_empty())?,
            }
        }
        None
    }

    /// The number of dimensions of a value.
    pub fn rank(&self, name: &str) -> Option<usize> {
        self.rank_within(name, MAX_DEPTH)
    }

    /// What is known is known once: values are made of values that share others.
    fn rank_within(&self, name: &str, depth: usize) -> Option<usize> {
        if let Some((_, rank)) = self.declared.get(name) {
            return Some(*rank);
        }
        let &maker = self.flow.maker.get(name)?;
        if let Some(known) = self.ranks.borrow().get(&maker) {
            return *known;
        }
        let depth = depth.checked_sub(1)?;
        // A value that is made of itself has no rank.
        self.ranks.borrow_mut().insert(maker, None);
        let rank = self.rank_of(&self.view.nodes[maker], depth).filter(|r| *r <= MAX_RANK);
        self.ranks.borrow_mut().insert(maker, rank);
        // Of the further outputs most have the rank of the first.
        match (
            self.view.nodes[maker].op,
            self.view.nodes[maker].outputs.first() == Some(&name),
        ) {
            ("LSTM" | "GRU" | "RNN", false) => rank.map(|r| r.saturating_sub(1)),
            ("EmbedLayerNormalization" | "DynamicQuantizeLinear" | "BatchNormalization" | "Unique", false) => None,
            _ => rank,
        }
    }

    /// How many axes a node names, as an attribute or a list; none where it names none.
    fn axes(&self, node: &NodeView<'a>, depth: usize) -> Option<Option<usize>> {
        let mut listed = node.attributes.iter().filter_map(|e| reader::attribute(e).ok());
        if let Some(axes) = listed.find(|a| a.name == "axes") {
            return Some(Some(axes.ints.len()));
        }
        match node.inputs.get(1).filter(|n| !n.is_empty()) {
            Some(axes) => Some(Some(self.elements(axes, depth)?)),
            None => Some(None),
        }
    }

    /// The rank of what a node makes first. One arm an operator, as the standard lists them, so it is not cut into parts.
    fn rank_of(&self, node: &NodeView<'a>, depth: usize) -> Option<usize> {
        let of = |i: usize| self.rank_within(node.inputs.get(i)?, depth);
        match node.op {
            "Constant" => Kinds::constant(node).map(|k| k.1),
            "Reshape" | "Expand" | "ConstantOfShape" => {
                let shape = *node.inputs.get(usize::from(node.op != "ConstantOfShape"))?;
                let count = self.elements(shape, depth);
                if node.op == "Expand" {
                    Some(count?.max(of(0)?))
                } else {
                    count
                }
            }
            "Gather" => Some((of(0)? + of(1)?).saturating_sub(1)),
            "MatMul" => match (of(0)?, of(1)?) {
                (1, 1) => Some(0),
                (1, rank) | (rank, 1) => Some(rank.saturating_sub(1)),
                (a, b) => Some(a.max(b)),
            },
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Where" | "And" | "Or" | "Xor" | "Equal" | "Less"
            | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Min" | "Max" | "Sum" | "Mean" | "PRelu" => {
                let mut most = 0;
                for i in 0..node.inputs.len().min(MAX_RANK) {
                    most = most.max(of(i)?);
                }
                Some(most)
            }
            "Gemm" | "Flatten" | "NonZero" => Some(2),
            "Shape" | "Range" => Some(1),
            "Size" => Some(0),
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
            | "ReduceSumSquare" | "ReduceLogSumExp" => {
                let rank = of(0)?;
                if Kinds::int(node, "keepdims") != Some(0) {
                    return Some(rank);
                }
                match self.axes(node, depth)? {
                    Some(axes) => rank.checked_sub(axes),
                    // Over all, or over none: an attribute says which.
                    None => (Kinds::int(node, "noop_with_empty_axes").unwrap_or(0) == 0).then_some(0),
                }
            }
            "ArgMax" | "ArgMin" => {
                let rank = of(0)?;
                rank.checked_sub(usize::from(Kinds::int(node, "keepdims") == Some(0)))
            }
            "Unsqueeze" => Some(of(0)? + self.axes(node, depth)??),
            "Squeeze" => of(0)?.checked_sub(self.axes(node, depth)??),
            "OneHot" => Some(of(0)? + 1),
            "LSTM" | "GRU" | "RNN" => Some(4),
            "Einsum" => {
                let mut equations = node.attributes.iter().filter_map(|e| reader::attribute(e).ok());
                let equation = equations.find(|a| a.name == "equation")?.string;
                let made = std::str::from_utf8(equation).ok()?.split_once("->")?.1.trim();
                made.bytes().all(|b| b.is_ascii_alphabetic()).then_some(made.len())
            }
            "Attention" | "MultiHeadAttention" | "EmbedLayerNormalization" => Some(3),
            "Cast"
            | "Identity"
            | "Slice"
            | "Concat"
            | "Transpose"
            | "LayerNormalization"
            | "SkipLayerNormalization"
            | "Softmax"
            | "LogSoftmax"
            | "Relu"
            | "Tanh"
            | "Sigmoid"
            | "Erf"
            | "Sqrt"
            | "Reciprocal"
            | "Gelu"
            | "FastGelu"
            | "BiasGelu"
            | "QuickGelu"
            | "Dropout"
            | "Clip"
            | "Neg"
            | "Exp"
            | "Not"
            | "Abs"
            | "Ceil"
            | "Conv"
            | "CumSum"
            | "DequantizeLinear"
            | "Elu"
            | "Floor"
            | "GatherElements"
            | "GlobalAveragePool"
            | "HardSwish"
            | "Hardmax"
            | "InstanceNormalization"
            | "IsInf"
            | "IsNaN"
            | "LeakyRelu"
            | "Log"
            | "LpNormalization"
            | "MatMulNBits"
            | "MaxPool"
            | "Mish"
            | "Pad"
            | "QuantizeLinear"
            | "Round"
            | "ScatterND"
            | "Sign"
            | "Softplus"
            | "Split"
            | "Tile"
            | "TopK"
            | "Trilu" => of(0),
            _ => None,
        }
    }

    /// How many numbers a shape holds, where that is written down.
    fn elements(&self, shape: &str, depth: usize) -> Option<usize> {
        let of = |name: &str| self.listed(name, depth);
        let node = self.node(shape).filter(|n| n.op == "Concat");
        match node {
            Some(concat) => {
                let parts = concat.inputs.iter().take(MAX_RANK + 1);
                parts.map(|part| of(part)).sum::<Option<usize>>()
            }
            None => of(shape),
        }
    }

    /// The length of a list of numbers that is no concatenation, each worked out once.
    fn listed(&self, shape: &str, depth: usize) -> Option<usize> {
        let depth = depth.checked_sub(1)?;
        if let Some(length) = self.lengths.get(shape) {
            return length_of(Some(length));
        }
        let &maker = self.flow.maker.get(shape)?;
        if let Some(known) = self.counts.borrow().get(&maker) {
            return *known;
        }
        self.counts.borrow_mut().insert(maker, None);
        let length = self.length_by(&self.view.nodes[maker], depth);
        self.counts.borrow_mut().insert(maker, length);
        length
    }

    /// The one number of a Constant.
    fn number(&self, name: &str) -> Option<i64> {
        let node = self.node(name).filter(|n| n.op == "Constant")?;
        let tensor = reader::attribute(node.attributes.first()?).ok()?.tensor?;
        let bytes = tensor.payload.filter(|_| tensor.data_type == I64)?;
        Some(i64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The length of the list a node makes.
    fn length_by(&self, node: &NodeView<'a>, depth: usize) -> Option<usize> {
        match node.op {
            "Cast" | "Identity" => return self.listed(node.inputs.first()?, depth),
            // One axis put before a number.
            "Unsqueeze" => return (self.rank_within(node.inputs.first()?, depth)? == 0).then_some(1),
            "Shape" => return self.rank_within(node.inputs.first()?, depth),
            "Slice" => {
                let count = i64::try_from(self.elements(node.inputs.first()?, depth)?).ok()?;
                let bound = |i: usize| {
                    let at = self.number(node.inputs.get(i)?)?;
                    Some(if at < 0 { at.saturating_add(count) } else { at }.clamp(0, count))
                };
                let step = node.inputs.get(4).map_or(Some(1), |name| self.number(name));
                return (step == Some(1)).then_some(usize::try_from(bound(2)? - bound(1)?).unwrap_or(0));
            }
            // To one dimension, as long as what it holds.
            "Reshape" if self.elements(node.inputs.get(1)?, depth) == Some(1) => {
                return self.elements(node.inputs.first()?, depth);
            }
            // Exporters compute shapes element by element; one number would be stretched to the length of the others.
            "Where" | "Mul" | "Add" | "Equal" => {
                let parts = node.inputs.iter().take(3);
                return parts.filter_map(|part| self.elements(part, depth)).find(|n| *n > 1);
            }
            _ => {}
        }
        let a = reader::attribute(node.attributes.first()?).ok()?;
        match (node.op, a.tensor) {
            ("Constant", Some(tensor)) => length_of(tensor.dims.first()),
            ("Constant", None) if a.name == "value_ints" => Some(a.ints.len()).filter(|n| *n <= MAX_RANK),
            _ => None,
        }
    }
}
