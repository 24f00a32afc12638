//! One panel of a frontier's drawing: its axes, and the series on them. Sizes run along the bottom on a logarithmic axis; a loss has
//! powers of ten, and below a break of the axis a band for no loss at all; an agreement has shares of one.

use super::{INSET, Series};
use crate::render::html::tenths;
use crate::render::scale;
use crate::render::text::thousands;
use maud::{Markup, html};

const LEFT: f64 = 66.0;
const RIGHT: f64 = 22.0;
/// Between the name of a panel and its plot.
const NAME: f64 = 30.0;
const PLOT: f64 = 220.0;
/// The band of no loss, from the end of the plot.
const BAND: (f64, f64) = (12.0, 42.0);
/// Ticks, the axis' name, and room before the next panel.
const BELOW: f64 = 66.0;
/// Pixels of a size's label, with room beside it.
const LABEL: f64 = 66.0;
/// How far the marks of two series with intervals stand to either side of their size.
const ASIDE: f64 = 4.0;

/// How a series is drawn: the shape of its marks and of its line tell it, not a color.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Ours,
    Nearest,
    /// A level that was asked for, with the words for it.
    Asked(String),
}

impl Style {
    fn name(&self) -> &str {
        match self {
            Style::Ours => "thimble",
            Style::Nearest => "the same formats, rounded to nearest",
            Style::Asked(what) => what,
        }
    }

    /// A dot within a square can be seen where both lie at one place.
    fn mark(&self, x: f64, y: f64, title: Option<String>) -> Markup {
        let title = html! { @if let Some(title) = title { title { (title) } } };
        match self {
            Style::Ours => html! {
                g class="mark ours" { circle cx=(tenths(x)) cy=(tenths(y)) r="3.5" class="f-ink" { (title) } }
            },
            Style::Nearest => html! {
                g class="mark nearest" {
                    rect x=(tenths(x - 5.5)) y=(tenths(y - 5.5)) width="11" height="11" fill="none" stroke-width="1.6"
                        pointer-events="all" class="s-soft" { (title) }
                }
            },
            Style::Asked(_) => Markup::default(),
        }
    }

    fn line(&self, points: &[(f64, f64)], dotted: bool) -> Markup {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (class, dashes) = match (self, dotted) {
            (Style::Ours, false) => ("s-ink", None),
            (Style::Nearest, false) => ("s-soft", Some("6 4")),
            (Style::Ours, true) => ("s-ink", Some("1.5 4")),
            (Style::Nearest, true) => ("s-soft", Some("1.5 7")),
            (Style::Asked(_), _) => ("s-mid", Some("2 3")),
        };
        html! {
            @if points.len() > 1 {
                polyline points=(path.join(" ")) fill="none" stroke-width="2" stroke-dasharray=[dashes] class=(class) {}
            }
        }
    }

    /// Room for its part of a legend.
    pub fn legend_width(&self) -> f64 {
        70.0 + 7.6 * self.name().chars().count() as f64
    }

    /// Its part of a legend.
    pub fn legend(&self, x: f64, y: f64) -> Markup {
        html! {
            (self.line(&[(x, y), (x + 34.0, y)], false))
            (self.mark(x + 17.0, y, None))
            text x=(tenths(x + 42.0)) y=(tenths(y + 4.5)) class="f-ink" { (self.name()) }
        }
    }
}

/// The horizontal axis, of bytes.
pub(super) struct Sizes {
    low: f64,
    high: f64,
    right: f64,
}

impl Sizes {
    /// Around all of the bytes, in a drawing of that width.
    pub fn of(bytes: impl Iterator<Item = u64>, width: f64) -> Sizes {
        let (low, high) = bytes.fold((f64::INFINITY, 0.0f64), |(low, high), bytes| {
            let bytes = (bytes as f64).max(1.0);
            (low.min(bytes), high.max(bytes))
        });
        let (low, high) = if low <= high { (low, high) } else { (1024.0, 2048.0) };
        // Room beside the first and the last point, and around a single one.
        let room = (high / low).powf(0.04).max(1.02);
        Sizes {
            low: low / room,
            high: high * room,
            right: width - RIGHT,
        }
    }

    fn x(&self, bytes: f64) -> f64 {
        let share = (bytes.max(1.0) / self.low).ln() / (self.high / self.low).ln();
        LEFT + (self.right - LEFT) * share.clamp(0.0, 1.0)
    }

    /// Where ticks lie, with a label where there is room for it.
    fn ticks(&self) -> Vec<(f64, Option<String>)> {
        let mut end = LEFT - LABEL;
        let ticks = scale::bytes(self.low, self.high, 4).into_iter();
        ticks
            .map(|(bytes, label)| {
                let x = self.x(bytes);
                let fits = x >= end + LABEL && x + LABEL / 2.0 <= self.right + RIGHT;
                end = if fits { x } else { end };
                (x, fits.then_some(label))
            })
            .collect()
    }
}

