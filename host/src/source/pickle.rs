//! Interprets the pickle that `torch.save` writes for a state dict, without executing anything: in comes `data.pkl`, out come
//! tensor descriptions (storage key, offset, shape, strides, in elements). Globals are labels from a short allow-list.
//!
//! Values live in an arena and refer to each other by index, so shared or nested values cost what their bytes in the
//! file cost: no recursion, no copies that multiply.

use super::PickleError;
use super::raw::Dtype;
use std::collections::{HashMap, HashSet};

/// A view of a storage, as `_rebuild_tensor_v2` was told; all counts are in elements of `dtype`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strided {
    pub key: String,
    pub dtype: Dtype,
    pub storage_len: u64,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
}

type Id = usize;

#[derive(Clone, Debug)]
enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict { ordered: bool, items: Vec<(Id, Id)> },
    Global(Global),
    Storage(Box<Storage>),
    Tensor(Box<Strided>),
}

/// A record of the archive, as a persistent id describes it.
#[derive(Clone, Debug)]
struct Storage {
    key: String,
    dtype: Dtype,
    len: u64,
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool => "a bool",
            Value::Int(_) => "an integer",
            Value::Float => "a float",
            Value::Text(_) => "a string",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict { .. } => "a dictionary",
            Value::Global(_) => "a global",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

/// The allow-list: what a state dict of plain tensors needs and nothing else.
fn global(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", storage) => Global::Storage(match storage {
            "FloatStorage" => Dtype::F32,
            "HalfStorage" => Dtype::F16,
            "BFloat16Storage" => Dtype::Bf16,
            "DoubleStorage" => Dtype::F64,
            "LongStorage" => Dtype::Other("int64"),
            "IntStorage" => Dtype::Other("int32"),
            "ShortStorage" => Dtype::Other("int16"),
            "CharStorage" => Dtype::Other("int8"),
            "ByteStorage" => Dtype::Other("uint8"),
            "BoolStorage" => Dtype::Other("bool"),
            _ => return None,
        }),
        _ => return None,
    })
}

