//! The page of `thimble inspect --html`: one HTML file with a treemap of the model's bytes, colored by cause, and the tables
//! behind it. It loads nothing: style and drawing are inline, and it reads the same without a network or scripts. maud escapes
//! the names from the file.

use super::Explanation;
use super::causes::{Tensor, is_substance, title};
use super::growth::Growth;
use super::ledger::Cause;
use crate::render::html::{hundredths, tenths, written};
use crate::render::text::{exact, percent, size, thousands};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::collections::BTreeMap;

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 520.0;

/// Tensors drawn one by one within a cause; the rest share one tile.
const MOST_TILES: usize = 60;

/// Substance in blues, waste in warm colors, the graph itself in greys.
fn color(cause: Cause) -> &'static str {
    match cause {
        Cause::Weights => "#2f6f9f",
        Cause::ThroughIdentity => "#4a86b3",
        Cause::ThroughTranspose => "#5b95bf",
        Cause::ThroughCast => "#6ea3ca",
        Cause::ThroughDequantize => "#7fb0d3",
        Cause::Varints => "#b08a3c",
        Cause::Duplicates => "#c8553d",
        Cause::Transposed => "#d9763f",
        Cause::UnnamedOutput => "#c79a2b",
        Cause::Unneeded => "#a9432f",
        Cause::Unreferenced => "#8f2d2d",
        Cause::Metadata => "#8c5a9e",
        Cause::DocStrings => "#a278b0",
        Cause::Names => "#6f7f71",
        Cause::Nodes => "#7b8794",
        Cause::Shapes => "#98a2ac",
        Cause::TensorHeaders => "#aab2ba",
        Cause::Header | Cause::Alignment => "#c3c9cf",
    }
}

struct Tile {
    label: String,
    detail: String,
    bytes: u64,
    cause: Cause,
}

#[derive(Clone, Copy)]
struct Area {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
}

/// The whole page as HTML. `against` is the size in bytes of what the file is compared with; the page then shows the growth.
pub fn page(e: &Explanation, against: Option<u64>) -> String {
    let total = e.account.total();
    let name = std::path::Path::new(&e.file)
        .file_name()
        .map_or(e.file.clone(), |n| n.to_string_lossy().into_owned());
    let waste: u64 = e
        .account
        .causes
        .iter()
        .filter(|(c, _)| wasted(**c))
        .map(|(_, b)| b)
        .sum();
    let growth = against
        .map(|bytes| Growth::of(&e.account, bytes))
        .filter(|g| g.bytes > 0);
    written(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (name) " by cause" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (name) }
                p.lead {
                    (exact(total))
                    @if e.account.files.len() > 1 { " in " (e.account.files.len()) " files" }
                    @if let Some(bytes) = against {
                        ", " (hundredths(total as f64 / bytes as f64)) " times the " (size(bytes)) " it is compared with"
                    }
                    ". " (percent(substance(e), total)) " of it is the weights themselves, "
                    (percent(waste, total)) " is stored again or needed by nothing."
                }
                (treemap(e))
                (legend(e, total, growth))
                @if !e.fixes.is_empty() { (fixes(e)) }
                @for note in &e.account.notes { p.note { (note) } }
            }
        }
    })
}

fn fixes(e: &Explanation) -> Markup {
    html! {
        h2 { "What makes it smaller" }
        table {
            thead { tr { th.n { "saves" } th.n { "leaves" } th { "command" } } }
            tbody {
                @for fix in &e.fixes {
                    tr {
                        td.n { (thousands(fix.saves)) }
                        td.n { (thousands(fix.bytes)) }
                        td { code { (fix.command) } br; (fix.what) }
                    }
                }
            }
        }
    }
}

fn substance(e: &Explanation) -> u64 {
    e.account
        .causes
        .iter()
        .filter(|(c, _)| is_substance(**c))
        .map(|(_, b)| b)
        .sum()
}

fn wasted(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Duplicates | Cause::Transposed | Cause::UnnamedOutput | Cause::Unneeded | Cause::Unreferenced
    )
}

fn treemap(e: &Explanation) -> Markup {
    let mut by_cause: BTreeMap<Cause, Vec<&Tensor>> = BTreeMap::new();
    for tensor in &e.account.tensors {
        by_cause.entry(tensor.cause).or_default().push(tensor);
    }
    let mut causes: Vec<(Cause, u64)> = e.account.causes.iter().map(|(c, b)| (*c, *b)).collect();
    causes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let whole = Area {
        x: 0.0,
        y: 0.0,
        w: WIDTH,
        h: HEIGHT,
    };
    let sizes: Vec<f64> = causes.iter().map(|(_, b)| *b as f64).collect();
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img"
            aria-label="Treemap: each area is as large as its share of the bytes" {
            @for ((cause, bytes), area) in causes.iter().zip(squarify(&sizes, whole)) {
                @let tiles = tiles(*cause, *bytes, by_cause.get(cause).map_or(&[], Vec::as_slice));
                @let sizes: Vec<f64> = tiles.iter().map(|t| t.bytes as f64).collect();
                @for (tile, area) in tiles.iter().zip(squarify(&sizes, area)) { (drawn(tile, area)) }
                rect.frame x=(hundredths(area.x)) y=(hundredths(area.y))
                    width=(hundredths(area.w)) height=(hundredths(area.h)) {}
                "\n"
            }
        }
    }
}

