//! The signals that end a server. By libc: rustix has no call for a thread's mask of signals, nor for waiting for one.

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
