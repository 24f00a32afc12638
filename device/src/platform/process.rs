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
