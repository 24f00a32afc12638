//! Writes the smaller file: copies an ONNX model field by field in the order it had, with names changed and fields left out
//! as the plan says. Unknown fields are copied as they are; payloads are borrowed, never held twice.

use super::{Options, Plan, Rope, SlimError, Slimmed};
use crate::onnx::flow::port_name;
use crate::onnx::{MAX_NESTING, OnnxFile, tensor_bytes};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use thimble_shared::onnx_read::{self, ModelView, TensorView};
use thimble_shared::wire::{Field, Fields, Message, WireError};

/// Below this many bytes naming a place in another file takes more than the numbers themselves.
const LEAST_EXTERNAL: usize = 128;

pub struct Rewriter<'a, 'p> {
    file: &'a OnnxFile,
    view: &'p ModelView<'a>,
    plan: &'p Plan<'a>,
    options: &'p Options,
    data_name: &'p str,
    align: u64,
    short: HashMap<&'a str, String>,
    data: Rope<'a>,
    made_raw: usize,
    dead_tensors: usize,
}

impl<'a, 'p> Rewriter<'a, 'p> {
    pub fn new(
        file: &'a OnnxFile,
        view: &'p ModelView<'a>,
        plan: &'p Plan<'a>,
        options: &'p Options,
        data_name: &'p str,
        align: u64,
    ) -> Self {
        Rewriter {
            file,
            view,
            plan,
            options,
            data_name,
            align,
            short: HashMap::new(),
            data: Rope::default(),
            made_raw: 0,
            dead_tensors: 0,
        }
    }

