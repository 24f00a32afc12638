//! What an answer must keep to, and what it is.

use crate::budget::branch_and_bound::Limit;
use crate::budget::problem::Choice;
use crate::eval::metrics::Score;

/// Where no choice gives finite outputs.
pub const NOTHING_FINITE: &str = "no combination of the formats gives finite outputs on these inputs";

/// What an answer must keep to.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: u64,
    /// Predicted time, per family and option, in any unit.
    pub time: Option<Limit>,
}

impl Limits {
    pub fn bytes(bytes: u64) -> Limits {
        Limits { bytes, time: None }
    }

    pub fn in_time(&self, choice: &Choice) -> bool {
        self.time.as_ref().is_none_or(|limit| {
            // An option that was added later has no cost known to keep within the limit.
            let each = choice.iter().zip(&limit.cost).map(|(&o, cost)| cost.get(o).copied());
            each.sum::<Option<u64>>().is_some_and(|sum| sum <= limit.most)
        })
    }
}

/// The choice that measured least within the limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub choice: Choice,
    pub bytes: u64,
    /// Sum of the families' losses.
    pub predicted: f64,
    /// The objective on the tuning rows, and what it was made of.
    pub measured: f64,
    pub score: Score,
    /// How many choices had been run by then.
    pub runs: usize,
}
