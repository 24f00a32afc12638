//! Bench reports as the host keeps them: read from single files (the device's, emulate's) or from a history of JSON lines,
//! named by board, stamped with the time they were brought back, and held against each other and against a target.

use crate::store::{self, FileError};
use crate::text::{Align, percent, printable, say, size, table};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use thimble_shared::report::{Report, SCHEMA};
use thimble_shared::target::Target;

/// One report with what the host knows of it: a line of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub schema: u32,
    /// UTC, as 2026-01-31T12:00:00Z; absent in a file straight from a board, which may have no clock.
    #[serde(default)]
    pub time: Option<String>,
    /// Which board it was: as ssh or the inventory calls it, or what it calls itself.
    pub board: String,
    #[serde(default)]
    pub target: Option<String>,
    pub report: Report,
}

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} line {line}: {problem}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        problem: String,
    },
}

/// Every report of a file, oldest first.
pub fn load(path: &Path) -> Result<Vec<Entry>, ReportError> {
    store::regular(path)?;
    let entries = entries(path)?;
    if entries.is_empty() {
        return Err(FileError::new(path, "holds no report").into());
    }
    Ok(entries)
}

/// The same of a history that a report is to be added to: it may be empty, not be there yet, or be /dev/null.
pub fn history(path: &Path) -> Result<Vec<Entry>, ReportError> {
    match path.exists() {
        true => {
            let known = entries(path)?;
            let lines = std::fs::read_to_string(path).unwrap_or_default();
            if known.len() == 1 && lines.lines().filter(|line| !line.trim().is_empty()).count() > 1 {
                let problem = "is one report over several lines; a history has a line for each: name another file";
                return Err(FileError::new(path, problem).into());
            }
            Ok(known)
        }
        false => Ok(Vec::new()),
    }
}

fn entries(path: &Path) -> Result<Vec<Entry>, ReportError> {
    let file = |problem: String| FileError::new(path, problem);
    let mut bytes = std::fs::read(path).map_err(|e| file(e.to_string()))?;
    let torn = torn(&bytes).len();
    if torn > 0 {
        say(&format!(
            "note: {}: its last line was cut short and is left out",
            printable(&path.display().to_string())
        ));
        bytes.truncate(bytes.len() - torn);
    }
    let text = String::from_utf8(bytes).map_err(|e| file(e.to_string()))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
        return Ok(vec![entry(value, &stem).map_err(file)?]);
    }
    let mut entries = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let said = serde_json::from_str(line)
            .map_err(|e| format!("{e}; a line is one report: mend or remove this one"))
            .and_then(|value| entry(value, &stem));
        entries.push(said.map_err(|problem| ReportError::Line {
            path: path.to_path_buf(),
            line: at + 1,
            problem,
        })?);
    }
    Ok(entries)
}

fn entry(value: serde_json::Value, stem: &str) -> Result<Entry, String> {
    let newer = |n: u64| n > u64::from(SCHEMA);
    for schema in [&value["schema"], &value["report"]["schema"]] {
        if let Some(n) = schema.as_u64().filter(|n| newer(*n)) {
            return Err(format!(
                "schema {n} is newer than this program, which reads up to {SCHEMA}"
            ));
        }
    }
    let wrong = |e: serde_json::Error| format!("is no bench report: {e}");
    if value["report"].is_object() && value["board"].is_string() {
        let entry: Entry = serde_json::from_value(value).map_err(wrong)?;
        let report = sound(entry.report)?;
        return Ok(Entry { report, ..entry });
    }
    // What `emulate --json` prints wraps a report; what the device prints is one.
    let (target, inner) = match value.get("report") {
        Some(inner) => (value["target"].as_str().map(str::to_string), inner.clone()),
        None => (None, value),
    };
    let report: Report = sound(serde_json::from_value(inner).map_err(wrong)?)?;
    let own = report.board.model.clone().filter(|_| report.board.emulated.is_none());
    Ok(Entry {
        schema: SCHEMA,
        time: None,
        board: own.unwrap_or_else(|| stem.to_string()),
        target,
        report,
    })
}

