//! One self-contained HTML page over bench reports: a table, the latency of every run, memory by kind against the board's
//! RAM, bytes by weight, and the trend of each board. No script, nothing fetched. Times are milliseconds, sizes bytes.

mod dates;
mod lane;
mod notes;
mod trend;

use crate::boards::reports::{Entry, comparison};
use crate::render::html::hundredths;
use crate::render::text::{percent, size};
use crate::render::theme::{self, Table, Tone, chip, key};
use lane::{Axis, bar, lane, name};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};
use thimble_shared::board::report::ModelReport;

/// The whole page.
pub fn page(entries: &[Entry]) -> String {
    let title = format!(
        "thimble: {} bench report{}",
        entries.len(),
        if entries.len() == 1 { "" } else { "s" }
    );
    let body = html! {
        h1 { (title) }
        (overview(entries))
        (latency(entries))
        (memory(entries))
        (energy(entries))
        (weights(entries))
        (trend::section(entries))
    };
    theme::page(&title, "", body)
}

fn overview(entries: &[Entry]) -> Markup {
    let (heads, rows) = comparison(entries);
    let words = ["board", "when", "model", "verdict"];
    let heads: Vec<(&str, bool)> = heads.into_iter().map(|head| (head, !words.contains(&head))).collect();
    let cells = |row: Vec<String>| row.into_iter().map(|cell| html! { (cell) }).collect();
    let table = Table {
        heads: &heads,
        rows: rows.into_iter().map(|row| ("", cells(row))).collect(),
    };
    html! {
        section id="overview" {
            div.many { (table.markup()) }
            (notes::list(entries))
        }
        "\n"
    }
}

/// A section with its title.
fn section(id: &str, title: &str, body: Markup) -> Markup {
    html! { section id=(id) { h2 { (title) } (body) } "\n" }
}

/// Every run as a dot over a common axis, the median and the 95th percentile as marks.
fn latency(entries: &[Entry]) -> Markup {
    let timed: Vec<&Entry> = entries.iter().filter(|e| e.report.latency_ms.p50.is_some()).collect();
    let untimed = entries.len() - timed.len();
    let axis = Axis::to(timed.iter().filter_map(|e| e.report.latency_ms.max));
    // Dots of equal height would hide each other: the order of the runs spreads them over the lane.
    let height = |run: usize| hundredths(14.0 + 72.0 * (run % 29) as f64 / 28.0);
    let runs = |e: &Entry| {
        let l = &e.report.latency_ms;
        let mark = |class: &str, ms: Option<f64>| {
            let at = ms.map(|ms| (axis.at(ms), ms));
            html! {
                @if let Some((x, ms)) = at {
                    line x1={ (x) "%" } x2={ (x) "%" } y1="0" y2="100%" class=(class) { title { (hundredths(ms)) " ms" } }
                }
            }
        };
        html! {
            div.track style="height:2.9rem" {
                svg role="img" aria-label={ "Latency of every run, " (e.board) } {
                    (axis.grid())
                    @for (run, ms) in l.samples.iter().enumerate() {
                        circle cx={ (axis.at(*ms)) "%" } cy={ (height(run)) "%" } r="2.5" class="dot" {}
                    }
                    (mark("p95", l.p95))
                    (mark("median", l.p50))
                }
            }
        }
    };
    let value = |e: &Entry| {
        let l = &e.report.latency_ms;
        html! {
            @if let Some(ms) = l.p50 { strong { (hundredths(ms)) " ms" } }
            @if let Some(ms) = l.p95 { " " small { "p95 " (hundredths(ms)) } }
        }
    };
    let swatch = |mark: Markup| html! { svg width="22" height="18" aria-hidden="true" { (mark) } };
    let body = html! {
        @if untimed > 0 { p.soft { (untimed) " without times: an emulator's clock says nothing." } }
        @if !timed.is_empty() {
            ul.legend {
                li { (swatch(html! { circle cx="11" cy="9" r="2.5" class="dot" {} })) "a run, in milliseconds" }
                li { (swatch(html! { line x1="11" x2="11" y1="0" y2="18" class="median" {} })) "median" }
                li { (swatch(html! { line x1="11" x2="11" y1="0" y2="18" class="p95" {} })) "95th percentile" }
            }
            @for e in &timed { (lane(name(e, &timed), runs(e), value(e))) }
            (axis.ticks("ms"))
        }
    };
    section("latency", "Latency", body)
}

