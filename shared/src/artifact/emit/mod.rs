//! ModelSpec → ONNX nodes: the statement, in standard operators, of exactly the arithmetic the device performs. Weights are
//! undone from their panels once (`Transpose`, `Reshape`) and shared by all layers; int8 linears quantize their input per
//! token, multiply in int8 and rescale. In: a [`ModelSpec`]; out: nodes, small constants and ports, deterministic.

mod attention;
mod linear;
mod rows;
mod steps;

use crate::artifact::layout::PanelLayout;
use crate::artifact::tensors::Part;
use crate::dtype::Storage;
use crate::model::network::{Extent, Network, Output};
use crate::model::{Activation, Config, ModelSpec, Role};
use crate::onnx::writer::{Attr, Constant, DataType, Dim, MICROSOFT, Node, Port};
use std::collections::{BTreeSet, HashMap};

pub use crate::artifact::runtime::{Order, Runtime};

/// Operator set versions the lowering can state itself in.
pub const OPSETS: std::ops::RangeInclusive<i64> = 13..=18;

/// What is free to choose in how a network is stated in ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowerOptions {
    /// Operator set, one of [`OPSETS`].
    pub opset: i64,
    /// A fixed sequence length, or symbolic.
    pub seq: Option<usize>,
    /// What the file is for.
    pub runtime: Runtime,
}

impl Default for LowerOptions {
    fn default() -> Self {
        LowerOptions {
            opset: 17,
            seq: None,
            runtime: Runtime::Board,
        }
    }
}

/// A network as ONNX states it; the weights' initializers are not among it.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// In topological order.
    pub nodes: Vec<Node>,
    /// Small initializers that no weight stands behind: shapes, scalars, axes.
    pub constants: Vec<Constant>,
    /// `input_ids` and the model's other inputs.
    pub inputs: Vec<Port>,
    /// In the order of the head's outputs.
    pub outputs: Vec<Port>,
}

/// States `graph` in ONNX. The initializers named after weights (and `NAME.scale`) are the caller's to provide.
pub fn lower(graph: &ModelSpec, options: LowerOptions) -> Lowered {
    let mut l = Lowering {
        graph,
        config: &graph.config,
        options,
        nodes: vec![],
        constants: vec![],
        made: HashMap::new(),
        used: BTreeSet::new(),
        shapes: graph.config.weights().into_iter().map(|w| (w.name, w.shape)).collect(),
    };
    let mut network = Network::of(&graph.config);
    if options.runtime.order() == Order::Rows {
        network.give_hidden_states(&graph.config);
    }
    let outputs = l.network(&network);
    let inputs = l.input_ports();
    Lowered {
        nodes: l.nodes,
        constants: l.constants,
        inputs,
        outputs,
    }
}

struct Lowering<'g> {
    graph: &'g ModelSpec,
    config: &'g Config,
    options: LowerOptions,
    nodes: Vec<Node>,
    constants: Vec<Constant>,
    /// What has been emitted already: a weight's plain form, a value's quantized form.
    made: HashMap<String, String>,
    used: BTreeSet<String>,
    shapes: HashMap<String, Vec<usize>>,
}

