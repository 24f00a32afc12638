//! Channel-wise shifts of activations, folded into biases that are there already. In: a model and calibration rows; out: for
//! every place where a linear map reads a vector that biases can move, the channels' means `c`, and what each bias gains when
//! `x − c` is read in place of `x`. The f32 function stays the same; a quantized input then spends its steps on what differs
//! from token to token. After Wei et al. 2023, "Outlier Suppression+" (channel-wise shift); the way through the residual that
//! all layers share is thimble's own and stands in docs/shrink.md.

use crate::eval::dataset::Row;
use crate::models::image::image_of;
use crate::quantize::error::QuantizeError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use thimble_device::engine::{Engine, EngineOptions};
use thimble_shared::dtype::{Format, Values};
use thimble_shared::model::head::masked_lm;
use thimble_shared::model::network::{HIDDEN, Network, Op, Step};
use thimble_shared::model::{Config, Model, Role, Site, Slot};

/// Name of the vector that is added to the last layer's result.
const HIDDEN_SHIFT: &str = Role::HiddenShift.name();

/// How far shifting goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Nothing is shifted.
    #[default]
    Nowhere,
    /// What costs no byte: all but hidden states that leave the model as `last_hidden_state`.
    Inside,
    /// Those too: the model then stores the vector that gives them back.
    Everywhere,
}

/// One place: what moves its vector, what reads it, and what must have it back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Biases that `c` is taken from.
    feeders: Vec<String>,
    /// Linear weights that read `x − c`; their biases gain `W·c`.
    readers: Vec<Reader>,
    /// Biases behind a residual that carries `x − c`: they gain `c`.
    residuals: Vec<String>,
    /// Whether `x` leaves the model, as it is or pooled.
    output: bool,
}

/// A linear weight by name, and its bias.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reader {
    weight: String,
    bias: String,
}

impl Reader {
    fn of(role: Role, site: Option<Site>) -> Reader {
        Reader {
            weight: role.at(site),
            bias: bias(role, site),
        }
    }
}

fn bias(role: Role, site: Option<Site>) -> String {
    role.tensor(Slot::Bias, site)
}

/// What reads the last layer's hidden states.
fn head_readers(config: &Config) -> Vec<Reader> {
    let reader = |step: Step| match step.op {
        Op::Linear { weight, input, .. } if input == HIDDEN => Some(weight),
        _ => None,
    };
    let readers = Network::of(config).head.into_iter().filter_map(reader);
    let readers = readers.chain(config.pooler.then_some(Role::Pooler));
    readers.map(|role| Reader::of(role, None)).collect()
}

/// The hidden states between layers. A layer has one `c` for all that feeds it, so feeders and readers that meet anywhere
/// share it: with several groups mostly all of them, inner layers have their own.
fn hidden_places(config: &Config) -> Vec<Place> {
    let layers = config.layer_groups();
    let inner = config.inner_group_num;
    // Places of hidden states: before each layer of each group, and after the last one.
    let place = |group: usize, i: usize| group * inner + i;
    let end = config.num_hidden_groups * inner;
    let mut class: Vec<usize> = (0..=end).collect();
    // A last LayerNorm feeds whatever follows its layer; the first place any of them was found to feed.
    let mut fed: BTreeMap<String, usize> = BTreeMap::new();
    let mut join = |feeder: String, to: usize| {
        let first = *fed.entry(feeder).or_insert(to);
        let (a, b) = (class[first], class[to]);
        class.iter_mut().filter(|c| **c == b).for_each(|c| *c = a);
    };
    if let Some(first) = Network::of(config).last_of_embeddings() {
        join(bias(first, None), layers.first().map_or(end, |&g| place(g, 0)));
    }
    for (layer, &group) in layers.iter().enumerate() {
        for i in 0..inner {
            let next = match layers.get(layer + 1) {
                _ if i + 1 < inner => place(group, i + 1),
                Some(&following) => place(following, 0),
                None => end,
            };
            let site = Site { group, inner: i };
            join(bias(Role::FeedForwardNorm, Some(site)), next);
        }
    }
    let mut places: BTreeMap<usize, Place> = BTreeMap::new();
    for (feeder, to) in fed {
        places.entry(class[to]).or_default().feeders.push(feeder);
    }
    for site in Site::all(config) {
        let read = places.entry(class[place(site.group, site.inner)]).or_default();
        let projections = [Role::Query, Role::Key, Role::Value];
        read.readers
            .extend(projections.map(|role| Reader::of(role, Some(site))));
        read.residuals.push(bias(Role::AttentionOutput, Some(site)));
    }
    let last = places.entry(class[end]).or_default();
    last.readers.extend(head_readers(config));
    last.output = config.head.row().gives_hidden;
    places.into_values().collect()
}

