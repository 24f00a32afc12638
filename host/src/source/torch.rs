//! A checkpoint written by `torch.save`: a zip archive of `data.pkl`, which describes the tensors, and one entry per storage.
//! In comes the mapped file, out come raw tensors that borrow their storages.

use super::map::Mapped;
use super::raw::RawTensor;
use super::{SourceError, pickle, zip};

/// Largest `data.pkl`: state dicts describe a tensor in some 250 bytes, and the largest ALBERT has 16,000.
const MAX_PICKLE: usize = 8 << 20;

/// The tensors of the archive.
pub fn tensors(file: &Mapped) -> Result<Vec<RawTensor<'_>>, SourceError> {
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
    if record("constants.pkl").is_some() {
        return Err(zip_error(
            "is a TorchScript program; save the model's state_dict() with torch.save".into(),
        ));
    }
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
    let dict = pickle::state_dict(data).map_err(|(at, cause)| SourceError::Pickle {
        path: file.path.clone(),
        at,
        cause,
    })?;
    let mut out = Vec::with_capacity(dict.len());
    for (name, strided) in dict {
        let problem = |problem: String| SourceError::Tensor {
            path: file.path.clone(),
            tensor: name.clone(),
            problem,
        };
        let bytes = record(&format!("data/{}", strided.key))
            .ok_or_else(|| problem(format!("its storage data/{} is not in the archive", strided.key)))?;
        if let Some(size) = strided.dtype.bytes()
            && strided.storage_len.checked_mul(size as u64) != Some(bytes.len() as u64)
        {
            return Err(problem(format!(
                "its storage data/{} has {} bytes, not {} elements of {}",
                strided.key,
                bytes.len(),
                strided.storage_len,
                strided.dtype
            )));
        }
        if strided.shape.len() != strided.strides.len() {
            return Err(problem(format!(
                "shape {:?} and strides {:?} differ in length",
                strided.shape, strided.strides
            )));
        }
        let shape = strided
            .shape
            .iter()
            .map(|&d| usize::try_from(d))
            .collect::<Result<_, _>>();
        let shape = shape.map_err(|_| problem(format!("shape {:?} does not fit this machine", strided.shape)))?;
        let view = Some((strided.offset, strided.strides));
        out.push(RawTensor {
            path: &file.path,
            name,
            dtype: strided.dtype,
            shape,
            bytes,
            view,
        });
    }
    Ok(out)
}
