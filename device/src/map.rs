//! Opens a model file once and maps it read-only: pages are read from storage when first touched and can be dropped by
//! the kernel again, unless they are locked in RAM. What comes out is bytes that start on a page boundary.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};

/// A mapped model file. It must not be truncated while it is mapped (touching a page that is gone is SIGBUS); thimble
/// itself only ever replaces model files by rename, which leaves an existing map on the old file.
#[derive(Debug)]
pub struct ModelMap {
    map: Mmap,
    locked: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("{path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path} is a directory, not a model file")]
    Directory { path: PathBuf },
    #[error("{path} is not a regular file, it cannot be mapped")]
    NotAFile { path: PathBuf },
    #[error("{path} is empty")]
    Empty { path: PathBuf },
    #[error("{path} has {bytes} bytes, more than this machine can address")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{path} cannot be mapped: {source}")]
    Map { path: PathBuf, source: io::Error },
    #[error(
        "{path}: cannot lock its {bytes} bytes in RAM ({source}); raise the limit (ulimit -l, LimitMEMLOCK= in a unit) or leave --lock out"
    )]
    Lock {
        path: PathBuf,
        bytes: u64,
        source: io::Error,
    },
}

impl ModelMap {
    /// The size asked and the pages mapped are those of one open file: a rename in between changes neither.
    pub fn open(path: &Path, lock: bool) -> Result<ModelMap, MapError> {
        let owned = || path.to_path_buf();
        // Non-blocking: opening a FIFO would otherwise wait for a writer that never comes.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| MapError::Open { path: owned(), source })?;
        let bytes = size_of_regular(&file, path)?;
        let len = usize::try_from(bytes).map_err(|_| MapError::TooLarge { path: owned(), bytes })?;
        // SAFETY: the map is private and read-only, and never handed out as anything but bytes. Its content changes
        // under us only if another program writes to this very inode, which the type's documentation rules out.
        let map = unsafe { MmapOptions::new().len(len).map_copy_read_only(&file) }
            .map_err(|source| MapError::Map { path: owned(), source })?;
        if lock {
            map.lock().map_err(|source| MapError::Lock {
                path: owned(),
                bytes,
                source,
            })?;
        }
        Ok(ModelMap { map, locked: lock })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn locked(&self) -> bool {
        self.locked
    }
}

impl AsRef<[u8]> for ModelMap {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

fn size_of_regular(file: &File, path: &Path) -> Result<u64, MapError> {
    let path = path.to_path_buf();
    match file.metadata() {
        Err(source) => Err(MapError::Open { path, source }),
        Ok(meta) if meta.is_dir() => Err(MapError::Directory { path }),
        Ok(meta) if !meta.is_file() => Err(MapError::NotAFile { path }),
        Ok(meta) if meta.len() == 0 => Err(MapError::Empty { path }),
        Ok(meta) => Ok(meta.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("thimble-map-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn what_cannot_be_mapped_is_said_in_one_line() {
        let dir = scratch("refuse");
        std::fs::write(dir.join("empty"), b"").unwrap();
        let cases = [
            (dir.join("missing"), "No such file"),
            (dir.clone(), "is a directory"),
            (dir.join("empty"), "is empty"),
            (PathBuf::from("/dev/null"), "not a regular file"),
        ];
        for (path, expected) in cases {
            let message = ModelMap::open(&path, false).unwrap_err().to_string();
            assert!(message.contains(expected), "{}: {message}", path.display());
            assert!(!message.contains('\n'));
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_map_outlives_the_replacement_of_its_file() {
        let dir = scratch("replace");
        let path = dir.join("model");
        std::fs::write(&path, b"old bytes").unwrap();
        let map = ModelMap::open(&path, false).unwrap();
        std::fs::write(dir.join("new"), b"new").unwrap();
        std::fs::rename(dir.join("new"), &path).unwrap();
        assert_eq!(map.bytes(), b"old bytes");
        assert!(!map.locked());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
