//! What enters each linear map on the calibration rows, over all layers that share it: the mean of its input vectors and
//! their covariance, the second moments around it. In: a model and rows; out: [`Statistics`], from which `round` chooses int8
//! and int4 numbers. The mean's own error goes into the bias, so rounding need only mind what differs from it.

#[allow(unsafe_code)] // the matrix products of the crate `matrixmultiply` take pointers
pub mod factor;
pub mod round;
mod steps;

use crate::eval::dataset::Row;
use crate::models::image::image_of;
use crate::quantize::error::QuantizeError;
use crate::render::listener::stopped;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use thimble_device::engine::{Engine, EngineOptions};
use thimble_shared::model::network::uses;
use thimble_shared::model::{Config, Kind, Model, Role, Site, WeightSpec};

/// Most vectors taken per weight: twice the width of ALBERT-base's widest input. More are taken at even distances.
const MOST_VECTORS: usize = 6144;
/// Vectors added to the moments in one product.
const BATCH: usize = 256;
/// Inputs wider than this get no moments (a matrix of 256 MiB), nor do the widest once all matrices together would pass
/// [`MOST_BYTES`]: their weights are rounded without.
const WIDEST: usize = 8192;
const MOST_BYTES: usize = 1 << 30;

/// Mean and covariance of one linear map's input.
pub struct Moments {
    pub width: usize,
    /// `(X − mean)ᵀ·(X − mean) / vectors`, `[width, width]`, symmetric.
    pub gram: Vec<f32>,
    pub mean: Vec<f32>,
}

/// Moments by what is read.
#[derive(Default)]
pub struct Statistics {
    moments: BTreeMap<Reads, Moments>,
}

