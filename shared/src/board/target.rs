//! A target profile: what is known of one board, as `targets/*.toml` say it. Every figure carries where it was read
//! and how far it can be trusted, so a verdict can say what it rests on. Sizes are bytes.

use super::architecture::Architecture;
use crate::terminal::acts;
use serde::{Deserialize, Serialize};

/// One board, as its file in `targets/` describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// How the command line calls it; the file's name without `.toml`.
    pub name: String,
    /// The board's name as its maker writes it, e.g. "Raspberry Pi 4 Model B".
    pub board: String,
    /// System on chip, e.g. "BCM2711".
    pub soc: String,
    /// The core's design, e.g. "Cortex-A72".
    pub cpu: String,
    /// The part number Linux prints in /proc/cpuinfo, e.g. "0xd08": how a report is matched with a target.
    pub cpu_part: Figure<String>,
    /// Cores of the CPU.
    pub cores: Figure<u32>,
    /// Clock of the cores, MHz.
    pub clock_mhz: Figure<u32>,
    /// Linux's hwcap names that matter to the kernels.
    pub features: Figure<Vec<String>>,
    /// Level-1 data cache of one core, bytes.
    pub l1d: Figure<u64>,
    /// Level-2 cache, bytes: one core's own, or the one they share.
    pub l2: Figure<u64>,
    /// Level-3 cache, bytes; `None` where the chip has none.
    #[serde(default)]
    pub l3: Option<Figure<u64>>,
    /// RAM on the board; of a board sold in several sizes the smallest.
    pub ram_total: Figure<u64>,
    /// The other sizes the board is sold in.
    #[serde(default)]
    pub ram_variants: Option<Figure<Vec<u64>>>,
    /// What Linux sees of it (`MemTotal`), after the firmware's share.
    #[serde(default)]
    pub ram_seen: Option<Figure<u64>>,
    /// What an idle system leaves (`MemAvailable`).
    #[serde(default)]
    pub ram_available: Option<Figure<u64>>,
    /// Page size of the usual kernel, bytes.
    pub page_size: Figure<u64>,
    /// Bytes per second of DRAM.
    #[serde(default)]
    pub bandwidth: Option<Figure<u64>>,
    /// Peak of one core in f32, 10⁹ operations per second.
    #[serde(default)]
    pub f32_gflops_per_core: Option<Figure<f64>>,
    /// Triple that programs for the board's system are built for: the same board may run a system of 64 or of 32 bits.
    pub rustc_target: String,
    /// The nearest CPU qemu offers.
    pub qemu_cpu: String,
    /// What else a user of the board should know, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A value, where it was read and how far it can be trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure<T> {
    /// In the unit that the field of [`Target`] states.
    pub value: T,
    /// Where the value was read, for people.
    pub source: String,
    /// Whether anybody checked the source.
    pub confidence: Confidence,
}

/// How far a [`Figure`] can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Read in a source: a device tree, a data sheet, a published measurement.
    Verified,
    /// Common knowledge nobody here checked: the device's own report wins.
    Unverified,
}

impl Target {
    /// Every size of RAM the board is sold with, smallest first.
    pub fn ram_sizes(&self) -> Vec<u64> {
        let others = self.ram_variants.iter().flat_map(|f| f.value.iter().copied());
        let mut sizes: Vec<u64> = others.chain([self.ram_total.value]).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// What the board's system runs, as its triple says; a triple for anything else is a problem of the profile.
    pub fn architecture(&self) -> Architecture {
        Architecture::of_triple(&self.rustc_target).unwrap_or(Architecture::Aarch64)
    }

    /// What is wrong with the profile itself; empty when nothing is.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |holds: bool, what: &str| {
            if !holds {
                found.push(format!("{}: {what}", self.name));
            }
        };
        check(!self.name.is_empty(), "name is empty");
        check(
            self.name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            "name is not lower-case letters, digits and dashes",
        );
        // Sources and notes are printed too: no text of the file may speak to a terminal.
        let plain = serde_json::to_value(self).is_ok_and(|value| is_plain(&value));
        check(
            plain,
            "a text holds a control character or one that changes the text direction",
        );
        check(
            !self.qemu_cpu.is_empty() && !self.qemu_cpu.contains([',', ' ']),
            "qemu_cpu is not the name of a CPU",
        );
        check(
            Architecture::of_triple(&self.rustc_target).is_some(),
            "rustc_target is neither for aarch64 nor for armv7",
        );
        check(self.clock_mhz.value > 0, "clock_mhz is 0");
        check(self.bandwidth.as_ref().is_none_or(|f| f.value > 0), "bandwidth is 0");
        check(
            self.f32_gflops_per_core
                .as_ref()
                .is_none_or(|f| f.value.is_finite() && f.value > 0.0),
            "f32_gflops_per_core is not a number above 0",
        );
        check(self.cores.value > 0, "cores is 0");
        check(self.cores.value <= MOST_CORES, "cores is more than 512");
        check(self.ram_total.value > 0, "ram_total is 0");
        check(
            self.ram_sizes().first() == Some(&self.ram_total.value),
            "ram_variants has a size below ram_total, which is the smallest",
        );
        check(
            self.page_size.value.is_power_of_two(),
            "page_size is not a power of two",
        );
        let seen = self.ram_seen.as_ref().map_or(self.ram_total.value, |f| f.value);
        check(seen <= self.ram_total.value, "ram_seen is more than ram_total");
        check(
            self.ram_available.as_ref().is_none_or(|f| f.value <= seen),
            "ram_available is more than Linux sees",
        );
        check(
            self.cpu_part
                .value
                .strip_prefix("0x")
                .is_some_and(|d| u32::from_str_radix(d, 16).is_ok()),
            "cpu_part is not a hexadecimal number",
        );
        found
    }
}

