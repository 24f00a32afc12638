//! Checkpoints in several files. In comes a shard index, or a file whose name says which part it is, out come all the files and
//! the tensors that the index promises.

use super::listing::{kind_of, name_of, names_in};
use super::{SourceError, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use thimble_shared::file_kind::FileKind;

/// Digits of a part's number and of their count, as transformers writes both.
const DIGITS: usize = 5;

/// A file whose name says which part of a checkpoint it is: `model-00001-of-00003.safetensors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub number: usize,
    pub of: usize,
    before: String,
    after: String,
}

impl Part {
    /// What the name of a file says, where it is one of several.
    pub fn of(name: &str) -> Option<Part> {
        const OF: &str = "-of-";
        let at = name.find(OF)?;
        let (head, tail) = (&name[..at], &name[at + OF.len()..]);
        let number = head.get(head.len().checked_sub(DIGITS)?..)?;
        let of = tail.get(..DIGITS)?;
        let part = Part {
            number: number.parse().ok()?,
            of: of.parse().ok()?,
            before: head[..head.len() - DIGITS].to_string(),
            after: tail[DIGITS..].to_string(),
        };
        let usual = part.before.ends_with('-') && part.after.starts_with('.');
        (usual && part.of > 1 && (1..=part.of).contains(&part.number)).then_some(part)
    }

    fn name(&self, number: usize) -> String {
        format!("{}{number:0DIGITS$}-of-{:0DIGITS$}{}", self.before, self.of, self.after)
    }

    /// All parts, this one among them.
    ///
    /// # Errors
    /// One that is not there.
    pub fn all(&self, dir: &Path) -> Result<Vec<PathBuf>, SourceError> {
        let path = |number| dir.join(self.name(number));
        match (1..=self.of).find(|&number| !path(number).is_file()) {
            None => Ok((1..=self.of).map(path).collect()),
            Some(lost) => Err(SourceError::Format {
                path: dir.join(self.name(self.number)),
                problem: format!(
                    "it is part {} of {}, and {} is not beside it; fetch that",
                    self.number,
                    self.of,
                    self.name(lost)
                ),
            }),
        }
    }

    /// What to do with a part that is given for the whole.
    pub fn refused(&self, dir: &Path) -> SourceError {
        let index = match indexes(dir).into_iter().next() {
            Some(index) => format!("its index {}", name_of(&index)),
            None => "its index".into(),
        };
        SourceError::Format {
            path: dir.join(self.name(self.number)),
            problem: format!("it is part {} of {}; name the folder or {index}", self.number, self.of),
        }
    }
}

/// Whether a file is meant as a shard index by its name; variants put theirs before the end (`model.safetensors.index.fp16.json`).
pub fn is_index(path: &Path) -> bool {
    let name = name_of(path);
    name.contains(".index.") && name.ends_with(".json")
}

/// The shard indexes of a folder.
pub fn indexes(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = names_in(dir).into_iter().map(|name| dir.join(name)).collect();
    paths.retain(|path| is_index(path) && path.is_file() && kind_of(path) == Some(FileKind::ShardIndex));
    paths
}

/// Files and tensor names of a shard index. Shards stand beside the index: a name with a path in it is refused.
pub fn read(dir: &Path, index: &Path) -> Result<(Vec<PathBuf>, BTreeSet<String>), SourceError> {
    let field = |problem: String| SourceError::Config {
        path: index.to_path_buf(),
        field: "weight_map".into(),
        problem,
    };
    let json = json::read(index)?;
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

#[cfg(test)]
mod tests {
    use super::Part;

    #[test]
    fn a_part_is_told_by_its_name() {
        for (name, want) in [
            ("model-00001-of-00003.safetensors", Some((1, 3))),
            ("pytorch_model-00002-of-00002.bin", Some((2, 2))),
            ("model.fp16-00003-of-00003.safetensors", Some((3, 3))),
            ("model-00001-of-00001.safetensors", None),
            ("model-00004-of-00003.safetensors", None),
            ("model-00000-of-00003.safetensors", None),
            ("model.ckpt.data-00000-of-00001", None),
            ("model-1-of-3.safetensors", None),
            ("-of-", None),
            ("ü-of-00003.bin", None),
            ("one-of-these.bin", None),
        ] {
            let part = Part::of(name);
            assert_eq!(part.as_ref().map(|p| (p.number, p.of)), want, "{name}");
            if let Some(part) = part {
                assert_eq!(part.name(part.number), name);
            }
        }
    }
}
