//! thimble-device, the program that runs on the board: a thin wrapper over [`cli::main`].

use std::process::ExitCode;
use thimble_device::{block_cache, cli};

#[global_allocator]
static HEAP: block_cache::Global = block_cache::Global;

fn main() -> ExitCode {
    cli::main()
}
