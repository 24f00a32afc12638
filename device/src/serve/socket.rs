//! The Unix socket of a server: taken only when no other server has it, with the permissions asked for from its first
//! moment, and removed at the end if it is still the same.

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::process::umask;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::system::connect_now;

/// How long another server may take to look at the folder.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("--socket {path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("--socket {path}: another server listens there; stop it, or name another socket", path = .path.display())]
    Live { path: PathBuf },
    #[error("--socket {path}: the path exists and is no socket", path = .path.display())]
    NoSocket { path: PathBuf },
}

/// A socket's name in the file system; gone when dropped.
pub struct Bound {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

pub fn bind(path: &Path, mode: u32) -> Result<(UnixListener, Bound), SocketError> {
    let failed = |source| SocketError::Io {
        path: path.to_path_buf(),
        source,
    };
    // Two servers that start at once must not both find a stale socket and remove each other's: one looks at a time.
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let folder = File::open(parent).map_err(failed)?;
    lock(&folder).map_err(failed)?;
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NoSocket {
                path: path.to_path_buf(),
            });
        }
        Ok(_) => match connect_now(path).map_err(|e| (e.kind(), e)) {
            // Its server ended without removing it.
            Err((io::ErrorKind::ConnectionRefused, _)) => fs::remove_file(path).map_err(failed)?,
            // Or it has more clients waiting than it takes: it is stopped, or busy.
            Ok(()) | Err((io::ErrorKind::WouldBlock, _)) => {
                return Err(SocketError::Live {
                    path: path.to_path_buf(),
                });
            }
            Err((_, e)) => return Err(failed(e)),
        },
    }
    // Changing the mode afterwards would leave a moment in which anyone may connect.
    let alone = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    // It is the whole process's: nobody else sets it meanwhile.
    let before = umask(Mode::from_raw_mode(!mode & 0o777));
    let bound = UnixListener::bind(path);
    umask(before);
    drop(alone);
    let listener = bound.map_err(failed)?;
    let made = fs::symlink_metadata(path).map_err(failed)?;
    let bound = Bound {
        path: path.to_path_buf(),
        identity: (made.dev(), made.ino()),
    };
    Ok((listener, bound))
}

/// Held while the process has a socket's mode as its umask.
static UMASK: Mutex<()> = Mutex::new(());

/// Holds the folder until it is closed, after waiting for another server's start; not for ever, since anyone who may read the
/// folder may hold it.
fn lock(folder: &File) -> io::Result<()> {
    let patience = Instant::now() + PATIENCE;
    loop {
        match flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(e.into()),
        }
        if Instant::now() > patience {
            return Err(io::Error::other("another program holds its folder locked"));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let same = |found: fs::Metadata| (found.dev(), found.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(same) {
            // Nothing is left to do when it cannot be removed; the next server replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_is_taken_only_from_the_dead() {
        let folder = std::env::temp_dir().join(format!("thimble-socket-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        let (first, held) = bind(&path, 0o640).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(matches!(bind(&path, 0o600), Err(SocketError::Live { .. })));
        // As a killed server leaves it.
        std::mem::forget(held);
        drop(first);
        let (second, held) = bind(&path, 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Another's socket in its place is left alone.
        fs::remove_file(&path).unwrap();
        let (_third, other) = bind(&path, 0o600).unwrap();
        drop((second, held));
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
        fs::write(&path, "data").unwrap();
        assert!(matches!(bind(&path, 0o600), Err(SocketError::NoSocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"data");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_stopped_server_is_not_waited_for() {
        let folder = std::env::temp_dir().join(format!("thimble-stopped-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        let (_listener, held) = bind(&path, 0o600).unwrap();
        // Nobody accepts: the queue of those that wait fills up.
        let mut waiting = 0;
        while connect_now(&path).is_ok() {
            waiting += 1;
            assert!(waiting < 100_000);
        }
        assert!(matches!(bind(&path, 0o600), Err(SocketError::Live { .. })));
        drop(held);
        fs::remove_dir_all(folder).unwrap();
    }
}
