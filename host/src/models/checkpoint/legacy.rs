//! The stream that `torch.save` wrote before 1.6, and still writes when asked: four pickles (magic number, version of the
//! protocol, facts about the machine, the object), a fifth with the keys of its storages, then each storage as a count of
//! elements (8 bytes, little-endian) and the elements. In come the bytes of a file, out come its state dict and its storages.

use super::PickleError;
use super::pickle::{self, Id, Pickle, StateDict, Storage, Value};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// `torch.serialization.PROTOCOL_VERSION`.
const PROTOCOL: i64 = 1001;
/// Largest pickled object; as `data.pkl`'s in an archive.
const MAX_PICKLE: usize = 8 << 20;
/// Bytes of a storage's count of elements.
const COUNT: usize = 8;

/// A stream, read.
#[derive(Debug)]
pub struct Stream<'a> {
    /// The named tensors.
    pub dict: StateDict,
    /// The bytes of each storage, by key.
    pub storages: HashMap<String, &'a [u8]>,
}

/// Why a stream cannot be read.
#[derive(Debug)]
pub enum LegacyError {
    /// One of its pickles, at this byte.
    Pickle(usize, PickleError),
    /// What lies around them.
    Stream(String),
}

impl From<(usize, PickleError)> for LegacyError {
    fn from((at, cause): (usize, PickleError)) -> Self {
        LegacyError::Pickle(at, cause)
    }
}

fn stream<T>(problem: impl Into<String>) -> Result<T, LegacyError> {
    Err(LegacyError::Stream(problem.into()))
}

/// Reads a whole file.
///
/// # Errors
/// A pickle of it that is not torch's, a big-endian machine's numbers, or storages that do not fit the file.
pub fn read(bytes: &[u8]) -> Result<Stream<'_>, LegacyError> {
    // Descriptions come before numbers: what lies further on is no pickle of a checkpoint.
    let head = &bytes[..bytes.len().min(MAX_PICKLE)];
    let (_, at) = pickle::load(head, 0)?;
    let (version, at) = pickle::load(head, at)?;
    match version.root() {
        Value::Int(PROTOCOL) => {}
        Value::Int(other) => return stream(format!("protocol version {other} is unknown, {PROTOCOL} is read")),
        other => return stream(format!("its protocol version is {}", other.kind())),
    }
    let (machine, at) = pickle::load(head, at)?;
    let Value::Dict { items, .. } = machine.root() else {
        return stream(format!("its facts about the machine are {}", machine.root().kind()));
    };
    let big_endian = items.iter().any(|(key, value)| {
        let key = matches!(machine.value(*key), Value::Text(key) if key == "little_endian");
        key && matches!(machine.value(*value), Value::Bool(false))
    });
    if big_endian {
        return stream("was written on a big-endian machine; save it again on a little-endian one");
    }
    let (object, at) = pickle::load(head, at)?;
    let (keys, at) = pickle::load(head, at)?;
    let dict = object.state_dict().map_err(|cause| (at, cause))?;
    Ok(Stream {
        dict,
        storages: storages(bytes, at, &object, &keys)?,
    })
}

/// The storages that follow `at`, in the order of `keys`; `object` tells the width of their elements.
fn storages<'a>(
    bytes: &'a [u8],
    mut at: usize,
    object: &Pickle,
    keys: &Pickle,
) -> Result<HashMap<String, &'a [u8]>, LegacyError> {
    let mut described: BTreeMap<&str, &Rc<Storage>> = BTreeMap::new();
    for storage in object.storages() {
        let first = described.entry(&storage.key).or_insert(storage);
        if (first.width, first.len) != (storage.width, storage.len) {
            return stream(format!("storage '{}' is described in two ways", storage.key));
        }
    }
    let Value::List(list) = keys.root() else {
        return stream(format!("the keys of its storages are {}", keys.root().kind()));
    };
    let mut found = HashMap::with_capacity(described.len());
    for &key in list {
        let key = text(keys, key)?;
        let Some(storage) = described.get(key) else {
            return stream(format!("no tensor describes storage '{key}'"));
        };
        let cut = || {
            LegacyError::Stream(format!(
                "the file ends after {} bytes, inside storage '{key}' of {} elements",
                bytes.len(),
                storage.len
            ))
        };
        let count = bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<COUNT>())
            .ok_or_else(cut)?;
        let count = u64::from_le_bytes(*count);
        if count != storage.len {
            return stream(format!(
                "storage '{key}' holds {count} elements, its tensors say {}",
                storage.len
            ));
        }
        at += COUNT;
        let size = count.checked_mul(storage.width).and_then(|n| usize::try_from(n).ok());
        let end = size.and_then(|size| at.checked_add(size)).ok_or_else(cut)?;
        let data = bytes.get(at..end).ok_or_else(cut)?;
        if found.insert(key.to_string(), data).is_some() {
            return stream(format!("storage '{key}' is there twice"));
        }
        at = end;
    }
    Ok(found)
}

fn text(pickle: &Pickle, id: Id) -> Result<&str, LegacyError> {
    match pickle.value(id) {
        Value::Text(text) => Ok(text),
        other => stream(format!("a key of its storages is {}", other.kind())),
    }
}
