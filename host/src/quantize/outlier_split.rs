//! Outlier channels behind the activation function, split into smaller ones. Where one channel of what enters `down` is larger
//! than all others, it sets the step of every quantized token. An activation `a(u) = u·g(u)` with `g(u) + g(−u) = 1` (gelu in
//! both forms, silu) has `a(u) − a(−u) = u`, so for any `t`, exactly, `a(u) = t + a(u − t) − a(t − u) + a(−u)`: three channels
//! that stay below half of the first one's range, for `t` in its middle. In: a model and calibration rows; out: the same
//! function with a few more channels between `up` and `down`. After Zhao et al. 2019, "Improving Neural Network Quantization
//! without Retraining using Outlier Channel Splitting", whose halves need a linear activation; the identity is thimble's own.

use crate::eval::dataset::Row;
use crate::models::image::image_of;
use crate::quantize::error::QuantizeError;
use crate::quantize::gptq::real_vectors;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use thimble_device::engine::{Engine, EngineOptions};
use thimble_shared::dtype::Values;
use thimble_shared::model::{Activation, Model, Role, Site, Slot};

/// Rows that are run to find outliers, and vectors that are looked at of each `down`.
const ROWS: usize = 16;
const VECTORS: usize = 1024;
/// One channel may be added for this many: what that costs in bytes and time stays below a hundredth.
const SHARE: usize = 128;
const MOST_SPLITS: usize = 8;
/// Where a channel may be split, as shares of its largest number.
const MIDDLES: [f32; 5] = [0.2, 0.35, 0.5, 0.65, 0.8];
/// Channels a split adds.
const ADDED: usize = 2;
/// A split must lower the mean square of the steps to this share at most.
const WORTH: f64 = 0.99;

/// One channel split around `t`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Split {
    channel: usize,
    t: f32,
}

/// `model` with outlier channels split; None where the activation or the weights' format does not allow it, or where no
/// channel is worth it.
///
/// # Errors
/// Rows the engine refuses.
pub fn split(model: &Model, rows: &[Row]) -> Result<Option<Model>, QuantizeError> {
    let config = &model.config;
    match config.activation {
        Activation::Gelu | Activation::GeluNew | Activation::Silu => {}
        // Channels are rescaled through relu, and tanh has no outliers.
        Activation::Relu | Activation::Tanh => return Ok(None),
    }
    let most = (config.intermediate_size / SHARE / ADDED).min(MOST_SPLITS);
    if most == 0 {
        return Ok(None);
    }
    let seen = inputs(model, rows)?;
    let chosen: BTreeMap<Site, Vec<Split>> = Site::all(config)
        .map(|site| {
            let splits = match (seen.get(&(site, Role::Up)), seen.get(&(site, Role::Down))) {
                (Some(narrow), Some(wide)) => choose(wide, config.intermediate_size, most, |channel| {
                    channel_of_up(model, site, channel, narrow)
                }),
                _ => vec![],
            };
            (site, splits)
        })
        .collect();
    let added = ADDED * chosen.values().map(Vec::len).max().unwrap_or(0);
    if added == 0 {
        return Ok(None);
    }
    let mut model = model.clone();
    model.config.intermediate_size += added;
    for (site, splits) in chosen {
        if widen(&mut model, site, &splits, added).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(model))
}

/// One output channel of a layer's `up`, for each of the vectors `x`.
fn channel_of_up(model: &Model, site: Site, channel: usize, x: &[f32]) -> Vec<f32> {
    let width = model.config.hidden_size;
    let numbers = |slot: Slot| {
        let values = model.weights.get(&Role::Up.tensor(slot, Some(site)));
        values.and_then(Values::f32s).unwrap_or_default()
    };
    let row = numbers(Slot::Whole)
        .get(channel * width..(channel + 1) * width)
        .unwrap_or(&[]);
    let bias = numbers(Slot::Bias).get(channel).copied().unwrap_or(0.0);
    let each = x.chunks_exact(width);
    each.map(|x| x.iter().zip(row).map(|(x, w)| x * w).sum::<f32>() + bias)
        .collect()
}

