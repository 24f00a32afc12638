//! An ONNX file of anybody's, opened: the file and the files its tensors point to are mapped, and numbers are read only when
//! asked for. In comes a path, out come borrowed views and payloads as little-endian bytes in the tensor's own order.

pub mod element;
pub(crate) mod flow;
pub(crate) mod kinds;
pub(crate) mod same;
pub mod slim;

use crate::render::text::printable;
use element::bits;
pub use element::element_type;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use thimble_device::image::mmap::{MapError, ModelMap};
use thimble_shared::file_kind::FileKind;
use thimble_shared::onnx::protobuf::{Field, FieldValue, Fields, WireError};
use thimble_shared::onnx::reader::{self, ModelView, ReadError, TensorView};

/// Why an ONNX file of anybody's cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// A file could not be mapped, or was written to while it was in use.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The file is not a sound `ModelProto`.
    #[error("{path}: {source}", path = .path.display())]
    Read {
        /// The ONNX file.
        path: PathBuf,
        /// What is wrong with its bytes.
        source: ReadError,
    },
    /// The numbers of one tensor cannot be read: their type, size or place.
    #[error("{path}: tensor '{tensor}': {problem}", path = .path.display())]
    Tensor {
        /// The ONNX file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// One node cannot be read.
    #[error("{path}: node '{node}': {problem}", path = .path.display())]
    Node {
        /// The ONNX file.
        path: PathBuf,
        /// Name of the node or of its first output.
        node: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is sound and larger, deeper or otherwise than is read.
    #[error("{path}: {problem}", path = .path.display())]
    File {
        /// The ONNX file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
}

/// Graphs may nest (If, Loop, Scan); no exporter nests them deeper than this.
pub const MAX_NESTING: usize = 32;

/// The next field of `bytes`, which begin at `base` in the file, with its own bytes, header included.
pub(crate) fn next_field<'a>(
    fields: &mut Fields<'a>,
    bytes: &'a [u8],
    base: usize,
) -> Result<Option<(Field<'a>, &'a [u8])>, WireError> {
    let start = fields.here() - base;
    let Some(field) = fields.next().transpose()? else {
        return Ok(None);
    };
    Ok(Some((field, &bytes[start..fields.here() - base])))
}

/// An opened ONNX file and the external files of its tensors, all mapped.
pub struct OnnxFile {
    /// As it was given; external files are looked for beside it.
    pub path: PathBuf,
    content: Content,
    /// Which of `externals` each name that tensors use stands for: "m.bin" and "./m.bin" are one file.
    locations: BTreeMap<String, usize>,
    externals: Vec<External>,
}

/// The bytes of the model itself.
enum Content {
    Mapped(ModelMap),
    /// Made of the file at the path, whose numbers may still lie beside it.
    Made(Vec<u8>),
}

/// A file that external tensors point to.
struct External {
    /// The first name it goes by.
    name: String,
    /// Its bytes, or why they cannot be used.
    map: Result<ModelMap, String>,
}

impl OnnxFile {
    /// Opens the file and what it refers to. A file that cannot be found is an error only when its numbers are asked for.
    ///
    /// # Errors
    /// Where the file cannot be mapped or is no sound ONNX file; an external file that is missing is an error when its numbers
    /// are asked for.
    pub fn open(path: &Path) -> Result<OnnxFile, OnnxError> {
        OnnxFile::with(path, Content::Mapped(ModelMap::open(path, false)?))
    }

    /// A model that was made in memory of the file at `path`: what its external tensors point to lies where it lay.
    pub fn made(path: &Path, bytes: Vec<u8>) -> Result<OnnxFile, OnnxError> {
        OnnxFile::with(path, Content::Made(bytes))
    }

    fn with(path: &Path, content: Content) -> Result<OnnxFile, OnnxError> {
        let mut file = OnnxFile {
            path: path.to_path_buf(),
            content,
            locations: BTreeMap::new(),
            externals: Vec::new(),
        };
        let mut names: BTreeSet<String> = BTreeSet::new();
        for tensor in file.tensors(&file.view()?)? {
            names.extend(tensor.view.location().map(str::to_string));
        }
        let mut known: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for name in names {
            let place = beside(path, &name);
            let next = file.externals.len();
            let index = match &place {
                Ok(place) => *known.entry(place.clone()).or_insert(next),
                Err(_) => next,
            };
            if index == next {
                let map = place.and_then(|place| map_external(&place, &name));
                file.externals.push(External {
                    name: name.clone(),
                    map,
                });
            }
            file.locations.insert(name, index);
        }
        Ok(file)
    }

    /// Every file the model lies in: its own, and those its tensors point to.
    pub fn paths(&self) -> Vec<PathBuf> {
        let beside = self.externals.iter().map(|e| self.path.with_file_name(&e.name));
        [self.path.clone()].into_iter().chain(beside).collect()
    }

    /// The ONNX file's own bytes, without external files.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped(map) => map.bytes(),
            Content::Made(bytes) => bytes,
        }
    }

    /// Gives back the pages of `part`, numbers in one of the files: see [`ModelMap::release`].
    pub fn release(&self, part: &[u8]) {
        let own = match &self.content {
            Content::Mapped(map) => Some(map),
            Content::Made(_) => None,
        };
        let beside = self.externals.iter().filter_map(|e| e.map.as_ref().ok());
        own.into_iter().chain(beside).for_each(|map| map.release(part));
    }

    /// An error where somebody wrote to one of them since it was opened.
    ///
    /// # Errors
    /// [`MapError::Changed`].
    pub fn unchanged(&self) -> Result<(), MapError> {
        let beside = self.externals.iter().filter_map(|e| e.map.as_ref().ok());
        let own = match &self.content {
            Content::Mapped(map) => Some(map),
            Content::Made(_) => None,
        };
        own.into_iter().chain(beside).try_for_each(|map| map.file().unchanged())
    }

    /// Names, shapes and byte ranges of the file; nothing is copied.
    ///
    /// # Errors
    /// [`OnnxError::Read`] where the bytes are no ONNX model.
    pub fn view(&self) -> Result<ModelView<'_>, OnnxError> {
        reader::model(self.bytes()).map_err(|source| self.read_error(source))
    }

    fn read_error(&self, source: ReadError) -> OnnxError {
        OnnxError::Read {
            path: self.path.clone(),
            source,
        }
    }

    /// A wire error with the file's path.
    pub fn wire_error(&self, source: WireError) -> OnnxError {
        self.read_error(ReadError::Wire(source))
    }

    /// Names, in order, of the files tensors point to, with their bytes or what is wrong with them.
    pub fn externals(&self) -> impl Iterator<Item = (&str, Result<&[u8], &str>)> {
        self.externals.iter().map(|e| {
            (
                e.name.as_str(),
                e.map.as_ref().map(ModelMap::bytes).map_err(String::as_str),
            )
        })
    }

    /// Where an external tensor's numbers lie: the file, as an index into [`OnnxFile::externals`], and the bytes of it.
    pub fn external(&self, tensor: &TensorView<'_>) -> Result<(usize, Range<usize>), String> {
        let (location, (start, length)) = external_range(tensor)?;
        let Some(&index) = self.locations.get(location) else {
            return Err(format!("external file '{}' was not opened", printable(location)));
        };
        let bytes = match &self.externals[index].map {
            Ok(map) => map.bytes().len(),
            Err(problem) => return Err(problem.clone()),
        };
        // Without a length there are as many bytes as the dims ask for: other tensors may follow.
        let end = match length.or_else(|| tensor_bytes(tensor)) {
            Some(length) => start.checked_add(length),
            None => Some(bytes),
        };
        match end {
            Some(end) if start <= end && end <= bytes => Ok((index, start..end)),
            _ => Err(format!(
                "lies at byte {start} of '{}', which has {bytes} bytes",
                printable(location)
            )),
        }
    }

    /// Every tensor of the file in the order it stands there: initializers and tensors inside attributes, nested graphs too.
    pub fn tensors<'a>(&self, view: &ModelView<'a>) -> Result<Vec<Held<'a>>, OnnxError> {
        let mut held: Vec<Held<'a>> = Vec::new();
        held.extend(view.initializers.iter().map(|t| Held {
            name: t.name,
            place: PayloadPlace::Initializer,
            view: t.clone(),
        }));
        let wire = |e| self.wire_error(e);
        for encoded in &view.sparse {
            sparse_tensors(encoded, PayloadPlace::Sparse, &mut held).map_err(wire)?;
        }
        for node in &view.nodes {
            node_tensors(node, &mut held, 0).map_err(wire)?;
        }
        for function in &view.functions {
            function_tensors(function, &mut held).map_err(wire)?;
        }
        Ok(held)
    }

    fn tensor_error(&self, tensor: &str, problem: String) -> OnnxError {
        OnnxError::Tensor {
            path: self.path.clone(),
            tensor: printable(tensor),
            problem,
        }
    }

    /// The stored bytes of a tensor wherever they lie, with no regard to how many there should be.
    pub fn stored<'a>(&'a self, tensor: &TensorView<'a>) -> Result<Cow<'a, [u8]>, OnnxError> {
        let bad = |problem: String| self.tensor_error(tensor.name, problem);
        if tensor.external {
            let (index, range) = self.external(tensor).map_err(bad)?;
            let bytes = self.externals[index].map.as_ref().map_err(|e| bad(e.clone()))?.bytes();
            return Ok(Cow::Borrowed(&bytes[range]));
        }
        match tensor.payload {
            Some(raw) => Ok(Cow::Borrowed(raw)),
            None => typed(tensor).map(Cow::Owned).map_err(bad),
        }
    }

    /// A tensor's numbers as bytes, as many as its dims and element type ask for.
    pub fn payload<'a>(&'a self, tensor: &TensorView<'a>) -> Result<Cow<'a, [u8]>, OnnxError> {
        let bytes = self.stored(tensor)?;
        match tensor_bytes(tensor) {
            Some(wanted) if wanted == bytes.len() => Ok(bytes),
            Some(wanted) => Err(self.tensor_error(
                tensor.name,
                format!(
                    "dims {:?} of {} take {wanted} bytes, {} are stored",
                    tensor.dims,
                    element_type(tensor.data_type),
                    bytes.len()
                ),
            )),
            None => Err(self.tensor_error(
                tensor.name,
                format!(
                    "dims {:?} of {} have no size in bytes",
                    tensor.dims,
                    element_type(tensor.data_type)
                ),
            )),
        }
    }
}

