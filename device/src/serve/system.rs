//! What std does not reach: waiting for the signals that end a server, stdin that can be woken, and whether a peer is gone.

use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

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
pub fn standard(fd: RawFd) -> ManuallyDrop<File> {
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
        let watch = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut both = [watch(self.wake.as_raw_fd()), watch(self.input.as_raw_fd())];
        // SAFETY: the array has the length given.
        if unsafe { libc::poll(both.as_mut_ptr(), 2, -1) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if both[0].revents != 0 {
            return Ok(0);
        }
        self.input.read(to)
    }
}

/// Whether the peer has closed its end altogether, not only ended what it sends.
pub fn hung_up(stream: &UnixStream) -> bool {
    let mut one = libc::pollfd {
        fd: stream.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one entry, as said.
    unsafe { libc::poll(&mut one, 1, 0) > 0 && one.revents & (libc::POLLHUP | libc::POLLERR) != 0 }
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
