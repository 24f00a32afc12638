//! The main job: the model with the least measured loss within a budget. In: a `Search` and limits; out: a choice. All
//! combinations are ranked exactly by the sum of their families' losses; the best few that fit are run; what they measured
//! corrects the predictions around the best one until nothing better is found; and the one that measured least is the answer.

use crate::budget::answer::{Answer, Limits};
use crate::budget::error::BudgetError;
use crate::budget::integer_arithmetic::Trade;
use crate::budget::preparations::{PreparationStep, PrepareOptions, Tried};
use crate::budget::problem::{Choice, Problem};
use crate::budget::question::{self, Question};
use crate::budget::sensitivity::{Search, Yardstick};
use crate::budget::sizes::{Floor, Sizes};
use crate::budget::surrogate::{Refit, Sample};
use crate::eval::dataset::Row;
use crate::eval::metrics::{Loss, Objective, Score};
use crate::quantize::quantizer::Done;
use crate::quantize::variants::Preparation;
use crate::render::progress::Watch;
use std::collections::BTreeSet;
use thimble_shared::artifact::Provenance;
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::dtype::Format;
use thimble_shared::model::{AttentionArithmetic, Model};

/// Multiply-accumulates one answer may spend on running choices, and bounds on how many it runs. Predictions add up the
/// families' losses, so choices whose errors help or hurt each other are told apart only by running them.
const RUN_WORK: usize = 1_500_000_000_000;
const RUNS: (usize, usize) = (8, 64);
/// Best-predicted choices that are kept at hand.
const POOL: usize = 256;
/// Choices whose file is laid out for it: some that the search lets pass are a few bytes too large.
const EXAMINED: usize = 10_000;
/// The correction ends after this many runs that found nothing better.
const PATIENCE: usize = 8;

