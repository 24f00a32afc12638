//! One self-contained HTML page over bench reports: a table, the latency of every run, memory by kind against the board's
//! RAM, bytes by weight, and the trend of each board. Inline SVG and CSS, no script, nothing fetched; maud escapes the text from
//! files. Times are milliseconds, sizes bytes.

use crate::boards::reports::{Entry, ReportKind, comparison, notes};
use crate::render::html::{hundredths, tenths, written};
use crate::render::text::{percent, size};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::collections::BTreeMap;
use thimble_shared::board::report::ModelReport;
use thimble_shared::dtype::{Format, Storage};

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2330;--soft:#667085;--line:#dfe3ea;--back:#fff;--a:#2f6fde;--b:#e08a2c;--c:#3a9d6e;--bar:#eef1f5}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--line:#323a48;--back:#151a23;--a:#6ea0f5;--b:#f0a860;--c:#62c495;--bar:#232a36}}
*{box-sizing:border-box}body{margin:0 auto;max-width:70rem;padding:2rem 1rem;font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back)}
@media(max-width:40rem){body{padding:1rem .7rem}ul{padding-left:1.2rem}}h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}p{color:var(--soft);margin:.2rem 0 .8rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap}
th,td{padding:.35rem .7rem;border-bottom:1px solid var(--line);text-align:right}th{color:var(--soft);font-weight:500}
td:first-child,th:first-child,td:nth-child(2),th:nth-child(2),td:last-child,th:last-child{text-align:left}
svg{display:block;width:100%;min-width:38rem;height:auto}svg text{fill:var(--ink);font:12px system-ui,sans-serif}
svg .soft{fill:var(--soft)}.a{fill:var(--a)}.b{fill:var(--b)}.c{fill:var(--c)}.bar{fill:var(--bar)}.axis{stroke:var(--line)}
.line{fill:none;stroke:var(--a);stroke-width:2}.dot{fill:var(--a);fill-opacity:.45}.mark{stroke:var(--b);stroke-width:2}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .3em 0 .9em}
";

/// Width of every drawing, in its own units; names stand in the left part.
const WIDTH: f64 = 900.0;
const LEFT: f64 = 220.0;
const PLOT: f64 = WIDTH - LEFT - 150.0;

/// The whole page.
pub fn page(entries: &[Entry]) -> String {
    written(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { "thimble: bench reports" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "thimble: " (entries.len()) " bench report" @if entries.len() != 1 { "s" } }
                (overview(entries))
                (latency(entries))
                (memory(entries))
                (energy(entries))
                (weights(entries))
                (trend(entries))
            }
        }
    })
}

/// At most `most` characters: a drawing has no room for more.
fn short(text: &str, most: usize) -> String {
    let cut: String = text.chars().take(most).collect();
    if cut.len() < text.len() {
        format!("{cut}…")
    } else {
        cut
    }
}

fn overview(entries: &[Entry]) -> Markup {
    let (heads, rows) = comparison(entries);
    let notes = notes(entries);
    html! {
        section id="overview" {
            div.wide {
                table {
                    thead { tr { @for head in heads { th { (head) } } } }
                    tbody { @for cells in rows { tr { @for cell in cells { td { (cell) } } } "\n" } }
                }
            }
            @if !notes.is_empty() {
                ul { @for note in notes { li { (note) } } }
            }
        }
    }
}

/// A section with its title.
fn section(id: &str, title: &str, body: Markup) -> Markup {
    html! { section id=(id) { h2 { (title) } (body) } "\n" }
}

/// The square that a color of the drawing beneath is explained with.
fn key(color: &str) -> Markup {
    html! { span.key style={ "background:var(--" (color) ")" } {} }
}

fn drawing(height: f64, label: &str, body: Markup) -> Markup {
    html! {
        div.wide { svg viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label=(label) { (body) } }
    }
}

fn text_at(x: f64, y: f64, class: &str, anchor: &str, text: &str) -> Markup {
    html! { text x=(tenths(x)) y=(tenths(y)) class=(class) text-anchor=(anchor) { (text) } }
}

/// Which report a lane shows: its board, and beneath it what was run there.
fn lane_name(entry: &Entry, middle: f64) -> Markup {
    let kind = entry.kind();
    html! {
        (text_at(LEFT - 12.0, middle - 1.0, "", "end", &short(kind.board, 30)))
        (text_at(LEFT - 12.0, middle + 13.0, "soft", "end", &short(&kind.work(), 34)))
    }
}

