//! Bytes against loss, from the smallest file to fp32: one search, many budgets. In: a measured search; out: points in order
//! of size, none of which loses more than a smaller one, because an answer may be any choice that fits, whatever budget it
//! was run for. The smallest file that agrees often enough is found the same way.

use crate::budget::answer::{Answer, Limits};
use crate::budget::error::BudgetError;
use crate::budget::sensitivity::Search;
use crate::eval::metrics::{Loss, Share};
use crate::render::progress::Watch;
use thimble_shared::dtype::Format;

/// One file of the frontier.
pub struct Point {
    pub answer: Answer,
    /// The format of each family.
    pub formats: Vec<(&'static str, Format)>,
    /// On the rows kept for the report.
    pub loss: Loss,
    pub baseline: Option<Baseline>,
}

/// The same formats, rounded to nearest without rescaling.
pub struct Baseline {
    /// The objective on the tuning rows, on which the point's own is `answer.measured`.
    pub measured: f64,
    /// None where a format cannot hold the numbers.
    pub loss: Option<Loss>,
}

/// Says which of many answers a stage belongs to.
struct Counted<'w, W> {
    watch: &'w mut W,
    place: String,
}

impl<W: Watch> Watch for Counted<'_, W> {
    fn stage(&mut self, name: &str, steps: usize) {
        self.watch.stage(&format!("{}: {name}", self.place), steps);
    }

    fn step(&mut self, what: &str) {
        self.watch.step(what);
    }
}

/// `count` budgets from `low` to `high`, each the same factor above the one before: the smaller a file, the more a byte
/// decides.
pub fn budgets(low: u64, high: u64, count: usize) -> Vec<u64> {
    let (low, high) = (low.max(1), high.max(low).max(1));
    let step = (high as f64 / low as f64).ln() / count.saturating_sub(1).max(1) as f64;
    let mut all: Vec<u64> = (0..count)
        .map(|i| (low as f64 * (step * i as f64).exp()).round() as u64)
        .map(|bytes| bytes.clamp(low, high))
        .collect();
    if let Some(last) = all.last_mut() {
        *last = high;
    }
    all.dedup();
    all
}

impl Search<'_> {
    /// The points within `limits`, smallest first. A budget that buys nothing gives none of its own.
    pub fn frontier(
        &mut self,
        limits: &Limits,
        count: usize,
        baseline: bool,
        watch: &mut impl Watch,
    ) -> Result<Vec<Point>, BudgetError> {
        let floor = self.bytes(&self.floor()?)?;
        let own = self.sizes().of(&self.question().source.graph().formats)?;
        let high = limits.bytes.min(own.max(floor));
        let budgets = budgets(floor, high, count);
        for (i, &bytes) in budgets.iter().enumerate() {
            let mut watch = Counted {
                watch,
                place: format!("budget {} of {}", i + 1, budgets.len()),
            };
            self.answer(
                &Limits {
                    bytes,
                    ..limits.clone()
                },
                &mut watch,
            )?;
        }
        // Everything is run by now: each budget takes the best there is, a smaller budget's answer where that is better.
        let mut answers: Vec<Answer> = Vec::new();
        for bytes in budgets {
            let best = self.best_run(&Limits {
                bytes,
                ..limits.clone()
            })?;
            if let Some(answer) = best.filter(|a| answers.last().is_none_or(|last| last.choice != a.choice)) {
                answers.push(answer);
            }
        }
        let runs = answers.len() * if baseline { 2 } else { 1 };
        watch.stage(&format!("judging {runs} files on the report's rows"), runs);
        let mut points = Vec::with_capacity(answers.len());
        for answer in answers {
            watch.step(&format!("{} bytes", answer.bytes));
            let loss = self.report(&self.model(&answer.choice)?.0)?;
            let baseline = if baseline {
                watch.step(&format!("{} bytes, rounded to nearest", answer.bytes));
                let (measured, loss) = self.baseline(&answer.choice)?;
                Some(Baseline { measured, loss })
            } else {
                None
            };
            let formats = (0..answer.choice.len()).map(|i| {
                let problem = &self.problem;
                (problem.families[i].name, problem.format(i, &answer.choice))
            });
            points.push(Point {
                formats: formats.collect(),
                answer,
                loss,
                baseline,
            });
        }
        self.save();
        Ok(points)
    }

    /// The smallest file within `limits` that agrees with the original on at least `share` of the decisions, of the report's
    /// rows and of all rows together; None when the largest does not.
    pub fn smallest(
        &mut self,
        share: f64,
        limits: &Limits,
        watch: &mut impl Watch,
    ) -> Result<Option<Answer>, BudgetError> {
        let floor = self.bytes(&self.floor()?)?;
        let own = self.sizes().of(&self.question().source.graph().formats)?;
        let (mut low, mut high) = (floor, limits.bytes.min(own.max(floor)));
        let mut agrees = |search: &mut Self, bytes: u64| -> Result<Option<Answer>, BudgetError> {
            let Some(answer) = search.answer(
                &Limits {
                    bytes,
                    ..limits.clone()
                },
                watch,
            )?
            else {
                return Ok(None);
            };
            let judged = search.report(&search.model(&answer.choice)?.0)?;
            let mut all = answer.score.agreement();
            all.absorb(judged.agreed());
            let enough = |agreed: Share| agreed.rate().is_some_and(|rate| rate >= share);
            Ok((enough(judged.agreed()) && enough(all)).then_some(answer))
        };
        if let Some(answer) = agrees(self, low)? {
            return Ok(Some(answer));
        }
        let Some(mut best) = agrees(self, high)? else {
            return Ok(None);
        };
        // Halves the gap, in ratio, until it is a two-hundredth of a size.
        while high.min(best.bytes) as f64 > low as f64 * 1.005 {
            high = high.min(best.bytes);
            let middle = (low as f64 * high as f64).sqrt().round() as u64;
            if middle <= low || middle >= high {
                break;
            }
            match agrees(self, middle)? {
                Some(answer) => (high, best) = (middle, answer),
                None => low = middle,
            }
        }
        Ok(Some(best))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_rise_by_a_factor_from_end_to_end() {
        assert_eq!(budgets(100, 1600, 5), [100, 200, 400, 800, 1600]);
        assert_eq!(budgets(100, 100, 5), [100]);
        assert_eq!(budgets(100, 50, 3), [100]);
        assert_eq!(budgets(0, 0, 2), [1]);
        assert_eq!(budgets(10, 20, 1), [20]);
    }
}
