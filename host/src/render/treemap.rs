//! A treemap as HTML: rectangles in groups, each as large as its share, laid out once for broad and once for narrow windows. Text keeps
//! its size in every window; a tile shows the longest of its labels that fits it, which the browser decides without a script.

use super::html::hundredths;
use super::text::{size, thousands};
use super::theme::Tone;
use maud::{Markup, html};
use std::collections::BTreeSet;

/// One rectangle.
pub(crate) struct Tile {
    /// Labels, the one to prefer first.
    pub labels: Vec<String>,
    /// Lines of the tooltip above the bytes.
    pub detail: Vec<String>,
    /// Its share is of these.
    pub bytes: u64,
    /// What it is drawn as.
    pub tone: Tone,
}

/// A rectangle in percent of the map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Area {
    /// From the left.
    pub x: f64,
    /// From the top.
    pub y: f64,
    /// Width.
    pub w: f64,
    /// Height.
    pub h: f64,
}

/// Width and height of the map in each layout, whose ratios decide which tiles come near to squares.
const BROAD: (f64, f64) = (1140.0, 528.0);
const NARROW: (f64, f64) = (468.0, 592.0);

/// A letter at the map's size of text, wider than most of any font; and what is beside the text of a tile. Pixels.
const LETTER: f64 = 7.4;
const BESIDE: f64 = 10.0;

/// More letters than the broadest map has room for.
const MOST_LETTERS: usize = 160;

/// The map of groups of tiles, and the rules that say which label a tile shows.
pub(crate) fn map(groups: &[Vec<Tile>], about: &str) -> (Markup, String) {
    let sizes: Vec<f64> = groups.iter().map(|g| g.iter().map(|t| t.bytes as f64).sum()).collect();
    let laid = |(w, h): (f64, f64)| -> Vec<(Area, Vec<Area>)> {
        let whole = Area { x: 0.0, y: 0.0, w, h };
        let frames = squarify(&sizes, whole);
        let each = frames.into_iter().zip(groups);
        let inner =
            |frame, group: &Vec<Tile>| squarify(&group.iter().map(|t| t.bytes as f64).collect::<Vec<_>>(), frame);
        each.map(|(frame, group)| (frame, inner(frame, group))).collect()
    };
    let (broad, narrow) = (laid(BROAD), laid(NARROW));
    let mut needs = BTreeSet::new();
    let markup = html! {
        div.map role="img" aria-label=(about) {
            @for (group, ((frame, tiles), (narrow_frame, narrow_tiles))) in groups.iter().zip(broad.iter().zip(&narrow)) {
                @for (tile, (area, narrow)) in group.iter().zip(tiles.iter().zip(narrow_tiles)) {
                    (drawn(tile, *area, *narrow, &mut needs))
                }
                div.frame style=(places(*frame, *narrow_frame)) {}
                "\n"
            }
        }
    };
    (markup, needs.iter().map(Need::rule).collect())
}

/// The room that a label needs, in pixels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// Along a line.
    Width(u32),
    /// Along a line from top to bottom.
    Height(u32),
}

impl Need {
    /// Of a text of so many letters; rounded, so that few rules serve many tiles.
    fn pixels(letters: usize) -> u32 {
        let pixels = (letters as f64 * LETTER + BESIDE) / 8.0;
        pixels.ceil() as u32 * 8
    }

    fn class(self) -> String {
        match self {
            Need::Width(pixels) => format!("w{pixels}"),
            Need::Height(pixels) => format!("up h{pixels}"),
        }
    }

    /// Shows the label where its room is, and then hides those after it.
    fn rule(&self) -> String {
        let (name, wide, high) = match self {
            Need::Width(pixels) => (format!("w{pixels}"), *pixels, 21),
            Need::Height(pixels) => (format!("h{pixels}"), 20, *pixels),
        };
        format!(
            "@container (min-width:{wide}px) and (min-height:{high}px){{.tile .{name}{{display:block}}.tile .{name}~span{{display:none}}}}\n"
        )
    }
}

fn drawn(tile: &Tile, area: Area, narrow: Area, needs: &mut BTreeSet<Need>) -> Markup {
    let letters = |text: &str| text.chars().count();
    let bytes = size(tile.bytes);
    // A longer one fits nowhere; the tooltip has it.
    let labels: Vec<&String> = tile
        .labels
        .iter()
        .filter(|label| letters(label) <= MOST_LETTERS)
        .collect();
    let flat = (labels.iter()).map(|label| (Need::Width(Need::pixels(letters(label).max(letters(&bytes)))), label));
    let upright = (labels.iter()).map(|label| (Need::Height(Need::pixels(letters(label))), label));
    let bare = (labels.last().into_iter()).map(|label| (Need::Width(Need::pixels(letters(label))), label));
    let shown: Vec<(Need, &&String)> = flat.chain(upright).chain(bare).collect();
    needs.extend(shown.iter().map(|(need, _)| *need));
    let mut told: Vec<String> = tile.labels.first().cloned().into_iter().collect();
    told.extend(tile.detail.iter().cloned());
    told.push(format!("{} bytes", thousands(tile.bytes)));
    let flats = labels.len();
    html! {
        div class={ "tile " (tile.tone.class()) } style=(places(area, narrow)) title=(told.join("\n")) {
            @for (at, (need, label)) in shown.iter().enumerate() {
                span class=(need.class()) { (label) @if at < flats { small { (bytes) } } }
            }
        }
    }
}

/// Both layouts' places of a rectangle as variables, in percent.
fn places(broad: Area, narrow: Area) -> String {
    let all = |prefix: &str, area: Area, (w, h): (f64, f64)| {
        let percent = [
            ("x", area.x / w),
            ("y", area.y / h),
            ("w", area.w / w),
            ("h", area.h / h),
        ];
        let each = percent.map(|(name, share)| format!("--{prefix}{name}:{}%;", hundredths(share * 100.0)));
        each.concat()
    };
    all("", broad, BROAD) + &all("n", narrow, NARROW)
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
    fn names_cannot_break_out_of_a_tile() {
        let tile = Tile {
            labels: vec!["<script>\"&".into()],
            detail: vec!["\"><b>".into()],
            bytes: 7,
            tone: Tone::F32,
        };
        let (map, rules) = map(&[vec![tile]], "\"><i>");
        let map = map.into_string();
        assert!(map.contains("&lt;script&gt;&quot;&amp;") && map.contains("--w:100.00%;--h:100.00%"));
        for bad in ["<script", "<b>", "<i>"] {
            assert!(!map.contains(bad), "{map}");
        }
        // Once along a line, with its bytes and without, and once from top to bottom.
        assert_eq!((map.matches("<span").count(), rules.lines().count()), (3, 2));
    }
}
