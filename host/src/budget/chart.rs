//! Draws a frontier: bytes against loss, and against agreement where the model decides something, as SVG or as an HTML page
//! around it. In: the points; out: text that needs no script, font or picture from elsewhere. Both are well-formed XML: maud
//! escapes all text, and every element here has braces, because maud leaves `rect ...;` open as HTML does.

use crate::budget::frontier::Point;
use crate::eval::metrics::{Loss, Objective};
use crate::render::html::{tenths, written};
use crate::render::text::{size, thousands};
use maud::{DOCTYPE, Markup, PreEscaped, html};

pub struct Drawing<'a> {
    pub title: String,
    pub objective: Objective,
    /// Smallest first.
    pub points: &'a [Point],
}

const WIDTH: f64 = 820.0;
const PANEL: f64 = 260.0;
const MARGIN: (f64, f64) = (84.0, 24.0);
const TOP: f64 = 46.0;
const GAP: f64 = 64.0;

const STYLE: &str = "
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; }
td, th { text-align: right; padding: 0.2em 1em; border-bottom: 1px solid #ddd; }
svg { max-width: 100%; height: auto; }
";

/// Of one series: name, color, and for each of its points bytes, value and interval.
struct Series {
    name: &'static str,
    color: &'static str,
    points: Vec<(f64, f64, Option<(f64, f64)>)>,
}

const OURS: (&str, &str) = ("thimble", "#0b6e4f");
const NEAREST: (&str, &str) = ("same formats, rounded to nearest", "#c1440e");

/// A panel's vertical axis: how a value becomes a share of the height, and its ticks.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Powers of ten around the positive values.
    fn logarithmic(values: impl Iterator<Item = f64>) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| *v > 0.0 && v.is_finite()) {
            (low, high) = (low.min(value.log10()), high.max(value.log10()));
        }
        let (low, high) = if low <= high {
            (low.floor(), high.ceil())
        } else {
            (-1.0, 0.0)
        };
        let high = high.max(low + 1.0);
        let step = (((high - low) / 6.0).ceil() as i64).max(1);
        let ticks = (low as i64..=high as i64).step_by(step as usize);
        Axis {
            low,
            high,
            logarithmic: true,
            ticks: ticks.map(|e| (10f64.powi(e as i32), format!("1e{e}"))).collect(),
        }
    }

    fn percent(values: impl Iterator<Item = f64>) -> Axis {
        let least = values.filter(|v| v.is_finite()).fold(1.0, f64::min);
        let step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
            .into_iter()
            .find(|step| (1.0 - least) / step <= 6.0)
            .unwrap_or(0.2);
        let count = ((1.0 - least) / step).ceil().max(1.0);
        let low = 1.0 - count * step;
        let ticks = (0..=count as usize).map(|i| low + i as f64 * step);
        Axis {
            low,
            high: 1.0,
            logarithmic: false,
            ticks: ticks.map(|v| (v, format!("{:.1} %", v * 100.0))).collect(),
        }
    }

    /// 0 at the bottom, 1 at the top; what has no place, no loss at all on a logarithmic axis, lies at the bottom.
    fn place(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.log10() } else { value };
        if value.is_nan() {
            return 0.0;
        }
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

