//! Target files: reading one that says little, writing one of a board that was asked, and an empty one to fill in. Of a core whose
//! design is known, what is not said is taken from the design; it is marked unverified, and the device's own report wins.

use crate::boards::ssh::link::{Link, LinkError};
use thimble_shared::board::target::{Confidence, Figure, Target};
use thimble_shared::spelling::nearest;
use thimble_shared::terminal::printable;
use toml::{Table, Value};

/// What is known of a core's design.
struct Core {
    name: &'static str,
    /// As Linux numbers it (arch/arm64/include/asm/cputype.h).
    part: &'static str,
    l1d: u64,
    l2: u64,
    dot_product: bool,
    /// The nearest CPU qemu offers.
    qemu: &'static str,
}

const fn core(
    name: &'static str,
    part: &'static str,
    (l1d, l2): (u64, u64),
    dot_product: bool,
    qemu: &'static str,
) -> Core {
    Core {
        name,
        part,
        l1d: l1d << 10,
        l2: l2 << 10,
        dot_product,
        qemu,
    }
}

/// Designs boards have; caches in KiB, as they are most often built.
const CORES: [Core; 14] = [
    core("Cortex-A35", "0xd04", (32, 256), false, "cortex-a35"),
    core("Cortex-A53", "0xd03", (32, 512), false, "cortex-a53"),
    core("Cortex-A55", "0xd05", (32, 512), true, "cortex-a55"),
    core("Cortex-A57", "0xd07", (32, 2048), false, "cortex-a57"),
    core("Cortex-A72", "0xd08", (32, 1024), false, "cortex-a72"),
    core("Cortex-A73", "0xd09", (32, 1024), false, "cortex-a72"),
    core("Cortex-A75", "0xd0a", (64, 256), true, "cortex-a76"),
    core("Cortex-A76", "0xd0b", (64, 512), true, "cortex-a76"),
    core("Cortex-A77", "0xd0d", (64, 256), true, "cortex-a76"),
    core("Cortex-A78", "0xd41", (64, 512), true, "cortex-a76"),
    core("Cortex-A78AE", "0xd42", (64, 256), true, "cortex-a76"),
    core("Cortex-X1", "0xd44", (64, 1024), true, "cortex-a76"),
    core("Cortex-A510", "0xd46", (32, 256), true, "cortex-a710"),
    core("Cortex-A710", "0xd47", (64, 512), true, "cortex-a710"),
];

/// Fields without which nothing can be said of a board.
const NEEDED: [(&str, &str); 4] = [
    ("name", "how the command line calls it, \"my-board\""),
    ("cpu", "the core's design, \"Cortex-A53\""),
    ("cores", "a number"),
    ("ram_total", "bytes, or \"1GiB\""),
];
/// Fields that hold sizes: bytes, or a text with a unit.
const SIZES: [&str; 8] = [
    "l1d",
    "l2",
    "l3",
    "ram_total",
    "ram_seen",
    "ram_available",
    "page_size",
    "bandwidth",
];
/// Fields that are figures with a source; a bare value is one whose source is the file.
const FIGURES: [&str; 13] = [
    "cpu_part",
    "cores",
    "clock_mhz",
    "features",
    "l1d",
    "l2",
    "l3",
    "ram_total",
    "ram_variants",
    "ram_seen",
    "ram_available",
    "page_size",
    "bandwidth",
];
/// Every field, for what is misspelt.
const OTHERS: [&str; 8] = [
    "name",
    "board",
    "soc",
    "cpu",
    "f32_gflops_per_core",
    "rustc_target",
    "qemu_cpu",
    "notes",
];

