//! Asks a running board what it is, with a script of plain `sh`, and makes a target of the answer. Nothing in the answer is
//! trusted: what cannot be is an error, and texts are made printable.

use super::cores::{CORES, Core};
use super::{defaults, unverified};
use crate::boards::ssh::link::{Link, LinkError};
use crate::boards::system;
use thimble_shared::board::target::Target;
use thimble_shared::terminal::printable;
use toml::{Table, Value};

/// What a board is asked beside its system. Each line begins with a word that [`of_board`] knows; what a board does not tell is left out.
const SCRIPT: &str = "\
echo model $(tr -d '\\000' < /proc/device-tree/model 2>/dev/null)
echo compatible $(tr '\\000' '\\n' < /proc/device-tree/compatible 2>/dev/null | tail -n 1)
echo page $(getconf PAGESIZE 2>/dev/null)
echo cores $(grep -c '^processor' /proc/cpuinfo)
sed -n 's/^CPU part[^:]*: */part /p' /proc/cpuinfo
echo features $(sed -n 's/^Features[^:]*://p' /proc/cpuinfo | head -n 1)
sed -n 's/^MemTotal: *\\([0-9]*\\) kB/total \\1/p;s/^MemAvailable: *\\([0-9]*\\) kB/available \\1/p' /proc/meminfo
for c in /sys/devices/system/cpu/cpu0/cache/index*; do echo cache $(cat $c/level $c/type $c/size 2>/dev/null); done
cat /sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq 2>/dev/null | sed 's/^/khz /'
true";

fn script() -> String {
    format!("{}{SCRIPT}", system::SCRIPT)
}

/// Asks a running board.
///
/// # Errors
/// Where ssh does not get there, or the board does not tell what is needed.
pub fn probe(link: &Link) -> Result<Target, ProbeError> {
    let told = link.run(&script())?;
    match told.code {
        0 => of_board(&told.stdout).map_err(ProbeError::Told),
        code => Err(ProbeError::Told(format!("sh ended with {code}: {}", told.stderr))),
    }
}

/// Why a running board could not be described.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No script ran there.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// What the board said is no description.
    #[error("the board: {0}")]
    Told(String),
}

/// Sizes of RAM that boards are sold with, in MiB.
const SOLD: [u64; 14] = [
    128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 32768, 65536,
];

/// What a board said to [`SCRIPT`], a key and a value a line.
struct Answer<'a>(&'a str);

impl<'a> Answer<'a> {
    /// Keys and values in the order they were said.
    fn lines(&self) -> impl DoubleEndedIterator<Item = (&'a str, &'a str)> + use<'a> {
        self.0.lines().filter_map(|line| line.trim().split_once(' '))
    }

    /// The first value of a key.
    fn said(&self, key: &str) -> Option<&'a str> {
        self.lines().find(|(k, _)| *k == key).map(|(_, value)| value.trim())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.said(key).and_then(|value| value.parse::<u64>().ok())
    }

    /// A number of kilobytes, in bytes.
    fn bytes(&self, key: &str) -> Option<u64> {
        self.number(key).and_then(|kilobytes| kilobytes.checked_mul(1024))
    }

    /// The clock and what follows of it.
    fn speed(&self, core: Option<&Core>) -> Vec<(&'static str, Value)> {
        let Some(khz) = self
            .lines()
            .filter(|(key, _)| *key == "khz")
            .filter_map(|(_, v)| v.trim().parse::<u64>().ok())
            .max()
        else {
            return vec![];
        };
        // Operations a cycle: cores with larger caches have two units of 128 bits.
        let wide = if core.is_some_and(|core| core.l1d > 32 << 10) {
            16.0
        } else {
            8.0
        };
        vec![
            ("clock_mhz", verified(whole(khz / 1000), "cpufreq/cpuinfo_max_freq")),
            (
                "f32_gflops_per_core",
                unverified(
                    Value::Float(khz as f64 / 1e6 * wide),
                    "computed from the clock, not measured",
                ),
            ),
        ]
    }

    /// The features that matter to kernels.
    fn features(&self) -> Value {
        let features: Vec<&str> = self.said("features").unwrap_or_default().split_whitespace().collect();
        let matter = ["asimd", "neon", "vfpv4", "asimdhp", "asimddp", "i8mm"]
            .into_iter()
            .filter(|f| features.contains(f));
        Value::Array(matter.map(Value::from).collect())
    }

    /// The size of each level of data cache.
    fn caches(&self) -> Vec<(&'static str, Value)> {
        let mut sizes = Vec::new();
        for (level, name) in [("1", "l1d"), ("2", "l2"), ("3", "l3")] {
            let caches = self
                .lines()
                .filter(|(key, _)| *key == "cache")
                .map(|(_, v)| v.split_whitespace().collect::<Vec<_>>());
            let mut found = caches.filter_map(|words| match words.as_slice() {
                [at, kind, size] if *at == level && *kind != "Instruction" => {
                    size.strip_suffix('K')?.parse::<u64>().ok()
                }
                _ => None,
            });
            if let Some(kilobytes) = found.next_back().filter(|&k| k > 0 && k < 1 << 30) {
                sizes.push((
                    name,
                    verified(whole(kilobytes << 10), "sys/devices/system/cpu/cpu0/cache"),
                ));
            }
        }
        sizes
    }
}

