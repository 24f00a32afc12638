//! Draws a frontier: bytes against loss, and against agreement where the model decides something, as SVG or as an HTML page
//! around it. In: the points; out: text that needs no script, font or picture from elsewhere. Both are well-formed XML: maud
//! escapes all text, and every element here has braces, because maud leaves `rect ...;` open as HTML does.

mod panel;

use crate::budget::frontier::Point;
use crate::eval::metrics::{Loss, Objective};
use crate::render::html::{tenths, written};
use crate::render::scale::plain;
use crate::render::text::{percent, size, thousands};
use crate::render::theme::{self, Table, Tone, chip};
use maud::{Markup, PreEscaped, html};
use panel::{Axis, Panel, Sizes, Style};
use std::collections::BTreeMap;

pub struct Drawing<'a> {
    /// The model.
    pub title: String,
    /// What the loss was measured on.
    pub rows: String,
    pub objective: Objective,
    /// Smallest first.
    pub points: &'a [Point],
    /// The most bytes that were asked for, and how they were asked for.
    pub budget: Option<(u64, String)>,
    /// The least agreement that was asked for.
    pub least_agreement: Option<f64>,
}

/// Of one series: how it is drawn, and for each of its points bytes, value and interval.
pub(crate) struct Series {
    style: Style,
    points: Vec<(f64, f64, Option<(f64, f64)>)>,
}

/// Width of the drawing where there is room, and of that for narrow windows.
const BROAD: f64 = 860.0;
const NARROW: f64 = 460.0;
/// Where text starts. In a page the drawing is cut there, so that it starts with the text around it.
const INSET: f64 = 16.0;

/// What the text of a drawing looks like, wherever it stands.
const TEXT: &str = "
text{font:13px system-ui,sans-serif}
.b{font-weight:600}
.e{text-anchor:end}
.m{text-anchor:middle}
";

