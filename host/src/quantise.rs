//! From a source model (a checkpoint's f32 weights) to a [`Model`] whose weights stand in the chosen formats. Each weight's encoding in each
//! format is made once and kept, because the budget solver asks for many models over the same few encodings.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use thimble_shared::graph::{Config, Kind, Model};
use thimble_shared::number::{Format, Values};

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QuantiseError {
    #[error("weight '{0}' is missing")]
    Missing(String),
    #[error(
        "weight '{name}' holds {value}, beyond fp16's ±65504; leave it in f32 or i8 (`shrink` may choose; `export --precision fp16` cannot)"
    )]
    F16Overflow { name: String, value: f32 },
}

/// A source model and the encodings made of it so far.
pub struct Quantiser<'a> {
    source: &'a Model,
    made: Mutex<HashMap<(String, Format), Arc<Values>>>,
}

impl<'a> Quantiser<'a> {
    pub fn new(source: &'a Model) -> Self {
        Quantiser {
            source,
            made: Mutex::new(HashMap::new()),
        }
    }

    /// The model with each table and linear weight in the format `formats` gives it (f32 where it gives none).
    pub fn model(&self, formats: &BTreeMap<String, Format>) -> Result<Model, QuantiseError> {
        let mut weights = BTreeMap::new();
        for spec in self.source.config.weights() {
            let format = match spec.kind {
                Kind::Vector => Format::F32,
                Kind::Table | Kind::Linear => formats.get(&spec.name).copied().unwrap_or(Format::F32),
            };
            let values = self.encode(&spec.name, spec.rows(), format)?;
            weights.insert(spec.name, (*values).clone());
        }
        Ok(Model {
            config: self.source.config.clone(),
            weights,
        })
    }

    fn encode(&self, name: &str, rows: usize, format: Format) -> Result<Arc<Values>, QuantiseError> {
        let key = (name.to_string(), format);
        // A poisoned lock only means another thread panicked between two whole insertions.
        let lock = || self.made.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(values) = lock().get(&key) {
            return Ok(values.clone());
        }
        let source = self
            .source
            .weights
            .get(name)
            .ok_or_else(|| QuantiseError::Missing(name.to_string()))?;
        if source.format() == format {
            return Ok(Arc::new(source.clone()));
        }
        let data = source.to_f32();
        let values = Values::round_to_nearest(format, &data, rows);
        if let Values::F16(v) = &values
            && let Some(at) = v.iter().position(|x| !x.is_finite())
        {
            return Err(QuantiseError::F16Overflow {
                name: name.to_string(),
                value: data[at],
            });
        }
        let values = Arc::new(values);
        lock().insert(key, values.clone());
        Ok(values)
    }
}

/// The same format for every table and linear weight.
pub fn uniform(config: &Config, format: Format) -> BTreeMap<String, Format> {
    thimble_shared::graph::Graph::uniform(config.clone(), format).formats
}