/// A report as a board prints it.
pub fn parse(text: &str) -> Result<Report, String> {
    let report = serde_json::from_str(text.trim()).map_err(|e| format!("its report cannot be read: {e}"))?;
    sound(report).map_err(|problem| format!("its report cannot be true: {problem}"))
}

fn sound(report: Report) -> Result<Report, String> {
    match report.problems().first() {
        None => Ok(report),
        Some(problem) => Err(problem.clone()),
    }
}

/// Whether a line could be added to this history. Nothing is made or removed for it: where there is no file, its directory is
/// asked, and of a link that leads nowhere yet the one it leads to.
pub fn writable(path: &Path) -> Result<(), ReportError> {
    let failed = |e: std::io::Error| FileError::new(path, e);
    match std::fs::metadata(path) {
        Ok(_) => {
            if !is_null(path) {
                store::regular(path)?;
            }
            std::fs::OpenOptions::new().append(true).open(path).map_err(failed)?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut made = path.to_path_buf();
            while let Ok(to) = std::fs::read_link(&made) {
                made = store::folder(&made).join(to);
            }
            let dir = store::folder(&made);
            takes_files(dir).map_err(|e| FileError::new(path, format!("cannot be made in {}: {e}", dir.display())))?;
        }
        Err(e) => return Err(failed(e).into()),
    }
    Ok(())
}

fn is_null(path: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path == Path::new("/dev/null"))
}

/// Whether files could be made in a directory, by the system's word.
fn takes_files(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    if !std::fs::metadata(dir)?.is_dir() {
        return Err(std::io::ErrorKind::NotADirectory.into());
    }
    let name = std::ffi::CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: the name is NUL-terminated and outlives the call, which keeps no pointer.
    match unsafe { libc::access(name.as_ptr(), libc::W_OK | libc::X_OK) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Adds a line to a history, one at a time, wholly or not at all. Only who loses power or is killed within the one write may leave
/// a part of it; nothing reads that as a report, and the next line takes its place.
pub fn append(path: &Path, entry: &Entry) -> Result<(), ReportError> {
    let failed = |e: std::io::Error| FileError::new(path, e);
    let line = serde_json::to_string(entry).map_err(|e| FileError::new(path, e))? + "\n";
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.create(true).read(true).append(true).open(path).map_err(failed)?;
    // A device has nothing to bring to a disk.
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(file.write_all(line.as_bytes()).map_err(failed)?);
    }
    // Where there are no locks, the system's own appending has to do.
    let _ = file.lock();
    let mut old = Vec::new();
    file.read_to_end(&mut old).map_err(failed)?;
    let whole = (old.len() - torn(&old).len()) as u64;
    let added = (|| {
        if whole < old.len() as u64 {
            file.set_len(whole)?;
        }
        // Editors may have taken the last line's end.
        if whole > 0 && old[..whole as usize].last() != Some(&b'\n') {
            file.write_all(&[b"\n", line.as_bytes()].concat())?;
        } else {
            file.write_all(line.as_bytes())?;
        }
        file.sync_all()
    })();
    if added.is_err() {
        // A full disk has taken a part of it.
        let _ = file.set_len(whole);
    }
    Ok(added.map_err(failed)?)
}

/// What stands after the last end of a line, if it is the beginning of a report: an append that was cut short.
fn torn(text: &[u8]) -> &[u8] {
    let last = text.rsplit(|&b| b == b'\n').next().unwrap_or_default();
    // File systems leave zeros where a length reached the disk and bytes did not.
    if last.contains(&0) && last.iter().rev().skip_while(|b| **b == 0).all(|b| *b != 0) {
        return last;
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(last) {
        Err(e) if e.is_eof() && last.starts_with(b"{") => last,
        _ => &[],
    }
}

/// What was measured and on what: reports that differ here cannot be compared. The file's name and not its checksum, so that
/// a model that was made anew is held against what it replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind<'a> {
    pub board: &'a str,
    pub model: &'a str,
    pub seq: u32,
    pub batch: u32,
    pub threads: u32,
}

impl<'a> Kind<'a> {
    pub fn of(board: &'a str, report: &'a Report) -> Kind<'a> {
        Kind {
            board,
            model: &report.model.file,
            seq: report.latency_ms.seq,
            batch: report.latency_ms.batch,
            threads: report.engine.threads,
        }
    }

    /// All but the board.
    pub fn work(&self) -> String {
        let batch = match self.batch {
            1 => String::new(),
            n => format!(", {n} at once"),
        };
        let threads = match self.threads {
            1 => "1 thread".to_string(),
            n => format!("{n} threads"),
        };
        format!("{}, {} tokens{batch}, {threads}", printable(self.model), self.seq)
    }
}

