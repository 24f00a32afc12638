//! Files that take their names one after the other, and give them back when one cannot: a name may be refused for what no look at
//! it tells, an immutable file or another user's in a sticky directory.

use super::{PREFIX, SUFFIX, WriteError, folder, refused, second_name};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use thimble_shared::files;

/// What bore a name before, held open: what is held need not be taken apart while other files take their names, which takes a
/// file system most of the time.
pub enum Old {
    Nothing,
    /// A link, and where it leads.
    Link(PathBuf),
    File {
        _open: Option<File>,
        /// Under a second name, where it can be read and the file system has links.
        second: Option<NamedTempFile>,
    },
}

impl Old {
    pub fn at(path: &Path) -> Old {
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Old::Nothing,
            Ok(meta) if meta.is_symlink() => return std::fs::read_link(path).map_or(Old::Nothing, Old::Link),
            _ => {}
        }
        let open = files::open(path).ok();
        // Whoever clears up must not take the second name for an abandoned file. One that cannot be opened could not be cleared
        // either, after a kill.
        let locked = open.as_ref().is_some_and(|file| file.try_lock_shared().is_ok());
        let second = locked.then(|| second_name(path, folder(path)).ok()).flatten();
        Old::File { _open: open, second }
    }

    /// Makes it undone that `path` was written; whether that worked.
    fn back(self, path: &Path) -> bool {
        match self {
            Old::Nothing => std::fs::remove_file(path).is_ok(),
            Old::Link(to) => {
                let mut link = tempfile::Builder::new();
                let link = link.prefix(PREFIX).suffix(SUFFIX);
                let made = link.make_in(folder(path), |link| symlink(&to, link));
                made.is_ok_and(|link| link.persist(path).is_ok())
            }
            Old::File { second, .. } => second.is_some_and(|second| second.persist(path).is_ok()),
        }
    }
}

pub struct NameChange<'a> {
    taken: Vec<(&'a Path, Old)>,
    folders: BTreeMap<PathBuf, File>,
}

impl<'a> NameChange<'a> {
    /// For files that go to these paths. A directory that cannot be brought to the disk is known before anything changes.
    pub fn over(paths: impl IntoIterator<Item = &'a Path>) -> Result<NameChange<'a>, WriteError> {
        let mut folders = BTreeMap::new();
        for path in paths {
            let mut options = File::options();
            let dir = options.read(true).custom_flags(libc::O_DIRECTORY).open(folder(path));
            folders.insert(folder(path).to_path_buf(), dir.map_err(refused(path))?);
        }
        Ok(NameChange {
            taken: Vec::new(),
            folders,
        })
    }

    /// Gives `path` to `temp`, or all names back.
    pub fn take(&mut self, temp: NamedTempFile, path: &'a Path, old: Old) -> Result<File, WriteError> {
        let file = temp.persist(path).map_err(|e| self.back(refused(path)(e.error)))?;
        self.taken.push((path, old));
        Ok(file)
    }

    /// The same, on disk before anything follows: the order must hold through a power failure, too.
    pub fn step(&mut self, temp: NamedTempFile, path: &'a Path) -> Result<File, WriteError> {
        let file = self.take(temp, path, Old::at(path))?;
        match self.folders.get(folder(path)).map(File::sync_all) {
            Some(Err(e)) => Err(self.back(refused(path)(e))),
            _ => Ok(file),
        }
    }

    /// In reverse, and no further than it goes: each moment in between has been there before, and was sound. The error tells what
    /// is not given back.
    pub fn back(&mut self, mut error: WriteError) -> WriteError {
        let mut left = std::mem::take(&mut self.taken);
        while let Some((path, old)) = left.pop() {
            if !old.back(path) {
                if let WriteError::Refused { replaced, .. } = &mut error {
                    replaced.extend(left.iter().map(|(path, _)| path.to_path_buf()));
                    replaced.push(path.to_path_buf());
                }
                break;
            }
        }
        error
    }

    /// All are in place.
    pub fn settle(self) -> Result<(), WriteError> {
        for (folder, dir) in &self.folders {
            dir.sync_all().map_err(|source| WriteError::Unsettled {
                folder: folder.clone(),
                source,
            })?;
        }
        Ok(())
    }
}
