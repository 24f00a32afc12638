//! Directories to work in. Each is locked as long as somebody works there: one without its lock was left by a thimble that was
//! killed, and the next one to need such a directory removes it. Programs started there do not inherit the lock.

use crate::fs::atomic;
use std::fs::{DirEntry, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tempfile::TempDir;

// A name no user gives, since what bears it may be removed.
const PREFIX: &str = ".thimble-";
const SUFFIX: &str = ".dir";

/// An empty directory of our own, removed with all in it when this is dropped.
pub struct Scratch {
    // Fields are dropped in this order: the lock holds until the directory is gone.
    dir: TempDir,
    _lock: Option<File>,
}

impl Scratch {
    /// Where temporary files go.
    pub fn new() -> io::Result<Scratch> {
        Scratch::within(&std::env::temp_dir())
    }

    pub fn within(folder: &Path) -> io::Result<Scratch> {
        clear_abandoned(folder);
        loop {
            let dir = tempfile::Builder::new()
                .prefix(PREFIX)
                .suffix(SUFFIX)
                .tempdir_in(folder)
                .map_err(atomic::cause)?;
            // Before the lock was there, whoever clears up may have taken it for an abandoned one.
            let lock = match open(dir.path()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let lock = match lock.try_lock() {
                Err(TryLockError::WouldBlock) => continue,
                // Where there are no locks, nobody can take one to clear up.
                Err(TryLockError::Error(_)) => None,
                Ok(()) => Some(lock),
            };
            if dir.path().exists() {
                return Ok(Scratch { dir, _lock: lock });
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn open(dir: &Path) -> io::Result<File> {
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(dir)
}

fn clear_abandoned(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let named_so = |entry: &DirEntry| {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes())
        };
        let mine = |entry: &DirEntry| {
            entry
                .metadata()
                .is_ok_and(|meta| meta.is_dir() && atomic::is_ours(&meta))
        };
        if named_so(&entry)
            && mine(&entry)
            && let Ok(dir) = open(&entry.path())
            && dir.try_lock().is_ok()
        {
            // What stays takes room, and does no harm otherwise.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_works_in_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.join("tree")).unwrap();
            path
        };
        let (dead, others) = (
            make(".thimble-a.dir"),
            ["thimble-b.dir", ".thimble-c", "d.dir"].map(make),
        );
        std::os::unix::fs::symlink(&others[0], folder.path().join(".thimble-link.dir")).unwrap();
        std::fs::write(folder.path().join(".thimble-file.dir"), b"x").unwrap();
        let held = Scratch::within(folder.path()).unwrap();
        assert!(!dead.exists());
        let second = Scratch::within(folder.path()).unwrap();
        assert!(held.path().exists() && second.path().exists());
        let gone = [held.path(), second.path()].map(Path::to_path_buf);
        drop((held, second));
        assert!(gone.iter().all(|path| !path.exists()));
        assert!(others.iter().all(|path| path.join("tree").exists()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
    }

    #[test]
    fn many_at_once_take_nothing_from_each_other() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let own = Scratch::within(folder.path()).unwrap();
                        std::fs::write(own.path().join("x"), b"x").unwrap();
                        assert!(own.path().join("x").exists());
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
