//! From a source model (a checkpoint's f32 weights) to a [`Model`] whose weights stand in the chosen formats. Each weight's
//! encoding in each format is made once and kept, because the budget solver asks for many models over the same few
//! encodings. Numbers are rounded to nearest, or with regard to what the calibration rows multiply them by.

use crate::eval::dataset::Row;
use crate::quantize::error::QuantizeError;
use crate::quantize::gptq::round::{Rounder, unweighted};
use crate::quantize::gptq::{Reads, Statistics};
use crate::quantize::shift::{Reach, Shift};
use crate::render::listener::stopped;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use thimble_shared::dtype::{Format, Values};
use thimble_shared::model::weights::Weights;
use thimble_shared::model::{Config, Kind, Model, Role, Slot, WeightSpec};

/// A weight in one format.
struct Encoded {
    values: Arc<Values>,
    /// What rounding takes from the mean of each output channel; empty when that is not known.
    shortfall: Vec<f32>,
    rounded: Rounded,
}

/// How a weight's numbers became those of its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounded {
    /// They were that already.
    Not,
    Nearest,
    /// With regard to what the rows multiply them by.
    Calibrated,
}

/// What was done to the numbers of a model that was made: names of weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Maps that read a shifted input.
    pub shifted: Vec<String>,
    /// Weights rounded by what the calibration rows multiply them by.
    pub calibrated: Vec<String>,
    /// Weights rounded to nearest.
    pub nearest: Vec<String>,
}

/// Shifts of one model, calibrated when they are first needed and shared by all that quantize it.
pub type SharedShift = Arc<OnceLock<Result<Shift, String>>>;

/// What is done beside rounding to nearest.
#[derive(Clone, Default)]
pub struct QuantizerOptions {
    /// Rows to calibrate on.
    pub rows: Arc<Vec<Row>>,
    /// Numbers are rounded so that outputs on these rows suffer least.
    pub calibrated: bool,
    /// How far activations are shifted by their means on these rows.
    pub reach: Reach,
    /// Calibrated means, shared between quantizers of one model.
    pub shift: SharedShift,
}

/// A model somebody else holds, or shares.
enum Source<'a> {
    Borrowed(&'a Model),
    Shared(Arc<Model>),
}

impl std::ops::Deref for Source<'_> {
    type Target = Model;

    fn deref(&self) -> &Model {
        match self {
            Source::Borrowed(model) => model,
            Source::Shared(model) => model,
        }
    }
}

/// A source model and the encodings made of it so far.
pub struct Quantizer<'a> {
    source: Source<'a>,
    options: QuantizerOptions,
    /// What was seen on the rows: gathered when a weight is rounded, not when an answer is remembered.
    statistics: Mutex<Option<Result<Statistics, String>>>,
    rounders: Mutex<HashMap<Reads, Option<Arc<Rounder>>>>,
    made: Mutex<HashMap<(String, Format), Arc<Encoded>>>,
}

impl Quantizer<'static> {
    /// The same for a model that several share.
    pub fn shared(source: Arc<Model>, options: QuantizerOptions) -> Self {
        Quantizer::of(Source::Shared(source), options)
    }
}

impl<'a> Quantizer<'a> {
    /// Rounds to nearest.
    pub fn new(source: &'a Model) -> Self {
        Quantizer::of(Source::Borrowed(source), QuantizerOptions::default())
    }

    /// Rounds and shifts as the options say.
    pub fn with(source: &'a Model, options: QuantizerOptions) -> Self {
        Quantizer::of(Source::Borrowed(source), options)
    }

    fn of(source: Source<'a>, options: QuantizerOptions) -> Self {
        Quantizer {
            source,
            options,
            statistics: Mutex::default(),
            rounders: Mutex::default(),
            made: Mutex::default(),
        }
    }

    fn shift(&self) -> Result<Option<&Shift>, QuantizeError> {
        if self.options.reach == Reach::Nowhere {
            return Ok(None);
        }
        let calibrate = || Shift::calibrate(&self.source, &self.options.rows).map_err(|e| format!("{e:#}"));
        let shift = self.options.shift.get_or_init(calibrate).as_ref();
        shift.map(Some).map_err(|e| QuantizeError::Calibration(e.clone()))
    }

    /// The model with each table and linear weight in the format `formats` gives it (f32 where it gives none).
    pub fn model(&self, formats: &BTreeMap<String, Format>) -> Result<Model, QuantizeError> {
        self.made(formats).map(|(model, _)| model)
    }

