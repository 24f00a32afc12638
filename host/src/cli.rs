//! The command line: which subcommands there are, and how a run of one ends. Their arguments stand with them in
//! `cmd`. Exit codes: 0 yes, 1 a clear no, 2 usage, I/O or malformed input.

use crate::cmd::defaults::{self, Filled};
pub use crate::cmd::outcome::Outcome;
use crate::cmd::{self, examples};
use crate::fs::signals;
use crate::render::listener::with_listener;
pub use crate::render::listener::{Listener, Telling};
use crate::render::text::{Verbosity, one_line, printable, remark, say, set_verbosity};
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use thimble_device::block_cache;
use thimble_device::image::pages;
use thimble_device::image::sigbus;
use thimble_device::session;
use thimble_shared::{built, files};

/// What `thimble --help` ends in.
const FIRST_STEPS: &str = "\
First steps:
  thimble shrink MODEL --budget 12MiB -o small.onnx          lose the least in that size
  thimble run small.onnx --text \"…\"                         try it here
  thimble deploy small.onnx --to pi@kitchen --target pi-4    measure it on a board

The commands, by what they are for:
  a model's file       shrink, export, slim, graft, inspect, verify, run
  a board              targets, emulate, deploy, ask, undeploy, report
  many boards          package, install
  thimble itself       doctor, completions, man

Exit codes: 0 yes; 1 a clear no (over budget, below agreement, different); 2 usage, I/O or malformed input.";

/// Fits ALBERT on an ARM board: one ONNX file under a byte budget, with the least measured loss.
#[derive(Debug, Parser)]
#[command(
    name = "thimble",
    version,
    long_version = LONG_VERSION.as_str(),
    max_term_width = 120,
    about = "Fits ALBERT on an ARM board: one ONNX file under a byte budget, with the least measured loss",
    after_help = FIRST_STEPS
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print the answer, warnings and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say also what is found where
    #[arg(short, long, global = true)]
    verbose: bool,
}

/// What was built, of which source, with which engine.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}\ncommit: {}\ntract: {}\nbuilt for: {}",
        env!("CARGO_PKG_VERSION"),
        built::COMMIT,
        session::TRACT,
        built::TARGET,
    )
});

/// Commands of other tools, and what they are called here.
const ELSEWHERE: [(&str, &str); 13] = [
    ("quantise", "shrink"),
    ("quantize", "shrink"),
    ("compress", "shrink"),
    ("convert", "export"),
    ("optimize", "slim"),
    ("simplify", "slim"),
    ("compare", "verify"),
    ("eval", "verify"),
    ("predict", "run"),
    ("boards", "targets"),
    ("flash", "install"),
    ("bench", "deploy"),
    ("query", "ask"),
];

/// The command line with what `thimble.toml` says beside it, and what was taken of that.
fn arguments(given: Vec<OsString>) -> Result<Filled, String> {
    let text = match files::read_text(Path::new(defaults::FILE)) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Filled {
                arguments: given,
                taken: Vec::new(),
            });
        }
        Err(e) => return Err(e.to_string()),
    };
    let lacks_first = |arguments: &[OsString]| match Cli::try_parse_from(arguments) {
        Ok(_) => false,
        Err(error) => match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::Strings(missing)) => missing.iter().any(|name| name == "<SOURCE>"),
            _ => false,
        },
    };
    defaults::fill(&given, &text, lacks_first)
}

