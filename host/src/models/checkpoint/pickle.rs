//! Interprets the pickles that `torch.save` writes, without executing anything: in come bytes, out come values in an arena,
//! tensors among them as descriptions (storage key, offset, shape, strides, in elements). A call of a class or function that
//! is not torch's own way to store tensors makes an opaque object.
//!
//! Kept by hand because no crate reads a pickle without running or trusting it; values refer to each other by index, so
//! shared or nested ones cost what their bytes in the file cost: no recursion, no copies that multiply.

mod call;
mod opcode;
mod state_dict;
mod value;

pub use state_dict::StateDict;
pub use value::{Id, Storage, Value};

use super::PickleError;
use super::raw::MAX_NAME;
use std::collections::HashMap;
use std::rc::Rc;
use value::Foreign;

/// One pickle, read: its values and the one it is of.
#[derive(Debug)]
pub struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// The value the pickle is of.
    pub fn root(&self) -> &Value {
        &self.values[self.root]
    }

    /// Any value of it.
    pub fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// Every storage that is described somewhere.
    pub fn storages(&self) -> impl Iterator<Item = &Rc<Storage>> {
        self.values.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    /// A class's module and name.
    fn named(&self, class: Foreign) -> String {
        let text = |id: Id| match &self.values[id] {
            Value::Text(text) => text.chars().take(MAX_SHOWN).collect(),
            other => other.kind().to_string(),
        };
        format!("{}.{}", text(class.module), text(class.name))
    }
}

