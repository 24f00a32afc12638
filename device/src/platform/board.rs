//! What the operating system knows of this board: the CPU and its features, RAM and its limits, clock and governor. Read as
//! text from /proc and /sys; bytes and MHz come out, and `None` where a board does not say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use thimble_shared::board::report::BoardReport;

use crate::platform::sysfs::{kilobytes, read, read_number, read_word};

/// Kilohertz in a file, as MHz. Nothing here runs below 1 MHz or above 100 GHz.
fn megahertz(path: impl AsRef<Path>) -> Option<u32> {
    read_number::<u32>(path)
        .map(|khz| khz / 1000)
        .filter(|mhz| (1..100_000).contains(mhz))
}

/// What a processor says of itself in /proc/cpuinfo.
#[derive(Debug, Default, PartialEq, Eq)]
struct CpuInfo {
    part: Option<String>,
    features: Vec<String>,
    logical: u32,
    /// Distinct (package, core) pairs; 0 where not said, as on ARM.
    physical: u32,
    mhz: Option<u32>,
}

/// x86 lists over a hundred flags: these are the ones kernels are chosen by.
const X86_FEATURES: [&str; 8] = [
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
];

fn parse_cpuinfo(text: &str) -> CpuInfo {
    let mut info = CpuInfo::default();
    let (mut parts, mut cores) = (Vec::<String>::new(), BTreeSet::new());
    let mut package = String::new();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match name.trim() {
            "processor" if value.parse::<u32>().is_ok() => info.logical += 1,
            "CPU part" if !parts.iter().any(|p| p == value) => parts.push(value.to_string()),
            "Features" if info.features.is_empty() => {
                info.features = value.split_whitespace().map(str::to_string).collect();
            }
            "flags" if info.features.is_empty() => {
                let known = value.split_whitespace().filter(|f| X86_FEATURES.contains(f));
                info.features = known.map(str::to_string).collect();
            }
            "physical id" => package = value.to_string(),
            "core id" => {
                cores.insert((package.clone(), value.to_string()));
            }
            "cpu MHz" if info.mhz.is_none() => info.mhz = value.parse::<f64>().ok().map(|m| m.round() as u32),
            _ => {}
        }
    }
    info.part = (!parts.is_empty()).then(|| parts.join("+"));
    info.physical = cores.len() as u32;
    info
}

/// Hardware capabilities the kernel hands every program (auxiliary vector), by bit: (word, bit, name). Unlike
/// /proc/cpuinfo they are right under an emulator too.
#[cfg(target_arch = "aarch64")]
const HWCAPS: [(usize, u32, &str); 12] = [
    (0, 0, "fp"),
    (0, 1, "asimd"),
    (0, 7, "crc32"),
    (0, 8, "atomics"),
    (0, 9, "fphp"),
    (0, 10, "asimdhp"),
    (0, 12, "asimdrdm"),
    (0, 20, "asimddp"),
    (0, 22, "sve"),
    (1, 1, "sve2"),
    (1, 13, "i8mm"),
    (1, 14, "bf16"),
];

/// The same of a 32-bit program, by the names its kernel gives them.
#[cfg(target_arch = "arm")]
const HWCAPS: [(usize, u32, &str); 12] = [
    (0, 6, "vfp"),
    (0, 12, "neon"),
    (0, 13, "vfpv3"),
    (0, 14, "vfpv3d16"),
    (0, 16, "vfpv4"),
    (0, 17, "idiva"),
    (0, 19, "vfpd32"),
    (0, 20, "lpae"),
    (0, 23, "asimdhp"),
    (0, 24, "asimddp"),
    (0, 27, "i8mm"),
    (1, 4, "crc32"),
];

const AT_PAGESZ: usize = 6;
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
const AT_HWCAP: [usize; 2] = [16, 26];

/// The entry of this process's auxiliary vector under `key`. Both are as long as an address.
fn auxiliary(key: usize) -> Option<usize> {
    let bytes = fs::read("/proc/self/auxv").ok()?;
    let (words, _) = bytes.as_chunks::<{ size_of::<usize>() }>();
    let (pairs, _) = words.as_chunks::<2>();
    let pair = pairs.iter().find(|[found, _]| usize::from_ne_bytes(*found) == key)?;
    Some(usize::from_ne_bytes(pair[1]))
}

#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
fn features(_: &CpuInfo) -> Vec<String> {
    let words = AT_HWCAP.map(|key| auxiliary(key).unwrap_or(0));
    HWCAPS
        .iter()
        .filter(|(word, bit, _)| words[*word] >> bit & 1 == 1)
        .map(|(_, _, name)| name.to_string())
        .collect()
}