/// What the process holds by kind, and beneath it its peak as a share of the board's RAM.
fn memory(entries: &[Entry]) -> Markup {
    let told: Vec<&Entry> = entries.iter().filter(|e| e.report.memory.peak_rss.is_some()).collect();
    if told.is_empty() {
        return section("memory", "Memory", html! { p { "No report tells its memory." } });
    }
    let unit = Unit::of(told.iter().filter_map(|e| e.report.memory.peak_rss));
    let axis = Axis::to(
        told.iter()
            .filter_map(|e| e.report.memory.peak_rss)
            .map(|bytes| unit.of_bytes(bytes)),
    );
    let bars = |e: &Entry| {
        let m = &e.report.memory;
        let (peak, anon, file) = (m.peak_rss.unwrap_or(0), m.anon.unwrap_or(0), m.file.unwrap_or(0));
        let at = |bytes: u64| axis.share(unit.of_bytes(bytes));
        // A report that contradicts itself draws within its peak.
        let (own, both) = (at(anon.min(peak)), at(anon.saturating_add(file).min(peak)));
        let of_ram = e
            .report
            .board
            .mem_total
            .filter(|total| *total > 0)
            .map(|total| peak as f64 / total as f64);
        html! {
            div.tracks {
                div.track {
                    (bar("rest", 0.0, at(peak), &format!("peak {}", size(peak))))
                    (bar("own", 0.0, own, &format!("its own {}", size(anon))))
                    (bar("file", own, both, &format!("files {}", size(file))))
                }
                @if let Some(share) = of_ram {
                    div.track.thin {
                        (bar("rest", 0.0, 1.0, "the board's RAM"))
                        (bar("own", 0.0, share.min(1.0), "peak"))
                    }
                }
            }
        }
    };
    let value = |e: &Entry| {
        let peak = e.report.memory.peak_rss.unwrap_or(0);
        html! {
            strong { (size(peak)) }
            @if let Some(total) = e.report.board.mem_total.filter(|total| *total > 0) {
                " " small { (percent(peak, total)) " of " (size(total)) }
            }
        }
    };
    let body = html! {
        ul.legend {
            li { (key("own")) "its own" }
            li { (key("file")) "pages of files, which the kernel may drop" }
            li { (key("rest")) "up to the peak, given back by the end" }
            li { "thin: the peak within the board's RAM" }
        }
        @for e in &told { (lane(name(e, &told), bars(e), value(e))) }
        (axis.ticks(unit.name))
    };
    section("memory", "Memory", body)
}

/// What each board drew idle and while it ran; nothing at all where no board has a sensor.
fn energy(entries: &[Entry]) -> Markup {
    let told = entries.iter().filter_map(|e| Some((e, e.report.energy.as_ref()?)));
    let told: Vec<_> = told.filter(|(_, e)| e.watts.is_finite() && e.watts >= 0.0).collect();
    if told.is_empty() {
        return Markup::default();
    }
    let axis = Axis::to(told.iter().map(|(_, e)| e.watts));
    let all: Vec<&Entry> = told.iter().map(|(entry, _)| *entry).collect();
    let body = html! {
        ul.legend {
            li { (key("own")) "idle" }
            li { (key("file")) "more while running" }
            li { "at the right: the energy of one inference" }
        }
        @for (entry, e) in &told {
            @let running = format!("{:.2} W, {} readings of {}", e.watts, e.readings, e.sensor);
            @let idle = e.idle_watts.filter(|w| w.is_finite());
            @let bars = html! {
                div.track {
                    (bar("file", 0.0, axis.share(e.watts), &running))
                    @if let Some(idle) = idle { (bar("own", 0.0, axis.share(idle), &format!("idle {idle:.2} W"))) }
                }
            };
            (lane(name(entry, &all), bars, html! { strong { (format!("{:.1} mJ", e.mj_per_inference)) } }))
        }
        (axis.ticks("W"))
    };
    section("energy", "Energy", body)
}

