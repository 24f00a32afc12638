//! Files, directories and programs of the machine: written whole or not at all, locked, started in one way.

pub(crate) mod atomic;
pub(crate) mod interrupt;
pub(crate) mod own_file;
pub(crate) mod ram;
pub(crate) mod scratch;
pub(crate) mod signals;
pub(crate) mod subprocess;