/// Where a tensor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadPlace {
    /// An initializer of the main graph.
    Initializer,
    /// The value of a `Constant` node of the main graph; its name is the node's output.
    Constant,
    /// The values or the indices of a sparse initializer of the main graph; the name is the values'.
    Sparse,
    /// Any other attribute, or anything in a nested graph or a function.
    Inner,
}

impl PayloadPlace {
    /// Whether a value of the main graph is this tensor and nothing else: another one can stand in for it.
    pub fn is_value(self) -> bool {
        matches!(self, PayloadPlace::Initializer | PayloadPlace::Constant)
    }
}

/// A tensor of the file and what holds it.
#[derive(Clone, Debug)]
pub struct Held<'a> {
    /// Name of the tensor; for a node's attribute the name of the node's first output.
    pub name: &'a str,
    /// What kind of holder it is.
    pub place: PayloadPlace,
    /// Its type, shape and place of its numbers.
    pub view: TensorView<'a>,
}

fn node_tensors<'a>(node: &reader::NodeView<'a>, held: &mut Vec<Held<'a>>, depth: usize) -> Result<(), WireError> {
    let name = node.outputs.first().copied().unwrap_or_default();
    for encoded in &node.attributes {
        let constant = depth == 0 && node.op == "Constant";
        attribute_tensors(encoded, name, constant, held, depth)?;
    }
    Ok(())
}

