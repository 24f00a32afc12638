//! ONNX Runtime's operators over weights in blocks, packed several to a byte: MatMulNBits and GatherBlockQuantized. In comes
//! such a node, out come a tensor of f32 and the plain operator.

use super::graph::Attribute::Int;
use super::stored::{Scaling, Table, unpacked};
use super::{Decomposition, Problem};
use thimble_shared::onnx::reader::NodeView;

/// ONNX's number of the element type whose halves of bytes are packed by hand.
const U8: i64 = 2;

impl<'a> Decomposition<'_, 'a> {
    /// An attribute that counts something.
    pub(super) fn size(&self, node: &NodeView<'a>, name: &str, default: i64) -> Result<usize, Problem> {
        let value = self.int(node, name)?.unwrap_or(default);
        let size = usize::try_from(value).ok().filter(|n| *n <= 1 << 24);
        size.ok_or_else(|| Problem::Other(format!("has {name} {value}")))
    }

    /// Scales and zero points of numbers packed by hand; zero points are packed by rows of `count`, and the middle where none
    /// are given.
    fn packed_table(&self, scaling: Scaling<'a>, bits: usize, count: usize) -> Result<Table, Problem> {
        let middle = (1u32 << (bits - 1)) as f32;
        let mut table = self.table(scaling, middle)?;
        if let Some(name) = scaling.zero {
            let tensor = self.stored_tensor(name)?;
            if tensor.data_type == U8 {
                table.zeros = unpacked(&self.file.payload(&tensor)?, bits, count);
            }
        }
        Ok(table)
    }

    /// MatMulNBits: weights of `[out, blocks, bytes]` in blocks along the inputs, each with a scale and maybe a zero point.
    pub(super) fn matmul_bits(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (k, n) = (self.size(node, "K", 0)?, self.size(node, "N", 0)?);
        let (bits, block) = (self.size(node, "bits", 4)?, self.size(node, "block_size", 0)?);
        if !matches!(bits, 4 | 8) || self.maybe(node, 4).is_some() {
            return Err(Problem::Other(format!(
                "has weights of {bits} bits or an order of groups, which thimble does not dequantize"
            )));
        }
        if [k, n, block].contains(&0) {
            return Err(Problem::Other(format!("has K {k}, N {n} and block_size {block}")));
        }
        let scaling = Scaling {
            scale: Some(self.input(node, 2)?),
            zero: self.maybe(node, 3),
            axis: 1,
            block,
        };
        let q = self.input(node, 1)?;
        let weight = self.once(q, scaling, [bits, k, n], |this| {
            let packed = this.file.payload(&this.stored_tensor(q)?)?;
            let (blocks, blob) = (k.div_ceil(block), (block * bits).div_ceil(8));
            let mut table = this.packed_table(scaling, bits, blocks)?;
            let count = n.saturating_mul(blocks);
            if table.scales.len() != count || Some(packed.len()) != count.checked_mul(blob) {
                return Err(Problem::Other(format!(
                    "has {} bytes and {} scales for {n} × {k} weights in blocks of {block}",
                    packed.len(),
                    table.scales.len()
                )));
            }
            table.dims = vec![n, blocks];
            let mut rows = unpacked(&packed, bits, block);
            let width = blocks * block;
            let step = table.apply(&mut rows, &[n, width], 1, block)?;
            let columns = (0..k).flat_map(|i| rows.iter().skip(i).step_by(width).copied());
            Ok((vec![k, n], columns.collect(), step))
        })?;
        let (x, out) = (self.input(node, 0)?, self.output(node)?);
        self.product(x, &weight, self.maybe(node, 5), out);
        Ok(())
    }

    /// GatherBlockQuantized: rows of a table in blocks, each with a scale and maybe a zero point.
    pub(super) fn gather_blocks(&mut self, node: &NodeView<'a>) -> Result<(), Problem> {
        let (q, bits) = (self.input(node, 0)?, self.size(node, "bits", 4)?);
        let scaling = Scaling {
            scale: Some(self.input(node, 2)?),
            zero: self.maybe(node, 3),
            axis: self.int(node, "quantize_axis")?.unwrap_or(1),
            block: self.size(node, "block_size", 128)?,
        };
        let table = self.once(q, scaling, [bits, 0, 0], |this| {
            let tensor = this.stored_tensor(q)?;
            let mut dims = Self::shape(&tensor);
            // Bytes hold several numbers of the last dimension, and have a middle.
            let (mut values, table) = match (tensor.data_type, bits, dims.last_mut()) {
                (U8, 4 | 8, Some(last)) => {
                    *last = last.saturating_mul(8 / bits);
                    let values = unpacked(&this.file.payload(&tensor)?, bits, *last);
                    let scales = this.table(scaling, 0.0)?.dims.last().copied().unwrap_or(1);
                    (values, this.packed_table(scaling, bits, scales)?)
                }
                (U8, ..) => {
                    return Err(Problem::Other(format!(
                        "has weights of {bits} bits, which thimble does not dequantize"
                    )));
                }
                _ => (this.stored(&tensor)?, this.table(scaling, 0.0)?),
            };
            let step = table.apply(&mut values, &dims, scaling.axis, scaling.block)?;
            Ok((dims, values, step))
        })?;
        let axis = self.int(node, "gather_axis")?.unwrap_or(0);
        let (indices, out) = (self.input(node, 1)?, self.output(node)?);
        self.graph
            .node("Gather", &[&table, indices], out, &[("axis", Int(axis))]);
        Ok(())
    }
}