/// More than any system on a chip has.
const MOST_CORES: u32 = 512;

fn is_plain(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => !text.chars().any(acts),
        serde_json::Value::Array(values) => values.iter().all(is_plain),
        serde_json::Value::Object(fields) => fields.values().all(is_plain),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file in targets/ parses, is free of problems and is named as it calls itself.
    #[test]
    fn the_targets_of_this_repository_are_sound() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../targets");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let target: Target = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(target.problems(), Vec::<String>::new());
            assert_eq!(Some(target.name.as_str()), path.file_stem().and_then(|s| s.to_str()));
            names.push(target.name);
        }
        assert!(names.contains(&"pi-zero-2w".to_string()));
        let of = |name: &str| {
            let text = std::fs::read_to_string(dir.join(name).with_extension("toml")).unwrap();
            toml::from_str::<Target>(&text).unwrap().architecture()
        };
        assert_eq!(of("pi-zero-2w"), Architecture::Aarch64);
        assert_eq!(
            (of("pi-zero-2w-32bit"), of("pi-2b")),
            (Architecture::Armv7, Architecture::Armv7)
        );
    }

    #[test]
    fn problems_are_named() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../targets/pi-zero-2w.toml")).unwrap();
        let good: Target = toml::from_str(&text).unwrap();
        type Spoil = fn(&mut Target);
        let cases: [(Spoil, &str); 14] = [
            (|t| t.board = "a\u{1b}[31m".into(), "control character"),
            (|t| t.l2.source = "a\u{7}".into(), "control character"),
            (|t| t.features.value.push("a\nb".into()), "control character"),
            (|t| t.cores.value = 100_000, "cores is more than"),
            (
                |t| {
                    t.ram_variants = Some(Figure {
                        value: vec![1],
                        source: String::new(),
                        confidence: Confidence::Unverified,
                    })
                },
                "ram_variants has a size below ram_total",
            ),
            (|t| t.qemu_cpu = "max,x=on".into(), "qemu_cpu"),
            (
                |t| t.rustc_target = "arm-unknown-linux-gnueabihf".into(),
                "rustc_target",
            ),
            (|t| t.clock_mhz.value = 0, "clock_mhz is 0"),
            (
                |t| t.f32_gflops_per_core.iter_mut().for_each(|f| f.value = f64::NAN),
                "f32_gflops_per_core is not a number",
            ),
            (
                |t| t.f32_gflops_per_core.iter_mut().for_each(|f| f.value = -1.0),
                "f32_gflops_per_core is not a number",
            ),
            (|t| t.page_size.value = 5000, "page_size is not a power of two"),
            (|t| t.cores.value = 0, "cores is 0"),
            (
                |t| t.cpu_part.value = "d08".into(),
                "cpu_part is not a hexadecimal number",
            ),
            (|t| t.ram_total.value = 1, "ram_seen is more than ram_total"),
        ];
        for (spoil, message) in cases {
            let mut target = good.clone();
            spoil(&mut target);
            let problems = target.problems();
            assert!(problems.iter().any(|p| p.contains(message)), "{message}: {problems:?}");
        }
        assert!(toml::from_str::<Target>(&text.replace("cores =", "corse =")).is_err());
    }

    #[test]
    fn a_board_sold_in_several_sizes_has_them_all() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../targets/pi-4.toml")).unwrap();
        let sizes = toml::from_str::<Target>(&text).unwrap().ram_sizes();
        assert_eq!(sizes, [1 << 30, 2 << 30, 4 << 30, 8 << 30]);
    }
}
