//! Finds a checkpoint's files and lists the tensors stored in them: in comes a directory or a weights file, out come names,
//! shapes and borrowed bytes. Safetensors and torch's zip archives look the same from here on.

use super::map::Mapped;
use super::raw::{Dtype, RawTensor};
use super::{SourceError, torch};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use thimble_shared::files;

/// Where a checkpoint's parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub config: PathBuf,
    pub weights: Vec<PathBuf>,
    /// For sharded checkpoints, the tensor names the index promises.
    pub promised: Option<BTreeSet<String>>,
    pub tokenizer: Option<PathBuf>,
    pub notes: Vec<String>,
}

const SINGLE: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const SHARDED: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// Whether a folder holds weights under one of the names that checkpoints have.
pub fn holds_weights(dir: &Path) -> bool {
    SINGLE.iter().chain(&SHARDED).any(|name| dir.join(name).is_file())
}

/// Finds the files of the checkpoint at `path`: a directory, a weights file or a shard index.
pub fn locate(path: &Path) -> Result<Located, SourceError> {
    let meta = std::fs::metadata(path).map_err(|cause| SourceError::Io {
        path: path.to_path_buf(),
        cause,
    })?;
    let mut notes = Vec::new();
    let (dir, weights) = if meta.is_dir() {
        let found = SINGLE
            .iter()
            .zip(SHARDED)
            .flat_map(|(&single, sharded)| [single, sharded])
            .map(|name| path.join(name))
            .filter(|p| p.is_file())
            .collect::<Vec<_>>();
        let Some(first) = found.first() else {
            return Err(SourceError::NoCheckpoint {
                dir: path.to_path_buf(),
                hint: foreign_hint(path),
            });
        };
        for other in &found[1..] {
            notes.push(format!(
                "{} is used, {} beside it is not read",
                name_of(first),
                name_of(other)
            ));
        }
        (path.to_path_buf(), first.clone())
    } else {
        // A bare file name has the empty path as its parent.
        let parent = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        (parent.to_path_buf(), path.to_path_buf())
    };
    let config = dir.join("config.json");
    if !config.is_file() {
        return Err(SourceError::NoConfig { path: config });
    }
    let tokenizer = Some(dir.join("tokenizer.json")).filter(|p| p.is_file());
    if tokenizer.is_none()
        && let Some(other) = ["spiece.model", "vocab.txt"]
            .iter()
            .find(|name| dir.join(name).is_file())
    {
        notes.push(format!(
                "{other} is there but no tokenizer.json: texts cannot be read (save it with AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))"
            ));
    }
    let (weights, promised) = if name_of(&weights).ends_with(".index.json") {
        let (files, promised) = shards(&dir, &weights)?;
        (files, Some(promised))
    } else {
        (vec![weights], None)
    };
    // Opening a FIFO waits for a writer that never comes.
    for path in &weights {
        let found = std::fs::metadata(path).map_err(|cause| SourceError::Io {
            path: path.clone(),
            cause,
        })?;
        if !found.is_file() {
            return Err(SourceError::Format {
                path: path.clone(),
                problem: "is not a regular file".into(),
            });
        }
    }
    Ok(Located {
        config,
        weights,
        promised,
        tokenizer,
        notes,
    })
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn foreign_hint(dir: &Path) -> String {
    for (file, flag) in [
        ("tf_model.h5", "from_tf=True"),
        ("flax_model.msgpack", "from_flax=True"),
    ] {
        if dir.join(file).is_file() {
            return format!(
                "; {file} is there: convert it with AutoModel.from_pretrained(DIR, {flag}).save_pretrained(DIR)"
            );
        }
    }
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|n| {
            [".safetensors", ".bin", ".pt", ".pth"]
                .iter()
                .any(|end| n.ends_with(end))
        })
        .collect();
    names.sort();
    match names.first() {
        Some(name) => format!("; {name} is there: name the file itself if it is the model"),
        None => String::new(),
    }
}

/// Largest JSON file read beside a checkpoint.
const MAX_JSON: u64 = 64 << 20;

