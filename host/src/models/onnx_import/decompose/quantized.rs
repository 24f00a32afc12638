//! Quantized operators said in f32: `--dequantize` takes stored integers as (q − zero point) · scale and lets activations be
//! what they were before they were rounded. In come ONNX's and ONNX Runtime's quantized nodes, out come plain ones.

use super::graph::Attribute::{Float, Int};
use super::graph::F32;
use super::stored::Scaling;
use super::{Decomposition, Problem};
use thimble_shared::onnx::reader::NodeView;

/// Longest chain of moves between a stored table and what dequantizes it.
pub const MOST_MOVES: usize = 8;

/// Operators that move integers without computing, by their first input.
const MOVES: [&str; 7] = [
    "Gather",
    "Reshape",
    "Transpose",
    "Identity",
    "Squeeze",
    "Unsqueeze",
    "Slice",
];

impl<'a> Decomposition<'_, 'a> {
    /// What an operator reads in place of the integers `x`: a stored tensor, or rows looked up in one, dequantized; else the
    /// value that was rounded.
    fn real(&mut self, x: &'a str, scaling: Scaling<'a>) -> Result<String, Problem> {
        let (mut at, mut path) = (x, Vec::new());
        for _ in 0..MOST_MOVES {
            if self.tensors.contains_key(at) {
                break;
            }
            match self.flow.maker.get(at).map(|&i| (i, &self.view.nodes[i])) {
                Some((i, node)) if MOVES.contains(&node.op) && !node.inputs.is_empty() => {
                    path.push(i);
                    at = node.inputs[0];
                }
                _ => break,
            }
        }
        if !self.tensors.contains_key(at) {
            return Ok(x.to_string());
        }
        let moves = path.iter().filter(|&&i| self.view.nodes[i].op != "Identity").count();
        let one = |name: Option<&'a str>| {
            let tensor = name.and_then(|n| self.tensors.get(n));
            tensor.is_none_or(|t| t.dims.iter().product::<i64>() == 1)
        };
        if moves > 0 && !(one(scaling.scale) && one(scaling.zero)) {
            return Err(Problem::Other(
                "dequantizes per channel after the tensor was reshaped or transposed".into(),
            ));
        }
        let mut name = self.dequantized(at, scaling)?;
        for i in path.iter().rev() {
            let node = self.view.nodes[*i].clone();
            let made = self.graph.name();
            self.graph.copy(&node, Some(&name), Some(&made));
            name = made;
        }
        Ok(name)
    }

    /// The same for an operand whose scale and zero point are inputs of the node; by the channel only along `axis`.
    pub(super) fn operand(
        &mut self,
        node: &NodeView<'a>,
        [x, scale, zero]: [usize; 3],
        axis: i64,
    ) -> Result<String, Problem> {
        let scaling = Scaling {
            scale: Some(self.input(node, scale)?),
            zero: self.maybe(node, zero),
            axis,
            block: 0,
        };
        self.real(self.input(node, x)?, scaling)
    }

    /// DequantizeLinear: of a stored tensor, of rows looked up in one, or of what a QuantizeLinear rounded.
    pub(super) fn dequantize(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let scaling = Scaling {
            scale: Some(self.input(node, 1)?),
            zero: self.maybe(node, 2),
            axis: self.int(node, "axis")?.unwrap_or(1),
            block: self.size(node, "block_size", 0)?,
        };
        let name = self.real(self.input(node, 0)?, scaling)?;
        self.graph.stand_in(self.output(node)?, &name);
        Ok(())
    }

    /// QuantizeLinear: what it rounds stands for what it makes.
    pub(super) fn quantize(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (x, out) = (self.input(node, 0)?, self.output(node)?);
        let zero = self.maybe(node, 2).filter(|_| node.op == "QuantizeLinear");
        if self.clips_below_zero(zero)? && !self.is_positive(x, MOST_MOVES) {
            let made = self.graph.op("Relu", &[x], &[]);
            self.graph.stand_in(out, &made);
        } else {
            self.graph.stand_in(out, x);
        }
        Ok(())
    }

    /// DynamicQuantizeLinear: the same, with scale 1 and zero point 0 for those that read them.
    pub(super) fn dynamic_quantize(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        self.quantize(node)?;
        if let Some(scale) = node.outputs.get(1).filter(|n| !n.is_empty()) {
            self.graph.tensor(scale, F32, &[], &1f32.to_le_bytes())?;
        }
        if let Some(zero) = node.outputs.get(2).filter(|n| !n.is_empty()) {
            self.graph.tensor(zero, 2, &[], &[0])?;
        }
        Ok(())
    }

    /// The scale that MatMulInteger's product is multiplied by further on, with the node that does it: a Cast and a Mul by the
    /// product of both scales.
    fn scaled_by(&self, node: &NodeView<'a>) -> Option<(&'a str, usize, usize)> {
        let only = |name: &str| match self.flow.readers(name) {
            &[reader] => Some(reader),
            _ => None,
        };
        let cast = only(node.outputs.first()?)?;
        if self.view.nodes[cast].op != "Cast" {
            return None;
        }
        let made = *self.view.nodes[cast].outputs.first()?;
        let mul = only(made)?;
        let &[a, b] = self.view.nodes[mul].inputs.as_slice() else {
            return None;
        };
        let factor = self.made_by(if a == made { b } else { a })?;
        if self.view.nodes[mul].op != "Mul" || factor.op != "Mul" {
            return None;
        }
        let &[x, y] = factor.inputs.as_slice() else {
            return None;
        };
        let dynamic = |n: &str| self.made_by(n).is_some_and(|m| m.op == "DynamicQuantizeLinear");
        match (self.tensors.contains_key(x), self.tensors.contains_key(y)) {
            (true, false) if dynamic(y) => Some((x, cast, mul)),
            (false, true) if dynamic(x) => Some((y, cast, mul)),
            _ => None,
        }
    }

    /// MatMulInteger: A, B and their zero points.
    pub(super) fn matmul_integer(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        let out = self.output(node)?;
        if !self.tensors.contains_key(b) {
            self.graph.node("MatMul", &[a, b], out, &[]);
            return Ok(());
        }
        let mut scaling = Scaling {
            scale: None,
            zero: self.maybe(node, 3),
            axis: -1,
            block: 0,
        };
        match self.scaled_by(node) {
            Some((scale, cast, mul)) => {
                scaling.scale = Some(scale);
                let weight = self.dequantized(b, scaling)?;
                let end = self.view.nodes[mul].outputs.first().copied().unwrap_or_default();
                self.graph.node("MatMul", &[a, &weight], end, &[]);
                self.done.extend([cast, mul]);
            }
            None => {
                let weight = self.dequantized(b, scaling)?;
                self.graph.node("MatMul", &[a, &weight], out, &[]);
            }
        }
        Ok(())
    }

    /// A product of a rounded activation and integers, with their scale and zero point and a bias by place.
    pub(super) fn matmul_float(
        &mut self,
        node: &NodeView<'a>,
        scale: usize,
        zero: usize,
        bias: usize,
    ) -> Result<(), Problem> {
        let a = self.input(node, 0)?;
        let right = self.operand(node, [1, scale, zero], -1)?;
        let out = self.output(node)?;
        self.product(a, &right, self.maybe(node, bias), out);
        Ok(())
    }

    /// `out = a · b`, and a bias where there is one.
    pub(super) fn product(&mut self, a: &str, b: &str, bias: Option<&'a str>, out: &str) {
        match bias {
            Some(bias) => {
                let product = self.graph.op("MatMul", &[a, b], &[]);
                self.graph.node("Add", &[&product, bias], out, &[]);
            }
            None => self.graph.node("MatMul", &[a, b], out, &[]),
        }
    }

    /// QLinearMatMul: A, B, and each with its scale and zero point.
    pub(super) fn qlinear_matmul(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (a, b) = (self.operand(node, [0, 1, 2], -2)?, self.operand(node, [3, 4, 5], -1)?);
        self.unrounded(node, 7, "MatMul", &[&a, &b], &[])
    }

    /// QGemm: A, B and a bias of integers, whose scale is the product of theirs.
    pub(super) fn gemm(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (a_scale, b_scale) = (self.input(node, 1)?, self.input(node, 4)?);
        let turned = self.int(node, "transB")?.unwrap_or(0);
        let mut inputs = vec![
            self.operand(node, [0, 1, 2], -1)?,
            self.operand(node, [3, 4, 5], if turned != 0 { 0 } else { 1 })?,
        ];
        if let Some(bias) = self.maybe(node, 6) {
            let list = |this: &Self, name| -> Result<Vec<f32>, Problem> { this.stored(&this.stored_tensor(name)?) };
            let (bias, first, second) = (list(self, bias)?, list(self, a_scale)?, list(self, b_scale)?);
            if first.is_empty() || second.is_empty() {
                return Err(Problem::Other("has no scale".into()));
            }
            let values: Vec<f32> = bias
                .iter()
                .enumerate()
                .map(|(i, v)| v * first[0] * second[i % second.len()])
                .collect();
            inputs.push(self.graph.floats(&[values.len()], &values)?);
        }
        let attributes = [
            ("alpha", Float(self.float(node, "alpha")?.unwrap_or(1.0))),
            ("transA", Int(self.int(node, "transA")?.unwrap_or(0))),
            ("transB", Int(turned)),
        ];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.unrounded(node, 8, "Gemm", &inputs, &attributes)
    }

    /// QAttention: Attention whose weights are stored integers.
    pub(super) fn quantized_attention(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let weight = self.operand(node, [1, 4, 7], -1)?;
        // Its mask is the sixth input, and a past the ninth.
        if self.maybe(node, 8).is_some() {
            return Err(Problem::Other("has a past, which no ALBERT has".into()));
        }
        let plain = NodeView {
            inputs: [0usize, 1, 2, 5]
                .iter()
                .map(|&i| node.inputs.get(i).copied().unwrap_or(""))
                .collect(),
            ..node.clone()
        };
        self.attention(&plain, &weight, 3)
    }

    /// QEmbedLayerNormalization: the plain one, whose tables and norm are stored integers.
    pub(super) fn quantized_embedding(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        for i in 2..7 {
            if let Some(stored) = self.maybe(node, i) {
                let made = self.operand(node, [i, i + 6, i + 11], 0)?;
                self.graph.stand_in(stored, &made);
            }
        }
        let plain = NodeView {
            inputs: node.inputs.iter().take(8).copied().collect(),
            ..node.clone()
        };
        self.embedding(&plain)
    }
}