fn rect(x: f64, y: f64, width: f64, height: f64, class: &str, title: &str) -> Markup {
    html! {
        rect x=(tenths(x)) y=(tenths(y)) width=(hundredths(width)) height=(height) class=(class) { title { (title) } }
    }
}

/// Every run as a dot over a common axis, the median and the 95th percentile as marks.
fn latency(entries: &[Entry]) -> Markup {
    let timed: Vec<&Entry> = entries.iter().filter(|e| e.report.latency_ms.p50.is_some()).collect();
    let untimed = entries.len() - timed.len();
    let most = timed.iter().filter_map(|e| e.report.latency_ms.max).fold(0.0, f64::max);
    let most = (most * 1.02).min(f64::MAX);
    // A report that contradicts itself draws at the edge, not across the page.
    let x = |ms: f64| tenths(LEFT + PLOT * (ms / most.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0));
    let lane = 46.0;
    let bottom = lane * timed.len() as f64;
    // Dots of equal height would hide each other: the order of the runs spreads them over the lane.
    let dot = |middle: f64, run: usize| tenths(middle - 14.0 + 28.0 * (run % 29) as f64 / 28.0);
    let body = html! {
        (axis(most, bottom, |ms| format!("{ms}")))
        @for (at, entry) in timed.iter().enumerate() {
            @let (l, middle) = (&entry.report.latency_ms, lane * at as f64 + lane / 2.0);
            (lane_name(entry, middle))
            @for (run, ms) in l.samples.iter().enumerate() {
                circle cx=(x(*ms)) cy=(dot(middle, run)) r="2.5" class="dot" {}
            }
            @for ms in [l.p50, l.p95].into_iter().flatten() {
                line x1=(x(ms)) x2=(x(ms)) y1=(tenths(middle - 17.0)) y2=(tenths(middle + 17.0)) class="mark" {
                    title { (hundredths(ms)) " ms" }
                }
            }
            (text_at(WIDTH, middle + 4.0, "soft", "end", &l.p50.map_or(String::new(), |ms| format!("{ms:.2} ms"))))
        }
    };
    let told = html! {
        @if untimed > 0 { p { (untimed) " without times: an emulator's clock says nothing." } }
        @if !timed.is_empty() {
            p { "Each dot is a run, in milliseconds; the marks are the median and the 95th percentile." }
            (drawing(bottom + 24.0, "Latency of every run by board", body))
        }
    };
    section("latency", "Latency", told)
}

