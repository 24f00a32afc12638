//! What the program on the board does: parses its arguments, does one of info, run, bench, serve and ask,
//! prints the result on stdout. Exit code 0 is yes, 1 a limit that does not hold, 2 anything that could not be done.

pub mod args;
mod ask;
mod error;
mod flags;
mod serve_flags;
mod show;
#[cfg(feature = "text")]
mod texts;
mod texts_file;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use thimble_shared::{built, terminal};

use self::args::{Invocation, Options};
use self::error::CliError;
use self::flags::Command;
use crate::answers::text;
use crate::bench::report::{self, BenchOptions, Start};
use crate::engine::tensors;
#[cfg(target_os = "linux")]
use crate::guest_init;
use crate::image::mmap::ModelFile;
use crate::image::sigbus;
use crate::log;
use crate::platform::{board, control};
use crate::serve::{self, FAILED};
use crate::session::{self, Session, SessionError, SessionOptions};

const NO: u8 = 1;

/// Runs the program: does what the arguments ask, prints the result on stdout and an error on stderr. As process 1 under the
/// name of the guest's init it becomes that.
pub fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == guest_init::NAME) {
        guest_init::main();
    }
    sigbus::install("thimble-device: ", "start again with the whole file, or with --copy");
    let request = match args::parse(std::env::args_os().skip(1)) {
        Ok(request) => request,
        Err(args::UsageError(message)) => return fail(&message),
    };
    let (text, code) = match request {
        Invocation::Help(command) => (args::help(command), 0),
        Invocation::Version => (
            format!(
                "thimble-device {} (tract {}, {})\ncommit: {}\nbuilt for: {}\n",
                env!("CARGO_PKG_VERSION"),
                session::TRACT,
                if cfg!(feature = "text") { "with text" } else { "lean" },
                built::COMMIT,
                built::TARGET,
            ),
            0,
        ),
        Invocation::Do(command, options) => match perform(command, &options) {
            Ok(done) => done,
            Err(error) => return fail(&error.to_string()),
        },
    };
    match io::stdout()
        .lock()
        .write_all(terminal::lines(&text).as_bytes())
        .and_then(|()| io::stdout().flush())
    {
        // Whoever read the output has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&format!("stdout: {error}")),
        _ => ExitCode::from(code),
    }
}

fn fail(message: &str) -> ExitCode {
    log::line(message);
    ExitCode::from(FAILED)
}

/// What the model says to the texts.
#[cfg(feature = "text")]
fn said(session: &Session, options: &Options) -> Result<String, CliError> {
    texts::run(
        session,
        &options.texts,
        options.serve.tokenizer.as_deref(),
        options.json,
    )
}

#[cfg(not(feature = "text"))]
fn said(_session: &Session, _options: &Options) -> Result<String, CliError> {
    Err(CliError::NoText("text"))
}

/// Does what a command says, one arm each, so it is not cut into parts.
fn perform(command: Command, options: &Options) -> Result<(String, u8), CliError> {
    // Before the engine makes its threads, which inherit both.
    if let Some(cores) = &options.pin {
        control::pin(cores).map_err(SessionError::Pin)?;
    }
    if command == Command::Ask {
        return ask::run(options);
    }
    if command == Command::Serve {
        serve::hold_signals();
    }
    let Some(path) = &options.file else {
        return Ok((show::board(&board::board(), options.json), 0));
    };
    let file = ModelFile::open(path).map_err(SessionError::from)?;
    let start = Start::now(Some(&file).filter(|_| options.cold), command == Command::Bench);
    // A bench takes the digest of what it measured when that can no longer change the figures.
    let first = options.sha256.as_deref().filter(|_| command != Command::Bench);
    let opened = SessionOptions {
        whole_process: true,
        ..options.session.clone()
    };
    let session = Session::open(file, &opened, first)?;
    let config = session.engine.config();
    let text = match command {
        Command::Info => {
            let (model, engine) = (session.model(), session.engine_report());
            let (seq, need) = session.need(options.input.seq)?;
            let need = (seq, need.with_tokenizer(text::ram(&session)));
            show::info(
                &board::board(),
                &model,
                &engine,
                config,
                &need,
                session.load_ms,
                options.json,
            )
        }
        Command::Run if options.texts.given() => return said(&session, options).map(|text| (text, 0)),
        Command::Run => {
            let inputs = || options.file.iter().chain(&options.input.file);
            if let Some(output) = &options.output
                && inputs().any(|input| tensors::same_file(input, output))
            {
                let output = output.clone();
                return Err(SessionError::OverInput { output }.into());
            }
            if options.input.made_up() {
                log::line("note: the tokens are made up; --text, --ids or --input gives others");
            }
            let input = session.input(&options.input)?;
            let begin = Instant::now();
            let outputs = session.run(&input)?;
            let ms = session::milliseconds(begin);
            session.unchanged()?;
            if let Some(path) = &options.output {
                tensors::write(
                    path,
                    outputs
                        .0
                        .iter()
                        .map(|(n, t)| (n.as_str(), t.shape.as_slice(), t.data.as_slice())),
                )?;
                let names: Vec<&str> = outputs.0.iter().map(|(n, _)| n.as_str()).collect();
                return Ok((format!("wrote {} to {}\n", names.join(", "), path.display()), 0));
            }
            show::outputs(&outputs, config, &session.model(), ms, options.json)
        }
        Command::Bench => {
            let bench = BenchOptions {
                pinned: options.pin.clone().unwrap_or_default(),
                sha256: options.sha256.clone(),
                ..options.bench.clone()
            };
            let report = report::measure(&session, &options.input, &bench, &start)?;
            let code = if report.verdict.fits { 0 } else { NO };
            return Ok((show::report(&report, options.json), code));
        }
        Command::Ask => String::new(),
        Command::Serve => {
            serve::run(session, &options.serve)?;
            String::new()
        }
    };
    Ok((text, 0))
}