/// The largest tensors of a cause one by one, and one tile for what is left.
fn tiles(cause: Cause, bytes: u64, tensors: &[&Tensor]) -> Vec<Tile> {
    let mut tensors = tensors.to_vec();
    tensors.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    let mut left = bytes;
    let mut tiles = Vec::new();
    for tensor in tensors.into_iter().take(MOST_TILES).filter(|t| t.bytes > 0) {
        if tensor.bytes > left {
            break;
        }
        left -= tensor.bytes;
        let dims: Vec<String> = tensor.dims.iter().map(i64::to_string).collect();
        let repeats = tensor
            .repeats
            .as_ref()
            .map_or(String::new(), |r| format!(", repeats {r}"));
        tiles.push(Tile {
            label: tensor.name.clone(),
            detail: format!("{} {}{repeats}", dims.join("×"), tensor.element),
            bytes: tensor.bytes,
            cause,
        });
    }
    if left > 0 {
        let label = if tiles.is_empty() {
            title(cause).to_string()
        } else {
            "smaller ones".to_string()
        };
        tiles.push(Tile {
            label,
            detail: String::new(),
            bytes: left,
            cause,
        });
    }
    tiles
}

fn drawn(tile: &Tile, area: Area) -> Markup {
    // About six units a letter; a label that does not fit is in the tooltip.
    let letters = ((area.w - 10.0) / 6.2).max(0.0) as usize;
    html! {
        g {
            title {
                (tile.label) "\n" (title(tile.cause)) @if !tile.detail.is_empty() { "\n" (tile.detail) }
                "\n" (thousands(tile.bytes)) " bytes"
            }
            rect x=(hundredths(area.x)) y=(hundredths(area.y)) width=(hundredths(area.w)) height=(hundredths(area.h))
                fill=(color(tile.cause)) {}
            @if area.h > 18.0 && letters >= 4 {
                text x=(hundredths(area.x + 5.0)) y=(hundredths(area.y + 14.0)) { (shorten(&tile.label, letters)) }
                @if area.h > 34.0 && letters >= 8 {
                    text.sub x=(hundredths(area.x + 5.0)) y=(hundredths(area.y + 28.0)) { (size(tile.bytes)) }
                }
            }
        }
    }
}

/// The end of a dotted name says more than its start.
fn shorten(text: &str, letters: usize) -> String {
    let count = text.chars().count();
    if count <= letters {
        return text.to_string();
    }
    let tail: String = text.chars().skip(count - (letters - 1)).collect();
    format!("…{tail}")
}

/// Bytes by cause; where it has grown, each cause's share of the growth.
fn legend(e: &Explanation, total: u64, growth: Option<Growth>) -> Markup {
    let grown = |share: Option<f64>| {
        let share = share.map_or(String::new(), |s| format!("{:.1} %", s * 100.0));
        html! { @if growth.is_some() { td.n { (share) } } }
    };
    let share = |cause: Cause| growth.as_ref().and_then(|g| g.causes.get(&cause)?.share);
    let mut causes: Vec<(Cause, u64)> = e.account.causes.iter().map(|(c, b)| (*c, *b)).collect();
    causes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    html! {
        h2 { "Bytes by cause" }
        table {
            thead {
                tr {
                    th { "why" } th.n { "bytes" } th.n { "share" }
                    @if growth.is_some() { th.n { "of the growth" } }
                }
            }
            tbody {
                @for (cause, bytes) in causes {
                    tr {
                        td { span.key style={ "background:" (color(cause)) } {} (title(cause)) }
                        td.n { (thousands(bytes)) }
                        td.n { (percent(bytes, total)) }
                        (grown(share(cause)))
                    }
                    "\n"
                }
                tr.sum {
                    td { "total" } td.n { (thousands(total)) } td.n { (percent(total, total)) } (grown(Some(1.0)))
                }
            }
        }
        @if let Some(Growth { weights, .. }) = &growth {
            p {
                "The weights themselves take " (thousands(weights.bytes.unsigned_abs())) " bytes "
                @if weights.bytes < 0 { "less" } @else { "more" }
                " than what it is compared with, " (tenths(weights.share.unwrap_or(0.0) * 100.0)) " % of the growth."
            }
        }
    }
}

