//! What the instructions that name or call something mean: a global is a label, a persistent id describes a storage, and of the
//! calls only torch's own ways to store tensors make more than an opaque object. In come the values on the machine's stack, out
//! goes one value in their place.

use super::value::{Foreign, Global, Storage, Strided, Value, attacks, known};
use super::{Id, MAX_ARGUMENTS, MAX_NAME, MAX_NESTED_CALLS, MAX_RANK, Machine, malformed};
use crate::models::checkpoint::PickleError;
use std::rc::Rc;

impl Machine<'_> {
    /// GLOBAL, by two lines, or STACK_GLOBAL, by two texts on the stack.
    pub(super) fn global(&mut self, code: u8) -> Result<(), PickleError> {
        let (module, name) = if code == b'c' {
            let (module, name) = (self.line()?, self.line()?);
            (self.keep(Value::Text(module)), self.keep(Value::Text(name)))
        } else {
            let name = self.pop()?;
            (self.pop()?, name)
        };
        let (Value::Text(in_module), Value::Text(named)) = (&self.values[module], &self.values[name]) else {
            return malformed(format!("a global's name is {}", self.values[name].kind()));
        };
        if attacks(in_module, named) {
            return Err(PickleError::Global(format!("{in_module}.{named}")));
        }
        let global = known(in_module, named).unwrap_or(Global::Foreign(Foreign { module, name }));
        self.push(Value::Global(global));
        Ok(())
    }

    /// BINPERSID: `('storage', torch.XStorage, key, device, elements)` names a record of an archive; streams before 1.6 add
    /// None or `(view's key, offset, elements)`, and have `('module', class, file, source)` for a class.
    pub(super) fn persistent(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let fields: Vec<&Value> = match &self.values[id] {
            Value::Tuple(items) if items.len() <= MAX_ARGUMENTS => items.iter().map(|&i| &self.values[i]).collect(),
            Value::Tuple(items) => return malformed(format!("a persistent id of {} fields", items.len())),
            other => return malformed(format!("a persistent id is {}", other.kind())),
        };
        let value = match fields.as_slice() {
            [
                Value::Text(tag),
                Value::Global(Global::Storage(dtype, width)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(len),
                view @ ..,
            ] if tag == "storage" && key.len() <= MAX_NAME => {
                let Ok(len) = u64::try_from(*len) else {
                    return malformed(format!("storage '{key}' holds {len} elements"));
                };
                Value::Storage(Rc::new(Storage {
                    key: key.clone(),
                    dtype: *dtype,
                    width: *width,
                    len,
                    start: self.view_start(view, key, len)?,
                }))
            }
            [Value::Text(tag), class @ Value::Global(_), _, _] if tag == "module" => Value::clone(class),
            _ => return malformed("a persistent id does not describe a storage"),
        };
        self.push(value);
        Ok(())
    }

    /// Where in the storage `key` of `len` elements a view lies that a persistent id names.
    fn view_start(&self, view: &[&Value], key: &str, len: u64) -> Result<u64, PickleError> {
        let fields: Vec<&Value> = match view {
            [] | [Value::None] => return Ok(0),
            [Value::Tuple(fields)] if fields.len() == 3 => fields.iter().map(|&i| &self.values[i]).collect(),
            _ => return malformed(format!("storage '{key}' has a view that is not understood")),
        };
        let count = |value: &Value| match value {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        let (start, elements) = (count(fields[1]), count(fields[2]));
        match start.zip(elements) {
            Some((start, elements)) if start.checked_add(elements).is_some_and(|end| end <= len) => Ok(start),
            _ => malformed(format!("a view reaches outside storage '{key}' of {len} elements")),
        }
    }

    /// REDUCE, NEWOBJ and NEWOBJ_EX would call; here torch's own ways to store tensors are recognized.
    pub(super) fn call(&mut self, code: u8) -> Result<(), PickleError> {
        if code == 0x92 {
            self.pop()?;
        }
        let arguments = self.pop()?;
        let callee = self.pop()?;
        let result = match (&self.values[callee], &self.values[arguments]) {
            (Value::Global(Global::OrderedDict), Value::Tuple(list)) if list.len() == 1 => self.ordered(list[0])?,
            _ => self.result(callee, arguments, MAX_NESTED_CALLS)?,
        };
        self.push(result);
        Ok(())
    }

    fn result(&self, callee: Id, arguments: Id, nested: usize) -> Result<Value, PickleError> {
        let global = match &self.values[callee] {
            Value::Global(global) => *global,
            Value::Object { class, .. } => Global::Foreign(*class),
            other => return malformed(format!("calls {}", other.kind())),
        };
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return malformed(format!("call arguments are {}", self.values[arguments].kind()));
        };
        if let Global::Foreign(class) = global {
            return Ok(Value::Object { class, module: false });
        }
        if arguments.len() > MAX_ARGUMENTS {
            return malformed(format!("a call with {} arguments", arguments.len()));
        }
        Ok(match (global, arguments.as_slice()) {
            (Global::OrderedDict, []) => Value::Dict {
                ordered: true,
                items: Vec::new(),
            },
            (Global::RebuildTensor, arguments) => Value::Tensor(Rc::new(self.tensor(arguments)?)),
            (Global::RebuildParameter, [tensor, ..]) => match &self.values[*tensor] {
                Value::Tensor(tensor) => Value::Tensor(tensor.clone()),
                _ => return malformed("_rebuild_parameter without a tensor"),
            },
            (Global::RebuildFromType, [function, _, arguments, ..]) if nested > 0 => {
                self.result(*function, *arguments, nested - 1)?
            }
            (Global::Reconstructor, [class, ..]) => match &self.values[*class] {
                Value::Global(Global::Foreign(class)) => Value::Object {
                    class: *class,
                    module: false,
                },
                _ => return malformed("_reconstructor of something that is no class"),
            },
            (Global::Size, [sizes]) => match &self.values[*sizes] {
                Value::Tuple(sizes) if sizes.len() <= MAX_RANK => Value::Tuple(sizes.clone()),
                other => return malformed(format!("torch.Size of {}", other.kind())),
            },
            (global, arguments) => {
                return malformed(format!("{global:?} called with {} arguments", arguments.len()));
            }
        })
    }

    /// An ordered dictionary of Python 2, which gives its items as one list of lists. The list is used up: through the memo it
    /// could become any number of dictionaries.
    fn ordered(&mut self, list: Id) -> Result<Value, PickleError> {
        let Value::List(pairs) = &mut self.values[list] else {
            return malformed("OrderedDict called with something that is no list");
        };
        let pairs = std::mem::take(pairs);
        let mut items = Vec::with_capacity(pairs.len());
        for pair in pairs {
            match &self.values[pair] {
                Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => items.push((pair[0], pair[1])),
                other => return malformed(format!("OrderedDict called with {} for an item", other.kind())),
            }
        }
        Ok(Value::Dict { ordered: true, items })
    }

    /// BUILD sets an object's state. An ordered dictionary's is `_metadata`, the versions of modules.
    pub(super) fn build(&mut self) -> Result<(), PickleError> {
        let state = self.pop()?;
        let is_module = match &self.values[state] {
            Value::Dict { items, .. } => items.iter().any(
                |(key, _)| matches!(&self.values[*key], Value::Text(key) if key == "_modules" || key == "_parameters"),
            ),
            _ => false,
        };
        match self.top()? {
            Value::Dict { ordered: true, .. } => {}
            Value::Object { module, .. } => *module |= is_module,
            other => return malformed(format!("BUILD sets attributes on {}", other.kind())),
        }
        Ok(())
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, backward_hooks, metadata)`, the last since torch 1.13.
    fn tensor(&self, arguments: &[Id]) -> Result<Strided, PickleError> {
        let [storage, offset, shape, strides, rest @ ..] = arguments else {
            return malformed("_rebuild_tensor_v2 with too few arguments");
        };
        if let Some(mark) = rest.get(2).and_then(|&metadata| self.lazy(metadata)) {
            return malformed(format!(
                "a tensor has the mark '{mark}': its numbers are another's, to be changed when they are read; save what \
                 tensor.resolve_{mark}() gives"
            ));
        }
        let Value::Storage(stored) = &self.values[*storage] else {
            return malformed("_rebuild_tensor_v2 without a storage");
        };
        let offset = self.count(*offset, "offset")?;
        let Some(offset) = offset.checked_add(stored.start) else {
            return malformed("a tensor's offset overflows");
        };
        Ok(Strided {
            storage: stored.clone(),
            offset,
            shape: self.counts(*shape, "shape")?,
            strides: self.counts(*strides, "strides")?,
        })
    }

    /// The mark in a tensor's metadata that says its numbers are not those of its storage.
    fn lazy(&self, metadata: Id) -> Option<&str> {
        let Value::Dict { items, .. } = &self.values[metadata] else {
            return None;
        };
        items
            .iter()
            .find_map(|(key, value)| match (&self.values[*key], &self.values[*value]) {
                (Value::Text(_), Value::Bool(false)) => None,
                (Value::Text(mark), _) if mark == "neg" || mark == "conj" => Some(mark.as_str()),
                _ => None,
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
}
