//! Finds a checkpoint's files: in comes a directory or a weights file, out come the paths of its configuration and its weights.
//! Files are told by their bytes.

use super::listing::{Located, SHARDED, holds_weights, kind_of, name_of, names_an_albert, same_bytes, weight_files};
use super::shards::{self, Part};
use super::{SourceError, config_file, hint, tensorflow};
use crate::models::file_names::{CONFIG, WEIGHTS};
use std::path::{Path, PathBuf};
use thimble_shared::file_kind::FileKind;

/// Whether a folder itself holds a model's weights.
pub fn has_weights(dir: &Path) -> bool {
    holds_weights(dir) || tensorflow::is_checkpoint(dir)
}

/// Finds the files of the checkpoint at `path`: a directory, a weights file or a shard index.
pub fn locate(path: &Path) -> Result<Located, SourceError> {
    let meta = std::fs::metadata(path).map_err(|cause| SourceError::Io {
        path: path.to_path_buf(),
        cause,
    })?;
    let mut notes = Vec::new();
    let (dir, weights) = if meta.is_dir() {
        let found = WEIGHTS
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
        return Err(SourceError::NoConfig { path: dir.join(CONFIG) });
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
        hint: hint::without_weights(dir),
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
