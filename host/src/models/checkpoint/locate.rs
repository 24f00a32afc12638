//! Finds a checkpoint's files and lists the tensors stored in them: in comes a directory or a weights file, out come names,
//! shapes and borrowed bytes. Files are told by their bytes; safetensors and torch's look the same from here on.

use super::map::Mapped;
use super::raw::{Dtype, MAX_NAME, RawTensor};
use super::shards::{self, Part};
use super::{SourceError, config_file, folder, foreign, torch};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use thimble_shared::file_kind::{self, FileKind};

/// Where a checkpoint's parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The folder everything stands in.
    pub dir: PathBuf,
    pub config: PathBuf,
    pub weights: Vec<PathBuf>,
    /// For sharded checkpoints, the tensor names the index promises.
    pub promised: Option<BTreeSet<String>>,
    pub notes: Vec<String>,
}

/// The names that weights usually have.
const SINGLE: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const SHARDED: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// Whether a folder holds weights: under one of the names that checkpoints have, or by their content.
pub fn holds_weights(dir: &Path) -> bool {
    let usual = SINGLE.iter().chain(&SHARDED).any(|name| dir.join(name).is_file());
    usual || weight_files(dir).iter().any(|path| names_an_albert(path))
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
        let found = if found.is_empty() {
            vec![by_index(path)?.map_or_else(|| by_content(path, &mut notes), Ok)?]
        } else {
            found
        };
        let first = &found[0];
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
    let Some((config, note)) = config_file::find(&dir) else {
        // A file that holds no weights is told as what it is first.
        if let Some(kind) = kind_of(&weights).filter(|kind| !kind.is_checkpoint()) {
            return Err(SourceError::Foreign { path: weights, kind });
        }
        return Err(SourceError::NoConfig {
            path: dir.join("config.json"),
        });
    };
    notes.extend(note);
    let (weights, promised) = if kind_of(&weights) == Some(FileKind::ShardIndex) || shards::is_index(&weights) {
        let (files, promised) = shards::read(&dir, &weights)?;
        (files, Some(promised))
    } else {
        match Part::of(&name_of(&weights)) {
            None => (vec![weights], None),
            Some(part) if meta.is_dir() => (part.all(&dir)?, None),
            Some(part) => return Err(part.refused(&dir)),
        }
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
        dir,
        config,
        weights,
        promised,
        notes,
    })
}

pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What else a folder without weights holds, and what to do then: the end of an error.
fn hint(dir: &Path) -> String {
    if foreign::advice_for_folder(dir).is_some() {
        return folder::hint(dir);
    }
    let stranger = weight_files(dir).into_iter().find_map(|path| {
        let kind = kind_of(&path).filter(FileKind::was_meant_as_weights)?;
        Some(format!("; {} is {kind}", name_of(&path)))
    });
    stranger.unwrap_or_else(|| folder::hint(dir))
}

/// What the file at `path` is; none where it cannot be looked at, which whoever opens it will say.
pub fn kind_of(path: &Path) -> Option<FileKind> {
    Some(FileKind::of(Mapped::open(path).ok()?.bytes()))
}

/// The files of a folder that could hold weights, by name.
fn weight_files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file() && !NO_WEIGHTS.iter().any(|name| name_of(path).starts_with(name)))
        .take(MAX_LOOKED_AT)
        .collect();
    paths.sort();
    paths
}

/// How far into a file its tensors' names are searched; descriptions come before numbers.
const NAMES_WITHIN: usize = 8 << 20;

/// Whether a file of weights has the part every ALBERT has, be it as a module: folders hold inputs and other models' tensors too.
fn names_an_albert(path: &Path) -> bool {
    const WORD: &[u8] = b"word_embeddings";
    let Ok(file) = Mapped::open(path) else { return false };
    let weights = [FileKind::Safetensors, FileKind::Torch, FileKind::TorchLegacy];
    let head = &file.bytes()[..file.bytes().len().min(NAMES_WITHIN)];
    weights.contains(&FileKind::of(file.bytes())) && head.windows(WORD.len()).any(|w| w == WORD)
}

fn same_bytes(one: &Path, other: &Path) -> bool {
    match (Mapped::open(one), Mapped::open(other)) {
        (Ok(one), Ok(other)) => one.bytes() == other.bytes(),
        _ => false,
    }
}

/// Files that trainers leave beside the weights and that are none.
const NO_WEIGHTS: [&str; 8] = [
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "training_args",
    "trainer_state",
    "adapter_model",
];
/// Files that are looked into for weights.
const MAX_LOOKED_AT: usize = 256;

/// The one shard index of a folder under a name of its own.
fn by_index(dir: &Path) -> Result<Option<PathBuf>, SourceError> {
    match shards::indexes(dir).as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => Err(several_meant(dir, "indexes of shards", several)),
    }
}

fn several_meant(dir: &Path, what: &str, paths: &[PathBuf]) -> SourceError {
    let names: Vec<String> = paths.iter().take(2).map(|path| name_of(path)).collect();
    SourceError::NoCheckpoint {
        dir: dir.to_path_buf(),
        hint: format!(
            "; {} {what} are here ({}): name the one that is the model",
            paths.len(),
            names.join(", ")
        ),
    }
}

/// The one file of a folder that holds weights under a name of its own.
fn by_content(dir: &Path, notes: &mut Vec<String>) -> Result<PathBuf, SourceError> {
    let none = || SourceError::NoCheckpoint {
        dir: dir.to_path_buf(),
        hint: hint(dir),
    };
    let mut paths = weight_files(dir);
    paths.retain(|path| names_an_albert(path));
    match paths.as_slice() {
        [] => Err(none()),
        [one] => {
            let name = name_of(one);
            notes.push(match Part::of(&name) {
                Some(part) => format!("{name} and the other parts of {} are read: no index is here", part.of),
                None => format!("{name} is read: the only file of weights here"),
            });
            Ok(one.clone())
        }
        [first, others @ ..] if others.iter().all(|other| same_bytes(first, other)) => {
            notes.push(format!(
                "{} is read: the {} files of weights here are the same",
                name_of(first),
                others.len() + 1
            ));
            Ok(first.clone())
        }
        several => Err(several_meant(dir, "files of weights", several)),
    }
}

/// All tensors of the files, which must not repeat a name and must hold what the index promised.
pub fn tensors<'a>(files: &'a [Mapped], promised: Option<&BTreeSet<String>>) -> Result<Listed<'a>, SourceError> {
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

/// Stored tensors, and what was left out of the file.
#[derive(Debug)]
pub struct Listed<'a> {
    pub tensors: Vec<RawTensor<'a>>,
    pub notes: Vec<String>,
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
            problem: format!("{more} bytes stand behind its last tensor; fetch it again"),
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