/// Squarified treemap (Bruls, Huizing, van Wijk 2000): areas in proportion to `sizes`, largest first, near to squares.
fn squarify(sizes: &[f64], mut left: Area) -> Vec<Area> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by(|a, b| sizes[*b].total_cmp(&sizes[*a]));
    let total: f64 = sizes.iter().sum();
    let scale = if total > 0.0 { left.w * left.h / total } else { 0.0 };
    let mut areas = vec![
        Area {
            x: 0.0,
            y: 0.0,
            w: 0.0,
            h: 0.0
        };
        sizes.len()
    ];
    let mut at = 0;
    while at < order.len() {
        let side = left.w.min(left.h).max(f64::MIN_POSITIVE);
        let mut row = 1;
        let mut best = f64::INFINITY;
        // The row grows while its worst tile gets squarer.
        while at + row <= order.len() {
            let members = &order[at..at + row];
            let sum: f64 = members.iter().map(|&i| sizes[i] * scale).sum();
            let worst = members
                .iter()
                .map(|&i| {
                    let a = (sizes[i] * scale).max(f64::MIN_POSITIVE);
                    (side * side * a / (sum * sum)).max(sum * sum / (side * side * a))
                })
                .fold(0.0, f64::max);
            if worst > best {
                break;
            }
            best = worst;
            row += 1;
        }
        let row = (row - 1).max(1);
        let members = &order[at..at + row];
        let sum: f64 = members.iter().map(|&i| sizes[i] * scale).sum();
        let depth = sum / side;
        let mut along = 0.0;
        for &i in members {
            let length = if sum > 0.0 { sizes[i] * scale / sum * side } else { 0.0 };
            areas[i] = if left.w >= left.h {
                Area {
                    x: left.x,
                    y: left.y + along,
                    w: depth,
                    h: length,
                }
            } else {
                Area {
                    x: left.x + along,
                    y: left.y,
                    w: length,
                    h: depth,
                }
            };
            along += length;
        }
        if left.w >= left.h {
            left.x += depth;
            left.w = (left.w - depth).max(0.0);
        } else {
            left.y += depth;
            left.h = (left.h - depth).max(0.0);
        }
        at += row;
    }
    areas
}

const STYLE: &str = "
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2rem 0 .5rem}
.lead{margin:0 0 1rem}
svg{width:100%;height:auto;display:block}
svg rect{stroke:#fff;stroke-opacity:.55;stroke-width:.6}
svg .frame{fill:none;stroke:#fff;stroke-opacity:1;stroke-width:2}
svg text{font:11px system-ui,sans-serif;fill:#fff;pointer-events:none}
svg .sub{opacity:.8;font-size:10px}
svg g:hover rect{filter:brightness(1.15)}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #8884;vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.key{display:inline-block;width:.9em;height:.9em;margin-right:.5em;border-radius:2px;vertical-align:-.1em}
.sum td{font-weight:600}
.note{border-left:3px solid #c8553d;padding-left:.8rem}
code{font-size:.9em;overflow-wrap:anywhere}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_treemap_fills_its_area_in_proportion_and_nothing_overlaps() {
        let sizes = [60.0, 6.0, 4.0, 3.0, 20.0, 2.0, 1.0, 0.0];
        let whole = Area {
            x: 0.0,
            y: 0.0,
            w: 64.0,
            h: 24.0,
        };
        let areas = squarify(&sizes, whole);
        let scale = whole.w * whole.h / sizes.iter().sum::<f64>();
        for (size, a) in sizes.iter().zip(&areas) {
            assert!((a.w * a.h - size * scale).abs() < 1e-6, "{size}");
            assert!(a.x >= -1e-9 && a.y >= -1e-9 && a.x + a.w <= whole.w + 1e-6 && a.y + a.h <= whole.h + 1e-6);
        }
        for (i, a) in areas.iter().enumerate() {
            for b in &areas[i + 1..] {
                let w = (a.x + a.w).min(b.x + b.w) - a.x.max(b.x);
                let h = (a.y + a.h).min(b.y + b.h) - a.y.max(b.y);
                assert!(w < 1e-6 || h < 1e-6);
            }
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_drawing() {
        let tile = Tile {
            label: "<script>\"&".into(),
            detail: "</title>".into(),
            bytes: 7,
            cause: Cause::Weights,
        };
        let area = Area {
            x: 0.0,
            y: 0.0,
            w: 200.0,
            h: 40.0,
        };
        let svg = drawn(&tile, area).into_string();
        assert_eq!(svg.matches("&lt;script&gt;&quot;&amp;").count(), 2, "{svg}");
        assert!(
            !svg.contains("<script") && svg.matches("</title>").count() == 1,
            "{svg}"
        );
    }

    #[test]
    fn the_end_of_a_long_name_stays() {
        assert_eq!(shorten("encoder.layer.weight", 7), "…weight");
    }
}
