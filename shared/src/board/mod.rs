//! Boards: what is known of one beforehand, what it runs, what it needs of memory, and what it measured.

pub mod architecture;
pub mod memory;
pub mod report;
pub mod target;
