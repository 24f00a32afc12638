//! Target files: reading one that says little, writing one, and an empty one to fill in. Of a core whose design is known, what is
//! not said is taken from the design; it is marked unverified, and the device's own report wins.

mod cores;
mod probe;

use cores::{CORES, Core, QEMU_32};
pub use probe::{ProbeError, of_board, probe};
use thimble_shared::board::architecture::Architecture;
use thimble_shared::board::target::{Confidence, Figure, Target};
use thimble_shared::spelling::nearest;
use thimble_shared::terminal::printable;
use toml::{Table, Value};

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
    let mut table: Table = toml::from_str(text).map_err(|e| syntax(text, &e))?;
    let mut problems = Vec::new();
    let known = || FIGURES.iter().chain(&OTHERS).copied();
    let strange = |key: &str| known().all(|name| name != key);
    for key in table.keys().filter(|key| strange(key.as_str())) {
        let meant = nearest(key, known()).map_or(String::new(), |name| format!("; did you mean {name}?"));
        problems.push(format!("unknown field '{}'{meant}", printable(key)));
    }
    table.retain(|key, _| !strange(key));
    for (name, value) in table.iter_mut() {
        problems.extend(figure(name, value).err());
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
        problems.push(format!(
            "missing: {}; thimble targets --new FILE writes a file to fill in, --probe USER@HOST one of a running board",
            missing.join(", ")
        ));
    }
    defaults(&mut table, core);
    let whole = typed(table, &mut problems);
    match (whole, problems.is_empty()) {
        (Some(target), true) => Ok(target),
        _ => Err(problems.join("; ")),
    }
}

/// The target that the fields make, if each has the type it must have; what is wrong with every other is added to the problems.
fn typed(mut table: Table, problems: &mut Vec<String>) -> Option<Target> {
    // What stands in for a field that is missing or wrong, so that the next one is looked at.
    let mut sound: Table = toml::from_str(SOUND).unwrap_or_default();
    sound.iter_mut().for_each(|(name, value)| drop(figure(name, value)));
    defaults(&mut sound, None);
    for (name, value) in &sound {
        table.entry(name.clone()).or_insert_with(|| value.clone());
    }
    loop {
        let error: toml::de::Error = match Value::Table(table.clone()).try_into() {
            Ok(target) => return Some(target),
            Err(error) => error,
        };
        let text = error.to_string();
        let (message, place) = text.trim_end().split_once("\nin `").unwrap_or((text.trim_end(), ""));
        let name = place.trim_end_matches('`').split('.').next().unwrap_or_default();
        let message = message.replace('\n', " ");
        if name.is_empty() {
            problems.push(message);
            return None;
        }
        problems.push(format!("{name}: {message}"));
        // Each field is wrong once.
        match sound.remove(name) {
            Some(value) => drop(table.insert(name.to_string(), value)),
            None if table.remove(name).is_some() => {}
            None => return None,
        }
    }
}

/// The fields that are needed, with values of their types.
const SOUND: &str = "name = \"x\"\ncpu = \"Cortex-A53\"\ncores = 4\nram_total = 1\n";

/// Where a text is no TOML, and why, in one line.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.as_bytes().get(..at).unwrap_or_default();
    let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    format!("line {line}: {}", error.message().replace('\n', "; "))
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
    let runs = core.map_or(Architecture::Aarch64, |core| core.runs);
    let triple = table.get("rustc_target").and_then(Value::as_str);
    let architecture = triple.and_then(Architecture::of_triple).unwrap_or(runs);
    let vectors = Value::from(architecture.vectors());
    let features = match core {
        Some(core) if core.dot_product && architecture == runs => vec![vectors, Value::from("asimddp")],
        _ => vec![vectors],
    };
    let qemu = match core {
        Some(core) if architecture == core.runs => core.qemu,
        _ if architecture == Architecture::Armv7 => QEMU_32,
        _ => "cortex-a53",
    };
    let source = if core.is_some() { DESIGN } else { ASSUMED };
    let name = table.get("name").cloned().unwrap_or_else(|| Value::from(""));
    let texts = [
        ("board", name),
        ("soc", Value::from("unknown")),
        ("rustc_target", Value::from(architecture.triple())),
        ("qemu_cpu", Value::from(qemu)),
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
         # features = [\"asimd\"]   # of \"Features\" in /proc/cpuinfo: asimd, asimddp, i8mm; neon of a 32-bit system\n\
         # rustc_target = \"aarch64-unknown-linux-gnu\" # armv7-unknown-linux-gnueabihf of a 32-bit system\n\
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
        // A system of 32 bits on the same core, and a core that has no other.
        for (text, part) in [
            (
                little.to_string() + "rustc_target = \"armv7-unknown-linux-gnueabihf\"\n",
                "0xd03",
            ),
            (little.replace("A53", "A7"), "0xc07"),
        ] {
            let target = read(&text).unwrap();
            assert_eq!(target.problems(), Vec::<String>::new());
            assert_eq!(
                (target.cpu_part.value.as_str(), target.qemu_cpu.as_str()),
                (part, "cortex-a7")
            );
            assert_eq!(
                (target.architecture(), target.features.value),
                (Architecture::Armv7, vec!["neon".to_string()])
            );
        }
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
            ("name = \"x\"\ncores = ", "line 2: "),
            (
                "name = \"x\"\ncpu = \"Cortex-A53\"\ncorse = 4\ncores = \"four\"\nram_total = \"lots\"\nfoo = 1",
                "unknown field 'corse'; did you mean cores?; unknown field 'foo'; ram_total: 'lots' is not a size; write 1GiB (1024³), \
                 1GB (1000³) or bytes; cores: invalid type: string \"four\", expected u32",
            ),
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
}
