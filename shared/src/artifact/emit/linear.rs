//! Linear maps: weights undone from their panels once, int8 inputs quantized once per value, products in the weight's format.

use super::{Lowering, Order, scale};
use crate::artifact::layout::{I4_OFFSET, PanelLayout};
use crate::artifact::tensors::Part;
use crate::dtype::{ACTIVATION_FLOOR, I8_MAX, InputRange, Inputs, Storage};
use crate::onnx::writer::{Attr, DataType};

impl Lowering<'_> {
    /// `x · Wᵀ + b` in the weight's format.
    pub(super) fn linear(&mut self, x: &str, weight: &str, bias: &str, out: &str) -> String {
        let format = self.graph.format(weight);
        let inputs = format.row().inputs;
        if inputs == Inputs::Float && format.storage() == Storage::I4 && self.options.runtime.is_onnxruntime() {
            let product = self.matmul_nbits(x, weight, &format!("{out}.mm"));
            return self.node("Add", &[&product, bias], out, &[]);
        }
        let w = self.weight_matrix(weight);
        let product = match inputs {
            Inputs::Float if !format.has_scales() => self.node("MatMul", &[x, &w], &format!("{out}.mm"), &[]),
            Inputs::Float => {
                let raw = self.node("MatMul", &[x, &w], &format!("{out}.raw"), &[]);
                self.node("Mul", &[&raw, &scale(weight)], &format!("{out}.mm"), &[])
            }
            Inputs::Int8(InputRange::Symmetric) => {
                let (q, step) = self.quantize(x);
                self.int8_product([&q, &step], weight, &w, [out, "mm"])
            }
            Inputs::Int8(InputRange::Centered) => {
                let (q, step, middle) = self.quantize_centered(x);
                let product = self.int8_product([&q, &step], weight, &w, [out, "dot"]);
                let sums = self.row_sums(weight, &w);
                let base = self.node("Mul", &[&middle, &sums], &format!("{out}.base"), &[]);
                self.node("Add", &[&product, &base], &format!("{out}.mm"), &[])
            }
            Inputs::Int8(InputRange::Tensor) => {
                // In the order in which ONNX Runtime's own quantizer states it, and its optimizer fuses it.
                let [q, step, zero] = self.quantize_tensor(x);
                let acc = self.node("MatMulInteger", &[&q, &w, &zero], &format!("{out}.acc"), &[]);
                let acc = self.cast(&acc, DataType::F32, &format!("{out}.accf"));
                let steps = self.node("Mul", &[&step, &scale(weight)], &format!("{out}.steps"), &[]);
                self.node("Mul", &[&acc, &steps], &format!("{out}.mm"), &[])
            }
        };
        self.node("Add", &[&product, bias], out, &[])
    }

    /// int8 values times the int8 matrix `w`, rescaled by both steps, as `{out}.{name}`.
    fn int8_product(&mut self, [q, step]: [&str; 2], weight: &str, w: &str, [out, name]: [&str; 2]) -> String {
        let acc = self.node("MatMulInteger", &[q, w], &format!("{out}.acc"), &[]);
        let acc = self.cast(&acc, DataType::F32, &format!("{out}.accf"));
        let scaled = self.node("Mul", &[&acc, step], &format!("{out}.tok"), &[]);
        self.node("Mul", &[&scaled, &scale(weight)], &format!("{out}.{name}"), &[])
    }

    /// What an input of all ones gives, `[out]`: each row's sum, an exact integer, times its scale. `w` is the int8 matrix.
    fn row_sums(&mut self, weight: &str, w: &str) -> String {
        let name = format!("{weight}.rowsum");
        if self.made.insert(name.clone(), String::new()).is_none() {
            let zero = self.ints("zero", &[0]);
            let wide = self.cast(w, DataType::F32, &format!("{weight}.w32"));
            let keep = [Attr::Int("keepdims", 0)];
            let whole = self.node("ReduceSum", &[&wide, &zero], &format!("{weight}.whole"), &keep);
            self.node("Mul", &[&whole, &scale(weight)], &name, &[]);
        }
        name
    }

    /// A reduction of the last axis that keeps it, as 1.
    pub(super) fn reduce(&mut self, op: &'static str, x: &str, out: &str) -> String {
        let keep = Attr::Int("keepdims", 1);
        if self.options.opset >= 18 {
            let axes = self.ints("last", &[-1]);
            self.node(op, &[x, &axes], out, &[keep])
        } else {
            self.node(op, &[x], out, &[Attr::Ints("axes", vec![-1]), keep])
        }
    }

    /// int8 values of `x` and their step per token: a = max|x| raised to a floor, q = round(x · 127/a), step = a/127.
    pub(super) fn quantize(&mut self, x: &str) -> (String, String) {
        if let Some(made) = self.quantized(x) {
            return made;
        }
        // Constants lie in the file in the order they are first named.
        self.float("top", I8_MAX);
        let floor = self.float("floor", ACTIVATION_FLOOR);
        let abs = self.node("Abs", &[x], &format!("{x}.abs"), &[]);
        let max = self.reduce("ReduceMax", &abs, &format!("{x}.max"));
        let max = self.node("Max", &[&max, &floor], &format!("{x}.amax"), &[]);
        self.round(x, &max)
    }

    /// The same of `x − c`, and c, the middle of the token's range: c = (max x + min x) · 0.5, a = max(max x − c, c − min x).
    /// Rounding keeps the order of `x − c`, so no magnitude exceeds a, and no int8 leaves ±127, however c was rounded.
    fn quantize_centered(&mut self, x: &str) -> (String, String, String) {
        let (offset, middle) = (format!("{x}.o"), format!("{x}.mid"));
        if let Some((q, step)) = self.quantized(&offset) {
            return (q, step, middle);
        }
        let half = self.float("half", 0.5);
        let floor = self.float("floor", ACTIVATION_FLOOR);
        let most = self.reduce("ReduceMax", x, &format!("{x}.hi"));
        let least = self.reduce("ReduceMin", x, &format!("{x}.lo"));
        let ends = self.node("Add", &[&most, &least], &format!("{x}.ends"), &[]);
        self.node("Mul", &[&ends, &half], &middle, &[]);
        let above = self.node("Sub", &[&most, &middle], &format!("{x}.above"), &[]);
        let below = self.node("Sub", &[&middle, &least], &format!("{x}.below"), &[]);
        let max = self.node("Max", &[&above, &below, &floor], &format!("{offset}.amax"), &[]);
        self.node("Sub", &[x, &middle], &offset, &[]);
        let (q, step) = self.round(&offset, &max);
        (q, step, middle)
    }

    /// uint8 values of `x`, their step and their zero point, one for the whole tensor.
    fn quantize_tensor(&mut self, x: &str) -> [String; 3] {
        let [q, step, zero] = ["u8", "ustep", "uzero"].map(|part| format!("{x}.{part}"));
        if self.made.insert(q.clone(), String::new()).is_none() {
            self.node_of("", "DynamicQuantizeLinear", &[x], &[&q, &step, &zero], &[]);
        }
        [q, step, zero]
    }

    /// The int8 values and steps of `x`, where they have been stated.
    fn quantized(&self, x: &str) -> Option<(String, String)> {
        let q = format!("{x}.q8");
        self.made.get(&q).map(|step| (q.clone(), step.clone()))
    }

    /// int8 values and steps of `x`, no magnitude of which exceeds `max`.
    pub(super) fn round(&mut self, x: &str, max: &str) -> (String, String) {
        let (q, step) = (format!("{x}.q8"), format!("{x}.step"));
        self.made.insert(q.clone(), step.clone());
        let top = self.float("top", I8_MAX);
        let inverse = self.node("Div", &[&top, max], &format!("{x}.inv"), &[]);
        let wide = self.node("Mul", &[x, &inverse], &format!("{x}.wide"), &[]);
        let whole = self.node("Round", &[&wide], &format!("{x}.round"), &[]);
        self.cast(&whole, DataType::I8, &q);
        self.node("Div", &[max, &top], &step, &[]);
        (q, step)
    }

    /// `[in, out]` as the multiplication takes it, undone from its panels once however often it is used.
    fn weight_matrix(&mut self, weight: &str) -> String {
        let stored = self.stored_matrix(weight);
        let format = self.graph.format(weight);
        if format.storage() == Storage::F32 || format.quantizes_input() {
            return stored;
        }
        let name = format!("{weight}.w32");
        if self.made.insert(name.clone(), String::new()).is_none() {
            self.cast(&stored, DataType::F32, &name);
        }
        name
    }

    /// `[in, out]` in the stored element type; int4 as the int8 it stands for.
    pub(super) fn stored_matrix(&mut self, weight: &str) -> String {
        if self.options.runtime.order() == Order::Rows {
            return self.row_matrix(weight);
        }
        let name = format!("{weight}.w");
        if self.made.insert(name.clone(), String::new()).is_some() {
            return name;
        }
        let layout = self.layout(weight);
        let (panels, perm) = match layout.storage {
            Storage::F32 | Storage::F16 => (weight.to_string(), vec![1, 0, 2]),
            Storage::I8 => (weight.to_string(), vec![1, 3, 0, 2]),
            Storage::I4 => (self.int8_panels(weight, layout), vec![1, 3, 0, 2]),
        };
        let (k, n) = (layout.padded_in() as i64, layout.padded_out() as i64);
        let padded = (k, n) != (layout.inp as i64, layout.out as i64);
        let t = self.node(
            "Transpose",
            &[&panels],
            &format!("{weight}.t"),
            &[Attr::Ints("perm", perm)],
        );
        let dims = self.ints(&format!("dims_{k}x{n}"), &[k, n]);
        let whole = self.node(
            "Reshape",
            &[&t, &dims],
            &if padded { format!("{weight}.p") } else { name.clone() },
            &[],
        );
        if padded {
            let zeros = self.ints("zeros2", &[0, 0]);
            let (inp, out) = (layout.inp as i64, layout.out as i64);
            let ends = self.ints(&format!("dims_{inp}x{out}"), &[inp, out]);
            let axes = self.ints("axes2", &[0, 1]);
            self.node("Slice", &[&whole, &zeros, &ends, &axes], &name, &[]);
        }
        name
    }

    /// int8 panels from int4 ones: both halves of each byte, times their block's multiplier.
    fn int8_panels(&mut self, weight: &str, layout: PanelLayout) -> String {
        let numbers = self.int4_numbers(weight, weight, 2);
        let multipliers = self.cast(
            &Part::Multipliers.of(weight),
            DataType::I32,
            &format!("{weight}.mult32"),
        );
        let whole = self.node("Mul", &[&numbers, &multipliers], &format!("{weight}.whole"), &[]);
        let narrow = self.cast(&whole, DataType::I8, &format!("{weight}.q8"));
        let dims: Vec<i64> = layout.expanded().dims().iter().map(|&d| d as i64).collect();
        let dims = self.ints(&format!("{weight}.dims8"), &dims);
        self.node("Reshape", &[&narrow, &dims], &format!("{weight}.panels8"), &[])
    }

    /// int4 numbers as int32, the low halves of `bytes` before the high ones along `axis`; `name` is the weight's.
    pub(super) fn int4_numbers(&mut self, name: &str, bytes: &str, axis: i64) -> String {
        let sixteen = self.constant("sixteen", DataType::U8, &[], vec![16]);
        let four = self.constant("four", DataType::U8, &[], vec![4]);
        let offset = i32::from(I4_OFFSET).to_le_bytes().to_vec();
        let offset = self.constant("offset4", DataType::I32, &[], offset);
        let low = self.node("Mod", &[bytes, &sixteen], &format!("{name}.low"), &[]);
        let right = [Attr::Text("direction", "RIGHT")];
        let high = self.node("BitShift", &[bytes, &four], &format!("{name}.high"), &right);
        let axis = [Attr::Int("axis", axis)];
        let halves = self.node("Concat", &[&low, &high], &format!("{name}.halves"), &axis);
        let wide = self.cast(&halves, DataType::I32, &format!("{name}.stored"));
        self.node("Sub", &[&wide, &offset], &format!("{name}.numbers"), &[])
    }
}
