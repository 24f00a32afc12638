//! Puts an encoder of thimble's in the place of the ALBERT in a larger graph: its nodes and weights stand where the last hidden state
//! was made, and what made it before is left to `slim`. In come two ONNX files and the names of the values the ALBERT stands between,
//! out comes one ONNX model.

use crate::models::onnx_import::{MaskForm, Wiring};
use crate::onnx::flow::{Flow, port_name};
use crate::onnx::kinds::Kinds;
use crate::onnx::{OnnxError, OnnxFile, next_field};
use crate::render::text::printable;
use thimble_shared::artifact::emit::OPSETS;
use thimble_shared::model::Config;
use thimble_shared::model::network::HIDDEN_STATES;
use thimble_shared::onnx::protobuf::{Field, Fields, Message, WireError};
use thimble_shared::onnx::reader::{self, ModelView, NodeView, ReadError};
use thimble_shared::onnx::writer::{DataType, MICROSOFT};

/// The first version of ONNX whose stored tensors need not be inputs of the graph as well.
const LEAST_IR: i64 = 4;

/// What the encoder's file reads, by thimble's names.
const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

/// Why an encoder cannot be put into a graph.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum GraftError {
    /// The graph cannot be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The encoder's file cannot be read.
    #[error("the encoder: {0}")]
    Encoder(#[from] ReadError),
    /// The graph's operator set is older than any the encoder can be stated in.
    #[error(
        "{file}: it states operator set {opset}, and an encoder needs at least {}; convert it first (onnx.version_converter)", OPSETS.start()
    )]
    Opset {
        /// The larger graph.
        file: String,
        /// The version of its default operator set.
        opset: i64,
    },
    /// The file's version of ONNX has no room for more tensors.
    #[error(
        "{file}: it is of ONNX IR version {version}, and {LEAST_IR} is the least an encoder can be put into; convert it first"
    )]
    Version {
        /// The larger graph.
        file: String,
        /// Its `ir_version`.
        version: i64,
    },
    /// The encoder gives no hidden states.
    #[error("the encoder has a head ({head}), and the graph reads hidden states; export or shrink it with --head none")]
    NoHiddenStates {
        /// The head, for a person.
        head: &'static str,
    },
    /// The graph's inputs have one dimension more than an encoder's.
    #[error("{file}: its inputs are [batch, choices, seq], and an encoder reads [batch, seq]")]
    Choices {
        /// The larger graph.
        file: String,
    },
    /// What is to be replaced is an input or a stored tensor.
    #[error("{file}: no node of its main graph makes '{value}', where the encoder would stand")]
    NoMaker {
        /// The larger graph.
        file: String,
        /// The value.
        value: String,
    },
    /// The rest of the graph reads more of the ALBERT than its last hidden state.
    #[error(
        "{file}: the rest of the graph reads '{value}' as well, a hidden state within the ALBERT, so that it cannot be taken out"
    )]
    StillRead {
        /// The larger graph.
        file: String,
        /// The first value that is read.
        value: String,
    },
}

/// An error where a model's file does not give the hidden states that a graph around it reads.
///
/// # Errors
/// [`GraftError::NoHiddenStates`].
pub fn gives_hidden_states(config: &Config) -> Result<(), GraftError> {
    match config.head.row().gives_hidden {
        true => Ok(()),
        false => Err(GraftError::NoHiddenStates {
            head: config.head.name(),
        }),
    }
}

/// The operator set an encoder has to be stated in to stand in `graph`.
///
/// # Errors
/// [`GraftError::Opset`] where the graph's own is older than all of them, [`GraftError::Version`] where its format is.
pub fn opset_for(graph: &OnnxFile) -> Result<i64, GraftError> {
    let (view, file) = (graph.view()?, graph.path.display().to_string());
    let version = ir_version(graph.bytes()).map_err(|e| graph.wire_error(e))?;
    if version < LEAST_IR {
        return Err(GraftError::Version { file, version });
    }
    if view.opset < *OPSETS.start() {
        let opset = view.opset;
        return Err(GraftError::Opset { file, opset });
    }
    // What the nodes state is the same in all later sets.
    Ok(view.opset.min(*OPSETS.end()))
}

fn ir_version(model: &[u8]) -> Result<i64, WireError> {
    for field in Fields::new(model) {
        let field = field?;
        if field.number == 1 {
            return field.int();
        }
    }
    Ok(0)
}

/// The domain of an operator set that a model imports.
fn domain<'a>(import: &Field<'a>) -> Result<&'a str, WireError> {
    for field in import.fields()? {
        let field = field?;
        if field.number == 1 {
            return field.text();
        }
    }
    Ok("")
}

