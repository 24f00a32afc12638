//! One self-contained HTML page over a file: its bytes by number format, a map of them, its weights, its bytes by cause, and what would
//! make it smaller. No script, nothing fetched.

use super::Explanation;
use super::causes::{is_substance, title, wasted};
use super::growth::Growth;
use super::ledger::Cause;
use super::tiles::{ByTone, NO_WEIGHTS, Place, groups, meaning, shape};
use crate::render::html::{hundredths, tenths};
use crate::render::text::{exact, percent, size, thousands};
use crate::render::theme::{self, Table, Tone, chip, key};
use crate::render::treemap;
use maud::{Markup, html};

/// The whole page as HTML. `against` is the size in bytes of what the file is compared with; the page then shows the growth.
pub fn page(e: &Explanation, against: Option<u64>) -> String {
    let total = e.account.total();
    let name = std::path::Path::new(&e.file)
        .file_name()
        .map_or(e.file.clone(), |n| n.to_string_lossy().into_owned());
    let growth = against
        .map(|bytes| Growth::of(&e.account, bytes))
        .filter(|g| g.bytes > 0);
    let (groups, tones) = groups(e);
    let (map, rules) = treemap::map(&groups, &in_words(&tones, total));
    let body = html! {
        h1 { (name) }
        (lead(e, total, against))
        h2 { "Where the bytes are" }
        (by_format(&tones, total))
        (map)
        p.soft { "Each area is as large as its share of the bytes. A pointer held over it shows what it is." }
        @if !e.fixes.is_empty() { (fixes(e)) }
        @if is_own(e) { (weights(e, total)) }
        (by_cause(e, total, growth))
        @if !e.account.notes.is_empty() {
            h2 { "Notes" }
            ul { @for note in &e.account.notes { li { (note) } } }
        }
    };
    theme::page(&format!("{name}: where its bytes are"), &rules, body)
}

fn is_own(e: &Explanation) -> bool {
    e.kind == "thimble"
}

fn lead(e: &Explanation, total: u64, against: Option<u64>) -> Markup {
    let of = |wanted: fn(Cause) -> bool| -> u64 {
        let causes = e.account.causes.iter().filter(|(cause, _)| wanted(**cause));
        causes.map(|(_, bytes)| bytes).sum()
    };
    html! {
        p {
            (exact(total))
            @if e.account.files.len() > 1 { " in " (e.account.files.len()) " files" }
            @if let Some(bytes) = against {
                ", " (hundredths(total as f64 / bytes as f64)) " times the " (size(bytes)) " it is compared with"
            }
            ". "
            @if let (Some(head), Some(layers)) = (&e.head, e.layers) {
                "ALBERT with " (layers) " layers, head: " (head)
                @if let Some(sentence) = &e.sentence { " (" (sentence) ")" }
                ", " (thousands(e.parameters())) " parameters, opset " (e.opset) "."
            } @else {
                (percent(of(is_substance), total)) " of it is the weights themselves, "
                (percent(of(wasted), total)) " is stored again or needed by nothing."
            }
        }
    }
}

/// The map for those who do not see it.
fn in_words(tones: &ByTone, total: u64) -> String {
    let each: Vec<String> = tones
        .iter()
        .map(|((_, word), bytes)| format!("{word} {}", percent(*bytes, total)))
        .collect();
    format!("Treemap of the bytes: {}", each.join(", "))
}

/// Bytes by number format as one bar, and the legend of bar and map in one.
fn by_format(tones: &ByTone, total: u64) -> Markup {
    let mut from = 0.0;
    let bars: Vec<(f64, f64, &(Tone, String), u64)> = tones
        .iter()
        .map(|(what, bytes)| {
            let share = *bytes as f64 / total.max(1) as f64 * 100.0;
            let left = from;
            from += share;
            (left, share, what, *bytes)
        })
        .collect();
    html! {
        div.track role="img" aria-label=(in_words(tones, total)) {
            @for (left, share, (tone, word), _) in &bars {
                div class={ "bar " (tone.class()) } title=(word)
                    style={ "left:" (hundredths(*left)) "%;width:" (hundredths(*share)) "%" } {}
            }
        }
        ul.legend {
            @for (_, _, (tone, word), bytes) in &bars {
                li { (key(tone.class())) strong { (word) } " " (size(*bytes)) ", " (percent(*bytes, total)) }
            }
        }
    }
}

fn fixes(e: &Explanation) -> Markup {
    let row = |fix: &super::Fix| {
        let command = html! { code { (fix.command) } div { (fix.what) } };
        (
            "",
            vec![
                html! { (thousands(fix.saves)) },
                html! { (thousands(fix.bytes)) },
                command,
            ],
        )
    };
    let table = Table {
        heads: &[("saves", true), ("leaves", true), ("command", false)],
        rows: e.fixes.iter().map(row).collect(),
    };
    html! { h2 { "What makes it smaller" } (table.markup()) }
}

