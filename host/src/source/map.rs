//! Maps a weights file read-only and hashes it: in comes a path, out come its bytes without a copy and their SHA-256.

use super::SourceError;
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file's bytes for as long as this lives.
#[derive(Debug)]
pub struct Mapped {
    pub path: PathBuf,
    map: Mmap,
}

impl Mapped {
    pub fn open(path: &Path) -> Result<Mapped, SourceError> {
        let io = |cause| SourceError::Io {
            path: path.to_path_buf(),
            cause,
        };
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(SourceError::Format {
                path: path.to_path_buf(),
                problem: "is not a regular file".into(),
            });
        }
        if meta.len() == 0 {
            return Err(SourceError::Format {
                path: path.to_path_buf(),
                problem: "is empty".into(),
            });
        }
        // SAFETY: the mapping is read-only and private to this process. Another process that truncates or rewrites the
        // file while it is read can fault or change what we see; checkpoints are written once and thimble itself
        // only replaces files by rename, which leaves the mapped inode alone.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Mapped {
            path: path.to_path_buf(),
            map,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(self.bytes()))
    }
}

pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}