/// Some of the vectors that enter each `up` and each `down`, one after another, of the same tokens.
fn inputs(model: &Model, rows: &[Row]) -> Result<BTreeMap<(Site, Role), Vec<f32>>, QuantizeError> {
    let config = &model.config;
    let rows = &rows[..rows.len().min(ROWS)];
    let tokens: usize = rows.iter().map(|row| row.input_ids.len()).sum();
    let passes = config.num_hidden_layers.div_ceil(config.num_hidden_groups);
    let stride = (tokens * passes).div_ceil(VECTORS).max(1);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let options = EngineOptions {
        threads,
        ..EngineOptions::default()
    };
    let engine = Engine::new(image_of(model)?, options)?;
    let seen: Arc<Mutex<BTreeMap<(Site, Role), (usize, Vec<f32>)>>> = Arc::default();
    for (i, row) in rows.iter().enumerate() {
        let (observed, row_seen) = (seen.clone(), row.clone());
        engine.observe(Some(Arc::new(move |input| {
            let Some(site) = input.site.filter(|_| [Role::Up, Role::Down].contains(&input.role)) else {
                return;
            };
            let mut seen = observed.lock().unwrap_or_else(PoisonError::into_inner);
            let (count, kept) = seen.entry((site, input.role)).or_default();
            let real = real_vectors(&row_seen, input.x.len() / input.width);
            for (_, vector) in input.x.chunks_exact(input.width).enumerate().filter(|(i, _)| real(*i)) {
                if count.is_multiple_of(stride) && kept.len() < VECTORS * input.width {
                    kept.extend_from_slice(vector);
                }
                *count += 1;
            }
        })));
        engine
            .run(&row.input())
            .map_err(|cause| QuantizeError::Row { row: i + 1, cause })?;
    }
    engine.observe(None);
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(seen.into_iter().map(|(name, (_, kept))| (name, kept)).collect())
}

/// What sets a token's step: its largest magnitude, where that stands, and the largest of the others.
#[derive(Clone, Copy)]
struct Top {
    channel: usize,
    largest: f32,
    second: f32,
}

fn top(vector: &[f32]) -> Top {
    let mut found = Top {
        channel: 0,
        largest: 0.0,
        second: 0.0,
    };
    for (channel, x) in vector.iter().enumerate() {
        let x = x.abs();
        if x > found.largest {
            found = Top {
                channel,
                largest: x,
                second: found.largest,
            };
        } else if x > found.second {
            found.second = x;
        }
    }
    found
}

/// One after another the splits that lower the mean square of the tokens' steps most. `x` holds vectors of `width`;
/// `before` gives what the activation made a channel of, one number a vector.
fn choose(x: &[f32], width: usize, most: usize, before: impl Fn(usize) -> Vec<f32>) -> Vec<Split> {
    // Room for the pieces; the activation is taken for relu, which it is where it is large.
    let full = width + ADDED * most;
    let mut wide: Vec<Vec<f32>> = x.chunks_exact(width).map(<[f32]>::to_vec).collect();
    wide.iter_mut().for_each(|vector| vector.resize(full, 0.0));
    let mut known: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
    let mut splits: Vec<Split> = Vec::new();
    let square = |x: f32| f64::from(x) * f64::from(x);
    while splits.len() < most {
        let tops: Vec<Top> = wide.iter().map(|vector| top(vector)).collect();
        let now: f64 = tops.iter().map(|t| square(t.largest)).sum();
        let mut largest: BTreeMap<usize, f32> = BTreeMap::new();
        for t in &tops {
            let most = largest.entry(t.channel).or_insert(0.0);
            *most = most.max(t.largest);
        }
        let mut best: Option<(f64, Split)> = None;
        for (channel, largest) in largest {
            let u = known.entry(channel).or_insert_with(|| before(channel));
            for t in MIDDLES.map(|share| share * largest) {
                let left = tops.iter().zip(&*u).map(|(top, u)| {
                    let rest = if top.channel == channel {
                        top.second
                    } else {
                        top.largest
                    };
                    square(rest.max((u - t).abs()).max(-u))
                });
                let left: f64 = left.sum();
                if best.is_none_or(|(least, _)| left < least) {
                    best = Some((left, Split { channel, t }));
                }
            }
        }
        let Some((_, split)) = best.filter(|(left, split)| *left <= now * WORTH && split.t > 0.0) else {
            break;
        };
        let u = known.remove(&split.channel).unwrap_or_default();
        let piece = width + ADDED * splits.len();
        for (vector, u) in wide.iter_mut().zip(&u) {
            vector[split.channel] = (u - split.t).max(0.0);
            vector[piece] = (split.t - u).max(0.0);
            vector[piece + 1] = (-u).max(0.0);
        }
        known.insert(split.channel, u.iter().map(|u| u - split.t).collect());
        known.insert(piece, u.iter().map(|u| split.t - u).collect());
        known.insert(piece + 1, u.iter().map(|u| -u).collect());
        splits.push(split);
    }
    splits
}

