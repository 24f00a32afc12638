//! Folders that hold a model one level down, and names that lead to none: sentence-transformers' layout, the hub's cache, a
//! Trainer's checkpoints. In comes the path a user gave, out comes the folder to read with what is left out of it, or what to do
//! instead.

use super::listing::{is_dangling, listed, names_in};
use super::locate::has_weights;
use super::sentence_transformers::Modules;
use super::{SourceError, hint, hub, tensorflow};
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

/// Longest `refs/main` that is read.
const MOST_TEXT: u64 = 1 << 20;

/// What is to be read for the path a user gave.
pub fn resolve(path: &Path) -> Result<Opened, SourceError> {
    if !path.exists() {
        if tensorflow::is_checkpoint(path) {
            return Ok(as_it_is(path));
        }
        return Err(SourceError::Absent {
            path: path.to_path_buf(),
            hint: if is_dangling(path) {
                format!("; {}", hint::DANGLING)
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