/// The command line, or the end of the program: help, a version, or what is wrong with it.
fn parse(filled: &Filled) -> Cli {
    Cli::try_parse_from(&filled.arguments).unwrap_or_else(|mut error| {
        // What is wrong may stand in the file.
        if !filled.taken.is_empty() {
            say(&filled.note());
        }
        let wrong = match error.get(ContextKind::InvalidSubcommand) {
            Some(ContextValue::String(word)) => word.clone(),
            _ => String::new(),
        };
        if let Some((_, ours)) = ELSEWHERE.iter().find(|(theirs, _)| *theirs == wrong) {
            error.insert(
                ContextKind::SuggestedSubcommand,
                ContextValue::Strings(vec![ours.to_string()]),
            );
        }
        error.exit()
    })
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Convert a checkpoint or another tool's ONNX to one ONNX file in one number format
    #[command(after_help = examples::EXPORT)]
    Export(cmd::export::ExportArgs),
    /// Choose number formats so that the file fits a byte budget with the least measured loss
    #[command(after_help = examples::SHRINK)]
    Shrink(Box<cmd::shrink::ShrinkArgs>),
    /// Show where the bytes of an ONNX file are; check that a thimble file's nodes match its metadata
    #[command(after_help = examples::INSPECT)]
    Inspect(cmd::inspect::InspectArgs),
    /// Remove copies and unused data from any ONNX file; the graph computes the same
    #[command(after_help = examples::SLIM)]
    Slim(cmd::slim::SlimArgs),
    #[command(after_help = examples::GRAFT)]
    /// Put a shrunk encoder in the place of the ALBERT in a larger ONNX graph
    Graft(cmd::graft::GraftArgs),
    /// Measure how far the outputs of two models differ
    #[command(after_help = examples::VERIFY)]
    Verify(cmd::verify::VerifyArgs),
    /// Run one inference on this machine and print the answer
    #[command(after_help = examples::RUN)]
    Run(cmd::run::RunArgs),
    /// List the known boards, or describe one
    #[command(after_help = examples::TARGETS)]
    Targets(cmd::targets::TargetsArgs),
    /// Boot a virtual board with the model and report the memory that its kernel counts
    #[command(after_help = examples::EMULATE)]
    Emulate(cmd::emulate::EmulateArgs),
    /// Send program and model to a board over ssh, measure there, and compare the report
    #[command(after_help = examples::DEPLOY)]
    Deploy(cmd::deploy::DeployArgs),
    /// Ask the server on a board about texts, over ssh
    #[command(after_help = examples::ASK)]
    Ask(cmd::ask::AskArgs),
    /// Remove the server and the models that deploy left on a board
    #[command(after_help = examples::UNDEPLOY)]
    Undeploy(cmd::undeploy::UndeployArgs),
    /// Show bench reports side by side: a table, Markdown or one HTML page
    #[command(after_help = examples::REPORT)]
    Report(cmd::report::ReportArgs),
    /// Build a Debian package of the device program, the model and the units that serve it
    #[command(after_help = examples::PACKAGE)]
    Package(cmd::package::PackageArgs),
    /// Install program, model and units into a mounted root file system or an SD-card image
    #[command(after_help = examples::INSTALL)]
    Install(cmd::install::InstallArgs),
    /// List the programs that commands call and that are missing here, and what installs them
    #[command(after_help = examples::DOCTOR)]
    Doctor(cmd::doctor::DoctorArgs),
    /// Print the script that completes thimble's commands in a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions(cmd::manual::CompletionsArgs),
    /// Print the manual page, or write one for each command
    #[command(after_help = examples::MAN)]
    Man(cmd::manual::ManArgs),
}

/// Why a command that runs inside another program has no outcome.
#[derive(Debug)]
pub enum CommandError {
    /// The arguments are not those of the command.
    Arguments(String),
    /// The command failed.
    Failed(anyhow::Error),
}

/// Runs one command inside this program, with the arguments as the command line would have them, the command's name first. Nothing is
/// printed, `thimble.toml` is not read and signals stay the program's: warnings, notes and progress go to `listener`, which may end
/// the work.
///
/// # Errors
/// Where the command line would say what is wrong with the arguments, or would end with 2.
pub fn run_command(
    arguments: impl IntoIterator<Item = OsString>,
    listener: Arc<dyn Listener>,
) -> Result<Outcome, CommandError> {
    let all = std::iter::once(OsString::from("thimble")).chain(arguments);
    let cli = Cli::try_parse_from(all).map_err(|error| CommandError::Arguments(reason(&error)))?;
    with_listener(listener, || run(cli.command)).map_err(CommandError::Failed)
}

/// What clap says is wrong, without its hints on usage, in one line.
fn reason(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.split("\n\n").next().unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_string()
}

fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Export(args) => cmd::export::run(&args),
        Command::Shrink(args) => cmd::shrink::run(&args),
        Command::Inspect(args) => cmd::inspect::run(&args),
        Command::Slim(args) => cmd::slim::run(&args),
        Command::Graft(args) => cmd::graft::run(&args),
        Command::Verify(args) => cmd::verify::run(&args),
        Command::Run(args) => cmd::run::run(&args),
        Command::Targets(args) => cmd::targets::run(&args),
        Command::Emulate(args) => cmd::emulate::run(&args),
        Command::Deploy(args) => cmd::deploy::run(&args),
        Command::Ask(args) => cmd::ask::run(&args),
        Command::Undeploy(args) => cmd::undeploy::run(&args),
        Command::Report(args) => cmd::report::run(&args),
        Command::Package(args) => cmd::package::run(&args),
        Command::Install(args) => cmd::install::run(&args),
        Command::Doctor(args) => cmd::doctor::run(&args),
        Command::Completions(args) => Ok(cmd::manual::completions(&args, Cli::command())),
        Command::Man(args) => cmd::manual::man(&args, Cli::command()),
    }
}