    /// The same, and what was done to its numbers.
    pub fn made(&self, formats: &BTreeMap<String, Format>) -> Result<(Model, Done), QuantizeError> {
        let shift = self.shift()?;
        let mut done = Done::default();
        let mut weights = Weights::new();
        let mut shortfalls = vec![];
        for spec in self.source.config.weights() {
            let format = match spec.kind {
                Kind::Vector => Format::F32,
                Kind::Table | Kind::Linear => formats.get(&spec.name).copied().unwrap_or(Format::F32),
            };
            if stopped() {
                return Err(QuantizeError::Interrupted);
            }
            let encoded = self.encode(&spec, format)?;
            weights.insert(spec.name.clone(), encoded.values.clone());
            match encoded.rounded {
                Rounded::Not => {}
                Rounded::Nearest => done.nearest.push(spec.name.clone()),
                Rounded::Calibrated => done.calibrated.push(spec.name.clone()),
            }
            // An input around its mean loses nothing of it.
            match shift.and_then(|s| s.center(&spec.name, formats, self.options.reach)) {
                Some(_) => done.shifted.push(spec.name.clone()),
                None => shortfalls.push((spec.role.tensor(Slot::Bias, spec.site), encoded)),
            }
        }
        for (bias, encoded) in shortfalls {
            if encoded.shortfall.is_empty() {
                continue;
            }
            if let Some(bias) = weights.get_mut(&bias).and_then(Values::f32s_mut) {
                // What f32 cannot hold is no correction.
                let corrected = bias
                    .iter_mut()
                    .zip(&encoded.shortfall)
                    .filter(|(b, s)| (**b + **s).is_finite());
                corrected.for_each(|(b, s)| *b += s);
            }
        }
        let mut model = Model {
            config: self.source.config.clone(),
            weights,
        };
        if let Some(shift) = shift {
            shift.apply(&mut model, formats, self.options.reach);
        }
        Ok((model, done))
    }

    fn encode(&self, spec: &WeightSpec, format: Format) -> Result<Arc<Encoded>, QuantizeError> {
        let key = (spec.name.clone(), format);
        if let Some(encoded) = lock(&self.made).get(&key) {
            return Ok(encoded.clone());
        }
        let source = self.source.weights.get(&spec.name);
        let source = source.ok_or_else(|| QuantizeError::Missing(spec.name.clone()))?;
        // The source's own numbers are held once.
        let own = self
            .source
            .weights
            .shared(&spec.name)
            .filter(|own| own.format() == format);
        let encoded = match own.cloned().or_else(|| source.exactly(format).map(Arc::new)) {
            Some(values) => Encoded {
                values,
                shortfall: vec![],
                rounded: Rounded::Not,
            },
            None => self.round(spec, format, source)?,
        };
        if let Some(v) = encoded.values.f16s()
            && v.iter().any(|x| !x.is_finite())
        {
            let beyond = v.iter().zip(source.to_f32()).filter(|(half, _)| !half.is_finite());
            let beyond: Vec<f32> = beyond.map(|(_, x)| x).collect();
            return Err(QuantizeError::F16Overflow {
                name: spec.name.clone(),
                beyond: beyond.len(),
                count: v.len(),
                most: beyond
                    .into_iter()
                    .max_by(|a, b| a.abs().total_cmp(&b.abs()))
                    .unwrap_or(f32::INFINITY),
            });
        }
        let encoded = Arc::new(encoded);
        // Widening, cutting bits and copying int8 numbers takes no time worth the memory.
        if format.has_scales() && format.row().numbers == format {
            lock(&self.made).insert(key, encoded.clone());
        }
        Ok(encoded)
    }

    fn round(&self, spec: &WeightSpec, format: Format, source: &Values) -> Result<Encoded, QuantizeError> {
        let same = format.row().numbers;
        if same != format {
            let numbers = self.encode(spec, same)?;
            if let Some(values) = numbers.values.exactly(format) {
                return Ok(Encoded {
                    values: Arc::new(values),
                    shortfall: numbers.shortfall.clone(),
                    rounded: numbers.rounded,
                });
            }
        }
        let data = &source.as_f32();
        // A tied word table is read by rows as well: rounding it for the decoder's inputs alone would spoil the lookup.
        let multiplied = spec.kind == Kind::Linear && spec.role != Role::Word;
        if multiplied
            && format.has_scales()
            && let Some(rounder) = self.rounder(spec)?
            && let Some(values) = rounder.round(format, data)
        {
            let shortfall = rounder.shortfall(data, &values.to_f32());
            return Ok(Encoded {
                values: Arc::new(values),
                shortfall,
                rounded: Rounded::Calibrated,
            });
        }
        let better = self.options.calibrated.then(|| unweighted(format, data, spec.rows()));
        let better = better.flatten();
        Ok(Encoded {
            values: Arc::new(better.unwrap_or_else(|| Values::round_to_nearest(format, data, spec.rows()))),
            shortfall: vec![],
            rounded: Rounded::Nearest,
        })
    }

