//! The virtual board: qemu with a target's CPU, cores and RAM, a Debian kernel, and an initramfs that holds the device
//! program. RAM, page faults and the out-of-memory killer are then a real kernel's; time is not. In: a model and a
//! [`Setup`]; out: what the board did, as an [`Ending`].

pub mod initramfs;
pub mod kernel;

use crate::text::{printable, say};
use initramfs::Storage;
use kernel::Kernel;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thimble_shared::report::Report;

#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    #[error("{program} does not start: {problem}{hint}")]
    Program {
        program: String,
        problem: String,
        hint: &'static str,
    },
    #[error("{path}: {problem}")]
    File { path: String, problem: String },
    #[error("{0}")]
    Kernel(String),
    #[error("the virtual board said nothing for {seconds} s; its last words: {last}")]
    Silent { seconds: u64, last: String },
    #[error("the virtual board: {0}")]
    Guest(String),
}

impl BoardError {
    fn file(path: &Path, problem: impl ToString) -> BoardError {
        BoardError::File {
            path: path.display().to_string(),
            problem: problem.to_string(),
        }
    }
}

/// All a boot needs, beside its RAM.
pub struct Setup<'a> {
    pub cpu: &'a str,
    pub cores: u32,
    pub kernel: &'a Kernel,
    pub device_program: &'a Path,
    pub model: &'a Path,
    pub storage: Storage,
    /// Arguments of `thimble-device bench`, after the file.
    pub bench: &'a [String],
    pub verbose: bool,
}

/// How a boot ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// The bench ran; its report, times as the emulator's clock told them.
    Ran(Box<Report>),
    /// Too little RAM: to boot, or for the program.
    OutOfMemory(Shortage),
}

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Shortage {
    /// Where it ended: "boot" before anything of thimble's ran, "load" or "run" after.
    pub during: &'static str,
    /// Resident bytes of the process when the kernel killed it; `None` when it never started.
    pub anon: Option<u64>,
    pub file: Option<u64>,
    pub mem_total: Option<u64>,
    pub mem_available: Option<u64>,
    pub kernel_said: String,
}

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

/// Boots once with `ram` bytes.
pub fn boot(setup: &Setup, ram: u64) -> Result<Ending, BoardError> {
    let dir = tempfile::Builder::new()
        .prefix("thimble-board-")
        .tempdir()
        .map_err(|e| BoardError::file(&std::env::temp_dir(), e))?;
    let image = initramfs::build(setup, dir.path())?;
    let mut command = Command::new("qemu-system-aarch64");
    command
        .args([
            "-M",
            "virt,gic-version=2",
            "-accel",
            "tcg,thread=multi",
            "-nodefaults",
            "-nographic",
        ])
        .args(["-no-reboot", "-serial", "stdio", "-cpu", setup.cpu])
        .args(["-smp", &setup.cores.min(8).to_string()])
        .args(["-m", &format!("{}k", ram / 1024)])
        .arg("-kernel")
        .arg(&setup.kernel.image)
        .arg("-initrd")
        .arg(&image.initramfs)
        // Errors only: the console is slow, and a kill by the out-of-memory killer is an error. The early console lets a
        // kernel that has too little RAM for a real one say so.
        .args([
            "-append",
            "console=ttyAMA0 earlycon=pl011,0x09000000 loglevel=4 panic=-1 rdinit=/init",
        ]);
    if let Some(disk) = &image.disk {
        let drive = format!("file={},format=raw,if=none,id=model,readonly=on", disk.display());
        command.args(["-drive", &drive, "-device", "virtio-blk-device,drive=model"]);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| BoardError::Program {
            program: "qemu-system-aarch64".into(),
            problem: e.to_string(),
            hint: "; install it (Debian: apt-get install qemu-system-arm)",
        })?;
    let console = listen(child, setup.verbose)?;
    understand(&console)
}

