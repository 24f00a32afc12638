//! The program's messages on stderr.

use std::io::{self, Write};

use thimble_shared::terminal;

/// Writes one line to stderr; names in it may come out of a file.
pub fn line(text: &str) {
    // Nothing is left to do when stderr is gone as well, and a server's work goes on.
    let _ = writeln!(io::stderr(), "thimble-device: {}", terminal::line(text));
}
