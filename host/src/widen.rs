//! Integer arithmetic against loss. `w8` has int8's bytes and quantises no activation, so it always loses less, and it
//! multiplies in f32, which is slower on most boards; so neither may win blindly. In: an answer in integer arithmetic; out: the
//! same, or the one where `w8` takes the place of int8 in the families that cost the least work, if only so the model's loss
//! is called better ([`Word`]).

use crate::budget::Choice;
use crate::loss::{Objective, Score, Word};
use crate::predict::uses;
use crate::progress::Watch;
use crate::solve::{Answer, Limits};
use crate::study::Study;
use anyhow::Result;
use thimble_shared::dtype::Format;

/// Choices run to find the least work.
const RUNS: usize = 8;
/// Tokens that work is counted for.
const TOKENS: usize = 128;
/// Time of a weight in `w8` in units of its time in int8, by instructions under emulation: docs/shrink.md has the figures.
pub const SLOWER: [(&str, f64); 2] = [("Cortex-A72", 1.4), ("Cortex-A76", 3.5)];

/// What the choice between time and loss goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Prefer {
    /// Integer arithmetic where the loss is good with it, w8 for the least work where it is not
    #[default]
    Balance,
    /// The least loss: w8 wherever it loses less
    Loss,
    /// Integer arithmetic whatever it loses
    Speed,
}

/// What was gained and paid by `w8`, or what was left.
#[derive(Clone, Debug, PartialEq)]
pub struct Trade {
    /// Families in `w8`; none where integer arithmetic stayed.
    pub families: Vec<&'static str>,
    /// The best choice in integer arithmetic, on the tuning rows.
    pub integer: Score,
    pub chosen: Score,
    /// Time in units of that choice's, by processor.
    pub time: Vec<(&'static str, f64)>,
}

/// Families that may be widened, and the work of each.
struct Wide {
    family: usize,
    option: usize,
    work: f64,
}

impl Study<'_> {
    /// Puts `w8` where integer arithmetic throughout is not good enough.
    ///
    /// # Errors
    /// What running a choice may meet.
    pub fn widen(&mut self, answer: Answer, limits: &Limits, watch: &mut impl Watch) -> Result<(Answer, Trade)> {
        let integer = answer.score;
        let mut best = answer.clone();
        // A limit on time was weighed for the formats on offer, and w8 was none of them.
        if integer.word() != Word::Good && limits.time.is_none() {
            let wide = self.widened(&answer.choice);
            let gains = match self.question().objective {
                Objective::Error => Some(self.gains(&answer, &wide)),
                Objective::Agreement | Objective::Kl | Objective::Cosine => None,
            };
            let subsets = subsets(&wide, gains, &answer);
            watch.stage("running choices with w8 in place of int8", subsets.len());
            for subset in subsets {
                let mut choice = answer.choice.clone();
                subset.iter().for_each(|&i| choice[wide[i].family] = wide[i].option);
                if self.bytes(&choice)? > limits.bytes {
                    continue;
                }
                watch.step(&format!("{} families in w8", subset.len()));
                self.run(&choice)?;
                let Some(found) = self.answer_of(&choice)? else {
                    continue;
                };
                if found.score.word() > best.score.word() {
                    best = found;
                }
                if best.score.word() == Word::Good {
                    break;
                }
            }
            self.save();
        }
        let trade = self.trade(integer, &best);
        Ok((best, trade))
    }

    /// Offers `w8` to the families whose format in `choice` is an integer one of the same bytes.
    fn widened(&mut self, choice: &Choice) -> Vec<Wide> {
        let mut found = Vec::new();
        for (family, &at) in choice.iter().enumerate() {
            let format = self.problem.options[family][at];
            let weights = &self.problem.families[family];
            let integer = format.quantises_input() && format.bits() == Format::W8.bits();
            if !integer || weights.options(&[Format::W8, Format::I8]).first() != Some(&Format::W8) {
                continue;
            }
            let work = self.work_of(family);
            let (options, losses) = (&mut self.problem.options[family], &mut self.problem.loss[family]);
            let option = options.iter().position(|f| *f == Format::W8).unwrap_or_else(|| {
                options.push(Format::W8);
                // Nobody measured it alone, and no search is to take it by a guess.
                losses.push(f64::INFINITY);
                options.len() - 1
            });
            found.push(Wide { family, option, work });
        }
        found
    }

    /// Multiply-accumulates of a family's weights.
    fn work_of(&self, family: usize) -> f64 {
        let config = &self.question().source.config;
        let each = self.problem.families[family].weights.iter().map(|w| {
            let (passes, tokens) = uses(config, w, TOKENS);
            (w.elements() * passes * tokens) as f64
        });
        each.sum()
    }

    /// What each family would gain at most: all it loses alone.
    fn gains(&self, answer: &Answer, wide: &[Wide]) -> Vec<f64> {
        let alone = |w: &Wide| self.problem.loss[w.family][answer.choice[w.family]].max(0.0);
        wide.iter().map(alone).collect()
    }

    fn trade(&self, integer: Score, chosen: &Answer) -> Trade {
        let problem = &self.problem;
        let wide = (0..chosen.choice.len()).filter(|&i| problem.format(i, &chosen.choice) == Format::W8);
        let wide: Vec<usize> = wide.filter(|&i| self.work_of(i) > 0.0).collect();
        let all: f64 = (0..problem.families.len()).map(|i| self.work_of(i)).sum();
        let share = wide.iter().map(|&i| self.work_of(i)).sum::<f64>() / all.max(1.0);
        Trade {
            families: wide.iter().map(|&i| problem.families[i].name).collect(),
            integer,
            chosen: chosen.score,
            time: SLOWER.map(|(cpu, slower)| (cpu, 1.0 + share * (slower - 1.0))).to_vec(),
        }
    }
}

/// Sets of families to widen, the least work first, then all of them; no set that even at best would not help.
fn subsets(wide: &[Wide], gains: Option<Vec<f64>>, answer: &Answer) -> Vec<Vec<usize>> {
    let members = |bits: usize| (0..wide.len()).filter(move |i| bits >> i & 1 == 1);
    let work = |bits: usize| members(bits).map(|i| wide[i].work).sum::<f64>();
    let now = answer.score.word();
    let helps = |&bits: &usize| {
        gains.as_ref().is_none_or(|gains| {
            let left = answer.measured - members(bits).map(|i| gains[i]).sum::<f64>();
            Word::of_error(left.max(0.0)) > now
        })
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
