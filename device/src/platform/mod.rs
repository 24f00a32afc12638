//! What the operating system and its hardware say and allow: the board, this process, temperature, power.

pub(crate) mod board;
pub(crate) mod control;
pub(crate) mod power;
pub mod process;
pub mod sysfs;
pub(crate) mod thermal;
