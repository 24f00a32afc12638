//! Boards: what is known of one beforehand, what it needs of memory, and what it measured.

pub mod memory;
pub mod report;
pub mod target;
