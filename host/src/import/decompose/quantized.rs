//! Quantised operators said in f32: `--dequantize` takes stored integers as (q − zero point) · scale and lets activations be
//! what they were before they were rounded. In come ONNX's and ONNX Runtime's quantised nodes, out come plain ones.

use super::graph::Attribute::{Float, Int};
use super::graph::F32;
use super::{Decomposition, Problem};
use crate::onnx::element_type;
use half::{bf16, f16};
use thimble_shared::onnx::reader::{NodeView, TensorView};

/// Longest chain of moves between a stored table and its DequantizeLinear.
const MOST_MOVES: usize = 8;

/// Fewest numbers of a tensor that is taken for another's original, and most tensors it is compared with.
const LEAST_ORIGINAL: usize = 64;
const MOST_ORIGINALS: usize = 64;

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
    /// Integers or floats of a stored tensor as f32, in its order; 4-bit ones are unpacked, the low half first.
    fn stored(&self, tensor: &TensorView<'a>) -> Result<Vec<f32>, Problem> {
        let count = tensor
            .dims
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
        let count = count.ok_or_else(|| Problem::Other("has a tensor without a size".into()))?;
        let bytes = self.file.payload(tensor)?;
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        let fours = || bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        let nibbles = || bytes.iter().flat_map(|&b| [b & 15, b >> 4]).take(count);
        Ok(match tensor.data_type {
            1 => fours().map(f32::from_le_bytes).collect(),
            2 => bytes.iter().map(|&b| f32::from(b)).collect(),
            3 => bytes.iter().map(|&b| f32::from(b as i8)).collect(),
            4 => pairs().map(|b| f32::from(u16::from_le_bytes(b))).collect(),
            5 => pairs().map(|b| f32::from(i16::from_le_bytes(b))).collect(),
            6 => fours().map(|b| i32::from_le_bytes(b) as f32).collect(),
            10 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            21 => nibbles().map(f32::from).collect(),
            22 => nibbles().map(|n| f32::from((n << 4) as i8 >> 4)).collect(),
            other => {
                return Err(Problem::Other(format!(
                    "has weights of {}, which thimble does not dequantise",
                    element_type(other)
                )));
            }
        })
    }

    fn shape(tensor: &TensorView<'_>) -> Vec<usize> {
        tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect()
    }

    /// A stored tensor of integers as one of f32: `(q − zero) · scale`, with one scale, one for each place along `axis`, or one
    /// for each block along it. Its new name.
    fn dequantized(
        &mut self,
        q: &'a str,
        scale: Option<&'a str>,
        zero: Option<&'a str>,
        axis: i64,
    ) -> Result<String, Problem> {
        let key = (q, scale, zero, axis);
        if let Some(known) = self.dequantized.get(&key) {
            return Ok(known.clone());
        }
        let tensor = self.stored_tensor(q)?;
        let dims = Self::shape(&tensor);
        let mut values = self.stored(&tensor)?;
        let table = |name: Option<&'a str>, missing: f32| -> Result<(Vec<f32>, Vec<usize>), Problem> {
            let Some(name) = name else {
                return Ok((vec![missing], vec![]));
            };
            let tensor = self.stored_tensor(name)?;
            Ok((self.stored(&tensor)?, Self::shape(&tensor)))
        };
        let ((scales, scale_dims), (zeros, _)) = (table(scale, 1.0)?, table(zero, 0.0)?);
        if zeros.len() != scales.len() && zeros.len() != 1 && scales.len() != 1 {
            return Err(Problem::Other("has scales and zero points of different numbers".into()));
        }
        let rank = dims.len() as i64;
        let along = if axis < 0 { axis + rank } else { axis };
        let parts = scales.len().max(zeros.len());
        if parts == 1 {
            values.iter_mut().for_each(|v| *v = (*v - zeros[0]) * scales[0]);
        } else {
            let Some(&length) = usize::try_from(along).ok().and_then(|i| dims.get(i)) else {
                return Err(Problem::Other(format!("has scales along dimension {axis} of {rank}")));
            };
            let inner: usize = dims[along as usize + 1..].iter().product();
            let place: Box<dyn Fn(usize) -> usize> = if parts == length && scale_dims.len() < 2 {
                Box::new(move |i| i / inner.max(1) % length)
            } else if scale_dims.len() == dims.len() && scale_dims[along as usize] > 0 {
                // Blocks: as many scales along the axis as it has blocks.
                let blocks = scale_dims[along as usize];
                let block = length.div_ceil(blocks);
                let mut expected = dims.clone();
                expected[along as usize] = blocks;
                if expected != scale_dims || block == 0 {
                    return Err(Problem::Other(format!(
                        "has scales of {scale_dims:?} for numbers of {dims:?}"
                    )));
                }
                Box::new(move |i| {
                    let (outer, rest) = (i / (length * inner), i % (length * inner));
                    (outer * blocks + rest / inner / block) * inner + rest % inner
                })
            } else {
                return Err(Problem::Other(format!("has {parts} scales for numbers of {dims:?}")));
            };
            let pick = |list: &[f32], at: usize| {
                if list.len() == 1 {
                    list[0]
                } else {
                    list.get(at).copied().unwrap_or(f32::NAN)
                }
            };
            for (i, v) in values.iter_mut().enumerate() {
                let at = place(i);
                *v = (*v - pick(&zeros, at)) * pick(&scales, at);
            }
        }
        let widest = scales.iter().fold(0f32, |most, s| most.max(s.abs()));
        let name = match self.original(&dims, &values, widest)? {
            Some(original) => original.to_string(),
            None => self.graph.floats(&dims, &values)?,
        };
        self.dequantized.insert(key, name.clone());
        Ok(name)
    }

    /// A stored tensor of floats that `values` are a rounding of: ONNX Runtime leaves it where another layer reads it through an
    /// Identity. Each number may be off by a step of `scale`.
    fn original(&mut self, dims: &[usize], values: &[f32], scale: f32) -> Result<Option<&'a str>, Problem> {
        if values.len() < LEAST_ORIGINAL {
            return Ok(None);
        }
        let mut same: Vec<(&'a str, TensorView<'a>)> = self
            .tensors
            .iter()
            .filter(|(name, t)| {
                let float = matches!(t.data_type, 1 | 10 | 16);
                float && Self::shape(t) == dims && self.needed.contains(*name)
            })
            .map(|(name, t)| (*name, t.clone()))
            .collect();
        same.sort_by_key(|(name, _)| *name);
        for (name, tensor) in same.into_iter().take(MOST_ORIGINALS) {
            let floats = self.stored(&tensor)?;
            let close = floats.iter().zip(values).all(|(a, b)| (a - b).abs() <= scale);
            // Numbers that are all smaller than a step would be close to anything as small.
            let says = values.iter().filter(|v| v.abs() > 2.0 * scale).count() * 4 > values.len();
            if close && says {
                self.originals += 1;
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// DequantizeLinear: of a stored tensor, of rows looked up in one, or of what a QuantizeLinear rounded.
    pub(super) fn dequantize(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (x, scale) = (self.input(node, 0)?, self.input(node, 1)?);
        let zero = self.maybe(node, 2);
        let axis = self.int(node, "axis")?.unwrap_or(1);
        let out = self.output(node)?;
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
            self.graph.stand_in(out, x);
            return Ok(());
        }
        let moves = path.iter().filter(|&&i| self.view.nodes[i].op != "Identity").count();
        let one = |name: &str| {
            self.tensors
                .get(name)
                .is_some_and(|t| t.dims.iter().product::<i64>() == 1)
        };
        if moves > 0 && !(one(scale) && zero.is_none_or(one)) {
            return Err(Problem::Other(
                "dequantises by the channel what was moved before".into(),
            ));
        }
        let mut name = self.dequantized(at, Some(scale), zero, axis)?;
        for i in path.iter().rev() {
            let node = self.view.nodes[*i].clone();
            let made = self.graph.name();
            self.graph.copy(&node, Some(&name), Some(&made));
            name = made;
        }
        self.graph.stand_in(out, &name);
        Ok(())
    }

    /// QuantizeLinear: what it rounds stands for what it makes.
    pub(super) fn quantize(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (x, out) = (self.input(node, 0)?, self.output(node)?);
        if self.clips_below_zero(node)? && !self.is_positive(x, MOST_MOVES) {
            let made = self.graph.op("Relu", &[x], &[]);
            self.graph.stand_in(out, &made);
        } else {
            self.graph.stand_in(out, x);
        }
        Ok(())
    }

    /// Whether a QuantizeLinear cannot give what stands for a number below zero: tools leave a Relu out before one.
    fn clips_below_zero(&self, node: &NodeView<'a>) -> Result<bool, Problem> {
        let Some(name) = self.maybe(node, 2).filter(|_| node.op == "QuantizeLinear") else {
            return Ok(false);
        };
        let Some(zero) = self.tensors.get(name).cloned() else {
            return Ok(false);
        };
        let least = match zero.data_type {
            2 | 4 => 0.0,
            3 => f32::from(i8::MIN),
            5 => f32::from(i16::MIN),
            _ => return Ok(false),
        };
        Ok(self.stored(&zero)?.iter().all(|&z| z == least))
    }

    /// Whether a value is never below zero, by the operators that make it.
    fn is_positive(&self, name: &str, steps: usize) -> bool {
        let (Some(node), Some(steps)) = (self.made_by(name), steps.checked_sub(1)) else {
            let stored = self.tensors.get(name).filter(|t| t.dims.iter().product::<i64>() <= 1);
            return stored.is_some_and(|t| self.stored(t).is_ok_and(|v| v.iter().all(|x| *x >= 0.0)));
        };
        let of = |i: usize| node.inputs.get(i).is_some_and(|n| self.is_positive(n, steps));
        match node.op {
            "Softmax" | "Sqrt" | "Relu" | "Sigmoid" | "Exp" | "Abs" => true,
            "Mul" if node.inputs.len() == 2 && node.inputs[0] == node.inputs[1] => true,
            "Pow" => self
                .tensors
                .get(node.inputs.get(1).copied().unwrap_or_default())
                .is_some_and(|t| self.stored(t).is_ok_and(|v| v == [2.0])),
            "Constant" => self
                .tensors
                .get(name)
                .is_some_and(|t| self.stored(t).is_ok_and(|v| v.iter().all(|x| *x >= 0.0))),
            "Add" | "Mul" | "Div" => of(0) && of(1),
            "ReduceMean" | "Identity" | "Cast" | "Reshape" | "Transpose" | "QuantizeLinear" | "DequantizeLinear"
            | "Reciprocal" => of(0),
            _ => false,
        }
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
        let zero = self.maybe(node, 3);
        match self.scaled_by(node) {
            Some((scale, cast, mul)) => {
                let weight = self.dequantized(b, Some(scale), zero, -1)?;
                let end = self.view.nodes[mul].outputs.first().copied().unwrap_or_default();
                self.graph.node("MatMul", &[a, &weight], end, &[]);
                self.done.extend([cast, mul]);
            }
            None => {
                let weight = self.dequantized(b, None, zero, -1)?;
                self.graph.node("MatMul", &[a, &weight], out, &[]);
            }
        }
        Ok(())
    }

    /// A product of a rounded activation and stored integers, with their scale, zero point and a bias by place.
    pub(super) fn matmul_float(
        &mut self,
        node: &NodeView<'a>,
        scale: usize,
        zero: usize,
        bias: Option<usize>,
    ) -> Result<(), Problem> {
        let (a, b) = (
            self.input(node, 0)?,
            self.input(node, if node.op == "QLinearMatMul" { 3 } else { 1 })?,
        );
        let right = match self.tensors.contains_key(b) {
            true => self.dequantized(b, Some(self.input(node, scale)?), self.maybe(node, zero), -1)?,
            false => b.to_string(),
        };
        let out = self.output(node)?;
        match bias.and_then(|i| self.maybe(node, i)) {
            Some(bias) => {
                let product = self.graph.op("MatMul", &[a, &right], &[]);
                self.graph.node("Add", &[&product, bias], out, &[]);
            }
            None => self.graph.node("MatMul", &[a, &right], out, &[]),
        }
        Ok(())
    }

    /// QGemm: A, B and a bias of integers, whose scale is the product of theirs.
    pub(super) fn gemm(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 3)?);
        let (a_scale, b_scale) = (self.input(node, 1)?, self.input(node, 4)?);
        let turned = self.int(node, "transB")?.unwrap_or(0);
        let weight = self.dequantized(b, Some(b_scale), self.maybe(node, 5), if turned != 0 { 0 } else { 1 })?;
        let mut inputs = vec![a.to_string(), weight];
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
        let out = self.output(node)?;
        self.graph.node("Gemm", &inputs, out, &attributes);
        Ok(())
    }

    /// QAttention: Attention whose weights are stored integers.
    pub(super) fn quantized_attention(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let weight = self.dequantized(
            self.input(node, 1)?,
            Some(self.input(node, 4)?),
            self.maybe(node, 7),
            -1,
        )?;
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

    /// MatMulNBits: weights of `[out, blocks, bytes]` in blocks along the inputs, each with a scale and maybe a zero point.
    pub(super) fn matmul_bits(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let size = |name: &str| -> Result<usize, Problem> {
            let value = self.int(node, name)?.unwrap_or(if name == "bits" { 4 } else { 0 });
            usize::try_from(value)
                .ok()
                .filter(|n| (1..=1 << 24).contains(n))
                .ok_or_else(|| Problem::Other(format!("has {name} {value}")))
        };
        let (k, n, bits, block) = (size("K")?, size("N")?, size("bits")?, size("block_size")?);
        if !matches!(bits, 4 | 8) || self.maybe(node, 4).is_some() {
            return Err(Problem::Other(format!(
                "has weights of {bits} bits or an order of groups, which thimble does not dequantise"
            )));
        }
        let (x, out) = (self.input(node, 0)?, self.output(node)?);
        let key = (
            self.input(node, 1)?,
            Some(self.input(node, 2)?),
            self.maybe(node, 3),
            i64::MIN,
        );
        let weight = match self.dequantized.get(&key) {
            Some(known) => known.clone(),
            None => {
                let values = self.unpacked(node, [k, n, bits, block])?;
                let scales = self.stored(&self.stored_tensor(self.input(node, 2)?)?)?;
                let widest = scales.iter().fold(0f32, |most, s| most.max(s.abs()));
                let name = match self.original(&[k, n], &values, widest)? {
                    Some(original) => original.to_string(),
                    None => self.graph.floats(&[k, n], &values)?,
                };
                self.dequantized.insert(key, name.clone());
                name
            }
        };
        match self.maybe(node, 5) {
            Some(bias) => {
                let product = self.graph.op("MatMul", &[x, &weight], &[]);
                self.graph.node("Add", &[&product, bias], out, &[]);
            }
            None => self.graph.node("MatMul", &[x, &weight], out, &[]),
        }
        Ok(())
    }

    /// The numbers of MatMulNBits' weight as `[in, out]`.
    fn unpacked(&self, node: &NodeView<'a>, [k, n, bits, block]: [usize; 4]) -> Result<Vec<f32>, Problem> {
        let blocks = k.div_ceil(block);
        let blob = (block * bits).div_ceil(8);
        let packed = self.file.payload(&self.stored_tensor(self.input(node, 1)?)?)?;
        let scales = self.stored(&self.stored_tensor(self.input(node, 2)?)?)?;
        if n.checked_mul(blocks)
            .is_none_or(|count| scales.len() != count || Some(packed.len()) != count.checked_mul(blob))
        {
            return Err(Problem::Other(format!(
                "has {} bytes and {} scales for {n} × {k} weights in blocks of {block}",
                packed.len(),
                scales.len()
            )));
        }
        let read = |bytes: &[u8], i: usize| match bits {
            4 => bytes
                .get(i / 2)
                .map(|b| f32::from(if i.is_multiple_of(2) { b & 15 } else { b >> 4 })),
            _ => bytes.get(i).map(|&b| f32::from(b)),
        };
        // Zero points are packed by rows of blocks; where there are none it is the middle.
        let middle = (1u32 << (bits - 1)) as f32;
        let zeros = match self.maybe(node, 3) {
            None => None,
            Some(name) => Some(self.stored_tensor(name)?),
        };
        let row = (blocks * bits).div_ceil(8);
        let (bytes, floats) = match &zeros {
            Some(tensor) if tensor.data_type == 2 => (Some(self.file.payload(tensor)?), None),
            Some(tensor) => (None, Some(self.stored(tensor)?)),
            None => (None, None),
        };
        let mut values = vec![0f32; k * n];
        for o in 0..n {
            for b in 0..blocks {
                let at = o * blocks + b;
                let zero = match (&bytes, &floats) {
                    (Some(bytes), _) => bytes.get(o * row..).and_then(|r| read(r, b)),
                    (_, Some(floats)) => floats.get(at).copied(),
                    _ => Some(middle),
                };
                let Some(zero) = zero else {
                    return Err(Problem::Other("has too few zero points".into()));
                };
                let part = &packed[at * blob..(at + 1) * blob];
                for i in 0..block.min(k - b * block) {
                    values[(b * block + i) * n + o] = (read(part, i).unwrap_or(0.0) - zero) * scales[at];
                }
            }
        }
        Ok(values)
    }
}
