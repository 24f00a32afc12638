//! Weights that only another framework reads: TensorFlow's and Flax's files of Hugging Face classes. In comes a folder or a file,
//! out comes how to convert it so that the head stays.

use super::json;
use super::listing::kind_of;
use crate::models::file_names::CONFIG;
use serde_json::Value;
use std::path::Path;
use thimble_shared::file_kind::FileKind;

/// File, what its bytes tell and what that is called, argument of `from_pretrained`, and what must be installed besides torch.
const FRAMEWORKS: [(&str, FileKind, &str, &str, &str); 2] = [
    (
        "tf_model.h5",
        FileKind::Hdf5,
        "an HDF5 file of Keras",
        "from_tf=True",
        "tensorflow tf-keras",
    ),
    (
        "flax_model.msgpack",
        FileKind::Msgpack,
        "a msgpack file of flax",
        "from_flax=True",
        "flax jax",
    ),
];

/// The first version of transformers whose `from_pretrained` no longer brings these weights to torch: it starts models without
/// storage, and `from_tf` copies into nothing (4.49 converts, 4.57 cannot save what it read). Version 5 has no `from_tf`.
const FIRST_WITHOUT: &str = "4.50";

/// How to convert what the folder holds, where it is another framework's.
pub fn advice_for_folder(dir: &Path) -> Option<String> {
    let found = FRAMEWORKS.iter().find(|(file, ..)| dir.join(file).is_file());
    found.map(|(file, _, what, argument, packages)| advice(dir, file, what, argument, packages))
}

/// How to convert a file of TensorFlow's or Flax's.
pub fn advice_for_file(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let kind = kind_of(path)?;
    let (_, _, what, argument, packages) = FRAMEWORKS.iter().find(|(_, of, ..)| *of == kind)?;
    let dir = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    Some(advice(dir, name, what, argument, packages))
}

fn advice(dir: &Path, file: &str, what: &str, argument: &str, packages: &str) -> String {
    let class = class(dir).unwrap_or_else(|| "AlbertModel".into());
    // The copy goes elsewhere: beside the original it would stand among files that contradict it.
    let name = dir.display().to_string();
    let from = name.trim_end_matches('/');
    let to = if from == "." {
        "converted".into()
    } else {
        format!("{from}-torch")
    };
    format!(
        "{file} is {what}, which transformers before version {FIRST_WITHOUT} reads. Convert it: pip install 'transformers<{FIRST_WITHOUT}' torch {packages}; python -c \
         \"from transformers import {class}; {class}.from_pretrained('{from}', {argument}).save_pretrained('{to}')\"; copy the \
         tokenizer's files to {to} and give that folder to thimble"
    )
}

/// The class that the folder's config names, as torch calls it.
fn class(dir: &Path) -> Option<String> {
    let json = json::read(&dir.join(CONFIG)).ok()?;
    let name = json.get("architectures").and_then(Value::as_array)?.first()?.as_str()?;
    let name = name.strip_prefix("TF").or(name.strip_prefix("Flax")).unwrap_or(name);
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    plain.then(|| name.to_string())
}