/// The RAM a board is sold with whose kernel sees `seen` bytes.
fn sold(seen: u64) -> u64 {
    SOLD.iter()
        .map(|mib| mib << 20)
        .find(|&sold| sold >= seen)
        .unwrap_or(seen)
}

/// A figure that was read on the board, from `place`.
fn verified(value: Value, place: &str) -> Value {
    let mut figure = unverified(value, &format!("read on the board, {place}"));
    if let Value::Table(fields) = &mut figure {
        fields.insert("confidence".into(), Value::from("verified"));
    }
    figure
}

/// A number as TOML writes it.
fn whole(n: u64) -> Value {
    Value::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

/// A target of what a board said to [`SCRIPT`].
///
/// # Errors
/// Where no program for boards runs on it, or it tells neither its cores nor its memory.
pub fn of_board(text: &str) -> Result<Target, String> {
    let answer = Answer(text);
    let system = system::told(text).map_err(|other| format!("it is {}", printable(&other.to_string())))?;
    let seen = answer
        .bytes("total")
        .ok_or("it does not tell its memory (/proc/meminfo)")?;
    let cores = answer
        .number("cores")
        .filter(|&n| n > 0)
        .ok_or("it does not tell its cores (/proc/cpuinfo)")?;
    // Of a board with two kinds of cores the last listed, which are the fast ones.
    let part = answer
        .lines()
        .filter(|(key, _)| *key == "part")
        .map(|(_, part)| part.trim())
        .next_back();
    let core = part.and_then(|part| CORES.iter().find(|core| core.part == part));
    let model = answer
        .said("model")
        .filter(|model| !model.is_empty())
        .unwrap_or("a board");
    let soc = answer
        .said("compatible")
        .and_then(|text| text.rsplit(',').next())
        .unwrap_or("unknown");
    let mut table = Table::new();
    let mut put = |name: &str, value: Value| drop(table.insert(name.to_string(), value));
    put("name", Value::from(slug(model)));
    put("board", Value::from(printable(model)));
    put("soc", Value::from(printable(soc)));
    put("rustc_target", Value::from(system.programs.triple()));
    put(
        "cpu",
        Value::from(core.map_or_else(|| format!("part {}", part.unwrap_or("unknown")), |c| c.name.to_string())),
    );
    put(
        "cpu_part",
        verified(Value::from(part.unwrap_or("0x0")), "/proc/cpuinfo"),
    );
    put("cores", verified(whole(cores), "/proc/cpuinfo"));
    for (name, value) in answer.speed(core) {
        put(name, value);
    }
    put("features", verified(answer.features(), "/proc/cpuinfo"));
    for (name, value) in answer.caches() {
        put(name, value);
    }
    put(
        "ram_total",
        unverified(whole(sold(seen)), "MemTotal, rounded up to a size boards are sold with"),
    );
    put("ram_seen", verified(whole(seen), "/proc/meminfo, MemTotal"));
    if let Some(available) = answer.bytes("available").filter(|&available| available <= seen) {
        put(
            "ram_available",
            verified(whole(available), "/proc/meminfo, MemAvailable"),
        );
    }
    if let Some(page) = answer.number("page") {
        put("page_size", verified(whole(page), "getconf PAGESIZE"));
    }
    defaults(&mut table, core);
    let target: Target = Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| e.to_string())?;
    match target.problems() {
        problems if problems.is_empty() => Ok(target),
        problems => Err(problems.join("; ")),
    }
}