    pub fn write(mut self) -> Result<Slimmed<'a>, SlimError> {
        let file = self.file;
        let wire = |e: WireError| SlimError::Onnx(file.wire_error(e));
        if self.options.short_names {
            self.short = short_names(self.view, self.plan).map_err(wire)?;
        }
        let mut model = Rope::default();
        let mut fields = Fields::new(file.bytes());
        while let Some((field, raw)) = next(&mut fields, file.bytes(), 0).map_err(wire)? {
            match field.number {
                6 => {}
                14 if self.options.strip_metadata => {}
                7 => {
                    let graph = self.graph(&field)?;
                    let mut header = Message::default();
                    header.header(7, graph.len as usize);
                    model.push(Cow::Owned(header.0));
                    model.append(graph);
                }
                _ => model.push(Cow::Owned(raw.to_vec())),
            }
        }
        let mut done = self.plan.done.clone();
        done.made_raw = self.made_raw;
        done.dead_tensors = self.dead_tensors;
        Ok(Slimmed {
            model,
            data: (!self.data.pieces.is_empty()).then_some(self.data),
            done,
        })
    }

    fn graph(&mut self, graph: &Field<'a>) -> Result<Rope<'a>, SlimError> {
        let file = self.file;
        let wire = |e: WireError| SlimError::Onnx(file.wire_error(e));
        // Declared shapes of inner values can be inferred again, unless an operator is nobody's standard.
        let standard = self
            .view
            .nodes
            .iter()
            .all(|n| matches!(n.domain, "" | "ai.onnx" | "ai.onnx.ml"));
        let mut out = Rope::default();
        let mut nodes = 0;
        for (name, source) in &self.plan.turned {
            out.push(Cow::Owned(self.transpose(source, name)));
        }
        let bytes = graph.bytes().map_err(wire)?;
        let mut fields = Fields::at(bytes, graph.at);
        while let Some((field, raw)) = next(&mut fields, bytes, graph.at).map_err(wire)? {
            match field.number {
                1 => {
                    if self.plan.nodes.get(nodes).copied().unwrap_or(true) {
                        let node = self.node(field.bytes().map_err(wire)?, &HashSet::new(), 0)?;
                        let mut m = Message::default();
                        m.message(1, &node);
                        out.push(Cow::Owned(m.0));
                    }
                    nodes += 1;
                }
                5 => {
                    let tensor = onnx_read::tensor(field.bytes().map_err(wire)?, field.at).map_err(wire)?;
                    if self.plan.needed.contains(tensor.name) && !self.plan.dropped.contains(tensor.name) {
                        let name = self.name(tensor.name).to_string();
                        self.tensor(5, &name, &tensor, &mut out)?;
                    } else {
                        self.dead_tensors += usize::from(!self.plan.dropped.contains(tensor.name));
                    }
                }
                10 | 16 => {}
                12 => {
                    let port = field.bytes().map_err(wire)?;
                    if self.plan.outputs.contains(port_name(port).map_err(wire)?) {
                        out.push(Cow::Owned(self.port(12, port).map_err(wire)?));
                    }
                }
                11 => {
                    let port = field.bytes().map_err(wire)?;
                    // Without its default an input must be given, so one that nothing reads goes with it.
                    let name = port_name(port).map_err(wire)?;
                    if self.plan.needed.contains(name) || !self.view.initializers.iter().any(|t| t.name == name) {
                        out.push(Cow::Owned(self.port(11, port).map_err(wire)?));
                    }
                }
                13 => {
                    let port = field.bytes().map_err(wire)?;
                    let name = port_name(port).map_err(wire)?;
                    if !standard && self.plan.needed.contains(name) && !self.plan.renamed.contains_key(name) {
                        out.push(Cow::Owned(self.port(13, port).map_err(wire)?));
                    }
                }
                _ => out.push(Cow::Owned(raw.to_vec())),
            }
        }
        Ok(out)
    }

    fn name(&self, name: &'a str) -> &str {
        let name = self.plan.resolve(name);
        self.short.get(name).map_or(name, String::as_str)
    }

    fn transpose(&self, source: &'a str, name: &'a str) -> Vec<u8> {
        let mut perm = Message::default();
        perm.text(1, "perm");
        perm.int(8, 1);
        perm.int(8, 0);
        perm.int(20, 7);
        let mut node = Message::default();
        node.text(1, self.name(source));
        node.text(2, self.name(name));
        node.text(4, "Transpose");
        node.message(5, &perm);
        let mut m = Message::default();
        m.message(1, &node);
        m.0
    }

    /// `local` holds the names a nested graph defines itself, which mean other values than the same names outside.
    fn node(&mut self, encoded: &'a [u8], local: &HashSet<&str>, depth: usize) -> Result<Message, SlimError> {
        let file = self.file;
        let wire = |e: WireError| SlimError::Onnx(file.wire_error(e));
        let mut m = Message::default();
        let mut fields = Fields::new(encoded);
        while let Some((field, raw)) = next(&mut fields, encoded, 0).map_err(wire)? {
            match field.number {
                number @ (1 | 2) => {
                    let name = field.text().map_err(wire)?;
                    m.text(number, if local.contains(name) { name } else { self.name(name) });
                }
                3 if self.options.short_names => {}
                5 => {
                    let attribute = self.attribute(field.bytes().map_err(wire)?, local, depth)?;
                    m.message(5, &attribute);
                }
                6 | 9 => {}
                _ => m.0.extend_from_slice(raw),
            }
        }
        Ok(m)
    }

    fn attribute(&mut self, encoded: &'a [u8], local: &HashSet<&str>, depth: usize) -> Result<Message, SlimError> {
        let file = self.file;
        let wire = |e: WireError| SlimError::Onnx(file.wire_error(e));
        let mut m = Message::default();
        let mut fields = Fields::new(encoded);
        while let Some((field, raw)) = next(&mut fields, encoded, 0).map_err(wire)? {
            match field.number {
                number @ (6 | 11) => {
                    let graph = self.nested(field.bytes().map_err(wire)?, local, depth + 1)?;
                    m.message(number, &graph);
                }
                number @ (5 | 10) => self.inner_tensor(number, &field, raw, &mut m)?,
                13 => {}
                _ => m.0.extend_from_slice(raw),
            }
        }
        Ok(m)
    }

    fn nested(&mut self, graph: &'a [u8], outer: &HashSet<&str>, depth: usize) -> Result<Message, SlimError> {
        let file = self.file;
        let wire = |e: WireError| SlimError::Onnx(file.wire_error(e));
        if depth > MAX_NESTING {
            return Err(wire(WireError::Mismatch { field: 6, at: 0 }));
        }
        let mut local: HashSet<&str> = outer.clone();
        local.extend(defined(graph).map_err(wire)?);
        let mut m = Message::default();
        let mut fields = Fields::new(graph);
        while let Some((field, raw)) = next(&mut fields, graph, 0).map_err(wire)? {
            match field.number {
                1 => {
                    let node = self.node(field.bytes().map_err(wire)?, &local, depth)?;
                    m.message(1, &node);
                }
                5 => self.inner_tensor(5, &field, raw, &mut m)?,
                10 | 16 => {}
                12 => {
                    let port = field.bytes().map_err(wire)?;
                    let name = port_name(port).map_err(wire)?;
                    if local.contains(name) {
                        m.0.extend_from_slice(raw);
                    } else {
                        m.0.extend_from_slice(&self.port(12, port).map_err(wire)?);
                    }
                }
                _ => m.0.extend_from_slice(raw),
            }
        }
        Ok(m)
    }

    /// A tensor inside an attribute or a nested graph: as it is, unless its numbers lie in another file.
    fn inner_tensor(&mut self, number: u32, field: &Field<'a>, raw: &[u8], out: &mut Message) -> Result<(), SlimError> {
        let file = self.file;
        let wire = |e: WireError| SlimError::Onnx(file.wire_error(e));
        let tensor = onnx_read::tensor(field.bytes().map_err(wire)?, field.at).map_err(wire)?;
        if !tensor.external {
            out.0.extend_from_slice(raw);
            return Ok(());
        }
        let mut rope = Rope::default();
        self.tensor(number, tensor.name, &tensor, &mut rope)?;
        rope.pieces.iter().for_each(|piece| out.0.extend_from_slice(piece));
        Ok(())
    }

    fn port(&self, number: u32, encoded: &'a [u8]) -> Result<Vec<u8>, WireError> {
        let mut port = Message::default();
        let mut fields = Fields::new(encoded);
        while let Some((field, raw)) = next(&mut fields, encoded, 0)? {
            match field.number {
                1 => port.text(1, self.name(field.text()?)),
                3 | 4 => {}
                _ => port.0.extend_from_slice(raw),
            }
        }
        let mut m = Message::default();
        m.message(number, &port);
        Ok(m.0)
    }

    /// Writes a tensor as field `number` under `name`.
    fn tensor(
        &mut self,
        number: u32,
        name: &str,
        tensor: &TensorView<'a>,
        out: &mut Rope<'a>,
    ) -> Result<(), SlimError> {
        let file = self.file;
        let wire = |e: WireError| SlimError::Onnx(file.wire_error(e));
        let mut head = Message::default();
        let mut typed = Message::default();
        let mut fields = Fields::new(tensor.encoded);
        while let Some((field, raw)) = next(&mut fields, tensor.encoded, 0).map_err(wire)? {
            match field.number {
                8 => head.text(8, name),
                // Payload and place are written below; doc strings and metadata are left out.
                9 | 12 | 13 | 14 | 16 => {}
                4..=7 | 10 | 11 => typed.0.extend_from_slice(raw),
                _ => head.0.extend_from_slice(raw),
            }
        }
        let mut payload: Option<Cow<'a, [u8]>> = None;
        if tensor.external {
            let bytes = file.payload(tensor)?;
            if self.options.one_file || bytes.len() < LEAST_EXTERNAL {
                payload = Some(bytes);
            } else {
                self.place(bytes, &mut head);
            }
        } else if let Some(raw) = tensor.payload {
            payload = Some(Cow::Borrowed(raw));
        } else if tensor_bytes(tensor).is_some() && !typed.0.is_empty() {
            let raw = file.payload(tensor)?;
            let mut header = Message::default();
            header.header(9, raw.len());
            if header.0.len() + raw.len() < typed.0.len() {
                self.made_raw += 1;
                payload = Some(Cow::Owned(raw.into_owned()));
            }
        }
        match payload {
            Some(payload) => {
                head.header(9, payload.len());
                let mut m = Message::default();
                m.header(number, head.0.len() + payload.len());
                m.0.extend_from_slice(&head.0);
                out.push(Cow::Owned(m.0));
                out.push(payload);
            }
            None => {
                if !tensor.external {
                    head.0.extend_from_slice(&typed.0);
                }
                let mut m = Message::default();
                m.message(number, &head);
                out.push(Cow::Owned(m.0));
            }
        }
        Ok(())
    }

    /// Puts a payload into the external file and says where.
    fn place(&mut self, bytes: Cow<'a, [u8]>, head: &mut Message) {
        let gap = self.data.len.next_multiple_of(self.align) - self.data.len;
        self.data.push(Cow::Owned(vec![0; gap as usize]));
        let entries = [
            ("location", self.data_name.to_string()),
            ("offset", self.data.len.to_string()),
            ("length", bytes.len().to_string()),
        ];
        for (key, value) in &entries {
            let mut entry = Message::default();
            entry.text(1, key);
            entry.text(2, value);
            head.message(13, &entry);
        }
        head.int(14, 1);
        self.data.push(bytes);
    }
}

