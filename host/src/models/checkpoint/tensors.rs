//! The tensors that files of weights store: names, shapes and borrowed bytes, the same for safetensors and for torch's formats.

use super::listing::name_of;
use super::map::Mapped;
use super::raw::{Dtype, Listed, MAX_NAME, RawTensor};
use super::{SourceError, torch};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use thimble_shared::file_kind::{self, FileKind};

/// All tensors of the files, which must not repeat a name and must hold what the index promised.
pub fn stored<'a>(files: &'a [Mapped], promised: Option<&BTreeSet<String>>) -> Result<Listed<'a>, SourceError> {
    let mut all: BTreeMap<String, RawTensor<'a>> = BTreeMap::new();
    let mut notes = Vec::new();
    for file in files {
        let mut listed = list(file)?;
        notes.append(&mut listed.notes);
        for tensor in listed.tensors {
            if tensor.name.len() > MAX_NAME {
                return Err(SourceError::Tensor {
                    path: file.path.clone(),
                    tensor: format!("{}…", tensor.name.chars().take(40).collect::<String>()),
                    problem: format!("has a name of {} bytes, at most {MAX_NAME} are read", tensor.name.len()),
                });
            }
            if let Some(first) = all.get(&tensor.name) {
                return Err(SourceError::Tensor {
                    path: file.path.clone(),
                    tensor: tensor.name,
                    problem: format!("is stored in {} as well", name_of(first.path)),
                });
            }
            all.insert(tensor.name.clone(), tensor);
        }
    }
    if let Some(lost) = promised.into_iter().flatten().find(|name| !all.contains_key(*name)) {
        let path = files.first().map(|f| f.path.clone()).unwrap_or_default();
        return Err(SourceError::Tensor {
            path,
            tensor: lost.clone(),
            problem: "is in the index but in no shard".into(),
        });
    }
    Ok(Listed {
        tensors: all.into_values().collect(),
        notes,
    })
}

/// The tensors of one file, whose format its bytes tell.
fn list(file: &Mapped) -> Result<Listed<'_>, SourceError> {
    match FileKind::of(file.bytes()) {
        FileKind::Torch => torch::tensors(file),
        FileKind::TorchLegacy => torch::legacy_tensors(file),
        FileKind::Safetensors => Ok(Listed {
            tensors: safetensors(file)?,
            notes: Vec::new(),
        }),
        kind => Err(SourceError::Foreign {
            path: file.path.clone(),
            kind,
        }),
    }
}

fn safetensors(file: &Mapped) -> Result<Vec<RawTensor<'_>>, SourceError> {
    use safetensors::Dtype as St;
    let bytes = file.bytes();
    let path = || file.path.clone();
    let views = SafeTensors::deserialize(bytes).map_err(|cause| match file_kind::bytes_too_many(bytes) {
        Some(more) => SourceError::Format {
            path: path(),
            problem: format!("{more} bytes follow its last tensor; fetch it again"),
        },
        None => SourceError::Safetensors { path: path(), cause },
    })?;
    let raw = views.iter().map(|(name, view)| RawTensor {
        path: &file.path,
        name: name.to_string(),
        dtype: match view.dtype() {
            St::F32 => Dtype::F32,
            St::F16 => Dtype::F16,
            St::BF16 => Dtype::Bf16,
            St::F64 => Dtype::F64,
            St::I64 => Dtype::Other("int64"),
            St::I32 => Dtype::Other("int32"),
            St::I16 => Dtype::Other("int16"),
            St::I8 => Dtype::Other("int8"),
            St::U8 => Dtype::Other("uint8"),
            St::BOOL => Dtype::Other("bool"),
            _ => Dtype::Other("one thimble does not read"),
        },
        shape: view.shape().to_vec(),
        bytes: view.data(),
        view: None,
    });
    Ok(raw.collect())
}
