//! The median and the peak of what was measured more than once in the same way, in the order of the reports.

use super::dates::in_words;
use super::lane::Axis;
use crate::boards::reports::{Entry, ReportKind};
use crate::render::html::hundredths;
use maud::{Markup, html};

/// The section of all trends.
pub(super) fn section(entries: &[Entry]) -> Markup {
    let mut kinds: Vec<(ReportKind, Vec<&Entry>)> = Vec::new();
    for e in entries {
        match kinds.iter_mut().find(|(kind, _)| *kind == e.kind()) {
            Some((_, seen)) => seen.push(e),
            None => kinds.push((e.kind(), vec![e])),
        }
    }
    kinds.retain(|(_, seen)| seen.len() > 1);
    let body = html! {
        @if kinds.is_empty() { p { "No board was measured twice in the same way." } }
        @for (kind, seen) in kinds {
            @let latency = seen.iter().map(|e| e.report.latency_ms.p50);
            @let memory = seen.iter().map(|e| e.report.memory.peak_rss.map(|b| b as f64 / (1 << 20) as f64));
            h3 { (kind.board) ": " (kind.work()) ", " (seen.len()) " reports" }
            (curve("median", "ms", kind.board, &seen, latency.collect()))
            (curve("peak RAM", "MiB", kind.board, &seen, memory.collect()))
        }
    };
    super::section("trend", "Trend", body)
}

/// One figure of a board over its reports; nothing where fewer than two reports have it.
fn curve(name: &str, unit: &str, board: &str, seen: &[&Entry], values: Vec<Option<f64>>) -> Markup {
    if values.iter().flatten().count() < 2 {
        return Markup::default();
    }
    let axis = Axis::to(values.iter().flatten().copied());
    let x = |at: usize| 100.0 * at as f64 / (values.len() - 1) as f64;
    let y = |v: f64| 100.0 - 100.0 * axis.share(v);
    // A report without the figure leaves a gap: what follows must keep its own date.
    let points: Vec<(f64, f64, &Entry)> = (values.iter().zip(seen).enumerate())
        .filter_map(|(at, (v, e))| v.map(|v| (x(at), v, *e)))
        .collect();
    let path: Vec<String> = points
        .iter()
        .map(|(x, v, _)| format!("{},{}", hundredths(*x), hundredths(y(*v))))
        .collect();
    let when = |e: &Entry| e.time.as_deref().map_or("no date".to_string(), in_words);
    html! {
        div.lane {
            div.name { (name) small { "in " (unit) } }
            div.plot {
                div.levels {
                    @for (share, label) in axis.levels() {
                        span style={ "top:" (hundredths(100.0 - 100.0 * share)) "%" } { (label) }
                    }
                }
                div.curve {
                    svg role="img" aria-label={ (name) " of " (board) " over time" } {
                        @for (share, _) in axis.levels() {
                            @let at = hundredths(100.0 - 100.0 * share);
                            line x1="0" x2="100%" y1={ (at) "%" } y2={ (at) "%" } class="grid" {}
                        }
                        svg viewBox="0 0 100 100" preserveAspectRatio="none" {
                            polyline points=(path.join(" ")) class="line" vector-effect="non-scaling-stroke" {}
                        }
                        @for (x, v, e) in &points {
                            circle cx={ (hundredths(*x)) "%" } cy={ (hundredths(y(*v))) "%" } r="4" class="point" {
                                title { (hundredths(*v)) " " (unit) ", " (when(e)) }
                            }
                        }
                    }
                }
                div.ticks {
                    @for e in [seen.first(), seen.last()].into_iter().flatten() { span { (when(e)) } }
                }
            }
            div.value { @if let Some((_, v, _)) = points.last() { strong { (hundredths(*v)) " " (unit) } } }
        }
        "\n"
    }
}
