//! Models that compute what the source computes, but from numbers that may round better, and how they are rounded. The
//! search tries one step of preparation after another and keeps those that lower the loss, so each has to earn its place on
//! the tuning rows.

use crate::eval::dataset::Row;
use crate::eval::digest::Digest;
use crate::eval::runner::Vocabulary;
use crate::quantize::equalize::equalize;
use crate::quantize::error::QuantizeError;
use crate::quantize::outlier_split::split;
use crate::quantize::quantizer::{Done, Quantizer, QuantizerOptions, SharedShift};
use crate::quantize::shift::Reach;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use thimble_shared::model::Model;

/// What is done to a model before, and while, its numbers are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preparation {
    /// How far activations are shifted by their means.
    pub shifted: Reach,
    /// Channels are rescaled between adjacent weights.
    pub rescaled: bool,
    /// Outlier channels behind the activation function are split.
    pub split: bool,
    /// Numbers are rounded with regard to what the tuning rows multiply them by.
    pub calibrated: bool,
}

impl Preparation {
    /// What it came to in the formats of one model.
    pub fn describe(&self, done: &Done) -> String {
        let nearest = match done.nearest.as_slice() {
            [] => None,
            _ if done.calibrated.is_empty() => Some("rounded to nearest".to_string()),
            some if some.len() <= NAMED => Some(format!("{} to nearest", some.join(" and "))),
            many => Some(format!("{} weights to nearest", many.len())),
        };
        let calibrated = (!done.calibrated.is_empty()).then(|| "rounded by calibration".to_string());
        self.list(!done.shifted.is_empty(), [calibrated, nearest])
    }

    fn list(&self, shifted: bool, rounded: [Option<String>; 2]) -> String {
        let moved = [
            (shifted, "activations shifted"),
            (self.rescaled, "channels rescaled"),
            (self.split, "outlier channels split"),
        ];
        let moved = moved.iter().filter(|(done, _)| *done).map(|(_, name)| name.to_string());
        let parts: Vec<String> = moved.chain(rounded.into_iter().flatten()).collect();
        match parts.is_empty() {
            true => "as it came".to_string(),
            false => parts.join(", "),
        }
    }
}

/// Weights that are named rather than counted.
const NAMED: usize = 3;

/// What is to be done where numbers are rounded.
impl fmt::Display for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.calibrated {
            "by calibration"
        } else {
            "to nearest"
        };
        f.write_str(&self.list(self.shifted != Reach::Nowhere, [Some(format!("rounded {how}")), None]))
    }
}

/// A source prepared in one way.
pub struct Variant {
    pub preparation: Preparation,
    pub model: Arc<Model>,
    /// Of the numbers, and of the rows if the numbers made of them depend on rows.
    pub digest: Digest,
    options: QuantizerOptions,
}

impl Variant {
    pub fn quantizer(&self) -> Quantizer<'static> {
        Quantizer::shared(self.model.clone(), self.options.clone())
    }
}

/// A model with its channels moved, and what goes with it whatever the rounding.
#[derive(Clone)]
struct Base {
    model: Arc<Model>,
    digest: Digest,
    shift: SharedShift,
}

/// Makes variants of one source.
pub struct Variants {
    source: Arc<Model>,
    /// Rows to calibrate on, in the source's own ids.
    rows: Arc<Vec<Row>>,
    /// By whether channels are split and rescaled.
    bases: RefCell<HashMap<(bool, bool), Option<Base>>>,
}

impl Variants {
    /// `tune` is in the ids of the model `vocabulary` was cut from.
    pub fn new(source: &Model, tune: &[Row], vocabulary: Option<&Vocabulary>) -> Variants {
        let own = |row: &Row| vocabulary.map_or_else(|| row.clone(), |v| v.row(row));
        Variants {
            source: Arc::new(source.clone()),
            rows: Arc::new(tune.iter().map(own).collect()),
            bases: RefCell::default(),
        }
    }

    /// The source so prepared; None where there is nothing to split.
    ///
    /// # Errors
    /// Rows the engine refuses.
    pub fn make(&self, preparation: Preparation) -> Result<Option<Variant>, QuantizeError> {
        let key = (preparation.split, preparation.rescaled);
        let known = self.bases.borrow().get(&key).cloned();
        let base = match known {
            Some(base) => base,
            None => {
                let base = self.base(preparation)?;
                self.bases.borrow_mut().insert(key, base.clone());
                base
            }
        };
        Ok(base.map(|base| Variant {
            preparation,
            digest: base.digest.with_rows(&self.rows).with(&format!("{preparation:?}")),
            model: base.model,
            options: QuantizerOptions {
                rows: self.rows.clone(),
                calibrated: preparation.calibrated,
                reach: preparation.shifted,
                shift: base.shift,
            },
        }))
    }

    /// Lets go of what was made for other preparations than these.
    pub fn keep(&self, kept: &[Preparation]) {
        let wanted = |key: &(bool, bool)| kept.iter().any(|p| (p.split, p.rescaled) == *key);
        // That there is nothing to split takes no memory.
        self.bases
            .borrow_mut()
            .retain(|key, base| base.is_none() || wanted(key));
    }

    fn base(&self, preparation: Preparation) -> Result<Option<Base>, QuantizeError> {
        let mut model = self.source.clone();
        if preparation.split {
            let Some(split) = split(&model, &self.rows)? else {
                return Ok(None);
            };
            model = Arc::new(split);
        }
        if preparation.rescaled {
            model = Arc::new(equalize(&model));
        }
        Ok(Some(Base {
            digest: Digest::of(&model),
            model,
            shift: SharedShift::default(),
        }))
    }
}