/// The tensors of an attribute of the node that makes `name`.
fn attribute_tensors<'a>(
    encoded: &'a [u8],
    name: &'a str,
    constant: bool,
    held: &mut Vec<Held<'a>>,
    depth: usize,
) -> Result<(), WireError> {
    let attribute = reader::attribute(encoded)?;
    let place = match attribute.name {
        "value" if constant => PayloadPlace::Constant,
        _ => PayloadPlace::Inner,
    };
    held.extend(attribute.tensor.map(|view| Held { name, place, view }));
    let listed = attribute.tensors.into_iter().map(|view| Held {
        name,
        place: PayloadPlace::Inner,
        view,
    });
    held.extend(listed);
    for sparse in attribute.sparse {
        sparse_tensors(sparse, PayloadPlace::Inner, held)?;
    }
    for graph in attribute.graphs {
        graph_tensors(graph, held, depth + 1)?;
    }
    Ok(())
}

fn sparse_tensors<'a>(encoded: &'a [u8], place: PayloadPlace, held: &mut Vec<Held<'a>>) -> Result<(), WireError> {
    let parts = reader::sparse(encoded)?;
    let name = reader::sparse_name(encoded)?;
    held.extend(parts.into_iter().map(|view| Held { name, place, view }));
    Ok(())
}