/// The vertical axis: how a value becomes a share of the height.
pub(super) enum Axis {
    Logarithmic {
        low: i32,
        high: i32,
        ticks: Vec<i32>,
        /// Whether some value is no loss at all.
        zero: bool,
    },
    Percent {
        low: f64,
        ticks: Vec<(f64, String)>,
    },
}

impl Axis {
    /// Powers of ten around the positive values; the others have a band below.
    pub fn logarithmic(values: &[f64]) -> Axis {
        let (low, high, ticks) = scale::decades(values.iter().copied());
        let zero = values.iter().any(|v| *v <= 0.0);
        Axis::Logarithmic { low, high, ticks, zero }
    }

    pub fn percent(values: impl Iterator<Item = f64>) -> Axis {
        let (low, ticks) = scale::shares(values);
        Axis::Percent { low, ticks }
    }

    fn has_band(&self) -> bool {
        matches!(self, Axis::Logarithmic { zero: true, .. })
    }

    /// Down from the top of the plot.
    fn y(&self, value: f64) -> f64 {
        let share = match self {
            Axis::Logarithmic { .. } if value <= 0.0 => return PLOT + (BAND.0 + BAND.1) / 2.0,
            Axis::Logarithmic { low, high, .. } => (value.log10() - f64::from(*low)) / f64::from(high - low),
            Axis::Percent { low, .. } => (value - low) / (1.0 - low),
        };
        PLOT * (1.0 - share.clamp(0.0, 1.0))
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self {
            Axis::Logarithmic { ticks, .. } => {
                let each = ticks.iter().map(|e| (self.y(10f64.powi(*e)), scale::power(*e)));
                each.collect()
            }
            Axis::Percent { ticks, .. } => ticks.iter().map(|(v, label)| (self.y(*v), label.clone())).collect(),
        }
    }

    /// A value as a tooltip says it.
    fn word(&self, value: f64) -> String {
        match self {
            Axis::Logarithmic { .. } if value <= 0.0 => "no loss".into(),
            Axis::Logarithmic { .. } => format!("{value:.2e}"),
            Axis::Percent { .. } => format!("{:.2} %", value * 100.0),
        }
    }
}

/// One plot with its axes.
pub(super) struct Panel {
    pub name: String,
    pub axis: Axis,
    pub series: Vec<Series>,
    /// A level that was asked for.
    pub least: Option<f64>,
}

impl Panel {
    /// Of the plot, with its band.
    fn plot(&self) -> f64 {
        PLOT + if self.axis.has_band() { BAND.1 } else { 0.0 }
    }

    /// With everything around the plot.
    pub fn height(&self) -> f64 {
        NAME + self.plot() + BELOW
    }

