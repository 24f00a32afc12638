//! The QLinear operators: plain ones on the values that stand for what was rounded. A rounding that cuts off what is below zero
//! stays a Relu, unless nothing can be below zero there.

use super::graph::Attribute::{self, Float, Int, Ints};
use super::quantized::MOST_MOVES;
use super::{Decomposition, Problem};
use thimble_shared::onnx::reader::NodeView;

impl<'a> Decomposition<'_, 'a> {
    /// Whether a rounding with the zero point `zero` cannot give what stands for a number below zero: tools leave a Relu out
    /// before one.
    pub(super) fn clips_below_zero(&self, zero: Option<&'a str>) -> Result<bool, Problem> {
        let Some(zero) = zero.and_then(|name| self.tensors.get(name)) else {
            return Ok(false);
        };
        let least = match zero.data_type {
            2 | 4 => 0.0,
            3 => f32::from(i8::MIN),
            5 => f32::from(i16::MIN),
            _ => return Ok(false),
        };
        Ok(self.stored(zero)?.iter().all(|&z| z == least))
    }

    /// Whether a value is never below zero, by the operators that make it.
    pub(super) fn is_positive(&self, name: &str, steps: usize) -> bool {
        let numbers = |name: &str| {
            let tensor = self.tensors.get(name).filter(|t| t.dims.iter().product::<i64>() <= 1);
            tensor.and_then(|t| self.stored(t).ok())
        };
        if let Some(stored) = numbers(name) {
            return stored.iter().all(|x| *x >= 0.0);
        }
        let (Some(node), Some(steps)) = (self.made_by(name), steps.checked_sub(1)) else {
            return false;
        };
        // Each value of a QLinear operator has a scale and a zero point behind it.
        let (op, apart) = match node.op.strip_prefix("QLinear") {
            Some(op) => (op, 3),
            None => (node.op, 1),
        };
        let quantized = apart == 3 || op == "DequantizeLinear";
        let input = |i: usize| node.inputs.get(i * apart).copied().unwrap_or_default();
        // A stored integer is no less than its zero point where what it stands for is no less than zero.
        let of = |i: usize| match (numbers(input(i)), quantized) {
            (Some(q), true) => {
                let zero = node.inputs.get(i * apart + 2).and_then(|z| numbers(z));
                let least = zero.and_then(|z| z.first().copied()).unwrap_or(0.0);
                q.iter().all(|q| *q >= least)
            }
            _ => self.is_positive(input(i), steps),
        };
        match op {
            "Softmax" | "Sqrt" | "Relu" | "Sigmoid" | "Exp" | "Abs" => true,
            "Mul" if input(0) == input(1) => true,
            "Pow" => numbers(input(1)).is_some_and(|v| v == [2.0]),
            "Add" | "Mul" | "Div" => of(0) && of(1),
            "ReduceMean" | "Identity" | "Cast" | "Reshape" | "Transpose" | "QuantizeLinear" | "DequantizeLinear"
            | "Reciprocal" => of(0),
            _ => false,
        }
    }

    /// Makes `op` of `inputs` stand for what the quantized `node` makes, whose result is rounded with the input `zero`.
    pub(super) fn unrounded(
        &mut self,
        node: &NodeView<'a>,
        zero: usize,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
    ) -> Result<(), Problem> {
        let out = self.output(node)?;
        if self.clips_below_zero(self.maybe(node, zero))? && !self.is_positive(out, MOST_MOVES) {
            let made = self.graph.op(op, inputs, attributes);
            self.graph.node("Relu", &[&made], out, &[]);
        } else {
            self.graph.node(op, inputs, out, attributes);
        }
        Ok(())
    }

    /// The QLinear operators of com.microsoft: the plain one, on the values.
    pub(super) fn qlinear(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let op = node.op.strip_prefix("QLinear").unwrap_or(node.op);
        // Which inputs are values, and the zero point of what comes out.
        let (values, zero) = match op {
            "Add" | "Mul" => (vec![0, 3], 7),
            "LeakyRelu" | "ReduceMean" | "Sigmoid" | "Softmax" => (vec![0], 4),
            "Concat" => ((2..node.inputs.len()).step_by(3).collect(), 1),
            "Where" => (vec![1, 4], 8),
            _ => {
                return Err(Problem::Other(
                    "is a quantized operator that thimble cannot decompose".into(),
                ));
            }
        };
        let mut inputs = Vec::new();
        if op == "Where" {
            inputs.push(self.input(node, 0)?.to_string());
        }
        for i in values {
            inputs.push(self.operand(node, [i, i + 1, i + 2], 0)?);
        }
        let (axes, mut attributes) = (self.ints(node, "axes")?, Vec::new());
        match op {
            "LeakyRelu" => attributes.push(("alpha", Float(self.float(node, "alpha")?.unwrap_or(0.01)))),
            "Concat" => attributes.push(("axis", Int(self.int(node, "axis")?.unwrap_or(0)))),
            "Softmax" => {
                let axis = self.int(node, "axis")?.unwrap_or(-1);
                // Up to opset 12 a Softmax goes over all dimensions from its axis on, which is the same for the last alone.
                let last = axis == -1
                    || self
                        .kinds
                        .rank(self.input(node, 0)?)
                        .is_some_and(|r| axis + 1 == r as i64);
                let old = |opset: i64| opset < 13;
                if !last && old(self.int(node, "opset")?.unwrap_or(13)) != old(self.view.opset) {
                    return Err(Problem::Other("is a Softmax of another operator set".into()));
                }
                attributes.push(("axis", Int(axis)));
            }
            "ReduceMean" => {
                attributes.push(("keepdims", Int(self.int(node, "keepdims")?.unwrap_or(1))));
                match &axes {
                    // The axes became an input with opset 18.
                    Some(axes) if self.view.opset >= 18 => inputs.push(self.graph.ints(axes)?),
                    Some(axes) => attributes.push(("axes", Ints(axes))),
                    None => {}
                }
            }
            _ => {}
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.unrounded(node, zero, op, &inputs, &attributes)
    }
}