/// Every place of a model that biases can shift. What gelu makes is none: nothing linear stands before `down`.
fn places(config: &Config) -> Vec<Place> {
    let mut places = hidden_places(config);
    for (norm, map) in Network::of(config).norms_and_maps_of_embeddings() {
        places.push(Place {
            feeders: vec![bias(norm, None)],
            readers: vec![Reader::of(map, None)],
            ..Place::default()
        });
    }
    for site in Site::all(config).map(Some) {
        // Every row of the softmax sums to one, so what is taken from each value is taken from the context.
        places.push(Place {
            feeders: vec![bias(Role::Value, site)],
            readers: vec![Reader::of(Role::AttentionOutput, site)],
            ..Place::default()
        });
        places.push(Place {
            feeders: vec![bias(Role::AttentionNorm, site)],
            readers: vec![Reader::of(Role::Up, site)],
            residuals: vec![bias(Role::Down, site)],
            ..Place::default()
        });
    }
    if config.head.has_decoder() {
        let decoder = Reader::of(masked_lm::DECODER, None);
        let tied = config.tied_decoder.then(|| Role::Word.at(None));
        places.push(Place {
            feeders: vec![bias(masked_lm::NORM, None)],
            readers: vec![Reader {
                weight: tied.unwrap_or(decoder.weight),
                bias: decoder.bias,
            }],
            ..Place::default()
        });
    }
    places
}

impl Place {
    /// A place is shifted where that can save anything: some map that reads it has its numbers rounded.
    fn wanted(&self, formats: &BTreeMap<String, Format>, reach: Reach) -> bool {
        let rounded = |reader: &Reader| formats.get(&reader.weight).is_some_and(|f| f.has_scales());
        match reach {
            Reach::Nowhere => false,
            Reach::Inside => !self.output && self.readers.iter().any(rounded),
            Reach::Everywhere => self.readers.iter().any(rounded),
        }
    }
}

/// The network of a model in these formats once it is shifted: with `hidden_shift` where hidden states leave it.
pub fn shifted_config(config: &Config, formats: &BTreeMap<String, Format>, reach: Reach) -> Config {
    let output = hidden_places(config).into_iter().find(|place| place.output);
    Config {
        hidden_shift: config.hidden_shift || output.is_some_and(|place| place.wanted(formats, reach)),
        ..config.clone()
    }
}

/// The means of a place and what they change.
struct Fold {
    place: Place,
    center: Vec<f32>,
    gains: Vec<(String, Vec<f32>)>,
}

/// Shifts calibrated for one model.
pub struct Shift {
    folds: Vec<Fold>,
}

/// Sums over the vectors that entered a linear weight.
#[derive(Default)]
struct Sum {
    sum: Vec<f64>,
    vectors: u64,
}

impl Shift {
    /// Runs `rows` through `model` and takes the means of what enters its linear maps.
    ///
    /// # Errors
    /// Rows the engine refuses.
    pub fn calibrate(model: &Model, rows: &[Row]) -> Result<Shift, QuantizeError> {
        let sums = sums(model, rows)?;
        let folds = places(&model.config).into_iter();
        Ok(Shift {
            folds: folds.filter_map(|place| fold(model, place, &sums)).collect(),
        })
    }

    /// Shifts `model`, whose weights stand in `formats`, wherever `reach` lets it and a rounded map reads.
    pub fn apply(&self, model: &mut Model, formats: &BTreeMap<String, Format>, reach: Reach) {
        for fold in self.folds.iter().filter(|f| f.place.wanted(formats, reach)) {
            for (name, gain) in &fold.gains {
                if name == HIDDEN_SHIFT && !model.config.hidden_shift {
                    model.config.hidden_shift = true;
                    model
                        .weights
                        .insert(HIDDEN_SHIFT.into(), Values::f32(vec![0.0; gain.len()]));
                }
                if let Some(vector) = model.weights.get_mut(name).and_then(Values::f32s_mut) {
                    vector.iter_mut().zip(gain).for_each(|(x, g)| *x += g);
                }
            }
        }
    }