    pub fn drawn(&self, top: f64, sizes: &Sizes, budget: Option<u64>) -> Markup {
        let (plot, bottom) = (top + NAME, top + NAME + self.plot());
        let y = |value: f64| plot + self.axis.y(value);
        let right = sizes.right;
        let line = |x: (f64, f64), y: (f64, f64), class: &str| {
            html! { line x1=(tenths(x.0)) y1=(tenths(y.0)) x2=(tenths(x.1)) y2=(tenths(y.1)) class=(class) {} }
        };
        let intervals = self
            .series
            .iter()
            .flat_map(|s| &s.points)
            .any(|(_, _, interval)| interval.is_some());
        // Intervals at one size would cover each other.
        let aside = |at: usize| match intervals && self.series.len() > 1 {
            true => ASIDE * (2.0 * at as f64 - 1.0),
            false => 0.0,
        };
        let asked = Style::Asked(String::new());
        html! {
            text x=(INSET) y=(tenths(top + 14.0)) class="f-ink b" { (self.name) }
            @if self.axis.has_band() {
                @let (from, to) = (plot + PLOT + BAND.0, plot + PLOT + BAND.1);
                rect x=(LEFT) y=(tenths(from)) width=(tenths(right - LEFT)) height=(tenths(to - from)) class="f-panel zero" {}
                text x=(tenths(LEFT - 8.0)) y=(tenths((from + to) / 2.0 + 4.5)) class="f-soft e" { "0" }
                // Two strokes across the axis: it is broken there.
                @for at in [plot + PLOT + 4.0, plot + PLOT + 8.0] { (line((LEFT - 5.0, LEFT + 5.0), (at + 2.0, at - 2.0), "s-mid")) }
            }
            @for (at, label) in self.axis.ticks() {
                (line((LEFT, right), (plot + at, plot + at), "s-line"))
                text x=(tenths(LEFT - 8.0)) y=(tenths(plot + at + 4.5)) class="f-soft e" { (label) }
            }
            @for (x, label) in sizes.ticks() {
                (line((x, x), (plot, bottom), "s-line"))
                (line((x, x), (bottom, bottom + 5.0), "s-mid"))
                @if let Some(label) = label {
                    text x=(tenths(x)) y=(tenths(bottom + 20.0)) class="f-soft m" { (label) }
                }
            }
            @if self.axis.has_band() {
                (line((LEFT, LEFT), (plot, plot + PLOT), "s-mid"))
                (line((LEFT, LEFT), (plot + PLOT + BAND.0, bottom), "s-mid"))
            } @else {
                (line((LEFT, LEFT), (plot, bottom), "s-mid"))
            }
            (line((LEFT, right), (bottom, bottom), "s-mid"))
            text x=(tenths((LEFT + right) / 2.0)) y=(tenths(bottom + 40.0)) class="f-soft m" { "size of the file" }
            @if let Some(least) = self.least { (asked.line(&[(LEFT, y(least)), (right, y(least))], false)) }
            @if let Some(bytes) = budget { (asked.line(&[(sizes.x(bytes as f64), plot), (sizes.x(bytes as f64), bottom)], false)) }
            "\n"
            @for (at, one) in self.series.iter().enumerate() { (self.lines(one, |bytes| sizes.x(bytes) + aside(at), y)) }
            // The squares first: dots lie within them.
            @for (at, one) in self.series.iter().enumerate().rev() {
                @for (bytes, value, interval) in &one.points {
                    @let x = sizes.x(*bytes) + aside(at);
                    @if let Some((low, high)) = interval {
                        g class={ "interval " (if one.style == Style::Ours { "s-ink" } else { "s-soft" }) } {
                            (line((x, x), (y(*low), y(*high)), ""))
                            (line((x - 3.0, x + 3.0), (y(*low), y(*low)), ""))
                            (line((x - 3.0, x + 3.0), (y(*high), y(*high)), ""))
                        }
                    }
                    (one.style.mark(x, y(*value), Some(format!("{} bytes: {}", thousands(*bytes as u64), self.axis.word(*value)))))
                    "\n"
                }
            }
        }
    }

    /// The line of a series: dotted where it leads across the break to no loss.
    fn lines(&self, one: &Series, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> Markup {
        let place = |(bytes, value, _): &(f64, f64, Option<(f64, f64)>)| (x(*bytes), y(*value));
        let broken =
            |pair: &[(f64, f64, Option<(f64, f64)>)]| self.axis.has_band() && (pair[0].1 <= 0.0) != (pair[1].1 <= 0.0);
        let mut parts: Vec<Vec<(f64, f64)>> = vec![one.points.iter().take(1).map(place).collect()];
        let mut across = Vec::new();
        for pair in one.points.windows(2) {
            if broken(pair) {
                across.push([place(&pair[0]), place(&pair[1])]);
                parts.push(Vec::new());
            }
            if let Some(part) = parts.last_mut() {
                part.push(place(&pair[1]));
            }
        }
        html! {
            @for part in &parts { (one.style.line(part, false)) }
            @for pair in &across { (one.style.line(pair, true)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_every_value() {
        let axis = Axis::logarithmic(&[3e-7, 0.02, 0.0]);
        assert!(axis.has_band() && !Axis::logarithmic(&[1.0]).has_band());
        assert_eq!((axis.y(1e-7), axis.y(0.1), axis.y(1e-4)), (PLOT, 0.0, PLOT / 2.0));
        assert!(axis.y(0.0) > PLOT + BAND.0 && axis.y(f64::INFINITY) == 0.0);
        let axis = Axis::percent([0.93, 1.0].into_iter());
        assert!((axis.y(1.0), axis.y(0.93) <= PLOT) == (0.0, true));
    }

    #[test]
    fn labels_of_sizes_do_not_meet() {
        for (low, high) in [
            (335_619, 1_976_067),
            (1 << 10, 1 << 30),
            (7, 7),
            (50_000, 50_400),
            (1 << 20, 1 << 21),
        ] {
            for width in [super::super::BROAD, super::super::NARROW] {
                let sizes = Sizes::of([low, high].into_iter(), width);
                let told: Vec<f64> = sizes
                    .ticks()
                    .into_iter()
                    .filter_map(|(x, label)| label.map(|_| x))
                    .collect();
                assert!(
                    told.windows(2).all(|pair| pair[1] - pair[0] >= LABEL),
                    "{low} to {high}: {told:?}"
                );
                assert!(
                    told.iter().all(|x| *x >= LEFT && *x <= width - RIGHT),
                    "{low} to {high}: {told:?}"
                );
                assert!(!told.is_empty() || low == high, "{low} to {high}");
            }
        }
    }
}
