//! Says how far a long command is: on a terminal one bar with percent and time left, rewritten in place; elsewhere a plain
//! line per stage, and one every half minute of a long one. Everything goes to stderr and is a courtesy: a closed stderr must not
//! stop the work, and --quiet turns it off.

use super::listener::{Listener, listener};
use super::terminal::{SHOWN, Verbosity, detail, remark, verbosity};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, PoisonError};
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

/// How often a bar is drawn again while nothing new is known, so that it is seen to live.
const TICK: Duration = Duration::from_millis(250);
/// How often a stage without a terminal says how far it is.
const OFTEN: Duration = Duration::from_secs(30);

/// Says what is done now: on the bar that is drawn, and as a line with --verbose elsewhere.
pub fn doing(what: &str) {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match shown {
        Some(bar) => bar.set_message(what.to_string()),
        None => detail(what),
    }
}

/// The same of what takes its time: elsewhere as a line unless --quiet is given.
pub fn stage(what: &str) {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match shown {
        Some(bar) => bar.set_message(what.to_string()),
        None => remark(what),
    }
}

/// A [`Watch`] that prints, or tells the listener where there is one.
pub struct Bar {
    quiet: bool,
    listener: Option<Arc<dyn Listener>>,
    /// On a terminal.
    bar: Option<ProgressBar>,
    stage: String,
    /// Which stage it is, from 1; 0 where there is only one.
    number: usize,
    single: bool,
    steps: usize,
    done: usize,
    start: Instant,
    /// When a line was last printed without a terminal.
    told: Instant,
}

impl Default for Bar {
    fn default() -> Self {
        let listener = listener();
        let quiet = verbosity() == Verbosity::Quiet || listener.is_some();
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // Before it is drawn for the first time: its own style is a row of blocks over the whole width.
            bar.set_style(style(0));
            bar.enable_steady_tick(TICK);
            *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
            bar
        });
        Bar {
            quiet,
            listener,
            bar,
            stage: String::new(),
            number: 0,
            single: false,
            steps: 0,
            done: 0,
            start: Instant::now(),
            told: Instant::now(),
        }
    }
}

/// The bar of a stage of several steps, and what is shown where there is one step or none is known.
fn template(steps: usize) -> &'static str {
    match steps {
        0 | 1 => "{spinner} {wide_msg}",
        _ => "[{bar:24}] {percent:>3} %{prefix}  {wide_msg}",
    }
}

fn style(steps: usize) -> ProgressStyle {
    let style = ProgressStyle::with_template(template(steps)).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("##.").tick_chars("|/-\\ ")
}

impl Watch for Bar {
    fn stage(&mut self, name: &str, steps: usize) {
        self.finish_stage();
        self.stage = name.to_string();
        self.number += usize::from(!self.single);
        (self.steps, self.done, self.start) = (steps, 0, Instant::now());
        self.tell(0);
        match &self.bar {
            Some(bar) => {
                bar.set_style(style(steps));
                bar.set_length(steps as u64);
                bar.set_position(0);
                bar.set_prefix(prefix(self.number, None));
                bar.set_message(name.to_string());
            }
            None => self.line(name),
        }
    }

    fn step(&mut self, what: &str) {
        self.tell(self.done.min(self.steps));
        let elapsed = self.start.elapsed();
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done as u64);
                bar.set_prefix(prefix(self.number, left(self.done, self.steps, elapsed)));
                bar.set_message(format!("{}: {what}", self.stage));
            }
            None if self.told.elapsed() >= OFTEN => {
                if let Some(line) = far(&self.stage, self.done, self.steps, elapsed) {
                    self.line(&line);
                }
            }
            None => {}
        }
        self.done += 1;
    }
}

impl Bar {
    /// Of one stage whose steps are not known: it turns on a terminal, and nothing is printed elsewhere.
    pub fn spinner(name: &str) -> Bar {
        let bar = Bar::default();
        if let Some(bar) = &bar.bar {
            bar.set_style(style(0));
            bar.set_message(name.to_string());
        }
        bar
    }

    /// Of one stage of `steps` steps, whose beginning is not worth a line where there is no terminal.
    pub fn counter(name: &str, steps: usize) -> Bar {
        let mut bar = Bar::default();
        bar.single = true;
        match bar.bar.is_some() || bar.listener.is_some() {
            true => bar.stage(name, steps),
            false => (bar.stage, bar.steps) = (name.to_string(), steps),
        }
        bar
    }

    fn tell(&self, done: usize) {
        if let Some(listener) = &self.listener {
            listener.stage(&self.stage, done, self.steps);
        }
    }

    /// A stage that ends early is done, too.
    fn finish_stage(&self) {
        if !self.stage.is_empty() {
            self.tell(self.steps);
        }
    }

    fn line(&mut self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        self.told = Instant::now();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish_stage();
        if let Some(bar) = self.bar.take() {
            *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = None;
            bar.finish_and_clear();
        }
    }
}

/// What stands behind the percentage: of which stage it is, where there are several, and how long the rest of that takes.
fn prefix(number: usize, left: Option<String>) -> String {
    let stage = match number {
        0 => String::new(),
        number => format!(" of stage {number}"),
    };
    left.map_or(stage.clone(), |left| format!("{stage}, {left}"))
}

/// How long the rest takes if it goes on so.
fn left(done: usize, steps: usize, elapsed: Duration) -> Option<String> {
    if done == 0 || steps < 2 {
        return None;
    }
    let rest = steps.saturating_sub(done);
    let seconds = elapsed.as_secs_f64() * rest as f64 / done as f64;
    Some(format!("{} left", duration(seconds)))
}

/// `done` of `steps` after `elapsed`, as a line where nothing is rewritten.
fn far(stage: &str, done: usize, steps: usize, elapsed: Duration) -> Option<String> {
    let left = left(done, steps, elapsed)?;
    Some(format!("{stage}: {} of {steps}, {left}", done.min(steps)))
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
    fn a_line_shows_how_far_and_the_time_left() {
        let cases = [
            (0, 8, 0, None),
            (2, 8, 10, Some("x: 2 of 8, 30 s left")),
            (8, 8, 95, Some("x: 8 of 8, 0 s left")),
            (9, 8, 95, Some("x: 8 of 8, 0 s left")),
            (1, 1, 5, None),
        ];
        for (done, steps, seconds, want) in cases {
            let line = far("x", done, steps, Duration::from_secs(seconds));
            assert_eq!(line.as_deref(), want);
        }
        assert_eq!(duration(185.4), "3 min 5 s");
    }

    #[test]
    fn a_percentage_says_of_which_stage_it_is() {
        assert_eq!(prefix(2, Some("5 s left".into())), " of stage 2, 5 s left");
        assert_eq!(prefix(2, None), " of stage 2");
        assert_eq!(prefix(0, Some("5 s left".into())), ", 5 s left");
    }

    #[test]
    fn the_styles_of_bars_are_templates() {
        for steps in [0, 1, 2, 100] {
            assert!(ProgressStyle::with_template(template(steps)).is_ok());
        }
    }
}