/// Vectors on their way into the moments.
struct Gather {
    width: usize,
    seen: usize,
    /// Every how many vectors one is taken.
    stride: usize,
    taken: usize,
    /// The first vector: sums are taken around it, so that a channel that is large and nearly constant keeps its digits.
    pivot: Vec<f32>,
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
            pivot: vec![],
            waiting: Vec::with_capacity(BATCH * width),
            gram: vec![0.0; width * width],
            sum: vec![0.0; width],
        }
    }

    /// Adds the vectors of `x` that `real` says are no padding.
    fn add(&mut self, x: &[f32], real: impl Fn(usize) -> bool) {
        for (i, vector) in x.chunks_exact(self.width).enumerate() {
            if !real(i) {
                continue;
            }
            if self.seen.is_multiple_of(self.stride) {
                self.taken += 1;
                if self.pivot.is_empty() {
                    self.pivot = vector.to_vec();
                }
                let from = self.waiting.len();
                self.waiting.extend(vector.iter().zip(&self.pivot).map(|(v, p)| v - p));
                let differences = &self.waiting[from..];
                self.sum
                    .iter_mut()
                    .zip(differences)
                    .for_each(|(s, &v)| *s += f64::from(v));
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
        let n = self.taken.max(1) as f64;
        let mean: Vec<f64> = self.sum.iter().map(|s| s / n).collect();
        for (row, a) in self.gram.chunks_exact_mut(self.width).zip(&mean) {
            for (v, b) in row.iter_mut().zip(&mean) {
                *v = (f64::from(*v) / n - a * b) as f32;
            }
        }
        let around = self.pivot.iter().zip(&mean);
        Moments {
            width: self.width,
            gram: self.gram,
            mean: around.map(|(&p, m)| (f64::from(p) + m) as f32).collect(),
        }
    }
}

/// What a linear weight reads, said by the first that reads it: query, key and value read the same vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reads(Role, Option<Site>);

impl Reads {
    /// What a weight of a model reads.
    pub fn of(weight: &WeightSpec) -> Reads {
        match weight.role {
            Role::Key | Role::Value => Reads(Role::Query, weight.site),
            role => Reads(role, weight.site),
        }
    }

    /// Whether the weight is the one it is said by.
    fn by(self, weight: &WeightSpec) -> bool {
        self == Reads(weight.role, weight.site)
    }
}

/// The linear weights whose inputs are gathered.
fn inputs(config: &Config) -> Vec<WeightSpec> {
    let mut weights: Vec<WeightSpec> = config.weights();
    weights.retain(|w| w.kind == Kind::Linear && Reads::of(w).by(w) && w.shape[1] <= WIDEST);
    weights.sort_by_key(|w| w.shape[1]);
    let mut bytes = 0usize;
    weights.retain(|w| {
        bytes = bytes.saturating_add(w.shape[1] * w.shape[1] * 4);
        bytes <= MOST_BYTES
    });
    weights
}

/// Bytes of the second moments that [`Statistics::collect`] gathers for a model, and of the vectors on their way into them.
pub fn bytes(config: &Config) -> [u64; 2] {
    let each = |bytes: fn(u64) -> u64| inputs(config).iter().map(|w| bytes(w.shape[1] as u64)).sum();
    [each(|width| 4 * width * width), each(|width| 4 * width * BATCH as u64)]
}

/// The same with how many vectors to expect of each on `rows`.
fn gathered(config: &Config, rows: &[Row]) -> BTreeMap<Reads, Gather> {
    let expected = |w: &WeightSpec| -> usize {
        let each = rows.iter().map(|row| uses(config, w, row.input_ids.len()));
        each.map(|(passes, vectors)| passes * vectors).sum()
    };
    let gather = |w: &WeightSpec| (Reads::of(w), Gather::new(w.shape[1], expected(w)));
    inputs(config).iter().map(gather).collect()
}

/// Which of `vectors` inputs of a linear map stand for real tokens of `row`: all of them where there is one per sequence (a
/// pooler's), otherwise those with mask 1. The engine cuts what lies after the longest sequence's last token.
pub fn real_vectors(row: &Row, vectors: usize) -> impl Fn(usize) -> bool {
    let full = row.shape.last().copied().unwrap_or(1).max(1);
    let sequences = (row.attention_mask.len() / full).max(1);
    let seq = (vectors / sequences).max(1);
    move |i| vectors == sequences || row.attention_mask.get(i / seq * full + i % seq) != Some(&0)
}

impl Statistics {
    /// Runs `rows` one by one through `model`. The same on every machine with the same kernels: rows go in order.
    pub fn collect(model: &Model, rows: &[Row]) -> Result<Statistics, QuantizeError> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let options = EngineOptions {
            threads,
            ..EngineOptions::default()
        };
        let engine = Engine::new(image_of(model)?, options)?;
        let gathers = Arc::new(Mutex::new(gathered(&model.config, rows)));
        for (i, row) in rows.iter().enumerate() {
            if stopped() {
                return Err(QuantizeError::Interrupted);
            }
            let (observed, seen) = (gathers.clone(), row.clone());
            engine.observe(Some(Arc::new(move |input| {
                let mut gathers = observed.lock().unwrap_or_else(PoisonError::into_inner);
                let read = Reads(input.role, input.site);
                if let Some(gather) = gathers.get_mut(&read).filter(|g| g.width == input.width) {
                    gather.add(input.x, real_vectors(&seen, input.x.len() / input.width));
                }
            })));
            engine
                .run(&row.input())
                .map_err(|cause| QuantizeError::Row { row: i + 1, cause })?;
        }
        engine.observe(None);
        let gathers = std::mem::take(&mut *gathers.lock().unwrap_or_else(PoisonError::into_inner));
        let seen = gathers.into_iter().filter(|(_, gather)| gather.seen > 0);
        Ok(Statistics {
            moments: seen.map(|(read, gather)| (read, gather.finish())).collect(),
        })
    }

    /// Moments of what enters a linear weight, if any row reached it. They are as large as the weights, so they are handed out.
    pub fn take(&mut self, weight: &WeightSpec) -> Option<Moments> {
        self.moments.remove(&Reads::of(weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::model::Slot;

    #[test]
    fn moments_are_those_of_the_textbook() {
        let x = [1.0f32, 2.0, -3.0, 0.5, 0.25, 4.0];
        let mut gather = Gather::new(2, 3);
        gather.add(&x, |_| true);
        let moments = gather.finish();
        let mean = |i: usize| x.iter().skip(i).step_by(2).sum::<f32>() / 3.0;
        let want = |i: usize, j: usize| x.chunks(2).map(|v| (v[i] - mean(i)) * (v[j] - mean(j))).sum::<f32>() / 3.0;
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            assert!((moments.gram[i * 2 + j] - want(i, j)).abs() < 1e-6);
        }
        assert!((moments.mean[0] - mean(0)).abs() < 1e-6);
    }

    #[test]
    fn padding_and_what_the_engine_cuts_is_no_input() {
        let row = Row {
            input_ids: vec![5; 8],
            attention_mask: vec![1, 1, 0, 0, 1, 1, 1, 0],
            token_type_ids: vec![0; 8],
            shape: vec![2, 4],
            ..Row::default()
        };
        // Two sequences of three tokens once the last column is cut.
        let real = real_vectors(&row, 6);
        assert_eq!(
            (0..6).map(real).collect::<Vec<_>>(),
            [true, true, false, true, true, true]
        );
        // One vector per sequence: the pooler's.
        assert!((0..2).all(real_vectors(&row, 2)));
    }

    #[test]
    fn query_key_and_value_share_what_enters_them() {
        let site = Some(Site { group: 0, inner: 0 });
        let weight = |role: Role| WeightSpec {
            name: role.at(site),
            shape: vec![8, 8],
            kind: Kind::Linear,
            role,
            slot: Slot::Whole,
            site,
        };
        assert_eq!(Reads::of(&weight(Role::Value)), Reads::of(&weight(Role::Query)));
        assert_ne!(
            Reads::of(&weight(Role::AttentionOutput)),
            Reads::of(&weight(Role::Query))
        );
    }
}