impl Entry {
    pub fn kind(&self) -> Kind<'_> {
        Kind::of(&self.board, &self.report)
    }
}

/// The last report in `history` that this one can be compared with.
pub fn last<'a>(history: &'a [Entry], kind: &Kind) -> Option<&'a Entry> {
    history.iter().rfind(|e| e.kind() == *kind)
}

/// Now, in UTC.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    stamp(seconds)
}

/// Days to a date after Howard Hinnant's civil_from_days, for dates from 1970 on.
fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Where a report contradicts what the target file says of the board.
pub fn against_target(report: &Report, target: &Target) -> Vec<String> {
    let board = &report.board;
    let mut found = Vec::new();
    if let Some(part) = &board.cpu_part
        && *part != target.cpu_part.value
    {
        found.push(format!(
            "CPU part is {part}, {} has {} ({})",
            target.name, target.cpu_part.value, target.cpu
        ));
    }
    if let Some(cores) = board.cores.filter(|c| *c != target.cores.value) {
        found.push(format!("{cores} cores, {} has {}", target.name, target.cores.value));
    }
    let missing: Vec<&str> = target
        .features
        .value
        .iter()
        .filter(|f| !board.features.contains(f))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() && !board.features.is_empty() {
        found.push(format!("the CPU lacks {}", missing.join(" ")));
    }
    if let Some(page) = board.page_size.filter(|p| *p != target.page_size.value) {
        found.push(format!(
            "pages of {}, {} is listed with {}",
            size(page),
            target.name,
            size(target.page_size.value)
        ));
    }
    let most = target.ram_sizes().last().copied().unwrap_or(0);
    if let Some(total) = board.mem_total.filter(|total| *total > most) {
        found.push(format!(
            "{} of RAM, {} has {} at most",
            size(total),
            target.name,
            size(most)
        ));
    }
    found
}

/// How a report differs from an earlier one of the same board, in the figures that matter.
pub fn against_last(now: &Report, then: &Report) -> Vec<String> {
    let mut found = Vec::new();
    let change = |a: f64, b: f64| format!("{:+.1} %", (a - b) / b * 100.0);
    if let (Some(a), Some(b)) = (now.latency_ms.p50, then.latency_ms.p50) {
        let noise = 3.0 * now.latency_ms.sd.unwrap_or(0.0).max(then.latency_ms.sd.unwrap_or(0.0));
        let within = if (a - b).abs() <= noise {
            ", within 3 deviations"
        } else {
            ""
        };
        found.push(format!("p50 {b:.2} → {a:.2} ms ({}{within})", change(a, b)));
    }
    if let (Some(a), Some(b)) = (now.memory.peak_rss, then.memory.peak_rss) {
        found.push(format!(
            "peak {} → {} ({})",
            size(b),
            size(a),
            change(a as f64, b as f64)
        ));
    }
    if now.model.sha256 != then.model.sha256 {
        found.push("another model file".into());
    }
    found
}

