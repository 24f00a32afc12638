//! Small files of /proc and /sys as text, words and numbers; `None` for what is not there or is not what it should be.

use std::fs;
use std::path::Path;

/// A file's text without blanks, line ends and NULs at both ends; `None` where it cannot be read.
pub fn read(path: impl AsRef<Path>) -> Option<String> {
    // Device-tree files end in NUL, and a broken one may hold anything.
    let bytes = fs::read(path).ok()?;
    Some(
        String::from_utf8_lossy(&bytes)
            .trim_matches(['\0', '\n', ' ', '\t'])
            .to_string(),
    )
}

/// One word that a kernel would write: a file that is empty or holds anything else tells nothing.
pub fn read_word(path: impl AsRef<Path>) -> Option<String> {
    read(path).filter(|w| !w.is_empty() && w.len() <= 64 && w.bytes().all(|b| b.is_ascii_graphic()))
}

/// A file's text as one number; `None` where it is none.
pub fn read_number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    read(path)?.parse().ok()
}

/// The value of a "Name:   123 kB" line, in bytes.
pub fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
pub(crate) mod fake {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// What a file of a board may hold that should hold something else.
    pub const MALFORMED: [&[u8]; 6] = [
        b"",
        b"\0\0\0\n",
        b"\xff\xfe\x80 \x1b[31m\n",
        b"<unknown>\nsecond line\n",
        b"-1\n",
        b"99999999999999999999999999\n",
    ];

    /// A root where every file that a board may lack is there and holds `bytes`, a vcgencmd that says them among them.
    pub fn root_of(name: &str, bytes: &[u8]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("thimble-root-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for path in [
            "proc/cpuinfo",
            "proc/meminfo",
            "proc/device-tree/model",
            "proc/self/cgroup",
            "proc/sys/kernel/osrelease",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
            "sys/devices/system/cpu/cpu0/regs/identification/midr_el1",
            "sys/devices/platform/soc/soc:firmware/get_throttled",
            "sys/class/thermal/thermal_zone0/temp",
            "sys/class/thermal/thermal_zone0/type",
            "sys/class/thermal/cooling_device0/type",
            "sys/class/thermal/cooling_device0/cur_state",
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        root
    }

    /// A vcgencmd below `root` that does as `script` says.
    pub fn vcgencmd(root: &Path, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let tool = root.join("usr/bin/vcgencmd");
        fs::create_dir_all(tool.parent().unwrap()).unwrap();
        fs::write(&tool, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflowing_or_foreign_line_is_no_figure() {
        assert_eq!(kilobytes("Rss:   12 kB", "Rss"), Some(12 * 1024));
        assert_eq!(kilobytes("Rss: 99999999999999999999 kB", "Rss"), None);
        assert_eq!(kilobytes("Rss: 5 MB", "Rss"), None);
    }
}
