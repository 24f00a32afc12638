//! Linear maps: weights undone from their panels once, int8 inputs quantised once per value, products in the weight's format.

use super::{Lowering, scale};
use crate::number::{ACTIVATION_FLOOR, Format, I8_MAX};
use crate::onnx_write::{Attr, DataType};
use crate::panel::PanelLayout;

impl Lowering<'_> {
    /// `x · Wᵀ + b` in the weight's format.
    pub(super) fn linear(&mut self, x: &str, weight: &str, out: &str) -> String {
        self.linear_with(x, weight, &format!("{weight}.bias"), out)
    }

    pub(super) fn linear_with(&mut self, x: &str, weight: &str, bias: &str, out: &str) -> String {
        let product = match self.graph.format(weight) {
            Format::F32 | Format::F16 => {
                let w = self.weight_matrix(weight);
                self.node("MatMul", &[x, &w], &format!("{out}.mm"), &[])
            }
            Format::I8 => {
                let w = self.weight_matrix(weight);
                let (q, step) = self.quantise(x);
                let acc = self.node("MatMulInteger", &[&q, &w], &format!("{out}.acc"), &[]);
                let acc = self.cast(&acc, DataType::F32, &format!("{out}.accf"));
                let scaled = self.node("Mul", &[&acc, &step], &format!("{out}.tok"), &[]);
                self.node("Mul", &[&scaled, &scale(weight)], &format!("{out}.mm"), &[])
            }
        };
        self.node("Add", &[&product, bias], out, &[])
    }

    /// int8 values of `x` and their step per token: a = max|x| raised to a floor, q = round(x · 127/a), step = a/127.
    fn quantise(&mut self, x: &str) -> (String, String) {
        let (q, step) = (format!("{x}.q8"), format!("{x}.step"));
        if self.made.insert(q.clone(), step.clone()).is_some() {
            return (q, step);
        }
        let top = self.float("top", I8_MAX);
        let floor = self.float("floor", ACTIVATION_FLOOR);
        let abs = self.node("Abs", &[x], &format!("{x}.abs"), &[]);
        let max = if self.options.opset >= 18 {
            let axes = self.ints("last", &[-1]);
            self.node(
                "ReduceMax",
                &[&abs, &axes],
                &format!("{x}.max"),
                &[Attr::Int("keepdims", 1)],
            )
        } else {
            self.node(
                "ReduceMax",
                &[&abs],
                &format!("{x}.max"),
                &[Attr::Ints("axes", vec![-1]), Attr::Int("keepdims", 1)],
            )
        };
        let max = self.node("Max", &[&max, &floor], &format!("{x}.amax"), &[]);
        let inverse = self.node("Div", &[&top, &max], &format!("{x}.inv"), &[]);
        let wide = self.node("Mul", &[x, &inverse], &format!("{x}.wide"), &[]);
        let whole = self.node("Round", &[&wide], &format!("{x}.round"), &[]);
        self.cast(&whole, DataType::I8, &q);
        self.node("Div", &[&max, &top], &step, &[]);
        (q, step)
    }

    /// `[in, out]` as the multiplication takes it, undone from its panels once however often it is used.
    fn weight_matrix(&mut self, weight: &str) -> String {
        let stored = self.stored_matrix(weight);
        if self.graph.format(weight) != Format::F16 {
            return stored;
        }
        let name = format!("{weight}.w32");
        if self.made.insert(name.clone(), String::new()).is_none() {
            self.cast(&stored, DataType::F32, &name);
        }
        name
    }

    /// `[in, out]` in the stored element type.
    pub(super) fn stored_matrix(&mut self, weight: &str) -> String {
        let name = format!("{weight}.w");
        if self.made.insert(name.clone(), String::new()).is_some() {
            return name;
        }
        // The lowering names only weights of the config's own table.
        let shape = &self.shapes[weight];
        let layout = PanelLayout::new(self.graph.format(weight), shape[0], shape[1]);
        let perm = match layout.format {
            Format::I8 => vec![1, 3, 0, 2],
            Format::F32 | Format::F16 => vec![1, 0, 2],
        };
        let (k, n) = (layout.padded_in() as i64, layout.padded_out() as i64);
        let padded = (k, n) != (layout.inp as i64, layout.out as i64);
        let t = self.node(
            "Transpose",
            &[weight],
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
}
