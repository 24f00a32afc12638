//! Files, directories and programs of the machine: written whole or not at all, locked, started in one way.

pub mod atomic;
pub mod interrupt;
pub mod ram;
pub mod scratch;
pub mod subprocess;
