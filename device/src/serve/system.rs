//! What std does not reach: stdin that can be woken, sending and connecting without waiting, and whether a peer is gone.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// stdin until it ends, or until the other end of `wake` is closed.
pub struct Stdin {
    input: BorrowedFd<'static>,
    wake: UnixStream,
}

impl Stdin {
    pub fn new(wake: UnixStream) -> Stdin {
        Stdin {
            input: rustix::stdio::stdin(),
            wake,
        }
    }
}

impl Read for Stdin {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut both = [
                PollFd::new(&self.wake, PollFlags::IN),
                PollFd::from_borrowed_fd(self.input, PollFlags::IN),
            ];
            poll(&mut both, None)?;
            if !both[0].revents().is_empty() {
                return Ok(0);
            }
            match rustix::io::read(self.input, &mut *to) {
                // Whoever shares the stream may have set it so, and been quicker.
                Err(rustix::io::Errno::AGAIN) => {}
                result => return Ok(result?),
            }
        }
    }
}

/// stdout without std's buffer, which waits for room even where another program set the stream not to.
pub struct Stdout(BorrowedFd<'static>);

impl Stdout {
    pub fn new() -> Stdout {
        Stdout(rustix::stdio::stdout())
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                Err(rustix::io::Errno::AGAIN) => {
                    poll(&mut [PollFd::from_borrowed_fd(self.0, PollFlags::OUT)], None)?;
                }
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits for one of `all`, at most so long, or for ever; whether there was one.
fn poll(all: &mut [PollFd<'_>], longest: Option<Duration>) -> io::Result<bool> {
    let longest = longest.map(|d| Timespec {
        tv_sec: d.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: d.subsec_nanos().into(),
    });
    Ok(rustix::event::poll(all, longest.as_ref())? > 0)
}

/// Waits until a client is there; false where `end` was closed instead.
pub fn readable(listener: &UnixListener, end: &UnixStream) -> io::Result<bool> {
    let mut both = [PollFd::new(listener, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
    loop {
        match poll(&mut both, None) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(both[1].revents().is_empty()),
        }
    }
}

/// Sends what fits into the stream's buffer now; `WouldBlock` where nothing does.
pub fn send_now(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(
        stream,
        bytes,
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    )?)
}

/// Waits until there is room in the stream's buffer, or so long; an interrupted wait is a short one.
pub fn wait_writable(stream: &UnixStream, longest: Duration) -> io::Result<()> {
    let longest = longest.clamp(Duration::from_millis(1), Duration::from_secs(1));
    match poll(&mut [PollFd::new(stream, PollFlags::OUT)], Some(longest)) {
        Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(e),
        _ => Ok(()),
    }
}

/// Lets this process have `needed` descriptors where the hard limit allows it; how many it may have now.
pub fn allow_descriptors(needed: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let before = current.unwrap_or(u64::MAX);
    let wanted = before.max(needed.min(maximum.unwrap_or(u64::MAX)));
    let limit = Rlimit {
        current: Some(wanted),
        maximum,
    };
    let raised = wanted == before || setrlimit(Resource::Nofile, limit).is_ok();
    if raised { wanted } else { before }
}

/// Connects without waiting: a server that has stopped taking clients may never have room. `WouldBlock` is such a one.
pub fn connect_now(path: &Path) -> io::Result<()> {
    let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for a socket");
    let address = SocketAddrUnix::new(path).map_err(too_long)?;
    let socket = UnixStream::from(rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?);
    socket.set_nonblocking(true)?;
    Ok(rustix::net::connect(&socket, &address)?)
}

/// Whether the peer has closed its end altogether, not only ended what it sends.
pub fn hung_up(stream: &UnixStream) -> bool {
    let mut one = [PollFd::new(stream, PollFlags::empty())];
    let gone = PollFlags::HUP | PollFlags::ERR;
    poll(&mut one, Some(Duration::ZERO)).is_ok_and(|some| some && one[0].revents().intersects(gone))
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
