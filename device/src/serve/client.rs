//! Who sends requests and gets answers: what is owed and unsent, kept bounded by not reading from a client that does not
//! read, and lines of bounded length out of a stream of bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::system::{send_now, wait_writable};

/// Memory for a client's lines and answers that is kept from one to the next.
const KEPT: usize = 64 << 10;

/// The answering side of a client.
pub struct Client {
    out: Mutex<Out>,
    changed: Condvar,
    gone: AtomicBool,
    /// Bytes of unsent answers above which nothing more is read.
    most: usize,
    /// None for stdin and stdout.
    stream: Option<Arc<UnixStream>>,
}

#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    /// Bytes the writer has taken and not yet sent.
    sending: usize,
    /// Requests taken on and not yet answered, and the bytes their answers may have.
    owed: usize,
    promised: usize,
    /// Nothing more will be read.
    ended: bool,
}

impl Client {
    pub fn new(stream: Option<Arc<UnixStream>>, most: usize) -> Client {
        Client {
            out: Mutex::default(),
            changed: Condvar::new(),
            gone: AtomicBool::new(false),
            most,
            stream,
        }
    }

    /// A panic elsewhere leaves counts and bytes as they were.
    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, out: MutexGuard<'a, Out>) -> MutexGuard<'a, Out> {
        self.changed.wait(out).unwrap_or_else(PoisonError::into_inner)
    }

    pub fn gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Waits until so few answers are unsent or still to come that another request may be read; false when the client has left.
    pub fn may_read(&self) -> bool {
        let mut out = self.lock();
        while out.bytes.len() + out.sending + out.promised > self.most && !self.gone() {
            out = self.wait(out);
        }
        !self.gone()
    }

    /// A request was taken on: an answer to it will follow, of about so many bytes.
    pub fn owe(&self, bytes: usize) {
        let mut out = self.lock();
        out.owed += 1;
        out.promised += bytes;
    }

    /// Hands over the answer to a request that was owed so many bytes, or one made at once. Never waits.
    pub fn answer(&self, line: &[u8], owed: Option<usize>) {
        let mut out = self.lock();
        if let Some(bytes) = owed {
            out.owed -= 1;
            out.promised -= bytes;
        }
        if !self.gone() {
            out.bytes.extend_from_slice(line);
        }
        self.changed.notify_all();
    }

    /// Nothing more will be read from this client.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// The client will read nothing more: its answers are thrown away.
    pub fn leave(&self) {
        let mut out = self.lock();
        self.gone.store(true, Ordering::Release);
        out.bytes = vec![];
        if let Some(stream) = &self.stream {
            // Wakes whoever reads from it; a stream that is closed already is what is wanted.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// Ends reading, so that what has arrived is still taken on and nothing after it.
    pub fn stop_reading(&self) {
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(std::net::Shutdown::Read);
        }
    }

    /// Whether everything owed has been sent, or never can be.
    pub fn settled(&self) -> bool {
        let out = self.lock();
        self.gone() || (out.owed == 0 && out.bytes.is_empty() && out.sending == 0)
    }

    /// Sends answers to `to` until the client is done or gone. An error is that of a client that left or does not read.
    pub fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        let mut taken = vec![];
        loop {
            let mut out = self.lock();
            out.sending = 0;
            self.changed.notify_all();
            while out.bytes.is_empty() && !self.gone() && !(out.ended && out.owed == 0) {
                out = self.wait(out);
            }
            if out.bytes.is_empty() {
                return Ok(());
            }
            std::mem::swap(&mut taken, &mut out.bytes);
            out.sending = taken.len();
            drop(out);
            if let Err(e) = to.write_all(&taken).and_then(|()| to.flush()) {
                self.leave();
                return Err(e);
            }
            // Now, not at the next answer: a client may be idle for long.
            taken.clear();
            taken.shrink_to(KEPT);
        }
    }
}

pub enum Line<'a> {
    Text(&'a [u8]),
    /// A line of this many bytes, over the bound and thrown away.
    TooLong(u64),
    End,
}

/// Lines of at most `most` bytes; of a longer one no more than that is ever held.
pub struct Lines<R> {
    from: R,
    most: usize,
    chunk: Box<[u8]>,
    /// What of `chunk` is not yet used.
    fresh: std::ops::Range<usize>,
    line: Vec<u8>,
}

impl Line<'_> {
    pub fn bytes(&self) -> u64 {
        match self {
            Line::Text(text) => text.len() as u64,
            Line::TooLong(bytes) => *bytes,
            Line::End => 0,
        }
    }
}

impl<R: Read> Lines<R> {
    pub fn new(from: R, most: usize) -> Lines<R> {
        Lines {
            from,
            most,
            chunk: vec![0; 16 << 10].into(),
            fresh: 0..0,
            line: vec![],
        }
    }

