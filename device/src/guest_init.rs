//! thimble-device as the first process of the virtual board (`thimble emulate`): mounts what a Linux program expects, loads
//! the kernel modules it was given, runs itself on the model, says on the console how that ended, and switches off. Lines
//! for the host begin with [`MARK`]; everything it is told lies in /thimble/ of the initramfs.

use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::system::{RebootCommand, finit_module, reboot};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The kernel starts it under this name.
pub const NAME: &str = "/init";
/// What the host looks for at the head of a line.
const MARK: &str = "thimble-board:";
/// A disk that has not shown up by then will not.
const DISK_WAIT: Duration = Duration::from_secs(20);

pub fn main() -> ! {
    if let Err(problem) = work() {
        tell(&format!("problem {problem}"));
    }
    let _ = io::stdout().flush();
    // Nothing on this machine is to be kept: its disk is mounted read-only.
    rustix::fs::sync();
    let _ = reboot(RebootCommand::PowerOff);
    // A kernel that cannot switch off: its first process must not end.
    loop {
        std::thread::park();
    }
}

fn tell(text: &str) {
    // The kernel's messages share the console: a line of ours starts on a fresh one.
    let _ = io::stdout().write_all(format!("\n{MARK} {text}\n").as_bytes());
}

fn work() -> Result<(), String> {
    mount("devtmpfs", "/dev", "devtmpfs", MountFlags::empty()).or_else(|e| match Path::new("/dev/null").exists() {
        // A kernel with CONFIG_DEVTMPFS_MOUNT has done it.
        true => Ok(()),
        false => Err(e),
    })?;
    mount("proc", "/proc", "proc", MountFlags::empty())?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty())?;
    for module in lines("/thimble/modules")? {
        load_module(&module)?;
    }
    if let [device, kind] = &lines("/thimble/disk")?[..] {
        let begin = Instant::now();
        while !Path::new(device).exists() {
            if begin.elapsed() > DISK_WAIT {
                return Err(format!("no {device}: the kernel has no driver for the virtual disk"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        mount(device, "/model", kind, MountFlags::RDONLY)?;
    }
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let figure = |name: &str| {
        let line = memory.lines().find_map(|l| l.strip_prefix(name));
        line.unwrap_or(":").trim_start_matches(':').trim().to_string()
    };
    tell(&format!("total {}", figure("MemTotal")));
    tell(&format!("available {}", figure("MemAvailable")));
    let arguments: Vec<OsString> = lines("/thimble/arguments")?.into_iter().map(OsString::from).collect();
    let mut program = Command::new("/thimble-device");
    program.args(arguments).stdin(Stdio::null());
    let done = program
        .output()
        .map_err(|e| format!("/thimble-device does not start: {e}"))?;
    for (kind, bytes) in [("stderr", &done.stderr), ("stdout", &done.stdout)] {
        String::from_utf8_lossy(bytes)
            .lines()
            .for_each(|line| tell(&format!("{kind} {line}")));
    }
    match (done.status.code(), done.status.signal()) {
        (Some(code), _) => tell(&format!("exit {code}")),
        (None, signal) => tell(&format!("signal {}", signal.unwrap_or(0))),
    }
    Ok(())
}

fn lines(path: &str) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    Ok(text.lines().map(str::to_string).collect())
}

fn mount(what: &str, at: &str, kind: &str, flags: MountFlags) -> Result<(), String> {
    fs::create_dir_all(at).map_err(|e| format!("{at}: {e}"))?;
    rustix::mount::mount(what, at, kind, flags, None)
        .map_err(|e| format!("cannot mount {what} at {at}: {}", io::Error::from(e)))
}

fn load_module(path: &str) -> Result<(), String> {
    let file = File::open(path).map_err(|e| format!("{path}: {e}"))?;
    match finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(format!("{path} cannot be loaded: {}", io::Error::from(e))),
    }
}