/// The unit that an axis of bytes is written in.
struct Unit {
    name: &'static str,
    bytes: f64,
}

impl Unit {
    /// The largest that leaves the most at 1 or more.
    fn of(bytes: impl Iterator<Item = u64>) -> Unit {
        let most = bytes.max().unwrap_or(0) as f64;
        let units = [
            ("GiB", f64::from(1 << 30)),
            ("MiB", f64::from(1 << 20)),
            ("KiB", 1024.0),
        ];
        let (name, bytes) = units
            .into_iter()
            .find(|(_, factor)| most >= *factor)
            .unwrap_or(("B", 1.0));
        Unit { name, bytes }
    }

    fn of_bytes(&self, bytes: u64) -> f64 {
        bytes as f64 / self.bytes
    }
}

/// Bytes by weight, once for every different model file, all on one scale.
fn weights(entries: &[Entry]) -> Markup {
    let mut models = BTreeMap::new();
    for e in entries.iter().filter(|e| !e.report.model.weights.is_empty()) {
        models
            .entry((&e.report.model.file, &e.report.model.sha256))
            .or_insert(&e.report.model);
    }
    let rows: Vec<(&ModelReport, Vec<Weight>)> = models.values().map(|model| (*model, weights_of(model))).collect();
    let all = || rows.iter().flat_map(|(_, weights)| weights);
    let unit = Unit::of(all().map(|w| w.bytes));
    let axis = Axis::to(all().map(|w| unit.of_bytes(w.bytes)));
    let tones: BTreeSet<(Tone, &str)> = all().map(|w| (w.tone(), w.format.as_str())).collect();
    let twice = |file: &str| models.keys().filter(|(name, _)| name.as_str() == file).count() > 1;
    let body = html! {
        @if rows.is_empty() { p { "No report tells the size of its weights." } }
        @else {
            ul.legend { @for (tone, format) in &tones { li { (key(tone.class())) (format) } } }
        }
        @for (model, weights) in &rows {
            h3 {
                (model.file) ": " (size(model.bytes))
                @if twice(&model.file) && let Some(digest) = &model.sha256 {
                    " " small { "SHA-256 " (digest.chars().take(8).collect::<String>()) "…" }
                }
            }
            @for w in weights {
                @let bars = html! {
                    div.track {
                        (bar(w.tone().class(), 0.0, axis.share(unit.of_bytes(w.bytes)), &format!("{} {}", w.name, w.format)))
                    }
                };
                (lane(html! { (w.name) }, bars, html! { (size(w.bytes)) " " (chip(w.tone(), &w.format)) }))
            }
            (axis.ticks(unit.name))
        }
    };
    section("weights", "Size by weight", body)
}

/// A bar of the drawing by weight.
struct Weight {
    name: String,
    bytes: u64,
    format: String,
}

/// What several weights together are called whose formats differ.
const MIXED: &str = "mixed";

impl Weight {
    fn tone(&self) -> Tone {
        match self.format == MIXED {
            true => Tone::Graph,
            false => Tone::of_format(&self.format),
        }
    }
}

