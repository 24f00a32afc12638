//! Models that compute what the source computes, but from numbers that may round better, and how they are rounded. The
//! study tries one step of preparation after another and keeps those that lower the loss, so each has to earn its place on
//! the tuning rows.

use crate::equalise::equalise;
use crate::evaluate::Vocabulary;
use crate::inputs::Row;
use crate::memo::Digest;
use crate::outlier_split::split;
use crate::quantise::{Quantiser, QuantiserOptions, SharedShift};
use crate::shift::Reach;
use anyhow::Result;
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
    /// What is done, as a person reads it; `rounded` where some number is rounded at all.
    pub fn describe(&self, rounded: bool) -> String {
        let parts = [
            (self.shifted != Reach::Nowhere, "activations shifted"),
            (self.rescaled, "channels rescaled"),
            (self.split, "outlier channels split"),
            (self.calibrated && rounded, "rounded by calibration"),
            (!self.calibrated && rounded, "rounded to nearest"),
        ];
        let parts: Vec<&str> = parts
            .into_iter()
            .filter_map(|(done, name)| done.then_some(name))
            .collect();
        if parts.is_empty() {
            "as it came".to_string()
        } else {
            parts.join(", ")
        }
    }
}

impl fmt::Display for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(true))
    }
}

/// A source prepared in one way.
pub struct Variant {
    pub preparation: Preparation,
    pub model: Arc<Model>,
    /// Of the numbers, and of the rows if the numbers made of them depend on rows.
    pub digest: Digest,
    options: QuantiserOptions,
}

impl Variant {
    pub fn quantiser(&self) -> Quantiser<'static> {
        Quantiser::shared(self.model.clone(), self.options.clone())
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
    pub fn make(&self, preparation: Preparation) -> Result<Option<Variant>> {
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
            options: QuantiserOptions {
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

    fn base(&self, preparation: Preparation) -> Result<Option<Base>> {
        let mut model = self.source.clone();
        if preparation.split {
            let Some(split) = split(&model, &self.rows)? else {
                return Ok(None);
            };
            model = Arc::new(split);
        }
        if preparation.rescaled {
            model = Arc::new(equalise(&model));
        }
        Ok(Some(Base {
            digest: Digest::of(&model),
            model,
            shift: SharedShift::default(),
        }))
    }
}