/// The larger graph with `encoder`, an ONNX file of thimble's, in the place of the ALBERT that stands between the values of `wiring`.
///
/// # Errors
/// Any [`GraftError`].
pub fn graft(graph: &OnnxFile, wiring: &Wiring, encoder: &[u8]) -> Result<OnnxFile, GraftError> {
    if wiring.choices {
        return Err(GraftError::Choices {
            file: graph.path.display().to_string(),
        });
    }
    let view = graph.view()?;
    let ours = reader::model(encoder)?;
    let wire = |e| GraftError::Onnx(graph.wire_error(e));
    let flow = Flow::of(&view).map_err(wire)?;
    let hidden = wiring.states.last().map_or("", String::as_str);
    let Some(&maker) = flow.maker.get(hidden) else {
        return Err(GraftError::NoMaker {
            file: graph.path.display().to_string(),
            value: printable(hidden),
        });
    };
    let element = Kinds::of(&view, &flow).map_err(wire)?.element(hidden);
    let names = Names::free(graph.bytes());
    let mut made = Message::default();
    let mut nodes = 0;
    let mut placed = false;
    let mut imports = false;
    let bytes = graph.bytes();
    let mut fields = Fields::new(bytes);
    while let Some((field, raw)) = next_field(&mut fields, bytes, 0).map_err(wire)? {
        if field.number != 7 {
            imports |= field.number == 8 && domain(&field).map_err(wire)? == MICROSOFT;
            made.0.extend_from_slice(raw);
            continue;
        }
        let body = field.bytes().map_err(wire)?;
        let mut part = Message::default();
        let mut inner = Fields::new(body);
        while let Some((item, raw)) = next_field(&mut inner, body, 0).map_err(wire)? {
            if item.number == 1 {
                nodes += 1;
                if nodes == maker + 1 {
                    names.wire(wiring, &mut part);
                    names.encoder(&ours, &mut part).map_err(ReadError::Wire)?;
                    names.hidden_states(hidden, element, &mut part);
                    part.message(
                        1,
                        &names.renamed_maker(item.bytes().map_err(wire)?, hidden).map_err(wire)?,
                    );
                    placed = true;
                    continue;
                }
            }
            part.0.extend_from_slice(raw);
        }
        made.message(7, &part);
    }
    debug_assert!(placed, "the maker is one of the main graph's nodes");
    if ours.nodes.iter().any(|node| node.domain == MICROSOFT) && !imports {
        let mut opset = Message::default();
        opset.text(1, MICROSOFT);
        opset.int(2, 1);
        made.message(8, &opset);
    }
    let made = OnnxFile::made(&graph.path, made.0)?;
    still_read(&made, wiring)?;
    Ok(made)
}

/// An error where the outputs still depend on the ALBERT that was replaced.
fn still_read(made: &OnnxFile, wiring: &Wiring) -> Result<(), GraftError> {
    let view = made.view()?;
    let flow = Flow::of(&view).map_err(|e| made.wire_error(e))?;
    let outputs = view.outputs.iter().map(|port| port_name(port));
    let outputs: Result<Vec<&str>, WireError> = outputs.collect();
    let needed = flow.needed(outputs.map_err(|e| made.wire_error(e))?);
    let inner = wiring.states.split_last().map_or(&[][..], |(_, inner)| inner);
    // The last that is read: what it is computed from is needed for its sake.
    match inner.iter().rev().find(|state| needed.contains(state.as_str())) {
        None => Ok(()),
        Some(state) => Err(GraftError::StillRead {
            file: made.path.display().to_string(),
            value: printable(state),
        }),
    }
}

/// Names of the encoder's values in the larger graph.
struct Names {
    /// No name of the graph begins with it.
    prefix: String,
}

impl Names {
    /// Names that stand nowhere in the graph, nested graphs included.
    fn free(graph: &[u8]) -> Names {
        let mut prefix = "thimble/".to_string();
        while graph.windows(prefix.len()).any(|part| part == prefix.as_bytes()) {
            prefix.insert(0, '_');
        }
        Names { prefix }
    }

    fn of(&self, name: &str) -> String {
        match name {
            "" => String::new(),
            _ => format!("{}{name}", self.prefix),
        }
    }

    /// The node that made the hidden states, which makes a value now that nothing reads.
    fn renamed_maker(&self, encoded: &[u8], hidden: &str) -> Result<Message, WireError> {
        let mut node = Message::default();
        let mut fields = Fields::new(encoded);
        while let Some((field, raw)) = next_field(&mut fields, encoded, 0)? {
            match field.number {
                2 if field.text()? == hidden => node.text(2, &format!("{}replaced", self.prefix)),
                _ => node.0.extend_from_slice(raw),
            }
        }
        Ok(node)
    }