/// The largest weights of a model one by one, the others together.
fn weights_of(model: &ModelReport) -> Vec<Weight> {
    const MOST: usize = 14;
    // Vectors have no choice of formats, and a report does not list them.
    let format = |name: &str| model.formats.get(name).map_or("f32", String::as_str);
    let weight = |(name, bytes): (&String, &u64)| Weight {
        name: name.clone(),
        bytes: *bytes,
        format: format(name).to_string(),
    };
    let mut weights: Vec<Weight> = model.weights.iter().map(weight).collect();
    weights.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.name.cmp(&b.name)));
    let others = weights.split_off(weights.len().min(MOST));
    if let Some(first) = others.first() {
        let same = others.iter().all(|w| w.format == first.format);
        weights.push(Weight {
            name: format!("{} others", others.len()),
            bytes: others.iter().fold(0, |sum, w| sum.saturating_add(w.bytes)),
            format: if same { first.format.clone() } else { MIXED.into() },
        });
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Entry {
        let report = serde_json::json!({
            "schema": 1, "model": {"file": "<script>alert(1)</script>", "sha256": null, "bytes": 1, "formats": {}, "weights": {"<b>": 3}},
            "board": {"features": []}, "engine": {"version": "", "tract": "", "kernels": [], "threads": 1, "locked": false},
            "load_ms": null, "first_inference_ms": null, "latency_ms": {"seq": 1, "runs": 0, "warmup": 0},
            "memory": {"peak_rss": 5}, "energy": {"sensor": "\"><u>", "watts": 3.0, "idle_watts": 1.0, "mj_per_inference": 9.0, "readings": 12}, "faults": {}, "thermal": {}, "verdict": {"fits": false, "reasons": ["<i>"]}
        });
        serde_json::from_value(serde_json::json!({"schema": 1, "board": "a\"><img>", "report": report})).unwrap()
    }

    #[test]
    fn names_from_files_cannot_become_markup() {
        let entry = sample();
        let text = page(&[entry.clone(), entry]);
        for bad in ["<script", "<b>", "<img", "<i>", "<u>", "https://", "src=", "href="] {
            assert!(!text.contains(bad), "{bad}");
        }
        assert!(text.contains("&lt;script&gt;") && text.contains("id=\"trend\""));
        assert_eq!(page(&[]).matches("<svg").count(), 0);
        assert_eq!(text.matches("http://").count(), 1, "the name of XHTML alone");
        assert!(text.contains("id=\"energy\"") && text.contains("9.0 mJ"));
    }

    #[test]
    fn a_point_of_the_trend_has_the_date_of_its_report() {
        let at = |day: u32, peak: Option<u64>, batch: u32| {
            let mut entry = sample();
            entry.time = Some(format!("2026-01-0{day}"));
            entry.report.memory.peak_rss = peak;
            entry.report.latency_ms.batch = batch;
            entry
        };
        // The second tells nothing, the fourth is of other work.
        let text = page(&[
            at(1, Some(1 << 20), 1),
            at(2, None, 1),
            at(3, Some(3 << 20), 1),
            at(4, Some(9 << 20), 2),
        ]);
        for point in ["1.00 MiB, 1 January 2026", "3.00 MiB, 3 January 2026"] {
            assert!(text.contains(&format!("<title>{point}</title>")), "{point}");
        }
        assert!(!text.contains("9.00 MiB, 4 January") && text.contains("1 tokens, 1 thread, 3 reports"));
    }

    #[test]
    fn all_models_are_drawn_on_one_scale() {
        let of = |file: &str, bytes: u64, format: &str| {
            let mut entry = sample();
            entry.report.model.file = file.into();
            entry.report.model.weights = [("word".to_string(), bytes)].into();
            entry.report.model.formats = [("word".to_string(), format.to_string())].into();
            entry
        };
        let text = page(&[
            of("small", 500 << 10, "i4"),
            of("large", 2 << 20, "f32"),
            of("newer", 1 << 20, "x9"),
        ]);
        for (width, tone) in [("24.41", "i4"), ("100.00", "f32"), ("50.00", "other")] {
            assert!(
                text.contains(&format!("class=\"bar {tone}\"")) && text.contains(&format!("left:0.00%;width:{width}%")),
                "{width}: {text}"
            );
        }
        for legend in ["i4", "f32", "x9"] {
            assert!(text.contains(&format!("</span>{legend}</li>")), "{legend}");
        }
    }

    #[test]
    fn an_axis_reaches_beyond_the_slowest_run() {
        let mut entry = sample();
        let l = &mut entry.report.latency_ms;
        (l.p50, l.p95, l.max) = (Some(20.0), Some(40.0), Some(47.7));
        l.samples = vec![20.0, 47.7];
        let text = page(&[entry]);
        assert!(
            text.contains("left:100.00%\">50</span>") && text.contains("cx=\"95.40%\""),
            "{text}"
        );
        assert!(text.contains("class=\"median\"") && text.contains("class=\"p95\""));
    }
}
