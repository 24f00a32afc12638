//! thimble's engine as a C library. include/thimble.h is the contract and says what each function does; the tests hold the two
//! together. Handles are boxes; no panic and no pointer that is NULL gets past this crate.

#![warn(missing_docs)]

mod answers;
#[cfg(test)]
mod header;
mod model;
mod outputs;
mod status;
