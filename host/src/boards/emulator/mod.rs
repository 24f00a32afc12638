//! The virtual board: qemu with a target's CPU, cores and RAM, a Debian kernel, and an initramfs that holds the device
//! program. RAM, page faults and the out-of-memory killer are then a real kernel's; time is not. In: a model and a
//! [`Setup`]; out: what the board did, as an [`Ending`].

pub mod initramfs;
pub mod kernel;

use crate::boards::reports;
use crate::fs::atomic::FileError;
use crate::fs::scratch::Scratch;
use crate::fs::signals::{self, PutOff};
use crate::fs::subprocess::{ToolError, ends_with_us, last_line};
use crate::render::text::{printable, remark, say, size};
use initramfs::{INITRAMFS, MODEL_DISK, Storage};
use kernel::Kernel;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thimble_shared::board::report::Report;

#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0}")]
    Kernel(String),
    #[error("{kernel} does not start on the virtual board, not with {ram} of RAM either ({said}); name another with --kernel", ram = size(*.ram))]
    NeverStarts { kernel: String, ram: u64, said: String },
    #[error("the virtual board said nothing for {seconds} s; its last words: {last}")]
    Silent { seconds: u64, last: String },
    #[error("the virtual board: {0}")]
    Guest(String),
}

impl BoardError {
    fn file(path: &Path, problem: impl ToString) -> BoardError {
        FileError::new(path, problem).into()
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

/// RAM in which every kernel for the virtual board starts.
const ENOUGH: u64 = 512 << 20;
use crate::boards::tools::QEMU;
/// The kernel's name beside [`INITRAMFS`].
const KERNEL: &str = "kernel";

/// A virtual board that is booted with this and that much RAM.
pub struct Machine<'a> {
    setup: &'a Setup<'a>,
    /// RAM that is enough to start in, whatever the board has.
    pub enough: u64,
    with_enough: Option<Ending>,
    /// Every boot's RAM, and whether the model ran in it.
    pub boots: Vec<(u64, bool)>,
}

impl<'a> Machine<'a> {
    pub fn new(setup: &'a Setup<'a>, full: u64) -> Machine<'a> {
        Machine {
            setup,
            enough: full.max(ENOUGH),
            with_enough: None,
            boots: Vec::new(),
        }
    }

    pub fn boot(&mut self, ram: u64) -> Result<Ending, BoardError> {
        match self.once(ram)? {
            Shown::Ended(ending) => Ok(ending),
            // Only where the same kernel starts with more can it have been the RAM.
            Shown::NoStart(shortage) => {
                if ram >= self.enough {
                    return Err(self.never_starts(ram, shortage));
                }
                if !self.boots.iter().any(|(_, ran)| *ran) {
                    self.with_enough()?;
                }
                Ok(Ending::OutOfMemory(shortage))
            }
        }
    }

    /// How it ends where RAM is not scarce.
    pub fn with_enough(&mut self) -> Result<&Ending, BoardError> {
        let ending = match self.with_enough.take() {
            Some(known) => known,
            None => match self.once(self.enough)? {
                Shown::Ended(ending) => ending,
                Shown::NoStart(shortage) => return Err(self.never_starts(self.enough, shortage)),
            },
        };
        Ok(self.with_enough.insert(ending))
    }

    fn never_starts(&self, ram: u64, shortage: Shortage) -> BoardError {
        BoardError::NeverStarts {
            kernel: self.setup.kernel.name(),
            ram,
            said: shortage.kernel_said,
        }
    }

    fn once(&mut self, ram: u64) -> Result<Shown, BoardError> {
        let shown = boot(self.setup, ram)?;
        let (fits, told) = match &shown {
            Shown::Ended(Ending::Ran(_)) => (true, "ran"),
            Shown::Ended(Ending::OutOfMemory(_)) => (false, "out of memory"),
            Shown::NoStart(_) => (false, "did not start"),
        };
        remark(&format!("booted with {}: {told}", size(ram)));
        self.boots.push((ram, fits));
        Ok(shown)
    }
}

