//! What the console of a virtual board means: the program's report, too little memory, or what else befell the board.

use super::listen::Heard;
use super::{BoardError, Ending, Shortage, Shown};
use crate::boards::reports;
use crate::fs::subprocess::{ToolError, last_line};
use crate::render::text::printable;
use std::collections::BTreeMap;

/// Why qemu itself ended, when it did not do so as it was told to; `None` when it did, or was ended here.
fn failure(heard: &Heard) -> Option<String> {
    use std::os::unix::process::ExitStatusExt;
    let status = heard.status.filter(|s| !s.success())?;
    let said = match heard.emulator.trim() {
        "" => String::new(),
        _ => format!(": {}", last_line(heard.emulator.as_bytes())),
    };
    Some(match status.signal() {
        Some(9) => format!("was killed (signal 9), most often because this machine has too little memory{said}"),
        Some(signal) => format!("was ended by signal {signal}{said}"),
        None => format!("ended with {}{said}", status.code().unwrap_or_default()),
    })
}

/// What a console said: its text, and thimble's own lines by their key.
struct Said<'a> {
    console: &'a str,
    told: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Said<'a> {
    fn new(console: &'a str) -> Said<'a> {
        let mut told = BTreeMap::<&str, Vec<&str>>::new();
        for line in console.lines() {
            if let Some(rest) = line.trim_end_matches('\r').strip_prefix("thimble-board: ") {
                let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
                told.entry(key).or_default().push(value);
            }
        }
        Said { console, told }
    }

    /// The first value of a key.
    fn one(&self, key: &str) -> Option<&'a str> {
        self.told.get(key).and_then(|v| v.first().copied())
    }

    /// All values of a key.
    fn all(&self, key: &str) -> String {
        self.told.get(key).map(|v| v.join(" ")).unwrap_or_default()
    }

    /// Whether the board came as far as to tell its memory.
    fn started(&self) -> bool {
        self.one("available").is_some()
    }

    /// The kernel's line about a program it killed for memory.
    fn killed(&self) -> Option<&'a str> {
        let mut lines = self.console.lines();
        lines.find(|l| l.contains("Out of memory") || l.contains("Memory cgroup out of memory"))
    }

    /// A line of whoever got no memory.
    fn no_memory(&self) -> Option<&'a str> {
        self.console.lines().find(|l| {
            [
                "unpacking failed: write error",
                "Cannot allocate memory",
                "out of memory",
                "unable to allocate",
                "deadlocked on memory",
            ]
            .iter()
            .any(|part| l.contains(part))
        })
    }

    /// The shortage that `line` tells of.
    fn shortage(&self, during: &'static str, line: &str) -> Shortage {
        let memory = |key| self.one(key).and_then(|text| kilobytes(text.strip_suffix("kB")?));
        Shortage {
            during,
            anon: after(line, "anon-rss:"),
            file: after(line, "file-rss:"),
            mem_total: memory("total"),
            mem_available: memory("available"),
            kernel_said: printable(line.trim()),
        }
    }

    fn out_of_memory(&self, during: &'static str, line: &str) -> Result<Shown, BoardError> {
        Ok(Shown::Ended(Ending::OutOfMemory(self.shortage(during, line))))
    }
}

/// What it means. `cramped`: the RAM hardly holds what is booted.
pub(super) fn understand(heard: &Heard, cramped: bool, qemu: &str) -> Result<Shown, BoardError> {
    let said = Said::new(&heard.console);
    match (said.one("exit"), said.one("signal")) {
        // 0: within the limits; 1: a limit did not hold, which the report says.
        (Some("0" | "1"), _) => {
            let report = reports::parse(&said.all("stdout"));
            let report = report
                .map_err(|e| BoardError::Guest(format!("{e}; was the device program built from this version?")))?;
            Ok(Shown::Ended(Ending::Ran(Box::new(report))))
        }
        (Some(code), _) => match said.no_memory() {
            Some(line) => said.out_of_memory("run", line),
            None => Err(BoardError::Guest(format!(
                "thimble-device ended with {code}: {}",
                printable(&said.all("stderr"))
            ))),
        },
        (None, Some(signal)) => match said.killed().or(said.no_memory()) {
            Some(line) => said.out_of_memory("run", line),
            None => Err(BoardError::Guest(format!(
                "thimble-device was ended by signal {signal}: {}",
                printable(&said.all("stderr"))
            ))),
        },
        (None, None) => unfinished(heard, &said, cramped, qemu),
    }
}

/// What it means where the board told no end of the program.
fn unfinished(heard: &Heard, said: &Said<'_>, cramped: bool, qemu: &str) -> Result<Shown, BoardError> {
    if let Some(line) = said.killed().or(said.no_memory()) {
        return said.out_of_memory(if said.started() { "run" } else { "boot" }, line);
    }
    if let Some(problem) = said.one("problem") {
        return Err(BoardError::Guest(
            said.all("problem").replace(problem, &printable(problem)),
        ));
    }
    if let Some(failure) = failure(heard) {
        // Its words when the RAM does not even hold what it starts from; two of them have other causes too.
        let too_small = heard.emulator.lines().find(|l| {
            l.contains("Not enough space for DTB")
                || cramped && (l.contains("could not load initrd") || l.contains("could not load kernel"))
        });
        return match too_small {
            Some(line) => said.out_of_memory("boot", line),
            None => Err(ToolError::new(qemu, failure).into()),
        };
    }
    if said.started() {
        return Err(BoardError::Guest(format!(
            "it ended early; its last words: {}",
            last_line(said.console.as_bytes())
        )));
    }
    let panic = said.console.lines().find(|l| l.contains("Kernel panic"));
    let words = match panic {
        Some(line) => line.to_string(),
        None if said.console.trim().is_empty() => "it said nothing at all".into(),
        None => last_line(said.console.as_bytes()),
    };
    Ok(Shown::NoStart(said.shortage("boot", &words)))
}