/// The console's text, once the machine has switched itself off.
fn listen(mut child: Child, verbose: bool) -> Result<String, BoardError> {
    let heard = Arc::new(Mutex::new((Vec::new(), Instant::now())));
    let readers: Vec<_> = [
        child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
        child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
    ]
    .into_iter()
    .flatten()
    .map(|mut stream| {
        let heard = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut piece = [0u8; 4096];
            while let Ok(n @ 1..) = stream.read(&mut piece) {
                if let Ok(mut heard) = heard.lock() {
                    heard.0.extend_from_slice(&piece[..n]);
                    heard.1 = Instant::now();
                }
            }
        })
    })
    .collect();
    let text = || {
        heard
            .lock()
            .map(|h| String::from_utf8_lossy(&h.0).into_owned())
            .unwrap_or_default()
    };
    // When it last did anything, what it had of a CPU by then, and how often in a row it was seen wanting one.
    let (mut moved, mut had, mut wanting) = (Instant::now(), 0, 0);
    loop {
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
            Ok(Some(_)) => break,
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
        let still = !said.contains("thimble-board:") && quiet.min(moved.elapsed()) > STILL;
        if quiet > patience || still {
            let _ = child.kill();
            let _ = child.wait();
            if said.contains("Kernel panic") {
                return Ok(said);
            }
            // A kernel with far too little RAM stops without a word.
            if !said.contains("thimble-board:") {
                return Ok(format!("{said}\nKernel panic: no word after {} s", quiet.as_secs()));
            }
            return Err(BoardError::Silent {
                seconds: patience.as_secs(),
                last: last_line(&said),
            });
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    readers.into_iter().for_each(|r| drop(r.join()));
    let said = text();
    if verbose {
        said.lines().for_each(|line| say(&printable(line)));
    }
    Ok(said)
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

fn last_line(console: &str) -> String {
    let line = console.lines().rev().find(|l| !l.trim().is_empty());
    printable(line.unwrap_or("none").trim())
}

/// What the console's text means.
fn understand(console: &str) -> Result<Ending, BoardError> {
    let mut told = std::collections::BTreeMap::<&str, Vec<&str>>::new();
    for line in console.lines() {
        if let Some(rest) = line.trim_end_matches('\r').strip_prefix("thimble-board: ") {
            let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
            told.entry(key).or_default().push(value);
        }
    }
    let one = |key: &str| told.get(key).and_then(|v| v.first().copied());
    let all = |key: &str| told.get(key).map(|v| v.join(" ")).unwrap_or_default();
    let memory = |key| one(key).and_then(|text| kilobytes(text.strip_suffix("kB")?));
    let shortage = |during, line: &str| {
        Ending::OutOfMemory(Shortage {
            during,
            anon: after(line, "anon-rss:"),
            file: after(line, "file-rss:"),
            mem_total: memory("total"),
            mem_available: memory("available"),
            kernel_said: printable(line.trim()),
        })
    };
    let killed = console
        .lines()
        .find(|l| l.contains("Out of memory") || l.contains("Memory cgroup out of memory"));
    let no_memory = console.lines().find(|l| {
        [
            "write error",
            "Cannot allocate memory",
            "out of memory",
            "unable to allocate",
            "deadlocked on memory",
            // qemu's own words when the RAM does not even hold what it starts from.
            "Not enough space for DTB",
            "could not load initrd",
            "could not load kernel",
        ]
        .iter()
        .any(|part| l.contains(part))
    });
    let started = one("available").is_some();
    match (one("exit"), one("signal")) {
        // 0: within the limits; 1: a limit did not hold, which the report says.
        (Some("0" | "1"), _) => {
            let report = all("stdout");
            let report = serde_json::from_str(&report).map_err(|e| {
                BoardError::Guest(format!(
                    "its report cannot be read ({e}); was the device program built from this version?"
                ))
            })?;
            Ok(Ending::Ran(Box::new(report)))
        }
        (Some(code), _) => match no_memory {
            Some(line) => Ok(shortage("run", line)),
            None => Err(BoardError::Guest(format!(
                "thimble-device ended with {code}: {}",
                printable(&all("stderr"))
            ))),
        },
        (None, Some("9")) if killed.is_some() => Ok(shortage("run", killed.unwrap_or_default())),
        (None, Some(signal)) => match killed.or(no_memory) {
            Some(line) => Ok(shortage("run", line)),
            None => Err(BoardError::Guest(format!(
                "thimble-device was ended by signal {signal}: {}",
                printable(&all("stderr"))
            ))),
        },
        (None, None) => {
            if let Some(line) = killed.or(no_memory) {
                return Ok(shortage(if started { "run" } else { "boot" }, line));
            }
            if let Some(problem) = one("problem") {
                return Err(BoardError::Guest(all("problem").replace(problem, &printable(problem))));
            }
            match console.lines().find(|l| l.contains("Kernel panic")) {
                Some(line) if !started => Ok(shortage("boot", line)),
                _ if console.trim().is_empty() => Ok(shortage("boot", "the kernel said nothing at all")),
                _ => Err(BoardError::Guest(format!(
                    "it ended early; its last words: {}",
                    last_line(console)
                ))),
            }
        }
    }
}

/// The bytes after `name` in "anon-rss:123kB, …".
fn after(line: &str, name: &str) -> Option<u64> {
    let rest = &line[line.find(name)? + name.len()..];
    kilobytes(rest.split("kB").next()?)
}

fn kilobytes(text: &str) -> Option<u64> {
    text.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least RAM, in steps of `step` bytes, in which `fits` says yes; `None` when `most` is too little. A boot that fails is
/// over in seconds and one that runs may take minutes, so it climbs from the floor in wide steps and halves only the last.
pub fn least_ram<E>(
    floor: u64,
    most: u64,
    step: u64,
    mut fits: impl FnMut(u64) -> Result<bool, E>,
) -> Result<Option<u64>, E> {
    const WIDE: u64 = 8;
    let (mut too_little, most) = ((floor / step).saturating_sub(1), most / step);
    let mut enough = None;
    let mut stride = WIDE;
    while enough.is_none() {
        let next = (too_little + stride).min(most);
        if next <= too_little {
            return Ok(None);
        }
        if fits(next * step)? {
            enough = Some(next);
        } else {
            too_little = next;
            // Far from the floor wider steps lose little.
            stride = WIDE.max(next / 8);
        }
    }
    let mut enough = enough.unwrap_or(most);
    while enough - too_little > 1 {
        let middle = too_little + (enough - too_little) / 2;
        if fits(middle * step)? {
            enough = middle;
        } else {
            too_little = middle;
        }
    }
    Ok(Some(enough * step))
}

/// The device program for aarch64: the one named, or where scripts/cross-build leaves it.
pub fn device_program(named: Option<&Path>) -> Result<PathBuf, BoardError> {
    const BUILT: &str = "cross/aarch64-unknown-linux-gnu/dist/thimble-device";
    let found = match named {
        Some(path) => Some(path.to_path_buf()),
        None => {
            let beside = std::env::current_exe().ok();
            // target/release/thimble or target/debug/thimble, and the directory the user stands in.
            let targets = beside
                .iter()
                .filter_map(|exe| exe.parent()?.parent())
                .map(Path::to_path_buf);
            targets
                .chain([PathBuf::from("target")])
                .map(|target| target.join(BUILT))
                .find(|path| path.is_file())
        }
    };
    let Some(path) = found else {
        return Err(BoardError::File {
            path: format!("target/{BUILT}"),
            problem: "no device program for aarch64; run scripts/cross-build, or name one with --device-program".into(),
        });
    };
    let mut head = [0u8; 20];
    std::fs::File::open(&path)
        .and_then(|mut file| file.read_exact(&mut head))
        .map_err(|e| BoardError::file(&path, e))?;
    // ELF, 64 bits, little endian, machine 183.
    if !head.starts_with(b"\x7fELF\x02\x01") || head[18..20] != [183, 0] {
        return Err(BoardError::file(
            &path,
            "is not an aarch64 program; scripts/cross-build makes one",
        ));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_ram_is_found_and_few_boots_are_made() {
        for least in [33u64, 64, 65, 200, 511, 512] {
            let mut boots = 0;
            let found = least_ram::<()>(32, 512, 1, |ram| {
                boots += 1;
                Ok(ram >= least)
            });
            assert_eq!(found, Ok(Some(least)));
            assert!(boots <= 30, "{boots} boots for {least}");
        }
        assert_eq!(least_ram::<()>(32, 512, 1, |_| Ok(false)), Ok(None));
        assert_eq!(least_ram(0, 8, 1, |_| Err("qemu")), Err("qemu"));
    }

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

    #[test]
    fn consoles_are_understood() {
        let killed = "thimble-board: total 50000 kB\r\nthimble-board: available 9000 kB\n\
            [    3.1] Out of memory: Killed process 57 (thimble-device) total-vm:65536kB, anon-rss:4096kB, file-rss:1024kB, shmem-rss:0kB\n\
            thimble-board: signal 9\n";
        let Ending::OutOfMemory(short) = understand(killed).unwrap() else {
            panic!("{killed}")
        };
        assert_eq!(
            (short.during, short.anon, short.file, short.mem_available),
            ("run", Some(4 << 20), Some(1 << 20), Some(9000 * 1024))
        );
        let boots = [
            ("", "boot"),
            (
                "[0.0] Kernel panic - not syncing: System is deadlocked on memory",
                "boot",
            ),
            ("[0.7] Initramfs unpacking failed: write error", "boot"),
            (
                "qemu-system-aarch64: Not enough space for DTB after kernel/initrd",
                "boot",
            ),
            (
                "[    1.59] Kernel panic - not syncing: audit: failed to start the kauditd thread (-11)",
                "boot",
            ),
        ];
        for (console, during) in boots {
            assert!(
                matches!(understand(console).unwrap(), Ending::OutOfMemory(s) if s.during == during),
                "{console}"
            );
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
            ("thimble-board: available 1 kB\nhello\n", "hello"),
        ];
        for (console, part) in errors {
            let error = understand(console).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_program_for_another_machine_is_refused() {
        let own = std::env::current_exe().unwrap();
        let error = device_program(Some(&own)).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(error.is_err(), !cfg!(target_arch = "aarch64"), "{error:?}");
        assert!(device_program(Some(Path::new("/nonexistent"))).is_err());
    }
}
