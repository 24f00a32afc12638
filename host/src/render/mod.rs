//! Text for terminals and pages: tables, sizes, progress, HTML.

pub(crate) mod html;
pub(crate) mod listener;
pub(crate) mod progress;
pub(crate) mod terminal;
pub mod text;
