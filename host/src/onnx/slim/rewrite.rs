//! Writes the smaller file: copies an ONNX model field by field in the order it had, with names changed and fields left out
//! as the plan says. Unknown fields are copied as they are; payloads are borrowed, never held twice.

use super::chunks::Chunks;
use super::{Layout, SlimError, SlimOptions, SlimPlan, Slimmed};
use crate::onnx::flow::{Flow, port_name};
use crate::onnx::kinds::Kinds;
use crate::onnx::{MAX_NESTING, OnnxFile, next_field, tensor_bytes};
use crate::render::text::printable;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use thimble_shared::onnx::protobuf::{Field, Fields, Message, WireError};
use thimble_shared::onnx::reader::{self, ModelView, TensorView};

pub struct Rewriter<'a, 'p> {
    file: &'a OnnxFile,
    view: &'p ModelView<'a>,
    plan: &'p SlimPlan<'a>,
    options: &'p SlimOptions,
    data_name: &'p str,
    layout: Layout,
    short: HashMap<&'a str, String>,
    data: Chunks<'a>,
    /// What lies in `data` already: by the address it was mapped at, its length and where it went.
    placed: BTreeMap<usize, (usize, u64)>,
    made_raw: usize,
    dead_tensors: usize,
}

impl<'a, 'p> Rewriter<'a, 'p> {
    pub fn new(
        file: &'a OnnxFile,
        view: &'p ModelView<'a>,
        plan: &'p SlimPlan<'a>,
        options: &'p SlimOptions,
        data_name: &'p str,
        layout: Layout,
    ) -> Self {
        Rewriter {
            file,
            view,
            plan,
            options,
            data_name,
            layout,
            short: HashMap::new(),
            data: Chunks::default(),
            placed: BTreeMap::new(),
            made_raw: 0,
            dead_tensors: 0,
        }
    }

    fn wire(&self, e: WireError) -> SlimError {
        SlimError::Onnx(self.file.wire_error(e))
    }

