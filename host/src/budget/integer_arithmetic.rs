//! Integer arithmetic against loss. `w8` has int8's bytes and quantizes no activation, so it always loses less, and it
//! multiplies in f32, which is slower on most boards; so neither may win blindly. In: an answer without it; out: the same, or
//! the one with `w8` in the families that cost the least work, if the model's loss is then called better ([`Word`]) or falls
//! by a quarter.

use crate::budget::answer::{Answer, Limits};
use crate::budget::error::BudgetError;
use crate::budget::problem::Choice;
use crate::budget::sensitivity::Search;
use crate::eval::metrics::{Objective, Score, Word};
use crate::render::progress::Watch;
use thimble_device::session::DEFAULT_SEQ;
use thimble_shared::artifact::runtime::Runtime;
use thimble_shared::dtype::Format;
use thimble_shared::model::network::uses;

/// Sets of families run to find the least work, beside all of them.
const RUNS: usize = 8;
/// Share of the loss that `w8` must save where no word changes.
pub(super) const WORTH: f64 = 0.25;
/// Share of what could be saved that is enough: the rest is not paid for with time.
const ENOUGH: f64 = 0.9;
/// Time of a weight multiplied in f32 in units of its time in int8, by instructions under emulation: docs/shrink.md has the
/// figures.
pub const SLOWER: [(&str, f64); 2] = [("Cortex-A72", 1.4), ("Cortex-A76", 3.5)];

/// How to choose between time and loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Prefer {
    /// Use w8 only if the loss is not good without it, for the least work; use f16 and f32 where bytes allow
    #[default]
    Balance,
    /// Minimize the loss: use w8 wherever it loses less
    Loss,
    /// Use integer arithmetic in every linear map, whatever it loses
    Speed,
}