impl Drawing<'_> {
    fn series(&self, of: impl Fn(&Loss) -> Option<(f64, Option<(f64, f64)>)>) -> Vec<Series> {
        let series = |(name, color), loss: &dyn Fn(&Point) -> Option<(f64, Option<(f64, f64)>)>| Series {
            name,
            color,
            points: self
                .points
                .iter()
                .filter_map(|p| loss(p).map(|(value, interval)| (p.answer.bytes as f64, value, interval)))
                .collect(),
        };
        let ours = series(OURS, &|p| of(&p.loss));
        let nearest = series(NEAREST, &|p| of(p.baseline.as_ref()?.loss.as_ref()?));
        [ours, nearest].into_iter().filter(|s| !s.points.is_empty()).collect()
    }

    /// The drawing as a file of its own.
    pub fn svg(&self) -> String {
        written(self.drawing())
    }

    fn drawing(&self) -> Markup {
        let loss = self.series(|l| Some((l.score().objective(self.objective), None)));
        let agreement = self.series(|l| Some((l.agreement?, l.agreement_interval)));
        let values = |series: &[Series]| -> Vec<f64> {
            let each = series.iter().flat_map(|s| &s.points);
            each.flat_map(|(_, v, i)| [Some(*v), i.map(|(low, _)| low)])
                .flatten()
                .collect()
        };
        let mut panels = vec![(
            format!("{} (reported)", self.objective.name()),
            Axis::logarithmic(values(&loss).into_iter()),
            loss,
        )];
        if !agreement.is_empty() {
            let axis = Axis::percent(values(&agreement).into_iter());
            panels.push(("agreement with fp32, 95 % interval".into(), axis, agreement));
        }
        let height = TOP + panels.len() as f64 * (PANEL + GAP);
        html! {
            svg xmlns="http://www.w3.org/2000/svg" width=(WIDTH) height=(height) viewBox={ "0 0 " (WIDTH) " " (height) }
                font-family="sans-serif" font-size="12" fill="#222" {
                title { (self.title) }
                rect width=(WIDTH) height=(height) fill="#fff" {}
                text x=(MARGIN.0) y="22" font-size="15" { (self.title) }
                @for (i, (name, axis, series)) in panels.iter().enumerate() {
                    (self.panel(TOP + i as f64 * (PANEL + GAP), name, axis, series, i == 0))
                }
            }
            "\n"
        }
    }

    fn panel(&self, top: f64, name: &str, axis: &Axis, series: &[Series], legend: bool) -> Markup {
        let (left, right, bottom) = (MARGIN.0, WIDTH - MARGIN.1, top + PANEL);
        let most = self.points.iter().map(|p| p.answer.bytes).max().unwrap_or(1).max(1) as f64;
        let least = self.points.iter().map(|p| p.answer.bytes).min().unwrap_or(1).max(1) as f64;
        let span = (most / least).ln().max(1e-9);
        let x = |bytes: f64| left + 12.0 + (right - left - 24.0) * ((bytes / least).ln() / span).clamp(0.0, 1.0);
        let y = |value: f64| bottom - PANEL * axis.place(value);
        html! {
            text x=(left) y=(tenths(top - 8.0)) font-weight="bold" { (name) }
            @for (value, label) in &axis.ticks {
                @let at = y(*value);
                line x1=(left) y1=(tenths(at)) x2=(right) y2=(tenths(at)) stroke="#ddd" {}
                text x=(tenths(left - 8.0)) y=(tenths(at + 4.0)) text-anchor="end" { (label) }
            }
            @for bytes in (0..=4).map(|i| least * (span * f64::from(i) / 4.0).exp()) {
                @let at = tenths(x(bytes));
                line x1=(at) y1=(bottom) x2=(at) y2=(tenths(bottom + 5.0)) stroke="#888" {}
                text x=(at) y=(tenths(bottom + 20.0)) text-anchor="middle" { (size(bytes as u64)) }
            }
            rect x=(left) y=(top) width=(right - left) height=(PANEL) fill="none" stroke="#888" {}
            @for (n, one) in series.iter().enumerate() {
                g stroke=(one.color) fill=(one.color) {
                    (curve(one, x, y))
                    @if legend {
                        text x=(tenths(right - 10.0)) y=(tenths(top + 18.0 + 16.0 * n as f64))
                            text-anchor="end" stroke="none" { (one.name) }
                    }
                }
                "\n"
            }
        }
    }

    /// The drawing in a page, with a table of the points.
    pub fn html(&self) -> String {
        let baseline = self.points.iter().any(|p| p.baseline.is_some());
        let number = |l: Option<&Loss>| match l {
            Some(l) => format!("{:.3e}", l.score().objective(self.objective)),
            None => "-".to_string(),
        };
        let share = |l: Option<&Loss>| match l.and_then(|l| Some((l.agreement?, l.agreement_interval?))) {
            Some((a, (low, high))) => {
                format!("{:.2} % ({:.2} to {:.2})", a * 100.0, low * 100.0, high * 100.0)
            }
            None => "-".to_string(),
        };
        written(html! {
            (DOCTYPE)
            html xmlns="http://www.w3.org/1999/xhtml" lang="en" {
                head {
                    meta charset="utf-8" {}
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    (self.drawing())
                    table {
                        tr {
                            th { "bytes" } th { (self.objective.name()) } th { "agreement (95 %)" }
                            @if baseline { th { "rounded to nearest" } th { "agreement" } }
                        }
                        @for p in self.points {
                            @let nearest = p.baseline.as_ref().and_then(|b| b.loss.as_ref());
                            tr {
                                td { (thousands(p.answer.bytes)) }
                                td { (number(Some(&p.loss))) } td { (share(Some(&p.loss))) }
                                @if baseline { td { (number(nearest)) } td { (share(nearest)) } }
                            }
                            "\n"
                        }
                    }
                }
            }
        })
    }
}

/// A series as a line with its points and their intervals.
fn curve(one: &Series, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> Markup {
    let line: Vec<String> = one
        .points
        .iter()
        .map(|(b, v, _)| format!("{:.1},{:.1}", x(*b), y(*v)))
        .collect();
    html! {
        polyline points=(line.join(" ")) fill="none" stroke-width="1.5" {}
        @for (bytes, value, interval) in &one.points {
            @let at = tenths(x(*bytes));
            @if let Some((low, high)) = interval {
                line x1=(at) y1=(tenths(y(*low))) x2=(at) y2=(tenths(y(*high))) stroke-opacity="0.5" {}
            }
            circle cx=(at) cy=(tenths(y(*value))) r="3.5" {
                title { (thousands(*bytes as u64)) " bytes: " (format!("{value:.4e}")) }
            }
            "\n"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_every_value() {
        let axis = Axis::logarithmic([3e-7, 0.02, 0.0, f64::INFINITY].into_iter());
        assert_eq!((axis.low, axis.high), (-7.0, -1.0));
        assert_eq!(
            (axis.place(0.0), axis.place(f64::INFINITY), axis.place(1e-4)),
            (0.0, 1.0, 0.5)
        );
        let axis = Axis::percent([0.93, 1.0].into_iter());
        assert!(axis.low <= 0.93 && axis.place(0.93) >= 0.0 && axis.ticks.len() <= 8);
        assert!((axis.place(1.0) - 1.0).abs() < 1e-12);
        for none in [Axis::logarithmic(std::iter::empty()), Axis::percent(std::iter::empty())] {
            assert!(none.high > none.low);
        }
    }
}
