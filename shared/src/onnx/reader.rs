//! A borrowed view of an ONNX `ModelProto`: names, shapes and byte ranges, no payload copied. It reads any ONNX file's
//! structure; what thimble's own files must look like beyond that is `artifact`'s business.
//! Field numbers: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use crate::file_kind::FileKind;
use crate::onnx::protobuf::{FieldValue, Fields, WireError};
use std::ops::Range;

/// A whole file: its `ModelProto` and, flattened into it, its `GraphProto`.
#[derive(Clone, Debug, Default)]
pub struct ModelView<'a> {
    /// `ir_version`; 0 where the file states none.
    pub ir_version: i64,
    /// `producer_name`, empty where the file states none.
    pub producer: &'a str,
    /// Version of the default operator set; 0 when none is imported.
    pub opset: i64,
    /// `metadata_props`, key and value, in the order of the file.
    pub metadata: Vec<(&'a str, &'a str)>,
    /// Nodes of the outermost graph, in the order of the file.
    pub nodes: Vec<NodeView<'a>>,
    /// Encoded `FunctionProto`s: functions of the model's own.
    pub functions: Vec<&'a [u8]>,
    /// Dense initializers of the outermost graph, in the order of the file.
    pub initializers: Vec<TensorView<'a>>,
    /// Encoded `SparseTensorProto`s.
    pub sparse: Vec<&'a [u8]>,
    /// Encoded `ValueInfoProto`s.
    pub inputs: Vec<&'a [u8]>,
    /// Encoded `ValueInfoProto`s of the graph's outputs.
    pub outputs: Vec<&'a [u8]>,
    /// The same of inner values.
    pub declared: Vec<&'a [u8]>,
    has_graph: bool,
}

/// One `NodeProto`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView<'a> {
    /// May be empty: ONNX asks for no name.
    pub name: &'a str,
    /// `op_type`, e.g. `MatMul`; never empty in a node of a [`ModelView`].
    pub op: &'a str,
    /// Operator set; empty for the default one.
    pub domain: &'a str,
    /// Names of the values it reads; an empty one is an optional input left out.
    pub inputs: Vec<&'a str>,
    /// Names of the values it makes; an empty one is an optional output left out.
    pub outputs: Vec<&'a str>,
    /// Encoded `AttributeProto`s.
    pub attributes: Vec<&'a [u8]>,
}

/// One `TensorProto`: its facts and where its numbers are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorView<'a> {
    /// Never empty in an initializer of a [`ModelView`].
    pub name: &'a str,
    /// Code of `TensorProto.DataType`, e.g. 1 for float.
    pub data_type: i64,
    /// Empty for a scalar. Not checked: a file may state negative sizes.
    pub dims: Vec<i64>,
    /// Where `raw_data` lies in the file.
    pub raw: Option<Range<usize>>,
    /// Bytes of `float_data`, `int32_data` and their like, where numbers stand there instead.
    pub typed_bytes: usize,
    /// Whether `data_location` is EXTERNAL.
    pub external: bool,
    /// `raw_data` itself.
    pub payload: Option<&'a [u8]>,
    /// Where the numbers lie when they are in another file: `location`, `offset`, `length`. Says nothing unless `external`.
    pub external_data: Vec<(&'a str, &'a str)>,
    /// The whole encoded `TensorProto`.
    pub encoded: &'a [u8],
}

/// One attribute of a node, decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttributeView<'a> {
    /// Which attribute of its operator this is, e.g. `axis`.
    pub name: &'a str,
    /// 0 where it is of another type.
    pub float: f32,
    /// 0 where it is of another type.
    pub int: i64,
    /// Bytes, usually UTF-8; empty where it is of another type.
    pub string: &'a [u8],
    /// Its byte range counts from the start of the encoded attribute.
    pub tensor: Option<TensorView<'a>>,
    /// Empty where it is of another type.
    pub floats: Vec<f32>,
    /// Empty where it is of another type.
    pub ints: Vec<i64>,
    /// Encoded `GraphProto`s, of one graph or several.
    pub graphs: Vec<&'a [u8]>,
    /// The tensors of a list, and encoded `SparseTensorProto`s, of one or several.
    pub tensors: Vec<TensorView<'a>>,
    /// Encoded `SparseTensorProto`s, of one or several.
    pub sparse: Vec<&'a [u8]>,
}

