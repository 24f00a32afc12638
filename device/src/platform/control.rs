//! What a bench does to the board: it holds the process to some cores and puts a file out of the page cache. Also the load
//! and the firmware's word on throttling. Linux; elsewhere nothing is offered.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Holds this process, and every thread it makes from now on, to `cores`.
#[cfg(target_os = "linux")]
pub fn pin(cores: &[u32]) -> io::Result<()> {
    // SAFETY: a cpu_set_t is plain bits, all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores {
        let core = core as usize;
        if core >= libc::CPU_SETSIZE as usize {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: `core` is below CPU_SETSIZE, so the bit lies inside the set.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: the set is valid for its own size; process 0 is this thread.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
pub fn pin(_: &[u32]) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Asks the kernel to forget the cached pages of one file, which needs no root; root also has everything dropped. Whether
/// none of the file is cached afterwards: another process that maps it keeps its pages.
#[cfg(target_os = "linux")]
pub fn drop_from_cache(file: &std::fs::File) -> bool {
    use std::os::fd::AsRawFd;
    // Pages that are not on storage yet cannot be dropped.
    let _ = file.sync_all();
    // SAFETY: the descriptor is open for the length of the call, which touches no memory of ours.
    let advised = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } == 0;
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "1");
    advised && resident_pages(file) == Some(0)
}

#[cfg(target_os = "linux")]
fn resident_pages(file: &std::fs::File) -> Option<usize> {
    let bytes = usize::try_from(file.metadata().ok()?.len()).ok()?;
    // SAFETY: the map is only asked where its pages are; nothing is read through it.
    let map = unsafe { memmap2::MmapOptions::new().len(bytes).map(file) }.ok()?;
    // SAFETY: sysconf takes no pointer.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let mut pages = vec![0u8; bytes.div_ceil(page.max(1))];
    // SAFETY: the map is `bytes` long and the vector has a byte for each of its pages.
    let told = unsafe { libc::mincore(map.as_ptr() as *mut _, bytes, pages.as_mut_ptr()) } == 0;
    told.then(|| pages.iter().filter(|p| **p & 1 == 1).count())
}

#[cfg(not(target_os = "linux"))]
pub fn drop_from_cache(_: &std::fs::File) -> bool {
    false
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

    #[test]
    fn the_pages_of_a_file_are_counted() {
        let path = std::env::temp_dir().join(format!("thimble-cold-{}", std::process::id()));
        std::fs::write(&path, vec![7u8; 1 << 16]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        assert_eq!(resident_pages(&file), Some(16));
        std::fs::remove_file(path).unwrap();
    }
}
