//! Channel-wise shifts of activations, folded into biases that are there already. In: a model and calibration rows; out: for
//! every place where a linear map reads a vector that biases can move, the channels' means `c`, and what each bias gains when
//! `x − c` is read in place of `x`. The f32 function stays the same; a quantised input then spends its steps on what differs
//! from token to token. After Wei et al. 2023, "Outlier Suppression+" (channel-wise shift); the way through the residual that
//! all layers share is thimble's own and stands in docs/shrink.md.

use crate::eval::dataset::Row;
use crate::models::image::image_of;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use thimble_device::engine::{Engine, EngineOptions};
use thimble_shared::dtype::{Format, Values};
use thimble_shared::model::network::{HIDDEN, Network, Op, Step};
use thimble_shared::model::{Config, Model, Role, layer_weight};

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
struct Site {
    /// Biases that `c` is taken from.
    feeders: Vec<String>,
    /// Linear weights that read `x − c`; their biases gain `W·c`.
    readers: Vec<String>,
    /// Biases behind a residual that carries `x − c`: they gain `c`.
    residuals: Vec<String>,
    /// Whether `x` leaves the model, as it is or pooled.
    output: bool,
}

fn bias(weight: &str) -> String {
    match weight {
        "word" | "mlm.decoder" => "mlm.decoder.bias".to_string(),
        other => format!("{other}.bias"),
    }
}

/// What reads the last layer's hidden states.
fn head_readers(config: &Config) -> Vec<String> {
    let reader = |step: Step| match step.op {
        Op::Linear { weight, input, .. } if input == HIDDEN => Some(weight.name()),
        _ => None,
    };
    let readers = Network::of(config).head.into_iter().filter_map(reader);
    readers
        .chain(config.pooler.then_some("pooler"))
        .map(String::from)
        .collect()
}

/// The hidden states between layers. A layer has one `c` for all that feeds it, so feeders and readers that meet anywhere
/// share it: with several groups mostly all of them, inner layers have their own.
fn hidden_sites(config: &Config) -> Vec<Site> {
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
    join("map".into(), layers.first().map_or(end, |&g| place(g, 0)));
    for (layer, &group) in layers.iter().enumerate() {
        for i in 0..inner {
            let next = match layers.get(layer + 1) {
                _ if i + 1 < inner => place(group, i + 1),
                Some(&following) => place(following, 0),
                None => end,
            };
            join(layer_weight(group, i, "ffn_norm"), next);
        }
    }
    let mut sites: BTreeMap<usize, Site> = BTreeMap::new();
    for (feeder, to) in fed {
        sites.entry(class[to]).or_default().feeders.push(bias(&feeder));
    }
    for group in 0..config.num_hidden_groups {
        for i in 0..inner {
            let site = sites.entry(class[place(group, i)]).or_default();
            site.readers
                .extend(["q", "k", "v"].map(|part| layer_weight(group, i, part)));
            site.residuals.push(bias(&layer_weight(group, i, "o")));
        }
    }
    let last = sites.entry(class[end]).or_default();
    last.readers.extend(head_readers(config));
    last.output = config.head.row().gives_hidden;
    sites.into_values().collect()
}

/// Every place of a model that biases can shift. What gelu makes is none: nothing linear stands before `down`.
fn sites(config: &Config) -> Vec<Site> {
    let mut sites = hidden_sites(config);
    sites.push(Site {
        feeders: vec![bias("embed_norm")],
        readers: vec!["map".into()],
        ..Site::default()
    });
    for group in 0..config.num_hidden_groups {
        for inner in 0..config.inner_group_num {
            let at = |part: &str| layer_weight(group, inner, part);
            // Every row of the softmax sums to one, so what is taken from each value is taken from the context.
            sites.push(Site {
                feeders: vec![bias(&at("v"))],
                readers: vec![at("o")],
                ..Site::default()
            });
            sites.push(Site {
                feeders: vec![bias(&at("attn_norm"))],
                readers: vec![at("up")],
                residuals: vec![bias(&at("down"))],
                ..Site::default()
            });
        }
    }
    if config.head.has_decoder() {
        let decoder = if config.tied_decoder { "word" } else { "mlm.decoder" };
        sites.push(Site {
            feeders: vec![bias("mlm.norm")],
            readers: vec![decoder.into()],
            ..Site::default()
        });
    }
    sites
}

