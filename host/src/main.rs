//! The `thimble` program; everything lies in the library so that tests and benches can reach it.

fn main() -> std::process::ExitCode {
    thimble::cli::main()
}
