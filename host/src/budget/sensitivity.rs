//! What is measured once for a model and answers many budgets: the original's outputs, whether rescaling channels helps, the
//! loss of each family alone in each format, and every choice that was run. In: a [`Question`]; out: numbers that `solver`
//! and `frontier` reason with. Losses come from the device's engine and are kept in the cache.

use crate::budget::answer::{Answer, Limits, NOTHING_FINITE};
use crate::budget::candidates::Bench;
use crate::budget::error::BudgetError;
use crate::budget::preparations::{PrepareOptions, Prepared, Tried};
use crate::budget::problem::{Choice, Problem};
use crate::budget::question::{Question, affordable_rows};
use crate::budget::sizes::Sizes;
use crate::eval::dataset::{self};
use crate::eval::digest::Digest;
use crate::eval::metrics::{Loss, Score, decides};
use crate::eval::runner::Judge;
use crate::models::image::image_of;
use crate::quantize::quantizer::Done;
use crate::quantize::variants::{Preparation, Variants};
use crate::render::progress::Watch;
use crate::render::text::exact;
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use thimble_shared::dtype::Format;
use thimble_shared::model::{AttentionArithmetic, Model, ModelSpec};

/// Multiply-accumulates that the loss of all families in all formats may take together. A large model's sensitivities are
/// measured on as many of the tuning rows as that allows; whatever is chosen between is run on all of them. Counted in work
/// and not in seconds, so that the answer is the same on every machine.
const SENSE_WORK: usize = 800_000_000_000;
/// Rows that other files of the model are held against it on.
const YARDSTICK_ROWS: usize = 32;
/// Choices run to find what half of the bytes would give.
const YARDSTICK_RUNS: usize = 6;
/// Another file of the model, to hold a loss against.
#[derive(Clone, Debug, PartialEq)]
pub struct Yardstick {
    pub name: &'static str,
    /// Or why there is no such file.
    pub score: Result<Score, String>,
}

pub struct Search<'a> {
    question: &'a Question<'a>,
    pub problem: Problem,
    tune: Judge<'a>,
    report: OnceCell<Judge<'a>>,
    /// The model choices are made of, and the source rounded without any preparation.
    chosen: Bench<'a>,
    plain: Bench<'a>,
    pub preparation: Preparation,
    pub tried: Vec<Tried>,
    sense: Sense<'a>,
    /// Every choice run on the tuning rows, in the order they were run.
    runs: Vec<(Choice, Score)>,
    known: HashMap<Choice, usize>,
    sizes: Sizes<'a>,
}

impl<'a> Search<'a> {
    /// Measures what every answer needs. `sizes` comes first because a budget below the floor needs no measuring.
    pub fn measure(
        sizes: Sizes<'a>,
        options: PrepareOptions<'_>,
        watch: &mut impl Watch,
    ) -> Result<Search<'a>, BudgetError> {
        let question = sizes.question();
        let tune = Judge::new(
            &question.original.config,
            question.original,
            question.tune.to_vec(),
            question.vocabulary,
        );
        let variants = Variants::new(question.source, question.tune, question.vocabulary);
        let made = Prepared::choose(&sizes, &variants, options, &tune, watch)?;
        let digest = Digest::of(question.original);
        let (preparation, quantizer) = (made.variant.preparation, made.quantizer);
        let chosen = Bench::new(question, &made.variant.digest, quantizer.clone(), &digest, tune.rows());
        let Some(first) = variants.make(Preparation::default())? else {
            return Err(BudgetError::NoModel);
        };
        // What comes beside it rounds anew where that is asked for at all.
        let plain = Bench::new(
            question,
            &first.digest,
            Rc::new(first.quantizer()),
            &digest,
            tune.rows(),
        );

        sizes.become_of(made.variant.model.config.clone(), preparation.shifted);
        let mut problem = sizes.unmeasured()?;
        let count = problem.options.iter().map(Vec::len).sum();
        let rows = affordable_rows(question, SENSE_WORK, count);
        let some = tune.some(&dataset::sample(question.tune.len(), rows));
        let sense = Bench::new(question, &made.variant.digest, quantizer, &digest, some.rows());
        watch.stage(&format!("measuring {count} sensitivities on {rows} rows"), count);
        let sense = Sense::new(some, sense)?;
        sense.measure(&mut problem, watch)?;

