//! What the kernel counts of this process: resident memory and page faults.

use thimble_shared::board::report::Memory;

use crate::platform::board::emulator;
use crate::platform::sysfs::{kilobytes, read};

/// Resident memory of this process now, and at its highest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// Resident bytes; `None` where the kernel does not say, and under qemu-user, as for the other figures.
    pub total: Option<u64>,
    /// Highest `total` since the process started, bytes.
    pub peak: Option<u64>,
    /// Bytes of memory that no file stands behind: heap and stacks.
    pub anon: Option<u64>,
    /// Bytes of mapped files' pages.
    pub file: Option<u64>,
}

impl Resident {
    /// Reads the figures from /proc.
    pub fn now() -> Resident {
        if emulator() == Some("qemu-user") {
            // The figures would be those of the emulator.
            return Resident::default();
        }
        Resident::parse(
            &read("/proc/self/smaps_rollup").unwrap_or_default(),
            &read("/proc/self/status").unwrap_or_default(),
        )
    }

    /// smaps_rollup counts pages, status sums per-thread counters that lag: the former wins where the kernel has it.
    fn parse(rollup: &str, status: &str) -> Resident {
        let total = kilobytes(rollup, "Rss").or_else(|| kilobytes(status, "VmRSS"));
        let anon = kilobytes(rollup, "Anonymous").or_else(|| kilobytes(status, "RssAnon"));
        let file = match (kilobytes(rollup, "Rss"), kilobytes(rollup, "Anonymous")) {
            (Some(rss), Some(anon)) => rss.checked_sub(anon),
            _ => kilobytes(status, "RssFile"),
        };
        let peak = kilobytes(status, "VmHWM").max(total);
        Resident {
            total,
            peak,
            anon,
            file,
        }
    }

    /// The report's figures, given what was resident before the model was opened.
    pub fn since(self, baseline: Resident) -> Memory {
        Memory {
            baseline_rss: baseline.total,
            peak_rss: self.peak,
            anon: self.anon,
            file: self.file,
            predicted: None,
        }
    }
}

/// Page faults of this process since it started: (major, minor). A major one waited for storage.
pub fn faults() -> Option<(u64, u64)> {
    if emulator() == Some("qemu-user") {
        return None;
    }
    parse_faults(&read("/proc/self/stat")?)
}

fn parse_faults(stat: &str) -> Option<(u64, u64)> {
    // The command's name stands in parentheses and may hold blanks and parentheses itself.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(9)?.parse().ok()?, fields.get(7)?.parse().ok()?))
}

/// Lets go of the program's code as far as it has been read: what loading alone needed is not resident afterwards, what
/// inference needs comes back from the page cache, a few hundred minor faults once.
pub fn forget_code() {
    #[cfg(target_os = "linux")]
    if let Some(code) = read("/proc/self/smaps").and_then(|maps| clean_code(&maps, forget_code as *const () as usize)) {
        // SAFETY: these pages are the file's own, so the kernel reads the same bytes again.
        unsafe { libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED) };
    }
}

/// Lets go of the program's code and of its constants: what [`forget_code`] does, and the same for what starting it read of the
/// file beside the code, its relocations above all.
pub fn forget_program() {
    forget_code();
    #[cfg(target_os = "linux")]
    for part in read("/proc/self/smaps").map_or_else(Vec::new, |maps| {
        clean_constants(&maps, forget_code as *const () as usize)
    }) {
        // SAFETY: as in `forget_code`: the file's own pages, which nobody has changed.
        unsafe { libc::madvise(part.start as *mut libc::c_void, part.len(), libc::MADV_DONTNEED) };
    }
}

/// The mappings in /proc/self/smaps of the file whose code holds `address` that are only read and in which nobody has changed a
/// page: not what the loader relocated.
#[cfg(target_os = "linux")]
fn clean_constants(maps: &str, address: usize) -> Vec<std::ops::Range<usize>> {
    let Some(code) = clean_code(maps, address) else {
        return vec![];
    };
    let mut file = None;
    let mut areas = Vec::new();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ends = fields.first().and_then(|first| first.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = ends.and_then(|(start, end)| Some((number(start)?, number(end)?))) {
            let path = fields.get(5).copied().unwrap_or_default();
            if start == code.start {
                file = Some(path);
            }
            areas.push((start..end, fields[1] == "r--p", path, false));
        } else if let (Some(("Anonymous:", "0")), Some(area)) =
            (fields.first().copied().zip(fields.get(1).copied()), areas.last_mut())
        {
            area.3 = true;
        }
    }
    let clean = areas
        .into_iter()
        .filter(|(_, read, path, clean)| *read && *clean && Some(*path) == file);
    clean.map(|(range, ..)| range).collect()
}

