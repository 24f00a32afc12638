//! What the operating system and its hardware say and allow: the board, this process, temperature, power.

pub mod board;
pub mod control;
pub mod power;
pub mod process;
pub mod sysfs;
pub mod thermal;
