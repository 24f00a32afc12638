//! The steps of the network, each as the ONNX nodes that state it.

use super::Lowering;
use crate::model::network::{HIDDEN, Network, OUT, Op, Residual, Step, Value};
use crate::model::sentence::{LEAST_COUNT, LEAST_LENGTH, LEAST_TOKEN, Pooling};
use crate::model::{Role, Site};
use crate::onnx::writer::{Attr, Port};

/// A part of the network as it is stated: names outside for the values inside.
pub(super) struct Scope<'a> {
    /// What values are named after; none in the embedding and the head, whose values keep their names.
    layer: Option<&'a str>,
    site: Option<Site>,
    /// Token ids and types, where the part reads them.
    tokens: [&'a str; 2],
    /// What the part starts from.
    hidden: &'a str,
    pub(super) mask: &'a str,
    /// What the part's result is called.
    out: &'a str,
}

impl Scope<'_> {
    pub(super) fn name(&self, value: Value) -> String {
        match (self.layer, value) {
            (_, HIDDEN) => self.hidden.to_string(),
            (_, OUT) => self.out.to_string(),
            (Some(layer), value) => format!("{layer}.{value}"),
            (None, value) => value.to_string(),
        }
    }

    pub(super) fn weight(&self, role: Role) -> String {
        role.at(self.site)
    }
}