/// Tensors in the nodes of a `FunctionProto`, and in the defaults of its attributes.
fn function_tensors<'a>(function: &'a [u8], held: &mut Vec<Held<'a>>) -> Result<(), WireError> {
    for field in Fields::new(function) {
        let field = field?;
        match field.number {
            7 => node_tensors(&reader::node(field.fields()?)?, held, 1)?,
            11 => attribute_tensors(field.bytes()?, "", false, held, 1)?,
            _ => {}
        }
    }
    Ok(())
}

fn graph_tensors<'a>(graph: &'a [u8], held: &mut Vec<Held<'a>>, depth: usize) -> Result<(), WireError> {
    if depth > MAX_NESTING {
        return Err(WireError::Nesting(MAX_NESTING));
    }
    for field in Fields::new(graph) {
        let field = field?;
        match field.number {
            1 => node_tensors(&reader::node(field.fields()?)?, held, depth)?,
            5 => {
                let view = reader::tensor(field.bytes()?, field.at)?;
                held.push(Held {
                    name: view.name,
                    place: PayloadPlace::Inner,
                    view,
                });
            }
            15 => sparse_tensors(field.bytes()?, PayloadPlace::Inner, held)?,
            _ => {}
        }
    }
    Ok(())
}

/// What external tensors say of their place.
pub trait Location<'a> {
    /// The external file's name, relative to the ONNX file; `None` where the numbers are in the ONNX file itself.
    fn location(&self) -> Option<&'a str>;
}

impl<'a> Location<'a> for TensorView<'a> {
    fn location(&self) -> Option<&'a str> {
        let found = self.external_data.iter().find(|(k, _)| *k == "location");
        found.map(|(_, v)| *v).filter(|_| self.external)
    }
}

/// File, offset and (if stated) length of an external tensor's bytes.
fn external_range<'a>(tensor: &TensorView<'a>) -> Result<(&'a str, (usize, Option<usize>)), String> {
    let entry = |key: &str| tensor.external_data.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
    // Of a key that stands twice some readers take the first, others the last.
    for key in ["location", "offset", "length"] {
        if tensor.external_data.iter().filter(|(k, _)| *k == key).count() > 1 {
            return Err(format!("says its external {key} twice"));
        }
    }
    let number = |key: &str| {
        entry(key)
            .map(|v| {
                v.parse::<usize>()
                    .map_err(|_| format!("external {key} '{}' is no number", printable(v)))
            })
            .transpose()
    };
    let location = entry("location").ok_or("is external and names no file")?;
    Ok((location, (number("offset")?.unwrap_or(0), number("length")?)))
}

/// The path of `location`, which must lie in the folder of `model` or below it, symbolic links resolved. Where the model is
/// itself a link, as in Hugging Face's cache, its numbers may lie in the folder that the model lies in. A hard link is a
/// name like any other and is read: none can be made to a file its maker could not open, and caches make them.
fn beside(model: &Path, location: &str) -> Result<PathBuf, String> {
    let shown = printable(location);
    let relative = Path::new(location);
    let inside = relative
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside || location.is_empty() {
        return Err(format!("external file '{shown}' points outside the model's folder"));
    }
    let folder = match model.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let missing = |e: std::io::Error| format!("external file '{shown}': {e}");
    let folder = folder.canonicalize().map_err(missing)?;
    let path = folder.join(relative).canonicalize().map_err(missing)?;
    let model = model.canonicalize().map_err(missing)?;
    let same_store = model.parent().is_some() && model.parent() == path.parent();
    if !path.starts_with(&folder) && !same_store {
        return Err(format!("external file '{shown}' points outside the model's folder"));
    }
    // Its bytes would count twice, and numbers that lie in messages are nobody's weights.
    if model == path {
        return Err(format!("external file '{shown}' is the model itself"));
    }
    Ok(path)
}

