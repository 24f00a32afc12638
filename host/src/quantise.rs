//! From a source model (a checkpoint's f32 weights) to a [`Model`] whose weights stand in the chosen formats. Each weight's
//! encoding in each format is made once and kept, because the budget solver asks for many models over the same few
//! encodings. Numbers are rounded to nearest, or with regard to what the calibration rows multiply them by.

use crate::calibrate::Statistics;
use crate::calibrate::round::{Rounder, unweighted};
use crate::inputs::Row;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use thimble_shared::graph::{Config, Kind, Model, WeightSpec};
use thimble_shared::number::{Format, Values};

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QuantiseError {
    #[error("weight '{0}' is missing")]
    Missing(String),
    #[error(
        "weight '{name}' holds {value}, beyond fp16's ±65504; leave it in f32 or i8 (`shrink` may choose; `export --precision fp16` cannot)"
    )]
    F16Overflow { name: String, value: f32 },
    #[error("calibrating: {0}")]
    Calibration(String),
}

/// A weight in one format.
struct Encoded {
    values: Values,
    /// What rounding takes from the mean of each output channel; empty when that is not known.
    shortfall: Vec<f32>,
}

/// A source model and the encodings made of it so far.
pub struct Quantiser<'a> {
    source: &'a Model,
    /// Rows to calibrate on, and what was seen on them: gathered when a weight is rounded, not when an answer is remembered.
    rows: Option<Arc<Vec<Row>>>,
    statistics: OnceLock<Result<Statistics, String>>,
    rounders: Mutex<HashMap<String, Option<Arc<Rounder>>>>,
    made: Mutex<HashMap<(String, Format), Arc<Encoded>>>,
}

impl<'a> Quantiser<'a> {
    /// Rounds to nearest.
    pub fn new(source: &'a Model) -> Self {
        Quantiser {
            source,
            rows: None,
            statistics: OnceLock::new(),
            rounders: Mutex::default(),
            made: Mutex::default(),
        }
    }

    /// Rounds so that outputs on these rows suffer least.
    pub fn calibrated(source: &'a Model, rows: Arc<Vec<Row>>) -> Self {
        Quantiser {
            rows: Some(rows),
            ..Quantiser::new(source)
        }
    }

    /// The model with each table and linear weight in the format `formats` gives it (f32 where it gives none).
    pub fn model(&self, formats: &BTreeMap<String, Format>) -> Result<Model, QuantiseError> {
        let mut weights = BTreeMap::new();
        let mut shortfalls = vec![];
        for spec in self.source.config.weights() {
            let format = match spec.kind {
                Kind::Vector => Format::F32,
                Kind::Table | Kind::Linear => formats.get(&spec.name).copied().unwrap_or(Format::F32),
            };
            let encoded = self.encode(&spec, format)?;
            weights.insert(spec.name.clone(), encoded.values.clone());
            shortfalls.push((format!("{}.bias", spec.name), encoded));
        }
        for (bias, encoded) in shortfalls {
            if let Some(Values::F32(bias)) = weights.get_mut(&bias) {
                // What f32 cannot hold is no correction.
                let corrected = bias
                    .iter_mut()
                    .zip(&encoded.shortfall)
                    .filter(|(b, s)| (**b + **s).is_finite());
                corrected.for_each(|(b, s)| *b += s);
            }
        }
        Ok(Model {
            config: self.source.config.clone(),
            weights,
        })
    }

    fn encode(&self, spec: &WeightSpec, format: Format) -> Result<Arc<Encoded>, QuantiseError> {
        let key = (spec.name.clone(), format);
        if let Some(encoded) = lock(&self.made).get(&key) {
            return Ok(encoded.clone());
        }
        let source = self.source.weights.get(&spec.name);
        let source = source.ok_or_else(|| QuantiseError::Missing(spec.name.clone()))?;
        let encoded = match source.exactly(format) {
            Some(values) => Encoded {
                values,
                shortfall: vec![],
            },
            None => self.round(spec, format, &source.to_f32())?,
        };
        if let Values::F16(v) = &encoded.values
            && let Some(at) = v.iter().position(|x| !x.is_finite())
        {
            return Err(QuantiseError::F16Overflow {
                name: spec.name.clone(),
                value: source.to_f32()[at],
            });
        }
        let encoded = Arc::new(encoded);
        lock(&self.made).insert(key, encoded.clone());
        Ok(encoded)
    }

    fn round(&self, spec: &WeightSpec, format: Format, data: &[f32]) -> Result<Encoded, QuantiseError> {
        // A tied word table is read by rows as well: rounding it for the decoder's inputs alone would spoil the lookup.
        let multiplied = spec.kind == Kind::Linear && spec.name != "word";
        if multiplied
            && format.has_scales()
            && let Some(rounder) = self.rounder(&spec.name)?
            && let Some(values) = rounder.round(format, data)
        {
            let shortfall = rounder.shortfall(data, &values.to_f32());
            return Ok(Encoded { values, shortfall });
        }
        let better = self.rows.as_ref().and_then(|_| unweighted(format, data, spec.rows()));
        Ok(Encoded {
            values: better.unwrap_or_else(|| Values::round_to_nearest(format, data, spec.rows())),
            shortfall: vec![],
        })
    }

    /// The factored moments of a weight's input, made once for all weights that share it.
    fn rounder(&self, weight: &str) -> Result<Option<Arc<Rounder>>, QuantiseError> {
        let Some(rows) = &self.rows else { return Ok(None) };
        let gather = || Statistics::collect(self.source, rows).map_err(|e| format!("{e:#}"));
        let statistics = self.statistics.get_or_init(gather).as_ref();
        let statistics = statistics.map_err(|e| QuantiseError::Calibration(e.clone()))?;
        let mut rounders = lock(&self.rounders);
        let make = || Some(Arc::new(Rounder::new(statistics.of(weight)?)?));
        Ok(rounders.entry(Statistics::key(weight)).or_insert_with(make).clone())
    }
}

/// A poisoned lock only means another thread panicked between two whole insertions.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The same format for every table and linear weight.
pub fn uniform(config: &Config, format: Format) -> BTreeMap<String, Format> {
    thimble_shared::graph::Graph::uniform(config.clone(), format).formats
}