        Ok(Search {
            question,
            problem,
            tune,
            report: OnceCell::new(),
            chosen,
            plain,
            preparation,
            tried: made.tried,
            sense,
            runs: vec![],
            known: HashMap::new(),
            sizes,
        })
    }

    pub fn question(&self) -> &'a Question<'a> {
        self.question
    }

    pub fn sizes(&self) -> &Sizes<'a> {
        &self.sizes
    }

    /// Tuning rows the sensitivities were measured on.
    pub fn sense_rows(&self) -> usize {
        self.sense.judge.rows().len()
    }

    /// Offers `format` to the linear families it suits, and measures what each loses in it alone.
    ///
    /// # Errors
    /// What running the model may meet.
    pub fn offer(&mut self, format: Format, watch: &mut impl Watch) -> Result<(), BudgetError> {
        let problem = &mut self.problem;
        // To tables all int8 formats are the same.
        let suits = |family: usize| {
            problem.families[family]
                .options(&[Format::I8, format])
                .contains(&format)
        };
        let new = |family: &usize| !problem.options[*family].contains(&format) && suits(*family);
        let families: Vec<usize> = (0..problem.families.len()).filter(new).collect();
        watch.stage(
            &format!("measuring {} families in {format}", families.len()),
            families.len(),
        );
        for family in families {
            let loss = self.sense.alone(problem, family, format, watch)?;
            problem.options[family].push(format);
            problem.loss[family].push(loss);
        }
        self.sense.bench.cache.save();
        Ok(())
    }

    pub fn bytes(&self, choice: &Choice) -> Result<u64, BudgetError> {
        self.sizes.exact(&self.problem, choice)
    }

    /// The choice no budget goes below.
    pub fn floor(&self) -> Result<Choice, BudgetError> {
        self.sizes.smallest(&self.problem)
    }

    /// The choice's loss on the tuning rows, measured unless it was; whether it was new.
    pub fn run(&mut self, choice: &Choice) -> Result<bool, BudgetError> {
        if self.known.contains_key(choice) {
            return Ok(false);
        }
        let score = self.chosen.score(&self.tune, &self.problem.formats_of(choice))?;
        self.known.insert(choice.clone(), self.runs.len());
        self.runs.push((choice.clone(), score));
        Ok(true)
    }

    /// What a choice that was run measured.
    pub fn score_of(&self, choice: &Choice) -> Option<Score> {
        self.known.get(choice).map(|&at| self.runs[at].1)
    }

    /// What fp16, int8 rounded to nearest and half of an answer's bytes lose, for a reader who has no decisions to go by.
    ///
    /// # Errors
    /// What running a model may meet.
    pub fn yardsticks(&mut self, answer: &Answer, watch: &mut impl Watch) -> Result<Vec<Yardstick>, BudgetError> {
        if decides(&self.question.original.config) {
            return Ok(vec![]);
        }
        let half = self.half(answer.bytes / 2, watch)?;
        let source = &self.question.source.config;
        let uniform = |format: Format| ModelSpec::uniform(source.clone(), format).formats;
        let rows = dataset::sample(self.question.report.len(), YARDSTICK_ROWS);
        let judge = self.reporter().some(&rows);
        // One model at a time is in memory.
        let measured = |name, model: Result<Model, String>| -> Result<Yardstick, BudgetError> {
            let score = match model {
                Ok(model) => Ok(judge.loss(&image_of(&model)?)?.score()),
                Err(why) => Err(why),
            };
            Ok(Yardstick { name, score })
        };
        let plain = |format: Format| -> Result<Result<Model, String>, BudgetError> {
            let made = self.plain.made(&uniform(format))?;
            Ok(made.ok_or_else(|| "cannot hold the weights".to_string()))
        };
        let half = match half {
            Ok(choice) => Ok(self.model(&choice)?.0),
            Err(why) => Err(why),
        };
        Ok(vec![
            measured("fp16", plain(Format::F16)?)?,
            measured("int8 to nearest", plain(Format::I8)?)?,
            measured("half the bytes", half)?,
        ])
    }

    /// The answer within `bytes`, found in a few runs; or why there is none.
    fn half(&mut self, bytes: u64, watch: &mut impl Watch) -> Result<Result<Choice, String>, BudgetError> {
        let floor = self.bytes(&self.floor()?)?;
        if floor > bytes {
            return Ok(Err(format!("is below the floor of {}", exact(floor))));
        }
        let found = self.answer_within(&Limits::bytes(bytes), YARDSTICK_RUNS, watch)?;
        Ok(found
            .map(|answer| answer.choice)
            .ok_or_else(|| NOTHING_FINITE.to_string()))
    }

    /// Every choice run so far, with what it measured.
    pub fn runs(&self) -> &[(Choice, Score)] {
        &self.runs
    }

    pub fn objective(&self, score: &Score) -> f64 {
        score.objective(self.question.objective)
    }

    /// The sum of what the levers and the families lose.
    pub fn predicted(&self, choice: &Choice) -> f64 {
        self.sense.base + self.problem.predicted(choice)
    }

    pub fn known(&self, choice: &Choice) -> bool {
        self.known.contains_key(choice)
    }

    /// Keeps what was learnt for other questions of the same model.
    pub fn save(&self) {
        self.chosen.cache.save();
        self.plain.cache.save();
    }

    /// A choice made into a model, and what was done to its numbers.
    ///
    /// # Errors
    /// Numbers that a format cannot hold.
    pub fn model(&self, choice: &Choice) -> Result<(Model, Done), BudgetError> {
        let (mut model, done) = self.chosen.quantizer.made(&self.problem.formats_of(choice))?;
        model.config.attention = self.sizes.attention();
        Ok((model, done))
    }

    /// From here on files have attention in this arithmetic. What choices measure stays in the question's.
    pub fn attend_in(&mut self, arithmetic: AttentionArithmetic) {
        self.sizes.attend_in(arithmetic);
    }

    /// What a choice measures on the tuning rows with attention in this arithmetic.
    ///
    /// # Errors
    /// What running the model may meet.
    pub fn score_in(&self, arithmetic: AttentionArithmetic, choice: &Choice) -> Result<Score, BudgetError> {
        let (mut model, _) = self.model(choice)?;
        model.config.attention = arithmetic;
        Ok(self.tune.loss(&image_of(&model)?)?.score())
    }

    /// The loss on the rows kept for the report.
    pub fn report(&self, model: &Model) -> Result<Loss, BudgetError> {
        Ok(self.reporter().loss(&image_of(model)?)?)
    }

    /// What rounding the source to nearest in the same formats loses, without rescaling: on the tuning and the report rows.
    pub fn baseline(&self, choice: &Choice) -> Result<(f64, Option<Loss>), BudgetError> {
        let formats = self.problem.formats_of(choice);
        let tuned = self
            .plain
            .score(&self.tune, &formats)?
            .objective(self.question.objective);
        let made = self.plain.made(&formats)?;
        Ok((tuned, made.map(|model| self.report(&model)).transpose()?))
    }

    fn reporter(&self) -> &Judge<'a> {
        let q = self.question;
        self.report
            .get_or_init(|| Judge::new(&q.original.config, q.original, q.report.to_vec(), q.vocabulary))
    }
}