fn map_external(path: &Path, location: &str) -> Result<ModelMap, String> {
    let map = ModelMap::open(path, false).map_err(|e| format!("external file '{}': {e}", printable(location)))?;
    // Numbers have no mark; what stands in the place of a file that was not fetched has.
    match FileKind::of(map.bytes()) {
        kind @ (FileKind::LfsPointer(_) | FileKind::Html) => {
            Err(format!("external file '{}' is {kind}", printable(location)))
        }
        _ => Ok(map),
    }
}

/// Bytes a tensor's dims and element type ask for.
pub fn tensor_bytes(tensor: &TensorView<'_>) -> Option<usize> {
    let bits = bits(tensor.data_type)?;
    let count = tensor
        .dims
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))?;
    Some(count.checked_mul(bits)?.div_ceil(8))
}

/// `float_data`, `int32_data`, `int64_data`, `double_data` or `uint64_data` as the bytes `raw_data` would hold.
fn typed(tensor: &TensorView<'_>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let wide = |e: WireError| e.to_string();
    for field in Fields::new(tensor.encoded) {
        let field = field.map_err(wide)?;
        match (field.number, field.value) {
            (4 | 10, FieldValue::Bytes(packed)) => out.extend_from_slice(packed),
            (4, FieldValue::Fixed32(bits)) => out.extend_from_slice(&bits.to_le_bytes()),
            (10, FieldValue::Fixed64(bits)) => out.extend_from_slice(&bits.to_le_bytes()),
            (5, _) => field
                .ints(|i| match tensor.data_type {
                    2 | 3 | 9 | 17..=26 => out.push(i as u8),
                    4 | 5 | 10 | 16 => out.extend_from_slice(&(i as u16).to_le_bytes()),
                    _ => out.extend_from_slice(&(i as i32).to_le_bytes()),
                })
                .map_err(wide)?,
            (7, _) => field.ints(|i| out.extend_from_slice(&i.to_le_bytes())).map_err(wide)?,
            (11, _) => field
                .ints(|i| match tensor.data_type {
                    12 => out.extend_from_slice(&(i as u32).to_le_bytes()),
                    _ => out.extend_from_slice(&i.to_le_bytes()),
                })
                .map_err(wide)?,
            (6, _) => return Err("holds text, not numbers".into()),
            _ => {}
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::onnx::protobuf::Message;

    #[test]
    fn typed_fields_become_the_bytes_raw_data_would_hold() {
        let tensor = |data_type: i64, field: u32, values: &[i64]| {
            let mut m = Message::default();
            m.int(2, data_type);
            m.packed(field, values);
            m.0
        };
        let cases: [(i64, u32, &[i64], &[u8]); 4] = [
            (3, 5, &[-1, 2], &[255, 2]),
            (10, 5, &[0x3c00], &[0, 0x3c]),
            (6, 5, &[-2], &[254, 255, 255, 255]),
            (7, 7, &[1], &[1, 0, 0, 0, 0, 0, 0, 0]),
        ];
        for (data_type, field, values, want) in cases {
            let encoded = tensor(data_type, field, values);
            assert_eq!(typed(&reader::tensor(&encoded, 0).unwrap()).unwrap(), want);
        }
    }

    #[test]
    fn external_files_outside_the_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(dir.path().join("out.bin"), b"x").unwrap();
        std::fs::write(inner.join("in.bin"), b"x").unwrap();
        std::os::unix::fs::symlink("../out.bin", inner.join("link.bin")).unwrap();
        let model = inner.join("model.onnx");
        std::fs::write(&model, b"x").unwrap();
        assert_eq!(beside(&model, "in.bin"), beside(&model, "./in.bin"));
        assert!(beside(&model, "in.bin").is_ok());
        for bad in [
            "../out.bin",
            "/etc/passwd",
            "link.bin",
            "",
            "none.bin",
            "model.onnx",
            "a/../../out.bin",
        ] {
            assert!(beside(&model, bad).is_err(), "{bad}");
        }
    }
}
