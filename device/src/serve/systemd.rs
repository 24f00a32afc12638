//! What systemd hands a service it starts: a socket that listens already (LISTEN_FDS, LISTEN_PID) and a place to say that it is
//! ready (NOTIFY_SOCKET). In: the environment; out: the listener. By hand: libsystemd would be a C library on the board.

use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// Why what was passed cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// Another number than one.
    #[error("LISTEN_FDS is {0:?}: one listening socket is served; give the socket unit one ListenStream=")]
    Count(OsString),
    /// No Unix stream socket that listens.
    #[error(
        "the descriptor that was passed is no listening Unix socket; the socket unit needs ListenStream=/PATH and Accept=no"
    )]
    Kind,
    /// The descriptor cannot be looked at.
    #[error("the descriptor that was passed cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// Whether a socket was passed to this process.
pub fn passed() -> bool {
    meant(std::env::var_os("LISTEN_PID").as_deref(), std::process::id()) && std::env::var_os("LISTEN_FDS").is_some()
}

/// Variables that a parent left behind are about another process.
fn meant(pid: Option<&OsStr>, own: u32) -> bool {
    pid.and_then(OsStr::to_str)
        .is_some_and(|pid| pid.trim() == own.to_string())
}

/// The socket that was passed, once; `None` where there is none.
///
/// # Errors
/// Where it is not one, or not of the kind that is served.
pub fn listener() -> Result<Option<UnixListener>, PassedError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if !passed() || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    let count = std::env::var_os("LISTEN_FDS").unwrap_or_default();
    if count != "1" {
        return Err(PassedError::Count(count));
    }
    // SAFETY: the variables say that descriptor 3 was opened for this process, which has opened none that it closes again under
    // this number: whoever set them kept it free of others. TAKEN makes this the only owner.
    let passed = unsafe { OwnedFd::from_raw_fd(FIRST) };
    rustix::io::fcntl_setfd(&passed, rustix::io::FdFlags::CLOEXEC).map_err(io::Error::from)?;
    of_kind(passed).map(Some)
}

fn of_kind(socket: OwnedFd) -> Result<UnixListener, PassedError> {
    let right = matches!(socket_domain(&socket), Ok(AddressFamily::UNIX))
        && matches!(socket_type(&socket), Ok(SocketType::STREAM))
        && matches!(socket_acceptconn(&socket), Ok(true));
    if !right {
        return Err(PassedError::Kind);
    }
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Tells systemd how the service is: "READY=1", "STOPPING=1". Nobody there to be told is no error.
pub fn notify(state: &str) {
    if let Some(place) = std::env::var_os("NOTIFY_SOCKET") {
        let _ = send(&place, state);
    }
}

fn send(place: &OsStr, state: &str) -> io::Result<()> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(place)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_was_meant_for_another_process_is_not_taken() {
        for (pid, own, want) in [
            (Some("17"), 17, true),
            (Some("18"), 17, false),
            (Some(""), 17, false),
            (Some("x"), 17, false),
            (None, 17, false),
        ] {
            assert_eq!(meant(pid.map(OsStr::new), own), want, "{pid:?}");
        }
        assert!(!passed());
    }

    #[test]
    fn only_a_unix_socket_that_listens_is_served() {
        let folder = std::env::temp_dir().join(format!("thimble-passed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let listens = UnixListener::bind(folder.join("s")).unwrap();
        assert!(of_kind(listens.into()).is_ok());
        let (one, _other) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for wrong in [OwnedFd::from(one), file.into(), tcp.into()] {
            assert!(matches!(of_kind(wrong), Err(PassedError::Kind)));
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn readiness_reaches_whoever_listens() {
        let folder = std::env::temp_dir().join(format!("thimble-notify-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let place = folder.join("n");
        let heard = UnixDatagram::bind(&place).unwrap();
        send(place.as_os_str(), "READY=1").unwrap();
        let mut text = [0; 32];
        let bytes = heard.recv(&mut text).unwrap();
        assert_eq!(&text[..bytes], b"READY=1");
        assert!(send(folder.join("missing").as_os_str(), "READY=1").is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
