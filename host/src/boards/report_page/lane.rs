//! A lane of a drawing: a name, a track in which lengths are percent of a common axis, and a value. Text lies outside of the tracks, so
//! that it keeps its size however narrow the window is.

use super::dates::in_words;
use crate::boards::reports::Entry;
use crate::render::html::hundredths;
use crate::render::scale;
use maud::{Markup, html};

/// From 0 to the first round figure at or beyond the most.
pub(super) struct Axis {
    ticks: Vec<f64>,
}

impl Axis {
    pub fn to(values: impl Iterator<Item = f64>) -> Axis {
        let most = values.filter(|v| v.is_finite()).fold(0.0, f64::max);
        Axis {
            ticks: scale::from_zero(most, 5),
        }
    }

    /// Where a value lies, 0 to 1. A report that contradicts itself draws at the edge, not across the page.
    pub fn share(&self, value: f64) -> f64 {
        let end = self.ticks.last().copied().unwrap_or(1.0);
        (value / end.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }

    /// The same in percent.
    pub fn at(&self, value: f64) -> String {
        hundredths(self.share(value) * 100.0)
    }

    /// A line from top to bottom of an SVG drawing at each tick.
    pub fn grid(&self) -> Markup {
        html! {
            @for tick in &self.ticks {
                @let x = self.at(*tick);
                line x1={ (x) "%" } x2={ (x) "%" } y1="0" y2="100%" class="grid" {}
            }
        }
    }

    /// The same lines as shares of the height, from the bottom up, with their labels.
    pub fn levels(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        self.ticks.iter().map(|tick| (self.share(*tick), scale::plain(*tick)))
    }

    /// The labels in a lane of their own, and the unit beside them.
    pub fn ticks(&self, unit: &str) -> Markup {
        lane(
            Markup::default(),
            html! {
                div.ticks {
                    @for tick in &self.ticks { span style={ "left:" (self.at(*tick)) "%" } { (scale::plain(*tick)) } }
                }
            },
            html! { small { (unit) } },
        )
    }
}

pub(super) fn lane(name: Markup, track: Markup, value: Markup) -> Markup {
    html! { div.lane { div.name { (name) } (track) div.value { (value) } } "\n" }
}

/// Which report a lane shows: its board, beneath it what was run there, and the day where that was run more than once.
pub(super) fn name(entry: &Entry, among: &[&Entry]) -> Markup {
    let kind = entry.kind();
    let again = among.iter().filter(|other| other.kind() == kind).count() > 1;
    let day = entry.time.as_deref().filter(|_| again).map(in_words);
    html! { (kind.board) small { (kind.work()) } @if let Some(day) = day { small { (day) } } }
}

/// A bar from one share of the track to another.
pub(super) fn bar(class: &str, from: f64, to: f64, title: &str) -> Markup {
    let percent = |share: f64| hundredths(share.max(0.0) * 100.0);
    html! {
        div class={ "bar " (class) } title=(title) style={ "left:" (percent(from)) "%;width:" (percent(to - from)) "%" } {}
    }
}