#[cfg(not(any(target_arch = "aarch64", target_arch = "arm")))]
fn features(info: &CpuInfo) -> Vec<String> {
    info.features.clone()
}

/// The part number in a MIDR register's value, e.g. 0x410fd083 → "0xd08".
fn part_of_midr(text: &str) -> Option<String> {
    let midr = u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()?;
    Some(format!("0x{:03x}", midr >> 4 & 0xfff))
}

/// Whether the board is software, and which.
pub fn emulator() -> Option<&'static str> {
    use std::sync::OnceLock;
    static FOUND: OnceLock<Option<&'static str>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let info = read("/proc/cpuinfo").unwrap_or_default();
        let arch = read("/proc/sys/kernel/arch");
        if cfg!(any(target_arch = "aarch64", target_arch = "arm")) && is_foreign_kernel(&info, arch.as_deref()) {
            return Some("qemu-user");
        }
        let compatible = read("/proc/device-tree/compatible").unwrap_or_default();
        compatible.contains("linux,dummy-virt").then_some("qemu-system")
    })
}

/// Whether a kernel of another architecture runs below this program for Arm: a user-mode emulator hands through the host's
/// /proc/cpuinfo, or at least its name. A 64-bit Arm kernel runs 32-bit programs by itself.
fn is_foreign_kernel(cpuinfo: &str, arch: Option<&str>) -> bool {
    let own = |arch: &str| arch == "aarch64" || arch.starts_with("arm");
    arch.is_some_and(|arch| !own(arch)) || cpuinfo.lines().any(|l| l.starts_with("vendor_id"))
}

/// The tightest memory limit over this process's control group and the ones above it. `membership` is the text of
/// /proc/self/cgroup, `root` where the hierarchies are mounted.
fn cgroup_limit(membership: &str, root: &Path) -> Option<u64> {
    let mut files = Vec::<PathBuf>::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (mount, file) = if controllers.is_empty() {
            (root.to_path_buf(), "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        // A container may see its group's path from outside but mount only its own part: the root covers that.
        let group = Path::new(group.trim_start_matches('/'));
        if group.components().all(|c| matches!(c, std::path::Component::Normal(_))) {
            files.extend(group.ancestors().map(|g| mount.join(g).join(file)));
        } else {
            files.push(mount.join(file));
        }
    }
    // cgroup v1 writes "no limit" as the largest multiple of the page size.
    const UNLIMITED: u64 = 1 << 60;
    files
        .iter()
        .filter_map(read_number::<u64>)
        .filter(|&limit| limit < UNLIMITED)
        .min()
}

/// Cores to compute on when nobody says: physical ones, as far as this process may use them.
pub fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let physical = parse_cpuinfo(&read("/proc/cpuinfo").unwrap_or_default()).physical as usize;
    if physical == 0 { allowed } else { allowed.min(physical) }
}

/// Everything the report says of the board, as of now.
pub fn board() -> BoardReport {
    board_under(Path::new("/"))
}

