//! Function-preserving rescaling before quantizing. Where one weight's output channel is another's input channel with
//! nothing but linear steps between, the channel can be divided by s in the first and multiplied by s in the second. One
//! outlier channel then no longer takes the int8 steps of all others. Every s is a power of two, so the f32 function stays
//! the same to the last bit. After Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
//! Correction", section 4.1 (scale √(r₁/r₂)), with channel norms in place of ranges on the producing side.

use thimble_shared::dtype::Values;
use thimble_shared::model::network::Network;
use thimble_shared::model::weights::Weights;
use thimble_shared::model::{Activation, Config, Model, Role, Site, Slot};

/// Two adjacent weights: rows of `rows` (and entries of `vectors`) feed the columns of `consumer`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    rows: Option<String>,
    vectors: Vec<String>,
    consumer: String,
}

/// The adjacent pairs of a model: value → output map of every attention (attention mixes tokens, not channels), embedding
/// LayerNorm → map, and up → down where the activation is positively homogeneous. q → k needs none: each output channel has
/// a scale of its own and their product is taken in f32.
fn pairs(config: &Config) -> Vec<Pair> {
    let linear = |producer: Role, consumer: Role, site: Option<Site>| Pair {
        vectors: vec![producer.tensor(Slot::Bias, site)],
        rows: Some(producer.at(site)),
        consumer: consumer.at(site),
    };
    let of_embeddings = Network::of(config).norms_and_maps_of_embeddings().into_iter();
    let mut pairs: Vec<Pair> = of_embeddings
        .map(|(norm, map)| Pair {
            rows: None,
            vectors: [Slot::Gain, Slot::Bias].map(|slot| norm.tensor(slot, None)).into(),
            consumer: map.at(None),
        })
        .collect();
    for site in Site::all(config).map(Some) {
        pairs.push(linear(Role::Value, Role::AttentionOutput, site));
        if config.activation == Activation::Relu {
            pairs.push(linear(Role::Up, Role::Down, site));
        }
    }
    pairs
}

/// The same function with balanced channels. Only f32 weights are touched; others are what a file already decided.
pub fn equalize(model: &Model) -> Model {
    let mut weights = model.weights.clone();
    for pair in pairs(&model.config) {
        let scales = scales(&weights, &pair);
        // What nothing changes stays one with the source's.
        if scales.iter().all(|&s| s == 1.0) {
            continue;
        }
        if let Some(rows) = &pair.rows {
            divide_rows(&mut weights, rows, &scales);
        }
        pair.vectors
            .iter()
            .for_each(|name| divide_rows(&mut weights, name, &scales));
        if let Some(w) = weights.get_mut(&pair.consumer).and_then(Values::f32s_mut) {
            for row in w.chunks_mut(scales.len().max(1)) {
                row.iter_mut().zip(&scales).for_each(|(x, s)| *x *= s);
            }
        }
    }
    Model {
        config: model.config.clone(),
        weights,
    }
}

fn divide_rows(weights: &mut Weights, name: &str, scales: &[f32]) {
    if let Some(w) = weights.get_mut(name).and_then(Values::f32s_mut) {
        let width = (w.len() / scales.len().max(1)).max(1);
        for (row, s) in w.chunks_mut(width).zip(scales) {
            row.iter_mut().for_each(|x| *x /= s);
        }
    }
}

/// One power of two per channel, 1 where a channel is empty on either side. None at all when a weight is not in f32 or a
/// product would leave f32's normal range, where powers of two are no longer exact.
fn scales(weights: &Weights, pair: &Pair) -> Vec<f32> {
    let f32s = |name: &String| weights.get(name).and_then(Values::f32s);
    let producers: Option<Vec<&[f32]>> = pair.rows.iter().chain(&pair.vectors).map(f32s).collect();
    let (Some(producers), Some(consumer)) = (producers, f32s(&pair.consumer)) else {
        return vec![];
    };
    let channels = pair.vectors.first().and_then(f32s).map_or(0, <[f32]>::len);
    if channels == 0 {
        return vec![];
    }
    let produced = |j: usize| -> f64 {
        let rows = producers.iter().flat_map(|w| {
            let width = w.len() / channels;
            &w[j * width..(j + 1) * width]
        });
        rows.map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
    };
    let consumed = |j: usize| {
        consumer
            .chunks(channels)
            .map(|row| f64::from(row[j]).abs())
            .fold(0.0, f64::max)
    };
    // log2 of √(produced / consumed), centered so that neither weight grows as a whole.
    let wanted: Vec<Option<f64>> = (0..channels)
        .map(|j| Some(((produced(j) / consumed(j)).log2()) / 2.0).filter(|x: &f64| x.is_finite()))
        .collect();
    let known: Vec<f64> = wanted.iter().flatten().copied().collect();
    let center = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let power = |x: &Option<f64>| x.map_or(1.0, |x| 2f32.powi((x - center).round().clamp(-60.0, 60.0) as i32));
    let scales: Vec<f32> = wanted.iter().map(power).collect();
    let exact = |x: f32| x == 0.0 || x.is_normal();
    let rows_exact = producers.iter().all(|w| {
        let width = (w.len() / channels).max(1);
        w.chunks(width)
            .zip(&scales)
            .all(|(row, s)| row.iter().all(|x| exact(x / s)))
    });
    let columns_exact = consumer
        .chunks(channels)
        .all(|row| row.iter().zip(&scales).all(|(x, s)| exact(x * s)));
    if rows_exact && columns_exact { scales } else { vec![] }
}
