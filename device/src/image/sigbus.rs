//! The last words of a program whose mapped file lost its pages: cut short by somebody, or on storage that fails. The kernel
//! sends SIGBUS then, to whichever thread touched the page; the handler here names the file on stderr and ends the process.
//! A program asks for it once, in its `main`; a library must not take signals over by itself.

use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use libc::{c_int, c_void};
use thimble_shared::terminal::acts;

/// Exit code of a program that could not do what it was asked, both of them.
const FAILED: c_int = 2;

/// What stands before and after the file's name and what befell it.
static WORDS: OnceLock<(&str, &str)> = OnceLock::new();
/// What was done about SIGBUS before: std looks for overflown stacks.
static FORMER: OnceLock<libc::sigaction> = OnceLock::new();
/// The newest area; each leads to the one before.
static AREAS: AtomicPtr<Area> = AtomicPtr::new(std::ptr::null_mut());
static TOLD: AtomicBool = AtomicBool::new(false);

/// Addresses a file is mapped at, and the line for when they fail. It is never freed, since a handler may be reading it;
/// a program maps few files.
struct Area {
    start: usize,
    /// Is `start` once the map is gone.
    end: AtomicUsize,
    line: Box<[u8]>,
    former: *mut Area,
}

/// Ends what [`watch`] began.
#[derive(Debug)]
pub struct Watched(Option<&'static AtomicUsize>, usize);

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(end) = self.0 {
            end.store(self.1, Ordering::Release);
        }
    }
}

/// From here on maps are watched. `before` begins the line, as every error of the program does; `after` says what would help.
/// Without a handler a failing map kills the program as it always did.
pub fn install(before: &'static str, after: &'static str) {
    let mut former = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action it only writes the old one, and says whether it did.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), former.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: the call above succeeded.
    let _ = FORMER.set(unsafe { former.assume_init() });
    // SAFETY: an action is plain numbers, for which zero is valid: no flags, no signals held, no restorer.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = lost as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
    // Threads of std have a stack for signals of their own; others handle it on the one they are on.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for and calls nothing that a signal could have interrupted.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) } == 0 {
        let _ = WORDS.set((before, after));
    }
}

/// Has `bytes`, mapped from the file at `path`, watched until the result is dropped, which must be before they are unmapped.
pub fn watch(bytes: &[u8], path: &Path) -> Watched {
    let Some((before, after)) = WORDS.get() else {
        return Watched(None, 0);
    };
    let path = path.display().to_string().replace(acts, "?");
    let line =
        format!("{before}{path}: was cut short or its storage failed while it was mapped; {after}\n").into_bytes();
    let start = bytes.as_ptr().addr();
    let area = Box::into_raw(Box::new(Area {
        start,
        end: AtomicUsize::new(start + bytes.len()),
        line: line.into_boxed_slice(),
        former: AREAS.load(Ordering::Acquire),
    }));
    // SAFETY: nobody else has it yet, and it is never freed.
    while let Err(newest) = AREAS.compare_exchange(unsafe { (*area).former }, area, Ordering::AcqRel, Ordering::Acquire)
    {
        // SAFETY: it is still ours alone.
        unsafe { (*area).former = newest };
    }
    // SAFETY: from here on it is only read, but for the end, which is atomic.
    Watched(Some(unsafe { &(*area).end }), start)
}

/// The line for an address, where a watched map holds it.
fn line(address: usize) -> Option<&'static [u8]> {
    let mut next = AREAS.load(Ordering::Acquire);
    // SAFETY: what is in the list was whole before it came in, stays as it was and is never freed.
    while let Some(area) = unsafe { next.as_ref() } {
        if (area.start..area.end.load(Ordering::Acquire)).contains(&address) {
            return Some(&area.line);
        }
        next = area.former;
    }
    None
}

/// Longest that is waited for somebody to read the line.
const PATIENCE_MS: c_int = 1000;