/// `root` is "/" but for tests. No file needs to be there, and none is trusted to hold what it should.
fn board_under(root: &Path) -> BoardReport {
    let info = parse_cpuinfo(&read(root.join("proc/cpuinfo")).unwrap_or_default());
    let meminfo = read(root.join("proc/meminfo")).unwrap_or_default();
    let cpu = root.join("sys/devices/system/cpu/cpu0");
    let midr = || part_of_midr(&read(cpu.join("regs/identification/midr_el1"))?);
    let text = |path: &str| read(root.join(path)).filter(|text| !text.is_empty());
    BoardReport {
        model: text("proc/device-tree/model").or_else(|| text("sys/firmware/devicetree/base/model")),
        cpu_part: info.part.clone().or_else(midr),
        features: features(&info),
        cores: (info.logical > 0).then_some(info.logical).or_else(|| {
            std::thread::available_parallelism()
                .ok()
                .and_then(|n| u32::try_from(n.get()).ok())
        }),
        mem_total: kilobytes(&meminfo, "MemTotal").filter(|total| *total > 0),
        mem_available: kilobytes(&meminfo, "MemAvailable"),
        cgroup_limit: text("proc/self/cgroup").and_then(|text| cgroup_limit(&text, &root.join("sys/fs/cgroup"))),
        page_size: auxiliary(AT_PAGESZ).map(|bytes| bytes as u64),
        kernel: text("proc/sys/kernel/osrelease"),
        governor: read_word(cpu.join("cpufreq/scaling_governor")),
        mhz: megahertz(cpu.join("cpufreq/scaling_cur_freq")).or(info.mhz),
        mhz_max: megahertz(cpu.join("cpufreq/cpuinfo_max_freq")),
        emulated: emulator().map(str::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::sysfs::fake::{MALFORMED, root_of};

    const PI4: &str = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\nprocessor\t: 1\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\nRevision\t: c03111\nSerial\t\t: 1000\nModel\t\t: Raspberry Pi 4 Model B Rev 1.1\n";
    const BIG_LITTLE: &str =
        "processor\t: 0\nCPU part\t: 0xd03\n\nprocessor\t: 1\nCPU part\t: 0xd03\n\nprocessor\t: 2\nCPU part\t: 0xd08\n";
    const X86: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu MHz\t\t: 2600.4\nphysical id\t: 0\ncore id\t\t: 0\nflags\t\t: fpu avx avx2 fma nx\n\nprocessor\t: 1\nvendor_id\t: GenuineIntel\nphysical id\t: 0\ncore id\t\t: 0\nflags\t\t: fpu avx avx2 fma nx\n";

    #[test]
    fn cpuinfo_of_several_machines() {
        let pi = parse_cpuinfo(PI4);
        assert_eq!(
            (pi.part.as_deref(), pi.logical, pi.physical, pi.mhz),
            (Some("0xd08"), 2, 0, None)
        );
        assert_eq!(pi.features, ["fp", "asimd", "evtstrm", "crc32", "cpuid"]);
        assert_eq!(parse_cpuinfo(BIG_LITTLE).part.as_deref(), Some("0xd03+0xd08"));
        let x86 = parse_cpuinfo(X86);
        assert_eq!((x86.part, x86.logical, x86.physical, x86.mhz), (None, 2, 1, Some(2600)));
        assert_eq!(x86.features, ["avx", "avx2", "fma"]);
        assert_eq!(parse_cpuinfo(""), CpuInfo::default());
        assert_eq!(part_of_midr("0x00000000410fd083\n").as_deref(), Some("0xd08"));
        assert_eq!(part_of_midr("nonsense"), None);
    }

    #[test]
    fn an_emulator_is_known_by_the_kernel_below() {
        assert!(is_foreign_kernel(X86, None));
        assert!(is_foreign_kernel(PI4, Some("x86_64")));
        assert!(!is_foreign_kernel(PI4, Some("aarch64")));
        assert!(!is_foreign_kernel(PI4, Some("armv7l")));
        assert!(!is_foreign_kernel(PI4, None));
    }

    #[test]
    fn this_machine_has_memory() {
        if emulator() == Some("qemu-user") {
            return;
        }
        let board = board();
        assert!(
            board.mem_total > board.mem_available && board.page_size >= Some(4096),
            "{board:?}"
        );
        assert!(default_threads() >= 1);
    }

    #[test]
    fn the_tightest_group_limits() {
        let root = std::env::temp_dir().join(format!("thimble-cgroup-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("memory.max", "max\n");
        write("a/memory.max", "1000\n");
        write("a/b/memory.max", "2000\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/c/memory.limit_in_bytes", "500\n");
        let cases = [
            ("0::/a/b\n", Some(1000)),
            ("0::/\n", None),
            ("5:cpu,cpuacct:/c\n4:memory:/c\n0::/\n", Some(500)),
            ("4:memory:/\n", None),
            ("0::/../../a\n", None),
            ("nonsense\n", None),
        ];
        for (membership, expected) in cases {
            assert_eq!(cgroup_limit(membership, &root), expected, "{membership}");
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn malformed_files_tell_nothing_and_stop_nothing() {
        for (at, bytes) in MALFORMED.into_iter().enumerate() {
            let root = root_of(&format!("bad{at}"), bytes);
            let board = board_under(&root);
            assert_eq!(
                (
                    board.mhz,
                    board.mhz_max,
                    board.mem_total,
                    board.cgroup_limit,
                    board.cpu_part
                ),
                (None, None, None, None, None),
                "{bytes:?}"
            );
            if !bytes.first().is_some_and(u8::is_ascii_graphic) {
                assert_eq!(board.governor, None, "{bytes:?}");
            }
            fs::remove_dir_all(root).unwrap();
        }
        let nowhere = board_under(Path::new("/nonexistent"));
        assert_eq!((nowhere.governor, nowhere.mhz, nowhere.model), (None, None, None));
    }
}
