//! Text for terminals: tables, sizes, progress.

pub mod progress;
pub mod text;
