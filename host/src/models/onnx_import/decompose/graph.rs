//! The graph that a decomposition writes: nodes and tensors of its own beside those it takes over from the file. In come
//! operators by name, out comes an encoded `ModelProto`. What it makes is counted: a small file may name a tensor many times.

pub use crate::onnx::element::{F32, I64};
use std::collections::HashMap;
use thimble_shared::onnx::protobuf::{Fields, Message, WireError};
use thimble_shared::onnx::reader::NodeView;

/// An attribute of a node that is made.
#[derive(Clone, Copy, Debug)]
pub enum Attribute<'x> {
    Float(f32),
    Int(i64),
    Text(&'x str),
    Ints(&'x [i64]),
}

/// `AttributeProto.type` as ONNX numbers it.
const FLOAT: i64 = 1;
const INT: i64 = 2;
const STRING: i64 = 3;
const INTS: i64 = 7;

/// The numbers of a tensor of f32.
pub fn f32s(bytes: &[u8]) -> Vec<f32> {
    let fours = bytes.chunks_exact(4);
    fours.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Made tensors would take more memory than the file gives reason for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its operators, written as standard ones, need tensors of more than {most} bytes")]
pub struct TooMuch {
    most: usize,
}

/// The graph being written.
pub struct Graph<'a> {
    nodes: Vec<Vec<u8>>,
    tensors: Message,
    /// Values by the one that stands for them now.
    alias: HashMap<&'a str, String>,
    prefix: String,
    count: usize,
    /// Bytes of tensors made so far, and how many there may be.
    made: usize,
    most: usize,
}

impl<'a> Graph<'a> {
    /// Names it makes begin with `prefix`, which no value of the file may do.
    pub fn new(prefix: String, most: usize) -> Graph<'a> {
        Graph {
            nodes: Vec::new(),
            tensors: Message::default(),
            alias: HashMap::new(),
            prefix,
            count: 0,
            made: 0,
            most,
        }
    }

    /// A name no value has yet.
    pub fn name(&mut self) -> String {
        self.fresh()
    }

    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("{}{}", self.prefix, self.count)
    }

    /// Lets `name` be what `other` is.
    pub fn stand_in(&mut self, name: &'a str, other: &str) {
        let other = self.now(other);
        self.alias.insert(name, other);
    }

    /// What stands for a value now.
    pub fn now(&self, name: &str) -> String {
        self.alias.get(name).cloned().unwrap_or_else(|| name.to_string())
    }

    /// Adds a node with a new output.
    pub fn op(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)]) -> String {
        let out = self.fresh();
        self.node(op, inputs, &out, attributes);
        out
    }

    /// Makes a value that another stands for.
    pub fn renamed(&mut self, out: &str, now: &str) {
        let mut m = Message::default();
        m.text(1, now);
        m.text(2, out);
        m.text(4, "Identity");
        self.nodes.push(m.0);
    }

    /// Type, shape and bytes of a tensor it has made.
    pub fn made(&self, name: &str) -> Option<(i64, Vec<usize>, Vec<u8>)> {
        if !name.starts_with(&self.prefix) {
            return None;
        }
        let mut found = Fields::new(&self.tensors.0)
            .flatten()
            .filter_map(|f| thimble_shared::onnx::reader::tensor(f.bytes().ok()?, 0).ok());
        let tensor = found.find(|t| t.name == name)?;
        let dims = tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
        Some((tensor.data_type, dims, tensor.payload.unwrap_or_default().to_vec()))
    }

    /// Adds a node that makes `out`.
    pub fn node(&mut self, op: &str, inputs: &[&str], out: &str, attributes: &[(&str, Attribute<'_>)]) {
        let mut m = Message::default();
        for input in inputs {
            m.text(1, &self.now(input));
        }
        m.text(2, out);
        m.text(4, op);
        for (name, value) in attributes {
            let mut a = Message::default();
            a.text(1, name);
            match value {
                Attribute::Float(f) => {
                    a.float(2, *f);
                    a.int(20, FLOAT);
                }
                Attribute::Int(i) => {
                    a.int(3, *i);
                    a.int(20, INT);
                }
                Attribute::Text(s) => {
                    a.text(4, s);
                    a.int(20, STRING);
                }
                Attribute::Ints(list) => {
                    a.packed(8, list);
                    a.int(20, INTS);
                }
            }
            m.message(5, &a);
        }
        self.nodes.push(m.0);
    }

    /// Takes a node of the file over, with other inputs and another output where some are given.
    pub fn copy(&mut self, node: &NodeView<'a>, first: Option<&str>, out: Option<&str>) {
        let mut m = Message::default();
        for (i, input) in node.inputs.iter().enumerate() {
            let name = match (i, first) {
                (0, Some(first)) => first.to_string(),
                _ => self.now(input),
            };
            m.text(1, &name);
        }
        match out {
            Some(out) => m.text(2, out),
            None => node.outputs.iter().for_each(|o| m.text(2, o)),
        }
        m.text(4, node.op);
        if !node.domain.is_empty() {
            m.text(7, node.domain);
        }
        node.attributes.iter().for_each(|a| m.bytes(5, a));
        self.nodes.push(m.0);
    }

    fn spend(&mut self, bytes: usize) -> Result<(), TooMuch> {
        self.made = self.made.saturating_add(bytes);
        if self.made > self.most {
            return Err(TooMuch { most: self.most });
        }
        Ok(())
    }

    /// Adds a tensor of `bytes`, little-endian, as `data_type`.
    pub fn tensor(&mut self, name: &str, data_type: i64, dims: &[usize], bytes: &[u8]) -> Result<(), TooMuch> {
        self.spend(bytes.len())?;
        let dims: Vec<i64> = dims.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
        let mut m = Message::default();
        m.packed(1, &dims);
        m.int(2, data_type);
        m.text(8, name);
        m.bytes(9, bytes);
        self.tensors.message(5, &m);
        Ok(())
    }

    /// The same with a new name.
    pub fn new_tensor(&mut self, data_type: i64, dims: &[usize], bytes: &[u8]) -> Result<String, TooMuch> {
        let name = self.fresh();
        self.tensor(&name, data_type, dims, bytes)?;
        Ok(name)
    }

    /// A tensor of f32.
    pub fn floats(&mut self, dims: &[usize], values: &[f32]) -> Result<String, TooMuch> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.new_tensor(F32, dims, &bytes)
    }

    /// A list of i64.
    pub fn ints(&mut self, values: &[i64]) -> Result<String, TooMuch> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.new_tensor(I64, &[values.len()], &bytes)
    }

    /// Every name that its nodes read.
    pub fn reads(&self) -> Result<Vec<String>, WireError> {
        let mut names = Vec::new();
        for node in &self.nodes {
            let view = thimble_shared::onnx::reader::node(Fields::new(node))?;
            names.extend(crate::onnx::flow::reads(&view)?.into_iter().map(str::to_string));
        }
        Ok(names)
    }

    /// The encoded `GraphProto`: its nodes and tensors, and behind them what is handed in, encoded.
    pub fn finish(self, rest: &Message) -> Message {
        let mut graph = Message::default();
        self.nodes.iter().for_each(|n| graph.bytes(1, n));
        graph.0.extend_from_slice(&self.tensors.0);
        graph.0.extend_from_slice(&rest.0);
        graph
    }
}
