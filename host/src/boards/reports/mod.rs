//! Bench reports as the host keeps them: read from single files (the device's, emulate's) or from a history of JSON lines,
//! named by board and stamped with the time they were brought back.

mod compare;
mod journal;

pub use compare::{against_last, against_target, as_markdown, as_table, comparison, notes};
pub use journal::{append, writable};

use crate::fs::atomic::{self, FileError};
use crate::render::text::{printable, remark};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use thimble_shared::board::report::{Report, SCHEMA};
use thimble_shared::file_kind::FileKind;

/// One report with what the host knows of it: a line of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The schema's number, as in the report.
    pub schema: u32,
    /// UTC, as 2026-01-31T12:00:00Z; absent in a file straight from a board, which may have no clock.
    #[serde(default)]
    pub time: Option<String>,
    /// Which board it was: as ssh or the inventory calls it, or what it calls itself.
    pub board: String,
    /// Name of the target the report was held against; `None` where there was none.
    #[serde(default)]
    pub target: Option<String>,
    /// What the board measured.
    pub report: Report,
}

/// Why reports cannot be read or added.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file cannot be read or written, or holds no report.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line of a history is no report.
    #[error("{} line {line}: {problem}", path.display())]
    Line {
        /// The history.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with the line.
        problem: String,
    },
}

/// Every report of a file, oldest first.
///
/// # Errors
/// Where the file cannot be read, holds no report, or one of a line is damaged.
pub fn load(path: &Path) -> Result<Vec<Entry>, ReportError> {
    atomic::regular(path)?;
    let entries = entries(path)?;
    if entries.is_empty() {
        return Err(FileError::new(path, "holds no report").into());
    }
    Ok(entries)
}

/// The same of a history that a report is to be added to: it may be empty, not be there yet, or be /dev/null.
///
/// # Errors
/// Those of [`load`], and one report spread over several lines.
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
    let torn = journal::torn(&bytes).len();
    if torn > 0 {
        remark(&format!(
            "note: {}: its last line was cut short and is left out",
            printable(&path.display().to_string())
        ));
        bytes.truncate(bytes.len() - torn);
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        file(match FileKind::of(e.as_bytes()) {
            FileKind::Onnx => {
                "is a model, no bench report; thimble deploy and thimble-device bench --json write reports".into()
            }
            _ => "is no bench report: no text in UTF-8".to_string(),
        })
    })?;
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
    // What an emulator calls its board is no board's name; the target it stands for is known, and the file's name only if nothing is.
    let emulated = report.board.emulated.is_some();
    let own = report.board.model.clone().filter(|_| !emulated);
    let held = (target.as_ref()).map(|target| {
        if emulated {
            format!("{target}, emulated")
        } else {
            target.clone()
        }
    });
    Ok(Entry {
        schema: SCHEMA,
        time: None,
        board: own.or(held).unwrap_or_else(|| stem.to_string()),
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

/// What was measured and on what: reports that differ here cannot be compared. The file's name and not its checksum, so that
/// a model that was made anew is held against what it replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportKind<'a> {
    /// The board's name in the entry.
    pub board: &'a str,
    /// File name of the model.
    pub model: &'a str,
    /// Tokens per sequence.
    pub seq: u32,
    /// Sequences in one pass.
    pub batch: u32,
    /// Threads the engine computed with.
    pub threads: u32,
}

impl<'a> ReportKind<'a> {
    /// The kind of a report of that board.
    pub fn of(board: &'a str, report: &'a Report) -> ReportKind<'a> {
        ReportKind {
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
    /// The kind of the entry's report.
    pub fn kind(&self) -> ReportKind<'_> {
        ReportKind::of(&self.board, &self.report)
    }
}

/// The last report in `history` that this one can be compared with.
pub fn last<'a>(history: &'a [Entry], kind: &ReportKind) -> Option<&'a Entry> {
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

#[cfg(test)]
pub(crate) mod tests {
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
        assert_eq!(
            (wrapped[0].target.as_deref(), wrapped[0].board.as_str()),
            (Some("pi-4"), "pi-4")
        );
        let mut emulated = sample();
        emulated["board"]["emulated"] = "qemu-system".into();
        let emulated = serde_json::json!({"schema": 1, "target": "pi-4", "report": emulated});
        assert_eq!(
            load(&write("v.json", &emulated.to_string())).unwrap()[0].board,
            "pi-4, emulated"
        );
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
            ReportKind {
                seq: 17,
                ..kind.clone()
            },
            ReportKind {
                batch: 2,
                ..kind.clone()
            },
            ReportKind {
                threads: 1,
                ..kind.clone()
            },
            ReportKind {
                model: "n.onnx",
                ..kind.clone()
            },
            ReportKind {
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
}
