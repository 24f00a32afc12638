//! The commands of the program: run as the command line runs them, with warnings, notes and progress told to Python and Ctrl-C heard.

use crate::{error, not_found};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thimble::cli::{self, CommandError, Listener, Telling};
use thimble::render::text::{one_line, printable};

/// How long Ctrl-C may go unheard.
const OFTEN: Duration = Duration::from_millis(50);
/// What the main thread of a program usually has.
const STACK: usize = 8 << 20;

enum Event {
    Told(Telling, String),
    Stage(String, usize, usize),
}

/// Hears on the threads of the work what Python is told on its own.
struct Ears {
    events: Mutex<Sender<Event>>,
    stop: Arc<AtomicBool>,
}

impl Ears {
    fn send(&self, event: Event) {
        // Python went away: then nobody listens.
        let _ = self.events.lock().unwrap_or_else(PoisonError::into_inner).send(event);
    }
}

impl Listener for Ears {
    fn told(&self, what: Telling, text: &str) {
        self.send(Event::Told(what, text.to_string()));
    }

    fn stage(&self, name: &str, done: usize, steps: usize) {
        self.send(Event::Stage(name.to_string(), done, steps));
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Runs one command: its exit code, and what it prints to stdout.
#[pyfunction]
pub fn run_command(
    py: Python<'_>,
    arguments: Vec<Vec<u8>>,
    told: &Bound<'_, PyAny>,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<(u8, String)> {
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, events) = channel();
    let ears = Ears {
        events: Mutex::new(sender),
        stop: stop.clone(),
    };
    let worker = std::thread::Builder::new().name("thimble".into()).stack_size(STACK);
    let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from_vec).collect();
    let worker = worker.spawn(move || cli::run_command(arguments, Arc::new(ears)))?;
    let wrong = attend(py, &Mutex::new(events), &stop, told, progress.as_ref());
    // It ends soon where it was told to.
    let done = py.allow_threads(|| worker.join());
    wrong?;
    match done {
        Ok(Ok(outcome)) => match outcome.error {
            Some(problem) => Err(error(py, "Error", printable(&problem).to_string())),
            None => Ok((outcome.code, outcome.text)),
        },
        Ok(Err(CommandError::Arguments(problem))) => Err(PyValueError::new_err(problem)),
        Ok(Err(CommandError::Failed(cause))) => {
            let class = if not_found(cause.as_ref()) {
                "NotFoundError"
            } else {
                "Error"
            };
            Err(error(py, class, one_line(cause.as_ref())))
        }
        Err(_) => Err(error(py, "Error", "a defect of thimble: the command panicked".into())),
    }
}

/// Tells Python what happens until the work is done. The first exception, of Ctrl-C or of what is told, stops the work.
fn attend(
    py: Python<'_>,
    events: &Mutex<Receiver<Event>>,
    stop: &AtomicBool,
    told: &Bound<'_, PyAny>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let mut result = Ok(());
    loop {
        let next = py.allow_threads(|| {
            events
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv_timeout(OFTEN)
        });
        let heard = match next {
            Err(RecvTimeoutError::Disconnected) => return result,
            Err(RecvTimeoutError::Timeout) => Ok(()),
            // What is told after the end was asked for is of no use any more.
            Ok(_) if result.is_err() => Ok(()),
            Ok(Event::Told(what, text)) => told.call1((what == Telling::Warning, text)).map(drop),
            Ok(Event::Stage(name, done, steps)) => match progress {
                Some(progress) => progress.call1((name, done, steps)).map(drop),
                None => Ok(()),
            },
        };
        let heard = heard.and_then(|()| py.check_signals());
        if result.is_ok() && heard.is_err() {
            stop.store(true, Ordering::Relaxed);
            result = heard;
        }
    }
}

/// The program `thimble`; `arguments` begin with its name.
#[pyfunction]
pub fn main(py: Python<'_>, arguments: Vec<Vec<u8>>) -> u8 {
    py.allow_threads(|| cli::main_with(arguments.into_iter().map(OsString::from_vec).collect()))
}
