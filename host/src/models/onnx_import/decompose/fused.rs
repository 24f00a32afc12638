//! ONNX Runtime's fused operators (domain com.microsoft) that state exactly what several standard operators do: Gelu and its
//! kin, LayerNorms with a sum before them, MatMul and Gemm with a scale, a transpose or an activation. In comes such a node,
//! out come standard ones: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.

use super::graph::Attribute::{Float, Int, Ints, Text};
use super::{Decomposition, Problem};
use thimble_shared::onnx::reader::NodeView;

/// Epsilon where the node states none.
const EPSILON: f32 = 1e-12;
/// QuickGelu's factor where the node states none.
const QUICK: f32 = 1.702;

impl<'a> Decomposition<'_, 'a> {
    /// Gelu, BiasGelu, FastGelu and QuickGelu, each of a value and maybe a bias.
    pub(super) fn gelu(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let mut x = self.input(node, 0)?.to_string();
        if let Some(bias) = self.maybe(node, 1) {
            x = self.graph.op("Add", &[&x, bias], &[]);
        }
        let out = self.output(node)?;
        match node.op {
            "FastGelu" => self.graph.node("Gelu", &[&x], out, &[("approximate", Text("tanh"))]),
            "QuickGelu" => {
                let alpha = self.float(node, "alpha")?.unwrap_or(QUICK);
                let mut scaled = x.clone();
                if alpha != 1.0 {
                    let factor = self.graph.floats(&[], &[alpha])?;
                    scaled = self.graph.op("Mul", &[&x, &factor], &[]);
                }
                let gate = self.graph.op("Sigmoid", &[&scaled], &[]);
                self.graph.node("Mul", &[&x, &gate], out, &[]);
            }
            _ => self.graph.node("Gelu", &[&x], out, &[]),
        }
        Ok(())
    }

    /// A LayerNorm over the last dimension of `x`.
    fn norm(&mut self, node: &NodeView<'a>, x: &str, gamma: &str, beta: &str, out: &str) -> Result<(), Problem> {
        let eps = self.float(node, "epsilon")?.unwrap_or(EPSILON);
        let attributes = [("axis", Int(-1)), ("epsilon", Float(eps))];
        self.graph
            .node("LayerNormalization", &[x, gamma, beta], out, &attributes);
        Ok(())
    }

    /// SkipLayerNormalization: input, skip, gamma, beta, bias; the fourth output is the sum.
    pub(super) fn skip_norm(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (x, skip) = (self.input(node, 0)?, self.input(node, 1)?);
        let (gamma, beta) = (self.input(node, 2)?, self.input(node, 3)?);
        let (mut x, mut skip) = (x.to_string(), skip.to_string());
        if let Some(bias) = self.maybe(node, 4) {
            // The bias is that of the linear map, which is one of the two.
            let mapped = |name: &str| {
                let made = self.made_by(name);
                made.is_some_and(|n| matches!(n.op, "MatMul" | "Reshape" | "Einsum" | "MatMulIntegerToFloat"))
            };
            let (first, second) = (mapped(&x), mapped(&skip));
            let target = if second && !first { &mut skip } else { &mut x };
            *target = self.graph.op("Add", &[target.as_str(), bias], &[]);
        }
        let sum = match node.outputs.get(3).filter(|n| !n.is_empty()) {
            Some(name) => {
                self.graph.node("Add", &[&x, &skip], name, &[]);
                name.to_string()
            }
            None => self.graph.op("Add", &[&x, &skip], &[]),
        };
        let out = self.output(node)?;
        self.norm(node, &sum, gamma, beta, out)
    }

    /// EmbedLayerNormalization: ids, segments, three tables, gamma, beta, mask, positions. Its second output counts the
    /// mask's ones, and is answered where attention reads it.
    pub(super) fn embedding(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let ids = self.input(node, 0)?;
        let (word, position) = (self.input(node, 2)?, self.input(node, 3)?);
        let (gamma, beta) = (self.input(node, 5)?, self.input(node, 6)?);
        let positions = match self.maybe(node, 8) {
            Some(given) => given.to_string(),
            None => {
                let shape = self.graph.op("Shape", &[ids], &[]);
                let (one, step, zero) = (self.scalar(1)?, self.scalar(1)?, self.scalar(0)?);
                let seq = self.graph.op("Gather", &[&shape, &one], &[("axis", Int(0))]);
                self.graph.op("Range", &[&zero, &seq, &step], &[])
            }
        };
        let words = self.graph.op("Gather", &[word, ids], &[]);
        let places = self.graph.op("Gather", &[position, &positions], &[]);
        let mut sum = self.graph.op("Add", &[&words, &places], &[]);
        if let (Some(segments), Some(types)) = (self.maybe(node, 1), self.maybe(node, 4)) {
            let rows = self.graph.op("Gather", &[types, segments], &[]);
            sum = self.graph.op("Add", &[&sum, &rows], &[]);
        }
        if let Some(name) = node.outputs.get(2).filter(|n| !n.is_empty()) {
            self.graph.node("Identity", &[&sum], name, &[]);
        }
        let out = self.output(node)?;
        self.norm(node, &sum, gamma, beta, out)
    }

    fn scalar(&mut self, value: i64) -> Result<String, Problem> {
        Ok(self.graph.new_tensor(super::graph::I64, &[], &value.to_le_bytes())?)
    }

    /// A value with its last two dimensions swapped.
    fn swapped(&mut self, name: &str) -> Result<String, Problem> {
        let rank = self
            .kinds
            .rank(name)
            .filter(|r| (2..=8).contains(r))
            .ok_or_else(|| Problem::Other("transposes a value of unknown rank".into()))?;
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(rank - 1, rank - 2);
        Ok(self.graph.op("Transpose", &[name], &[("perm", Ints(&perm))]))
    }

    /// FusedMatMul: transposes, a product, a factor.
    pub(super) fn fused_matmul(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (mut a, mut b) = (self.input(node, 0)?.to_string(), self.input(node, 1)?.to_string());
        for flag in ["transBatchA", "transBatchB"] {
            if self.int(node, flag)?.unwrap_or(0) != 0 {
                return Err(Problem::Other(format!("has {flag}, which thimble cannot decompose")));
            }
        }
        if self.int(node, "transA")?.unwrap_or(0) != 0 {
            a = self.swapped(&a)?;
        }
        if self.int(node, "transB")?.unwrap_or(0) != 0 {
            b = self.swapped(&b)?;
        }
        let alpha = self.float(node, "alpha")?.unwrap_or(1.0);
        let out = self.output(node)?;
        if alpha == 1.0 {
            self.graph.node("MatMul", &[&a, &b], out, &[]);
        } else {
            let product = self.graph.op("MatMul", &[&a, &b], &[]);
            let factor = self.graph.floats(&[], &[alpha])?;
            self.graph.node("Mul", &[&product, &factor], out, &[]);
        }
        Ok(())
    }

    /// FusedGemm: a Gemm and an activation without numbers of its own.
    pub(super) fn fused_gemm(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let activation = self.text(node, "activation")?.unwrap_or_default();
        let plain = ["Tanh", "Relu", "Sigmoid", "Softplus", "Softsign"];
        if !activation.is_empty() && !plain.contains(&activation.as_str()) {
            return Err(Problem::Other(format!(
                "has the activation {}, which thimble cannot decompose",
                crate::render::text::printable(&activation)
            )));
        }
        let mut attributes = Vec::new();
        for name in ["alpha", "beta"] {
            attributes.push((name, Float(self.float(node, name)?.unwrap_or(1.0))));
        }
        for name in ["transA", "transB"] {
            attributes.push((name, Int(self.int(node, name)?.unwrap_or(0))));
        }
        let inputs: Vec<&str> = node.inputs.iter().copied().filter(|n| !n.is_empty()).collect();
        let out = self.output(node)?;
        if activation.is_empty() {
            self.graph.node("Gemm", &inputs, out, &attributes);
        } else {
            let product = self.graph.op("Gemm", &inputs, &attributes);
            self.graph.node(&activation, &[&product], out, &[]);
        }
        Ok(())
    }

    /// BiasSoftmax: a sum and its Softmax.
    pub(super) fn bias_softmax(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (x, bias) = (self.input(node, 0)?, self.input(node, 1)?);
        let axis = self.int(node, "axis")?.unwrap_or(1);
        let sum = self.graph.op("Add", &[x, bias], &[]);
        let out = self.output(node)?;
        self.graph.node("Softmax", &[&sum], out, &[("axis", Int(axis))]);
        Ok(())
    }
}
