//! Opens a model file once and maps it read-only: pages are read from storage when first touched and can be dropped by
//! the kernel again, unless they are locked in RAM. What comes out is bytes that start on a page boundary, or a copy of them,
//! and later the word whether the file is still what it was.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions, UncheckedAdvice};
use sha2::{Digest, Sha256};

use crate::image::Image;
use crate::image::buffer::Buffer;
use crate::image::digest::hex;
use crate::image::sigbus::{self, Watched};
use crate::platform::sysfs::{kilobytes, read};

/// Why a model file cannot be opened, mapped or copied. `path` is always the model file.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The operating system could not open or read it.
    #[error("{path}: {source}")]
    Open {
        /// The model file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is a directory.
    #[error("{path} is a directory, not a model file")]
    Directory {
        /// The path that was given.
        path: PathBuf,
    },
    /// It is a device, a FIFO or a socket.
    #[error("{path} is not a regular file, it cannot be mapped")]
    NotAFile {
        /// The path that was given.
        path: PathBuf,
    },
    /// It has no bytes.
    #[error("{path} is empty")]
    Empty {
        /// The model file.
        path: PathBuf,
    },
    /// It has more bytes than an address counts.
    #[error("{path} has {bytes} bytes, more than this machine can address")]
    TooLarge {
        /// The model file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The operating system would not map it.
    #[error("{path} cannot be mapped: {source}")]
    Map {
        /// The model file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Its pages were to be locked in RAM, and the limit on locked memory or the memory itself is too small.
    #[error(
        "{path}: cannot lock its {bytes} bytes in RAM ({source}); raise the limit (ulimit -l, LimitMEMLOCK= in a unit) or leave --lock out"
    )]
    Lock {
        /// The model file.
        path: PathBuf,
        /// Bytes that were to be locked.
        bytes: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// A copy was asked for, and less memory is available than it takes.
    #[error("{path}: there is no memory for a copy of its {bytes} bytes; map it instead")]
    NoMemory {
        /// The model file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It became shorter between opening and reading.
    #[error("{path} was cut short while it was read: it had {bytes} bytes")]
    CutShort {
        /// The model file.
        path: PathBuf,
        /// Size it had when it was opened.
        bytes: u64,
    },
    /// Its size or its time of writing is not what it was when it was opened.
    #[error(
        "{path} was written to while it was in use; start again, and replace a model by renaming a whole file over it"
    )]
    Changed {
        /// The model file.
        path: PathBuf,
    },
}

/// A model file that is open, and how it was then. All that is asked of it goes through one descriptor: what its name leads to
/// later makes no difference.
#[derive(Debug)]
pub struct ModelFile {
    file: File,
    path: PathBuf,
    len: usize,
    opened: Metadata,
}