impl Drawing<'_> {
    fn series(&self, of: impl Fn(&Loss) -> Option<(f64, Option<(f64, f64)>)>) -> Vec<Series> {
        let series = |style, loss: &dyn Fn(&Point) -> Option<(f64, Option<(f64, f64)>)>| Series {
            style,
            points: self
                .points
                .iter()
                .filter_map(|p| loss(p).map(|(value, interval)| (p.answer.bytes as f64, value, interval)))
                // What is not finite has no place; the table says it.
                .filter(|(_, value, _)| value.is_finite())
                .collect(),
        };
        let ours = series(Style::Ours, &|p| of(&p.loss));
        let nearest = series(Style::Nearest, &|p| of(p.baseline.as_ref()?.loss.as_ref()?));
        [ours, nearest].into_iter().filter(|s| !s.points.is_empty()).collect()
    }

    /// The drawing as a file of its own.
    pub fn svg(&self) -> String {
        written(self.drawing(BROAD, true))
    }

    /// What was asked for, in words.
    fn asked(&self) -> Option<String> {
        let bytes = self
            .budget
            .as_ref()
            .map(|(bytes, _)| format!("{} at most", size(*bytes)));
        let least = self
            .least_agreement
            .map(|least| format!("{} % agreement", plain(least * 100.0)));
        let asked: Vec<String> = bytes.into_iter().chain(least).collect();
        (!asked.is_empty()).then(|| format!("asked for: {}", asked.join(", ")))
    }

    fn loss_name(&self) -> &'static str {
        match self.objective {
            Objective::Kl => "KL divergence from the original",
            Objective::Agreement => "share of decisions that differ from the original's",
            Objective::Cosine => "1 − cosine to the original",
            Objective::Error => "relative squared error",
        }
    }

    fn drawing(&self, width: f64, alone: bool) -> Markup {
        let loss = self.series(|l| Some((l.score().objective(self.objective), None)));
        let agreement = self.series(|l| Some((l.agreement?, l.agreement_interval)));
        let values = |series: &[Series]| -> Vec<f64> {
            let each = series.iter().flat_map(|s| &s.points);
            each.flat_map(|(_, v, i)| [Some(*v), i.map(|(low, _)| low)])
                .flatten()
                .collect()
        };
        let bytes = self
            .points
            .iter()
            .map(|p| p.answer.bytes)
            .chain(self.budget.iter().map(|(bytes, _)| *bytes));
        let sizes = Sizes::of(bytes, width);
        let mut panels = vec![Panel {
            name: format!("Loss: {}", self.loss_name()),
            axis: Axis::logarithmic(&values(&loss)),
            series: loss,
            least: None,
        }];
        if !agreement.is_empty() {
            let least = self.least_agreement;
            panels.push(Panel {
                name: "Agreement with the original, 95 % interval".into(),
                axis: Axis::percent(values(&agreement).into_iter().chain(least)),
                series: agreement,
                least,
            });
        }
        // The legend is one line in a broad drawing, and a line of each entry in a narrow one.
        let styles: Vec<Style> = panels[0]
            .series
            .iter()
            .map(|s| s.style.clone())
            .chain(self.asked().map(Style::Asked))
            .collect();
        let lines = if width < BROAD { styles.len() } else { 1 };
        let mut top = if alone { 38.0 } else { 4.0 };
        let legend_top = top;
        top += 20.0 * lines as f64 + 10.0;
        let mut tops = Vec::new();
        for panel in &panels {
            tops.push(top);
            top += panel.height();
        }
        let height = top;
        let from = if alone { 0.0 } else { INSET };
        let view = format!("{from} 0 {} {height:.1}", width - from);
        html! {
            svg xmlns="http://www.w3.org/2000/svg" width=(width - from) height=(tenths(height)) viewBox=(view)
                role="img" class=[(!alone).then_some(if width < BROAD { "narrow" } else { "broad" })] {
                title { (self.title) ": bytes against loss" }
                @if alone {
                    style { (PreEscaped(theme::drawing_rules())) (PreEscaped(TEXT)) }
                    rect width=(width) height=(tenths(height)) class="f-back" {}
                    text x=(INSET) y="24" class="f-ink b" style="font-size:16px" { (self.title) ": bytes against loss" }
                }
                (legend(&styles, legend_top + 10.0, width < BROAD))
                @for (panel, top) in panels.iter().zip(tops) {
                    (panel.drawn(top, &sizes, self.budget.as_ref().map(|(bytes, _)| *bytes)))
                }
            }
            "\n"
        }
    }

    /// The drawing in a page, with a table of the points.
    pub fn html(&self) -> String {
        let body = html! {
            h1 { (self.title) ": bytes against loss" }
            p {
                "Each point is a file: the formats with the least " (self.loss_name()) " within a number of bytes, reported on "
                (self.rows) ". "
                @if let Some((bytes, how)) = &self.budget { "The files were limited to " (size(*bytes)) " (" (how) "). " }
            }
            div.chart { (self.drawing(BROAD, false)) (self.drawing(NARROW, false)) }
            h2 { "The points" }
            div.many { (self.table()) }
        };
        theme::page(
            &format!("{}: bytes against loss", self.title),
            &format!("{}\n{TEXT}", theme::drawing_rules()),
            body,
        )
    }

    fn table(&self) -> Markup {
        let baseline = self.points.iter().any(|p| p.baseline.is_some());
        let decides = self.points.iter().any(|p| p.loss.agreement.is_some());
        let number = |l: Option<&Loss>| match l.map(|l| l.score().objective(self.objective)) {
            Some(0.0) => "0".to_string(),
            Some(loss) if loss.is_finite() => format!("{loss:.2e}"),
            Some(_) => "not finite".to_string(),
            None => "-".to_string(),
        };
        let share = |l: Option<&Loss>| match l.and_then(|l| Some((l.agreement?, l.agreement_interval?))) {
            Some((a, (low, high))) => html! {
                (format!("{:.2} %", a * 100.0)) " " small { (format!("{:.2} to {:.2}", low * 100.0, high * 100.0)) }
            },
            None => html! { "-" },
        };
        let largest = self.points.last().map_or(1, |p| p.answer.bytes);
        let mut heads = vec![("size", true), ("of the largest", true), (self.objective.name(), true)];
        heads.extend(decides.then_some(("agreement, 95\u{a0}%", true)));
        if baseline {
            heads.push(("rounded to nearest", true));
            heads.extend(decides.then_some(("its agreement, 95\u{a0}%", true)));
        }
        heads.push(("formats", false));
        let row = |p: &Point| {
            let nearest = p.baseline.as_ref().and_then(|b| b.loss.as_ref());
            let mut cells = vec![
                html! { (size(p.answer.bytes)) " " small { (thousands(p.answer.bytes)) } },
                html! { (percent(p.answer.bytes, largest)) },
                html! { (number(Some(&p.loss))) },
            ];
            cells.extend(decides.then(|| share(Some(&p.loss))));
            if baseline {
                cells.push(html! { (number(nearest)) });
                cells.extend(decides.then(|| share(nearest)));
            }
            cells.push(formats(p));
            ("", cells)
        };
        let table = Table {
            heads: &heads,
            rows: self.points.iter().map(row).collect(),
        };
        table.markup()
    }
}

/// What each line and mark is, beside each other or beneath each other.
fn legend(styles: &[Style], top: f64, stacked: bool) -> Markup {
    let mut from = (INSET, top);
    let places = styles.iter().map(|style| {
        let place = from;
        match stacked {
            true => from.1 += 20.0,
            false => from.0 += style.legend_width(),
        }
        (style, place)
    });
    html! { @for (style, (x, y)) in places { (style.legend(x, y)) } }
}

