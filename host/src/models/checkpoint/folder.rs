//! Folders that hold a model one level down, and names that lead to none: sentence-transformers' layout, the hub's cache, a
//! Trainer's checkpoints. In comes the path a user gave, out comes the folder to read with what is left out of it, or what to do
//! instead.

use super::sentence_transformers::Modules;
use super::{SourceError, foreign, hub, locate, tensorflow};
use std::path::{Path, PathBuf};
use thimble_shared::files;

/// A path that can be read as a checkpoint's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub path: PathBuf,
    pub notes: Vec<String>,
    /// The parts of sentence-transformers, where it is a model of its.
    pub modules: Option<Modules>,
}

/// What the folders of a hub's cache begin with.
const CACHED: &str = "models--";

/// Where a repository in the cache keeps its files, and where the cache itself lies in `HF_HOME`.
const SNAPSHOTS: &str = "snapshots";
const HUB: &str = "hub";

/// What a Trainer's checkpoints begin with.
const STEP: &str = "checkpoint-";

/// What a Trainer writes beside a model.
const OF_TRAINERS: [&str; 7] = [
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scaler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
];

/// What a link is whose file is missing: in the hub's cache, one that was never downloaded or was cleaned away.
const DANGLING: &str = "it is a link to a file that is not there; fetch it again";

/// Longest `refs/main` that is read.
const MOST_TEXT: u64 = 1 << 20;

/// Most names an error lists.
const MOST_NAMES: usize = 6;

/// Whether a folder itself holds weights of Hugging Face's under one of the names they usually have.
pub fn has_torch_weights(dir: &Path) -> bool {
    locate::holds_weights(dir)
}

/// Whether a folder itself holds a model's weights.
pub fn has_weights(dir: &Path) -> bool {
    has_torch_weights(dir) || tensorflow::is_checkpoint(dir)
}

/// What is to be read for the path a user gave.
pub fn resolve(path: &Path) -> Result<Opened, SourceError> {
    if !path.exists() {
        if tensorflow::is_checkpoint(path) {
            return Ok(as_it_is(path));
        }
        return Err(SourceError::Absent {
            path: path.to_path_buf(),
            hint: if is_dangling(path) {
                format!("; {DANGLING}")
            } else {
                hub::hint(path)
            },
        });
    }
    if !path.is_dir() {
        return Ok(as_it_is(path));
    }
    let mut opened = cached(path)?.unwrap_or_else(|| as_it_is(path));
    if let Some(modules) = Modules::find(&opened.path)? {
        opened.path = modules.transformer();
        opened.modules = Some(modules);
    }
    Ok(opened)
}

fn as_it_is(path: &Path) -> Opened {
    Opened {
        path: path.to_path_buf(),
        notes: Vec::new(),
        modules: None,
    }
}

/// Whether a path is a link to nothing.
pub fn is_dangling(path: &Path) -> bool {
    path.is_symlink() && !path.exists()
}

/// The names of a folder's entries in order.
pub fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn short_text(path: &Path) -> Option<Vec<u8>> {
    let meta = path.metadata().ok()?;
    if !meta.is_file() || meta.len() > MOST_TEXT {
        return None;
    }
    files::read(path).ok()
}

/// The folder of one model's repository in the hub's cache that `path` leads to: the repository, its snapshots, a cache of one
/// model, or the folder that the cache lies in.
fn repository(path: &Path) -> Result<Option<PathBuf>, SourceError> {
    let is_repository = |dir: &Path| dir.join(SNAPSHOTS).is_dir();
    if is_repository(path) {
        return Ok(Some(path.to_path_buf()));
    }
    if has_weights(path) {
        return Ok(None);
    }
    let parent = path.parent().filter(|_| path.ends_with(SNAPSHOTS));
    let of_cache = |dir: &&Path| {
        dir.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(CACHED))
    };
    if let Some(parent) = parent.filter(of_cache) {
        return Ok(Some(parent.to_path_buf()));
    }
    for cache in [path.to_path_buf(), path.join(HUB)] {
        let mut models = names_in(&cache);
        models.retain(|name| name.starts_with(CACHED) && is_repository(&cache.join(name)));
        match models.as_slice() {
            [] => {}
            [only] => return Ok(Some(cache.join(only))),
            several => {
                return Err(refused(
                    &cache,
                    format!(
                        "it is a cache of several models ({}); name one of them",
                        listed(several)
                    ),
                ));
            }
        }
    }
    Ok(None)
}

fn refused(path: &Path, problem: String) -> SourceError {
    SourceError::Format {
        path: path.to_path_buf(),
        problem,
    }
}

/// The snapshot in a folder of the hub's cache.
fn cached(path: &Path) -> Result<Option<Opened>, SourceError> {
    let Some(repository) = repository(path)? else {
        return Ok(None);
    };
    let snapshots = repository.join(SNAPSHOTS);
    let names = names_in(&snapshots);
    let main = short_text(&repository.join("refs/main")).and_then(|text| String::from_utf8(text).ok());
    let main = main
        .map(|text| text.trim().to_string())
        .filter(|name| names.contains(name));
    let (name, why) = match (main, names.as_slice()) {
        (Some(name), _) => (name, "refs/main names it"),
        (None, [only]) => (only.clone(), "the only one"),
        (None, []) => {
            return Err(refused(
                &snapshots,
                "it is empty: nothing of the model has been downloaded".into(),
            ));
        }
        (None, several) => {
            let problem = format!(
                "refs/main names none of its snapshots ({}); name one of them",
                listed(several)
            );
            return Err(refused(&repository, problem));
        }
    };
    let mut opened = as_it_is(&snapshots.join(&name));
    opened
        .notes
        .push(format!("snapshot {name} of the hub's cache is read: {why}"));
    Ok(Some(opened))
}

/// Names for an error, at most a few.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What else a folder without a model's weights holds, and what to do then: the end of an error.
pub fn hint(dir: &Path) -> String {
    if let Some(advice) = foreign::advice_for_folder(dir) {
        return format!("; {advice}");
    }
    let names = names_in(dir);
    if let Some(name) = names.iter().find(|name| is_dangling(&dir.join(name))) {
        return format!("; of {name}: {DANGLING}");
    }
    let mut steps: Vec<(u64, &String)> = names
        .iter()
        .filter_map(|name| Some((name.strip_prefix(STEP)?.parse().ok()?, name)))
        .filter(|(_, name)| dir.join(name).is_dir())
        .collect();
    steps.sort();
    if let Some((_, newest)) = steps.last() {
        let count = match steps.len() {
            1 => "a Trainer's checkpoint".to_string(),
            n => format!("the newest of {n} checkpoints of a Trainer"),
        };
        let path = dir.join(newest);
        return format!("; {newest} is {count}: name {} to take it", path.display());
    }
    let of_trainers: Vec<String> = OF_TRAINERS
        .iter()
        .filter(|name| names.iter().any(|n| n == *name))
        .map(|name| name.to_string())
        .collect();
    if !of_trainers.is_empty() {
        return format!(
            "; there is only what a Trainer keeps to go on training ({}), the model is missing: trainer.save_model(DIR) writes it",
            listed(&of_trainers)
        );
    }
    let weights: Vec<&String> = names
        .iter()
        .filter(|n| {
            [".safetensors", ".bin", ".pt", ".pth"]
                .iter()
                .any(|end| n.ends_with(end))
        })
        .collect();
    if let Some(name) = weights.first() {
        return format!("; {name} is there: name the file itself if it is the model");
    }
    match names.as_slice() {
        [] => "; the folder is empty".into(),
        names => format!("; there is only {}", listed(names)),
    }
}
