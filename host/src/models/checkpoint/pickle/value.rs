//! What a pickle of torch's holds, in an arena: values refer to each other by index, so a value used many times through the
//! memo costs what its bytes in the file cost. Classes and functions are names; none is ever called.

use crate::models::checkpoint::raw::Dtype;
use std::rc::Rc;

/// A value's place in the arena.
pub type Id = usize;

/// A storage, as a persistent id describes it; counts are in elements of `dtype`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The name of its record in an archive, or of its place in a stream.
    pub key: String,
    pub dtype: Dtype,
    /// Bytes of one element.
    pub width: u64,
    pub len: u64,
    /// Where a view that streams before 1.6 could name starts in it.
    pub start: u64,
}

/// A view of a storage, as `_rebuild_tensor_v2` was told; all counts are in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strided {
    pub storage: Rc<Storage>,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

#[derive(Clone, Debug)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict {
        ordered: bool,
        items: Vec<(Id, Id)>,
    },
    Global(Global),
    Storage(Rc<Storage>),
    Tensor(Rc<Strided>),
    /// Floats, bytes, sets and integers of more than eight bytes: nothing a state dict is read from.
    Plain(&'static str),
    /// What a call that is not carried out would have made.
    Object {
        class: Foreign,
        /// Whether its state is that of a `torch.nn.Module`.
        module: bool,
    },
}

impl Value {
    /// With its article, for errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an integer",
            Value::Text(_) => "a string",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict { .. } => "a dictionary",
            Value::Global(_) => "a global",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
            Value::Plain(kind) => kind,
            Value::Object { .. } => "an object",
        }
    }
}

/// A class or function by the texts that name its module and itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub module: Id,
    pub name: Id,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    RebuildFromType,
    Reconstructor,
    Size,
    /// Element type, and bytes of one element.
    Storage(Dtype, u64),
    /// Any other: what it makes is opaque.
    Foreign(Foreign),
}

/// torch's storages, by class: element type, and bytes of one element.
const STORAGES: [(&str, Dtype, u64); 18] = [
    ("FloatStorage", Dtype::F32, 4),
    ("HalfStorage", Dtype::F16, 2),
    ("BFloat16Storage", Dtype::Bf16, 2),
    ("DoubleStorage", Dtype::F64, 8),
    ("LongStorage", Dtype::Other("int64"), 8),
    ("IntStorage", Dtype::Other("int32"), 4),
    ("ShortStorage", Dtype::Other("int16"), 2),
    ("CharStorage", Dtype::Other("int8"), 1),
    ("ByteStorage", Dtype::Other("uint8"), 1),
    ("BoolStorage", Dtype::Other("bool"), 1),
    ("ComplexFloatStorage", Dtype::Other("complex64"), 8),
    ("ComplexDoubleStorage", Dtype::Other("complex128"), 16),
    ("QUInt8Storage", Dtype::Other("quint8"), 1),
    ("QInt8Storage", Dtype::Other("qint8"), 1),
    ("QInt32Storage", Dtype::Other("qint32"), 4),
    ("QUInt4x2Storage", Dtype::Other("quint4x2"), 1),
    ("QUInt2x4Storage", Dtype::Other("quint2x4"), 1),
    ("UntypedStorage", Dtype::Other("untyped bytes"), 1),
];

/// The globals a state dict of plain tensors needs.
pub fn known(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
        ("torch._tensor" | "torch.tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => Global::RebuildFromType,
        ("copyreg" | "copy_reg", "_reconstructor") => Global::Reconstructor,
        ("torch", "Size") => Global::Size,
        ("torch" | "torch.cuda" | "torch.storage", class) => {
            let (_, dtype, width) = STORAGES.iter().find(|(known, ..)| *known == class)?;
            Global::Storage(*dtype, *width)
        }
        _ => return None,
    })
}

/// Modules, and how the names of functions in them begin that pickles which attack a reader call. A file with one of them is
/// refused whole; what else lies beside weights is never called and does no harm.
const ATTACKS: [(&[&str], &[&str]); 13] = [
    (
        &["os", "posix", "nt"],
        &[
            "system",
            "popen",
            "exec",
            "spawn",
            "posix_spawn",
            "startfile",
            "fork",
            "kill",
            "remove",
            "unlink",
            "rename",
            "replace",
            "rmdir",
            "putenv",
            "open",
            "chmod",
        ],
    ),
    (&["subprocess", "commands", "pty", "runpy", "webbrowser"], &[""]),
    (&["_posixsubprocess", "asyncio.subprocess", "popen2"], &[""]),
    (
        &["importlib", "importlib._bootstrap", "imp"],
        &["import_module", "__import__", "reload", "load_"],
    ),
    (&["pip", "pip._internal", "pip._internal.cli.main"], &["main"]),
    (&["shutil"], &["rmtree", "move", "copy", "unpack_archive", "chown"]),
    (&["socket"], &["socket", "create_", "fromfd"]),
    (&["sys"], &["modules", "exit", "set"]),
    (
        &["ctypes"],
        &["CDLL", "PyDLL", "WinDLL", "cdll", "CFUNCTYPE", "memmove"],
    ),
    (
        &["code", "pdb"],
        &["interact", "Interactive", "run", "set_trace", "Pdb"],
    ),
    (&["requests", "requests.api"], &["get", "post", "put", "request"]),
    (
        &["urllib", "urllib.request", "urllib2"],
        &["urlopen", "urlretrieve", "Request"],
    ),
    (&["torch", "torch.serialization", "torch.hub"], &["load"]),
];
/// The same among Python's own functions, whole names.
const ATTACKING_BUILTINS: [&str; 8] = [
    "eval",
    "exec",
    "compile",
    "open",
    "__import__",
    "execfile",
    "breakpoint",
    "input",
];

/// Whether a global is one that attacks are made of.
pub fn attacks(module: &str, name: &str) -> bool {
    let begins = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    ATTACKS
        .iter()
        .any(|(modules, starts)| modules.contains(&module) && begins(starts))
        || (["builtins", "__builtin__"].contains(&module) && ATTACKING_BUILTINS.contains(&name))
}
