//! What a user who presses Ctrl-C is told of long work, before the signal ends the program as it would have.

use crate::render::listener::listener;
use libc::{SIG_DFL, SIG_ERR, SIG_IGN, SIGINT, SIGTERM, c_int, sighandler_t};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The text; it is never freed.
static TEXT: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

extern "C" fn tell(signal: c_int) {
    let (text, length) = (TEXT.load(Ordering::SeqCst), LENGTH.load(Ordering::SeqCst));
    // SAFETY: the text was leaked before its address was stored; write, signal and raise may be called by a handler of signals.
    unsafe {
        if !text.is_null() {
            libc::write(libc::STDERR_FILENO, text.cast_const().cast(), length);
        }
        libc::signal(signal, SIG_DFL);
        libc::raise(signal);
    }
}

/// Prints `text` as a line when the program is interrupted, until this is dropped.
pub struct Farewell {
    before: Vec<(c_int, sighandler_t)>,
}

impl Farewell {
    /// Of a program that ignores a signal, as under nohup, it stays ignored. Where a program runs the command inside itself, signals
    /// are that program's.
    pub fn new(text: &str) -> Farewell {
        if listener().is_some() {
            return Farewell { before: vec![] };
        }
        // The line of a progress bar may stand where the cursor is.
        let line: &'static mut [u8] = format!("\n{text}\n").into_bytes().leak();
        LENGTH.store(0, Ordering::SeqCst);
        TEXT.store(line.as_mut_ptr(), Ordering::SeqCst);
        LENGTH.store(line.len(), Ordering::SeqCst);
        let handler = tell as extern "C" fn(c_int) as sighandler_t;
        let put = |signal| {
            // SAFETY: the handler makes system calls that handlers may make, and reads two atomics.
            let before = unsafe { libc::signal(signal, handler) };
            if before == SIG_IGN {
                // SAFETY: as it was.
                unsafe { libc::signal(signal, SIG_IGN) };
            }
            (signal, before)
        };
        Farewell {
            before: [SIGINT, SIGTERM].map(put).to_vec(),
        }
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            let before = if *before == SIG_ERR { SIG_DFL } else { *before };
            // SAFETY: what was in force before is again.
            unsafe { libc::signal(*signal, before) };
        }
    }
}
