//! The boards thimble knows: the profiles of `targets/`, built into the program, and a user's own by path.

use crate::boards::profile_file;
use crate::fs::atomic::FileError;
use std::path::Path;
use thimble_shared::board::target::Target;
use thimble_shared::files;
use thimble_shared::spelling::nearest;

/// File name and text of every profile in `targets/`.
const BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/targets.rs"));

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No built-in profile has the name.
    #[error("no target '{name}'; {}known are {known}, or give the path of a .toml file", .meant.as_ref().map(|m| format!("did you mean {m}? ")).unwrap_or_default())]
    Unknown {
        /// The name that was given.
        name: String,
        /// The nearest name there is, where one is near.
        meant: Option<String>,
        /// Names of the built-in profiles, with commas between them.
        known: String,
    },
    /// A profile is no valid TOML, or contradicts itself.
    #[error("{file}: {problem}")]
    File {
        /// The profile.
        file: String,
        /// What is wrong in it.
        problem: String,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] FileError),
}

/// All built-in profiles, by name.
///
/// # Errors
/// [`TargetError::File`].
pub fn all() -> Result<Vec<Target>, TargetError> {
    BUILT_IN.iter().map(|(file, text)| parse(file, text)).collect()
}

/// The file that `name` names, where it is none of the built-in profiles.
pub fn file(name: &str) -> Option<&Path> {
    Some(Path::new(name)).filter(|path| path.extension().is_some_and(|e| e == "toml"))
}

/// The profile called `name`, or the file at that path.
///
/// # Errors
/// [`TargetError::Unknown`] for a name, [`TargetError::Read`] and [`TargetError::File`] for a path.
pub fn find(name: &str) -> Result<Target, TargetError> {
    if let Some(path) = file(name) {
        let text = files::read_text(path).map_err(|e| FileError::new(path, e))?;
        return parse(name, &text);
    }
    let all = all()?;
    let names: Vec<&str> = all.iter().map(|t| t.name.as_str()).collect();
    let (known, meant) = (names.join(", "), nearest(name, names).map(String::from));
    all.into_iter()
        .find(|t| t.name == name)
        .ok_or_else(|| TargetError::Unknown {
            name: name.to_string(),
            meant,
            known,
        })
}

fn parse(file: &str, text: &str) -> Result<Target, TargetError> {
    let error = |problem: String| TargetError::File {
        file: file.to_string(),
        problem,
    };
    let target = profile_file::read(text).map_err(error)?;
    match target.problems() {
        problems if problems.is_empty() => Ok(target),
        problems => Err(error(problems.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_is_found_by_its_name() {
        let all = all().unwrap();
        assert!(all.len() >= 7);
        for target in all {
            assert_eq!(find(&target.name).unwrap(), target);
        }
        assert!(find("pi-9").unwrap_err().to_string().contains("pi-zero-2w"));
        assert!(find("pi4").unwrap_err().to_string().contains("did you mean pi-4?"));
        assert!(!find("orangepi").unwrap_err().to_string().contains("did you mean"));
    }
}
