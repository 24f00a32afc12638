//! Which preparation of a model rounds best. In: the steps that may be tried; out: the variant they leave, and what each lost.

use crate::budget::candidates::Bench;
use crate::budget::error::BudgetError;
use crate::budget::problem::Choice;
use crate::budget::question::affordable_rows;
use crate::budget::sizes::Sizes;
use crate::eval::dataset;
use crate::eval::digest::Digest;
use crate::eval::runner::Judge;
use crate::quantize::quantizer::Quantizer;
use crate::quantize::shift::Reach;
use crate::quantize::variants::{Preparation, Variant, Variants};
use crate::render::progress::Watch;
use std::rc::Rc;
use thimble_shared::dtype::Format;
use thimble_shared::model::ModelSpec;

/// Multiply-accumulates that trying preparations may take.
const WORK: usize = 1_000_000_000_000;

/// What a preparation lost: the smallest model so prepared, and the one in int8 throughout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tried {
    /// The steps it consists of.
    pub preparation: Preparation,
    /// Loss with every family in its smallest format, in the unit of the objective.
    pub smallest: f64,
    /// Loss with every family in w8, i8a or i8, whichever of these comes first among the formats on offer, in the unit of the
    /// objective.
    pub int8: f64,
}

/// How a search may prepare models.
#[derive(Clone, Copy, Debug)]
pub struct PrepareOptions<'a> {
    /// Steps that are tried, in this order; none of them: rounding to nearest.
    pub steps: &'a [PreparationStep],
    /// Bytes that the smallest model must stay within, prepared as it is.
    pub most: u64,
}

/// The preparation that was chosen, and all that were tried.
pub struct Prepared {
    /// The source, prepared so.
    pub variant: Variant,
    /// Rounds the prepared model, and keeps what it rounded.
    pub quantizer: Rc<Quantizer<'static>>,
    /// Unprepared first, then in the order of the steps.
    pub tried: Vec<Tried>,
}

impl Prepared {
    /// Tries one step after another and keeps those that lower the loss of the smallest model and of int8 throughout, taken
    /// together, each relative to what it lost unprepared.
    pub fn choose(
        sizes: &Sizes,
        variants: &Variants,
        options: PrepareOptions<'_>,
        tune: &Judge,
        watch: &mut impl Watch,
    ) -> Result<Prepared, BudgetError> {
        let question = sizes.question();
        let Some(first) = variants.make(Preparation::default())? else {
            return Err(BudgetError::NoModel);
        };
        let mut best = Prepared {
            quantizer: Rc::new(first.quantizer()),
            variant: first,
            tried: vec![],
        };
        if options.steps.is_empty() {
            return Ok(best);
        }
        let tries = options.steps.len() + 1;
        watch.stage("preparing the model in each way", tries);
        let rows = affordable_rows(question, WORK, 2 * tries);
        let some = tune.some(&dataset::sample(question.tune.len(), rows));
        let original = Digest::of(question.original);
        // What loses least is what most families will be in.
        let int8 = [Format::W8, Format::I8A, Format::I8T]
            .into_iter()
            .find(|f| question.formats.contains(f));
        let int8 = int8.unwrap_or(Format::I8);
        let mut measure = |variant: &Variant, quantizer: &Rc<Quantizer<'static>>| -> Result<Tried, BudgetError> {
            watch.step(&variant.preparation.to_string());
            let problem = question.unmeasured(&variant.model.config);
            let bench = Bench::new(question, &variant.digest, quantizer.clone(), &original, some.rows());
            let lost = |choice: &Choice| -> Result<f64, BudgetError> {
                let score = bench.score(&some, &problem.formats_of(choice))?;
                Ok(score.objective(question.objective))
            };
            let tried = Tried {
                preparation: variant.preparation,
                smallest: lost(&problem.floor())?,
                int8: lost(&problem.mostly(int8))?,
            };
            bench.cache.save();
            Ok(tried)
        };
        let plain = measure(&best.variant, &best.quantizer)?;
        let relative = |tried: &Tried| share(tried.smallest, plain.smallest) + share(tried.int8, plain.int8);
        let mut least = relative(&plain);
        best.tried.push(plain);
        for &step in options.steps {
            let Some(next) = step.after(best.variant.preparation, sizes, variants, options.most)? else {
                continue;
            };
            let quantizer = Rc::new(next.quantizer());
            let tried = measure(&next, &quantizer)?;
            let loss = relative(&tried);
            if loss < least * step.worth() {
                (least, best.variant, best.quantizer) = (loss, next, quantizer);
            }
            best.tried.push(tried);
            // What a preparation gathered goes as soon as another one is known to be better.
            variants.keep(&[Preparation::default(), best.variant.preparation]);
        }
        Ok(best)
    }
}

/// A loss in units of another.
fn share(loss: f64, of: f64) -> f64 {
    if loss == of {
        1.0
    } else {
        loss / of.max(f64::MIN_POSITIVE)
    }
}

/// One step of preparation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum PreparationStep {
    /// Subtract the mean of each channel from what linear maps read
    Shift,
    /// Rescale channels between adjacent weights
    Rescale,
    /// Split outlier channels behind the activation function
    Split,
    /// Round so that the outputs of linear maps change least on the tuning rows (GPTQ)
    Calibrate,
}

/// All steps, in the order they are tried.
pub const STEPS: [PreparationStep; 4] = [
    PreparationStep::Shift,
    PreparationStep::Rescale,
    PreparationStep::Split,
    PreparationStep::Calibrate,
];

impl PreparationStep {
    /// The share of the loss that must be left at most for the step to be taken. Channels that are split cost bytes and time.
    fn worth(self) -> f64 {
        match self {
            PreparationStep::Shift | PreparationStep::Rescale | PreparationStep::Calibrate => 1.0,
            PreparationStep::Split => 0.97,
        }
    }

    /// The variant with this step done as well, if the smallest model then stays within `most` bytes.
    fn after(
        self,
        done: Preparation,
        sizes: &Sizes,
        variants: &Variants,
        most: u64,
    ) -> Result<Option<Variant>, BudgetError> {
        // With bytes for half precision throughout, `down` need not quantize what it reads.
        let question = sizes.question();
        let halves = ModelSpec::uniform(question.source.config.clone(), Format::F16).formats;
        if self == PreparationStep::Split && !question.integers_only && most >= sizes.of(&halves)? {
            return Ok(None);
        }
        let reaches = match self {
            PreparationStep::Shift => [Some(Reach::Everywhere), Some(Reach::Inside)],
            PreparationStep::Rescale | PreparationStep::Split | PreparationStep::Calibrate => {
                [Some(done.shifted), None]
            }
        };
        for shifted in reaches.into_iter().flatten() {
            let next = variants.make(match self {
                PreparationStep::Shift => Preparation { shifted, ..done },
                PreparationStep::Rescale => Preparation { rescaled: true, ..done },
                PreparationStep::Split => Preparation { split: true, ..done },
                PreparationStep::Calibrate => Preparation {
                    calibrated: true,
                    ..done
                },
            })?;
            if let Some(next) = next
                && sizes.floor_of(&next.model.config, shifted)? <= most
            {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }
}
