//! A checkpoint written by `torch.save`: since 1.6 a zip archive of `data.pkl`, which describes the tensors, and one entry per
//! storage; before, a stream of pickles and raw storages (`legacy`). In comes the mapped file, out come raw tensors that
//! borrow their storages.

use super::map::Mapped;
use super::pickle::{StateDict, Storage};
use super::raw::{Listed, RawTensor};
use super::{PickleError, SourceError, legacy, pickle, zip};

/// Largest `data.pkl`: state dicts describe a tensor in some 250 bytes, and the largest ALBERT has 16,000.
const MAX_PICKLE: usize = 8 << 20;

/// The tensors of the archive.
pub fn tensors(file: &Mapped) -> Result<Listed<'_>, SourceError> {
    let zip_error = |problem: String| SourceError::Zip {
        path: file.path.clone(),
        problem,
    };
    let entries = zip::read(file.bytes()).map_err(zip_error)?;
    let mut pickles = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let prefix = match (pickles.next(), pickles.next()) {
        (Some(prefix), None) if prefix.is_empty() || prefix.ends_with('/') => prefix.to_string(),
        (None, _) => return Err(zip_error("has no data.pkl: not written by torch.save".into())),
        _ => return Err(zip_error("has more than one data.pkl".into())),
    };
    let record = |name: &str| entries.get(&format!("{prefix}{name}")).copied();
    if record("byteorder").is_some_and(|order| order.trim_ascii() != b"little") {
        return Err(zip_error(
            "was written on a big-endian machine; save it again on a little-endian one".into(),
        ));
    }
    let data = record("data.pkl").unwrap_or_default();
    if data.len() > MAX_PICKLE {
        return Err(zip_error(format!(
            "data.pkl has {} bytes, at most {MAX_PICKLE} are read",
            data.len()
        )));
    }
    let pickle_error = |(at, cause)| refused(file, at, cause);
    let (pickle, end) = pickle::load(data, 0).map_err(pickle_error)?;
    let dict = pickle.state_dict().map_err(|cause| pickle_error((end, cause)))?;
    raw(file, dict, |storage| {
        let name = format!("data/{}", storage.key);
        let bytes = record(&name).ok_or_else(|| format!("its storage {name} is not in the archive"))?;
        if storage.len.checked_mul(storage.width) != Some(bytes.len() as u64) {
            return Err(format!(
                "its storage {name} has {} bytes, not {} elements of {}",
                bytes.len(),
                storage.len,
                storage.dtype
            ));
        }
        Ok(bytes)
    })
}

/// The tensors of a stream from before 1.6.
pub fn legacy_tensors(file: &Mapped) -> Result<Listed<'_>, SourceError> {
    let stream = legacy::read(file.bytes()).map_err(|error| match error {
        legacy::LegacyError::Pickle(at, cause) => refused(file, at, cause),
        legacy::LegacyError::Stream(problem) => SourceError::Stream {
            path: file.path.clone(),
            problem,
        },
    })?;
    raw(file, stream.dict, |storage| {
        let bytes = stream.storages.get(&storage.key).copied();
        bytes.ok_or_else(|| format!("its storage '{}' is not in the file", storage.key))
    })
}

/// A pickle that is refused: one of something else is no fault at a byte.
fn refused(file: &Mapped, at: usize, cause: PickleError) -> SourceError {
    let path = file.path.clone();
    match cause {
        PickleError::Module { .. } | PickleError::Optimizer => SourceError::Format {
            path,
            problem: cause.to_string(),
        },
        cause => SourceError::Pickle { path, at, cause },
    }
}

/// A state dict's tensors with the bytes that `find` has for their storages.
fn raw<'a>(
    file: &'a Mapped,
    dict: StateDict,
    find: impl Fn(&Storage) -> Result<&'a [u8], String>,
) -> Result<Listed<'a>, SourceError> {
    let mut tensors = Vec::with_capacity(dict.tensors.len());
    for (name, strided) in dict.tensors {
        let problem = |problem: String| SourceError::Tensor {
            path: file.path.clone(),
            tensor: name.clone(),
            problem,
        };
        let bytes = find(&strided.storage).map_err(problem)?;
        if strided.shape.len() != strided.strides.len() {
            return Err(problem(format!(
                "shape {:?} and strides {:?} differ in length",
                strided.shape, strided.strides
            )));
        }
        let shape = strided.shape.iter().map(|&d| usize::try_from(d));
        let shape = shape
            .collect::<Result<_, _>>()
            .map_err(|_| problem(format!("shape {:?} does not fit this machine", strided.shape)))?;
        tensors.push(RawTensor {
            path: &file.path,
            name,
            dtype: strided.storage.dtype,
            shape,
            bytes,
            view: Some((strided.offset, strided.strides)),
        });
    }
    let mut notes = Vec::new();
    if !dict.path.is_empty() {
        let beside = match dict.beside.as_slice() {
            [] => String::new(),
            keys => format!("; {} beside it left out", keys.join(", ")),
        };
        notes.push(format!("the weights are those of '{}'{beside}", dict.path));
    }
    Ok(Listed { tensors, notes })
}
