//! Weights that lie row by row, as ONNX Runtime and other readers of ONNX take them: int4 as its MatMulNBits and
//! GatherBlockQuantized store it, or undone by standard operators.

use super::{Lowering, scale};
use crate::artifact::layout::{I4_OFFSET, PanelLayout};
use crate::artifact::tensors::Part;
use crate::dtype::{I4_BLOCK, Storage};
use crate::onnx::writer::{Attr, DataType};

/// MatMulNBits' `accuracy_level` for inputs in f32.
const F32_INPUTS: i64 = 1;

impl Lowering<'_> {
    /// `[in, out]` in the stored element type; int4 as the int8 it stands for.
    pub(super) fn row_matrix(&mut self, weight: &str) -> String {
        let layout = self.layout(weight);
        match layout.storage {
            Storage::F32 | Storage::F16 | Storage::I8 => weight.to_string(),
            Storage::I4 => {
                let name = format!("{weight}.w");
                if self.made.insert(name.clone(), String::new()).is_some() {
                    return name;
                }
                let numbers = self.paired_numbers(weight, weight, &[layout.out as i64, layout.blocks() as i64]);
                let mult = Part::Multipliers.of(weight);
                let mult = self.cast(&mult, DataType::I32, &format!("{weight}.mult32"));
                let whole = self.node("Mul", &[&numbers, &mult], &format!("{weight}.whole"), &[]);
                let narrow = self.cast(&whole, DataType::I8, &format!("{weight}.q8"));
                let (n, k) = (layout.out as i64, layout.padded_in() as i64);
                let dims = self.ints(&format!("dims_{n}x{k}"), &[n, k]);
                let mut rows = self.node("Reshape", &[&narrow, &dims], &format!("{weight}.rows8"), &[]);
                if layout.inp != layout.padded_in() {
                    let (zero, one) = (self.ints("zero", &[0]), self.ints("one", &[1]));
                    let end = self.ints(&format!("cols_{}", layout.inp), &[layout.inp as i64]);
                    rows = self.node("Slice", &[&rows, &zero, &end, &one], &format!("{weight}.cut8"), &[]);
                }
                self.node("Transpose", &[&rows], &name, &[Attr::Ints("perm", vec![1, 0])])
            }
        }
    }

    /// int4 numbers as int32, two neighbors to a byte, the low half first: `[.., 32]` behind the dimensions `outer`.
    pub(super) fn paired_numbers(&mut self, name: &str, bytes: &str, outer: &[i64]) -> String {
        let sixteen = self.constant("sixteen", DataType::U8, &[], vec![16]);
        let four = self.constant("four", DataType::U8, &[], vec![4]);
        let offset = i32::from(I4_OFFSET).to_le_bytes().to_vec();
        let offset = self.constant("offset4", DataType::I32, &[], offset);
        let last = self.ints("last", &[-1]);
        let low = self.node("Mod", &[bytes, &sixteen], &format!("{name}.low"), &[]);
        let low = self.node("Unsqueeze", &[&low, &last], &format!("{name}.low1"), &[]);
        let right = [Attr::Text("direction", "RIGHT")];
        let high = self.node("BitShift", &[bytes, &four], &format!("{name}.high"), &right);
        let high = self.node("Unsqueeze", &[&high, &last], &format!("{name}.high1"), &[]);
        let pairs = self.node(
            "Concat",
            &[&low, &high],
            &format!("{name}.pairs"),
            &[Attr::Int("axis", -1)],
        );
        let wide = self.cast(&pairs, DataType::I32, &format!("{name}.stored"));
        let numbers = self.node("Sub", &[&wide, &offset], &format!("{name}.apart"), &[]);
        let mut dims = outer.to_vec();
        dims.push(I4_BLOCK as i64);
        let spelt: Vec<String> = dims.iter().map(i64::to_string).collect();
        let dims = self.ints(&format!("blocks_{}", spelt.join("x")), &dims);
        self.node("Reshape", &[&numbers, &dims], &format!("{name}.numbers"), &[])
    }

    /// f32 steps of an int4 weight's blocks, multiplier times scale, all in one dimension.
    fn block_steps(&mut self, weight: &str, layout: PanelLayout) -> String {
        let name = format!("{weight}.steps");
        if self.made.insert(name.clone(), String::new()).is_some() {
            return name;
        }
        let mult = self.cast(&Part::Multipliers.of(weight), DataType::F32, &format!("{weight}.multf"));
        let axes = self.ints("mask_axes", &[1, 2]);
        let scales = self.node("Unsqueeze", &[&scale(weight), &axes], &format!("{weight}.scales3"), &[]);
        let both = self.node("Mul", &[&mult, &scales], &format!("{weight}.blocks"), &[]);
        let count = (layout.out * layout.blocks()) as i64;
        let dims = self.ints(&format!("dims_{count}"), &[count]);
        self.node("Reshape", &[&both, &dims], &name, &[])
    }

    /// `x · Wᵀ` of an int4 weight by MatMulNBits, in f32.
    pub(super) fn matmul_nbits(&mut self, x: &str, weight: &str, out: &str) -> String {
        let layout = self.layout(weight);
        let steps = self.block_steps(weight, layout);
        let attributes = [
            Attr::Int("K", layout.inp as i64),
            Attr::Int("N", layout.out as i64),
            Attr::Int("bits", 4),
            Attr::Int("block_size", I4_BLOCK as i64),
            Attr::Int("accuracy_level", F32_INPUTS),
        ];
        self.microsoft("MatMulNBits", &[x, weight, &steps], out, &attributes)
    }

    /// Rows `ids` of an int4 table by GatherBlockQuantized, in f32. That operator gives zeros for an id that is none of the table's;
    /// the scales are looked up by Gather, which refuses it.
    pub(super) fn gather_int4(&mut self, table: &str, ids: &str) -> String {
        let layout = self.layout(table);
        let (rows, bytes) = (layout.out as i64, layout.padded_in() as i64 / 2);
        let dims = self.ints(&format!("dims_{rows}x{bytes}"), &[rows, bytes]);
        let flat = self.node("Reshape", &[table, &dims], &format!("{table}.bytes"), &[]);
        let mult = self.cast(&Part::Multipliers.of(table), DataType::F32, &format!("{table}.mult1"));
        let blocks = layout.blocks() as i64;
        let dims = self.ints(&format!("dims_{rows}x{blocks}"), &[rows, blocks]);
        let steps = self.node("Reshape", &[&mult, &dims], &format!("{table}.steps2"), &[]);
        let attributes = [
            Attr::Int("bits", 4),
            Attr::Int("block_size", I4_BLOCK as i64),
            Attr::Int("gather_axis", 0),
            Attr::Int("quantize_axis", 1),
        ];
        let picked = self.microsoft(
            "GatherBlockQuantized",
            &[&flat, ids, &steps],
            &format!("{table}.picked"),
            &attributes,
        );
        let mut picked = picked;
        if layout.inp != layout.padded_in() {
            let (zero, axis) = (self.ints("zero", &[0]), self.ints("last", &[-1]));
            let end = self.ints(&format!("cols_{}", layout.inp), &[layout.inp as i64]);
            picked = self.node("Slice", &[&picked, &zero, &end, &axis], &format!("{table}.cut"), &[]);
        }
        let scales = self.pick(table, Part::Scales, ids);
        let axis = self.ints("last", &[-1]);
        let scales = self.node("Unsqueeze", &[&scales, &axis], &format!("{table}.scales"), &[]);
        self.node("Mul", &[&picked, &scales], &format!("{table}.values"), &[])
    }
}