    /// The factored moments of a weight's input, made once for all weights that share it.
    fn rounder(&self, weight: &WeightSpec) -> Result<Option<Arc<Rounder>>, QuantizeError> {
        if !self.options.calibrated {
            return Ok(None);
        }
        let gather = || Statistics::collect(&self.source, &self.options.rows).map_err(|e| format!("{e:#}"));
        let mut statistics = lock(&self.statistics);
        let statistics = statistics.get_or_insert_with(gather).as_mut();
        let statistics = statistics.map_err(|e| QuantizeError::Calibration(e.clone()))?;
        let mut rounders = lock(&self.rounders);
        let make = || Some(Arc::new(Rounder::new(statistics.take(weight)?)?));
        Ok(rounders.entry(Reads::of(weight)).or_insert_with(make).clone())
    }
}

/// A poisoned lock only means another thread panicked between two whole insertions.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Weights of `made` in fp16 where numbers of `source` below 2⁻²⁵ became zero: the name, how many, and of how many. Such
/// numbers are lost in any sum with one of ordinary size, so it is said and not refused.
pub fn vanished(source: &Model, made: &Model) -> Vec<(String, usize, usize)> {
    let halves = made
        .weights
        .iter()
        .filter_map(|(name, values)| Some((name, values.f16s()?, source.weights.get(name)?.as_f32())));
    let counted = halves.map(|(name, halves, before)| {
        let zeros = halves
            .iter()
            .zip(before.iter())
            .filter(|(half, x)| half.to_f32() == 0.0 && **x != 0.0);
        (name.clone(), zeros.count(), halves.len())
    });
    counted.filter(|(_, zeros, _)| *zeros > 0).collect()
}

/// The same format for every table and linear weight.
pub fn uniform(config: &Config, format: Format) -> BTreeMap<String, Format> {
    thimble_shared::model::ModelSpec::uniform(config.clone(), format).formats
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::tiny;
    use thimble_shared::model::{Activation, Head};

    /// A model of ones with these numbers at the start of one weight.
    fn model(first: &[f32]) -> Model {
        let config = Config {
            vocab_size: 8,
            embedding_size: 4,
            hidden_size: 4,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            intermediate_size: 4,
            max_position_embeddings: 4,
            type_vocab_size: 1,
            activation: Activation::Gelu,
            ..tiny(Head::None)
        };
        let ones = |w: WeightSpec| (w.name.clone(), Values::f32(vec![1.0; w.elements()]));
        let mut weights: Weights = config.weights().into_iter().map(ones).collect();
        if let Some(word) = weights.get_mut(Role::Word.name()).and_then(Values::f32s_mut) {
            word[..first.len()].copy_from_slice(first);
        }
        Model { config, weights }
    }

    #[test]
    fn numbers_fp16_cannot_hold_are_counted_and_refused_and_those_it_loses_are_counted() {
        // 65519 rounds to 65504, 65520 to infinity; 2⁻²⁵ rounds to zero and all above it to what fp16 has.
        let (tie, above) = (2f32.powi(-25), 2f32.powi(-25) * 1.001);
        let cases: [(&[f32], Result<usize, (usize, f32)>); 5] = [
            (&[65504.0, -65519.0], Ok(0)),
            (&[65520.0], Err((1, 65520.0))),
            (&[1e5, -3e38, 70000.0, 2.0], Err((3, -3e38))),
            (&[1e-20, -1e-9, 0.0, above], Ok(2)),
            (&[tie, 1e-45], Ok(2)),
        ];
        for (first, want) in cases {
            let source = model(first);
            let made = Quantizer::new(&source).model(&uniform(&source.config, Format::F16));
            match (made, want) {
                (Ok(made), Ok(zeros)) => {
                    let expected: Vec<_> = (zeros > 0)
                        .then(|| ("word".to_string(), zeros, 32))
                        .into_iter()
                        .collect();
                    assert_eq!(vanished(&source, &made), expected, "{first:?}");
                }
                (Err(e), Err((beyond, most))) => {
                    let said = format!("weight 'word': {beyond} of 32 numbers exceed fp16's ±65504, {most} the most");
                    assert!(e.to_string().contains(&said), "{e}");
                }
                (made, want) => panic!("{first:?}: {:?}, not {want:?}", made.map(|_| ())),
            }
        }
    }
}