    /// Gives back what the last line took beyond [`KEPT`]; how many bytes it had held.
    pub fn shrink(&mut self) -> usize {
        let held = self.line.capacity();
        self.line.clear();
        self.line.shrink_to(KEPT);
        held
    }

    /// The next line without its line feed. The last one may lack that.
    pub fn next(&mut self) -> io::Result<Line<'_>> {
        self.shrink();
        let mut length = 0u64;
        loop {
            if self.fresh.is_empty() {
                let read = match self.from.read(&mut self.chunk) {
                    Ok(read) => read,
                    Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                    Err(e) => return Err(e),
                };
                if read == 0 && length == 0 {
                    return Ok(Line::End);
                }
                if read == 0 {
                    return Ok(self.done(length));
                }
                self.fresh = 0..read;
            }
            let fresh = &self.chunk[self.fresh.clone()];
            let end = fresh.iter().position(|&b| b == b'\n');
            let part = &fresh[..end.unwrap_or(fresh.len())];
            length += part.len() as u64;
            if length <= self.most as u64 {
                self.line.extend_from_slice(part);
            } else {
                self.line.clear();
                self.line.shrink_to(KEPT);
            }
            self.fresh.start += part.len() + usize::from(end.is_some());
            if end.is_some() {
                return Ok(self.done(length));
            }
        }
    }

    fn done(&self, length: u64) -> Line<'_> {
        if length > self.most as u64 {
            Line::TooLong(length)
        } else {
            Line::Text(&self.line)
        }
    }
}

/// A stream whose writes fail when the peer takes nothing for `patience`.
pub struct Patient<'a> {
    stream: &'a UnixStream,
    patience: Duration,
}

impl<'a> Patient<'a> {
    pub fn new(stream: &'a UnixStream, patience: Duration) -> Patient<'a> {
        Patient { stream, patience }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The system calls a stream writable only when most of its buffer is free: a peer that takes little is asked anyway.
        const ASK: Duration = Duration::from_millis(100);
        let end = Instant::now() + self.patience;
        loop {
            match send_now(self.stream, bytes) {
                Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                    wait_writable(self.stream, ASK.min(self.patience))?;
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Bytes that arrive a few at a time.
    struct Drip(Vec<u8>, usize);

    impl Read for Drip {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(to.len());
            to[..n].copy_from_slice(&self.0[..n]);
            self.0.drain(..n);
            Ok(n)
        }
    }

    fn lines(text: &[u8], most: usize, drip: usize) -> Vec<String> {
        let mut lines = Lines::new(Drip(text.to_vec(), drip), most);
        let mut all = vec![];
        loop {
            match lines.next().unwrap() {
                Line::Text(line) => all.push(String::from_utf8_lossy(line).into_owned()),
                Line::TooLong(n) => all.push(format!("<{n}>")),
                Line::End => return all,
            }
            assert!(lines.line.capacity() <= 2 * most.max(8));
        }
    }

    #[test]
    fn lines_are_bounded_however_they_arrive() {
        let text = b"one\n\n1234567\n12345678\n123456789\r\nlast";
        let expected = ["one", "", "1234567", "12345678", "<10>", "last"];
        for drip in [1, 2, 3, 7, 1000] {
            assert_eq!(lines(text, 8, drip), expected, "{drip}");
        }
        assert!(lines(b"", 8, 3).is_empty());
        assert_eq!(lines(&[b'x'; 100_000], 8, 5000), ["<100000>"]);
    }

    #[test]
    fn a_client_that_does_not_read_is_not_read_from() {
        let client = Arc::new(Client::new(None, 10));
        assert!(client.may_read());
        client.owe(11);
        client.answer(&[b'x'; 11], Some(11));
        let reader = {
            let client = client.clone();
            thread::spawn(move || client.may_read())
        };
        thread::sleep(Duration::from_millis(20));
        assert!(!reader.is_finished() && !client.settled());
        client.end();
        let mut sent = vec![];
        client.write_to(&mut sent).unwrap();
        assert!(reader.join().unwrap());
        assert!(sent == [b'x'; 11] && client.settled());
    }

    #[test]
    fn a_client_that_left_is_owed_nothing() {
        let client = Arc::new(Client::new(None, 10));
        client.answer(&[b'x'; 100], None);
        let reader = {
            let client = client.clone();
            thread::spawn(move || client.may_read())
        };
        client.leave();
        assert!(!reader.join().unwrap());
        client.answer(b"more", None);
        assert!(client.settled() && client.lock().bytes.is_empty());
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (mut patient, begin) = (Patient::new(&ours, Duration::from_millis(300)), Instant::now());
        let error = patient.write_all(&vec![0; 64 << 20]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        // Once, not once more after the part that the system's buffer took.
        assert!(begin.elapsed() < Duration::from_millis(590), "{:?}", begin.elapsed());
    }
}
