//! What the program on the board does: parses its arguments, does one of info, run, bench and serve,
//! prints the result on stdout. Exit code 0 is yes, 1 a limit that does not hold, 2 anything that could not be done.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use thimble_shared::terminal;

use crate::args::{Command, Options, Request};
#[cfg(target_os = "linux")]
use crate::init;
use crate::map::ModelFile;
use crate::serve::ServeError;
use crate::session::{Session, SessionError, Start};
use crate::{args, board, fault, measure, serve, session, show, tensors};

const NO: u8 = 1;
pub const FAILED: u8 = 2;

pub fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == init::NAME) {
        init::main();
    }
    fault::install("thimble-device: ", "start again with the whole file, or with --copy");
    let request = match args::parse(std::env::args_os().skip(1)) {
        Ok(request) => request,
        Err(args::UsageError(message)) => return fail(&message),
    };
    let (text, code) = match request {
        Request::Help => (args::help(), 0),
        Request::Version => (
            format!(
                "thimble-device {} (tract {})\n",
                env!("CARGO_PKG_VERSION"),
                session::TRACT
            ),
            0,
        ),
        Request::Do(command, options) => match perform(command, &options) {
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
    say(message);
    ExitCode::from(FAILED)
}

/// One line on stderr; names in it may come out of a file.
pub fn say(text: &str) {
    // Nothing is left to do when stderr is gone as well, and serve's work goes on.
    let _ = writeln!(io::stderr(), "thimble-device: {}", terminal::line(text));
}

fn perform(command: Command, options: &Options) -> Result<(String, u8), ServeError> {
    // Before the engine makes its threads, which inherit both.
    if let Some(cores) = &options.pin {
        board::pin(cores).map_err(SessionError::Pin)?;
    }
    if command == Command::Serve {
        serve::hold_signals();
    }
    let Some(path) = &options.file else {
        return Ok((show::board(&measure::board(), options.json), 0));
    };
    let file = ModelFile::open(path).map_err(SessionError::from)?;
    let start = Start::now(Some(&file).filter(|_| options.cold), command == Command::Bench);
    // A bench takes the digest of what it measured when that can no longer change the figures.
    let first = options.sha256.as_deref().filter(|_| command != Command::Bench);
    let session = Session::open(file, options, first)?;
    let config = session.engine.config();
    let text = match command {
        Command::Info => {
            let (model, engine) = (session.model(), session.engine_report());
            let need = session.need(options)?;
            show::info(
                &measure::board(),
                &model,
                &engine,
                config,
                &need,
                session.load_ms,
                options.json,
            )
        }
        Command::Run => {
            let inputs = || options.file.iter().chain(&options.input);
            if let Some(output) = &options.output
                && inputs().any(|input| tensors::same_file(input, output))
            {
                let output = output.clone();
                return Err(SessionError::OverInput { output }.into());
            }
            let input = session.input(options)?;
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
            let report = session.bench(options, &start)?;
            let code = if report.verdict.fits { 0 } else { NO };
            return Ok((show::report(&report, options.json), code));
        }
        Command::Serve => {
            serve::run(session, options)?;
            String::new()
        }
    };
    Ok((text, 0))
}