impl Search<'_> {
    /// The least measured loss within the limits; None when no choice keeps to them.
    pub fn answer(&mut self, limits: &Limits, watch: &mut impl Watch) -> Result<Option<Answer>, BudgetError> {
        let config = &self.question().source.config;
        let most = (RUN_WORK / question::work(config, self.question().tune)).clamp(RUNS.0, RUNS.1);
        self.answer_within(limits, most, watch)
    }

    /// The same with at most `most` runs.
    pub fn answer_within(
        &mut self,
        limits: &Limits,
        most: usize,
        watch: &mut impl Watch,
    ) -> Result<Option<Answer>, BudgetError> {
        let within = match limits.bytes {
            u64::MAX => String::new(),
            bytes => format!(" within {bytes} bytes"),
        };
        watch.stage(&format!("ranking choices{within}"), 1);
        let pool = self.pool(limits)?;
        let mut left = most;
        watch.stage(&format!("running up to {most} choices{within}"), most);
        let mut first: Vec<Choice> = pool.iter().take(most / 2).cloned().collect();
        // Whatever was predicted: the smallest file, and the formats the model came with.
        first.push(self.floor()?);
        first.push(self.problem.floor());
        first.extend(self.problem.choice_of(&self.question().source.graph().formats));
        for choice in first {
            self.try_one(&choice, limits, &mut left, watch)?;
        }
        // Whether bytes that are left would still help one family.
        let upgrades = self.best(limits)?.map(|(choice, ..)| self.problem.upgrades(&choice));
        for (family, option) in upgrades.unwrap_or_default() {
            let Some((mut choice, ..)) = self.best(limits)? else {
                break;
            };
            choice[family] = option;
            self.try_one(&choice, limits, &mut left, watch)?;
        }
        self.correct(&pool, limits, &mut left, watch)?;
        self.save();
        self.best_run(limits)
    }

    /// Of what was run so far, whatever it was run for, the answer within the limits.
    pub fn best_run(&self, limits: &Limits) -> Result<Option<Answer>, BudgetError> {
        match self.best(limits)? {
            Some((choice, ..)) => self.answer_of(&choice),
            None => Ok(None),
        }
    }

    /// A choice that was run, as an answer.
    pub fn answer_of(&self, choice: &Choice) -> Result<Option<Answer>, BudgetError> {
        let bytes = self.bytes(choice)?;
        Ok(self.score_of(choice).map(|score| Answer {
            bytes,
            predicted: self.predicted(choice),
            measured: self.objective(&score),
            score,
            runs: self.runs().len(),
            choice: choice.clone(),
        }))
    }

    pub fn fits(&self, choice: &Choice, limits: &Limits) -> Result<bool, BudgetError> {
        Ok(limits.in_time(choice) && self.bytes(choice)? <= limits.bytes)
    }

    /// Runs a choice if it fits, was not run and there is work left for it.
    fn try_one(
        &mut self,
        choice: &Choice,
        limits: &Limits,
        left: &mut usize,
        watch: &mut impl Watch,
    ) -> Result<(), BudgetError> {
        if *left > 0 && !self.known(choice) && self.fits(choice, limits)? {
            watch.step(&format!("{} run", self.runs().len()));
            self.run(choice)?;
            *left -= 1;
            // Nothing loses less than nothing.
            if self
                .runs()
                .last()
                .is_some_and(|(_, score)| self.objective(score) <= 0.0)
            {
                *left = 0;
            }
        }
        Ok(())
    }

    /// The best-predicted choices that fit.
    fn pool(&self, limits: &Limits) -> Result<Vec<Choice>, BudgetError> {
        // At the floor there is nothing to choose, and no need to look at everything that does not fit.
        let floor = self.floor()?;
        if limits.bytes <= self.bytes(&floor)? {
            return Ok(vec![floor]);
        }
        let bytes = self.sizes().limit(&self.problem, limits.bytes)?;
        let ranked = self
            .problem
            .ranked(std::iter::once(bytes).chain(limits.time.clone()).collect());
        let mut pool = Vec::new();
        for candidate in ranked.take(EXAMINED) {
            if pool.len() == POOL {
                break;
            }
            if self.bytes(&candidate.choice)? <= limits.bytes {
                pool.push(candidate.choice);
            }
        }
        Ok(pool)
    }

    /// Of all choices run that keep to the limits, whatever they were run for, the one that measured least.
    fn best(&self, limits: &Limits) -> Result<Option<(Choice, u64, Score)>, BudgetError> {
        let mut best: Option<(f64, u64, &Choice, Score)> = None;
        for (choice, score) in self.runs() {
            let loss = self.objective(score);
            if !loss.is_finite() || !self.fits(choice, limits)? {
                continue;
            }
            let bytes = self.bytes(choice)?;
            let better =
                |(least, size, _, _): &(f64, u64, &Choice, Score)| loss.total_cmp(least).then(bytes.cmp(size)).is_lt();
            if best.as_ref().is_none_or(better) {
                best = Some((loss, bytes, choice, *score));
            }
        }
        Ok(best.map(|(_, bytes, choice, score)| (choice.clone(), bytes, score)))
    }

    /// Where groups interact, sums mislead: predictions are refitted with everything measured, and the most promising of the
    /// pool and of the best choice's neighbors is run, again and again.
    fn correct(
        &mut self,
        pool: &[Choice],
        limits: &Limits,
        left: &mut usize,
        watch: &mut impl Watch,
    ) -> Result<(), BudgetError> {
        let mut patience = PATIENCE;
        while *left > 0 && patience > 0 {
            let Some((best, _, score)) = self.best(limits)? else {
                return Ok(());
            };
            let before = self.objective(&score);
            let Some(next) = self.promising(pool, &best, limits)? else {
                return Ok(());
            };
            self.try_one(&next, limits, left, watch)?;
            let after = self
                .best(limits)?
                .map_or(before, |(_, _, score)| self.objective(&score));
            patience = if after < before { PATIENCE } else { patience - 1 };
        }
        Ok(())
    }

    /// The choice not run yet with the least corrected prediction.
    fn promising(&self, pool: &[Choice], best: &Choice, limits: &Limits) -> Result<Option<Choice>, BudgetError> {
        let measured: Vec<f64> = self.runs().iter().map(|(_, score)| self.objective(score)).collect();
        let samples: Vec<Sample> = self
            .runs()
            .iter()
            .zip(&measured)
            .map(|((choice, _), &measured)| Sample {
                choice,
                predicted: self.predicted(choice),
                measured,
            })
            .collect();
        let refit = Refit::of(&samples);
        let candidates: BTreeSet<Choice> = pool.iter().cloned().chain(self.problem.neighbors(best)).collect();
        let mut ranked: Vec<(f64, Choice)> = candidates
            .into_iter()
            .filter(|choice| !self.known(choice))
            .map(|choice| (self.predicted(&choice) * refit.factor(&choice), choice))
            .filter(|(loss, _)| loss.is_finite())
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        for (_, choice) in ranked {
            if self.fits(&choice, limits)? {
                return Ok(Some(choice));
            }
        }
        Ok(None)
    }

    /// What a larger budget would buy next: family, format, size of the file.
    pub fn next_step(&self, choice: &Choice, budget: u64) -> Result<Option<(&'static str, Format, u64)>, BudgetError> {
        let next = self.problem.next_step(choice, budget, |c| self.bytes(c))?;
        Ok(next.map(|(family, option, bytes)| {
            let problem = &self.problem;
            (problem.families[family].name, problem.options[family][option], bytes)
        }))
    }

    /// An answer made into a model and judged on the report's rows.
    pub fn plan(
        &mut self,
        answer: Answer,
        budget: u64,
        trade: Option<Trade>,
        watch: &mut impl Watch,
    ) -> Result<Plan, BudgetError> {
        let (model, done) = self.model(&answer.choice)?;
        Ok(Plan {
            loss: self.report(&model)?,
            yardsticks: self.yardsticks(&answer, watch)?,
            trade,
            model,
            done,
            problem: self.problem.clone(),
            next: self.next_step(&answer.choice, budget)?,
            bytes: answer.bytes,
            predicted: answer.predicted,
            measured: answer.measured,
            verified: answer.runs,
            choice: answer.choice,
            preparation: self.preparation,
            tried: self.tried.clone(),
            sense_rows: self.sense_rows(),
        })
    }
}

