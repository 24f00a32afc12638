//! Heat and what it does: temperature in °C, and signs that the clock is held down.

use std::fs;
use std::path::Path;

use crate::platform::sysfs::{read, read_number};

/// Temperature of the hottest zone that names the CPU or SoC, or of the hottest zone at all.
fn temperature(thermal: &Path) -> Option<f64> {
    let mut zones = Vec::new();
    for entry in fs::read_dir(thermal).ok()?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("thermal_zone") {
            continue;
        }
        let Some(milli) = read_number::<i64>(entry.path().join("temp")) else {
            continue;
        };
        let kind = read(entry.path().join("type")).unwrap_or_default().to_lowercase();
        if (-40_000..150_000).contains(&milli) {
            zones.push((["cpu", "soc", "pkg"].iter().any(|name| kind.contains(name)), milli));
        }
    }
    let named = zones.iter().any(|(cpu, _)| *cpu);
    zones
        .iter()
        .filter(|(cpu, _)| *cpu == named)
        .map(|(_, milli)| *milli as f64 / 1000.0)
        .reduce(f64::max)
}

pub fn celsius() -> Option<f64> {
    temperature(Path::new("/sys/class/thermal"))
}

/// Signs that the clock is held down, at one moment. Compare two with [`Throttle::since`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttle {
    /// The Raspberry Pi firmware's word: bits 0-3 now, 16-19 since boot.
    firmware: Option<u32>,
    /// Whether a CPU cooling device of the kernel is active.
    cooling: Option<bool>,
}

impl Throttle {
    pub fn now() -> Throttle {
        Throttle::under(Path::new("/"))
    }

    fn under(root: &Path) -> Throttle {
        let hex = |text: String| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
        let firmware = [
            "sys/devices/platform/soc/soc:firmware",
            "sys/devices/platform/soc@107c000000/soc@107c000000:firmware",
        ]
        .iter()
        .find_map(|dir| read(root.join(dir).join("get_throttled")).and_then(hex))
        .or_else(|| crate::platform::control::vcgencmd_throttled(root).and_then(hex));
        Throttle {
            firmware,
            cooling: cpu_cooling(&root.join("sys/class/thermal")),
        }
    }

    /// Whether the board was held down between `start` and now; `None` where nothing tells.
    pub fn since(self, start: Throttle) -> Option<bool> {
        let firmware = self.firmware.map(|now| {
            let new = now & !start.firmware.unwrap_or(0);
            now & 0xf != 0 || new & 0xf_0000 != 0
        });
        let cooling = self.cooling.map(|now| now || start.cooling == Some(true));
        match (firmware, cooling) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(false) || b.unwrap_or(false)),
        }
    }
}

fn cpu_cooling(thermal: &Path) -> Option<bool> {
    let mut found = None;
    for entry in fs::read_dir(thermal).ok()?.flatten() {
        let kind = read(entry.path().join("type")).unwrap_or_default().to_lowercase();
        if entry.file_name().to_string_lossy().starts_with("cooling_device") && kind.contains("cpu") {
            let active = read_number::<u64>(entry.path().join("cur_state")).is_some_and(|state| state > 0);
            found = Some(found.unwrap_or(false) || active);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::sysfs::fake::{MALFORMED, root_of, vcgencmd};

    #[test]
    fn the_cpu_zone_wins_over_hotter_others() {
        let root = std::env::temp_dir().join(format!("thimble-thermal-{}", std::process::id()));
        for (zone, kind, temp) in [
            ("thermal_zone0", "cpu-thermal", "48312"),
            ("thermal_zone1", "pmic", "60000"),
            ("thermal_zone2", "cpu", "-274000"),
        ] {
            fs::create_dir_all(root.join(zone)).unwrap();
            fs::write(root.join(zone).join("type"), kind).unwrap();
            fs::write(root.join(zone).join("temp"), temp).unwrap();
        }
        assert_eq!(temperature(&root), Some(48.312));
        assert_eq!(cpu_cooling(&root), None);
        fs::create_dir_all(root.join("cooling_device0")).unwrap();
        fs::write(root.join("cooling_device0/type"), "cpufreq-cpu0").unwrap();
        fs::write(root.join("cooling_device0/cur_state"), "2").unwrap();
        assert_eq!(cpu_cooling(&root), Some(true));
        assert_eq!(temperature(Path::new("/nonexistent")), None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn throttling_counts_only_what_is_new_or_now() {
        let at = |firmware, cooling| Throttle { firmware, cooling };
        let cases = [
            (at(None, None), at(None, None), None),
            (at(Some(0), None), at(Some(0), None), Some(false)),
            // It was throttled before the bench: not this bench's doing.
            (at(Some(0x5_0000), None), at(Some(0x5_0000), None), Some(false)),
            (at(Some(0), None), at(Some(0x4_0000), None), Some(true)),
            (at(Some(0), None), at(Some(0x2), None), Some(true)),
            (at(None, Some(false)), at(None, Some(true)), Some(true)),
            (at(None, Some(false)), at(None, Some(false)), Some(false)),
        ];
        for (start, end, expected) in cases {
            assert_eq!(end.since(start), expected, "{start:?} {end:?}");
        }
    }

    #[test]
    fn malformed_files_tell_nothing_and_stop_nothing() {
        for (at, bytes) in MALFORMED.into_iter().enumerate() {
            let root = root_of(&format!("heat{at}"), bytes);
            vcgencmd(&root, "echo VCHI initialization failed");
            let throttle = Throttle::under(&root);
            assert_eq!(throttle.firmware, None, "{bytes:?}");
            assert_eq!(throttle.since(Throttle::default()), None);
            assert_eq!(
                temperature(&root.join("sys/class/thermal")),
                if bytes == b"-1\n" { Some(-0.001) } else { None }
            );
            fs::remove_dir_all(root).unwrap();
        }
        assert_eq!(Throttle::under(Path::new("/nonexistent")), Throttle::default());
    }

    #[test]
    fn the_firmware_is_asked_by_file_or_tool_and_a_tool_that_hangs_is_left() {
        let root = root_of("vc", b"nonsense");
        vcgencmd(&root, "echo throttled=0x50005");
        assert_eq!(Throttle::under(&root).firmware, Some(0x5_0005));
        fs::write(root.join("sys/devices/platform/soc/soc:firmware/get_throttled"), "8\n").unwrap();
        assert_eq!(Throttle::under(&root).firmware, Some(8));
        fs::write(root.join("sys/devices/platform/soc/soc:firmware/get_throttled"), "x").unwrap();
        vcgencmd(&root, "exec sleep 60");
        let begin = std::time::Instant::now();
        assert_eq!(Throttle::under(&root).firmware, None);
        assert!(begin.elapsed().as_secs() < 20);
        fs::remove_dir_all(root).unwrap();
    }
}