    pub fn write(mut self) -> Result<Slimmed<'a>, SlimError> {
        let bytes = self.file.bytes();
        if self.options.short_names {
            self.short = short_names(self.view, self.plan).map_err(|e| self.wire(e))?;
        }
        let (mut model, mut graph) = (Chunks::default(), Chunks::default());
        // Protobuf takes a message that stands in several parts as one, and so does the view.
        let mut parts = Fields::new(bytes).flatten().filter(|f| f.number == 7).count();
        let mut nodes = 0;
        for (name, source) in &self.plan.turned {
            graph.message(1, self.transpose(source, name));
        }
        let mut fields = Fields::new(bytes);
        while let Some((field, raw)) = next_field(&mut fields, bytes, 0).map_err(|e| self.wire(e))? {
            match field.number {
                6 => {}
                14 if self.options.strip_metadata => {}
                7 => {
                    self.graph(&field, &mut nodes, &mut graph)?;
                    parts -= 1;
                    if parts == 0 {
                        self.inner_outputs(&mut graph)?;
                        model.message(7, std::mem::take(&mut graph));
                    }
                }
                25 => {
                    let function = field.bytes().map_err(|e| self.wire(e))?;
                    let function = self.function(function)?;
                    model.message(25, function);
                }
                _ => model.push(Cow::Borrowed(raw)),
            }
        }
        let mut done = self.plan.done.clone();
        done.made_raw = self.made_raw;
        done.dead_tensors = self.dead_tensors;
        Ok(Slimmed {
            model,
            data: (!self.data.pieces.is_empty()).then_some(self.data),
            done,
            layout: self.layout,
        })
    }

    /// Declares the inner values that became outputs: as the file declares them, or as their operators say.
    fn inner_outputs(&self, out: &mut Chunks<'a>) -> Result<(), SlimError> {
        if self.plan.inner.is_empty() {
            return Ok(());
        }
        let flow = Flow::of(self.view).map_err(|e| self.wire(e))?;
        let kinds = Kinds::of(self.view, &flow).map_err(|e| self.wire(e))?;
        let mut declared = HashMap::new();
        for port in &self.view.declared {
            declared.insert(port_name(port).map_err(|e| self.wire(e))?, *port);
        }
        for name in &self.plan.inner {
            if let Some(port) = declared.get(name) {
                out.message(12, self.port(port).map_err(|e| self.wire(e))?.into());
                continue;
            }
            let (mut port, mut kind, mut tensor) = <(Message, Message, Message)>::default();
            // An output is declared with its type and its number of dimensions, or the file is none that a checker takes.
            let (Some(element), Some(rank)) = (kinds.element(name), kinds.rank(name)) else {
                return Err(SlimError::Undeclared {
                    file: self.file.path.display().to_string(),
                    name: printable(name),
                });
            };
            tensor.int(1, element);
            let mut shape = Message::default();
            (0..rank).for_each(|_| shape.bytes(1, &[]));
            tensor.message(2, &shape);
            kind.message(1, &tensor);
            port.text(1, name);
            port.message(2, &kind);
            out.message(12, port.into());
        }
        Ok(())
    }

    /// Adds the graph, or one part of it, to `out`; `nodes` is how many nodes came before.
    fn graph(&mut self, graph: &Field<'a>, nodes: &mut usize, out: &mut Chunks<'a>) -> Result<(), SlimError> {
        let bytes = graph.bytes().map_err(|e| self.wire(e))?;
        let keeps_shapes = self.keeps_shapes();
        let stored: HashSet<&str> = self.view.initializers.iter().map(|t| t.name).collect();
        let mut fields = Fields::at(bytes, graph.at);
        while let Some((field, raw)) = next_field(&mut fields, bytes, graph.at).map_err(|e| self.wire(e))? {
            let inner = || field.bytes().map_err(|e| self.wire(e));
            match field.number {
                1 => {
                    if self.plan.nodes.get(*nodes).copied().unwrap_or(true) {
                        let node = self.node(inner()?, &HashSet::new(), 0)?;
                        out.message(1, node);
                    } else if let Some((name, source)) = self.plan.turned_at.get(nodes) {
                        out.message(1, self.transpose(source, name));
                    }
                    *nodes += 1;
                }
                5 => {
                    let tensor = reader::tensor(inner()?, field.at).map_err(|e| self.wire(e))?;
                    if self.keeps(tensor.name) {
                        let name = self.name(tensor.name).to_string();
                        out.message(5, self.tensor(&name, &tensor)?);
                    }
                }
                10 | 16 => {}
                12 => {
                    let port = inner()?;
                    if self.plan.outputs.contains(port_name(port).map_err(|e| self.wire(e))?) {
                        out.message(12, self.port(port).map_err(|e| self.wire(e))?.into());
                    }
                }
                11 => {
                    let port = inner()?;
                    // Without its default an input must be given, so one that nothing reads goes with it.
                    let name = port_name(port).map_err(|e| self.wire(e))?;
                    if self.plan.needed.contains(name) || (!stored.contains(name) && self.plan.inner.is_empty()) {
                        out.message(11, self.port(port).map_err(|e| self.wire(e))?.into());
                    }
                }
                13 => {
                    let port = inner()?;
                    let name = port_name(port).map_err(|e| self.wire(e))?;
                    let stays = self.plan.needed.contains(name) && !self.plan.inner.contains(&name);
                    if keeps_shapes && stays && !self.plan.renamed.contains_key(name) {
                        out.message(13, self.port(port).map_err(|e| self.wire(e))?.into());
                    }
                }
                15 => {
                    let encoded = inner()?;
                    let name = reader::sparse_name(encoded).map_err(|e| self.wire(e))?;
                    if self.keeps(name) {
                        let sparse = self.sparse(encoded, &HashSet::new())?;
                        out.message(15, sparse);
                    }
                }
                14 => {
                    if let Some(note) = self.annotation(inner()?).map_err(|e| self.wire(e))? {
                        out.message(14, note.into());
                    }
                }
                _ => out.push(Cow::Borrowed(raw)),
            }
        }
        Ok(())
    }

    /// Whether a stored tensor of the main graph stays; those that do not are counted.
    fn keeps(&mut self, name: &str) -> bool {
        let dropped = self.plan.dropped.contains(name);
        let keeps = self.plan.needed.contains(name) && !dropped;
        self.dead_tensors += usize::from(!keeps && !dropped);
        keeps
    }

    /// Whether the declared types and shapes of inner values stay. They are no mere comment: what a runtime cannot infer it
    /// takes from them, fuses accordingly, and rounds accordingly. What an operator of nobody's standard makes none can infer.
    fn keeps_shapes(&self) -> bool {
        let standard = |domain: &str| matches!(domain, "" | "ai.onnx" | "ai.onnx.ml");
        !self.options.strip_shapes || !self.view.nodes.iter().all(|n| standard(n.domain))
    }

    fn name(&self, name: &'a str) -> &str {
        let name = self.plan.resolve(name);
        self.short.get(name).map_or(name, String::as_str)
    }

    fn transpose(&self, source: &'a str, name: &'a str) -> Chunks<'a> {
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
        node.into()
    }

    /// `local` holds the names a nested graph defines itself, which mean other values than the same names outside.
    fn node(&mut self, encoded: &'a [u8], local: &HashSet<&str>, depth: usize) -> Result<Chunks<'a>, SlimError> {
        let mut out = Chunks::default();
        let mut fields = Fields::new(encoded);
        while let Some((field, raw)) = next_field(&mut fields, encoded, 0).map_err(|e| self.wire(e))? {
            match field.number {
                number @ (1 | 2) => {
                    let name = field.text().map_err(|e| self.wire(e))?;
                    out.text(number, if local.contains(name) { name } else { self.name(name) });
                }
                3 if self.options.short_names => {}
                5 => {
                    let attribute = field.bytes().map_err(|e| self.wire(e))?;
                    let attribute = self.attribute(attribute, local, depth)?;
                    out.message(5, attribute);
                }
                6 | 9 => {}
                _ => out.push(Cow::Borrowed(raw)),
            }
        }
        Ok(out)
    }

    fn attribute(&mut self, encoded: &'a [u8], local: &HashSet<&str>, depth: usize) -> Result<Chunks<'a>, SlimError> {
        let mut out = Chunks::default();
        let mut fields = Fields::new(encoded);
        while let Some((field, raw)) = next_field(&mut fields, encoded, 0).map_err(|e| self.wire(e))? {
            let inner = || field.bytes().map_err(|e| self.wire(e));
            match field.number {
                number @ (6 | 11) => {
                    let graph = self.nested(inner()?, local, depth + 1)?;
                    out.message(number, graph);
                }
                5 | 10 => self.inner_tensor(&field, raw, &mut out)?,
                number @ (22 | 23) => {
                    let sparse = self.sparse(inner()?, local)?;
                    out.message(number, sparse);
                }
                13 => {}
                _ => out.push(Cow::Borrowed(raw)),
            }
        }
        Ok(out)
    }

    fn nested(&mut self, graph: &'a [u8], outer: &HashSet<&str>, depth: usize) -> Result<Chunks<'a>, SlimError> {
        if depth > MAX_NESTING {
            return Err(self.wire(WireError::Mismatch { field: 6, at: 0 }));
        }
        let mut local: HashSet<&str> = outer.clone();
        local.extend(defined(graph).map_err(|e| self.wire(e))?);
        let mut out = Chunks::default();
        let mut fields = Fields::new(graph);
        while let Some((field, raw)) = next_field(&mut fields, graph, 0).map_err(|e| self.wire(e))? {
            let inner = || field.bytes().map_err(|e| self.wire(e));
            match field.number {
                1 => {
                    let node = self.node(inner()?, &local, depth)?;
                    out.message(1, node);
                }
                5 => self.inner_tensor(&field, raw, &mut out)?,
                15 => {
                    let sparse = self.sparse(inner()?, &local)?;
                    out.message(15, sparse);
                }
                10 | 16 => {}
                12 => {
                    let port = inner()?;
                    if local.contains(port_name(port).map_err(|e| self.wire(e))?) {
                        out.push(Cow::Borrowed(raw));
                    } else {
                        out.message(12, self.port(port).map_err(|e| self.wire(e))?.into());
                    }
                }
                _ => out.push(Cow::Borrowed(raw)),
            }
        }
        Ok(out)
    }

    /// A function of the model's own: all its names are its own, so only text is left out and external data moved.
    fn function(&mut self, function: &'a [u8]) -> Result<Chunks<'a>, SlimError> {
        let mut local: HashSet<&str> = HashSet::new();
        for field in Fields::new(function) {
            let field = field.map_err(|e| self.wire(e))?;
            match field.number {
                4 | 5 => {
                    local.insert(field.text().map_err(|e| self.wire(e))?);
                }
                7 => {
                    let node = field.fields().and_then(reader::node).map_err(|e| self.wire(e))?;
                    local.extend(node.inputs);
                    local.extend(node.outputs);
                }
                _ => {}
            }
        }
        let mut out = Chunks::default();
        let mut fields = Fields::new(function);
        while let Some((field, raw)) = next_field(&mut fields, function, 0).map_err(|e| self.wire(e))? {
            let inner = || field.bytes().map_err(|e| self.wire(e));
            match field.number {
                7 => {
                    let node = self.node(inner()?, &local, 1)?;
                    out.message(7, node);
                }
                8 | 14 => {}
                11 => {
                    let attribute = self.attribute(inner()?, &local, 1)?;
                    out.message(11, attribute);
                }
                _ => out.push(Cow::Borrowed(raw)),
            }
        }
        Ok(out)
    }

    /// A tensor inside an attribute or a nested graph: as it is, unless its numbers lie in another file.
    fn inner_tensor(&mut self, field: &Field<'a>, raw: &'a [u8], out: &mut Chunks<'a>) -> Result<(), SlimError> {
        let encoded = field.bytes().map_err(|e| self.wire(e))?;
        let tensor = reader::tensor(encoded, field.at).map_err(|e| self.wire(e))?;
        if tensor.external {
            out.message(field.number, self.tensor(tensor.name, &tensor)?);
        } else {
            out.push(Cow::Borrowed(raw));
        }
        Ok(())
    }

    /// A sparse tensor, whose values carry its name; its indices have none or one that nobody reads.
    fn sparse(&mut self, encoded: &'a [u8], local: &HashSet<&str>) -> Result<Chunks<'a>, SlimError> {
        let mut out = Chunks::default();
        let mut fields = Fields::new(encoded);
        while let Some((field, raw)) = next_field(&mut fields, encoded, 0).map_err(|e| self.wire(e))? {
            match field.number {
                number @ (1 | 2) => {
                    let part = field.bytes().map_err(|e| self.wire(e))?;
                    let part = reader::tensor(part, field.at).map_err(|e| self.wire(e))?;
                    let name = match number {
                        1 if !local.contains(part.name) => self.name(part.name).to_string(),
                        _ => part.name.to_string(),
                    };
                    out.message(number, self.tensor(&name, &part)?);
                }
                _ => out.push(Cow::Borrowed(raw)),
            }
        }
        Ok(out)
    }

    /// What a quantizer has said of a tensor (`TensorAnnotation`), under the names of now; none if anything it names is gone.
    fn annotation(&self, encoded: &'a [u8]) -> Result<Option<Message>, WireError> {
        let there = |name: &'a str| self.plan.needed.contains(self.plan.resolve(name));
        let mut note = Message::default();
        let mut fields = Fields::new(encoded);
        while let Some((field, raw)) = next_field(&mut fields, encoded, 0)? {
            match field.number {
                1 if !there(field.text()?) => return Ok(None),
                1 => note.text(1, self.name(field.text()?)),
                2 => {
                    let mut entry = Message::default();
                    let bytes = field.bytes()?;
                    let mut parts = Fields::new(bytes);
                    while let Some((part, raw)) = next_field(&mut parts, bytes, 0)? {
                        match part.number {
                            2 if !there(part.text()?) => return Ok(None),
                            2 => entry.text(2, self.name(part.text()?)),
                            _ => entry.0.extend_from_slice(raw),
                        }
                    }
                    note.message(2, &entry);
                }
                _ => note.0.extend_from_slice(raw),
            }
        }
        Ok(Some(note))
    }

    fn port(&self, encoded: &'a [u8]) -> Result<Message, WireError> {
        let mut port = Message::default();
        let mut fields = Fields::new(encoded);
        while let Some((field, raw)) = next_field(&mut fields, encoded, 0)? {
            match field.number {
                1 => port.text(1, self.name(field.text()?)),
                3 | 4 => {}
                _ => port.0.extend_from_slice(raw),
            }
        }
        Ok(port)
    }

    /// A tensor under the name `name`.
    fn tensor(&mut self, name: &str, tensor: &TensorView<'a>) -> Result<Chunks<'a>, SlimError> {
        let mut out = Chunks::default();
        let mut typed: Vec<&'a [u8]> = Vec::new();
        let mut typed_len = 0;
        let mut fields = Fields::new(tensor.encoded);
        while let Some((field, raw)) = next_field(&mut fields, tensor.encoded, 0).map_err(|e| self.wire(e))? {
            match field.number {
                8 => out.text(8, name),
                // Payload and place are written below; doc strings and metadata are left out.
                9 | 12 | 13 | 14 | 16 => {}
                4..=7 | 10 | 11 => {
                    typed_len += raw.len();
                    typed.push(raw);
                }
                _ => out.push(Cow::Borrowed(raw)),
            }
        }
        let mut payload: Option<Cow<'a, [u8]>> = None;
        if tensor.external {
            let bytes = self.file.payload(tensor)?;
            if self.options.one_file || bytes.len() < self.layout.least {
                payload = Some(bytes);
            } else {
                let place = self.place(bytes);
                out.push(Cow::Owned(place.0));
            }
        } else if let Some(raw) = tensor.payload {
            payload = Some(Cow::Borrowed(raw));
        } else {
            if tensor_bytes(tensor).is_some() && typed_len > 0 {
                let raw = self.file.payload(tensor)?;
                let mut header = Message::default();
                header.header(9, raw.len());
                if header.0.len() + raw.len() < typed_len {
                    self.made_raw += 1;
                    payload = Some(raw);
                }
            }
            if payload.is_none() {
                typed.into_iter().for_each(|raw| out.push(Cow::Borrowed(raw)));
            }
        }
        if let Some(payload) = payload {
            let mut header = Message::default();
            header.header(9, payload.len());
            out.push(Cow::Owned(header.0));
            out.push(payload);
        }
        Ok(out)
    }

    /// Puts a payload into the external file and says where. What tensors share stays shared.
    fn place(&mut self, bytes: Cow<'a, [u8]>) -> Message {
        let (start, length) = (bytes.as_ptr() as usize, bytes.len());
        let before = self.placed.range(..=start).next_back();
        let shared = before.and_then(|(&from, &(len, to))| {
            let inside = matches!(bytes, Cow::Borrowed(_)) && start + length <= from + len;
            inside.then_some(to + (start - from) as u64)
        });
        let offset = shared.unwrap_or_else(|| {
            let gap = self.data.len.next_multiple_of(self.layout.align) - self.data.len;
            self.data.push(Cow::Owned(vec![0; gap as usize]));
            // Other bytes have no address that says anything.
            if matches!(bytes, Cow::Borrowed(_)) {
                self.placed.insert(start, (length, self.data.len));
            }
            self.data.len
        });
        if shared.is_none() {
            self.data.push(bytes);
        }
        let entries = [
            ("location", self.data_name.to_string()),
            ("offset", offset.to_string()),
            ("length", length.to_string()),
        ];
        let mut place = Message::default();
        for (key, value) in &entries {
            let mut entry = Message::default();
            entry.text(1, key);
            entry.text(2, value);
            place.message(13, &entry);
        }
        place.int(14, 1);
        place
    }
}

/// Names a nested graph defines: its inputs, initializers, sparse ones too, and node outputs.
fn defined(graph: &[u8]) -> Result<Vec<&str>, WireError> {
    let mut names = Vec::new();
    for field in Fields::new(graph) {
        let field = field?;
        match field.number {
            1 => names.extend(reader::node(field.fields()?)?.outputs),
            5 => names.push(reader::tensor(field.bytes()?, field.at)?.name),
            11 => names.push(port_name(field.bytes()?)?),
            15 => names.push(reader::sparse_name(field.bytes()?)?),
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
        for graph in reader::attribute(encoded)?.graphs {
            names.extend(defined(graph)?);
            for field in Fields::new(graph) {
                let field = field?;
                if field.number == 1 {
                    defined_within(&reader::node(field.fields()?)?.attributes, names, depth + 1)?;
                }
            }
        }
    }
    Ok(())
}

/// A short name for every inner value that is kept.
fn short_names<'a>(view: &ModelView<'a>, plan: &SlimPlan<'a>) -> Result<HashMap<&'a str, String>, WireError> {
    let mut short = HashMap::new();
    let mut fixed: HashSet<&str> = plan.outputs.iter().copied().collect();
    for port in &view.inputs {
        fixed.insert(port_name(port)?);
    }
    let mut sparse = Vec::new();
    for encoded in &view.sparse {
        sparse.push(reader::sparse_name(encoded)?);
    }
    let inner: Vec<&str> = view
        .initializers
        .iter()
        .map(|t| t.name)
        .chain(sparse)
        .chain(view.nodes.iter().flat_map(|n| n.outputs.iter().copied()))
        .filter(|n| !n.is_empty())
        .collect();
    // A value whose name is short already keeps it, so no other may be given it.
    let mut taken: HashSet<&str> = fixed.union(&plan.nested).copied().collect();
    taken.extend(&inner);
    let mut counter = 0usize;
    for name in inner {
        if fixed.contains(name) || plan.renamed.contains_key(name) || short.contains_key(name) {
            continue;
        }
        let mut candidate = base36(counter);
        while taken.contains(candidate.as_str()) {
            counter += 1;
            candidate = base36(counter);
        }
        if candidate.len() < name.len() {
            short.insert(name, candidate);
            counter += 1;
        }
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
