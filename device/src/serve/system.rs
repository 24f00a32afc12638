//! What std does not reach: waiting for the signals that end a server, stdin that can be woken, and whether a peer is gone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// SIGTERM and SIGINT, kept from the threads of this process until somebody waits for them.
pub struct EndSignals(libc::sigset_t);

impl EndSignals {
    /// To be called before any thread is made: threads inherit the mask.
    pub fn hold() -> EndSignals {
        // SAFETY: sigemptyset writes the whole set before anything reads it, and all pointers are to it.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            EndSignals(set)
        }
    }

    pub fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are valid. It fails only for an invalid set, and this one is valid.
        unsafe { libc::sigwait(&self.0, &mut signal) };
    }
}

/// stdin or stdout without std's buffer, left open at the end.
fn standard(fd: RawFd) -> ManuallyDrop<File> {
    // SAFETY: 0 and 1 are open for the life of the process, since the standard library opens those that are not; it is
    // never closed through this.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
}

/// stdin until it ends, or until the other end of `wake` is closed.
pub struct Stdin {
    input: ManuallyDrop<File>,
    wake: UnixStream,
}

impl Stdin {
    pub fn new(wake: UnixStream) -> Stdin {
        Stdin {
            input: standard(libc::STDIN_FILENO),
            wake,
        }
    }
}

impl Read for Stdin {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut both = [
                watch(self.wake.as_raw_fd(), libc::POLLIN),
                watch(self.input.as_raw_fd(), libc::POLLIN),
            ];
            poll(&mut both, -1)?;
            if both[0].revents != 0 {
                return Ok(0);
            }
            match self.input.read(to) {
                // Whoever shares the stream may have set it so, and been quicker.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// stdout without std's buffer, which waits for room even where another program set the stream not to.
pub struct Stdout(ManuallyDrop<File>);

impl Stdout {
    pub fn new() -> Stdout {
        Stdout(standard(libc::STDOUT_FILENO))
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [watch(self.0.as_raw_fd(), libc::POLLOUT)], -1)?;
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn watch(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

/// Waits for one of `all`, at most so many milliseconds, or for ever; whether there was one.
fn poll(all: &mut [libc::pollfd], milliseconds: libc::c_int) -> io::Result<bool> {
    // SAFETY: the slice has the length given.
    match unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, milliseconds) } {
        n if n < 0 => Err(io::Error::last_os_error()),
        n => Ok(n > 0),
    }
}

/// Sends what fits into the stream's buffer now; `WouldBlock` where nothing does.
pub fn send_now(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the bytes are borrowed and as many as said.
    let sent = unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Waits until there is room in the stream's buffer, or so long; an interrupted wait is a short one.
pub fn wait_writable(stream: &UnixStream, longest: Duration) -> io::Result<()> {
    let milliseconds = longest.as_millis().clamp(1, 1000) as libc::c_int;
    match poll(&mut [watch(stream.as_raw_fd(), libc::POLLOUT)], milliseconds) {
        Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(e),
        _ => Ok(()),
    }
}

/// Lets this process have `needed` descriptors where the hard limit allows it; how many it may have now.
pub fn allow_descriptors(needed: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes the struct, setrlimit reads it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        let before = limit.rlim_cur;
        limit.rlim_cur = before.max(needed.min(limit.rlim_max));
        let raised = limit.rlim_cur == before || libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0;
        Ok(if raised { limit.rlim_cur } else { before })
    }
}

/// Connects without waiting: a server that has stopped taking clients may never have room. `WouldBlock` is such a one.
pub fn connect_now(path: &Path) -> io::Result<()> {
    // SAFETY: plain numbers; zero is an address without a name.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let name = path.as_os_str().as_bytes();
    if name.len() >= address.sun_path.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path is too long for a socket",
        ));
    }
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    // SAFETY: the descriptor is new and owned by nobody else; the address is whole and as long as said.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = UnixStream::from_raw_fd(fd);
        socket.set_nonblocking(true)?;
        let length = size_of_val(&address) as libc::socklen_t;
        match libc::connect(fd, (&raw const address).cast(), length) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether the peer has closed its end altogether, not only ended what it sends.
pub fn hung_up(stream: &UnixStream) -> bool {
    let mut one = [watch(stream.as_raw_fd(), 0)];
    poll(&mut one, 0).is_ok_and(|some| some && one[0].revents & (libc::POLLHUP | libc::POLLERR) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    #[test]
    fn half_closed_is_not_gone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(!hung_up(&ours));
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(!hung_up(&ours));
        drop(theirs);
        assert!(hung_up(&ours));
    }
}
