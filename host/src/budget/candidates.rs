//! Models to choose between: made of one variant in any formats, and their scores on one set of rows.

use crate::budget::error::BudgetError;
use crate::budget::loss_cache::LossCache;
use crate::budget::question::Question;
use crate::eval::dataset::Row;
use crate::eval::digest::Digest;
use crate::eval::metrics::Score;
use crate::eval::runner::Judge;
use crate::models::image::image_of;
use crate::quantize::error::QuantizeError;
use crate::quantize::quantizer::Quantizer;
use std::collections::BTreeMap;
use std::rc::Rc;
use thimble_shared::dtype::Format;
use thimble_shared::model::Model;

/// Makes candidates of one variant and remembers their scores on one set of rows.
pub struct Bench<'a> {
    pub question: &'a Question<'a>,
    pub quantizer: Rc<Quantizer<'static>>,
    pub cache: LossCache,
}

impl<'a> Bench<'a> {
    pub fn new(
        question: &'a Question<'a>,
        variant: &Digest,
        quantizer: Rc<Quantizer<'static>>,
        original: &Digest,
        rows: &[Row],
    ) -> Bench<'a> {
        Bench {
            question,
            quantizer,
            cache: LossCache::open(&[original, &variant.clone().with(question.attention.name())], rows),
        }
    }

    /// The model in these formats; None where a number does not fit its format.
    pub fn made(&self, formats: &BTreeMap<String, Format>) -> Result<Option<Model>, BudgetError> {
        match self.quantizer.model(formats) {
            Ok(mut model) => {
                model.config.attention = self.question.attention;
                Ok(Some(model))
            }
            Err(QuantizeError::F16Overflow { .. }) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    pub fn score(&self, judge: &Judge, formats: &BTreeMap<String, Format>) -> Result<Score, BudgetError> {
        self.cache.score(formats, || {
            match self.made(formats)? {
                Some(model) => Ok(judge.loss(&image_of(&model)?)?.score()),
                // A family that does not fit fp16 is a choice nobody takes, not a failure.
                None => Ok(Score::IMPOSSIBLE),
            }
        })
    }
}