/// The next field and the bytes it takes, key included; `base` is where `bytes` starts for the iterator.
fn next<'a>(fields: &mut Fields<'a>, bytes: &'a [u8], base: usize) -> Result<Option<(Field<'a>, &'a [u8])>, WireError> {
    let start = fields.here() - base;
    let Some(field) = fields.next().transpose()? else {
        return Ok(None);
    };
    Ok(Some((field, &bytes[start..fields.here() - base])))
}

/// Names a nested graph defines: its inputs, initializers, sparse ones too, and node outputs.
fn defined(graph: &[u8]) -> Result<Vec<&str>, WireError> {
    let mut names = Vec::new();
    for field in Fields::new(graph) {
        let field = field?;
        match field.number {
            1 => names.extend(onnx_read::node(field.fields()?)?.outputs),
            5 => names.push(onnx_read::tensor(field.bytes()?, field.at)?.name),
            11 => names.push(port_name(field.bytes()?)?),
            // A sparse tensor goes by the name of its values.
            15 => {
                for part in field.fields()? {
                    let part = part?;
                    if part.number == 1 {
                        names.push(onnx_read::tensor(part.bytes()?, part.at)?.name);
                    }
                }
            }
            _ => {}
        }
    }
    names.retain(|n| !n.is_empty());
    Ok(names)
}

