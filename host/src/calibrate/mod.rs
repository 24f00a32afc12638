//! What enters each linear map on the calibration rows, over all layers that share it: the second moments `Xᵀ·X` and the
//! mean of its input vectors. In: a model and rows; out: [`Statistics`], from which `round` chooses int8 and int4 numbers.

pub mod factor;
pub mod round;
mod steps;

use crate::inputs::Row;
use crate::subject::image_of;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use thimble_device::engine::{Engine, EngineOptions};
use thimble_shared::graph::{Kind, Model};

/// Most vectors taken per weight: twice the width of ALBERT-base's widest input. More are taken at even distances.
const MOST_VECTORS: usize = 6144;
/// Vectors added to the moments in one product.
const BATCH: usize = 256;
/// Inputs wider than this get no moments (a matrix of 256 MiB): their weights are rounded to nearest.
const WIDEST: usize = 8192;

/// Second moments and mean of one linear map's input.
pub struct Moments {
    pub width: usize,
    /// `Xᵀ·X / vectors`, `[width, width]`, symmetric.
    pub gram: Vec<f32>,
    pub mean: Vec<f32>,
}

/// Moments by weight name. Maps of one input (query, key and value) share theirs.
#[derive(Default)]
pub struct Statistics {
    moments: BTreeMap<String, Arc<Moments>>,
}

/// Vectors on their way into the moments.
struct Gather {
    width: usize,
    seen: usize,
    /// Every how many vectors one is taken.
    stride: usize,
    taken: usize,
    waiting: Vec<f32>,
    gram: Vec<f32>,
    sum: Vec<f64>,
}

impl Gather {
    fn new(width: usize, expected: usize) -> Gather {
        Gather {
            width,
            seen: 0,
            stride: expected.div_ceil(MOST_VECTORS).max(1),
            taken: 0,
            waiting: Vec::with_capacity(BATCH * width),
            gram: vec![0.0; width * width],
            sum: vec![0.0; width],
        }
    }

    fn add(&mut self, x: &[f32]) {
        for vector in x.chunks_exact(self.width) {
            if self.seen.is_multiple_of(self.stride) {
                self.taken += 1;
                self.waiting.extend_from_slice(vector);
                self.sum.iter_mut().zip(vector).for_each(|(s, &v)| *s += f64::from(v));
                if self.waiting.len() == BATCH * self.width {
                    self.flush();
                }
            }
            self.seen += 1;
        }
    }

    fn flush(&mut self) {
        let (k, n) = (self.width, self.waiting.len() / self.width);
        // Both operands are the same rows, read once by columns and once by rows.
        factor::multiply_add(
            [k, n, k],
            1.0,
            (&self.waiting, 1, k),
            (&self.waiting, k, 1),
            (&mut self.gram, k, 1),
        );
        self.waiting.clear();
    }

    fn finish(mut self) -> Moments {
        self.flush();
        let n = self.taken.max(1) as f32;
        self.gram.iter_mut().for_each(|v| *v /= n);
        Moments {
            width: self.width,
            gram: self.gram,
            mean: self.sum.iter().map(|s| (s / f64::from(n)) as f32).collect(),
        }
    }
}

/// The weight under whose name the input of `weight` is gathered: query, key and value read the same vectors.
fn input_of(weight: &str) -> String {
    let query = |stem: &str| format!("{stem}.q");
    let stem = weight.strip_suffix(".k").or_else(|| weight.strip_suffix(".v"));
    stem.map_or_else(|| weight.to_string(), query)
}

impl Statistics {
    /// Runs `rows` one by one through `model`. The same on every machine with the same kernels: rows go in order.
    pub fn collect(model: &Model, rows: &[Row]) -> Result<Statistics> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let options = EngineOptions {
            threads,
            ..EngineOptions::default()
        };
        let engine = Engine::new(image_of(model)?, options)?;
        let tokens: usize = rows.iter().map(|row| row.input_ids.len()).sum();
        let config = &model.config;
        let groups = config.layer_groups();
        let uses = |name: &str| {
            let group = name.split('.').next().and_then(|g| g.parse::<usize>().ok());
            group.map_or(1, |group| groups.iter().filter(|&&g| g == group).count())
        };
        let gathers: BTreeMap<String, Gather> = config
            .weights()
            .into_iter()
            .filter(|w| w.kind == Kind::Linear && input_of(&w.name) == w.name && w.shape[1] <= WIDEST)
            .map(|w| (w.name.clone(), Gather::new(w.shape[1], tokens * uses(&w.name))))
            .collect();
        let gathers = Arc::new(Mutex::new(gathers));
        let observed = gathers.clone();
        engine.observe(Some(Arc::new(move |input| {
            let mut gathers = observed.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(gather) = gathers.get_mut(input.weight).filter(|g| g.width == input.width) {
                gather.add(input.x);
            }
        })));
        for (i, row) in rows.iter().enumerate() {
            engine
                .run(&row.input())
                .with_context(|| format!("calibration row {}", i + 1))?;
        }
        engine.observe(None);
        let gathers = std::mem::take(&mut *gathers.lock().unwrap_or_else(PoisonError::into_inner));
        let seen = gathers.into_iter().filter(|(_, gather)| gather.seen > 0);
        Ok(Statistics {
            moments: seen.map(|(name, gather)| (name, Arc::new(gather.finish()))).collect(),
        })
    }

    /// Moments of what enters a linear weight, if any row reached it.
    pub fn of(&self, weight: &str) -> Option<&Arc<Moments>> {
        self.moments.get(&input_of(weight))
    }

    /// The name under which [`Statistics::of`] finds the moments: equal names, equal moments.
    pub fn key(weight: &str) -> String {
        input_of(weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_textbook() {
        let x = [1.0f32, 2.0, -3.0, 0.5, 0.25, 4.0];
        let mut gather = Gather::new(2, 3);
        gather.add(&x);
        let moments = gather.finish();
        let want = |i: usize, j: usize| x.chunks(2).map(|v| v[i] * v[j]).sum::<f32>() / 3.0;
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            assert!((moments.gram[i * 2 + j] - want(i, j)).abs() < 1e-6);
        }
        assert!((moments.mean[0] - (1.0 - 3.0 + 0.25) / 3.0).abs() < 1e-6);
    }

    #[test]
    fn query_key_and_value_share_what_enters_them() {
        assert_eq!(input_of("0.0.v"), "0.0.q");
        assert_eq!(input_of("0.0.o"), "0.0.o");
    }
}