/// The formats of a point: each with the families that have it, the narrowest first.
fn formats(p: &Point) -> Markup {
    let mut by_format: BTreeMap<(usize, &str), Vec<&str>> = BTreeMap::new();
    for (family, format) in &p.formats {
        by_format
            .entry((format.bits(), format.name()))
            .or_default()
            .push(family);
    }
    html! {
        @for ((_, format), families) in &by_format {
            span.of { (chip(Tone::of_format(format), format)) " " (families.join(", ")) } " "
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::answer::Answer;
    use crate::budget::frontier::Baseline;
    use crate::eval::metrics::Score;
    use thimble_shared::dtype::Format;

    fn point(bytes: u64, kl: f64, nearest: Option<f64>) -> Point {
        let loss = |kl: f64| Loss {
            kl: Some(kl),
            agreement: Some(1.0 - kl.min(1.0)),
            agreement_interval: Some((0.9 - kl.min(0.5), 1.0)),
            ..Loss::default()
        };
        Point {
            answer: Answer {
                choice: vec![0],
                bytes,
                predicted: kl,
                measured: kl,
                score: Score::IMPOSSIBLE,
                runs: 1,
            },
            formats: vec![("word", Format::I4), ("up", Format::F32), ("down", Format::I4)],
            loss: loss(kl),
            baseline: nearest.map(|kl| Baseline {
                measured: kl,
                loss: Some(loss(kl)),
            }),
        }
    }

    fn drawing(points: &[Point]) -> Drawing<'_> {
        Drawing {
            title: "a <model>".into(),
            rows: "8 rows".into(),
            objective: Objective::Kl,
            points,
            budget: None,
            least_agreement: None,
        }
    }

    /// The numbers of an attribute, in the order of the elements that have it.
    fn numbers(svg: &str, element: &str, name: &str) -> Vec<f64> {
        let attribute = |text: &str| {
            text.split(&format!(" {name}=\""))
                .nth(1)?
                .split('"')
                .next()?
                .parse()
                .ok()
        };
        svg.split(&format!("<{element} "))
            .skip(1)
            .filter_map(|text| attribute(&format!(" {}", text.split('>').next()?)))
            .collect()
    }

    #[test]
    fn no_loss_lies_in_a_band_of_its_own_below_the_least_that_was_measured() {
        let points = [
            point(1 << 20, 1e-3, None),
            point(2 << 20, 1e-6, None),
            point(4 << 20, 0.0, None),
        ];
        let svg = drawing(&points).svg();
        assert_eq!(svg.matches("class=\"f-panel zero\"").count(), 1, "{svg}");
        let band = numbers(&svg, "rect", "y")[0];
        let heights = numbers(&svg, "circle", "cy");
        // The legend's mark comes first, the points of the loss follow it.
        assert!(
            heights[1] < heights[2] && heights[2] < band && band < heights[3],
            "{heights:?} {band}"
        );
        assert!(!svg.contains("10⁻⁷") && svg.contains(">0</text>"));
        assert!(!drawing(&points[..2]).svg().contains("zero"));
    }

    #[test]
    fn equal_curves_can_be_told_apart() {
        let points = [point(1 << 20, 1e-3, Some(1e-3)), point(2 << 20, 1e-4, Some(1e-4))];
        let svg = drawing(&points).svg();
        let series = |class: &str| svg.matches(&format!("class=\"mark {class}\"")).count();
        assert_eq!(
            (series("ours"), series("nearest")),
            (5, 5),
            "two panels of two points and the legend: {svg}"
        );
        // Where intervals are drawn the two stand beside each other.
        let x = numbers(&svg, "circle", "cx");
        let squares: Vec<f64> = numbers(&svg, "rect", "x").into_iter().collect();
        assert!(
            x[1] < x[2] && (x[1] - x[3]) > 2.0 && squares.len() == 5,
            "{x:?} {squares:?}"
        );
    }

    #[test]
    fn what_was_asked_for_and_the_formats_are_told() {
        let points = [point(1 << 20, 1e-3, None), point(3 << 20, f64::NAN, None)];
        let drawing = Drawing {
            budget: Some((4 << 20, "--budget".into())),
            least_agreement: Some(0.99),
            ..drawing(&points)
        };
        let page = drawing.html();
        for part in [
            "asked for: 4.0 MiB at most, 99 % agreement",
            "4.0 MiB (--budget)",
            "a &lt;model&gt;: bytes",
            "not finite",
            "</span> word, down",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("NaN"), "{page}");
        assert!(drawing.svg().contains(">1 MiB</text>"));
        assert!(drawing.svg().contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn any_number_of_points_has_a_drawing() {
        for points in [&[][..], &[point(5, 0.0, None)], &[point(5, 0.5, Some(f64::INFINITY))]] {
            let svg = drawing(points).svg();
            assert!(
                svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"),
                "{svg}"
            );
        }
    }
}
