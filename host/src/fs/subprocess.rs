//! Other people's programs that boards need: e2fsprogs, dpkg-deb, apt, qemu, ssh. They are started in one way, and one error
//! says which of them did not start or what it said.

use std::path::PathBuf;
use std::process::{Command, Output};

#[derive(Debug, thiserror::Error)]
#[error("{tool}: {problem}")]
pub struct ToolError {
    pub tool: String,
    pub problem: String,
}

impl ToolError {
    pub fn new(tool: &str, problem: impl ToString) -> ToolError {
        ToolError {
            tool: tool.into(),
            problem: problem.to_string(),
        }
    }

    /// It could not even be started; `hint` says what to do.
    pub fn start(tool: &str, error: &std::io::Error, hint: &str) -> ToolError {
        ToolError::new(tool, format!("does not start: {error}; {hint}"))
    }
}

/// The directories programs are looked for in: PATH, and the administrator's.
pub fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named: Vec<PathBuf> = std::env::split_paths(&path).collect();
    named.into_iter().chain(["/usr/sbin".into(), "/sbin".into()])
}

/// A program looked for in the administrator's directories too, that speaks English: some of its words are read.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .env("PATH", std::env::join_paths(search_path()).unwrap_or_default())
        .env("LC_ALL", "C");
    command
}

/// Lets a program end with the thread that starts it, however that ends: nobody else would end it.
#[cfg(target_os = "linux")]
pub fn ends_with_us(command: &mut Command) {
    use rustix::io::Errno;
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    use std::os::unix::process::CommandExt;
    let us = std::process::id();
    let in_child = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Who ended before the call will not be told of.
        match getppid().map(|parent| parent.as_raw_nonzero().get().cast_unsigned()) == Some(us) {
            true => Ok(()),
            false => Err(Errno::SRCH.into()),
        }
    };
    // SAFETY: between fork and exec it makes system calls only; nothing is allocated or locked.
    unsafe { command.pre_exec(in_child) };
}

#[cfg(not(target_os = "linux"))]
pub fn ends_with_us(_: &mut Command) {}

/// The last line with something on it.
pub fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text).into_owned();
    let line = text.lines().rev().find(|l| !l.trim().is_empty());
    crate::render::text::printable(line.unwrap_or("no reason given").trim())
}

/// The last thing a program complained about.
pub fn complaint(done: &Output) -> String {
    last_line(&done.stderr)
}
