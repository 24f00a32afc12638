//! The options of `serve`.

use crate::session::DEFAULT_SEQ;
use std::path::PathBuf;
use std::time::Duration;

/// Bounds of a server. Sizes are bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// A Unix socket to listen on, instead of stdin.
    pub socket: Option<PathBuf>,
    /// Permissions of the socket.
    pub mode: u32,
    /// Sequences computed together.
    pub batch: usize,
    /// Tokens computed together.
    pub tokens: usize,
    /// How long a request waits for others to share a pass with; zero computes at once what is there.
    pub linger: Duration,
    /// Requests that wait before reading stops.
    pub queue: usize,
    /// Longest line of a request; a longer one gets an error for an answer.
    pub max_line: usize,
    /// Unsent answers of one client above which nothing more is read from it.
    pub max_unsent: usize,
    /// How long a client may take nothing of what it is sent.
    pub timeout: Duration,
    /// Most clients at a time.
    pub clients: usize,
    /// The model's tokenizer.json; `None` looks for one beside the model.
    pub tokenizer: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            socket: None,
            mode: 0o600,
            batch: 8,
            tokens: DEFAULT_SEQ,
            linger: Duration::ZERO,
            queue: 64,
            max_line: 1 << 20,
            max_unsent: 4 << 20,
            timeout: Duration::from_secs(30),
            clients: 64,
            tokenizer: None,
        }
    }
}