/// A target of a file's text.
///
/// # Errors
/// All fields that are missing at once, a field that is none, or what is wrong with a value.
pub fn read(text: &str) -> Result<Target, String> {
    let mut table: Table = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_string())?;
    let known = || FIGURES.iter().chain(&OTHERS).copied();
    if let Some(strange) = table.keys().find(|key| known().all(|name| name != key.as_str())) {
        let meant = nearest(strange, known()).map_or(String::new(), |name| format!("; did you mean {name}?"));
        return Err(format!("unknown field '{}'{meant}", printable(strange)));
    }
    for (name, value) in table.iter_mut() {
        figure(name, value)?;
    }
    let cpu = table.get("cpu").and_then(Value::as_str).unwrap_or_default().to_string();
    let core = CORES.iter().find(|core| core.name.eq_ignore_ascii_case(&cpu));
    let mut missing: Vec<String> = NEEDED
        .iter()
        .filter(|(name, _)| !table.contains_key(*name))
        .map(|(name, what)| format!("{name} ({what})"))
        .collect();
    if core.is_none() && !cpu.is_empty() && !table.contains_key("cpu_part") {
        missing.push("cpu_part (\"CPU part\" of /proc/cpuinfo: this design is none that thimble knows)".into());
    }
    if !missing.is_empty() {
        return Err(format!(
            "missing: {}; thimble targets --new FILE writes a file to fill in, --probe USER@HOST one of a running board",
            missing.join(", ")
        ));
    }
    defaults(&mut table, core);
    Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| e.to_string().trim_end().to_string())
}

/// Makes a figure of a bare value, and bytes of a text with a unit.
fn figure(name: &str, value: &mut Value) -> Result<(), String> {
    let is_figure = FIGURES.contains(&name) || name == "f32_gflops_per_core";
    if !is_figure {
        return Ok(());
    }
    let named = match &*value {
        Value::Table(table) => table.get("value"),
        bare => Some(bare),
    };
    if let (true, Some(Value::String(text))) = (SIZES.contains(&name), named) {
        let size: bytesize::ByteSize = text.parse().map_err(|_| {
            format!(
                "{name}: '{}' is not a size; write 1GiB (1024³), 1GB (1000³) or bytes",
                printable(text)
            )
        })?;
        let size = i64::try_from(size.as_u64()).map_err(|_| format!("{name}: more bytes than any board has"))?;
        match value.as_table_mut() {
            Some(table) => drop(table.insert("value".into(), Value::Integer(size))),
            None => *value = Value::Integer(size),
        }
    }
    if let (Value::Integer(whole), "f32_gflops_per_core") = (&*value, name) {
        *value = Value::Float(*whole as f64);
    }
    if !value.is_table() {
        *value = unverified(value.clone(), "the target file, without a source");
    }
    Ok(())
}

fn unverified(value: Value, source: &str) -> Value {
    let fields = [
        ("value", value),
        ("source", Value::from(source)),
        ("confidence", Value::from("unverified")),
    ];
    Value::Table(
        fields
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect(),
    )
}

/// Fills in what a file leaves out.
fn defaults(table: &mut Table, core: Option<&Core>) {
    const DESIGN: &str = "usual for the core's design; the device reports what it finds";
    const ASSUMED: &str = "not said, assumed; the device reports what it finds";
    let bytes = |n: u64| Value::Integer(n as i64);
    let features = match core {
        Some(core) if core.dot_product => vec![Value::from("asimd"), Value::from("asimddp")],
        _ => vec![Value::from("asimd")],
    };
    let source = if core.is_some() { DESIGN } else { ASSUMED };
    let name = table.get("name").cloned().unwrap_or_else(|| Value::from(""));
    let texts = [
        ("board", name),
        ("soc", Value::from("unknown")),
        ("rustc_target", Value::from("aarch64-unknown-linux-gnu")),
        ("qemu_cpu", Value::from(core.map_or("cortex-a53", |core| core.qemu))),
    ];
    let figures = [
        ("cpu_part", core.map(|core| Value::from(core.part)), source),
        ("clock_mhz", Some(Value::Integer(1000)), ASSUMED),
        ("features", Some(Value::Array(features)), source),
        ("l1d", Some(bytes(core.map_or(32 << 10, |core| core.l1d))), source),
        ("l2", Some(bytes(core.map_or(256 << 10, |core| core.l2))), source),
        ("page_size", Some(bytes(4096)), ASSUMED),
    ];
    for (name, value) in texts {
        table.entry(name).or_insert(value);
    }
    for (name, value, source) in figures {
        if let (Some(value), false) = (value, table.contains_key(name)) {
            table.insert(name.to_string(), unverified(value, source));
        }
    }
}