impl ModelFile {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// [`MapError::Open`], [`Directory`](MapError::Directory), [`NotAFile`](MapError::NotAFile), [`Empty`](MapError::Empty) or
    /// [`TooLarge`](MapError::TooLarge).
    pub fn open(path: &Path) -> Result<ModelFile, MapError> {
        let owned = || path.to_path_buf();
        // Non-blocking: opening a FIFO would otherwise wait for a writer that never comes.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| MapError::Open { path: owned(), source })?;
        let opened = match file.metadata() {
            Err(source) => return Err(MapError::Open { path: owned(), source }),
            Ok(meta) if meta.is_dir() => return Err(MapError::Directory { path: owned() }),
            Ok(meta) if !meta.is_file() => return Err(MapError::NotAFile { path: owned() }),
            Ok(meta) if meta.len() == 0 => return Err(MapError::Empty { path: owned() }),
            Ok(meta) => meta,
        };
        let bytes = opened.len();
        // No slice is longer, whatever addresses could count: 2 GiB on a 32-bit board.
        let len = isize::try_from(bytes).map(isize::unsigned_abs);
        Ok(ModelFile {
            len: len.map_err(|_| MapError::TooLarge { path: owned(), bytes })?,
            path: owned(),
            file,
            opened,
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor it is read through.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The size it had when it was opened.
    pub fn bytes(&self) -> u64 {
        self.len as u64
    }

    fn failed(&self, source: io::Error) -> MapError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::UnexpectedEof => MapError::CutShort {
                path,
                bytes: self.bytes(),
            },
            _ => MapError::Open { path, source },
        }
    }

    /// An error where somebody wrote to the file since it was opened, as far as the file system tells: by its size and its
    /// time of writing, which has the grain of its clock. The time of its last change of any kind is left alone: new names,
    /// permissions and labels move it as well.
    ///
    /// # Errors
    /// [`MapError::Changed`]; [`MapError::Open`] where the system does not tell.
    pub fn unchanged(&self) -> Result<(), MapError> {
        let (then, now) = (&self.opened, self.file.metadata().map_err(|e| self.failed(e))?);
        let content = |m: &Metadata| (m.size(), m.mtime(), m.mtime_nsec());
        if content(&now) != content(then) {
            return Err(MapError::Changed {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// Whether its name still leads to it.
    pub fn in_place(&self) -> bool {
        let same = |m: Metadata| (m.dev(), m.ino()) == (self.opened.dev(), self.opened.ino());
        std::fs::metadata(&self.path).is_ok_and(same)
    }

    /// Its bytes in memory of our own, which nobody else can write to or cut.
    ///
    /// # Errors
    /// [`MapError::NoMemory`], [`MapError::CutShort`] and [`MapError::Open`].
    pub fn copy(&self) -> Result<Arc<Image>, MapError> {
        let full = || MapError::NoMemory {
            path: self.path.clone(),
            bytes: self.bytes(),
        };
        // The kernel promises more than it has, and kills whoever takes it at its word.
        let available = read("/proc/meminfo").and_then(|info| kilobytes(&info, "MemAvailable"));
        if available.is_some_and(|available| available < self.bytes()) {
            return Err(full());
        }
        let mut buffer = Buffer::with_room(self.len).map_err(|_| full())?;
        let read = self.file.read_exact_at(buffer.take(self.len), 0);
        read.map_err(|e| self.failed(e))?;
        Ok(Image::of(buffer, self.len))
    }

    /// Hexadecimal SHA-256, read in small pieces: by way of a map all of it would become resident.
    ///
    /// # Errors
    /// [`MapError::CutShort`] and [`MapError::Open`].
    pub fn sha256(&self) -> Result<String, MapError> {
        let (mut hasher, mut piece, mut at) = (Sha256::new(), [0u8; 16 << 10], 0);
        while at < self.bytes() {
            let rest = usize::try_from(self.bytes() - at).unwrap_or(usize::MAX);
            let piece = &mut piece[..rest.min(16 << 10)];
            self.file.read_exact_at(piece, at).map_err(|e| self.failed(e))?;
            hasher.update(&*piece);
            at += piece.len() as u64;
        }
        Ok(hex(&hasher.finalize()))
    }
}

/// A mapped model file. It should not be truncated while it is mapped: touching a page that is gone ends a program, with words
/// where it has asked for them (`fault`). thimble itself only ever replaces model files by rename, which leaves a map as it is.
#[derive(Debug)]
pub struct ModelMap {
    // Fields are dropped in this order, and what is no longer mapped must not be watched.
    _watched: Watched,
    map: Mmap,
    file: Arc<ModelFile>,
    locked: bool,
}

impl ModelMap {
    /// The size asked and the pages mapped are those of one open file: a rename in between changes neither.
    ///
    /// # Errors
    /// Those of [`ModelFile::open`] and [`ModelMap::of`].
    pub fn open(path: &Path, lock: bool) -> Result<ModelMap, MapError> {
        ModelMap::of(&Arc::new(ModelFile::open(path)?), lock)
    }

    /// Maps a file that is open already; `lock` holds its pages in RAM for as long as the map lives.
    ///
    /// # Errors
    /// [`MapError::Map`] and [`MapError::Lock`]; [`MapError::Changed`] where locking failed because the file was changed.
    pub fn of(file: &Arc<ModelFile>, lock: bool) -> Result<ModelMap, MapError> {
        let owned = || file.path.clone();
        // SAFETY: the map is private and read-only, and never handed out as anything but bytes. Its content changes
        // under us only if another program writes to this very inode, which `ModelFile::unchanged` tells.
        let map = unsafe { MmapOptions::new().len(file.len).map_copy_read_only(&file.file) }
            .map_err(|source| MapError::Map { path: owned(), source })?;
        let watched = sigbus::watch(&map, &file.path);
        if lock {
            map.lock().or_else(|source| {
                // Pages that are gone cannot be locked either.
                file.unchanged()?;
                Err(MapError::Lock {
                    path: owned(),
                    bytes: file.bytes(),
                    source,
                })
            })?;
        }
        Ok(ModelMap {
            _watched: watched,
            map,
            file: file.clone(),
            locked: lock,
        })
    }

    /// The whole file; the first byte is on a page boundary.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The open file that is mapped.
    pub fn file(&self) -> &Arc<ModelFile> {
        &self.file
    }

    /// Whether its pages are locked in RAM.
    pub fn locked(&self) -> bool {
        self.locked
    }

    /// Gives back the pages that hold `part`, which is part of [`ModelMap::bytes`] and need not be read again soon: whoever does
    /// reads them anew from the file. What is no part of it, or is locked, stays.
    pub fn release(&self, part: &[u8]) {
        let (whole, part) = (self.map.as_ptr_range(), part.as_ptr_range());
        if self.locked || part.start < whole.start || part.end > whole.end || part.is_empty() {
            return;
        }
        // The kernel maps the pages around one that is asked for, those of the part before among them: they go with it.
        let start = (part.start.addr() / AROUND * AROUND).max(whole.start.addr());
        let end = part.end.addr().next_multiple_of(AROUND).min(whole.end.addr());
        let (start, end) = (start - whole.start.addr(), end - whole.start.addr());
        // SAFETY: a private map of a file that is never written to holds no bytes of its own: the next access to a page that was
        // given back reads it from the file. It is advice; where it is not taken the pages stay.
        let _ = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
        };
    }
}

/// The piece of a file that Linux maps at once where a page of it is asked for (fault_around_bytes), a multiple of pages.
const AROUND: usize = 64 << 10;

impl AsRef<[u8]> for ModelMap {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::digest::sha256;

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

    #[test]
    fn whoever_writes_is_seen_and_whoever_renames_is_not() {
        use std::io::Write;
        let dir = scratch("change");
        let path = dir.join("model");
        let other = dir.join("other");
        let cases: [(&str, bool, &dyn Fn()); 8] = [
            ("nothing", true, &|| ()),
            ("written in place", false, &|| {
                File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .write_all(b"NEW")
                    .unwrap();
            }),
            ("another name and back", true, &|| {
                std::fs::rename(&path, &other).unwrap();
                std::fs::rename(&other, &path).unwrap();
            }),
            ("other permissions and back", true, &|| {
                let before = std::fs::metadata(&path).unwrap().permissions();
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
                std::fs::set_permissions(&path, before).unwrap();
            }),
            ("cut short", false, &|| {
                File::options().write(true).open(&path).unwrap().set_len(3).unwrap();
            }),
            ("replaced", true, &|| {
                std::fs::write(&other, b"new bytes").unwrap();
                std::fs::rename(&other, &path).unwrap();
            }),
            ("renamed", true, &|| std::fs::rename(&path, &other).unwrap()),
            ("removed", true, &|| std::fs::remove_file(&path).unwrap()),
        ];
        for (what, same, change) in cases {
            std::fs::write(&path, b"old bytes").unwrap();
            let file = ModelFile::open(&path).unwrap();
            // A file system's clock may stand still for some milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(30));
            change();
            assert_eq!(file.unchanged().is_ok(), same, "{what}");
            let moved = ["replaced", "renamed", "removed"].contains(&what);
            assert_eq!(file.in_place(), !moved, "{what}");
            if !same {
                let message = file.unchanged().unwrap_err().to_string();
                assert!(message.starts_with(&path.display().to_string()) && message.contains("was written to"));
            }
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn pages_that_are_given_back_are_read_again() {
        let dir = scratch("release");
        let path = dir.join("model");
        let content: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, content).unwrap();
        let map = ModelMap::open(&path, false).unwrap();
        let resident = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let name = path.display().to_string();
            let area = smaps.lines().skip_while(|line| !line.ends_with(&name));
            kilobytes(&area.collect::<Vec<_>>().join("\n"), "Rss").unwrap_or(0)
        };
        let sum = |bytes: &[u8]| bytes.iter().map(|&b| u64::from(b)).sum::<u64>();
        let before = sum(map.bytes());
        let all = resident();
        map.release(&map.bytes()[5000..900_000]);
        let few = resident();
        assert!(all >= 1 << 20 && few < 1 << 18, "{all} and then {few}");
        assert_eq!(sum(map.bytes()), before);
        // What is not of the map is left alone.
        let other = [1u8; 9000];
        map.release(&other);
        assert_eq!(sum(&other), 9000);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_copy_and_a_digest_are_of_the_open_file() {
        let dir = scratch("copy");
        let path = dir.join("model");
        std::fs::write(&path, b"abc").unwrap();
        let file = ModelFile::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"another").unwrap();
        let copy = file.copy().unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((copy.bytes(), file.sha256().unwrap().as_str()), (&b"abc"[..], expected));
        assert_eq!(sha256(copy.bytes()), expected);
        // Of a file that ends early there is neither.
        let file = ModelFile::open(&path).unwrap();
        std::fs::write(&path, b"an").unwrap();
        for message in [
            file.copy().unwrap_err().to_string(),
            file.sha256().unwrap_err().to_string(),
        ] {
            assert!(message.contains("cut short"), "{message}");
        }
        let long: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        std::fs::write(&path, &long).unwrap();
        assert_eq!(ModelFile::open(&path).unwrap().sha256().unwrap(), sha256(&long));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