/// The bytes after `name` in "anon-rss:123kB, …".
fn after(line: &str, name: &str) -> Option<u64> {
    let rest = &line[line.find(name)? + name.len()..];
    kilobytes(rest.split("kB").next()?)
}

fn kilobytes(text: &str) -> Option<u64> {
    text.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boards::tools::QEMU;
    use std::process::ExitStatus;

    fn heard(console: &str) -> Heard {
        use std::os::unix::process::ExitStatusExt;
        Heard {
            console: console.into(),
            emulator: String::new(),
            status: Some(ExitStatus::from_raw(0)),
        }
    }

    #[test]
    fn consoles_are_understood() {
        let killed = "thimble-board: total 50000 kB\r\nthimble-board: available 9000 kB\n\
            [    3.1] Out of memory: Killed process 57 (thimble-device) total-vm:65536kB, anon-rss:4096kB, file-rss:1024kB, shmem-rss:0kB\n\
            thimble-board: signal 9\n";
        let Shown::Ended(Ending::OutOfMemory(short)) = understand(&heard(killed), false, QEMU).unwrap() else {
            panic!("{killed}")
        };
        assert_eq!(
            (short.during, short.anon, short.file, short.mem_available),
            ("run", Some(4 << 20), Some(1 << 20), Some(9000 * 1024))
        );
        for console in [
            "[0.0] Kernel panic - not syncing: System is deadlocked on memory",
            "[0.7] Initramfs unpacking failed: write error",
            "thimble-board: problem /modules/x.ko cannot be loaded: Cannot allocate memory",
        ] {
            let shown = understand(&heard(console), false, QEMU).unwrap();
            assert!(
                matches!(&shown, Shown::Ended(Ending::OutOfMemory(s)) if s.during == "boot"),
                "{console}"
            );
        }
        // These need not be for memory: a boot with more must show it.
        for console in [
            "",
            "[    1.59] Kernel panic - not syncing: audit: failed to start the kauditd thread (-11)",
            "[    1.5] Kernel panic - not syncing: VFS: Unable to mount root fs",
            "[0.7] Initramfs unpacking failed: junk within compressed archive",
        ] {
            let still = Heard {
                status: None,
                ..heard(console)
            };
            for heard in [heard(console), still] {
                let shown = understand(&heard, true, QEMU).unwrap();
                assert!(
                    matches!(&shown, Shown::NoStart(s) if !s.kernel_said.is_empty()),
                    "{console}"
                );
            }
        }
        let errors = [
            (
                "thimble-board: problem no /dev/vda: the kernel has no driver",
                "no /dev/vda",
            ),
            (
                "thimble-board: available 1 kB\nthimble-board: stderr x.onnx is no model\nthimble-board: exit 2\n",
                "no model",
            ),
            (
                "thimble-board: available 1 kB\nthimble-board: stdout {}\nthimble-board: exit 0\n",
                "cannot be read",
            ),
            ("thimble-board: available 1 kB\nthimble-board: signal 11\n", "signal 11"),
            // Somebody on the board, not its kernel.
            ("thimble-board: available 1 kB\nthimble-board: signal 9\n", "signal 9"),
            ("thimble-board: available 1 kB\nhello\n", "hello"),
        ];
        for (console, part) in errors {
            let error = understand(&heard(console), false, QEMU)
                .map(drop)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_befalls_the_emulator_is_not_laid_on_the_board() {
        use std::os::unix::process::ExitStatusExt;
        let ended = |status: i32, said: &str| Heard {
            console: String::new(),
            emulator: said.into(),
            status: Some(ExitStatus::from_raw(status)),
        };
        let cases = [
            (ended(9, ""), "killed (signal 9)"),
            (
                ended(
                    256,
                    "qemu-system-aarch64: cannot set up guest memory 'mach-virt.ram': Cannot allocate memory",
                ),
                "guest memory",
            ),
            (
                ended(256, "qemu-system-aarch64: unable to find CPU model 'cortex-x'"),
                "CPU model",
            ),
            (
                ended(256, "qemu-system-aarch64: could not load kernel 'kernel'"),
                "could not load",
            ),
        ];
        for (heard, part) in cases {
            let error = understand(&heard, false, QEMU).map(drop).unwrap_err().to_string();
            assert!(error.starts_with(QEMU) && error.contains(part), "{error}");
        }
        for (said, cramped) in [
            (
                "qemu-system-aarch64: Not enough space for DTB after kernel/initrd",
                false,
            ),
            ("qemu-system-aarch64: could not load initrd 'initramfs'", true),
        ] {
            let shown = understand(&ended(256, said), cramped, QEMU).unwrap();
            assert!(matches!(shown, Shown::Ended(Ending::OutOfMemory(s)) if s.during == "boot"));
        }
    }
}