/// A file to fill in.
pub fn template(name: &str) -> String {
    format!(
        "# A board for thimble. The first four fields are needed; the others say more, and are taken from the core's design where they\n\
         # are left out. A figure may carry its source: {{ value = 4, source = \"data sheet\", confidence = \"verified\" }}.\n\
         name = {}\n\
         cpu = \"Cortex-A53\"      # the core's design\n\
         cores = 4\n\
         ram_total = \"1GiB\"      # of a board sold in several sizes the smallest\n\
         \n\
         # board = \"Orange Pi Zero 3\"\n\
         # soc = \"H618\"\n\
         # cpu_part = \"0xd03\"     # \"CPU part\" of /proc/cpuinfo\n\
         # clock_mhz = 1500\n\
         # features = [\"asimd\"]   # of \"Features\" in /proc/cpuinfo: asimd, asimddp, i8mm\n\
         # l1d = \"32KiB\"          # of one core\n\
         # l2 = \"512KiB\"\n\
         # ram_variants = [2147483648, 4294967296]\n\
         # ram_seen = \"980MiB\"    # MemTotal of /proc/meminfo\n\
         # ram_available = \"800MiB\" # MemAvailable when nothing else runs\n\
         # page_size = 4096        # getconf PAGESIZE\n\
         # bandwidth = 4000000000  # bytes a second, of a STREAM run\n\
         # f32_gflops_per_core = 12 # clock in GHz times 8; needed for --max-latency\n\
         # qemu_cpu = \"cortex-a53\" # for emulate\n",
        Value::from(name)
    )
}

/// What a board is asked. Each line begins with a word that [`of_board`] knows; what a board does not tell is left out.
const SCRIPT: &str = "\
echo arch $(uname -m)
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