const HEADS: [&str; 14] = [
    "board",
    "model",
    "size",
    "tokens",
    "at once",
    "threads",
    "p50 ms",
    "p95 ms",
    "max ms",
    "mJ",
    "peak RAM",
    "of RAM",
    "major faults",
    "verdict",
];

/// Columns that are shown only where they tell something: sequences in one pass where some report has more than one, threads
/// where they differ, and energy where a board has told it.
const BATCH: usize = 4;
const THREADS: usize = 5;
const ENERGY: usize = 9;

/// Heads and rows of the comparison.
pub fn comparison(entries: &[Entry]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let any = |told: fn(&Report, &Report) -> bool| entries.iter().any(|e| told(&e.report, &entries[0].report));
    let hidden = [
        (BATCH, !any(|r, _| r.latency_ms.batch != 1)),
        (THREADS, !any(|r, first| r.engine.threads != first.engine.threads)),
        (ENERGY, !any(|r, _| r.energy.is_some())),
    ];
    let kept = |at: usize| !hidden.contains(&(at, true));
    let heads = (0..).zip(HEADS).filter(|(at, _)| kept(*at)).map(|(_, head)| head);
    let cells = |e| (0..).zip(row(e)).filter(|(at, _)| kept(*at)).map(|(_, cell)| cell);
    (heads.collect(), entries.iter().map(|e| cells(e).collect()).collect())
}

/// One row of the comparison, in the order of [`HEADS`]; "-" is not known.
fn row(entry: &Entry) -> Vec<String> {
    let r = &entry.report;
    let ms = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.2}"));
    let verdict = match (&r.verdict.fits, r.warnings.len()) {
        (false, _) => "no".to_string(),
        (true, 0) => "yes".to_string(),
        (true, 1) => "yes, 1 warning".to_string(),
        (true, n) => format!("yes, {n} warnings"),
    };
    vec![
        printable(&entry.board),
        printable(&r.model.file),
        size(r.model.bytes),
        r.latency_ms.seq.to_string(),
        r.latency_ms.batch.to_string(),
        r.engine.threads.to_string(),
        ms(r.latency_ms.p50),
        ms(r.latency_ms.p95),
        ms(r.latency_ms.max),
        r.energy
            .as_ref()
            .map_or("-".into(), |e| format!("{:.1}", e.mj_per_inference)),
        r.memory.peak_rss.map_or("-".into(), size),
        match (r.memory.peak_rss, r.board.mem_total) {
            (Some(peak), Some(total)) => percent(peak, total),
            _ => "-".into(),
        },
        r.faults.major.map_or("-".into(), |n| n.to_string()),
        verdict,
    ]
}

pub fn as_table(entries: &[Entry]) -> String {
    let (heads, rows) = comparison(entries);
    let mut aligns = vec![Align::Right; heads.len()];
    (aligns[0], aligns[1], aligns[heads.len() - 1]) = (Align::Left, Align::Left, Align::Left);
    let mut text = table(&heads, &aligns, &rows);
    notes(entries).iter().for_each(|note| text += &format!("{note}\n"));
    text
}

pub fn as_markdown(entries: &[Entry]) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|c| plain_markdown(c)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let (heads, rows) = comparison(entries);
    let mut text = line(&heads.iter().map(ToString::to_string).collect::<Vec<_>>());
    let numbers = "--:|".repeat(heads.len() - 3);
    text += &format!("|---|---|{numbers}---|\n");
    rows.iter().for_each(|row| text += &line(row));
    let notes = notes(entries);
    if !notes.is_empty() {
        text.push('\n');
        notes
            .iter()
            .for_each(|note| text += &format!("- {}\n", plain_markdown(note)));
    }
    text
}

