//! Lays out and writes an ONNX `ModelProto` whose large initializers can be mapped: each payload starts at a multiple of
//! 64 bytes in the file, reached by padding `TensorProto.doc_string` before `raw_data`, and zero bytes follow the last one.
//! The layout is computed before any payload exists, so the exact size of a file is known without making it.

use crate::artifact::layout::{ALIGNMENT, TAIL};
use crate::onnx::protobuf::{Message, varint_len};
use std::io::{self, Write};

/// The operator set of ONNX Runtime's own operators, imported at version 1 where a node is of it.
pub const MICROSOFT: &str = "com.microsoft";

/// `ir_version` of every file written: that of ONNX 1.10.
pub const IR_VERSION: i64 = 8;

/// `TensorProto.DataType`, as far as thimble writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// IEEE binary32, code 1.
    F32,
    /// Code 2.
    U8,
    /// Code 3.
    I8,
    /// Code 6.
    I32,
    /// Code 7.
    I64,
    /// IEEE binary16, code 10.
    F16,
}

impl DataType {
    /// The number of `TensorProto.DataType`.
    pub const fn code(self) -> i64 {
        match self {
            DataType::F32 => 1,
            DataType::U8 => 2,
            DataType::I8 => 3,
            DataType::I32 => 6,
            DataType::I64 => 7,
            DataType::F16 => 10,
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DataType::U8 | DataType::I8 => 1,
            DataType::F16 => 2,
            DataType::F32 | DataType::I32 => 4,
            DataType::I64 => 8,
        }
    }
}

/// An attribute of a node: its name and its value.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// `i`, of type INT.
    Int(&'static str, i64),
    /// `ints`, of type INTS.
    Ints(&'static str, Vec<i64>),
    /// `f`, of type FLOAT.
    Float(&'static str, f32),
    /// `s`, of type STRING.
    Text(&'static str, &'static str),
}

/// One node; its name is its first output's.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operator.
    pub op: &'static str,
    /// Its operator set: empty for the default one, or [`MICROSOFT`].
    pub domain: &'static str,
    /// Names of the values it reads; an empty one is an optional input left out.
    pub inputs: Vec<String>,
    /// Names of the values it makes, one at least: the first names the node too.
    pub outputs: Vec<String>,
    /// Written in this order.
    pub attributes: Vec<Attr>,
}

/// A small initializer, written with its data and without alignment.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Name that nodes read it by.
    pub name: String,
    /// Type of the elements in `data`.
    pub data_type: DataType,
    /// Empty for a scalar.
    pub dims: Vec<usize>,
    /// Little-endian, row-major: product of `dims` times [`DataType::bytes`] bytes.
    pub data: Vec<u8>,
}

/// An initializer the device maps: its bytes are asked for when the file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Name that nodes read it by, and the device finds it by.
    pub name: String,
    /// Type of the elements of the payload.
    pub data_type: DataType,
    /// Shape as ONNX states it; the payload is row-major.
    pub dims: Vec<usize>,
}

impl Mapped {
    /// Bytes of the payload: product of `dims` times the bytes of an element.
    pub fn bytes(&self) -> usize {
        self.dims.iter().product::<usize>() * self.data_type.bytes()
    }
}

/// One dimension of an input or output.
#[derive(Clone, Debug, PartialEq)]
pub enum Dim {
    /// The same size in every run.
    Fixed(usize),
    /// A size that the caller chooses per run, by its name in the file, e.g. `batch`.
    Symbol(&'static str),
}

/// A graph input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Name callers give values by.
    pub name: &'static str,
    /// Type of the elements.
    pub data_type: DataType,
    /// Outermost first.
    pub dims: Vec<Dim>,
}

/// A model as it is written: one graph, its constants in the file's head and its mapped initializers at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxModel {
    /// Version of the default operator set.
    pub opset: i64,
    /// `producer_version`; the producer's name is always `thimble`.
    pub producer_version: String,
    /// Name of the graph.
    pub name: String,
    /// `metadata_props`, key and value, in the order written.
    pub metadata: Vec<(String, String)>,
    /// In topological order: every value is made before it is read.
    pub nodes: Vec<Node>,
    /// Initializers written with their data, before the mapped ones.
    pub constants: Vec<Constant>,
    /// Initializers whose payload starts at a multiple of 64 bytes, in file order.
    pub mapped: Vec<Mapped>,
    /// Inputs of the graph; initializers are not among them.
    pub inputs: Vec<Port>,
    /// Outputs of the graph.
    pub outputs: Vec<Port>,
}

/// Where everything goes.
struct Layout {
    head: Message,
    graph_prefix: Message,
    graph_len: usize,
    /// Bytes of the varint that states it.
    graph_len_width: usize,
    /// Per mapped tensor: the bytes before its payload.
    headers: Vec<Message>,
    total: usize,
}

