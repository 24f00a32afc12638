//! What a bench does to the board: it holds the process to some cores. Also the load and the firmware's word on throttling. Linux;
//! elsewhere nothing is offered.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Holds this process, and every thread it makes from now on, to `cores`.
#[cfg(target_os = "linux")]
pub fn pin(cores: &[u32]) -> io::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    for &core in cores {
        let core = core as usize;
        if core >= CpuSet::MAX_CPU {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        set.set(core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(not(target_os = "linux"))]
pub fn pin(_: &[u32]) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// The Raspberry Pi's own tool, where the kernel does not offer the firmware's word: "0x50005". `root` is "/" but for tests.
pub(crate) fn vcgencmd_throttled(root: &Path) -> Option<String> {
    ["usr/bin/vcgencmd", "opt/vc/bin/vcgencmd"]
        .iter()
        .map(|tool| root.join(tool))
        .filter(|tool| tool.exists())
        .find_map(|tool| {
            let told = first_line(&tool, "get_throttled")?;
            Some(told.trim().strip_prefix("throttled=")?.to_string())
        })
}

/// A firmware that does not answer must not hold up the bench.
const TOOL_WAIT: Duration = Duration::from_secs(2);

/// What `tool` says first, if it does so in time.
fn first_line(tool: &Path, argument: &str) -> Option<String> {
    use std::io::{BufRead, BufReader, Read};
    let mut child = Command::new(tool)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let out = child.stdout.take()?;
    let (told, heard) = std::sync::mpsc::channel();
    // The thread ends with the tool's output, at the latest when the tool is killed.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(out.take(4096)).read_line(&mut line);
        let _ = told.send(read.ok().map(|_| line));
    });
    let line = heard.recv_timeout(TOOL_WAIT).ok().flatten();
    let _ = child.kill();
    let _ = child.wait();
    line
}

/// How many processes wanted to run, averaged over the last minute.
pub fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn cores_are_held_in_a_thread_of_its_own_and_impossible_ones_refused() {
        std::thread::spawn(|| {
            let status = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let allowed = |text: &str| {
                let line = text.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
                line.unwrap().trim().to_string()
            };
            let first: u32 = allowed(&status()).split(['-', ',']).next().unwrap().parse().unwrap();
            pin(&[first]).unwrap();
            assert_eq!(allowed(&status()), first.to_string());
            assert!(pin(&[1023]).is_err() && pin(&[5000]).is_err());
        })
        .join()
        .unwrap();
    }
}