/// Why a file cannot be read as an ONNX model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// The file is of another kind, told by its bytes.
    #[error("{0}")]
    Foreign(FileKind),
    /// The file is not well-formed protobuf.
    #[error("not an ONNX file: {0}")]
    Wire(#[from] WireError),
    /// The file is well-formed protobuf without a `GraphProto`.
    #[error("not an ONNX file: it holds no graph")]
    NoGraph,
    /// A node without an operator or an initializer without a name.
    #[error("at byte {at}: {what}, which no ONNX file has")]
    Empty {
        /// Byte of the file where it starts.
        at: usize,
        /// Which of the two it is.
        what: &'static str,
    },
    /// A list of the file has more than 2²⁰ entries.
    #[error("more than {MOST} nodes, initializers or other parts")]
    TooMany,
}

/// Most nodes, initializers, inputs or the like of one file. A view takes some hundred bytes for a part that takes five of
/// the file, so this and [`ReadError::Empty`] bound what reading a small file can take.
const MOST: usize = 1 << 20;

/// Appends to a list that may not grow past [`MOST`].
fn push<T>(list: &mut Vec<T>, part: T) -> Result<(), ReadError> {
    if list.len() == MOST {
        return Err(ReadError::TooMany);
    }
    list.push(part);
    Ok(())
}

/// Reads the structure of a whole file.
///
/// # Errors
/// Any [`ReadError`].
pub fn model(bytes: &[u8]) -> Result<ModelView<'_>, ReadError> {
    let kind = FileKind::of(bytes);
    if !kind.may_be_onnx() {
        return Err(ReadError::Foreign(kind));
    }
    let mut model = ModelView::default();
    for field in Fields::new(bytes) {
        let field = field?;
        match field.number {
            25 => push(&mut model.functions, field.bytes()?)?,
            1 => model.ir_version = field.int()?,
            2 => model.producer = field.text()?,
            7 => {
                model.has_graph = true;
                graph(&mut model, field.fields()?)?;
            }
            8 => {
                let (domain, version) = opset(field.fields()?)?;
                if domain.is_empty() || domain == "ai.onnx" {
                    model.opset = version;
                }
            }
            14 => push(&mut model.metadata, entry(field.fields()?)?)?,
            _ => {}
        }
    }
    if model.has_graph {
        Ok(model)
    } else {
        Err(ReadError::NoGraph)
    }
}

fn graph<'a>(model: &mut ModelView<'a>, fields: Fields<'a>) -> Result<(), ReadError> {
    for field in fields {
        let field = field?;
        let empty = |what| Err(ReadError::Empty { at: field.at, what });
        match field.number {
            1 => match node(field.fields()?)? {
                node if node.op.is_empty() => return empty("a node without an operator"),
                node => push(&mut model.nodes, node)?,
            },
            5 => match tensor(field.bytes()?, field.at)? {
                tensor if tensor.name.is_empty() => return empty("an initializer without a name"),
                tensor => push(&mut model.initializers, tensor)?,
            },
            11 => push(&mut model.inputs, field.bytes()?)?,
            12 => push(&mut model.outputs, field.bytes()?)?,
            13 => push(&mut model.declared, field.bytes()?)?,
            15 => push(&mut model.sparse, field.bytes()?)?,
            _ => {}
        }
    }
    Ok(())
}

