//! Models that compute what the source computes, but from numbers that may round better, and how they are rounded. The
//! study runs the smallest model of each and goes on with the one that loses least, so each preparation has to earn its
//! place on the tuning rows.

use crate::equalise::equalise;
use crate::evaluate::Vocabulary;
use crate::inputs::Row;
use crate::memo::Digest;
use crate::quantise::Quantiser;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use thimble_shared::graph::Model;

/// What is done to a model before, and while, its numbers are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preparation {
    /// Channels are rescaled between adjacent weights.
    pub rescaled: bool,
    /// Numbers are rounded with regard to what the tuning rows multiply them by.
    pub calibrated: bool,
}

impl fmt::Display for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.rescaled, self.calibrated) {
            (false, false) => "rounded to nearest",
            (true, false) => "channels rescaled",
            (false, true) => "rounded by calibration",
            (true, true) => "channels rescaled, rounded by calibration",
        })
    }
}

pub struct Variant {
    pub preparation: Preparation,
    pub model: Arc<Model>,
    /// Of the numbers, and of the rows if the rounding depends on them.
    pub digest: Digest,
    /// Rows it is calibrated on, in its own ids.
    rows: Arc<Vec<Row>>,
}

impl Variant {
    pub fn quantiser(&self) -> Quantiser<'_> {
        if self.preparation.calibrated {
            Quantiser::calibrated(&self.model, self.rows.clone())
        } else {
            Quantiser::new(&self.model)
        }
    }
}

/// All preparations of `source`, rounding to nearest first, or only that. `tune` is in the ids of the model `vocabulary` was cut from.
pub fn variants(source: &Model, tune: &[Row], vocabulary: Option<&Vocabulary>, nearest: bool) -> Vec<Variant> {
    let own = |row: &Row| vocabulary.map_or_else(|| row.clone(), |v| v.row(row));
    let rows = Arc::new(tune.iter().map(own).collect::<Vec<Row>>());
    let models = [(false, Arc::new(source.clone())), (true, Arc::new(equalise(source)))];
    let both = models.into_iter().flat_map(|(rescaled, model)| {
        let digest = Digest::of(&model);
        [false, true].map(|calibrated| Variant {
            preparation: Preparation { rescaled, calibrated },
            digest: if calibrated {
                digest.clone().with_rows(&rows)
            } else {
                digest.clone()
            },
            model: model.clone(),
            rows: rows.clone(),
        })
    });
    both.take(if nearest { 1 } else { usize::MAX }).collect()
}