/// Asks a running board.
///
/// # Errors
/// Where ssh does not get there, or the board does not tell what is needed.
pub fn probe(link: &Link) -> Result<Target, ProbeError> {
    let told = link.run(SCRIPT)?;
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
        let matter = ["asimd", "asimdhp", "asimddp", "i8mm"]
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
/// Where it is not 64-bit ARM, or tells neither its cores nor its memory.
pub fn of_board(text: &str) -> Result<Target, String> {
    let answer = Answer(text);
    let arch = answer.said("arch").unwrap_or("of an unknown kind");
    if arch != "aarch64" && arch != "arm64" {
        return Err(format!(
            "it is {}, thimble-device is for aarch64 (64-bit ARM)",
            printable(arch)
        ));
    }
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

/// A target as a file in `targets/` is laid out.
pub fn write(target: &Target) -> String {
    let text = |name: &str, value: &str| format!("{name} = {}\n", Value::from(value));
    let mut out = format!(
        "# {}. Sizes are bytes; a figure marked unverified is a start, the device's own report wins.\n",
        printable(&target.board)
    );
    out += &text("name", &target.name);
    out += &text("board", &target.board);
    out += &text("soc", &target.soc);
    out += &text("cpu", &target.cpu);
    out += &text("rustc_target", &target.rustc_target);
    out += &text("qemu_cpu", &target.qemu_cpu);
    if !target.notes.is_empty() {
        out += &format!("notes = {}\n", Value::from(target.notes.clone()));
    }
    out.push('\n');
    let whole = |f: &Figure<u64>| figure_line(f, Value::Integer(i64::try_from(f.value).unwrap_or(i64::MAX)));
    let small = |f: &Figure<u32>| figure_line(f, Value::Integer(f.value.into()));
    let mut line = |name: &str, figure: Option<String>| out.extend(figure.map(|f| format!("{name} = {f}\n")));
    line(
        "cpu_part",
        Some(figure_line(
            &target.cpu_part,
            Value::from(target.cpu_part.value.clone()),
        )),
    );
    line("cores", Some(small(&target.cores)));
    line("clock_mhz", Some(small(&target.clock_mhz)));
    line(
        "features",
        Some(figure_line(
            &target.features,
            Value::from(target.features.value.clone()),
        )),
    );
    line("l1d", Some(whole(&target.l1d)));
    line("l2", Some(whole(&target.l2)));
    line("l3", target.l3.as_ref().map(whole));
    line("ram_total", Some(whole(&target.ram_total)));
    let variants = |f: &Figure<Vec<u64>>| {
        let sizes = f
            .value
            .iter()
            .map(|&size| Value::Integer(i64::try_from(size).unwrap_or(i64::MAX)));
        figure_line(f, Value::Array(sizes.collect()))
    };
    line("ram_variants", target.ram_variants.as_ref().map(variants));
    line("ram_seen", target.ram_seen.as_ref().map(whole));
    line("ram_available", target.ram_available.as_ref().map(whole));
    line("page_size", Some(whole(&target.page_size)));
    line("bandwidth", target.bandwidth.as_ref().map(whole));
    let flops = target.f32_gflops_per_core.as_ref();
    line(
        "f32_gflops_per_core",
        flops.map(|f| figure_line(f, Value::Float(f.value))),
    );
    out
}

fn figure_line<T>(figure: &Figure<T>, value: Value) -> String {
    let confidence = match figure.confidence {
        Confidence::Verified => "verified",
        Confidence::Unverified => "unverified",
    };
    format!(
        "{{ value = {value}, source = {}, confidence = \"{confidence}\" }}",
        Value::from(figure.source.clone())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_fields_make_a_target_and_all_that_lack_are_told_at_once() {
        let little = "name = \"zero-3\"\ncpu = \"Cortex-A53\"\ncores = 4\nram_total = \"1GiB\"\n";
        let target = read(little).unwrap();
        assert_eq!(target.problems(), Vec::<String>::new());
        assert_eq!(
            (target.cpu_part.value.as_str(), target.qemu_cpu.as_str()),
            ("0xd03", "cortex-a53")
        );
        assert_eq!(
            (target.ram_total.value, target.cores.value, target.l2.value),
            (1 << 30, 4, 512 << 10)
        );
        assert_eq!(target.cores.confidence, Confidence::Unverified);
        let cases = [
            (
                "",
                "missing: name (how the command line calls it, \"my-board\"), cpu (the core's design, \"Cortex-A53\"), cores (a number), ram_total",
            ),
            (
                "name = \"x\"\ncpu = \"Odd-1\"\ncores = 1\nram_total = 5",
                "missing: cpu_part (\"CPU part\" of /proc/cpuinfo",
            ),
            ("name = \"x\"\ncorse = 4", "unknown field 'corse'; did you mean cores?"),
            ("name = \"x\"\nram_total = \"lots\"", "ram_total: 'lots' is not a size"),
            ("name = ", "TOML parse error"),
            ("name = 3\ncpu = \"Cortex-A53\"\ncores = 4\nram_total = 5", "string"),
        ];
        for (text, want) in cases {
            let error = read(text).expect_err(want);
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn the_template_is_a_target_with_and_without_its_comments() {
        let text = template("my-board");
        assert_eq!(read(&text).unwrap().name, "my-board");
        let open: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(field) if field.contains(" = ") && !field.starts_with("are left") => format!("{field}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let target = read(&open).unwrap();
        assert_eq!((target.soc.as_str(), target.clock_mhz.value), ("H618", 1500));
        assert_eq!(target.problems(), Vec::<String>::new());
    }

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
        let cases = [
            ("arch armv7l\n", "it is armv7l"),
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
        let done = std::process::Command::new("sh").args(["-c", SCRIPT]).output().unwrap();
        let text = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success() && text.starts_with("arch ") && text.contains("\ntotal "),
            "{text}"
        );
    }
}
