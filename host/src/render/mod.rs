//! Text for terminals: tables, sizes, progress.

pub(crate) mod progress;
pub(crate) mod terminal;
pub mod text;