/// Measures what families lose alone, all others as they came, beyond what the source loses as it came.
struct Sense<'a> {
    judge: Judge<'a>,
    bench: Bench<'a>,
    /// The formats of the source, and what it loses in them because of the levers.
    own: BTreeMap<String, Format>,
    base: f64,
}

impl<'a> Sense<'a> {
    fn new(judge: Judge<'a>, bench: Bench<'a>) -> Result<Sense<'a>, BudgetError> {
        let question = bench.question;
        let own = question.source.graph().formats;
        // As it came is the reference itself, unless levers were pulled.
        let base = if std::ptr::eq(question.source, question.original) {
            0.0
        } else {
            bench.score(&judge, &own)?.objective(question.objective)
        };
        Ok(Sense {
            judge,
            bench,
            own,
            base,
        })
    }

    /// Fills in the loss of every family in every format on offer to it.
    fn measure(&self, problem: &mut Problem, watch: &mut impl Watch) -> Result<(), BudgetError> {
        for family in 0..problem.families.len() {
            for (i, format) in problem.options[family].clone().into_iter().enumerate() {
                problem.loss[family][i] = self.alone(problem, family, format, watch)?;
            }
        }
        self.bench.cache.save();
        Ok(())
    }

    fn alone(
        &self,
        problem: &Problem,
        family: usize,
        format: Format,
        watch: &mut impl Watch,
    ) -> Result<f64, BudgetError> {
        let family = &problem.families[family];
        watch.step(&format!("{} in {format}", family.name));
        let mut formats = self.own.clone();
        formats.extend(family.weights.iter().map(|w| (w.name.clone(), format)));
        if formats == self.own {
            return Ok(0.0);
        }
        let score = self.bench.score(&self.judge, &formats)?;
        Ok(score.objective(self.bench.question.objective) - self.base)
    }
}