pub fn read_json(path: &Path) -> Result<serde_json::Value, SourceError> {
    let io = |cause| SourceError::Io {
        path: path.to_path_buf(),
        cause,
    };
    let len = std::fs::metadata(path).map_err(io)?.len();
    let format = |problem: String| SourceError::Format {
        path: path.to_path_buf(),
        problem,
    };
    if len > MAX_JSON {
        return Err(format(format!("{len} bytes of JSON, at most {MAX_JSON} are read")));
    }
    let text = files::read(path).map_err(io)?;
    serde_json::from_slice(&text).map_err(|e| format(format!("invalid JSON: {e}")))
}

/// Files and tensor names of a shard index. Shards stand beside the index: a name with a path in it is refused.
fn shards(dir: &Path, index: &Path) -> Result<(Vec<PathBuf>, BTreeSet<String>), SourceError> {
    let field = |problem: String| SourceError::Config {
        path: index.to_path_buf(),
        field: "weight_map".into(),
        problem,
    };
    let json = read_json(index)?;
    let map = json
        .get("weight_map")
        .and_then(|m| m.as_object())
        .ok_or_else(|| field("is missing or no object".into()))?;
    let mut files = BTreeSet::new();
    let mut promised = BTreeSet::new();
    for (tensor, file) in map {
        let file = file
            .as_str()
            .ok_or_else(|| field(format!("{tensor}: the file is not a string")))?;
        if file.is_empty() || file.contains(['/', '\\', '\0']) || file == ".." || file == "." {
            return Err(field(format!(
                "{tensor}: '{file}' is not the name of a file beside the index"
            )));
        }
        files.insert(file.to_string());
        promised.insert(tensor.clone());
    }
    if files.is_empty() {
        return Err(field("names no file".into()));
    }
    Ok((files.into_iter().map(|f| dir.join(f)).collect(), promised))
}

/// All tensors of the files, which must not repeat a name and must hold what the index promised.
pub fn tensors<'a>(
    files: &'a [Mapped],
    promised: Option<&BTreeSet<String>>,
) -> Result<Vec<RawTensor<'a>>, SourceError> {
    let mut all: BTreeMap<String, RawTensor<'a>> = BTreeMap::new();
    for file in files {
        for tensor in list(file)? {
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
    Ok(all.into_values().collect())
}

/// The tensors of one file, whose format its first bytes tell.
fn list(file: &Mapped) -> Result<Vec<RawTensor<'_>>, SourceError> {
    let bytes = file.bytes();
    let format = |problem: &str| SourceError::Format {
        path: file.path.clone(),
        problem: problem.into(),
    };
    match bytes {
        [b'P', b'K', 3, 4, ..] => torch::tensors(file),
        [0x80, 2..=5, ..] if bytes.get(8) != Some(&b'{') => Err(format(
            "torch's old format (before 1.6), a bare pickle; load it once in torch and save it again: torch.save(torch.load(FILE, weights_only=True), FILE)",
        )),
        [0x89, b'H', b'D', b'F', ..] => Err(format(
            "an HDF5 file of TensorFlow; convert it with AutoModel.from_pretrained(DIR, from_tf=True).save_pretrained(DIR)",
        )),
        _ if bytes.starts_with(b"version https://git-lfs") => Err(format(
            "a Git LFS pointer, not the weights themselves; fetch them with git lfs pull",
        )),
        _ if bytes.starts_with(b"GGUF") => Err(format("a GGUF file; thimble reads safetensors and torch archives")),
        _ => safetensors(file),
    }
}

fn safetensors(file: &Mapped) -> Result<Vec<RawTensor<'_>>, SourceError> {
    use safetensors::Dtype as St;
    let bytes = file.bytes();
    if bytes.get(8) != Some(&b'{') {
        return Err(SourceError::Format {
            path: file.path.clone(),
            problem: "neither a safetensors file nor a zip archive of torch.save".into(),
        });
    }
    let views = SafeTensors::deserialize(bytes).map_err(|cause| SourceError::Safetensors {
        path: file.path.clone(),
        cause,
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
