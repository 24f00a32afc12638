//! Attention of int8 numbers for one head: keys and values become int8 panels, each token over its own range, in one pass over
//! them. Then a few queries at a time pass as tiles of the int8 kernel: products with the keys, weights of one query after
//! another, and the weights as tiles again, whose products with the values are exact whichever kernel ran.

use super::attention::Head;
use crate::engine::context::{Context, Scratch};
use crate::engine::elementwise::{LOWEST, SCORE_UNIT, at_least, greater, multiversion, power};
use crate::engine::kernels::pack::{place_channel, quantize_row, round};
use crate::engine::tile::Tile;
use thimble_shared::artifact::layout::{I8_DEPTH, I8_GROUP, PANEL_ROWS};
use thimble_shared::board::memory::QUERIES;
use thimble_shared::dtype::{ACTIVATION_FLOOR, I8_MAX};
use tract_core::internal::*;

/// Keys that pass at a time: as a constant, so that loops become a few vectors. Rows of keys are whole multiples of it.
const LANES: usize = I8_DEPTH;

impl Head<'_> {
    /// Puts the result where the head's queries are.
    pub(super) fn attend_int8(
        &self,
        mut queries: Tile<'_>,
        context: &Context,
        scratch: &mut Scratch,
    ) -> TractResult<()> {
        let &Head { seq, size, stride, .. } = self;
        let kernel = &context.kernels.i8;
        let (tiling, order) = (kernel.tiling(), kernel.order());
        let (keys, holes) = self.counted();
        let (depth, channels) = (size.next_multiple_of(I8_DEPTH), size.next_multiple_of(PANEL_ROWS));
        let padded = keys.next_multiple_of(LANES);
        let Scratch {
            work,
            second,
            panels,
            narrow,
            tile,
            queries: packed,
            weights,
            ..
        } = scratch;
        let panels = panels.take::<i8>(padded * (depth + channels));
        panels.fill(0);
        let (key_panels, value_panels) = panels.split_at_mut(padded * depth);
        tile.clear();
        tile.resize(2 * padded, 0.0);
        let (key_steps, value_steps) = tile.split_at_mut(padded);
        pack_keys(self.key, size, stride, key_panels, &mut key_steps[..keys]);
        pack_values(self.value, size, stride, value_panels, &mut value_steps[..keys]);
        // Two products share a lane, whatever they are; whether four could is not asked of panels that are used a few times.
        let chains = match kernel.asks_for_chains() {
            true => padded * depth / (PANEL_ROWS * I8_DEPTH),
            false => 0,
        };
        let chains = narrow.take::<u8>(chains);
        chains.fill(0);
        let steps = Steps {
            keys: key_steps,
            values: value_steps,
        };
        let unit = SCORE_UNIT / (size as f32).sqrt();
        for first in (0..seq).step_by(QUERIES) {
            let real = QUERIES.min(seq - first);
            packed.fill(tiling, order, real, size, |row, to| {
                quantize_row(queries.row(first + row), to)
            });
            let products = kernel.multiply(key_panels, chains, packed, 0..real, work)?;
            weights.fill(tiling, order, real, padded, |row, to| {
                let products = &mut products[row * padded..][..padded];
                weigh(products, packed.tokens[row].scale * unit, steps, keys, holes, to)
            });
            let sums = kernel.multiply(value_panels, chains, weights, 0..real, second)?;
            for (row, (sums, token)) in sums.chunks_exact(channels).zip(&weights.tokens).enumerate() {
                rescale(sums, token.scale, queries.row(first + row));
            }
        }
        Ok(())
    }
}

/// Quantizes each key over its range and packs it as one of the channels that queries are multiplied into; `steps` gets what one
/// step of each stands for.
fn pack_keys(key: &[f32], size: usize, stride: usize, panels: &mut [i8], steps: &mut [f32]) {
    let depth = size.next_multiple_of(I8_DEPTH);
    let mut row = vec![0; depth];
    let panels = panels.chunks_exact_mut(PANEL_ROWS * depth);
    for (p, (panel, steps)) in panels.zip(steps.chunks_mut(PANEL_ROWS)).enumerate() {
        for (lane, step) in steps.iter_mut().enumerate() {
            *step = quantize_row(&key[(p * PANEL_ROWS + lane) * stride..][..size], &mut row[..size]);
            place_channel(&row, panel, lane);
        }
    }
}