/// A name of lower-case letters, digits and dashes.
fn slug(model: &str) -> String {
    let model = model.split(" Rev ").next().unwrap_or(model);
    let mut name = String::new();
    for c in model.to_lowercase().chars().take(48) {
        match c.is_ascii_alphanumeric() {
            true => name.push(c),
            false if !name.ends_with('-') && !name.is_empty() => name.push('-'),
            false => {}
        }
    }
    match name.trim_end_matches('-') {
        "" => "board".into(),
        name => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read, write};
    use super::*;
    use thimble_shared::board::architecture::Architecture;

    const PI: &str = "arch aarch64\nmodel Raspberry Pi 4 Model B Rev 1.4\ncompatible brcm,bcm2711\npage 4096\ncores 4\n\
                      part 0xd08\npart 0xd08\npart 0xd08\npart 0xd08\nfeatures fp asimd evtstrm crc32 cpuid\n\
                      total 3884360\navailable 3500000\ncache 1 Data 32K\ncache 1 Instruction 48K\ncache 2 Unified 1024K\n\
                      khz 1800000\nkhz 1800000\n";

    #[test]
    fn a_board_that_is_asked_becomes_a_file_that_reads_back() {
        let target = of_board(PI).unwrap();
        assert_eq!(
            (target.name.as_str(), target.cpu.as_str()),
            ("raspberry-pi-4-model-b", "Cortex-A72")
        );
        assert_eq!(
            (target.ram_total.value, target.l2.value, target.clock_mhz.value),
            (4 << 30, 1 << 20, 1800)
        );
        assert_eq!(target.features.value, ["asimd"]);
        assert_eq!(read(&write(&target)).unwrap(), target);
        for built_in in crate::boards::profiles::all().unwrap() {
            assert_eq!(read(&write(&built_in)).unwrap(), built_in);
        }
        // Raspberry Pi OS of 32 bits on that board.
        let narrow = of_board(&PI.replace("arch aarch64\n", "arch aarch64\nbits 32\n")).unwrap();
        assert_eq!(
            (narrow.architecture(), narrow.qemu_cpu.as_str()),
            (Architecture::Armv7, "cortex-a7")
        );
        assert_eq!(read(&write(&narrow)).unwrap(), narrow);
        let cases = [
            ("arch armv6l\n", "it is armv6l, an ARM before version 7"),
            ("", "of an unknown kind"),
            ("arch aarch64\ncores 4\n", "does not tell its memory"),
            ("arch aarch64\ntotal 1000\n", "does not tell its cores"),
        ];
        for (text, want) in cases {
            assert!(of_board(text).unwrap_err().contains(want), "{text}");
        }
        // A board may say anything.
        let odd = PI.replace("Raspberry Pi 4 Model B Rev 1.4", "\u{1b}[31m\"x\" \\ ");
        let target = of_board(&odd).unwrap();
        assert_eq!(read(&write(&target)).unwrap(), target);
        for at in 0..PI.len() {
            let _ = of_board(&PI[at..]);
            let _ = of_board(&PI[..at]);
        }
    }

    #[test]
    fn the_script_runs_in_sh() {
        let done = std::process::Command::new("sh")
            .args(["-c", &script()])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success() && text.starts_with("arch ") && text.contains("\ntotal "),
            "{text}"
        );
    }
}