    /// Nodes that make the encoder's inputs of what the graph has: int64, 1 in the mask where a token is real.
    fn wire(&self, wiring: &Wiring, graph: &mut Message) {
        let [ids, mask, types] = INPUTS.map(|name| self.of(name));
        let mut wires = Wires {
            prefix: &self.prefix,
            graph,
        };
        wires.cast(&wiring.ids, &ids);
        match &wiring.types {
            Some(name) => wires.cast(name, &types),
            None => wires.node("Sub", &[&ids, &ids], &types),
        }
        match (wiring.form, &wiring.mask) {
            (MaskForm::Ones, Some(name)) => wires.cast(name, &mask),
            (MaskForm::Padding, Some(name)) => {
                let (padding, one) = (wires.name("padding"), wires.integers("one", &[], &[1]));
                wires.cast(name, &padding);
                wires.node("Sub", &[&one, &padding], &mask);
            }
            (MaskForm::Lengths, Some(name)) => wires.lengths(name, &ids, &mask),
            (MaskForm::Id(padding), _) => {
                let (id, is_padding) = (wires.integers("padding_id", &[], &[padding]), wires.name("is_padding"));
                wires.node("Equal", &[&ids, &id], &is_padding);
                let real = wires.name("real");
                wires.node("Not", &[&is_padding], &real);
                wires.cast(&real, &mask);
            }
            (MaskForm::Ones | MaskForm::Padding | MaskForm::Lengths, None) => {
                let same = wires.name("same");
                wires.node("Equal", &[&ids, &ids], &same);
                wires.cast(&same, &mask);
            }
        }
    }

    /// The value that the rest of the graph reads, in the type it has there.
    fn hidden_states(&self, hidden: &str, element: Option<i64>, graph: &mut Message) {
        let mut wires = Wires {
            prefix: &self.prefix,
            graph,
        };
        let element = element.unwrap_or(DataType::F32.code());
        wires.node_with("Cast", &[&self.of(HIDDEN_STATES)], hidden, &[("to", element)]);
    }

    /// The encoder's nodes and stored tensors.
    fn encoder(&self, ours: &ModelView<'_>, graph: &mut Message) -> Result<(), WireError> {
        for node in &ours.nodes {
            graph.message(1, &self.node(node));
        }
        for tensor in &ours.initializers {
            let mut copy = Message::default();
            let mut fields = Fields::new(tensor.encoded);
            while let Some((field, raw)) = next_field(&mut fields, tensor.encoded, 0)? {
                match field.number {
                    8 => copy.text(8, &self.of(tensor.name)),
                    // What aligns a payload in a file of its own.
                    12 => {}
                    _ => copy.0.extend_from_slice(raw),
                }
            }
            graph.message(5, &copy);
        }
        Ok(())
    }

    fn node(&self, node: &NodeView<'_>) -> Message {
        let mut copy = Message::default();
        node.inputs.iter().for_each(|name| copy.text(1, &self.of(name)));
        node.outputs.iter().for_each(|name| copy.text(2, &self.of(name)));
        if let Some(first) = node.outputs.first() {
            copy.text(3, &format!("{}{first}", self.prefix));
        }
        copy.text(4, node.op);
        node.attributes.iter().for_each(|attribute| copy.bytes(5, attribute));
        if !node.domain.is_empty() {
            copy.text(7, node.domain);
        }
        copy
    }
}

/// Writes the nodes between the graph's inputs and the encoder's.
struct Wires<'a> {
    prefix: &'a str,
    graph: &'a mut Message,
}

impl Wires<'_> {
    fn name(&self, name: &str) -> String {
        format!("{}wire.{name}", self.prefix)
    }

    fn node(&mut self, op: &str, inputs: &[&str], out: &str) {
        self.node_with(op, inputs, out, &[]);
    }

    fn node_with(&mut self, op: &str, inputs: &[&str], out: &str, attributes: &[(&str, i64)]) {
        let mut node = Message::default();
        inputs.iter().for_each(|name| node.text(1, name));
        node.text(2, out);
        node.text(3, out);
        node.text(4, op);
        for (name, value) in attributes {
            let mut attribute = Message::default();
            attribute.text(1, name);
            attribute.int(3, *value);
            attribute.int(20, 2);
            node.message(5, &attribute);
        }
        self.graph.message(1, &node);
    }

    fn cast(&mut self, from: &str, to: &str) {
        self.node_with("Cast", &[from], to, &[("to", DataType::I64.code())]);
    }

    /// A stored int64 tensor.
    fn integers(&mut self, name: &str, dims: &[i64], values: &[i64]) -> String {
        let name = self.name(name);
        let mut tensor = Message::default();
        if !dims.is_empty() {
            tensor.packed(1, dims);
        }
        tensor.int(2, DataType::I64.code());
        tensor.text(8, &name);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensor.bytes(9, &bytes);
        self.graph.message(5, &tensor);
        name
    }

    /// The mask of rows that have so many real tokens: 1 at the places below it.
    fn lengths(&mut self, lengths: &str, ids: &str, mask: &str) {
        let [dims, seq, wide, column, places, real] =
            ["dims", "seq", "lengths", "column", "places", "real"].map(|name| self.name(name));
        let (zero, one) = (self.integers("zero", &[], &[0]), self.integers("one", &[], &[1]));
        self.node("Shape", &[ids], &dims);
        self.node_with("Gather", &[&dims, &one], &seq, &[("axis", 0)]);
        self.node("Range", &[&zero, &seq, &one], &places);
        self.cast(lengths, &wide);
        let axis = self.integers("last", &[1], &[1]);
        self.node("Unsqueeze", &[&wide, &axis], &column);
        self.node("Less", &[&places, &column], &real);
        self.cast(&real, mask);
    }
}