impl Lowering<'_> {
    /// States the network; gives its outputs.
    pub(super) fn network(&mut self, network: &Network) -> Vec<Port> {
        let (ids, mask, types) = self.inputs();
        let mut scope = Scope {
            layer: None,
            site: None,
            tokens: [&ids, &types],
            hidden: HIDDEN,
            mask: "",
            out: "",
        };
        self.steps(&network.embed, &scope);
        let mask = self.mask(&mask, network.head_reads_mask());
        scope.mask = &mask;
        let mut hidden = HIDDEN.to_string();
        let groups = self.config.layer_groups();
        for (index, &group) in groups.iter().enumerate() {
            let layers = &network.groups[group];
            for (inner, layer) in layers.iter().enumerate() {
                let at = match layers.len() {
                    1 => format!("L{index}"),
                    _ => format!("L{index}.{inner}"),
                };
                let last = index + 1 == groups.len() && inner + 1 == layers.len();
                let out = match network.output_of_last_layer() {
                    Some(output) if last => output.to_string(),
                    _ => format!("{at}.out"),
                };
                let scope = Scope {
                    layer: Some(&at),
                    site: Some(layer.site),
                    hidden: &hidden,
                    out: &out,
                    ..scope
                };
                self.steps(&layer.steps, &scope);
                hidden = out;
            }
        }
        let scope = Scope {
            hidden: &hidden,
            ..scope
        };
        self.steps(&network.head, &scope);
        network.outputs.iter().map(|output| self.output_port(output)).collect()
    }

    fn steps(&mut self, steps: &[Step], scope: &Scope) {
        for step in steps {
            self.step(&step.op, scope, &scope.name(step.output));
        }
    }

    fn step(&mut self, op: &Op, scope: &Scope, out: &str) {
        match *op {
            Op::Embed => self.embeddings(scope.tokens, out),
            Op::LayerNorm { norm, input, residual } => {
                let mut input = scope.name(input);
                if let (Some(Residual { of, .. }), true) = (&residual, self.options.runtime.is_onnxruntime()) {
                    self.skip_layer_norm([&input, &scope.name(of)], &scope.weight(norm), out);
                    return;
                }
                if let Some(Residual { of, sum }) = residual {
                    input = self.node("Add", &[&input, &scope.name(of)], &scope.name(sum), &[]);
                }
                self.layer_norm(&input, &scope.weight(norm), out);
            }
            Op::Linear {
                weight,
                bias,
                input,
                activation,
            } => {
                let (weight, bias) = (scope.weight(weight), format!("{}.bias", scope.weight(bias)));
                let input = scope.name(input);
                match activation {
                    None => {
                        self.linear(&input, &weight, &bias, out);
                    }
                    Some((activation, before)) => {
                        let y = self.linear(&input, &weight, &bias, &scope.name(before));
                        self.activate(&y, activation, out);
                    }
                }
            }
            Op::Attention { input } => self.attention(&scope.name(input), scope, out),
            Op::Pool { input, pooling } => self.pool(&scope.name(input), pooling, out),
            Op::Concat { ref inputs } => {
                let inputs: Vec<String> = inputs.iter().map(|input| scope.name(input)).collect();
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                self.node("Concat", &inputs, out, &[Attr::Int("axis", -1)]);
            }
            Op::Normalize { input } => {
                let input = scope.name(input);
                let least = self.float("least_length", LEAST_LENGTH);
                let squares = self.node("Mul", &[&input, &input], &format!("{out}.squares"), &[]);
                let keep = Attr::Int("keepdims", 1);
                let sum = self.sum(&squares, -1, keep, &format!("{out}.sum"));
                let length = self.node("Sqrt", &[&sum], &format!("{out}.length"), &[]);
                let length = self.node("Max", &[&length, &least], &format!("{out}.divisor"), &[]);
                self.node("Div", &[&input, &length], out, &[]);
            }
            Op::Column { input, column } => {
                let name = match column {
                    0 => "first".to_string(),
                    1 => "second".to_string(),
                    _ => format!("column_{column}"),
                };
                let index = self.int(&name, column as i64);
                self.node("Gather", &[&scope.name(input), &index], out, &[Attr::Int("axis", 2)]);
            }
            Op::AddVector { input, vector } => {
                self.node("Add", &[&scope.name(input), &scope.weight(vector)], out, &[]);
            }
            Op::Choices { input } => {
                let (from, to) = (self.ints("zero", &[0]), self.ints("two", &[2]));
                let all = self.node("Shape", &["input_ids"], "question_dims", &[]);
                let dims = self.node("Slice", &[&all, &from, &to, &from], "logits_dims", &[]);
                self.node("Reshape", &[&scope.name(input), &dims], out, &[]);
            }
        }
    }

    /// The tokens `[rows, seq, width]` of each row as one vector `[rows, width]`, by the mask as f32, `mask.real`.
    fn pool(&mut self, x: &str, pooling: Pooling, out: &str) {
        let drop = Attr::Int("keepdims", 0);
        match pooling {
            Pooling::First => {
                let first = self.int("first", 0);
                self.node("Gather", &[x, &first], out, &[Attr::Int("axis", 1)]);
            }
            // What does not count becomes the least number, as in sentence-transformers: x · 1 + 0 is x itself.
            Pooling::Max => {
                let (axis, least) = (self.ints("last", &[-1]), self.float("least_token", LEAST_TOKEN));
                let real = self.node("Unsqueeze", &["mask.real", &axis], &format!("{out}.tokens"), &[]);
                let shown = self.node("Mul", &[x, &real], &format!("{out}.shown"), &[]);
                let padding = self.node("Mul", &["mask.padding", &least], &format!("{out}.padding"), &[]);
                let padding = self.node("Unsqueeze", &[&padding, &axis], &format!("{out}.hidden"), &[]);
                let all = self.node("Add", &[&shown, &padding], &format!("{out}.all"), &[]);
                self.largest(&all, drop, out);
            }
            Pooling::Mean | Pooling::MeanSqrtLen => {
                let count = self.sum("mask.real", 1, Attr::Int("keepdims", 1), &format!("{out}.count"));
                let mean = pooling == Pooling::Mean;
                self.weighed(x, "mask.real", &count, mean, out);
            }
            Pooling::WeightedMean => {
                let weights = self.places(out);
                let sum = self.sum(&weights, 1, Attr::Int("keepdims", 1), &format!("{out}.count"));
                self.weighed(x, &weights, &sum, true, out);
            }
            // The last place is the largest; where no token counts it is 0, which is nobody's.
            Pooling::Last => {
                let (places, axis) = (self.places(out), self.ints("last", &[-1]));
                let last = self.largest(&places, Attr::Int("keepdims", 1), &format!("{out}.place"));
                let apart = self.node("Sub", &[&last, &places], &format!("{out}.apart"), &[]);
                let one = self.float("one_f", 1.0);
                let near = self.node("Min", &[&apart, &one], &format!("{out}.near"), &[]);
                let is_last = self.node("Sub", &[&one, &near], &format!("{out}.is_last"), &[]);
                let weights = self.node("Mul", &["mask.real", &is_last], &format!("{out}.weights"), &[]);
                let weights = self.node("Unsqueeze", &[&weights, &axis], &format!("{out}.tokens"), &[]);
                let shown = self.node("Mul", &[x, &weights], &format!("{out}.shown"), &[]);
                self.sum(&shown, 1, drop, out);
            }
        }
    }

    /// The places of a row's tokens as f32, from 1; 0 for those that do not count.
    fn places(&mut self, out: &str) -> String {
        let axis = self.int("second", 1);
        let ones = self.node("Add", &["mask.real", "mask.padding"], &format!("{out}.ones"), &[]);
        let places = self.node("CumSum", &[&ones, &axis], &format!("{out}.all_places"), &[]);
        self.node("Mul", &["mask.real", &places], &format!("{out}.places"), &[])
    }

    /// The largest along the tokens.
    fn largest(&mut self, x: &str, keep: Attr, out: &str) -> String {
        if self.options.opset >= 18 {
            let axes = self.ints("token_axis", &[1]);
            self.node("ReduceMax", &[x, &axes], out, &[keep])
        } else {
            self.node("ReduceMax", &[x], out, &[Attr::Ints("axes", vec![1]), keep])
        }
    }

    /// Σ weight · token over `count`, or over its square root.
    fn weighed(&mut self, x: &str, weights: &str, count: &str, mean: bool, out: &str) {
        let (axis, least) = (self.ints("last", &[-1]), self.float("least_count", LEAST_COUNT));
        let weights = self.node("Unsqueeze", &[weights, &axis], &format!("{out}.tokens"), &[]);
        let shown = self.node("Mul", &[x, &weights], &format!("{out}.shown"), &[]);
        let sum = self.sum(&shown, 1, Attr::Int("keepdims", 0), &format!("{out}.sum"));
        let mut count = self.node("Max", &[count, &least], &format!("{out}.least"), &[]);
        if !mean {
            count = self.node("Sqrt", &[&count], &format!("{out}.root"), &[]);
        }
        self.node("Div", &[&sum, &count], out, &[]);
    }

    /// The sum over one axis.
    fn sum(&mut self, x: &str, axis: i64, keep: Attr, out: &str) -> String {
        let axes = self.ints(if axis == 1 { "token_axis" } else { "last" }, &[axis]);
        self.node("ReduceSum", &[x, &axes], out, &[keep])
    }

    fn embeddings(&mut self, [ids, types]: [&str; 2], out: &str) {
        let word = self.lookup(Role::Word, ids);
        let kind = self.lookup(Role::TokenType, types);
        let position = self.positions(ids);
        let sum = self.node("Add", &[&word, &kind], "embed.word_type", &[]);
        self.node("Add", &[&sum, &position], out, &[]);
    }
}