    /// What is taken from the input of `weight`, where it is shifted.
    pub fn center(&self, weight: &str, formats: &BTreeMap<String, Format>, reach: Reach) -> Option<&[f32]> {
        let reads = |f: &&Fold| f.place.readers.iter().any(|r| r.weight == weight) && f.place.wanted(formats, reach);
        self.folds.iter().find(reads).map(|f| f.center.as_slice())
    }
}

/// The gains of one place; None where no row reached it or a number leaves f32.
fn fold(model: &Model, place: Place, sums: &BTreeMap<String, Sum>) -> Option<Fold> {
    let mut total = Sum::default();
    for seen in place.readers.iter().filter_map(|reader| sums.get(&reader.weight)) {
        total.add(&seen.sum, seen.vectors);
    }
    let mean = |s: &f64| (s / total.vectors as f64) as f32;
    let center: Vec<f32> = total.sum.iter().map(mean).collect();
    if total.vectors == 0 || !center.iter().all(|c| c.is_finite()) {
        return None;
    }
    let lost: Vec<f32> = center.iter().map(|c| -c).collect();
    let mut gains: Vec<(String, Vec<f32>)> = place.feeders.iter().map(|name| (name.clone(), lost.clone())).collect();
    gains.extend(place.residuals.iter().map(|name| (name.clone(), center.clone())));
    gains.extend(place.output.then(|| (HIDDEN_SHIFT.to_string(), center.clone())));
    for Reader { weight, bias } in &place.readers {
        gains.push((bias.clone(), product(&model.weights.get(weight)?.as_f32(), &center)));
    }
    // Every one of them is needed: a bias the model does not have cannot take its share.
    let kept = |(name, gain): &(String, Vec<f32>)| match model.weights.get(name) {
        Some(values) => values.f32s().is_some_and(|vector| {
            vector.len() == gain.len() && vector.iter().zip(gain).all(|(x, g)| (x + g).is_finite())
        }),
        None => name == HIDDEN_SHIFT,
    };
    gains.iter().all(kept).then_some(Fold { place, center, gains })
}

/// `W·c`, summed in f64.
fn product(weight: &[f32], c: &[f32]) -> Vec<f32> {
    let row = |row: &[f32]| {
        row.iter()
            .zip(c)
            .map(|(&w, &c)| f64::from(w) * f64::from(c))
            .sum::<f64>() as f32
    };
    weight.chunks(c.len().max(1)).map(row).collect()
}

impl Sum {
    fn add(&mut self, values: &[f64], vectors: u64) {
        self.sum.resize(values.len(), 0.0);
        self.sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
        self.vectors += vectors;
    }
}

/// What entered each linear weight, by the name of the first that read it.
fn sums(model: &Model, rows: &[Row]) -> Result<BTreeMap<String, Sum>, QuantizeError> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let options = EngineOptions {
        threads,
        ..EngineOptions::default()
    };
    let engine = Engine::new(image_of(model)?, options)?;
    let sums: Arc<Mutex<BTreeMap<String, Sum>>> = Arc::default();
    for (i, row) in rows.iter().enumerate() {
        let (observed, seen) = (sums.clone(), row.clone());
        engine.observe(Some(Arc::new(move |input| {
            let mut sums = observed.lock().unwrap_or_else(PoisonError::into_inner);
            let sum = sums.entry(input.role.at(input.site)).or_default();
            sum.sum.resize(input.width, 0.0);
            let real = crate::quantize::gptq::real_vectors(&seen, input.x.len() / input.width);
            let vectors = input.x.chunks_exact(input.width).enumerate();
            for (_, vector) in vectors.filter(|(i, _)| real(*i)) {
                sum.sum.iter_mut().zip(vector).for_each(|(s, &v)| *s += f64::from(v));
                sum.vectors += 1;
            }
        })));
        engine
            .run(&row.input())
            .map_err(|cause| QuantizeError::Row { row: i + 1, cause })?;
    }
    engine.observe(None);
    let sums = std::mem::take(&mut *sums.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(sums)
}