/// The exact size of the file [`write_to`] makes.
pub fn size(model: &OnnxModel) -> usize {
    layout(model).total
}

/// Writes the whole file to `out`. `payload` writes each mapped initializer's bytes; their count must be [`Mapped::bytes`].
///
/// # Errors
/// Those of `out` and `payload`.
///
/// # Panics
/// Where `payload` writes another number of bytes.
pub fn write_to(
    model: &OnnxModel,
    out: &mut dyn Write,
    mut payload: impl FnMut(&Mapped, &mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let layout = layout(model);
    let mut out = Counted { out, bytes: 0 };
    let mut prefix = layout.head;
    prefix.header_of_width(7, layout.graph_len, layout.graph_len_width);
    out.write_all(&prefix.0)?;
    out.write_all(&layout.graph_prefix.0)?;
    for (tensor, header) in model.mapped.iter().zip(&layout.headers) {
        out.write_all(&header.0)?;
        debug_assert_eq!(out.bytes % ALIGNMENT, 0);
        let start = out.bytes;
        payload(tensor, &mut out)?;
        assert_eq!(out.bytes - start, tensor.bytes(), "payload of {}", tensor.name);
    }
    if !model.mapped.is_empty() {
        let mut tail = Message::default();
        tail.bytes(12, &[0; TAIL]);
        out.write_all(&tail.0)?;
    }
    assert_eq!(out.bytes, layout.total, "the layout states the file's size");
    Ok(())
}

/// Counts what is written.
struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn layout(model: &OnnxModel) -> Layout {
    let mut head = Message::default();
    head.int(1, IR_VERSION);
    head.text(2, "thimble");
    head.text(3, &model.producer_version);
    let mut opset = Message::default();
    opset.text(1, "");
    opset.int(2, model.opset);
    head.message(8, &opset);
    if model.nodes.iter().any(|node| node.domain == MICROSOFT) {
        let mut opset = Message::default();
        opset.text(1, MICROSOFT);
        opset.int(2, 1);
        head.message(8, &opset);
    }
    for (key, value) in &model.metadata {
        let mut entry = Message::default();
        entry.text(1, key);
        entry.text(2, value);
        head.message(14, &entry);
    }

    let mut graph = Message::default();
    model.nodes.iter().for_each(|n| graph.message(1, &node(n)));
    graph.text(2, &model.name);
    for constant in &model.constants {
        let mut tensor = tensor_head(&constant.name, constant.data_type, &constant.dims);
        tensor.bytes(9, &constant.data);
        graph.message(5, &tensor);
    }
    model.inputs.iter().for_each(|p| graph.message(11, &port(p)));
    model.outputs.iter().for_each(|p| graph.message(12, &port(p)));

    // The graph's length is a varint whose own width moves every payload. At the edge between two widths each can make the
    // graph fit the other only, so the first width that is wide enough is taken.
    let mut width = 1;
    loop {
        let start = head.0.len() + 1 + width;
        let (headers, total) = place(&model.mapped, start + graph.0.len());
        let graph_len = total - start;
        if varint_len(graph_len as u64) <= width {
            return Layout {
                head,
                graph_prefix: graph,
                graph_len,
                graph_len_width: width,
                headers,
                total,
            };
        }
        width += 1;
    }
}

/// Headers of the mapped tensors when the first starts at `pos`, and the position after the last one.
fn place(mapped: &[Mapped], mut pos: usize) -> (Vec<Message>, usize) {
    let mut headers = Vec::with_capacity(mapped.len());
    for (i, tensor) in mapped.iter().enumerate() {
        let tail = if i + 1 == mapped.len() {
            1 + varint_len(TAIL as u64) + TAIL
        } else {
            0
        };
        let header = aligned_header(tensor, pos, tail);
        pos += header.0.len() + tensor.bytes() + tail;
        headers.push(header);
    }
    (headers, pos)
}

/// Everything of a `TensorProto` up to its payload, padded so that the payload is aligned when the header starts at `pos`.
fn aligned_header(tensor: &Mapped, pos: usize, tail: usize) -> Message {
    let fields = tensor_head(&tensor.name, tensor.data_type, &tensor.dims);
    let mut raw = Message::default();
    raw.header(9, tensor.bytes());
    for padding in std::iter::once(None).chain((0..2 * ALIGNMENT).map(Some)) {
        let mut body = fields.clone();
        if let Some(spaces) = padding {
            body.text(12, &" ".repeat(spaces));
        }
        body.0.extend_from_slice(&raw.0);
        let mut header = Message::default();
        header.header(5, body.0.len() + tensor.bytes() + tail);
        if (pos + header.0.len() + body.0.len()).is_multiple_of(ALIGNMENT) {
            header.0.extend_from_slice(&body.0);
            return header;
        }
    }
    unreachable!("128 paddings in steps of one byte meet every residue of 64")
}

fn tensor_head(name: &str, data_type: DataType, dims: &[usize]) -> Message {
    let mut tensor = Message::default();
    if !dims.is_empty() {
        tensor.packed(1, &dims.iter().map(|&d| d as i64).collect::<Vec<_>>());
    }
    tensor.int(2, data_type.code());
    tensor.text(8, name);
    tensor
}

fn node(node: &Node) -> Message {
    let mut m = Message::default();
    node.inputs.iter().for_each(|i| m.text(1, i));
    node.outputs.iter().for_each(|o| m.text(2, o));
    m.text(3, &node.outputs[0]);
    m.text(4, node.op);
    for attribute in &node.attributes {
        let mut a = Message::default();
        match attribute {
            Attr::Float(name, value) => {
                a.text(1, name);
                a.float(2, *value);
                a.int(20, 1);
            }
            Attr::Int(name, value) => {
                a.text(1, name);
                a.int(3, *value);
                a.int(20, 2);
            }
            Attr::Ints(name, values) => {
                a.text(1, name);
                values.iter().for_each(|&v| a.int(8, v));
                a.int(20, 7);
            }
            Attr::Text(name, value) => {
                a.text(1, name);
                a.text(4, value);
                a.int(20, 3);
            }
        }
        m.message(5, &a);
    }
    if !node.domain.is_empty() {
        m.text(7, node.domain);
    }
    m
}

fn port(port: &Port) -> Message {
    let mut shape = Message::default();
    for dim in &port.dims {
        let mut d = Message::default();
        match dim {
            Dim::Fixed(value) => d.int(1, *value as i64),
            Dim::Symbol(name) => d.text(2, name),
        }
        shape.message(1, &d);
    }
    let mut tensor = Message::default();
    tensor.int(1, port.data_type.code());
    tensor.message(2, &shape);
    let mut kind = Message::default();
    kind.message(1, &tensor);
    let mut info = Message::default();
    info.text(1, port.name);
    info.message(2, &kind);
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(model: &OnnxModel, payload: impl Fn(&Mapped) -> Vec<u8>) -> Vec<u8> {
        let mut file = vec![];
        write_to(model, &mut file, |tensor, out| out.write_all(&payload(tensor))).unwrap();
        file
    }
    use crate::onnx::reader;

    #[test]
    #[cfg_attr(miri, ignore = "writes hundreds of files")]
    fn a_graph_whose_length_is_at_the_edge_of_a_varint_is_written() {
        let file = |bytes: usize| {
            let model = OnnxModel {
                name: "albert".into(),
                opset: 17,
                producer_version: "0".into(),
                metadata: vec![],
                nodes: vec![],
                constants: vec![],
                mapped: vec![Mapped {
                    name: "w".into(),
                    data_type: DataType::I8,
                    dims: vec![bytes],
                }],
                inputs: vec![],
                outputs: vec![],
            };
            write(&model, |t| vec![7; t.bytes()])
        };
        for bytes in (1 << 14) - 400..(1 << 14) + 20 {
            let file = file(bytes);
            let view = reader::model(&file).unwrap();
            let raw = view.initializers[0].raw.clone().unwrap();
            assert_eq!((raw.start % ALIGNMENT, raw.len()), (0, bytes));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "writes hundreds of files")]
    fn payloads_are_aligned_whatever_surrounds_them() {
        for (name_len, bytes) in [(1, 1), (3, 64), (63, 127), (64, 128), (65, 16384), (7, 300_000)] {
            let mapped: Vec<Mapped> = (0..5)
                .map(|i| Mapped {
                    name: format!("{i}{}", "n".repeat(name_len)),
                    data_type: DataType::I8,
                    dims: vec![bytes + i],
                })
                .collect();
            let model = OnnxModel {
                name: "albert".into(),
                opset: 17,
                producer_version: "0".into(),
                metadata: vec![],
                nodes: vec![],
                constants: vec![],
                mapped,
                inputs: vec![],
                outputs: vec![],
            };
            let file = write(&model, |t| vec![7; t.bytes()]);
            assert_eq!(file.len(), size(&model));
            let view = reader::model(&file).unwrap();
            for (tensor, want) in view.initializers.iter().zip(&model.mapped) {
                let raw = tensor.raw.clone().unwrap();
                assert_eq!(raw.start % ALIGNMENT, 0);
                assert_eq!(file[raw], vec![7; want.bytes()]);
            }
            assert_eq!(file[file.len() - TAIL..], [0; TAIL]);
        }
    }
}
