//! The command line: which subcommands there are, and how a run of one ends. Their arguments stand with them in
//! `cmd`. Exit codes: 0 yes, 1 a clear no, 2 usage, I/O or malformed input.

use crate::cmd;
use crate::fs::signals;
use crate::render::text::{one_line, printable, say};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;
use thimble_device::block_cache;
use thimble_device::image::pages;
use thimble_device::image::sigbus;

/// Fits ALBERT on an ARM board: one ONNX file under a byte budget, with the least measured loss.
#[derive(Debug, Parser)]
#[command(
    name = "thimble",
    version,
    about = "Fits ALBERT on an ARM board: one ONNX file under a byte budget, with the least measured loss",
    after_help = "Exit codes: 0 yes; 1 a clear no (over budget, below agreement, different); 2 usage, I/O or malformed input."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Convert a checkpoint or another tool's ONNX to one ONNX file in one number format
    Export(cmd::export::ExportArgs),
    /// Choose number formats so that the file fits a byte budget with the least measured loss
    Shrink(Box<cmd::shrink::ShrinkArgs>),
    /// Show where the bytes of an ONNX file are; check that a thimble file's nodes match its metadata
    Inspect(cmd::inspect::InspectArgs),
    /// Remove copies and unused data from any ONNX file; the graph computes the same
    Slim(cmd::slim::SlimArgs),
    /// Measure how far the outputs of two models differ
    Verify(cmd::verify::VerifyArgs),
    /// Run one inference on this machine and print the answer
    Run(cmd::run::RunArgs),
    /// List the known boards, or describe one
    Targets(cmd::targets::TargetsArgs),
    /// Boot a virtual board with the model and report the memory that its kernel counts
    Emulate(cmd::emulate::EmulateArgs),
    /// Send program and model to a board over ssh, measure there, and compare the report
    Deploy(cmd::deploy::DeployArgs),
    /// Show bench reports side by side: a table, Markdown or one HTML page
    Report(cmd::report::ReportArgs),
    /// Build an arm64 Debian package of the device program, the model and a systemd unit
    Package(cmd::package::PackageArgs),
    /// Install program, model and unit into a mounted root file system or an SD-card image
    Install(cmd::install::InstallArgs),
}

/// Parses the arguments, runs the command, prints its outcome.
pub fn main() -> ExitCode {
    sigbus::install("error: ", "start again with the whole file");
    signals::ignore_file_size_limit();
    block_cache::models();
    let command = Cli::parse().command;
    // What the start took of the program is no part of a command's memory.
    pages::forget_program();
    let result = match command {
        Command::Export(args) => cmd::export::run(&args),
        Command::Shrink(args) => cmd::shrink::run(&args),
        Command::Inspect(args) => cmd::inspect::run(&args),
        Command::Slim(args) => cmd::slim::run(&args),
        Command::Verify(args) => cmd::verify::run(&args),
        Command::Run(args) => cmd::run::run(&args),
        Command::Targets(args) => cmd::targets::run(&args),
        Command::Emulate(args) => cmd::emulate::run(&args),
        Command::Deploy(args) => cmd::deploy::run(&args),
        Command::Report(args) => cmd::report::run(&args),
        Command::Package(args) => cmd::package::run(&args),
        Command::Install(args) => cmd::install::run(&args),
    };
    match result {
        Ok(outcome) => {
            // A reader that went away (`thimble inspect … | head`) is no error.
            let mut out = std::io::stdout().lock();
            match out.write_all(outcome.text.as_bytes()).and_then(|()| out.flush()) {
                Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                    say(&format!("error: cannot print the result: {e}"));
                    ExitCode::from(2)
                }
                _ => {
                    if let Some(error) = outcome.error {
                        say(&format!("error: {}", printable(&error)));
                    }
                    ExitCode::from(outcome.code)
                }
            }
        }
        Err(error) => {
            say(&format!("error: {}", one_line(error.as_ref())));
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