/// Text from a file that Markdown would take for cells, tags, entities, links, headings, code or emphasis.
fn plain_markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if "|<>[]*_~&#!`\\".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Reasons, warnings and what the energy was read from, each under the name of its board.
pub fn notes(entries: &[Entry]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for e in entries {
        let reasons = e.report.verdict.reasons.iter().map(|r| format!("no: {r}"));
        let warnings = e.report.warnings.iter().map(|w| format!("warning: {w}"));
        let energy = e.report.energy.iter().map(|e| {
            let idle = e.idle_watts.map_or(String::new(), |w| format!(", {w:.2} W idle"));
            format!("{:.2} W while running{idle} ({})", e.watts, e.sensor)
        });
        let said = reasons.chain(warnings).chain(energy);
        for text in said {
            let note = format!("{}: {}", printable(&e.board), printable(&text));
            // A board that is measured every day need not say every day what is known of it.
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    notes
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn sample() -> serde_json::Value {
        serde_json::json!({
            "schema": 1, "model": {"file": "m.onnx", "sha256": "aa", "bytes": 1000, "formats": {"word": "i8"}},
            "board": {"cpu_part": "0xd08", "features": ["asimd"], "cores": 4, "mem_total": 1 << 30, "page_size": 4096},
            "engine": {"version": "0", "tract": "0", "kernels": [], "threads": 4, "locked": false},
            "load_ms": 1.0, "first_inference_ms": 2.0,
            "latency_ms": {"seq": 16, "runs": 3, "warmup": 1, "mean": 5.0, "sd": 0.1, "min": 4.9, "p50": 5.0, "p90": 5.1, "p95": 5.1, "p99": 5.1, "max": 5.1},
            "memory": {"baseline_rss": 1, "peak_rss": 1 << 24, "anon": 1, "file": 1},
            "faults": {"major": 0, "minor": 0}, "thermal": {"start_c": null, "end_c": null, "throttled": null},
            "verdict": {"fits": true, "reasons": []}
        })
    }

    pub fn report() -> Report {
        serde_json::from_value(sample()).unwrap()
    }

    #[test]
    fn dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(stamp(seconds), date);
        }
    }

    #[test]
    fn single_files_wrapped_ones_and_histories_are_read_and_others_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let single = load(&write("zero.json", &sample().to_string())).unwrap();
        assert_eq!((single.len(), single[0].board.as_str()), (1, "zero"));
        let wrapped = serde_json::json!({"schema": 1, "target": "pi-4", "report": sample()});
        let wrapped = load(&write("w.json", &format!("{wrapped:#}"))).unwrap();
        assert_eq!(wrapped[0].target.as_deref(), Some("pi-4"));
        let history = dir.path().join("h.jsonl");
        for _ in 0..2 {
            append(
                &history,
                &Entry {
                    board: "kitchen".into(),
                    time: Some(now()),
                    ..single[0].clone()
                },
            )
            .unwrap();
        }
        let read = load(&history).unwrap();
        assert_eq!(read.len(), 2);
        let kind = read[0].kind();
        assert!(last(&read, &kind).is_some());
        for other in [
            Kind {
                seq: 17,
                ..kind.clone()
            },
            Kind {
                batch: 2,
                ..kind.clone()
            },
            Kind {
                threads: 1,
                ..kind.clone()
            },
            Kind {
                model: "n.onnx",
                ..kind.clone()
            },
            Kind {
                board: "attic",
                ..kind.clone()
            },
        ] {
            assert!(last(&read, &other).is_none(), "{other:?}");
        }
        let mut absurd = sample();
        absurd["latency_ms"]["max"] = 1e300.into();
        let wrapped_absurd = serde_json::json!({"schema": 1, "board": "b", "report": absurd});
        let mut newer = sample();
        newer["schema"] = 99.into();
        for (name, text, part) in [
            ("new.json", newer.to_string(), "newer"),
            ("other.json", "{}".into(), "no bench report"),
            ("torn.jsonl", format!("{}\n{{\"sch\n", sample()), "line 2"),
            ("empty.jsonl", String::new(), "holds no report"),
            ("absurd.json", absurd.to_string(), "latency_ms.max"),
            (
                "absurd.jsonl",
                format!("{}\n{wrapped_absurd}", sample()),
                "line 2: latency_ms.max",
            ),
            (
                "endless.json",
                sample().to_string().replace("5.0", "1e999"),
                "out of range",
            ),
        ] {
            let error = load(&write(name, &text)).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(name), "{error}");
        }
    }

    #[test]
    fn reports_are_held_against_target_and_last() {
        let report: Report = serde_json::from_value(sample()).unwrap();
        let pi4 = crate::board::find("pi-4").unwrap();
        assert_eq!(against_target(&report, &pi4), Vec::<String>::new());
        let pi5 = against_target(&report, &crate::board::find("pi-5").unwrap()).join("; ");
        for part in ["0xd0b", "asimddp", "16.0 KiB"] {
            assert!(pi5.contains(part), "{pi5}");
        }
        // Sold with up to 8 GiB.
        let mut larger = report.clone();
        larger.board.mem_total = Some(7 << 30);
        assert_eq!(against_target(&larger, &pi4), Vec::<String>::new());
        larger.board.mem_total = Some(9 << 30);
        assert!(against_target(&larger, &pi4)[0].contains("8.0 GiB at most"));
        let mut slower = report.clone();
        slower.latency_ms.p50 = Some(10.0);
        assert!(against_last(&slower, &report)[0].contains("+100.0 %"));
        assert!(against_last(&report, &report)[0].contains("within"));
    }

    #[test]
    fn markdown_escapes_and_has_a_cell_for_every_head() {
        let mut value = sample();
        value["model"]["file"] = "a|b".into();
        value["verdict"] = serde_json::json!({"fits": false, "reasons": ["<img src=x> [a](b)"]});
        let mut entries = [entry(value, "x").unwrap()];
        let text = as_markdown(&entries);
        assert!(
            text.contains("a\\|b") && text.contains("no: \\<img src=x\\> \\[a\\](b)"),
            "{text}"
        );
        let cells = |text: &str| text.lines().nth(1).unwrap().matches('|').count() - 1;
        assert_eq!((cells(&text), row(&entries[0]).len()), (HEADS.len() - 3, HEADS.len()));
        // The energy is a column where one board has told it.
        entries[0].report.energy = Some(thimble_shared::report::Energy {
            sensor: "ina3221 VDD_IN".into(),
            watts: 6.25,
            idle_watts: Some(4.0),
            mj_per_inference: 31.25,
            readings: 40,
        });
        let text = as_markdown(&entries);
        assert_eq!(cells(&text), HEADS.len() - 2);
        for part in [
            "| mJ |",
            "| 31.2 |",
            "6.25 W while running, 4.00 W idle (ina3221 VDD_IN)",
        ] {
            assert!(
                text.contains(&part.replace('_', "\\_")) && as_table(&entries).contains(part.trim_matches([' ', '|'])),
                "{part}: {text}"
            );
        }
    }

    #[test]
    fn what_differs_between_reports_has_a_column() {
        let one = entry(sample(), "x").unwrap();
        let mut two = one.clone();
        (two.report.latency_ms.batch, two.report.engine.threads) = (4, 1);
        let heads = |entries: &[Entry]| comparison(entries).0.join(" ");
        assert!(!heads(std::slice::from_ref(&one)).contains("threads") && heads(&[]).contains("board"));
        let both = [one, two];
        assert!(heads(&both).contains("at once threads"));
        let rows = comparison(&both).1;
        assert_eq!(
            (&rows[0][4..6], &rows[1][4..6]),
            (&["1".into(), "4".into()][..], &["4".into(), "1".into()][..])
        );
    }

    #[test]
    fn table_markdown_and_page_have_the_same_cells() {
        let mut value = sample();
        value["model"]["file"] = "<a|b_c>&\u{1b}[31m".into();
        value["warnings"] = serde_json::json!(["hot & <slow>"]);
        let entries = [entry(value, "x").unwrap(), entry(sample(), "y").unwrap()];
        let (heads, rows) = comparison(&entries);
        let (text, markdown, page) = (as_table(&entries), as_markdown(&entries), crate::page::html(&entries));
        let cells = rows.iter().flatten().map(String::as_str).chain(heads);
        for cell in cells.chain(notes(&entries).iter().map(String::as_str)) {
            assert!(text.contains(cell), "{cell}: {text}");
            assert!(markdown.contains(&plain_markdown(cell)), "{cell}: {markdown}");
            assert!(page.contains(&crate::text::xml(cell)), "{cell}");
        }
        assert!(!text.contains('\u{1b}') && !markdown.contains('\u{1b}'));
    }

    #[test]
    fn a_history_is_known_to_be_writable_without_making_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        assert!(writable(&path).is_ok() && !path.exists());
        std::fs::write(&path, "x").unwrap();
        assert!(writable(&path).is_ok() && std::fs::read(&path).unwrap() == b"x");
        let missing = writable(&dir.path().join("no/h.jsonl")).unwrap_err().to_string();
        assert!(
            missing.contains("h.jsonl") && writable(dir.path()).is_err(),
            "{missing}"
        );
        // A link that leads nowhere yet stays one, until there is a line for what it leads to.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("later.jsonl", &link).unwrap();
        assert!(writable(&link).is_ok() && history(&link).unwrap().is_empty() && link.is_symlink());
        append(&link, &entry(sample(), "x").unwrap()).unwrap();
        assert_eq!(history(&dir.path().join("later.jsonl")).unwrap().len(), 1);
        std::os::unix::fs::symlink("no/later.jsonl", dir.path().join("lost")).unwrap();
        assert!(writable(&dir.path().join("lost")).is_err());
    }

    #[test]
    fn a_line_that_was_cut_short_is_no_report_and_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        let one = Entry {
            board: "küche".into(),
            ..entry(sample(), "x").unwrap()
        };
        append(&path, &one).unwrap();
        let line = std::fs::read(&path).unwrap();
        let within = line.windows(2).position(|w| w == "ü".as_bytes()).unwrap() + 1;
        for cut in [1, within, line.len() - 2] {
            std::fs::write(&path, [&line[..], &line[..cut]].concat()).unwrap();
            assert_eq!(load(&path).unwrap().len(), 1, "{cut}");
            append(&path, &one).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), [&line[..], &line[..]].concat());
        }
        // What a power failure leaves where a length reached the disk.
        std::fs::write(&path, [&line[..], &line[..40], &[0; 60][..]].concat()).unwrap();
        append(&path, &one).unwrap();
        assert_eq!(load(&path).unwrap().len(), 2);
        // One report as a person reads it: a line after it would make it none.
        let pretty = serde_json::to_string_pretty(&one).unwrap();
        std::fs::write(&path, pretty).unwrap();
        assert!(load(&path).is_ok());
        assert!(history(&path).unwrap_err().to_string().contains("several lines"));
        // All of it but its end: an editor's doing, and a report.
        std::fs::write(&path, &line[..line.len() - 1]).unwrap();
        append(&path, &one).unwrap();
        assert_eq!(load(&path).unwrap().len(), 2);
    }

    #[test]
    fn an_empty_history_is_one_and_an_empty_report_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.jsonl");
        std::fs::write(&path, "\n").unwrap();
        assert!(history(&path).unwrap().is_empty() && load(&path).is_err());
        let null = Path::new("/dev/null");
        assert!(writable(null).is_ok() && history(null).unwrap().is_empty());
        append(null, &entry(sample(), "x").unwrap()).unwrap();
        // A pipe that nobody writes to would be waited for; a socket is as little a file, and made without one's help.
        let pipe = dir.path().join("pipe");
        let _held = std::os::unix::net::UnixListener::bind(&pipe).unwrap();
        for error in [load(&pipe).unwrap_err(), writable(&pipe).unwrap_err()] {
            assert!(error.to_string().contains("no regular file"), "{error}");
        }
    }
}