/// Each weight of a file of thimble's by its name, with what it is.
fn weights(e: &Explanation, total: u64) -> Markup {
    let mut rows: Vec<(&'static str, Vec<Markup>)> = Vec::new();
    let mut parts: Vec<_> = e
        .parts
        .iter()
        .filter_map(|part| Some((Place::of(part.spec.as_ref()?), part)))
        .collect();
    // Stable: within its place each keeps the order of the network.
    parts.sort_by_key(|(place, _)| *place);
    let mut last = None;
    for (place, part) in parts {
        if last != Some(place) {
            rows.push(("part", vec![html! { (place.title(part.uses)) }]));
            last = Some(place);
        }
        let what = part.spec.as_ref().map_or(String::new(), meaning);
        rows.push((
            "",
            vec![
                html! { code { (part.name) } " " small { (what) ", " (shape(part.shape.iter())) } },
                html! { (chip(Tone::of_format(&part.format), &part.format)) },
                html! { (thousands(part.bytes)) },
                html! { (percent(part.bytes, total)) },
            ],
        ));
    }
    let other = vec![
        html! { "nodes, names, metadata, alignment" },
        html! {},
        html! { (thousands(e.rest)) },
        html! { (percent(e.rest, total)) },
    ];
    rows.push(("part", vec![html! { "Not weights" }]));
    rows.push(("", other));
    let table = Table {
        heads: &[("weight", false), ("format", false), ("bytes", true), ("share", true)],
        rows,
    };
    let numbered = e
        .parts
        .iter()
        .find(|part| part.spec.as_ref().is_some_and(|spec| spec.site.is_some()));
    html! {
        h2 { "Weights" }
        @if let Some(part) = numbered {
            p {
                "A name such as " code { (part.name) } " starts with the layer: its group, and its place within the group. ALBERT stores \
                 the weights of a group once and runs them for each of its layers."
            }
        }
        (table.markup())
    }
}

/// What a cause is called here. A file of thimble's is as thimble writes it: nothing of it is a defect.
fn called(e: &Explanation, cause: Cause) -> &'static str {
    match cause {
        Cause::Weights if is_own(e) => "weights, scales and biases",
        Cause::ThroughTranspose if is_own(e) => {
            "weights in the order that kernels read; a Transpose states it to other runtimes"
        }
        Cause::ThroughCast if is_own(e) => "weights and multipliers stored narrow, which a Cast widens",
        Cause::ThroughDequantize if is_own(e) => "weights stored narrow, which DequantizeLinear widens",
        Cause::Duplicates if is_own(e) => "byte-identical tensors",
        cause => title(cause),
    }
}

/// Bytes by cause; where it has grown, each cause's share of the growth.
fn by_cause(e: &Explanation, total: u64, growth: Option<Growth>) -> Markup {
    let grown = |share: Option<f64>| {
        let share = share.map_or(String::new(), |s| format!("{:.1} %", s * 100.0));
        growth.is_some().then(|| html! { (share) })
    };
    let share = |cause: Cause| growth.as_ref().and_then(|g| g.causes.get(&cause)?.share);
    let row = |why: Markup, bytes: u64, grown: Option<Markup>| -> Vec<Markup> {
        let cells = [why, html! { (thousands(bytes)) }, html! { (percent(bytes, total)) }];
        cells.into_iter().chain(grown).collect()
    };
    let mut causes: Vec<(Cause, u64)> = e.account.causes.iter().map(|(c, b)| (*c, *b)).collect();
    causes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let mut rows: Vec<(&'static str, Vec<Markup>)> = causes
        .into_iter()
        .map(|(cause, bytes)| {
            let class = match cause {
                cause if is_substance(cause) => "numbers",
                cause if wasted(cause) => Tone::Waste.class(),
                _ => Tone::Graph.class(),
            };
            (
                "",
                row(html! { (key(class)) (called(e, cause)) }, bytes, grown(share(cause))),
            )
        })
        .collect();
    rows.push(("sum", row(html! { "total" }, total, grown(Some(1.0)))));
    let heads = [
        ("why", false),
        ("bytes", true),
        ("share", true),
        ("of the growth", true),
    ];
    let table = Table {
        heads: &heads[..if growth.is_some() { 4 } else { 3 }],
        rows,
    };
    html! {
        h2 { "Bytes by cause" }
        ul.legend {
            li { (key("numbers")) "numbers the model computes with, in the colors of their formats" }
            li { (key(Tone::Waste.class())) "stored again or needed by nothing" }
            li { (key(Tone::Graph.class())) (NO_WEIGHTS) }
        }
        (table.markup())
        @if let Some(Growth { weights, .. }) = &growth {
            p {
                "The weights themselves take " (thousands(weights.bytes.unsigned_abs())) " bytes "
                @if weights.bytes < 0 { "less" } @else { "more" }
                " than what it is compared with, " (tenths(weights.share.unwrap_or(0.0) * 100.0)) " % of the growth."
            }
        }
    }
}
