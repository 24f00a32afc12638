//! Folders that hold a model one level down, and names that lead to none: sentence-transformers' layout, the hub's cache, a
//! Trainer's checkpoints. In comes the path a user gave, out comes the folder to read with what is left out of it, or what to do
//! instead.

use super::listing::{holds_weights, is_dangling, listed, names_in};
use super::{SourceError, hint, hub, tensorflow};
use serde_json::Value;
use std::path::{Path, PathBuf};
use thimble_shared::files;

/// A path that can be read as a checkpoint's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub path: PathBuf,
    pub notes: Vec<String>,
    /// Whether sentence-transformers computes the model's answer from its hidden states, and its pooler has no part in it.
    pub sentence: bool,
}

/// Where sentence-transformers lists the parts of a model.
const MODULES: &str = "modules.json";

/// The folder of the transformer in the layout sentence-transformers wrote before version 2.
const OLD_TRANSFORMER: &str = "0_Transformer";

/// A classifier of SetFit's, a pickle of scikit-learn.
const SETFIT_HEAD: &str = "model_head.pkl";

/// What the folders of a hub's cache begin with.
const CACHED: &str = "models--";

/// Where a repository in the cache keeps its files, and where the cache itself lies in `HF_HOME`.
const SNAPSHOTS: &str = "snapshots";
const HUB: &str = "hub";

/// Longest `modules.json` or `refs/main` that is read.
const MOST_TEXT: u64 = 1 << 20;

/// Whether a folder itself holds a model's weights.
pub fn has_weights(dir: &Path) -> bool {
    holds_weights(dir) || tensorflow::is_checkpoint(dir)
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
    if let Some(mut inside) = sentence_transformer(&opened.path)? {
        inside.notes.splice(0..0, opened.notes);
        opened = inside;
    }
    Ok(opened)
}

fn as_it_is(path: &Path) -> Opened {
    Opened {
        path: path.to_path_buf(),
        notes: Vec::new(),
        sentence: false,
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

/// The transformer inside a folder of sentence-transformers.
fn sentence_transformer(dir: &Path) -> Result<Option<Opened>, SourceError> {
    let parts = match short_text(&dir.join(MODULES)) {
        Some(text) => parts(&dir.join(MODULES), &text)?,
        None if dir.join(OLD_TRANSFORMER).is_dir() && !has_weights(dir) => {
            let mut names = names_in(dir);
            names.retain(|name| name.starts_with(|c: char| c.is_ascii_digit()) && dir.join(name).is_dir());
            names.into_iter().map(|name| (name.clone(), name)).collect()
        }
        None => return Ok(None),
    };
    let of = |(kind, _): &&(String, String)| kind.ends_with("Transformer");
    let Some((_, inside)) = parts.iter().find(of) else {
        let router = parts.iter().find(|(kind, _)| kind.ends_with("Router"));
        return match router.map(|(_, folder)| routed(&dir.join(folder))) {
            Some(several) if !several.is_empty() => {
                let problem = format!(
                    "it is a router of sentence-transformers; name one of its transformers: {}",
                    listed(&several)
                );
                Err(refused(dir, problem))
            }
            _ => Ok(None),
        };
    };
    let mut left_out: Vec<&str> = parts
        .iter()
        .filter(|part| !of(part))
        .map(|(kind, _)| kind.rsplit(['.', '_']).next().unwrap_or(kind))
        .collect();
    if dir.join(SETFIT_HEAD).is_file() {
        left_out.push("SetFit's classifier (model_head.pkl)");
    }
    let folder = if inside.is_empty() {
        "this folder".to_string()
    } else {
        inside.clone()
    };
    let mut opened = as_it_is(&if inside.is_empty() {
        dir.to_path_buf()
    } else {
        dir.join(inside)
    });
    opened.sentence = true;
    opened.notes.push(format!(
        "a model of sentence-transformers: the transformer in {folder} is read, {} left out",
        match left_out.as_slice() {
            [] => "nothing is".to_string(),
            [only] => format!("{only} is"),
            several => format!("{} are", several.join(", ")),
        }
    ));
    Ok(Some(opened))
}

/// The transformers below a router, by their folders.
fn routed(dir: &Path) -> Vec<String> {
    let mut paths: Vec<PathBuf> = names_in(dir).into_iter().map(|name| dir.join(name)).collect();
    paths.retain(|path| path.to_string_lossy().ends_with("Transformer") && path.is_dir());
    paths.iter().map(|path| path.display().to_string()).collect()
}

/// Type and folder of each part that `modules.json` lists; folders lie inside this one.
fn parts(path: &Path, text: &[u8]) -> Result<Vec<(String, String)>, SourceError> {
    let wrong = |problem: &str| SourceError::Format {
        path: path.to_path_buf(),
        problem: problem.into(),
    };
    let json: Value = serde_json::from_slice(text).map_err(|e| wrong(&format!("invalid JSON: {e}")))?;
    let list = json
        .as_array()
        .ok_or_else(|| wrong("is no list of a model's parts, as sentence-transformers writes it"))?;
    let part = |entry: &Value| {
        let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_string);
        let kind = text("type")?;
        let folder = text("path")?;
        let plain = !folder.contains(['/', '\\', '\0']) && folder != ".." && folder != ".";
        plain.then_some((kind, folder))
    };
    list.iter()
        .map(|entry| part(entry).ok_or_else(|| wrong("a part has no type, or its path is no folder inside this one")))
        .collect()
}
