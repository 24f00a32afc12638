//! Checkpoints of TensorFlow 1, as Google published ALBERT and as brightmart published Chinese models: a `.index` table beside
//! `.data-*` files and a config. In comes a folder, an index or the prefix of its files, out come raw tensors under Hugging
//! Face's names; matrices are views that transpose.

mod bundle;
mod crc32c;
mod names;
mod table;

pub use bundle::BundleError;

use super::listing::{Located, holds_weights, names_in};
use super::map::Mapped;
use super::raw::RawTensor;
use super::{SourceError, config_file};
use bundle::{Bundle, Variable};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use thimble_shared::model::FamilyRow;

/// The variable in which TensorFlow 2 keeps the tree of objects that a checkpoint was made of.
const OBJECT_GRAPH: &str = "_CHECKPOINTABLE_OBJECT_GRAPH";

/// What every checkpoint written by Keras or tf.train.Checkpoint is refused with.
const OBJECT_BASED: &str = "is a checkpoint of TensorFlow 2's objects (Keras' save_weights, tf.train.Checkpoint), whose names \
                            belong to the program that wrote it; load it there and save it with transformers \
                            (save_pretrained), or its variables with tf.compat.v1.train.Saver";

/// What the names of published configs begin with where a folder has several: brightmart's are called after the model, e.g.
/// `albert_config_tiny_g.json`.
const CONFIG_STARTS: [&str; 2] = ["albert_config", "bert_config"];

/// A folder's list of its checkpoints, as TensorFlow's Saver keeps it.
const LIST: &str = "checkpoint";

/// Largest such list that is read.
const MOST_LIST: u64 = 1 << 20;

/// Whether `path` is to be read as a TensorFlow checkpoint: in a folder, one of Hugging Face's goes first.
pub fn is_chosen(path: &Path) -> bool {
    !holds_weights(path) && is_checkpoint(path)
}

/// Whether `path` is a folder with a TensorFlow checkpoint, one of its files, or what their names have in common.
pub fn is_checkpoint(path: &Path) -> bool {
    if path.is_dir() {
        return !indexes(path).is_empty();
    }
    prefix(path).is_some_and(|prefix| with_suffix(&prefix, ".index").is_file())
}

/// `model.ckpt-5` of `model.ckpt-5.index`, `model.ckpt-5.data-00000-of-00001`, `model.ckpt-5.meta` and `model.ckpt-5`.
fn prefix(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let data = name.rsplit_once(".data-").map(|(base, _)| base);
    let base = data
        .or_else(|| name.strip_suffix(".index"))
        .or_else(|| name.strip_suffix(".meta"))
        .unwrap_or(name);
    Some(path.with_file_name(base))
}

fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}

/// The prefixes of all checkpoints in a folder, by name: those whose index has a data file beside it.
fn indexes(dir: &Path) -> Vec<String> {
    let names = names_in(dir);
    let bases = names.iter().filter_map(|name| name.strip_suffix(".index"));
    let with_data = |base: &&str| {
        let data = format!("{base}.data-");
        names.iter().any(|name| name.starts_with(&data))
    };
    bases.filter(with_data).map(str::to_string).collect()
}

/// Finds the files of the checkpoint that `path` names.
pub fn locate(path: &Path) -> Result<Located, SourceError> {
    let mut notes = Vec::new();
    let chosen = if path.is_dir() {
        path.join(choose(path, &mut notes)?)
    } else {
        prefix(path).unwrap_or_else(|| path.to_path_buf())
    };
    let index = with_suffix(&chosen, ".index");
    let shards = read_index(&Mapped::open(&index)?)?.shards;
    let mut weights = vec![index];
    for shard in 0..shards {
        let file = with_suffix(&chosen, &format!(".data-{shard:05}-of-{shards:05}"));
        if !file.is_file() {
            return Err(SourceError::Format {
                path: file,
                problem: format!("it is missing: data file {} of {shards} of this checkpoint", shard + 1),
            });
        }
        weights.push(file);
    }
    let dir = chosen
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let config = config(dir)?;
    Ok(Located {
        dir: dir.to_path_buf(),
        config,
        weights,
        promised: None,
        notes,
    })
}

/// Which of a folder's checkpoints is meant: the one its list names, else the one of the latest step.
fn choose(dir: &Path, notes: &mut Vec<String>) -> Result<String, SourceError> {
    let mut found = indexes(dir);
    let listed = listed(dir).filter(|name| found.contains(name));
    let of = found.len();
    if of == 1 {
        return Ok(found.remove(0));
    }
    let (name, why) = if let Some(name) = listed {
        (name, format!("the file {LIST} names it"))
    } else {
        let step = |name: &String| name.rsplit_once('-').and_then(|(_, step)| step.parse::<u64>().ok());
        let Some(last) = found
            .iter()
            .filter(|name| step(name).is_some())
            .max_by_key(|name| step(name))
        else {
            return Err(SourceError::Format {
                path: dir.to_path_buf(),
                problem: format!("it holds several ({}); name one of them", found.join(", ")),
            });
        };
        (last.clone(), "the latest step".into())
    };
    notes.push(format!("{name} is used of {of} checkpoints in the folder: {why}"));
    Ok(name)
}

