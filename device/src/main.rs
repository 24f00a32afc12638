//! thimble-device, the program that runs on the board: a thin wrapper over [`cli::main`].

use std::process::ExitCode;
use thimble_device::{cli, heap};

#[global_allocator]
static HEAP: heap::Global = heap::Global;

fn main() -> ExitCode {
    cli::main()
}
