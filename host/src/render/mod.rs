//! Text for terminals, pages and drawings: tables, sizes, progress, HTML, one look.

pub(crate) mod html;
pub(crate) mod listener;
pub(crate) mod progress;
pub(crate) mod scale;
pub(crate) mod terminal;
pub mod text;
pub(crate) mod theme;
pub(crate) mod treemap;