/// The named tensors of a pickled state dict, in file order. On failure, also the byte the instruction starts at.
pub fn state_dict(bytes: &[u8]) -> Result<Vec<(String, Strided)>, (usize, PickleError)> {
    let mut machine = Machine {
        bytes,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = loop {
        let start = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => break root,
            Err(error) => return Err((start, error)),
        }
    };
    machine.tensors(root).map_err(|error| (machine.at, error))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

fn malformed<T>(problem: impl Into<String>) -> Result<T, PickleError> {
    Err(PickleError::Malformed(problem.into()))
}

impl<'a> Machine<'a> {
    /// Carries out one instruction; gives the root value at STOP.
    fn step(&mut self) -> Result<Option<Id>, PickleError> {
        if self.values.len() > MAX_VALUES {
            return malformed(format!("more than {MAX_VALUES} values"));
        }
        let code = self.u8()?;
        match code {
            0x80 => match self.u8()? {
                0..=5 => {}
                protocol => return malformed(format!("protocol {protocol} is unknown")),
            },
            // FRAME is a hint for buffered readers.
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.u8()?;
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                self.push(Value::Float);
            }
            b'X' => {
                let len = u32::from_le_bytes(self.array()?);
                self.text(len.into())?;
            }
            0x8c => {
                let len = self.u8()?;
                self.text(len.into())?;
            }
            b']' => self.push(Value::List(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            b'}' => self.push(Value::Dict {
                ordered: false,
                items: Vec::new(),
            }),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items));
            }
            0x85..=0x87 => {
                let count = (code - 0x84) as usize;
                let from = self.floor_checked(count)?;
                let items = self.stack.split_off(from);
                self.push(Value::Tuple(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.list()?.push(item);
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.list()?.extend(items);
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.dict()?.push((key, value));
            }
            b'u' => {
                let items = self.pop_mark()?;
                if items.len() % 2 != 0 {
                    return malformed("a key without a value");
                }
                self.dict()?
                    .extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            b'q' => {
                let slot = self.u8()?;
                self.remember(slot.into())?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.remember(slot)?;
            }
            0x94 => {
                let slot = self.memo.len() as u32;
                self.remember(slot)?;
            }
            b'h' => {
                let slot = self.u8()?;
                self.recall(slot.into())?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.recall(slot)?;
            }
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.push_global(&module, &name)?;
            }
            0x93 => {
                let name = self.pop_text("a global's name")?;
                let module = self.pop_text("a global's module")?;
                self.push_global(&module, &name)?;
            }
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            b'b' => {
                // The only state torch attaches is OrderedDict._metadata, which holds module versions.
                self.pop()?;
                match self.top()? {
                    Value::Dict { ordered: true, .. } => {}
                    other => return malformed(format!("BUILD sets attributes on {}", other.kind())),
                }
            }
            code => {
                return Err(PickleError::Opcode {
                    code,
                    name: opcode_name(code),
                });
            }
        }
        Ok(None)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PickleError> {
        let bytes: &'a [u8] = self.bytes;
        let end = self.at.checked_add(len).ok_or(PickleError::Truncated)?;
        let out = bytes.get(self.at..end).ok_or(PickleError::Truncated)?;
        self.at = end;
        Ok(out)
    }

    fn u8(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&b| b == b'\n').ok_or(PickleError::Truncated)?;
        let text = self.take(len)?;
        self.at += 1;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn text(&mut self, len: u64) -> Result<(), PickleError> {
        let len = usize::try_from(len).map_err(|_| PickleError::Truncated)?;
        match std::str::from_utf8(self.take(len)?) {
            Ok(text) => {
                self.push(Value::Text(text.to_string()));
                Ok(())
            }
            Err(_) => malformed("a string is not UTF-8"),
        }
    }

    /// LONG1: a little-endian two's complement integer of up to eight bytes.
    fn long(&mut self) -> Result<(), PickleError> {
        let len = self.u8()? as usize;
        let digits = self.take(len)?;
        if len > 8 {
            return malformed(format!("an integer of {len} bytes"));
        }
        let fill = if digits.last().is_some_and(|&b| b & 0x80 != 0) {
            0xff
        } else {
            0
        };
        let mut bytes = [fill; 8];
        bytes[..len].copy_from_slice(digits);
        self.push(Value::Int(i64::from_le_bytes(bytes)));
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// The lowest index that may be popped: nothing below the last mark.
    fn floor_checked(&self, count: usize) -> Result<usize, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(from) if from >= floor => Ok(from),
            _ => malformed("pops more than the stack holds"),
        }
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        self.floor_checked(1)?;
        self.stack.pop().ok_or(PickleError::Truncated)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => malformed("no mark on the stack"),
        }
    }

    fn pop_text(&mut self, what: &str) -> Result<String, PickleError> {
        let id = self.pop()?;
        match &self.values[id] {
            Value::Text(text) => Ok(text.clone()),
            other => malformed(format!("{what} is {}", other.kind())),
        }
    }

    fn top(&mut self) -> Result<&mut Value, PickleError> {
        let at = self.floor_checked(1)?;
        Ok(&mut self.values[self.stack[at]])
    }

    fn list(&mut self) -> Result<&mut Vec<Id>, PickleError> {
        match self.top()? {
            Value::List(items) => Ok(items),
            other => malformed(format!("appends to {}", other.kind())),
        }
    }

    fn dict(&mut self) -> Result<&mut Vec<(Id, Id)>, PickleError> {
        match self.top()? {
            Value::Dict { items, .. } => Ok(items),
            other => malformed(format!("sets items of {}", other.kind())),
        }
    }

    fn remember(&mut self, slot: u32) -> Result<(), PickleError> {
        let at = self.floor_checked(1)?;
        self.memo.insert(slot, self.stack[at]);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), PickleError> {
        match self.memo.get(&slot) {
            Some(&id) => {
                self.stack.push(id);
                Ok(())
            }
            None => malformed(format!("memo slot {slot} is empty")),
        }
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), PickleError> {
        match global(module, name) {
            Some(known) => {
                self.push(Value::Global(known));
                Ok(())
            }
            None => Err(PickleError::Global(format!("{module}.{name}"))),
        }
    }

    /// BINPERSID: `('storage', torch.XStorage, key, device, elements)` names a record of the archive.
    fn persistent(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let fields: Vec<&Value> = match &self.values[id] {
            Value::Tuple(items) if items.len() <= MAX_ARGUMENTS => items.iter().map(|&i| &self.values[i]).collect(),
            Value::Tuple(items) => return malformed(format!("a persistent id of {} fields", items.len())),
            other => return malformed(format!("a persistent id is {}", other.kind())),
        };
        let storage = match fields.as_slice() {
            [
                Value::Text(tag),
                Value::Global(Global::Storage(dtype)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(len),
            ] if tag == "storage" && key.len() <= MAX_NAME => match u64::try_from(*len) {
                Ok(len) => Value::Storage(Box::new(Storage {
                    key: key.clone(),
                    dtype: *dtype,
                    len,
                })),
                Err(_) => return malformed(format!("storage '{key}' holds {len} elements")),
            },
            _ => return malformed("a persistent id does not describe a storage"),
        };
        self.push(storage);
        Ok(())
    }

    /// REDUCE would call; here it recognises the three calls a state dict consists of.
    fn reduce(&mut self) -> Result<(), PickleError> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        let arguments = match &self.values[arguments] {
            Value::Tuple(items) if items.len() <= MAX_ARGUMENTS => items.clone(),
            Value::Tuple(items) => return malformed(format!("a call with {} arguments", items.len())),
            other => return malformed(format!("call arguments are {}", other.kind())),
        };
        let result = match &self.values[callee] {
            Value::Global(Global::OrderedDict) if arguments.is_empty() => Value::Dict {
                ordered: true,
                items: Vec::new(),
            },
            Value::Global(Global::OrderedDict) => return malformed("OrderedDict called with arguments"),
            Value::Global(Global::RebuildTensor) => Value::Tensor(Box::new(self.tensor(&arguments)?)),
            Value::Global(Global::RebuildParameter) => match arguments.first().map(|&id| &self.values[id]) {
                Some(Value::Tensor(tensor)) => Value::Tensor(tensor.clone()),
                _ => return malformed("_rebuild_parameter without a tensor"),
            },
            other => return malformed(format!("calls {}", other.kind())),
        };
        self.push(result);
        Ok(())
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, backward_hooks)`.
    fn tensor(&self, arguments: &[Id]) -> Result<Strided, PickleError> {
        let [storage, offset, shape, strides, ..] = arguments else {
            return malformed("_rebuild_tensor_v2 with too few arguments");
        };
        let Value::Storage(stored) = &self.values[*storage] else {
            return malformed("_rebuild_tensor_v2 without a storage");
        };
        Ok(Strided {
            key: stored.key.clone(),
            dtype: stored.dtype,
            storage_len: stored.len,
            offset: self.count(*offset, "offset")?,
            shape: self.counts(*shape, "shape")?,
            strides: self.counts(*strides, "strides")?,
        })
    }

    fn count(&self, id: Id, what: &str) -> Result<u64, PickleError> {
        match &self.values[id] {
            Value::Int(value) => u64::try_from(*value).or_else(|_| malformed(format!("a tensor's {what} is {value}"))),
            other => malformed(format!("a tensor's {what} is {}", other.kind())),
        }
    }

    fn counts(&self, id: Id, what: &str) -> Result<Vec<u64>, PickleError> {
        match &self.values[id] {
            Value::Tuple(items) if items.len() <= MAX_RANK => items.iter().map(|&i| self.count(i, what)).collect(),
            Value::Tuple(items) => malformed(format!("a tensor of {} dimensions", items.len())),
            other => malformed(format!("a tensor's {what} is {}", other.kind())),
        }
    }

    /// The root must be a dictionary of tensors, or hold one under a name trainers use.
    fn tensors(&self, root: Id) -> Result<Vec<(String, Strided)>, PickleError> {
        let Value::Dict { items, .. } = &self.values[root] else {
            return malformed(format!("the file holds {}, not a state dict", self.values[root].kind()));
        };
        let nested = items
            .iter()
            .find_map(|&(key, value)| match (&self.values[key], &self.values[value]) {
                (Value::Text(key), Value::Dict { items, .. }) if NESTED.contains(&key.as_str()) => Some(items),
                _ => None,
            });
        let mut out = Vec::new();
        let mut seen = HashSet::new();
        for &(key, value) in nested.unwrap_or(items) {
            match (&self.values[key], &self.values[value]) {
                (Value::Text(name), _) if name.len() > MAX_NAME => {
                    return malformed(format!("a name of {} bytes", name.len()));
                }
                (Value::Text(name), _) if !seen.insert(name) => return malformed(format!("'{name}' is there twice")),
                (Value::Text(name), Value::Tensor(tensor)) => out.push((name.clone(), Strided::clone(tensor))),
                (Value::Text(name), other) => return malformed(format!("'{name}' is {}, not a tensor", other.kind())),
                (other, _) => return malformed(format!("a key of the state dict is {}", other.kind())),
            }
        }
        Ok(out)
    }
}

/// More than any state dict needs. What is copied out of the arena is bounded, so that a value used many times through the
/// memo cannot multiply.
const MAX_VALUES: usize = 1 << 20;
const MAX_RANK: usize = 8;
const MAX_ARGUMENTS: usize = 16;
const MAX_NAME: usize = 1024;

/// Where training scripts put the state dict inside a larger dictionary.
const NESTED: [&str; 3] = ["state_dict", "model_state_dict", "model"];

fn opcode_name(code: u8) -> &'static str {
    match code {
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        b'P' => "PERSID",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'U' => "SHORT_BINSTRING",
        b'V' => "UNICODE",
        b'B' => "BINBYTES",
        b'C' => "SHORT_BINBYTES",
        b'd' => "DICT",
        b'g' => "GET",
        b'i' => "INST",
        b'l' => "LIST",
        b'o' => "OBJ",
        b'p' => "PUT",
        0x81 => "NEWOBJ",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x8b => "LONG4",
        0x8d => "BINUNICODE8",
        0x8e => "BINBYTES8",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x92 => "NEWOBJ_EX",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests;