/// Reads the pickle that starts at byte `from`, and gives the byte after it. On failure, the byte the instruction starts at.
///
/// # Errors
/// A pickle that ends early, contradicts itself, is larger than any of torch's, or calls what attacks are made of.
pub fn load(bytes: &[u8], from: usize) -> Result<(Pickle, usize), (usize, PickleError)> {
    let mut machine = Machine {
        bytes,
        at: from,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let start = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => {
                let values = machine.values;
                return Ok((Pickle { values, root }, machine.at));
            }
            Err(error) => return Err((start, error)),
        }
    }
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
            b'c' | 0x93 => self.global(code)?,
            b'Q' => self.persistent()?,
            b'R' | 0x81 | 0x92 => self.call(code)?,
            b'b' => self.build()?,
            b'(' | b'0' | b'1' | b'2' | b'q' | b'r' | 0x94 | b'h' | b'j' => self.shuffle(code)?,
            b']' | b')' | b'}' | 0x8f | b't' | 0x85..=0x87 | b'a' | b'e' | b's' | b'u' | 0x90 | 0x91 => {
                self.container(code)?;
            }
            code => self.atom(code)?,
        }
        Ok(None)
    }

    /// A number, a text or bytes.
    fn atom(&mut self, code: u8) -> Result<(), PickleError> {
        let value = match code {
            b'N' => Value::None,
            0x88 | 0x89 => Value::Bool(code == 0x88),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Value::Int(self.u8()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            // Protocol 1 spells bools and long integers in decimal digits.
            b'I' | b'L' => match self.line()?.as_str() {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                digits => digits
                    .trim_end_matches('L')
                    .parse()
                    .map_or(Value::Plain("a long integer"), Value::Int),
            },
            0x8a | 0x8b => {
                let len = self.length(if code == 0x8a { 1 } else { 4 })?;
                self.long(len)?
            }
            b'G' => {
                self.take(8)?;
                Value::Plain("a float")
            }
            // Python 2 has strings of bytes, Python 3 of characters.
            0x8c | b'U' => self.text(1)?,
            b'X' | b'T' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => self.skip(1)?,
            b'B' => self.skip(4)?,
            0x8e | 0x96 => self.skip(8)?,
            code => {
                return Err(PickleError::Opcode {
                    code,
                    name: opcode::name(code),
                });
            }
        };
        self.push(value);
        Ok(())
    }

    /// Tuples, lists, dictionaries and sets are made and filled.
    fn container(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            b']' => self.push(Value::List(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            b'}' => self.push(Value::Dict {
                ordered: false,
                items: Vec::new(),
            }),
            0x8f => self.push(Value::Plain(SET)),
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
            0x91 => {
                self.pop_mark()?;
                self.push(Value::Plain(SET));
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            _ => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
        }
        Ok(())
    }

    /// The stack, its marks and the memo.
    fn shuffle(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let at = self.floor_checked(1)?;
                self.stack.push(self.stack[at]);
            }
            b'q' | b'r' | 0x94 => {
                let slot = match code {
                    b'q' => self.u8()?.into(),
                    b'r' => u32::from_le_bytes(self.array()?),
                    _ => self.memo.len() as u32,
                };
                let at = self.floor_checked(1)?;
                self.memo.insert(slot, self.stack[at]);
            }
            _ => {
                let slot = if code == b'h' {
                    self.u8()?.into()
                } else {
                    u32::from_le_bytes(self.array()?)
                };
                match self.memo.get(&slot) {
                    Some(&id) => self.stack.push(id),
                    None => return malformed(format!("memo slot {slot} is empty")),
                }
            }
        }
        Ok(())
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

    /// A little-endian length of 1, 4 or 8 bytes.
    fn length(&mut self, bytes: usize) -> Result<usize, PickleError> {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.take(bytes)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| PickleError::Truncated)
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&b| b == b'\n').ok_or(PickleError::Truncated)?;
        let text = self.take(len)?;
        self.at += 1;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// A text after its length, of so many bytes. Those of Python 2 need not be UTF-8.
    fn text(&mut self, length: usize) -> Result<Value, PickleError> {
        let len = self.length(length)?;
        let bytes = self.take(len)?;
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.to_string()),
            Err(_) => Value::Plain("bytes"),
        })
    }

    fn skip(&mut self, length: usize) -> Result<Value, PickleError> {
        let len = self.length(length)?;
        self.take(len)?;
        Ok(Value::Plain("bytes"))
    }

    /// A little-endian two's complement integer of `len` bytes.
    fn long(&mut self, len: usize) -> Result<Value, PickleError> {
        let digits = self.take(len)?;
        if len > 8 {
            return Ok(Value::Plain("a long integer"));
        }
        let fill = if digits.last().is_some_and(|&b| b & 0x80 != 0) {
            0xff
        } else {
            0
        };
        let mut bytes = [fill; 8];
        bytes[..len].copy_from_slice(digits);
        Ok(Value::Int(i64::from_le_bytes(bytes)))
    }

    fn push(&mut self, value: Value) {
        let id = self.keep(value);
        self.stack.push(id);
    }

    /// Puts a value into the arena alone.
    fn keep(&mut self, value: Value) -> Id {
        self.values.push(value);
        self.values.len() - 1
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
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => malformed("no mark on the stack"),
        }
    }

    fn top(&mut self) -> Result<&mut Value, PickleError> {
        let at = self.floor_checked(1)?;
        Ok(&mut self.values[self.stack[at]])
    }

    fn append(&mut self, more: Vec<Id>) -> Result<(), PickleError> {
        match self.top()? {
            Value::List(items) => items.extend(more),
            Value::Object { .. } | Value::Plain(SET) => {}
            other => return malformed(format!("appends to {}", other.kind())),
        }
        Ok(())
    }

    fn set(&mut self, pairs: Vec<Id>) -> Result<(), PickleError> {
        if !pairs.len().is_multiple_of(2) {
            return malformed("a key without a value");
        }
        match self.top()? {
            Value::Dict { items, .. } => items.extend(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            Value::Object { .. } => {}
            other => return malformed(format!("sets items of {}", other.kind())),
        }
        Ok(())
    }
}

const SET: &str = "a set";

/// More than any checkpoint needs. What is copied out of the arena is bounded, so that a value used many times through the
/// memo cannot multiply.
const MAX_VALUES: usize = 1 << 20;
const MAX_RANK: usize = 8;
const MAX_ARGUMENTS: usize = 16;
/// `_rebuild_from_type_v2` calls what makes a tensor or a parameter of one.
const MAX_NESTED_CALLS: usize = 2;
/// Characters of a class's name that errors show.
const MAX_SHOWN: usize = 100;

#[cfg(test)]
mod tests;
