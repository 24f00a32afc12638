//! What is said on stderr, and how much: warnings, notes and details, beside whatever bar is drawn there.

use super::listener::{Telling, listener};
use indicatif::ProgressBar;
use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

/// The bar that is on the terminal now: other lines are printed above it.
pub(super) static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Prints something on stderr beside whatever bar is drawn there.
pub fn aside(print: impl FnOnce()) {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match shown {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// How much is said beside the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// Notes and progress too.
    #[default]
    Usual,
    /// And what was found where.
    Verbose,
}

/// Said once a run, by the command line.
static VERBOSITY: AtomicU8 = AtomicU8::new(1);

/// Sets how much is said from here on.
pub fn set_verbosity(verbosity: Verbosity) {
    VERBOSITY.store(verbosity as u8, Ordering::Relaxed);
}

/// How much is said.
pub fn verbosity() -> Verbosity {
    match VERBOSITY.load(Ordering::Relaxed) {
        0 => Verbosity::Quiet,
        1 => Verbosity::Usual,
        _ => Verbosity::Verbose,
    }
}

/// A warning or an error on stderr. A closed or full stderr must not stop the work.
pub fn say(text: &str) {
    if let Some(listener) = listener() {
        return listener.told(Telling::Warning, text);
    }
    aside(|| {
        let _ = writeln!(std::io::stderr(), "{text}");
    });
}

/// A note on stderr, or what is being done: nothing that would be missed with --quiet.
pub fn remark(text: &str) {
    if let Some(listener) = listener() {
        return listener.told(Telling::Note, text);
    }
    if verbosity() != Verbosity::Quiet {
        say(text);
    }
}

/// What --verbose adds.
pub fn detail(text: &str) {
    if verbosity() == Verbosity::Verbose && listener().is_none() {
        say(text);
    }
}