impl Site {
    /// A place is shifted where that can save anything: some map that reads it has its numbers rounded.
    fn wanted(&self, formats: &BTreeMap<String, Format>, reach: Reach) -> bool {
        let rounded = |reader: &String| formats.get(reader).is_some_and(|f| f.has_scales());
        match reach {
            Reach::Nowhere => false,
            Reach::Inside => !self.output && self.readers.iter().any(rounded),
            Reach::Everywhere => self.readers.iter().any(rounded),
        }
    }
}

/// The network of a model in these formats once it is shifted: with `hidden_shift` where hidden states leave it.
pub fn shifted_config(config: &Config, formats: &BTreeMap<String, Format>, reach: Reach) -> Config {
    let output = hidden_sites(config).into_iter().find(|site| site.output);
    Config {
        hidden_shift: config.hidden_shift || output.is_some_and(|site| site.wanted(formats, reach)),
        ..config.clone()
    }
}

/// The means of a place and what they change.
struct Fold {
    site: Site,
    centre: Vec<f32>,
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
    pub fn calibrate(model: &Model, rows: &[Row]) -> Result<Shift> {
        let sums = sums(model, rows)?;
        let folds = sites(&model.config).into_iter();
        Ok(Shift {
            folds: folds.filter_map(|site| fold(model, site, &sums)).collect(),
        })
    }

    /// Shifts `model`, whose weights stand in `formats`, wherever `reach` lets it and a rounded map reads.
    pub fn apply(&self, model: &mut Model, formats: &BTreeMap<String, Format>, reach: Reach) {
        for fold in self.folds.iter().filter(|f| f.site.wanted(formats, reach)) {
            for (name, gain) in &fold.gains {
                if name == HIDDEN_SHIFT && !model.config.hidden_shift {
                    model.config.hidden_shift = true;
                    model
                        .weights
                        .insert(HIDDEN_SHIFT.into(), Values::F32(vec![0.0; gain.len()]));
                }
                if let Some(Values::F32(vector)) = model.weights.get_mut(name) {
                    vector.iter_mut().zip(gain).for_each(|(x, g)| *x += g);
                }
            }
        }
    }

    /// What is taken from the input of `weight`, where it is shifted.
    pub fn centre(&self, weight: &str, formats: &BTreeMap<String, Format>, reach: Reach) -> Option<&[f32]> {
        let reads = |f: &&Fold| f.site.readers.iter().any(|r| r == weight) && f.site.wanted(formats, reach);
        self.folds.iter().find(reads).map(|f| f.centre.as_slice())
    }
}

/// The gains of one place; None where no row reached it or a number leaves f32.
fn fold(model: &Model, site: Site, sums: &BTreeMap<String, Sum>) -> Option<Fold> {
    let mut total = Sum::default();
    for seen in site.readers.iter().filter_map(|reader| sums.get(reader)) {
        total.add(&seen.sum, seen.vectors);
    }
    let mean = |s: &f64| (s / total.vectors as f64) as f32;
    let centre: Vec<f32> = total.sum.iter().map(mean).collect();
    if total.vectors == 0 || !centre.iter().all(|c| c.is_finite()) {
        return None;
    }
    let lost: Vec<f32> = centre.iter().map(|c| -c).collect();
    let mut gains: Vec<(String, Vec<f32>)> = site.feeders.iter().map(|name| (name.clone(), lost.clone())).collect();
    gains.extend(site.residuals.iter().map(|name| (name.clone(), centre.clone())));
    gains.extend(site.output.then(|| (HIDDEN_SHIFT.to_string(), centre.clone())));
    for reader in &site.readers {
        gains.push((bias(reader), product(&model.weights.get(reader)?.as_f32(), &centre)));
    }
    // Every one of them is needed: a bias the model does not have cannot take its share.
    let kept = |(name, gain): &(String, Vec<f32>)| match model.weights.get(name) {
        Some(Values::F32(vector)) => {
            vector.len() == gain.len() && vector.iter().zip(gain).all(|(x, g)| (x + g).is_finite())
        }
        Some(_) => false,
        None => name == HIDDEN_SHIFT,
    };
    gains.iter().all(kept).then_some(Fold { site, centre, gains })
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
fn sums(model: &Model, rows: &[Row]) -> Result<BTreeMap<String, Sum>> {
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
            let sum = sums.entry(input.weight.to_string()).or_default();
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
            .with_context(|| format!("calibration row {}", i + 1))?;
    }
    engine.observe(None);
    let sums = std::mem::take(&mut *sums.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(sums)
}
