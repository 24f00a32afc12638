//! The ledger of a file: every byte of an ONNX `ModelProto` under exactly one cause, in file order. It walks the protobuf
//! by ONNX's field numbers and looks at no payload; what a payload is good for is `causes`' question.

use crate::onnx::MAX_NESTING;
use serde::Serialize;
use std::ops::Range;
use thimble_shared::onnx::protobuf::{Field, FieldValue, Fields, WireError};

/// Why a byte is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Numbers an output needs, stored once, read directly by the node that computes with them.
    Weights,
    /// The same, but reached only through other nodes.
    ThroughIdentity,
    /// Weights, reached only through Transpose.
    ThroughTranspose,
    /// Weights, reached only through Cast.
    ThroughCast,
    /// Weights, reached only through nodes that dequantize.
    ThroughDequantize,
    /// Byte for byte what another tensor holds.
    Duplicates,
    /// What another tensor holds, rows and columns exchanged.
    Transposed,
    /// Needed only by an output that nobody named.
    UnnamedOutput,
    /// No output needs them.
    Unneeded,
    /// Numbers as protobuf varints or typed fields instead of raw bytes.
    Varints,
    /// Bytes of an external file no tensor points to.
    Unreferenced,
    /// Names of values, nodes and tensors.
    Names,
    /// `doc_string` at any level, stack traces of exporters among them.
    DocStrings,
    /// `metadata_props` at any level.
    Metadata,
    /// Doc strings of blanks that align a payload.
    Alignment,
    /// Operators, attributes, and the message around them.
    Nodes,
    /// Declared types and shapes of inputs, outputs and inner values.
    Shapes,
    /// Dims, types, and places of tensors.
    TensorHeaders,
    /// Versions, producer, operator sets.
    Header,
}

/// Bytes of one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteSpan {
    /// Bytes of the file; spans follow each other without gaps.
    pub range: Range<usize>,
    /// The one cause these bytes are counted under.
    pub cause: Cause,
    /// For payloads: where the tensor's message starts in the file.
    pub tensor: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Function,
    /// A message whose bytes all have one cause.
    Flat(Cause),
}

impl Message {
    /// Cause of the key and length before the message, and of fields no row of the table names.
    fn around(self) -> Cause {
        match self {
            Message::Model | Message::Graph => Cause::Header,
            Message::Node | Message::Attribute | Message::Function => Cause::Nodes,
            Message::Tensor | Message::Sparse => Cause::TensorHeaders,
            Message::ValueInfo => Cause::Shapes,
            Message::Flat(cause) => cause,
        }
    }

    /// What a field of this message is: a message to walk, or bytes of one cause.
    fn field(self, number: u32) -> Message {
        let flat = Message::Flat;
        match (self, number) {
            (Message::Model, 7) => Message::Graph,
            (Message::Model, 25) => Message::Function,
            (Message::Model | Message::Graph | Message::Node | Message::Tensor | Message::Function, n)
                if Some(n) == self.metadata() =>
            {
                flat(Cause::Metadata)
            }
            (Message::ValueInfo, 4) => flat(Cause::Metadata),
            (Message::Model, 6)
            | (Message::Graph, 10)
            | (Message::Node, 6)
            | (Message::Attribute, 13)
            | (Message::ValueInfo, 3)
            | (Message::Function, 8) => flat(Cause::DocStrings),
            (Message::Graph, 1) | (Message::Function, 7) => Message::Node,
            (Message::Graph, 2) => flat(Cause::Names),
            (Message::Graph, 5) | (Message::Attribute, 5 | 10) | (Message::Sparse, 1 | 2) => Message::Tensor,
            (Message::Graph, 15) | (Message::Attribute, 22 | 23) => Message::Sparse,
            (Message::Graph, 11..=13) | (Message::Function, 12) => Message::ValueInfo,
            (Message::Graph, 14) => flat(Cause::TensorHeaders),
            (Message::Node, 1..=3) | (Message::Function, 1 | 4..=6) => flat(Cause::Names),
            (Message::Node, 5) | (Message::Function, 11) => Message::Attribute,
            (Message::Attribute, 6 | 11) => Message::Graph,
            (Message::Tensor | Message::ValueInfo, n) if n == self.name() => flat(Cause::Names),
            (Message::ValueInfo, 2) => flat(Cause::Shapes),
            _ => flat(self.around()),
        }
    }

    fn metadata(self) -> Option<u32> {
        match self {
            Message::Model | Message::Function => Some(14),
            Message::Graph | Message::Tensor => Some(16),
            Message::Node => Some(9),
            _ => None,
        }
    }

    fn name(self) -> u32 {
        if self == Message::Tensor { 8 } else { 1 }
    }
}

/// The spans of a whole file, in order and without gaps.
pub fn spans(bytes: &[u8]) -> Result<Vec<ByteSpan>, WireError> {
    let mut ledger = Ledger::default();
    ledger.walk(Fields::new(bytes), Message::Model, 0)?;
    Ok(ledger.0)
}

#[derive(Default)]
struct Ledger(Vec<ByteSpan>);

impl Ledger {
    fn put(&mut self, range: Range<usize>, cause: Cause, tensor: Option<usize>) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.cause == cause && last.tensor == tensor && last.range.end == range.start => {
                last.range.end = range.end;
            }
            _ => self.0.push(ByteSpan { range, cause, tensor }),
        }
    }

    fn walk(&mut self, mut fields: Fields<'_>, message: Message, depth: usize) -> Result<(), WireError> {
        if depth > 6 * MAX_NESTING {
            return Err(WireError::Mismatch {
                field: 0,
                at: fields.here(),
            });
        }
        let tensor = fields.here();
        loop {
            let start = fields.here();
            let Some(field) = fields.next().transpose()? else {
                return Ok(());
            };
            let end = fields.here();
            if message == Message::Tensor
                && let Some(cause) = payload(&field)
            {
                // Key and length of raw data are the header's; every typed number is payload with all it takes.
                let from = if cause == Cause::Weights { field.at } else { start };
                self.put(start..from, Cause::TensorHeaders, None);
                self.put(from..end, cause, Some(tensor));
                continue;
            }
            match message.field(field.number) {
                Message::Flat(cause) => self.put(start..end, cause, None),
                inner => {
                    self.put(start..field.at, inner.around(), None);
                    self.walk(field.fields()?, inner, depth + 1)?;
                }
            }
        }
    }
}

/// Cause of a tensor's field if it holds numbers or stands in for alignment.
fn payload(field: &Field<'_>) -> Option<Cause> {
    match (field.number, field.value) {
        (9, _) => Some(Cause::Weights),
        (4..=7 | 10 | 11, _) => Some(Cause::Varints),
        (12, FieldValue::Bytes(text)) if text.iter().all(|&b| b == b' ' || b == 0) => Some(Cause::Alignment),
        (12, _) => Some(Cause::DocStrings),
        _ => None,
    }
}