impl Lowering<'_> {
    fn node(&mut self, op: &'static str, inputs: &[&str], out: &str, attributes: &[Attr]) -> String {
        self.node_of("", op, inputs, &[out], attributes);
        out.to_string()
    }

    /// A node of ONNX Runtime's own operators.
    fn microsoft(&mut self, op: &'static str, inputs: &[&str], out: &str, attributes: &[Attr]) -> String {
        self.node_of(MICROSOFT, op, inputs, &[out], attributes);
        out.to_string()
    }

    fn node_of(
        &mut self,
        domain: &'static str,
        op: &'static str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[Attr],
    ) {
        let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        self.nodes.push(Node {
            op,
            domain,
            inputs: names(inputs),
            outputs: names(outputs),
            attributes: attributes.to_vec(),
        });
    }

    fn constant(&mut self, name: &str, data_type: DataType, dims: &[usize], data: Vec<u8>) -> String {
        if self.used.insert(name.to_string()) {
            self.constants.push(Constant {
                name: name.to_string(),
                data_type,
                dims: dims.to_vec(),
                data,
            });
        }
        name.to_string()
    }

    /// A scalar f32 constant, named by what it is for.
    fn float(&mut self, name: &str, value: f32) -> String {
        self.constant(name, DataType::F32, &[], value.to_le_bytes().to_vec())
    }

    /// A 1-D i64 constant.
    fn ints(&mut self, name: &str, values: &[i64]) -> String {
        self.constant(
            name,
            DataType::I64,
            &[values.len()],
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    fn int(&mut self, name: &str, value: i64) -> String {
        self.constant(name, DataType::I64, &[], value.to_le_bytes().to_vec())
    }

    fn input_ports(&self) -> Vec<Port> {
        let seq = self.options.seq.map_or(Dim::Symbol("seq"), Dim::Fixed);
        let dims = if self.config.head.takes_choices() {
            vec![Dim::Symbol("batch"), Dim::Symbol("choices"), seq]
        } else {
            vec![Dim::Symbol("batch"), seq]
        };
        ["input_ids", "attention_mask", "token_type_ids"]
            .map(|name| Port {
                name,
                data_type: DataType::I64,
                dims: dims.clone(),
            })
            .into()
    }

    /// An output as others see it.
    fn output_port(&self, output: &Output) -> Port {
        let (batch, seq) = (
            Dim::Symbol("batch"),
            self.options.seq.map_or(Dim::Symbol("seq"), Dim::Fixed),
        );
        let dims = match output.extent {
            Extent::Tokens(width) => vec![batch, seq, Dim::Fixed(width)],
            Extent::Token => vec![batch, seq],
            Extent::Row(width) => vec![batch, Dim::Fixed(width)],
            Extent::Choice => vec![batch, Dim::Symbol("choices")],
        };
        Port {
            name: output.name,
            data_type: DataType::F32,
            dims,
        }
    }

    /// Names of ids, mask and types as `[rows, seq]`.
    fn inputs(&mut self) -> (String, String, String) {
        if !self.config.head.takes_choices() {
            return ("input_ids".into(), "attention_mask".into(), "token_type_ids".into());
        }
        let shape = match self.options.seq {
            Some(seq) => self.ints("rows_shape", &[-1, seq as i64]),
            None => {
                let last = self.ints("last_dim", &[2]);
                let all = self.node("Shape", &["input_ids"], "choice_dims", &[]);
                let seq = self.node("Gather", &[&all, &last], "choice_seq", &[Attr::Int("axis", 0)]);
                let minus = self.ints("any", &[-1]);
                self.node("Concat", &[&minus, &seq], "rows_shape", &[Attr::Int("axis", 0)])
            }
        };
        let mut flat = |name: &str, out: &str| self.node("Reshape", &[name, &shape], out, &[]);
        (
            flat("input_ids", "ids"),
            flat("attention_mask", "mask"),
            flat("token_type_ids", "types"),
        )
    }

    /// Rows of a table by index, in f32.
    fn lookup(&mut self, role: Role, ids: &str) -> String {
        let table = role.name();
        let int4 = self.graph.format(table).storage() == Storage::I4;
        if int4 && self.options.runtime.is_onnxruntime() {
            return self.gather_int4(table, ids);
        }
        if role == Role::Word && self.config.tied_decoder {
            // The decoder's panels give [embedding, vocab]: a row of the table is a column here.
            let columns = self.stored_matrix(table);
            let picked = self.node("Gather", &[&columns, ids], "word.picked", &[Attr::Int("axis", 1)]);
            let perm = [Attr::Ints("perm", vec![1, 2, 0])];
            let rows = self.node("Transpose", &[&picked], "word.rows", &perm);
            // int4 has become the int8 it stands for.
            let storage = match self.graph.format(table).storage() {
                Storage::F32 => Storage::F32,
                Storage::F16 => Storage::F16,
                Storage::I8 | Storage::I4 => Storage::I8,
            };
            return self.widen(table, storage, &rows, 3, |l, part| l.pick(table, part, ids));
        }
        let rows = self.pick(table, Part::Numbers, ids);
        let storage = self.graph.format(table).storage();
        self.widen(table, storage, &rows, 3, |l, part| l.pick(table, part, ids))
    }

    /// One part of the rows `ids` of a table.
    fn pick(&mut self, table: &str, part: Part, ids: &str) -> String {
        self.node(
            "Gather",
            &[&part.of(table), ids],
            &format!("{}.rows", part.of(table)),
            &[Attr::Int("axis", 0)],
        )
    }

    /// The first `seq` rows of the position table, in f32.
    fn positions(&mut self, ids: &str) -> String {
        let zero = self.ints("zero", &[0]);
        let seq = match self.options.seq {
            Some(seq) => self.ints("seq", &[seq as i64]),
            None => {
                let dims = self.node("Shape", &[ids], "dims", &[]);
                let one = self.ints("one", &[1]);
                self.node("Gather", &[&dims, &one], "seq", &[Attr::Int("axis", 0)])
            }
        };
        let table = Role::Position.name();
        let first = |l: &mut Self, part: Part| {
            let stored = part.of(table);
            l.node("Slice", &[&stored, &zero, &seq, &zero], &format!("{stored}.rows"), &[])
        };
        let rows = first(self, Part::Numbers);
        self.widen(table, self.graph.format(table).storage(), &rows, 2, first)
    }

    /// f32 from stored table rows of `rank` dimensions; `part` emits the same rows of another part of the table.
    fn widen(
        &mut self,
        table: &str,
        storage: Storage,
        rows: &str,
        rank: usize,
        part: impl Fn(&mut Self, Part) -> String,
    ) -> String {
        let wide = match storage {
            Storage::F32 => return rows.to_string(),
            Storage::F16 => return self.cast(rows, DataType::F32, &format!("{table}.f32")),
            Storage::I8 => self.cast(rows, DataType::F32, &format!("{table}.f32")),
            Storage::I4 => {
                // [.., block, 16] bytes become [.., block, 32] numbers, then rows again.
                let numbers = match self.options.runtime.order() {
                    Order::Panels => self.int4_numbers(table, rows, -1),
                    Order::Rows => {
                        let mut outer = vec![0; rank];
                        outer[rank - 1] = -1;
                        self.paired_numbers(table, rows, &outer)
                    }
                };
                let multipliers = part(self, Part::Multipliers);
                let multipliers = self.cast(&multipliers, DataType::I32, &format!("{table}.mult32"));
                let whole = self.node("Mul", &[&numbers, &multipliers], &format!("{table}.whole"), &[]);
                let wide = self.cast(&whole, DataType::F32, &format!("{table}.f32"));
                let (cols, padded) = {
                    let shape = &self.shapes[table];
                    let layout = PanelLayout::new(storage, shape[0], shape[1]);
                    (layout.inp as i64, layout.padded_in() as i64)
                };
                let mut dims = vec![0; rank - 1];
                dims.push(padded);
                let dims = self.ints(&format!("row{rank}_{padded}"), &dims);
                let flat = self.node("Reshape", &[&wide, &dims], &format!("{table}.flat"), &[]);
                if cols == padded {
                    flat
                } else {
                    let (zero, axis) = (self.ints("zero", &[0]), self.ints("last", &[-1]));
                    let end = self.ints(&format!("cols_{cols}"), &[cols]);
                    self.node("Slice", &[&flat, &zero, &end, &axis], &format!("{table}.cut"), &[])
                }
            }
        };
        let scale = part(self, Part::Scales);
        let axis = self.ints("last", &[-1]);
        let scale = self.node("Unsqueeze", &[&scale, &axis], &format!("{table}.scales"), &[]);
        self.node("Mul", &[&wide, &scale], &format!("{table}.values"), &[])
    }

    /// How a weight's numbers lie.
    fn layout(&self, weight: &str) -> PanelLayout {
        // The lowering names only weights of the config's own table.
        let shape = &self.shapes[weight];
        PanelLayout::new(self.graph.format(weight).storage(), shape[0], shape[1])
    }

    fn cast(&mut self, x: &str, to: DataType, out: &str) -> String {
        self.node("Cast", &[x], out, &[Attr::Int("to", to.code())])
    }

    /// Additive attention mask `[rows, 1, 1, seq]`: 0 where the mask is 1, the least f32 where it is 0. ONNX Runtime's attention
    /// takes the mask itself, as int32; `weighs` says whether a head pools by the mask as f32.
    fn mask(&mut self, mask: &str, weighs: bool) -> String {
        if self.options.runtime.is_onnxruntime() {
            if weighs {
                self.mask_as_floats(mask);
            }
            return self.cast(mask, DataType::I32, "mask.keys");
        }
        // Constants lie in the file in the order they are first named.
        self.float("one_f", 1.0);
        let least = self.float("least", f32::MIN);
        let axes = self.ints("mask_axes", &[1, 2]);
        let padding = self.mask_as_floats(mask);
        let bias = self.node("Mul", &[&padding, &least], "mask.bias", &[]);
        self.node("Unsqueeze", &[&bias, &axes], "mask.scores", &[])
    }

    /// The mask as f32, and what is left to one.
    fn mask_as_floats(&mut self, mask: &str) -> String {
        let one = self.float("one_f", 1.0);
        let real = self.cast(mask, DataType::F32, "mask.real");
        self.node("Sub", &[&one, &real], "mask.padding", &[])
    }

    /// The LayerNorm of a sum in one node of ONNX Runtime's: its optimizer makes one only where a file declares inner shapes.
    fn skip_layer_norm(&mut self, [x, residual]: [&str; 2], norm: &str, out: &str) -> String {
        let (weight, bias) = (format!("{norm}.weight"), format!("{norm}.bias"));
        let eps = Attr::Float("epsilon", self.config.layer_norm_eps);
        self.microsoft("SkipLayerNormalization", &[x, residual, &weight, &bias], out, &[eps])
    }

    fn layer_norm(&mut self, x: &str, norm: &str, out: &str) -> String {
        let (weight, bias) = (format!("{norm}.weight"), format!("{norm}.bias"));
        let eps = self.config.layer_norm_eps;
        if self.options.opset >= 17 {
            return self.node(
                "LayerNormalization",
                &[x, &weight, &bias],
                out,
                &[Attr::Int("axis", -1), Attr::Float("epsilon", eps)],
            );
        }
        let mean_attrs = [Attr::Ints("axes", vec![-1]), Attr::Int("keepdims", 1)];
        let eps = self.float("eps", eps);
        let mean = self.node("ReduceMean", &[x], &format!("{out}.mean"), &mean_attrs);
        let centered = self.node("Sub", &[x, &mean], &format!("{out}.centred"), &[]);
        let square = self.node("Mul", &[&centered, &centered], &format!("{out}.square"), &[]);
        let variance = self.node("ReduceMean", &[&square], &format!("{out}.var"), &mean_attrs);
        let variance = self.node("Add", &[&variance, &eps], &format!("{out}.vareps"), &[]);
        let deviation = self.node("Sqrt", &[&variance], &format!("{out}.dev"), &[]);
        let normed = self.node("Div", &[&centered, &deviation], &format!("{out}.normed"), &[]);
        let scaled = self.node("Mul", &[&normed, &weight], &format!("{out}.gain"), &[]);
        self.node("Add", &[&scaled, &bias], out, &[])
    }

    fn activate(&mut self, x: &str, activation: Activation, out: &str) -> String {
        if self.options.runtime.is_onnxruntime() {
            match activation {
                Activation::Gelu => return self.microsoft("Gelu", &[x], out, &[]),
                Activation::GeluNew => return self.microsoft("FastGelu", &[x], out, &[]),
                Activation::Relu | Activation::Tanh | Activation::Silu => {}
            }
        }
        match activation {
            Activation::Relu => self.node("Relu", &[x], out, &[]),
            Activation::Tanh => self.node("Tanh", &[x], out, &[]),
            Activation::Silu => {
                let gate = self.node("Sigmoid", &[x], &format!("{out}.gate"), &[]);
                self.node("Mul", &[x, &gate], out, &[])
            }
            Activation::Gelu => {
                let root = self.float("rsqrt2", std::f32::consts::FRAC_1_SQRT_2);
                let y = self.node("Mul", &[x, &root], &format!("{out}.a"), &[]);
                let y = self.node("Erf", &[&y], &format!("{out}.b"), &[]);
                self.half_gate(x, &y, out)
            }
            Activation::GeluNew => {
                let cubic = self.float("cubic", 0.044715);
                let root = self.float("root2pi", (2.0 / std::f64::consts::PI).sqrt() as f32);
                let square = self.node("Mul", &[x, x], &format!("{out}.a"), &[]);
                let cube = self.node("Mul", &[&square, x], &format!("{out}.b"), &[]);
                let y = self.node("Mul", &[&cube, &cubic], &format!("{out}.c"), &[]);
                let y = self.node("Add", &[x, &y], &format!("{out}.d"), &[]);
                let y = self.node("Mul", &[&y, &root], &format!("{out}.e"), &[]);
                let y = self.node("Tanh", &[&y], &format!("{out}.f"), &[]);
                self.half_gate(x, &y, out)
            }
        }
    }

    /// 0.5 · x · (1 + gate).
    fn half_gate(&mut self, x: &str, gate: &str, out: &str) -> String {
        let (one, half) = (self.float("one_f", 1.0), self.float("half", 0.5));
        let y = self.node("Add", &[gate, &one], &format!("{out}.g"), &[]);
        let x = self.node("Mul", &[x, &half], &format!("{out}.h"), &[]);
        self.node("Mul", &[&x, &y], out, &[])
    }
}

/// Name of the initializer that holds a weight's scales.
pub fn scale(weight: &str) -> String {
    Part::Scales.of(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Format;
    use crate::model::config::tests::tiny;
    use crate::model::{AttentionArithmetic, Head};

    #[test]
    fn every_value_is_made_once_and_before_its_use() {
        for head in Head::ALL {
            for format in Format::ALL {
                for options in [
                    LowerOptions::default(),
                    LowerOptions {
                        opset: 13,
                        seq: Some(8),
                        runtime: Runtime::Board,
                    },
                    LowerOptions {
                        opset: 18,
                        ..LowerOptions::default()
                    },
                    LowerOptions {
                        runtime: Runtime::OnnxRuntime,
                        ..LowerOptions::default()
                    },
                    LowerOptions {
                        opset: 13,
                        seq: Some(8),
                        runtime: Runtime::Onnx,
                    },
                ] {
                    for attention in AttentionArithmetic::ALL {
                        if attention == AttentionArithmetic::F32 || options.runtime == Runtime::Board {
                            check_values(head, format, attention, options);
                        }
                    }
                }
            }
        }
    }

    /// Values are read after they are made, and made once.
    fn check_values(head: Head, format: Format, attention: AttentionArithmetic, options: LowerOptions) {
        let config = Config {
            hidden_shift: head.row().gives_hidden && options.seq.is_some(),
            attention,
            ..tiny(head)
        };
        let graph = ModelSpec::uniform(config, format);
        let lowered = lower(&graph, options);
        let mut known: BTreeSet<String> = lowered.constants.iter().map(|c| c.name.clone()).collect();
        known.extend(lowered.inputs.iter().map(|p| p.name.to_string()));
        for weight in graph.config.weights() {
            known.extend(Part::ALL.map(|part| part.of(&weight.name)));
        }
        for node in &lowered.nodes {
            for input in node.inputs.iter().filter(|name| !name.is_empty()) {
                assert!(
                    known.contains(input),
                    "{head:?} {format}: {} reads {input} before it is made",
                    node.outputs[0]
                );
            }
            for output in &node.outputs {
                assert!(
                    known.insert(output.clone()),
                    "{head:?} {format}: {output} is made twice"
                );
            }
        }
        for port in &lowered.outputs {
            assert!(known.contains(port.name), "{head:?} {format}: output {}", port.name);
        }
    }
}