/// Adds `added` channels between `up` and `down`: two for each split, the rest of them empty. None where a weight is not in
/// f32 or has another shape than the config says.
fn widen(model: &mut Model, site: Site, splits: &[Split], added: usize) -> Option<()> {
    let hidden = model.config.hidden_size;
    let wide = model.config.intermediate_size - added;
    let mut take = |role: Role, slot: Slot, len: usize| {
        let values = model
            .weights
            .get_mut(&role.tensor(slot, Some(site)))
            .and_then(Values::f32s_mut)?;
        (values.len() == len).then(|| std::mem::take(values))
    };
    let mut up = take(Role::Up, Slot::Whole, wide * hidden)?;
    let mut up_bias = take(Role::Up, Slot::Bias, wide)?;
    let down = take(Role::Down, Slot::Whole, wide * hidden)?;
    let mut down_bias = take(Role::Down, Slot::Bias, hidden)?;
    // Of each added channel, whose column of `down` it has, and with which sign.
    let mut columns: Vec<(usize, f32)> = Vec::new();
    for &Split { channel, t } in splits {
        // A piece may be split again.
        let (source, sign) = match channel.checked_sub(wide) {
            None => (channel, 1.0),
            Some(piece) => *columns.get(piece)?,
        };
        let opposite: Vec<f32> = up[channel * hidden..][..hidden].iter().map(|w| -w).collect();
        let bias = up_bias[channel];
        up_bias[channel] = bias - t;
        up.extend_from_slice(&opposite);
        up.extend_from_slice(&opposite);
        up_bias.extend([t - bias, -bias]);
        columns.extend([(source, -sign), (source, sign)]);
        let column = down.chunks_exact(wide).map(|row| sign * row[source]);
        down_bias.iter_mut().zip(column).for_each(|(b, w)| *b += t * w);
    }
    up.resize((wide + added) * hidden, 0.0);
    up_bias.resize(wide + added, 0.0);
    let mut wider = Vec::with_capacity((wide + added) * hidden);
    for row in down.chunks_exact(wide) {
        wider.extend_from_slice(row);
        wider.extend(columns.iter().map(|&(channel, sign)| sign * row[channel]));
        wider.resize(wider.len() + added - columns.len(), 0.0);
    }
    let given = [
        (Role::Up, Slot::Whole, up),
        (Role::Up, Slot::Bias, up_bias),
        (Role::Down, Slot::Whole, wider),
        (Role::Down, Slot::Bias, down_bias),
    ];
    let named = given.map(|(role, slot, values)| (role.tensor(slot, Some(site)), Values::f32(values)));
    model.weights.extend(named);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_that_sets_most_steps_is_split_where_that_saves_most() {
        // Channel 1 is large in every vector, channel 3 in one.
        let x = [0.1f32, 8.0, 0.5, 0.2, 0.3, 6.0, 1.0, 0.1, 0.2, 4.0, 0.4, 5.0];
        let before = |channel: usize| x.iter().skip(channel).step_by(4).copied().collect();
        let splits = choose(&x, 4, 1, before);
        // Half of 8 would leave 4; at 6.4 no piece of the first two vectors is above 1.6, and the third is channel 3's.
        let [Split { channel: 1, t }] = splits[..] else {
            panic!("{splits:?}")
        };
        assert!((t - 6.4).abs() < 1e-5, "{t}");
        assert!(
            choose(&[1.0; 12], 4, 8, |_| vec![1.0; 3]).is_empty(),
            "nothing stands out"
        );
        // Far below zero the opposite piece would be larger than what it came from.
        let deep = |_| vec![8.0, -20.0, 4.0];
        assert!(choose(&x, 4, 8, deep).iter().all(|s| s.channel != 1));
    }
}
