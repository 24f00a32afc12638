//! Text for terminals: tables, sizes, progress.

pub(crate) mod progress;
pub mod text;