/// Decodes a `NodeProto`.
///
/// # Errors
/// Malformed protobuf, or a field of another wire type than ONNX gives it.
pub fn node(fields: Fields<'_>) -> Result<NodeView<'_>, WireError> {
    let mut node = NodeView::default();
    for field in fields {
        let field = field?;
        match field.number {
            1 => node.inputs.push(field.text()?),
            2 => node.outputs.push(field.text()?),
            3 => node.name = field.text()?,
            4 => node.op = field.text()?,
            5 => node.attributes.push(field.bytes()?),
            7 => node.domain = field.text()?,
            _ => {}
        }
    }
    Ok(node)
}

/// Decodes an encoded `AttributeProto`; byte ranges count from its start.
///
/// # Errors
/// Malformed protobuf, or a field of another wire type than ONNX gives it.
pub fn attribute(encoded: &[u8]) -> Result<AttributeView<'_>, WireError> {
    let mut attribute = AttributeView::default();
    for field in Fields::new(encoded) {
        let field = field?;
        match field.number {
            1 => attribute.name = field.text()?,
            2 => attribute.float = field.float()?,
            3 => attribute.int = field.int()?,
            4 => attribute.string = field.bytes()?,
            5 => attribute.tensor = Some(tensor(field.bytes()?, field.at)?),
            6 | 11 => attribute.graphs.push(field.bytes()?),
            10 => attribute.tensors.push(tensor(field.bytes()?, field.at)?),
            22 | 23 => attribute.sparse.push(field.bytes()?),
            7 => match field.value {
                FieldValue::Bytes(packed) => attribute.floats.extend(
                    packed
                        .chunks_exact(4)
                        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
                ),
                _ => attribute.floats.push(field.float()?),
            },
            8 => field.ints(|i| attribute.ints.push(i))?,
            _ => {}
        }
    }
    Ok(attribute)
}

/// The name of an encoded `SparseTensorProto`: that of its values, which may stand after its indices.
///
/// # Errors
/// Malformed protobuf, or a field of another wire type than ONNX gives it.
pub fn sparse_name(encoded: &[u8]) -> Result<&str, WireError> {
    let mut name = "";
    for field in Fields::new(encoded) {
        let field = field?;
        if field.number == 1 {
            name = tensor(field.bytes()?, field.at)?.name;
        }
    }
    Ok(name)
}

/// The values and indices of an encoded `SparseTensorProto`, in the order they stand there.
///
/// # Errors
/// Malformed protobuf, or a field of another wire type than ONNX gives it.
pub fn sparse(encoded: &[u8]) -> Result<Vec<TensorView<'_>>, WireError> {
    let mut parts = Vec::new();
    for field in Fields::new(encoded) {
        let field = field?;
        if matches!(field.number, 1 | 2) {
            parts.push(tensor(field.bytes()?, field.at)?);
        }
    }
    Ok(parts)
}

/// Decodes the `TensorProto` at byte `at` of the file.
///
/// # Errors
/// Malformed protobuf, or a field of another wire type than ONNX gives it.
pub fn tensor(encoded: &[u8], at: usize) -> Result<TensorView<'_>, WireError> {
    let mut tensor = TensorView {
        encoded,
        ..TensorView::default()
    };
    for field in Fields::at(encoded, at) {
        let field = field?;
        match field.number {
            1 => field.ints(|d| tensor.dims.push(d))?,
            2 => tensor.data_type = field.int()?,
            4..=7 | 10 | 11 => tensor.typed_bytes += field.len(),
            8 => tensor.name = field.text()?,
            9 => {
                tensor.raw = Some(field.at..field.at + field.bytes()?.len());
                tensor.payload = Some(field.bytes()?);
            }
            // Tools that bring the numbers into the file may leave the old place standing: `data_location` alone decides.
            13 => tensor.external_data.push(entry(field.fields()?)?),
            14 => tensor.external = field.int()? == 1,
            _ => {}
        }
    }
    Ok(tensor)
}

fn opset(fields: Fields<'_>) -> Result<(&str, i64), WireError> {
    let (mut domain, mut version) = ("", 0);
    for field in fields {
        let field = field?;
        match field.number {
            1 => domain = field.text()?,
            2 => version = field.int()?,
            _ => {}
        }
    }
    Ok((domain, version))
}

fn entry(fields: Fields<'_>) -> Result<(&str, &str), WireError> {
    let (mut key, mut value) = ("", "");
    for field in fields {
        let field = field?;
        match field.number {
            1 => key = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_told_apart() {
        for bytes in [
            &b"PK\x03\x04rest of a zip"[..],
            b"\x7fELF",
            b"",
            b"{\"json\": 1}",
            &[8, 8],
        ] {
            assert!(model(bytes).is_err(), "{bytes:?}");
        }
    }
}
