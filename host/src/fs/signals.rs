//! Signals that would end the program while a virtual board runs: they are put off until its files are gone, then raised again.
//! And one that is an error in place of the end. By libc: rustix has no call that sets what a signal does.

use libc::{SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGTERM, c_int, sighandler_t};
use std::sync::atomic::{AtomicI32, Ordering};

/// The signal that came; 0 when none did.
static CAME: AtomicI32 = AtomicI32::new(0);

extern "C" fn came(signal: c_int) {
    CAME.store(signal, Ordering::SeqCst);
}

/// Signals are put off as long as it lives; made before what must be gone first.
pub struct PutOff {
    before: Vec<(c_int, sighandler_t)>,
}

impl PutOff {
    /// Puts them off from here on.
    pub fn begin() -> PutOff {
        let handler = came as extern "C" fn(c_int) as sighandler_t;
        let put = |signal| {
            // SAFETY: the handler stores to an atomic and does nothing else.
            let before = unsafe { libc::signal(signal, handler) };
            if before == SIG_IGN {
                // SAFETY: nohup and its like had it ignored, and so it stays.
                unsafe { libc::signal(signal, SIG_IGN) };
            }
            (signal, before)
        };
        PutOff {
            before: [SIGHUP, SIGINT, SIGTERM].map(put).to_vec(),
        }
    }
}

impl Drop for PutOff {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            let before = if *before == libc::SIG_ERR { SIG_DFL } else { *before };
            // SAFETY: what was in force before is again.
            unsafe { libc::signal(*signal, before) };
        }
        let signal = CAME.swap(0, Ordering::SeqCst);
        if signal != 0 {
            // SAFETY: raises a signal in this process, which ends it as if nothing had been put off.
            unsafe { libc::raise(signal) };
        }
    }
}

/// Makes a write beyond the limit on the size of files (ulimit -f) an error, which names the file.
pub fn ignore_file_size_limit() {
    // SAFETY: to ignore a signal needs no handler, and nothing else here has a say in this one.
    unsafe { libc::signal(libc::SIGXFSZ, SIG_IGN) };
}

/// Whether one waits.
pub fn waiting() -> bool {
    CAME.load(Ordering::SeqCst) != 0
}
