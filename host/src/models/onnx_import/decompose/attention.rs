//! ONNX Runtime's Attention and MultiHeadAttention, where they state what ALBERT's attention does: no past, no rotary
//! positions, no causal mask. In comes one node, out come the three maps, the scores, the mask and the Softmax in standard
//! operators. Weights of Attention are `[in, 3·out]`, query, key and value side by side.

use super::graph::Attribute::{Int, Ints};
use super::{Decomposition, Problem};
use thimble_shared::onnx::reader::NodeView;

/// What is added to the scores of masked tokens where the node says nothing.
const FILTER: f32 = -10000.0;

/// How a node's mask is given.
enum Mask<'a> {
    /// 0 and 1 over `[batch, seq]`.
    Tokens(&'a str),
    /// The same over `[batch, query, key]`.
    Pairs(&'a str),
    /// The number of ones in this mask over `[batch, seq]`: the rest is taken to follow them.
    Lengths(&'a str),
}

impl<'a> Decomposition<'_, 'a> {
    fn refuse(&self, node: &NodeView<'a>, flags: &[&str], inputs: &[usize]) -> Result<(), Problem> {
        for flag in flags {
            if self.int(node, flag)?.unwrap_or(0) != 0 {
                return Err(Problem::Other(format!("has {flag}, which ALBERT does not use")));
            }
        }
        if let Some(i) = inputs.iter().find(|&&i| self.maybe(node, i).is_some()) {
            return Err(Problem::Other(format!("has input {i}, which ALBERT does not use")));
        }
        if node.outputs.iter().skip(1).any(|o| self.is_needed(o)) {
            return Err(Problem::Other("has a second output that is read".into()));
        }
        Ok(())
    }

    fn heads(&self, node: &NodeView<'a>) -> Result<usize, Problem> {
        let heads = self.int(node, "num_heads")?.unwrap_or(0);
        usize::try_from(heads)
            .ok()
            .filter(|h| (1..=1 << 16).contains(h))
            .ok_or_else(|| Problem::Other(format!("has {heads} heads")))
    }

    /// Attention: input, weights, bias, mask, past, what is added to the scores.
    pub(super) fn attention(&mut self, node: &NodeView<'a>, weight: &str, mask: usize) -> Result<(), Problem> {
        let x = self.input(node, 0)?.to_string();
        let bias = self.input(node, 2)?;
        self.refuse(
            node,
            &["unidirectional", "do_rotary", "past_present_share_buffer"],
            &[mask + 1, mask + 3],
        )?;
        let heads = self.heads(node)?;
        let sizes = self.ints(node, "qkv_hidden_sizes")?.unwrap_or_default();
        if sizes.iter().any(|s| Some(s) != sizes.first()) {
            return Err(Problem::Other(format!(
                "has hidden sizes {sizes:?}, and ALBERT's are equal"
            )));
        }
        let weights = self.thirds(weight)?;
        let biases = self.thirds(bias)?;
        let mut maps = Vec::new();
        for (w, b) in weights.parts.iter().zip(&biases.parts) {
            let product = self.graph.op("MatMul", &[&x, w], &[]);
            maps.push(self.graph.op("Add", &[&product, b], &[]));
        }
        if weights.width != biases.width {
            return Err(Problem::Other("has weights and a bias of different sizes".into()));
        }
        let extra = self.maybe(node, mask + 2);
        let mask = self.maybe(node, mask);
        self.scores(node, [&maps[0], &maps[1], &maps[2]], heads, weights.width, mask, extra)
    }

    /// MultiHeadAttention: query, key, value, bias, mask of keys, what is added to the scores.
    pub(super) fn multi_head(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        self.refuse(node, &["unidirectional"], &[6, 7, 8, 9])?;
        let heads = self.heads(node)?;
        let mut maps: Vec<String> = Vec::new();
        for i in 0..3 {
            maps.push(self.input(node, i)?.to_string());
        }
        let mut width = None;
        if let Some(bias) = self.maybe(node, 3) {
            let biases = self.thirds(bias)?;
            width = Some(biases.width);
            for (map, bias) in maps.iter_mut().zip(&biases.parts) {
                *map = self.graph.op("Add", &[map.as_str(), bias], &[]);
            }
        }
        let width = width.or_else(|| self.width(node.inputs[0]));
        let Some(width) = width else {
            return Err(Problem::Other("reads a query of unknown width".into()));
        };
        let (mask, extra) = (self.maybe(node, 4), self.maybe(node, 5));
        self.scores(node, [&maps[0], &maps[1], &maps[2]], heads, width, mask, extra)
    }

    /// The number of channels of a linear map's output, by its weight or its bias.
    fn width(&self, name: &str) -> Option<usize> {
        let mut name = name;
        for _ in 0..8 {
            let node = self.made_by(name)?;
            let stored = |n: &&str| self.tensors.get(*n).and_then(|t| t.dims.last());
            match node.op {
                "Add" => {
                    if let Some(&width) = node.inputs.iter().find_map(stored) {
                        return usize::try_from(width).ok();
                    }
                    name = node.inputs.first()?;
                }
                "MatMul" => return usize::try_from(*node.inputs.get(1).and_then(stored)?).ok(),
                "Reshape" | "Cast" | "Identity" => name = node.inputs.first()?,
                _ => return None,
            }
        }
        None
    }

    /// Softmax(q·kᵀ·scale + mask)·v for maps of `[batch, seq, width]`.
    fn scores(
        &mut self,
        node: &NodeView<'a>,
        [q, k, v]: [&str; 3],
        heads: usize,
        width: usize,
        mask: Option<&'a str>,
        extra: Option<&'a str>,
    ) -> Result<(), Problem> {
        if !width.is_multiple_of(heads) || width == 0 {
            return Err(Problem::Other(format!("has {heads} heads over {width} channels")));
        }
        let size = width / heads;
        let scale = match self.float(node, "scale")?.filter(|s| *s != 0.0) {
            Some(scale) => scale,
            None => 1.0 / (size as f32).sqrt(),
        };
        let split = self.graph.ints(&[0, 0, heads as i64, size as i64])?;
        let mut parts = Vec::new();
        for (map, perm) in [(q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3])] {
            let shaped = self.graph.op("Reshape", &[map, &split], &[]);
            parts.push(self.graph.op("Transpose", &[&shaped], &[("perm", Ints(&perm))]));
        }
        let product = self.graph.op("MatMul", &[&parts[0], &parts[1]], &[]);
        let factor = self.graph.floats(&[], &[scale])?;
        let mut scores = self.graph.op("Mul", &[&product, &factor], &[]);
        if let Some(extra) = extra {
            scores = self.graph.op("Add", &[&scores, extra], &[]);
        }
        if let Some(mask) = mask {
            let filter = self.float(node, "mask_filter_value")?.unwrap_or(FILTER);
            let added = self.mask(mask, filter)?;
            scores = self.graph.op("Add", &[&scores, &added], &[]);
        }
        let shares = self.graph.op("Softmax", &[&scores], &[("axis", Int(3))]);
        let context = self.graph.op("MatMul", &[&shares, &parts[2]], &[]);
        let turned = self
            .graph
            .op("Transpose", &[&context], &[("perm", Ints(&[0, 2, 1, 3]))]);
        let joined = self.graph.ints(&[0, 0, width as i64])?;
        let out = self.output(node)?;
        self.graph.node("Reshape", &[&turned, &joined], out, &[]);
        Ok(())
    }

    /// What is added to the scores: 0 where the mask is 1, `filter` where it is 0.
    fn mask(&mut self, name: &'a str, filter: f32) -> Result<String, Problem> {
        if let Some(known) = self.masks.get(&(name, filter.to_bits())) {
            return Ok(known.clone());
        }
        let (mask, shape): (&str, &[i64]) = match self.mask_kind(name)? {
            Mask::Tokens(mask) => (mask, &[0, 1, 1, -1]),
            Mask::Lengths(mask) => {
                self.right_padded = true;
                (mask, &[0, 1, 1, -1])
            }
            Mask::Pairs(mask) => (mask, &[]),
        };
        let wide = self.graph.op("Cast", &[mask], &[("to", Int(super::graph::F32))]);
        let placed = if shape.is_empty() {
            self.unsqueeze(&wide, 1)?
        } else {
            let shape = self.graph.ints(shape)?;
            self.graph.op("Reshape", &[&wide, &shape], &[])
        };
        let (one, filtered) = (self.graph.floats(&[], &[1.0])?, self.graph.floats(&[], &[filter])?);
        let left = self.graph.op("Sub", &[&one, &placed], &[]);
        let added = self.graph.op("Mul", &[&left, &filtered], &[]);
        self.masks.insert((name, filter.to_bits()), added.clone());
        Ok(added)
    }

    fn unsqueeze(&mut self, x: &str, axis: i64) -> Result<String, Problem> {
        // The axes became an input with opset 13.
        if self.view.opset < 13 {
            return Ok(self.graph.op("Unsqueeze", &[x], &[("axes", Ints(&[axis]))]));
        }
        let axes = self.graph.ints(&[axis])?;
        Ok(self.graph.op("Unsqueeze", &[x, &axes], &[]))
    }

    fn mask_kind(&self, name: &'a str) -> Result<Mask<'a>, Problem> {
        let mut at = name;
        for _ in 0..8 {
            match self.made_by(at) {
                Some(node) if matches!(node.op, "Cast" | "Identity") && !node.inputs.is_empty() => at = node.inputs[0],
                Some(node) if node.op == "EmbedLayerNormalization" => {
                    return match self.maybe(node, 7) {
                        Some(mask) if node.outputs.get(1) == Some(&at) => Ok(Mask::Lengths(mask)),
                        _ => Err(Problem::Other("takes its mask from an embedding that has none".into())),
                    };
                }
                // The optimizer counts ones where it fused no embedding.
                Some(node) if node.op == "ReduceSum" && self.int(node, "keepdims")? == Some(0) => {
                    return Ok(Mask::Lengths(self.input(node, 0)?));
                }
                _ => break,
            }
        }
        match self.kinds.rank(at).or_else(|| self.kinds.rank(name)) {
            Some(2) => Ok(Mask::Tokens(name)),
            Some(3) => Ok(Mask::Pairs(name)),
            Some(rank) => Err(Problem::Other(format!(
                "takes a mask of {rank} dimensions, which thimble cannot decompose"
            ))),
            None => Err(Problem::Other("takes a mask of unknown rank".into())),
        }
    }
}