/// What was gained and paid by f32 arithmetic, or what was left.
#[derive(Clone, Debug, PartialEq)]
pub struct Trade {
    /// Families that are multiplied in f32, and their formats.
    pub wide: Vec<(&'static str, Format)>,
    /// The best choice without `w8` and, where some were run, the best with it, on the tuning rows.
    pub without: Score,
    pub with: Option<Score>,
    pub chosen: Score,
    /// Time in units of that of integer arithmetic throughout, by processor.
    pub time: Vec<(&'static str, f64)>,
}

impl Trade {
    pub fn takes_w8(&self) -> bool {
        self.wide.iter().any(|(_, format)| *format == Format::W8)
    }
}

/// A family that may be widened.
struct Wide {
    family: usize,
    option: usize,
    work: f64,
    /// What it loses alone in integer arithmetic.
    loses: f64,
}

/// A choice with `w8` in it that was run.
#[derive(Clone, Debug, PartialEq)]
struct Tried {
    choice: Choice,
    /// Multiply-accumulates in f32.
    work: f64,
    loss: f64,
    word: Word,
}

impl Search<'_> {
    /// Puts `w8` where the loss is not good enough without it.
    ///
    /// # Errors
    /// What running a choice may meet.
    pub fn widen(
        &mut self,
        answer: Answer,
        limits: &Limits,
        watch: &mut impl Watch,
    ) -> Result<(Answer, Trade), BudgetError> {
        let mut best = answer.clone();
        let mut with = None;
        // A limit on time was weighed for the formats on offer, and w8 was none of them.
        if answer.score.word() != Word::Good && limits.time.is_none() {
            self.offer(Format::W8, watch)?;
            if !self.run_sets(&answer, limits, watch)? {
                self.answer(limits, watch)?;
            }
            let tried = self.tried(limits)?;
            with = tried
                .iter()
                .min_by(|a, b| a.loss.total_cmp(&b.loss))
                .and_then(|least| self.score_of(&least.choice));
            if let Some(found) = worth(&tried, answer.score.word(), answer.measured)
                && let Some(found) = self.answer_of(&found.choice)?
            {
                best = found;
            }
        }
        let trade = self.trade(answer.score, with, &best);
        Ok((best, trade))
    }

    /// Runs the answer with one set of families after another in `w8`, the least work first; whether one is good.
    fn run_sets(&mut self, answer: &Answer, limits: &Limits, watch: &mut impl Watch) -> Result<bool, BudgetError> {
        let wide = self.widened(&answer.choice);
        let by_loss = self.question().objective == Objective::Error;
        let subsets = subsets(&wide, by_loss, answer);
        watch.stage("running choices with w8 in place of int8", subsets.len());
        for subset in subsets {
            let mut choice = answer.choice.clone();
            subset.iter().for_each(|&i| choice[wide[i].family] = wide[i].option);
            if !self.fits(&choice, limits)? {
                continue;
            }
            watch.step(&format!("{} families in w8", subset.len()));
            self.run(&choice)?;
            if self.score_of(&choice).is_some_and(|score| score.word() == Word::Good) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Families whose format in `choice` is an integer one with the numbers of `w8`, which is on offer to them.
    fn widened(&self, choice: &Choice) -> Vec<Wide> {
        let problem = &self.problem;
        let wide = choice.iter().enumerate().filter_map(|(family, &at)| {
            let format = problem.options[family][at];
            let integer = format.quantizes_input() && format.shares_numbers(Format::W8);
            let option = problem.options[family].iter().position(|f| *f == Format::W8)?;
            integer.then(|| Wide {
                family,
                option,
                work: self.work_of(family),
                loses: problem.loss[family][at].max(0.0),
            })
        });
        wide.collect()
    }

    /// Choices with `w8` that were run and keep to the limits.
    fn tried(&self, limits: &Limits) -> Result<Vec<Tried>, BudgetError> {
        let mut found = Vec::new();
        for (choice, score) in self.runs() {
            let some = (0..choice.len()).any(|i| self.problem.format(i, choice) == Format::W8);
            if some && score.is_finite() && self.fits(choice, limits)? {
                found.push(Tried {
                    work: self.wide(choice).iter().map(|&i| self.work_of(i)).sum(),
                    loss: self.objective(score),
                    word: score.word(),
                    choice: choice.clone(),
                });
            }
        }
        Ok(found)
    }

    /// Families that are multiplied in f32.
    fn wide(&self, choice: &Choice) -> Vec<usize> {
        let wide = |&i: &usize| !self.problem.format(i, choice).quantizes_input() && self.work_of(i) > 0.0;
        (0..choice.len()).filter(wide).collect()
    }

    /// Multiply-accumulates of a family's weights.
    fn work_of(&self, family: usize) -> f64 {
        let config = &self.question().source.config;
        let each = self.problem.families[family].weights.iter().map(|w| {
            let (passes, tokens) = uses(config, w, DEFAULT_SEQ);
            (w.elements() * passes * tokens) as f64
        });
        each.sum()
    }

    fn trade(&self, without: Score, with: Option<Score>, chosen: &Answer) -> Trade {
        let problem = &self.problem;
        let wide = self.wide(&chosen.choice);
        let all: f64 = (0..problem.families.len()).map(|i| self.work_of(i)).sum();
        let share = wide.iter().map(|&i| self.work_of(i)).sum::<f64>() / all.max(1.0);
        let named = wide
            .iter()
            .map(|&i| (problem.families[i].name, problem.format(i, &chosen.choice)));
        Trade {
            wide: named.collect(),
            without,
            with,
            chosen: chosen.score,
            // Those are cores with the board's program.
            time: match self.sizes().question().onnx.runtime {
                Runtime::Board => SLOWER.map(|(cpu, slower)| (cpu, 1.0 + share * (slower - 1.0))).to_vec(),
                Runtime::OnnxRuntime | Runtime::Onnx => Vec::new(),
            },
        }
    }
}

/// The choice to take in place of one that is called `word` and lost `loss`: of those called best, or of those that save
/// nearly as much as any, the one with the least work.
fn worth(tried: &[Tried], word: Word, loss: f64) -> Option<&Tried> {
    let top = tried.iter().map(|t| t.word).max().filter(|top| *top >= word)?;
    let called = || tried.iter().filter(|t| t.word == top);
    let least = called().map(|t| t.loss).fold(f64::INFINITY, f64::min);
    let most = if top > word {
        f64::INFINITY
    } else if least <= loss * (1.0 - WORTH) {
        loss - ENOUGH * (loss - least)
    } else {
        return None;
    };
    called().filter(|t| t.loss <= most).min_by(|a, b| {
        let order = a.work.total_cmp(&b.work).then(a.loss.total_cmp(&b.loss));
        order.then_with(|| a.choice.cmp(&b.choice))
    })
}

/// Sets of families to widen, the least work first, then all of them; `by_loss` where the word goes by the loss: no set then
/// that even at best would not help.
fn subsets(wide: &[Wide], by_loss: bool, answer: &Answer) -> Vec<Vec<usize>> {
    let members = |bits: usize| (0..wide.len()).filter(move |i| bits >> i & 1 == 1);
    let work = |bits: usize| members(bits).map(|i| wide[i].work).sum::<f64>();
    let now = answer.score.word();
    let helps = |&bits: &usize| {
        let left = answer.measured - members(bits).map(|i| wide[i].loses).sum::<f64>();
        !by_loss || Word::of_error(left.max(0.0)) > now
    };
    let all = (1usize << wide.len().min(16)) - 1;
    let mut sets: Vec<usize> = (1..=all).filter(helps).collect();
    sets.sort_by(|&a, &b| work(a).total_cmp(&work(b)).then(a.cmp(&b)));
    sets.truncate(RUNS);
    if all > 0 && !sets.contains(&all) {
        sets.push(all);
    }
    sets.into_iter().map(|bits| members(bits).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without w8 the loss is 1 and called fair. Each of the others: work, loss, word; and which is taken.
    #[test]
    fn w8_is_taken_for_a_better_word_or_a_quarter_of_the_loss() {
        use Word::{Fair, Good, Poor};
        let cases: [(&[(f64, f64, Word)], Option<usize>); 7] = [
            (&[], None),
            // The least work among those called better, however little they lose.
            (&[(9.0, 0.1, Good), (4.0, 0.4, Good), (1.0, 0.05, Fair)], Some(1)),
            // No word changes: a quarter of the loss, then the least work that saves nearly as much.
            (&[(9.0, 0.76, Fair)], None),
            (&[(9.0, 0.75, Fair)], Some(0)),
            (&[(9.0, 0.50, Fair), (4.0, 0.54, Fair), (1.0, 0.56, Fair)], Some(1)),
            // Less loss that is called worse is not taken, nor more loss.
            (&[(1.0, 0.1, Poor)], None),
            (&[(1.0, 1.2, Fair)], None),
        ];
        for (tried, want) in cases {
            let tried: Vec<Tried> = tried
                .iter()
                .map(|&(work, loss, word)| Tried {
                    choice: vec![],
                    work,
                    loss,
                    word,
                })
                .collect();
            let found = worth(&tried, Fair, 1.0);
            assert_eq!(found, want.map(|i| &tried[i]), "{tried:?}");
        }
    }
}
