//! Maps a weights file read-only and hashes it: in comes a path, out come its bytes without a copy and their SHA-256.

use super::SourceError;
use std::path::{Path, PathBuf};
use thimble_device::image::mmap::ModelMap;

/// A file's bytes for as long as this lives.
#[derive(Debug)]
pub struct Mapped {
    pub path: PathBuf,
    map: ModelMap,
}

impl Mapped {
    pub fn open(path: &Path) -> Result<Mapped, SourceError> {
        Ok(Mapped {
            path: path.to_path_buf(),
            map: ModelMap::open(path, false).map_err(SourceError::Map)?,
        })
    }

    /// An error where somebody wrote to it since it was opened.
    pub fn unchanged(&self) -> Result<(), SourceError> {
        self.map.file().unchanged().map_err(SourceError::Map)
    }

    pub fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    /// Gives back the pages of what was read of it: see [`ModelMap::release`].
    pub fn release(&self, part: &[u8]) {
        self.map.release(part);
    }

    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// In hex. Read in small pieces: by way of the map all of it would become resident.
    pub fn sha256(&self) -> Result<String, SourceError> {
        self.map.file().sha256().map_err(SourceError::Map)
    }
}
