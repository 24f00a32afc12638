//! Listens to a qemu that runs: its console, its own words, and whether it still does anything. Out: all it said, once it has
//! ended or was ended because it lay still.

use super::BoardError;
use crate::fs::signals;
use crate::fs::subprocess::last_line;
use crate::render::text::{printable, say};
use std::io::Read;
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A board that boots says something at least this often, even under a busy emulator; a bench may take long.
const SILENCE: Duration = Duration::from_secs(60);
const BENCH: Duration = Duration::from_secs(900);
/// A kernel that waits for memory it will never get lies still but for its timers. A board that waits for its disk gives up
/// sooner and says so; one that is slow because this machine is busy wants to run all the time.
const STILL: Duration = Duration::from_secs(25);
/// What the timers of four emulated cores take of a CPU is 7 %; a board that boots takes all it gets.
const TIMERS_PERCENT: u64 = 15;
/// Looks in a row at which it wants to run, 25 ms apart: timers are done sooner.
const WORKING: u32 = 20;
/// A kernel that panicked restarts at once, which ends qemu; one that hangs instead will say nothing more than its trace.
const AFTER_PANIC: Duration = Duration::from_secs(3);

/// All that came of one run of qemu.
pub(super) struct Heard {
    pub console: String,
    /// qemu's own words.
    pub emulator: String,
    /// `None` when it was ended here, because it lay still.
    pub status: Option<ExitStatus>,
}

/// A console's bytes, and when the last of them came.
type Console = Arc<Mutex<(Vec<u8>, Instant)>>;

/// Adds what the console says to `heard` as it comes.
fn read_console(mut stream: ChildStdout, heard: &Console) -> JoinHandle<()> {
    let heard = Arc::clone(heard);
    std::thread::spawn(move || {
        let mut piece = [0u8; 4096];
        while let Ok(n @ 1..) = stream.read(&mut piece) {
            if let Ok(mut heard) = heard.lock() {
                heard.0.extend_from_slice(&piece[..n]);
                heard.1 = Instant::now();
            }
        }
    })
}

/// Reads qemu's own words to their end.
fn read_whole(mut stream: ChildStderr) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The console's text, once the machine has switched itself off.
pub(super) fn listen(mut child: Child, verbose: bool) -> Result<Heard, BoardError> {
    let heard = Arc::new(Mutex::new((Vec::new(), Instant::now())));
    let console = child.stdout.take().map(|stream| read_console(stream, &heard));
    let emulator = child.stderr.take().map(read_whole);
    let text = || {
        heard
            .lock()
            .map(|h| String::from_utf8_lossy(&h.0).into_owned())
            .unwrap_or_default()
    };
    // When it last did anything, what it had of a CPU by then, and how often in a row it was seen wanting one.
    let (mut moved, mut had, mut wanting) = (Instant::now(), 0, 0);
    let status = loop {
        let (wants, ticks) = match activity(child.id()) {
            Some(now) => (now.wants_to_run, now.ticks),
            // Where that cannot be read, silence alone decides.
            None => (true, u64::MAX),
        };
        wanting = if wants { wanting + 1 } else { 0 };
        if wanting > WORKING || ticks > had + STILL.as_secs() * TIMERS_PERCENT {
            (moved, had) = (Instant::now(), ticks.min(u64::MAX >> 1));
        }
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) => {}
            Err(e) => return Err(BoardError::Guest(e.to_string())),
        }
        let quiet = heard.lock().map(|h| h.1.elapsed()).unwrap_or_default();
        // Once the board has told its memory, the bench is running and says nothing until it is done.
        let said = text();
        let patience = if said.contains("Kernel panic") {
            AFTER_PANIC
        } else if said.contains("thimble-board: available") {
            BENCH
        } else {
            SILENCE
        };
        if signals::waiting() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(BoardError::Guest("ended by a signal".into()));
        }
        let still = !said.contains("thimble-board:") && quiet.min(moved.elapsed()) > STILL;
        if quiet > patience || still {
            let _ = child.kill();
            let _ = child.wait();
            if said.contains("thimble-board:") && !said.contains("Kernel panic") {
                return Err(BoardError::Silent {
                    seconds: patience.as_secs(),
                    last: last_line(said.as_bytes()),
                });
            }
            break None;
        }
        std::thread::sleep(Duration::from_millis(25));
    };
    console.into_iter().for_each(|r| drop(r.join()));
    let emulator = emulator.and_then(|r| r.join().ok()).unwrap_or_default();
    let console = text();
    if verbose {
        console.lines().for_each(|line| say(&printable(line)));
    }
    Ok(Heard {
        console,
        emulator,
        status,
    })
}

struct Activity {
    wants_to_run: bool,
    /// Hundredths of a second that it has had of a CPU.
    ticks: u64,
}

/// What a process's threads do just now; `None` where the system does not tell.
fn activity(process: u32) -> Option<Activity> {
    let mut told = Activity {
        wants_to_run: false,
        ticks: 0,
    };
    for task in std::fs::read_dir(format!("/proc/{process}/task")).ok()?.flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else {
            continue;
        };
        // After the name in parentheses: the state, and as 12th and 13th the time in user and kernel mode.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        told.wants_to_run |= matches!(fields.first(), Some(&("R" | "D")));
        told.ticks += fields
            .get(11..13)?
            .iter()
            .filter_map(|t| t.parse::<u64>().ok())
            .sum::<u64>();
    }
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_works_is_told_from_one_that_sleeps() {
        let start = |program: &str, argument: &[&str]| Command::new(program).args(argument).spawn().unwrap();
        let mut busy = start("sh", &["-c", "while :; do :; done"]);
        let mut calm = start("sleep", &["60"]);
        std::thread::sleep(Duration::from_millis(500));
        let told = [&busy, &calm].map(|child| activity(child.id()).unwrap());
        for child in [&mut busy, &mut calm] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(told[0].wants_to_run && !told[1].wants_to_run && told[1].ticks < 10);
        assert!(activity(u32::MAX).is_none());
    }
}