/// The checkpoint that the folder's list calls the latest, without its folder.
fn listed(dir: &Path) -> Option<String> {
    let path = dir.join(LIST);
    if !path.is_file() || path.metadata().ok()?.len() > MOST_LIST {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    let line = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("model_checkpoint_path:"))?;
    let name = line.trim().trim_matches('"');
    Some(name.rsplit('/').next().unwrap_or(name).to_string())
}

fn config(dir: &Path) -> Result<PathBuf, SourceError> {
    if let Some(path) = config_file::beside(dir) {
        return Ok(path);
    }
    let mut others = names_in(dir);
    others.retain(|name| CONFIG_STARTS.iter().any(|start| name.starts_with(start)) && name.ends_with(".json"));
    match others.as_slice() {
        [] => Err(SourceError::NoConfig {
            path: dir.join("albert_config.json"),
        }),
        several => Err(SourceError::Format {
            path: dir.to_path_buf(),
            problem: format!(
                "which of {} describes it cannot be told; call that one albert_config.json",
                several.join(", ")
            ),
        }),
    }
}

fn read_index(file: &Mapped) -> Result<Bundle, SourceError> {
    let bundle = bundle::read(file.bytes()).map_err(|cause| SourceError::TensorFlow {
        path: file.path.clone(),
        cause,
    })?;
    if bundle.variables.iter().any(|v| v.name == OBJECT_GRAPH) {
        return Err(SourceError::Format {
            path: file.path.clone(),
            problem: OBJECT_BASED.into(),
        });
    }
    if bundle.variables.iter().any(|v| v.name.contains("/layer_shared/")) {
        return Err(SourceError::Format {
            path: file.path.clone(),
            problem:
                "it has brightmart's first layout (layer_shared), which adds and normalizes embeddings after their \
                      projection: another network than ALBERT; take the same model in Google's layout (albert_*_google)"
                    .into(),
        });
    }
    Ok(bundle)
}

/// Whether these are the files of a TensorFlow checkpoint, as [`locate`] lists them.
pub fn is_index(file: &Mapped) -> bool {
    table::is_table(file.bytes())
}

/// The model's tensors; what an optimizer keeps is left out.
/// `files` are the index and the data files in their order.
pub fn tensors<'a>(files: &'a [Mapped], family: &FamilyRow) -> Result<Vec<RawTensor<'a>>, SourceError> {
    let [index, shards @ ..] = files else {
        return Ok(Vec::new());
    };
    if family.names.tensorflow.is_empty() {
        return Err(SourceError::Format {
            path: index.path.clone(),
            problem: format!(
                "it is a TensorFlow checkpoint, which thimble does not read of {}; load it with transformers and save it there \
                 (save_pretrained)",
                family.name
            ),
        });
    }
    let bundle = read_index(index)?;
    let all: HashSet<&str> = bundle.variables.iter().map(|v| v.name.as_str()).collect();
    bundle
        .variables
        .iter()
        .filter(|v| !names::is_of_training(&v.name, &v.shape, &all))
        .map(|variable| {
            let file = shards.get(variable.shard).unwrap_or(index);
            tensor(variable, file, family).map_err(|problem| SourceError::Tensor {
                path: file.path.clone(),
                tensor: variable.name.clone(),
                problem,
            })
        })
        .collect()
}

/// A variable as Hugging Face would store it.
fn tensor<'a>(variable: &Variable, file: &'a Mapped, family: &FamilyRow) -> Result<RawTensor<'a>, String> {
    if variable.sliced {
        return Err("is partitioned; save it whole (tf.compat.v1.train.Saver without a partitioner)".into());
    }
    let stored = file.bytes().len();
    let start = usize::try_from(variable.offset).ok();
    let bytes = start
        .zip(usize::try_from(variable.bytes).ok())
        .and_then(|(start, len)| file.bytes().get(start..)?.get(..len))
        .ok_or_else(|| {
            format!(
                "lies at byte {} with {} bytes, but the file has {stored}: it was cut short",
                variable.offset, variable.bytes
            )
        })?;
    let size = variable.dtype.bytes();
    let wanted = variable
        .shape
        .iter()
        .try_fold(size.unwrap_or(0), |n, &d| n.checked_mul(d));
    if size.is_some() && wanted != Some(bytes.len()) {
        return Err(format!(
            "has {} bytes, not a shape of {:?} in {}",
            bytes.len(),
            variable.shape,
            variable.dtype
        ));
    }
    if crc32c::masked(crc32c::crc32c(&[bytes])) != variable.crc {
        return Err("does not have the checksum stored with it: the file is damaged".into());
    }
    let names::Converted { name, transposed } = names::convert(&variable.name, family);
    let mut shape = variable.shape.clone();
    let view = transposed.then(|| {
        let mut strides = vec![1u64; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis] as u64);
        }
        shape.reverse();
        strides.reverse();
        (0, strides)
    });
    Ok(RawTensor {
        path: &file.path,
        name,
        dtype: variable.dtype,
        shape,
        bytes,
        view,
    })
}

/// What to say of the activation where the config comes from Google's code, whose `gelu` is the tanh form.
pub fn note_on_activation(json: &serde_json::Value) -> Option<String> {
    (json.get("hidden_act")?.as_str()? == "gelu").then(|| {
        "hidden_act gelu is computed exactly, as transformers reads it; Google's TensorFlow code computed the tanh form, which \
         \"gelu_new\" in the config asks for"
            .to_string()
    })
}