/// Quantizes each value over its range and packs four at a time as neighbours: `[size/8][seq/4][8][4]`.
fn pack_values(value: &[f32], size: usize, stride: usize, panels: &mut [i8], steps: &mut [f32]) {
    const STEP: usize = PANEL_ROWS * I8_GROUP;
    let channels = size.next_multiple_of(PANEL_ROWS);
    let panel = panels.len() / channels * PANEL_ROWS;
    let mut rows = vec![0; I8_GROUP * channels];
    for (group, steps) in steps.chunks_mut(I8_GROUP).enumerate() {
        rows.fill(0);
        for (i, (row, step)) in rows.chunks_exact_mut(channels).zip(steps).enumerate() {
            *step = quantize_row(&value[(group * I8_GROUP + i) * stride..][..size], &mut row[..size]);
        }
        for (p, panel) in panels.chunks_exact_mut(panel).enumerate() {
            let rows: [&[i8]; I8_GROUP] = std::array::from_fn(|i| &rows[i * channels + p * PANEL_ROWS..][..PANEL_ROWS]);
            let (slots, _) = panel[group * STEP..][..STEP].as_chunks_mut::<I8_GROUP>();
            for (lane, slot) in slots.iter_mut().enumerate() {
                *slot = rows.map(|row| row[lane]);
            }
        }
    }
}

/// What one step of each key and of each value stands for; zeros behind the last one.
#[derive(Clone, Copy)]
struct Steps<'a> {
    keys: &'a [f32],
    values: &'a [f32],
}

multiversion! {
    /// Turns one query's products with the keys into int8 weights of the values, and returns what one step of a sum of weighted
    /// values stands for. A product times its key's step times `unit` is a score in units of [`SCORE_UNIT`]. The first `keys` of
    /// the products are real. `keep`, where it is given, is 0 for each key that weighs nothing; if that is all of them, all weigh
    /// alike, as in Hugging Face's arithmetic.
    fn weigh(
        products: &mut [i32],
        unit: f32,
        steps: Steps<'_>,
        keys: usize,
        keep: Option<&[f32]>,
        weights: &mut [i8]
    ) -> f32 {
        let whole = keys / LANES * LANES;
        let (key_steps, _) = steps.keys.as_chunks::<LANES>();
        let (value_steps, _) = steps.values.as_chunks::<LANES>();
        let mut most = [f32::NEG_INFINITY; LANES];
        {
            let (real, last) = products.split_at_mut(whole);
            let (real, _) = real.as_chunks_mut::<LANES>();
            for (chunk, steps) in real.iter_mut().zip(key_steps) {
                for i in 0..LANES {
                    let score = chunk[i] as f32 * steps[i];
                    most[i] = greater(score, most[i]);
                    chunk[i] = score.to_bits() as i32;
                }
            }
            for (i, (score, step)) in last.iter_mut().zip(&steps.keys[whole..]).enumerate() {
                let real = if whole + i < keys { *score as f32 * step } else { f32::NEG_INFINITY };
                most[i % LANES] = greater(real, most[i % LANES]);
                *score = real.to_bits() as i32;
            }
        }
        if let Some(keep) = keep {
            for (score, &keep) in products.iter_mut().zip(keep) {
                // score + (1 - keep) * MIN is exactly MIN for any score of ordinary size.
                if keep == 0.0 {
                    *score = f32::MIN.to_bits() as i32;
                }
            }
            most = [f32::NEG_INFINITY; LANES];
            for chunk in products.as_chunks::<LANES>().0 {
                for i in 0..LANES {
                    most[i] = greater(f32::from_bits(chunk[i] as u32), most[i]);
                }
            }
        }
        let top = most.iter().fold(f32::NEG_INFINITY, |a, &b| greater(b, a));
        let (mut total, mut largest) = ([0.0; LANES], [ACTIVATION_FLOOR; LANES]);
        let (chunks, _) = products.as_chunks_mut::<LANES>();
        for (chunk, steps) in chunks.iter_mut().zip(value_steps) {
            for i in 0..LANES {
                let score = (f32::from_bits(chunk[i] as u32) - top) * unit;
                let weight = power(at_least(score, LOWEST));
                total[i] += weight;
                let weight = weight * steps[i];
                largest[i] = greater(weight, largest[i]);
                chunk[i] = weight.to_bits() as i32;
            }
        }
        let largest = largest.iter().fold(ACTIVATION_FLOOR, |a, &b| greater(b, a));
        let inverse = I8_MAX / largest;
        let (weights, _) = weights.as_chunks_mut::<LANES>();
        for (weights, chunk) in weights.iter_mut().zip(chunks) {
            for i in 0..LANES {
                weights[i] = round(f32::from_bits(chunk[i] as u32) * inverse);
            }
        }
        largest / I8_MAX / sum(&total)
    }
}

/// In pairs, as a tree.
#[inline(always)]
fn sum(lanes: &[f32; LANES]) -> f32 {
    let mut lanes = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

multiversion! {
    fn rescale(sums: &[i32], step: f32, to: &mut [f32]) {
        for (to, &sum) in to.iter_mut().zip(sums) {
            *to = sum as f32 * step;
        }
    }
}