/// Grid lines at round figures from 0 to `most`, labeled below.
fn axis(most: f64, bottom: f64, label: impl Fn(f64) -> String) -> Markup {
    let raw = (most / 5.0).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let step = power
        * [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .find(|m| m * power >= raw)
            .unwrap_or(10.0);
    // Rounded, so that 3 × 0.1 is written as people write it.
    let tick = |tick: u32| (f64::from(tick) * step / power * 100.0).round() / 100.0 * power;
    html! {
        @for value in (0..=10).map(tick).take_while(|value| *value <= most) {
            @let x = LEFT + PLOT * value / most.max(f64::MIN_POSITIVE);
            line x1=(tenths(x)) x2=(tenths(x)) y1="0" y2=(bottom) class="axis" {}
            (text_at(x, bottom + 16.0, "soft", "middle", &label((value * 1e6).round() / 1e6)))
        }
    }
}

/// What the process holds by kind, and beneath it its peak as a share of the board's RAM.
fn memory(entries: &[Entry]) -> Markup {
    let told: Vec<&Entry> = entries.iter().filter(|e| e.report.memory.peak_rss.is_some()).collect();
    if told.is_empty() {
        return section("memory", "Memory", html! { p { "No report tells its memory." } });
    }
    let most = told
        .iter()
        .filter_map(|e| e.report.memory.peak_rss)
        .max()
        .unwrap_or(1)
        .max(1) as f64;
    let lane = 46.0;
    let wide = |bytes: u64| PLOT * (bytes as f64 / most).min(1.0);
    let body = html! {
        @for (at, entry) in told.iter().enumerate() {
            @let (m, top) = (&entry.report.memory, lane * at as f64 + 4.0);
            @let peak = m.peak_rss.unwrap_or(0);
            @let (anon, file) = (m.anon.unwrap_or(0), m.file.unwrap_or(0));
            @let pages = wide(file).min(PLOT - wide(anon));
            (lane_name(entry, top + 14.0))
            (rect(LEFT, top, wide(peak), 20.0, "bar", &format!("peak {}", size(peak))))
            (rect(LEFT, top, wide(anon), 20.0, "a", &format!("its own {}", size(anon))))
            (rect(LEFT + wide(anon), top, pages, 20.0, "c", &format!("files {}", size(file))))
            (text_at(WIDTH, top + 15.0, "soft", "end", &size(peak)))
            @if let Some(total) = entry.report.board.mem_total.filter(|t| *t > 0) {
                @let share = (peak as f64 / total as f64).min(1.0);
                @let title = format!("{} of {}", percent(peak, total), size(total));
                (rect(LEFT, top + 24.0, PLOT, 6.0, "bar", &title))
                (rect(LEFT, top + 24.0, PLOT * share, 6.0, "b", &title))
                (text_at(WIDTH, top + 32.0, "soft", "end", &title))
            }
        }
    };
    let told = html! {
        p {
            (key("a")) "its own" (key("c")) "pages of files, which the kernel may drop"
            (key("b")) "peak, as a share of the board's RAM"
        }
        (drawing(lane * told.len() as f64, "Memory by kind and board", body))
    };
    section("memory", "Memory", told)
}

/// What each board drew idle and while it ran; nothing at all where no board has a sensor.
fn energy(entries: &[Entry]) -> Markup {
    let told = entries.iter().filter_map(|e| Some((e, e.report.energy.as_ref()?)));
    let told: Vec<_> = told.filter(|(_, e)| e.watts.is_finite() && e.watts >= 0.0).collect();
    if told.is_empty() {
        return Markup::default();
    }
    let most = told.iter().map(|(_, e)| e.watts).fold(0.0, f64::max);
    let wide = |watts: f64| PLOT * (watts / most.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    let lane = 34.0;
    let bottom = lane * told.len() as f64;
    let body = html! {
        (axis(most, bottom, |watts| format!("{watts}")))
        @for (at, (entry, e)) in told.iter().enumerate() {
            @let top = lane * at as f64 + 7.0;
            @let title = format!("{:.2} W, {} readings of {}", e.watts, e.readings, e.sensor);
            (lane_name(entry, top + 10.0))
            (rect(LEFT, top, wide(e.watts), 20.0, "b", &title))
            @if let Some(idle) = e.idle_watts {
                (rect(LEFT, top, wide(idle), 20.0, "a", &format!("idle {idle:.2} W")))
            }
            (text_at(WIDTH, top + 15.0, "soft", "end", &format!("{:.1} mJ", e.mj_per_inference)))
        }
    };
    let told = html! {
        p {
            (key("a")) "idle" (key("b")) "while running, in watts; beside it the energy of one inference"
        }
        (drawing(bottom + 24.0, "Power by board", body))
    };
    section("energy", "Energy", told)
}

/// Bytes by weight, once for every different model file.
fn weights(entries: &[Entry]) -> Markup {
    let mut models = BTreeMap::new();
    for e in entries.iter().filter(|e| !e.report.model.weights.is_empty()) {
        models
            .entry((&e.report.model.file, &e.report.model.sha256))
            .or_insert(&e.report.model);
    }
    let told = html! {
        @if models.is_empty() { p { "No report tells the size of its weights." } }
        @for model in models.values() {
            p { (model.file) ": " (size(model.bytes)) }
            (weights_of(model))
        }
    };
    section("weights", "Size by weight", told)
}

/// The largest weights of a model one by one, the others together.
fn weights_of(model: &ModelReport) -> Markup {
    const MOST: usize = 14;
    let mut sizes: Vec<(&str, u64)> = model
        .weights
        .iter()
        .map(|(name, bytes)| (name.as_str(), *bytes))
        .collect();
    sizes.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let rest = sizes.iter().skip(MOST).fold(0u64, |sum, s| sum.saturating_add(s.1));
    let others = sizes.len().saturating_sub(MOST);
    sizes.truncate(MOST);
    let named = format!("{others} others");
    if others > 0 {
        sizes.push((&named, rest));
    }
    let most = sizes.iter().map(|s| s.1).max().unwrap_or(1).max(1) as f64;
    let class = |format: &str| match format.parse::<Format>().map(Format::storage) {
        Ok(Storage::I8 | Storage::I4) => "c",
        Ok(Storage::F16) => "b",
        // Or of a newer program than this one.
        Ok(Storage::F32) | Err(_) => "a",
    };
    let body = html! {
        @for (at, (name, bytes)) in sizes.iter().enumerate() {
            @let top = 22.0 * at as f64;
            @let format = model.formats.get(*name).map_or("", String::as_str);
            @let wide = PLOT * *bytes as f64 / most;
            (text_at(LEFT - 12.0, top + 13.0, "", "end", &short(name, 32)))
            (rect(LEFT, top, wide, 16.0, class(format), &format!("{name} {format}")))
            (text_at(WIDTH, top + 13.0, "soft", "end", format!("{} {format}", size(*bytes)).trim_end()))
        }
    };
    drawing(22.0 * sizes.len() as f64, "Bytes by weight", body)
}

/// The median and the peak of what was measured more than once in the same way, in the order of the reports.
fn trend(entries: &[Entry]) -> Markup {
    let mut kinds: Vec<(ReportKind, Vec<&Entry>)> = Vec::new();
    for e in entries {
        match kinds.iter_mut().find(|(kind, _)| *kind == e.kind()) {
            Some((_, seen)) => seen.push(e),
            None => kinds.push((e.kind(), vec![e])),
        }
    }
    kinds.retain(|(_, seen)| seen.len() > 1);
    let told = html! {
        @if kinds.is_empty() { p { "No board was measured twice in the same way." } }
        @for (kind, seen) in kinds {
            @let latency = seen.iter().map(|e| e.report.latency_ms.p50);
            @let memory = seen.iter().map(|e| e.report.memory.peak_rss.map(|b| b as f64 / (1 << 20) as f64));
            p { (kind.board) ": " (kind.work()) ", " (seen.len()) " reports" }
            (curve("p50, ms", kind.board, &seen, latency.collect()))
            (curve("peak RAM, MiB", kind.board, &seen, memory.collect()))
        }
    };
    section("trend", "Trend", told)
}

/// One figure of a board over its reports; nothing where fewer than two reports have it.
fn curve(name: &str, board: &str, seen: &[&Entry], values: Vec<Option<f64>>) -> Markup {
    if values.iter().flatten().count() < 2 {
        return Markup::default();
    }
    let most = values
        .iter()
        .flatten()
        .copied()
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE);
    let x = |at: usize| LEFT + PLOT * at as f64 / (values.len() - 1) as f64;
    let y = |v: f64| 84.0 - 74.0 * v / most;
    // A report without the figure leaves a gap: what follows must keep its own date.
    let points: Vec<(f64, f64, f64, &Entry)> = values
        .iter()
        .zip(seen)
        .enumerate()
        .filter_map(|(at, (v, e))| v.map(|v| (x(at), y(v), v, *e)))
        .collect();
    let path: Vec<String> = points.iter().map(|(x, y, ..)| format!("{x:.1},{y:.1}")).collect();
    let when = |e: Option<&&Entry>| e.and_then(|e| e.time.clone()).unwrap_or_default();
    let body = html! {
        (text_at(LEFT - 12.0, 50.0, "", "end", name))
        line x1=(LEFT) x2=(LEFT + PLOT) y1="84" y2="84" class="axis" {}
        polyline points=(path.join(" ")) class="line" {}
        @for (x, y, v, e) in &points {
            circle cx=(tenths(*x)) cy=(tenths(*y)) r="4" class="a" {
                title { (hundredths(*v)) " " (e.time.as_deref().unwrap_or("")) }
            }
        }
        @if let Some((_, y, v, _)) = points.last() {
            (text_at(WIDTH, y + 4.0, "soft", "end", &hundredths(*v)))
        }
        (text_at(LEFT, 100.0, "soft", "start", &when(seen.first())))
        (text_at(LEFT + PLOT, 100.0, "soft", "end", &when(seen.last())))
    };
    drawing(108.0, &format!("{name} of {board} over time"), body)
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
        for bad in ["<script", "<b>", "<img", "<i>", "<u>", "http://", "https://"] {
            assert!(!text.contains(bad), "{bad}");
        }
        assert!(text.contains("&lt;script&gt;") && text.contains("id=\"trend\""));
        assert_eq!(page(&[]).matches("<svg").count(), 0);
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
        for point in ["1.00 2026-01-01", "3.00 2026-01-03"] {
            assert!(text.contains(&format!("<title>{point}</title>")), "{point}");
        }
        assert!(!text.contains("9.00 2026-01-04") && text.contains("1 tokens, 1 thread, 3 reports"));
    }
}