/// What one boot showed.
enum Shown {
    Ended(Ending),
    /// It stopped before anything of thimble's ran, and did not say that it was for memory.
    NoStart(Shortage),
}

/// Boots once with `ram` bytes.
fn boot(setup: &Setup, ram: u64) -> Result<Shown, BoardError> {
    let _put_off = PutOff::begin();
    let dir = Scratch::new().map_err(|e| BoardError::file(&std::env::temp_dir(), e))?;
    let image = initramfs::build(setup, dir.path())?;
    let kernel = &setup.kernel.image;
    let kernel_bytes = kernel
        .canonicalize()
        .and_then(|path| {
            std::os::unix::fs::symlink(&path, dir.path().join(KERNEL))?;
            path.metadata()
        })
        .map_err(|e| BoardError::file(kernel, e))?
        .len();
    // The second version of the interrupt controller, which every kernel knows, has room for eight cores.
    let machine = match setup.cores {
        ..=8 => "virt,gic-version=2",
        _ => "virt,gic-version=3",
    };
    let mut command = Command::new(QEMU);
    command
        .current_dir(dir.path())
        .args(["-M", machine, "-accel", "tcg,thread=multi", "-nodefaults", "-nographic"])
        .args(["-no-reboot", "-serial", "stdio", "-cpu", setup.cpu])
        .args(["-smp", &setup.cores.to_string()])
        .args(["-m", &format!("{}k", ram / 1024)])
        .args(["-kernel", KERNEL, "-initrd", INITRAMFS])
        // Errors only: the console is slow, and a kill by the out-of-memory killer is an error. The early console lets a
        // kernel that has too little RAM for a real one say so.
        .args([
            "-append",
            "console=ttyAMA0 earlycon=pl011,0x09000000 loglevel=4 panic=-1 rdinit=/init",
        ]);
    if image.has_disk {
        let drive = format!("file={MODEL_DISK},format=raw,if=none,id=model,readonly=on");
        command.args(["-drive", &drive, "-device", "virtio-blk-device,drive=model"]);
    }
    ends_with_us(&mut command);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| ToolError::start(QEMU, &e, "install it (Debian: apt-get install qemu-system-arm)"))?;
    let heard = listen(child, setup.verbose)?;
    // qemu puts the initramfs into the upper half.
    let cramped = ram < 2 * (kernel_bytes + image.initramfs_bytes) + (16 << 20);
    understand(&heard, cramped)
}

/// All that came of one run of qemu.
struct Heard {
    console: String,
    /// qemu's own words.
    emulator: String,
    /// `None` when it was ended here, because it lay still.
    status: Option<ExitStatus>,
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
fn listen(mut child: Child, verbose: bool) -> Result<Heard, BoardError> {
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
fn understand(heard: &Heard, cramped: bool) -> Result<Shown, BoardError> {
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
        (None, None) => unfinished(heard, &said, cramped),
    }
}

/// What it means where the board told no end of the program.
fn unfinished(heard: &Heard, said: &Said<'_>, cramped: bool) -> Result<Shown, BoardError> {
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
            None => Err(ToolError::new(QEMU, failure).into()),
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
        let Shown::Ended(Ending::OutOfMemory(short)) = understand(&heard(killed), false).unwrap() else {
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
            let shown = understand(&heard(console), false).unwrap();
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
                let shown = understand(&heard, true).unwrap();
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
            let error = understand(&heard(console), false).map(drop).unwrap_err().to_string();
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
            let error = understand(&heard, false).map(drop).unwrap_err().to_string();
            assert!(error.starts_with(QEMU) && error.contains(part), "{error}");
        }
        for (said, cramped) in [
            (
                "qemu-system-aarch64: Not enough space for DTB after kernel/initrd",
                false,
            ),
            ("qemu-system-aarch64: could not load initrd 'initramfs'", true),
        ] {
            let shown = understand(&ended(256, said), cramped).unwrap();
            assert!(matches!(shown, Shown::Ended(Ending::OutOfMemory(s)) if s.during == "boot"));
        }
    }
}
