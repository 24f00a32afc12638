//! What was built: said by `--version` of both programs.

/// The commit, or that a development build does not tell it.
pub const COMMIT: &str = env!("THIMBLE_COMMIT");
/// The machine it is built for, as rustc names it.
pub const TARGET: &str = env!("THIMBLE_TRIPLE");
