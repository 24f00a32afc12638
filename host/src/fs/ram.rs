//! How much memory this process can still have: what the system has available, within the limits of its control groups (v1 and
//! v2) and of its address space. In: /proc and /sys/fs/cgroup; out: bytes and what sets them.

use crate::render::text::exact;
use rustix::process::{Resource, getrlimit};
use std::path::{Path, PathBuf};
use thimble_device::platform::sysfs::{kilobytes, read, read_number};

/// Memory that can still be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    pub bytes: u64,
    /// What sets it, for a person to read.
    pub by: String,
    /// Kilobytes of `ulimit -v` that are taken, where that sets it.
    taken: Option<u64>,
}

impl Available {
    /// What would leave `need` bytes, where a setting would.
    pub fn remedy(&self, need: u64) -> Option<String> {
        let taken = self.taken?;
        Some(format!(
            "ulimit -v {} would do",
            taken.saturating_add(need.div_ceil(1024))
        ))
    }
}

/// The least of what limits this process, which will start so many threads; none where the system does not say.
pub fn available(threads: usize) -> Option<Available> {
    let system = system(&read("/proc/meminfo").unwrap_or_default());
    let groups = groups(Path::new("/"), &read("/proc/self/cgroup").unwrap_or_default());
    let limits = system.into_iter().chain(groups).chain(address_space(threads));
    limits.min_by_key(|limit| limit.bytes)
}

/// What can be had without pushing anything else out, and what can be swapped out.
fn system(meminfo: &str) -> Option<Available> {
    let swap = kilobytes(meminfo, "SwapFree").unwrap_or(0);
    Some(Available {
        bytes: kilobytes(meminfo, "MemAvailable")?.saturating_add(swap),
        by: "MemAvailable in /proc/meminfo, and free swap".into(),
        taken: None,
    })
}

/// What each control group above this process leaves, `list` being /proc/self/cgroup.
fn groups(root: &Path, list: &str) -> Vec<Available> {
    let mut found = Vec::new();
    for line in list.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let names = match controllers {
            "" => Names::V2,
            list if list.split(',').any(|name| name == "memory") => Names::V1,
            _ => continue,
        };
        let top = root.join(names.top());
        // Inside a container the path may be that of the host, which is not there.
        let mut folder = top.join(path.trim_start_matches('/'));
        if !folder.is_dir() {
            folder.clone_from(&top);
        }
        while folder.starts_with(&top) {
            found.extend(group(&folder, names));
            folder = folder.parent().map(PathBuf::from).unwrap_or_default();
        }
    }
    found
}

/// The two generations of control groups.
#[derive(Clone, Copy)]
enum Names {
    V1,
    V2,
}

impl Names {
    fn top(self) -> &'static str {
        match self {
            Names::V1 => "sys/fs/cgroup/memory",
            Names::V2 => "sys/fs/cgroup",
        }
    }

    /// Files of the limit and of what is in use, and the prefix of a whole subtree's figures in memory.stat.
    fn files(self) -> [&'static str; 3] {
        match self {
            Names::V1 => ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_"],
            Names::V2 => ["memory.max", "memory.current", ""],
        }
    }
}

/// What one group leaves; none where it has no limit. Cached files can be dropped and are not counted.
fn group(folder: &Path, names: Names) -> Option<Available> {
    let [limit, current, prefix] = names.files();
    let most: u64 = read_number(folder.join(limit))?;
    // v1 says no limit as a number near the largest there is.
    if most >= 1 << 62 {
        return None;
    }
    let used: u64 = read_number(folder.join(current))?;
    let stat = read(folder.join("memory.stat")).unwrap_or_default();
    let figure = |name: &str| -> u64 {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(key, _)| *key == format!("{prefix}{name}"));
        found.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
    };
    let cached = figure("inactive_file").saturating_add(figure("active_file"));
    Some(Available {
        bytes: most.saturating_sub(used.saturating_sub(cached)),
        by: format!("what {limit} {most} of the control group leaves"),
        taken: None,
    })
}

/// Addresses that the system's allocator and a stack take for a thread, whatever of them is used.
const THREAD: u64 = 66 << 20;

/// What `ulimit -v` leaves.
fn address_space(threads: usize) -> Option<Available> {
    let limit = getrlimit(Resource::As).current?;
    let used = kilobytes(&read("/proc/self/status")?, "VmSize")?;
    Some(left_by_ulimit(limit, used, threads))
}

fn left_by_ulimit(limit: u64, used: u64, threads: usize) -> Available {
    let aside = THREAD * threads as u64;
    let taken = used.saturating_add(aside);
    let threads = match threads {
        0 => String::new(),
        threads => format!(" and {} set aside for {threads} threads", exact(aside)),
    };
    Available {
        bytes: limit.saturating_sub(taken),
        by: format!("ulimit -v is {}, with {} in use{threads}", limit / 1024, exact(used)),
        taken: Some(taken.div_ceil(1024)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_system_has_what_it_says_and_swap() {
        let meminfo = "MemTotal:  100 kB\nMemAvailable:   60 kB\nSwapTotal:  9 kB\nSwapFree:  4 kB\n";
        assert_eq!(system(meminfo).map(|a| a.bytes), Some(64 << 10));
        assert_eq!(system("MemTotal: 100 kB\n"), None);
    }

    #[test]
    fn every_group_above_the_process_counts_and_caches_do_not() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join("sys/fs/cgroup").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("memory.max", "max\n");
        put("a/memory.max", "1000\n");
        put("a/memory.current", "700\n");
        put("a/memory.stat", "anon 500\ninactive_file 150\nactive_file 50\n");
        put("a/b/memory.max", "max\n");
        put("memory/c/memory.limit_in_bytes", "900\n");
        put("memory/c/memory.usage_in_bytes", "400\n");
        put("memory/c/memory.stat", "inactive_file 7\ntotal_inactive_file 100\n");
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        put("memory/memory.usage_in_bytes", "1\n");
        let left = |list: &str| -> Vec<u64> { groups(root.path(), list).iter().map(|a| a.bytes).collect() };
        assert_eq!(left("0::/a/b\n"), [500]);
        assert_eq!(left("4:cpu,cpuacct:/c\n7:memory:/c\n"), [600]);
        // A container sees its own group at the top and the host's path in the list.
        put("memory.max", "300\n");
        put("memory.current", "100\n");
        assert_eq!(left("0::/docker/0123\n"), [200]);
        assert_eq!(left("nonsense"), Vec::<u64>::new());
    }

    #[test]
    fn a_limit_of_addresses_says_what_is_set_aside_and_what_would_do() {
        let cases: [(u64, u64, usize, u64, &str); 3] = [
            // Kilobytes of the limit, MiB in use, threads: bytes left, and the limit that leaves 100 MiB.
            (300_000, 40, 4, 0, "ulimit -v 413696 would do"),
            (
                600_000,
                40,
                4,
                600_000 * 1024 - (304 << 20),
                "ulimit -v 413696 would do",
            ),
            (300_000, 40, 0, 300_000 * 1024 - (40 << 20), "ulimit -v 143360 would do"),
        ];
        for (limit, used, threads, left, remedy) in cases {
            let found = left_by_ulimit(limit * 1024, used << 20, threads);
            assert_eq!(found.bytes, left);
            assert_eq!(found.remedy(100 << 20).as_deref(), Some(remedy));
            assert_eq!(
                found.by.contains("set aside for 4 threads"),
                threads == 4,
                "{}",
                found.by
            );
        }
    }

    #[test]
    fn this_machine_says_something() {
        assert!(available(1).is_some_and(|a| a.bytes > 0));
    }
}