/// Every name defined in graphs nested in `node`.
pub fn defined_within<'a>(
    attributes: &[&'a [u8]],
    names: &mut HashSet<&'a str>,
    depth: usize,
) -> Result<(), WireError> {
    if depth > MAX_NESTING {
        return Err(WireError::Mismatch { field: 6, at: 0 });
    }
    for encoded in attributes {
        for graph in onnx_read::attribute(encoded)?.graphs {
            names.extend(defined(graph)?);
            for field in Fields::new(graph) {
                let field = field?;
                if field.number == 1 {
                    defined_within(&onnx_read::node(field.fields()?)?.attributes, names, depth + 1)?;
                }
            }
        }
    }
    Ok(())
}

/// A short name for every inner value that is kept. Files with sparse tensors keep their names: those are not looked into.
fn short_names<'a>(view: &ModelView<'a>, plan: &Plan<'a>) -> Result<HashMap<&'a str, String>, WireError> {
    let mut short = HashMap::new();
    if view.sparse {
        return Ok(short);
    }
    let mut fixed: HashSet<&str> = plan.outputs.iter().copied().collect();
    for port in &view.inputs {
        fixed.insert(port_name(port)?);
    }
    let taken: HashSet<&str> = fixed.union(&plan.nested).copied().collect();
    let inner = view
        .initializers
        .iter()
        .map(|t| t.name)
        .chain(view.nodes.iter().flat_map(|n| n.outputs.iter().copied()));
    let mut counter = 0usize;
    for name in inner.filter(|n| !n.is_empty()) {
        if fixed.contains(name) || plan.renamed.contains_key(name) || short.contains_key(name) {
            continue;
        }
        let chosen = loop {
            let candidate = base36(counter);
            counter += 1;
            if !taken.contains(candidate.as_str()) {
                break candidate;
            }
        };
        short.insert(name, chosen);
    }
    Ok(short)
}

fn base36(mut n: usize) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[n % 36]);
        n /= 36;
        if n == 0 {
            break;
        }
    }
    digits.reverse();
    // A name that starts with a digit is legal, and some readers still choke on it.
    format!("v{}", String::from_utf8_lossy(&digits))
}