/// Runs the command that the program was started with, and prints its outcome.
pub fn main() -> ExitCode {
    main_with(std::env::args_os().collect()).into()
}

/// The same for these arguments, the program's name first; the exit code. It is the whole program's: signals and memory are set for
/// the command, and help and usage end the process.
pub fn main_with(given: Vec<OsString>) -> u8 {
    sigbus::install("error: ", "start again with the whole file");
    signals::ignore_file_size_limit();
    block_cache::models();
    let filled = match arguments(given) {
        Ok(filled) => filled,
        Err(problem) => {
            say(&format!(
                "error: {}: {}",
                defaults::FILE,
                one_line(anyhow::Error::msg(problem).as_ref())
            ));
            return 2;
        }
    };
    let Cli {
        command,
        quiet,
        verbose,
    } = parse(&filled);
    set_verbosity(match (quiet, verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Usual,
    });
    if !filled.taken.is_empty() {
        remark(&filled.note());
    }
    // What the start took of the program is no part of a command's memory.
    pages::forget_program();
    let result = run(command);
    match result {
        Ok(outcome) => {
            // A reader that went away (`thimble inspect … | head`) is no error.
            let mut out = std::io::stdout().lock();
            match out.write_all(outcome.text.as_bytes()).and_then(|()| out.flush()) {
                Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                    say(&format!("error: cannot print the result: {e}"));
                    2
                }
                _ => {
                    if let Some(error) = outcome.error {
                        say(&format!("error: {}", printable(&error)));
                    }
                    outcome.code
                }
            }
        }
        Err(error) => {
            // Whoever reads that a value is wrong has to know where it stands.
            if quiet && !filled.taken.is_empty() {
                say(&filled.note());
            }
            say(&format!("error: {}", one_line(error.as_ref())));
            2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_groups_every_command() {
        let listed: Vec<&str> = FIRST_STEPS.split(|c: char| !c.is_alphanumeric()).collect();
        for command in Cli::command()
            .get_subcommands()
            .filter(|command| command.get_name() != "help")
        {
            assert!(listed.contains(&command.get_name()), "{}", command.get_name());
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Words of an example as a shell would hand them over: quotes hold a text together, pipes and redirections end it.
    fn words(line: &str) -> Vec<String> {
        let quoted = line.split('"').enumerate();
        let parts = quoted.flat_map(|(i, part)| match i % 2 {
            1 => vec![part.to_string()],
            _ => part.split_whitespace().map(String::from).collect(),
        });
        parts
            .take_while(|word| ![">", "<", "|"].contains(&word.as_str()))
            .collect()
    }

    #[test]
    fn every_command_has_examples_and_each_of_them_parses() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help = command
                .get_after_help()
                .unwrap_or_else(|| panic!("{name} has no examples"))
                .to_string();
            let lines: Vec<&str> = help.lines().filter(|line| line.starts_with("  ")).collect();
            assert!(help.starts_with("Examples:\n") && !lines.is_empty(), "{name}: {help}");
            for line in lines {
                assert!(line.starts_with(&format!("  thimble {name}")), "{line}");
                Cli::try_parse_from(words(line)).unwrap_or_else(|e| panic!("{line}: {e}"));
            }
        }
    }

    #[test]
    fn what_other_tools_call_it_is_no_command_here() {
        let ours: Vec<String> = Cli::command()
            .get_subcommands()
            .map(|c| c.get_name().to_string())
            .collect();
        for (theirs, here) in ELSEWHERE {
            assert!(
                ours.iter().any(|name| name == here) && ours.iter().all(|name| name != theirs),
                "{theirs}"
            );
        }
    }

    #[test]
    fn quiet_and_verbose_go_anywhere_and_not_together() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        for line in ["thimble -q targets", "thimble targets -q", "thimble targets --quiet"] {
            let cli = parse(line).unwrap();
            assert!(cli.quiet && !cli.verbose, "{line}");
        }
        for line in [
            "thimble -v targets",
            "thimble emulate x --target pi-4 --verbose",
            "thimble emulate x --target pi-4 -v",
        ] {
            assert!(parse(line).unwrap().verbose, "{line}");
        }
        assert!(parse("thimble targets -q -v").is_err());
    }
}
