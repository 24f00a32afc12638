//! Reports held against what a target file says, against an earlier one of the same board, and against each other: as a table, in
//! Markdown, and in the cells the HTML page has too.

use super::Entry;
use crate::render::text::{Align, percent, printable, size, table};
use thimble_shared::board::architecture::Architecture;
use thimble_shared::board::report::Report;
use thimble_shared::board::target::Target;

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
    // A 64-bit kernel has another name for the vectors than a 32-bit one, and may run either's programs.
    let vectors = |f: &str| Architecture::ALL.iter().any(|one| one.vectors() == f);
    let has = |f: &String| board.features.iter().any(|b| b == f || vectors(b) && vectors(f));
    let missing: Vec<&str> = target
        .features
        .value
        .iter()
        .filter(|f| !has(f))
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

const HEADS: [&str; 15] = [
    "board",
    "when",
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
/// where they differ, energy where a board has told it, and the time where a board has several reports.
const WHEN: usize = 1;
const BATCH: usize = 5;
const THREADS: usize = 6;
const ENERGY: usize = 10;

/// Heads and rows of the comparison.
pub fn comparison(entries: &[Entry]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let any = |told: fn(&Report, &Report) -> bool| entries.iter().any(|e| told(&e.report, &entries[0].report));
    let again = |e: &Entry| e.time.is_some() && entries.iter().filter(|other| other.board == e.board).count() > 1;
    let hidden = [
        (WHEN, !entries.iter().any(again)),
        (BATCH, !any(|r, _| r.latency_ms.batch != 1)),
        (THREADS, !any(|r, first| r.engine.threads != first.engine.threads)),
        (ENERGY, !any(|r, _| r.energy.is_some())),
    ];
    let kept = |at: usize| !hidden.contains(&(at, true));
    let heads = (0..).zip(HEADS).filter(|(at, _)| kept(*at)).map(|(_, head)| head);
    let cells = |e| (0..).zip(row(e)).filter(|(at, _)| kept(*at)).map(|(_, cell)| cell);
    (heads.collect(), entries.iter().map(|e| cells(e).collect()).collect())
}

/// A time to the minute: 2026-11-30 12:05.
fn minute(time: &str) -> String {
    printable(&time.chars().take(16).collect::<String>().replacen('T', " ", 1))
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
        entry.time.as_deref().map_or("-".into(), minute),
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

/// Reports side by side for a terminal, one row each, notes below.
pub fn as_table(entries: &[Entry]) -> String {
    let (heads, rows) = comparison(entries);
    let mut aligns = vec![Align::Right; heads.len()];
    for (head, align) in heads.iter().zip(&mut aligns) {
        if ["board", "when", "model", "verdict"].contains(head) {
            *align = Align::Left;
        }
    }
    let mut text = table(&heads, &aligns, &rows);
    notes(entries).iter().for_each(|note| text += &format!("{note}\n"));
    text
}

/// Reports side by side as a Markdown table, one row each, notes below as a list.
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
mod tests {
    use super::super::entry;
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn reports_are_held_against_target_and_last() {
        let report: Report = serde_json::from_value(sample()).unwrap();
        let pi4 = crate::boards::profiles::find("pi-4").unwrap();
        assert_eq!(against_target(&report, &pi4), Vec::<String>::new());
        let pi5 = against_target(&report, &crate::boards::profiles::find("pi-5").unwrap()).join("; ");
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
        assert_eq!((cells(&text), row(&entries[0]).len()), (HEADS.len() - 4, HEADS.len()));
        // The energy is a column where one board has told it.
        entries[0].report.energy = Some(thimble_shared::board::report::Energy {
            sensor: "ina3221 VDD_IN".into(),
            watts: 6.25,
            idle_watts: Some(4.0),
            mj_per_inference: 31.25,
            readings: 40,
        });
        let text = as_markdown(&entries);
        assert_eq!(cells(&text), HEADS.len() - 3);
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
    fn reports_of_one_board_are_told_apart_by_their_time() {
        let dated = |board: &str, time: &str| Entry {
            board: board.into(),
            time: Some(time.into()),
            ..entry(sample(), "x").unwrap()
        };
        let (monday, tuesday) = (dated("x", "2026-11-30T12:05:09Z"), dated("x", "2026-12-01T08:00:00Z"));
        assert!(
            !comparison(&[monday.clone(), dated("y", "2026-12-01T08:00:00Z")])
                .0
                .contains(&"when")
        );
        let (heads, rows) = comparison(&[monday, tuesday]);
        assert_eq!(heads[..3], ["board", "when", "model"]);
        assert_eq!(
            (rows[0][1].as_str(), rows[1][1].as_str()),
            ("2026-11-30 12:05", "2026-12-01 08:00")
        );
    }

    #[test]
    fn table_markdown_and_page_have_the_same_cells() {
        let mut value = sample();
        value["model"]["file"] = "<a|b_c>&\u{1b}[31m".into();
        value["warnings"] = serde_json::json!(["hot & <slow>"]);
        let entries = [entry(value, "x").unwrap(), entry(sample(), "y").unwrap()];
        let (heads, rows) = comparison(&entries);
        let (text, markdown, page) = (
            as_table(&entries),
            as_markdown(&entries),
            crate::boards::report_page::page(&entries),
        );
        let cells: Vec<&str> = rows.iter().flatten().map(String::as_str).chain(heads).collect();
        for cell in cells.iter().copied().chain(notes(&entries).iter().map(String::as_str)) {
            assert!(text.contains(cell), "{cell}: {text}");
            assert!(markdown.contains(&plain_markdown(cell)), "{cell}: {markdown}");
        }
        // The page says whose a note is after it, and each once.
        for cell in cells.into_iter().chain(["warning: hot & <slow>"]) {
            assert!(page.contains(&maud::html! { (cell) }.into_string()), "{cell}");
        }
        assert!(!text.contains('\u{1b}') && !markdown.contains('\u{1b}'));
    }
}