/// The handler. It may have interrupted anything, so it only reads what is never freed and makes system calls.
extern "C" fn lost(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes one. Only a fault, whose code is above zero, tells an address.
    let address = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr().addr()) };
    if let Some(line) = address.and_then(line) {
        // Several threads may read the same map: one tells, and ends them all.
        if TOLD.swap(true, Ordering::AcqRel) {
            loop {
                // SAFETY: it takes nothing.
                unsafe { libc::pause() };
            }
        }
        // Nobody may be reading, and the program must end all the same.
        let mut stderr = libc::pollfd {
            fd: libc::STDERR_FILENO,
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one entry, which outlives the call.
        if unsafe { libc::poll(&raw mut stderr, 1, PATIENCE_MS) } > 0 {
            write(line);
        }
        // SAFETY: unlike exit it runs nothing of the program.
        unsafe { libc::_exit(FAILED) };
    }
    let action = match (address, FORMER.get()) {
        // The access is made again when this returns, and fails again.
        (Some(_), Some(former)) => *former,
        // SAFETY: as in `install`; zero is the default action.
        _ => unsafe { std::mem::zeroed() },
    };
    // SAFETY: the action is whole. A signal that somebody sent does not come again by itself.
    unsafe {
        libc::sigaction(signal, &action, std::ptr::null_mut());
        if address.is_none() {
            libc::raise(signal);
        }
    }
}

fn write(mut line: &[u8]) {
    while !line.is_empty() {
        // SAFETY: the bytes are borrowed and as many as said.
        let written = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
        match usize::try_from(written) {
            Ok(n) if n > 0 => line = line.get(n..).unwrap_or_default(),
            _ => return,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::platform::board::emulator;
    use memmap2::Mmap;
    use std::fs::File;
    use std::io::{PipeReader, Read, pipe};
    use std::os::fd::AsRawFd;

    const PAGES: usize = 4 << 16;

    /// Cuts `file` to nothing and reads `map` in a process of its own, or sends it a SIGBUS; how it ended, and its last words.
    fn ended(file: &File, map: Option<&[u8]>) -> (c_int, String) {
        let (mut heard, words): (PipeReader, _) = pipe().unwrap();
        // SAFETY: between fork and its end the child makes system calls and reads memory; it allocates nothing.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: both descriptors are open, and the pointer is to mapped memory, whose pages are gone.
            unsafe {
                libc::dup2(words.as_raw_fd(), libc::STDERR_FILENO);
                libc::ftruncate(file.as_raw_fd(), 0);
                match map {
                    Some(map) => _ = std::ptr::read_volatile(map.as_ptr().add(PAGES / 2)),
                    None => _ = libc::raise(libc::SIGBUS),
                }
                libc::_exit(0);
            }
        }
        drop(words);
        let (mut status, mut text) = (0, String::new());
        heard.read_to_string(&mut text).unwrap();
        // SAFETY: the status is written.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        (status, text)
    }

    #[test]
    fn a_watched_map_names_its_file_and_all_else_dies_as_ever() {
        if emulator() == Some("qemu-user") {
            // The emulator has handlers of its own between the kernel and this one.
            return;
        }
        install("test: ", "send it again");
        let path = std::env::temp_dir().join(format!("thimble-fault-{}\n", std::process::id()));
        let mapped = || {
            std::fs::write(&path, vec![7; PAGES]).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            // SAFETY: the file is cut short while it is mapped, and nobody in this process reads the map.
            let map = unsafe { Mmap::map(&file) }.unwrap();
            (file, map)
        };
        let (file, map) = mapped();
        let (other, unwatched) = mapped();
        let watched = watch(&map, &path);
        let (status, text) = ended(&file, Some(&map));
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == FAILED,
            "{status:x} {text}"
        );
        let name = path.display().to_string().replace('\n', "?");
        let expected =
            format!("test: {name}: was cut short or its storage failed while it was mapped; send it again\n");
        assert_eq!(text, expected);
        let killed = |(status, text): (c_int, String)| {
            assert_eq!(text, "");
            libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS
        };
        assert!(killed(ended(&other, Some(&unwatched))), "a map nobody watches");
        assert!(killed(ended(&other, None)), "a signal that was sent");
        drop(watched);
        assert!(killed(ended(&file, Some(&map))), "a map that is watched no more");
        std::fs::remove_file(path).unwrap();
    }
}