/// The mapping in /proc/self/smaps that holds `address`, if it is a file's code in which nobody has changed a page, as
/// debuggers do for a breakpoint and some loaders for all of it.
#[cfg(target_os = "linux")]
fn clean_code(maps: &str, address: usize) -> Option<std::ops::Range<usize>> {
    let mut lines = maps.lines();
    let range = lines.find_map(|line| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let code = fields.next()? == "r-xp" && fields.nth(3)?.starts_with('/') && !line.ends_with(" (deleted)");
        (code && range.contains(&address)).then_some(range)
    })?;
    let own: Vec<&str> = lines.take_while(|line| !line.starts_with("VmFlags")).collect();
    (kilobytes(&own.join("\n"), "Anonymous") == Some(0)).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_from_either_file() {
        let status =
            "Name:\tx\nVmHWM:\t    3000 kB\nVmRSS:\t    2000 kB\nRssAnon:\t     500 kB\nRssFile:\t    1500 kB\n";
        let rollup = "00400000-7ffc ---p 00000000 00:00 0    [rollup]\nRss:                2100 kB\nPss:                 900 kB\nAnonymous:           600 kB\n";
        let kb = |n: u64| Some(n * 1024);
        assert_eq!(
            Resident::parse("", status),
            Resident {
                total: kb(2000),
                peak: kb(3000),
                anon: kb(500),
                file: kb(1500)
            }
        );
        assert_eq!(
            Resident::parse(rollup, status),
            Resident {
                total: kb(2100),
                peak: kb(3000),
                anon: kb(600),
                file: kb(1500)
            }
        );
        assert_eq!(Resident::parse("", ""), Resident::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_unchanged_code_is_let_go() {
        let entry =
            |head: &str, anonymous: &str| format!("{head}\nRss: 4 kB\nAnonymous: {anonymous} kB\nVmFlags: rd ex\n");
        let maps = [
            entry("5000-6000 r--p 00000000 fe:00 12 /bin/a b", "0"),
            entry("6000-9000 r-xp 00001000 fe:00 12 /bin/a b", "0"),
            entry("a000-b000 r-xp 00001000 fe:00 12 /bin/patched", "4"),
            entry("b000-c000 r-xp 00000000 00:00 0 [vdso]", "0"),
            entry("c000-d000 r-xp 00000000 00:01 7 /memfd:text (deleted)", "0"),
            entry("d000-e000 rwxp 00000000 00:00 0 ", "0"),
        ]
        .concat();
        assert_eq!(clean_code(&maps, 0x6000), Some(0x6000..0x9000));
        for none in [0x5fff, 0x9000, 0xa000, 0xb000, 0xc000, 0xd000] {
            assert_eq!(clean_code(&maps, none), None, "{none:x}");
        }
        // The code read again is what it was.
        forget_code();
        assert_eq!(clean_code(&maps, 0x8fff), Some(0x6000..0x9000));
        let own = |start: &str, anonymous: &str| entry(&format!("{start} r--p 00000000 fd:00 7 /bin/x"), anonymous);
        let code = entry("2000-3000 r-xp 00000000 fd:00 7 /bin/x", "0");
        let other = entry("5000-6000 r--p 00000000 fd:00 8 /bin/y", "0");
        let maps = [
            own("1000-2000", "0"),
            code,
            own("3000-4000", "0"),
            own("4000-5000", "8"),
            other,
        ]
        .concat();
        assert_eq!(clean_constants(&maps, 0x2800), [0x1000..0x2000, 0x3000..0x4000]);
        forget_program();
        assert_eq!("still here".len(), 10);
    }

    #[test]
    fn faults_survive_a_hostile_process_name() {
        let stat = "12 (a) 9 (b)) S 1 2 3 4 5 6 700 8 90 10 11";
        assert_eq!(parse_faults(stat), Some((90, 700)));
        assert_eq!(parse_faults("12 (x) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_and_faults() {
        if emulator() == Some("qemu-user") {
            assert_eq!((Resident::now(), faults()), (Resident::default(), None));
            return;
        }
        let now = Resident::now();
        assert!(now.peak >= now.total && now.total > Some(100_000), "{now:?}");
        assert!(faults().unwrap().1 > 10);
    }
}
