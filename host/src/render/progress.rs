//! Says how far a long command is: on a terminal one bar with percent and time left, rewritten in place; elsewhere a plain
//! line per stage. Everything goes to stderr and is a courtesy: a closed stderr must not stop the work.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Told what is being done.
pub trait Watch {
    /// A stage of `steps` steps begins.
    fn stage(&mut self, _name: &str, _steps: usize) {}
    /// A step of the stage begins.
    fn step(&mut self, what: &str);
}

/// A closure hears of every step.
impl<F: FnMut(&str)> Watch for F {
    fn step(&mut self, what: &str) {
        self(what);
    }
}

const WIDTH: usize = 24;

/// A [`Watch`] that prints.
pub struct Bar {
    terminal: bool,
    stage: String,
    steps: usize,
    done: usize,
    start: Instant,
}

impl Default for Bar {
    fn default() -> Self {
        Bar {
            terminal: std::io::stderr().is_terminal(),
            stage: String::new(),
            steps: 0,
            done: 0,
            start: Instant::now(),
        }
    }
}

impl Watch for Bar {
    fn stage(&mut self, name: &str, steps: usize) {
        self.stage = name.to_string();
        (self.steps, self.done, self.start) = (steps, 0, Instant::now());
        if self.terminal {
            self.draw(&line(name, 0, steps, Duration::ZERO));
        } else {
            let _ = writeln!(std::io::stderr(), "{name}");
        }
    }

    fn step(&mut self, what: &str) {
        if self.terminal {
            let name = format!("{}: {what}", self.stage);
            self.draw(&line(&name, self.done, self.steps, self.start.elapsed()));
        }
        self.done += 1;
    }
}

impl Bar {
    fn draw(&self, text: &str) {
        let mut err = std::io::stderr();
        let _ = write!(err, "\r\x1b[K{text}");
        let _ = err.flush();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.terminal {
            self.draw("");
        }
    }
}

/// `done` of `steps` after `elapsed`, as one line.
fn line(name: &str, done: usize, steps: usize, elapsed: Duration) -> String {
    if steps < 2 {
        return name.to_string();
    }
    let done = done.min(steps);
    let full = WIDTH * done / steps;
    let left = match done {
        0 => String::new(),
        _ => {
            let seconds = elapsed.as_secs_f64() * (steps - done) as f64 / done as f64;
            format!(", {} left", duration(seconds))
        }
    };
    format!(
        "[{}{}] {:3} %{left}  {name}",
        "#".repeat(full),
        ".".repeat(WIDTH - full),
        100 * done / steps
    )
}

/// 42 s, 3 min 5 s.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds / 60 {
        0 => format!("{seconds} s"),
        minutes => format!("{minutes} min {} s", seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_share_and_time_left() {
        let cases = [
            (0, 8, 0, "[........................]   0 %  x"),
            (2, 8, 10, "[######..................]  25 %, 30 s left  x"),
            (8, 8, 95, "[########################] 100 %, 0 s left  x"),
            (9, 8, 95, "[########################] 100 %, 0 s left  x"),
            (0, 1, 0, "x"),
        ];
        for (done, steps, seconds, want) in cases {
            assert_eq!(line("x", done, steps, Duration::from_secs(seconds)), want);
        }
        assert_eq!(duration(185.4), "3 min 5 s");
    }
}