/// One question with one budget.
pub struct Task<'a> {
    /// The model as it came; what the result is compared with.
    pub source: &'a Model,
    /// Rows the choice is made on.
    pub tune: &'a [Row],
    /// Rows its loss is reported on.
    pub report: &'a [Row],
    /// Formats that the search may use.
    pub formats: &'a [Format],
    /// How the model may be prepared before its weights are rounded.
    pub steps: &'a [PreparationStep],
    /// Most bytes of the file.
    pub budget: u64,
    /// How the file is laid out as ONNX, which bears on its size.
    pub onnx: LowerOptions,
    /// Written into the file, so it bears on its size too.
    pub provenance: &'a Provenance,
}

/// The answer within the budget.
pub struct Plan {
    /// In the chosen formats, ready to be written.
    pub model: Model,
    /// The families, the formats on offer and the loss of each.
    pub problem: Problem,
    /// One format per family of `problem`.
    pub choice: Choice,
    /// Exact size of the file.
    pub bytes: u64,
    /// Sum of the families' losses.
    pub predicted: f64,
    /// The loss on the tuning rows, and how many choices were run to find the least.
    pub measured: f64,
    /// Choices that were run.
    pub verified: usize,
    /// As the user feels it, on the report rows.
    pub loss: Loss,
    /// How the model was prepared, what that came to in these formats, and all that was tried.
    pub done: Done,
    /// The preparation that was chosen.
    pub preparation: Preparation,
    /// Every preparation that was measured.
    pub tried: Vec<Tried>,
    /// What other files of the same model lose, where the model decides nothing.
    pub yardsticks: Vec<Yardstick>,
    /// What was weighed between integer arithmetic and w8.
    pub trade: Option<Trade>,
    /// What a larger budget would buy next: family, format, size of the file.
    pub next: Option<(&'static str, Format, u64)>,
    /// Tuning rows the sensitivities were measured on; choices are run on all of them.
    pub sense_rows: usize,
}

/// The least loss within one budget, by the model's default objective.
pub fn solve(task: &Task, mut watch: impl FnMut(&str)) -> Result<Result<Plan, Floor>, BudgetError> {
    let question = Question {
        original: task.source,
        source: task.source,
        vocabulary: None,
        tune: task.tune,
        report: task.report,
        formats: task.formats,
        integers_only: false,
        attention: AttentionArithmetic::F32,
        objective: Objective::default_of(&task.source.config),
        onnx: task.onnx,
        provenance: task.provenance,
    };
    let sizes = Sizes::new(&question);
    let floor = sizes.floor()?;
    if floor.bytes > task.budget {
        return Ok(Err(floor));
    }
    let options = PrepareOptions {
        steps: task.steps,
        most: task.budget,
    };
    let mut search = Search::measure(sizes, options, &mut watch)?;
    match search.answer(&Limits::bytes(task.budget), &mut watch)? {
        Some(answer) => Ok(Ok(search.plan(answer, task.budget, None, &mut watch)?)),
        None => Err(BudgetError::NothingFinite),
    }
}
