//! Error-aware rounding: numbers of a row are rounded one after another, and what one rounding got wrong is made up for by
//! those still to come, so that the error of `W·x` on the calibration vectors is small, not the error of `W`. After Frantar
//! et al. 2022, "GPTQ", in its triangular form: with `H = Rᵀ·R` the error of a row is `Σᵢ (R_ii (wᵢ − qᵢ) + Σ_{j>i} R_ij (wⱼ − qⱼ))²`,
//! so from the last number to the first each `qᵢ` is the nearest to `wᵢ + Σ_{j>i} R_ij / R_ii (wⱼ − qⱼ)`.

use super::{Moments, factor, steps};
use thimble_device::multiversion;
use thimble_shared::dtype::{Format, I4_BLOCK, Levels, Numbers, Storage, Values};

/// Share of the mean diagonal added to every entry of it, so that inputs that are always zero or always alike do no harm.
const DAMPING: f32 = 0.01;
/// Rows rounded side by side: the factor is read once for all of them.
const LANES: usize = 32;

/// The moments of one input, factored, its columns in the order they are rounded.
pub struct Rounder {
    width: usize,
    /// `order[i]` is the column at place `i`; the last place is rounded first and holds the input with most energy.
    order: Vec<usize>,
    /// Row `i`: `R_ij / R_ii` for all later places `j`. Row after row, the last one empty.
    ratios: Vec<f32>,
    /// Mean square of each column's input.
    energy: Vec<f32>,
    mean: Vec<f32>,
}

impl Rounder {
    /// None when the moments cannot be factored (inputs beyond f32, or none at all).
    pub fn new(moments: Moments) -> Option<Rounder> {
        let (k, mut h) = (moments.width, moments.gram);
        let energy: Vec<f32> = (0..k).map(|i| h[i * k + i]).collect();
        let ridge = DAMPING * energy.iter().sum::<f32>() / k.max(1) as f32;
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by(|&a, &b| energy[a].total_cmp(&energy[b]).then(a.cmp(&b)));
        permute(&mut h, k, &order);
        (0..k).for_each(|i| h[i * k + i] += ridge);
        let mut ratios = factor::cholesky(h, k)?;
        for i in 0..k {
            let (inverse, row) = (1.0 / ratios[i * k + i], i * k + i + 1..(i + 1) * k);
            ratios[row.clone()].iter_mut().for_each(|r| *r *= inverse);
            // Half of the matrix is empty: the rows move together.
            ratios.copy_within(row, row_start(i, k));
        }
        ratios.truncate(row_start(k, k));
        ratios.shrink_to_fit();
        Some(Rounder {
            width: k,
            order,
            ratios,
            // A column that never carries anything still gets a fair step.
            energy: energy.iter().map(|e| e + ridge).collect(),
            mean: moments.mean,
        })
    }

    /// The rows of `data` in int8 or int4; None for formats that round nothing worth the effort.
    pub fn round(&self, format: Format, data: &[f32]) -> Option<Values> {
        let levels = format.row().levels?;
        if data.is_empty() || !data.len().is_multiple_of(self.width) {
            return None;
        }
        let storage = format.storage();
        let rows: Vec<&[f32]> = data.chunks_exact(self.width).collect();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let share = rows.len().div_ceil(threads).next_multiple_of(LANES);
        let done: Vec<Vec<Row>> = std::thread::scope(|scope| {
            let threads: Vec<_> = rows
                .chunks(share)
                .map(|rows| {
                    scope.spawn(move || {
                        let batches = rows.chunks(LANES);
                        batches
                            .flat_map(|rows| self.batch(storage, levels, rows))
                            .collect::<Vec<Row>>()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap_or_default()).collect()
        });
        let done: Vec<Row> = done.into_iter().flatten().collect();
        // A thread that died took its rows with it.
        (done.len() == rows.len()).then(|| {
            let scales = done.iter().map(|row| row.scale).collect();
            let multipliers = done.iter().flat_map(|row| row.multipliers.clone()).collect();
            let q = done.into_iter().flat_map(|row| row.q).collect();
            let numbers = match storage {
                Storage::F32 | Storage::F16 => return None,
                Storage::I8 => Numbers::I8 { q, scales },
                Storage::I4 => Numbers::I4 { q, multipliers, scales },
            };
            Some(Values::new(format, numbers))
        })?
    }

    fn batch(&self, storage: Storage, levels: Levels, rows: &[&[f32]]) -> Vec<Row> {
        let k = self.width;
        let mut made: Vec<Row> = rows.iter().map(|row| self.steps(storage, levels, row)).collect();
        // `errors[place][lane]` of what is rounded so far.
        let mut errors = vec![[0f32; LANES]; k];
        for place in (0..k).rev() {
            let ratios = &self.ratios[row_start(place, k)..row_start(place + 1, k)];
            let owed = owed(ratios, &errors[place + 1..]);
            let column = self.order[place];
            for (lane, (row, made)) in rows.iter().zip(&mut made).enumerate() {
                let wanted = row[column] + owed[lane];
                let step = match storage {
                    Storage::F32 | Storage::F16 | Storage::I8 => made.scale,
                    Storage::I4 => f32::from(made.multipliers[column / I4_BLOCK]) * made.scale,
                };
                let q = levels.nearest(wanted, step);
                made.q[column] = q;
                errors[place][lane] = row[column] - f32::from(q) * step;
            }
        }
        made
    }

    fn steps(&self, storage: Storage, levels: Levels, row: &[f32]) -> Row {
        let (scale, multipliers) = match storage {
            Storage::F32 | Storage::F16 | Storage::I8 => (steps::of_row(row, &self.energy, levels), vec![]),
            Storage::I4 => steps::of_blocks(row, &self.energy, levels),
        };
        Row {
            q: vec![0; row.len()],
            multipliers,
            scale,
        }
    }

    /// Per output channel, what rounding takes from the mean output: added to the bias it makes good the loss. After Nagel
    /// et al. 2019, "Data-Free Quantization", section 4.2, with the mean measured instead of derived.
    pub fn shortfall(&self, data: &[f32], rounded: &[f32]) -> Vec<f32> {
        let rows = data.chunks_exact(self.width).zip(rounded.chunks_exact(self.width));
        rows.map(|(exact, rounded)| {
            let each = exact.iter().zip(rounded).zip(&self.mean);
            each.map(|((a, b), &mean)| f64::from(a - b) * f64::from(mean))
                .sum::<f64>() as f32
        })
        .collect()
    }
}

multiversion! {
    /// What the errors so far ask of the next number, row by row.
    fn owed(ratios: &[f32], errors: &[[f32; LANES]]) -> [f32; LANES] {
        let mut owed = [0f32; LANES];
        for (ratio, errors) in ratios.iter().zip(errors) {
            owed.iter_mut().zip(errors).for_each(|(owed, e)| *owed += ratio * e);
        }
        owed
    }
}

/// Where row `i` of the ratios of `k` columns starts: the rows before it have `k − 1`, `k − 2` … numbers.
fn row_start(i: usize, k: usize) -> usize {
    i * (2 * k).saturating_sub(1 + i) / 2
}

/// Puts row and column `order[i]` of the square matrix `h` at place `i`, in place.
fn permute(h: &mut [f32], k: usize, order: &[usize]) {
    let mut kept = vec![0f32; k];
    for row in h.chunks_exact_mut(k) {
        kept.copy_from_slice(row);
        row.iter_mut().zip(order).for_each(|(x, &from)| *x = kept[from]);
    }
    // Rows move along the cycles of the permutation.
    let mut done = vec![false; k];
    for start in 0..k {
        if done[start] {
            continue;
        }
        kept.copy_from_slice(&h[start * k..(start + 1) * k]);
        let mut at = start;
        loop {
            done[at] = true;
            let from = order[at];
            if from == start {
                break;
            }
            h.copy_within(from * k..(from + 1) * k, at * k);
            at = from;
        }
        h[at * k..(at + 1) * k].copy_from_slice(&kept);
    }
}

struct Row {
    q: Vec<i8>,
    multipliers: Vec<u8>,
    scale: f32,
}

/// Least-squares steps without moments, for tables and for inputs no calibration row reached.
pub fn unweighted(format: Format, data: &[f32], rows: usize) -> Option<Values> {
    let levels = format.row().levels?;
    match format.storage() {
        // A table's rows are read one by one: with 255 steps the largest magnitude is as good a choice as any.
        Storage::F32 | Storage::F16 | Storage::I8 => return None,
        Storage::I4 => {}
    }
    let cols = data.len().checked_div(rows)?.max(1);
    let ones = vec![1.0; cols];
    let (scales, multipliers): (Vec<f32>, Vec<Vec<u8>>) = data
        .chunks(cols)
        .map(|row| steps::of_blocks(row, &ones, levels))
        .unzip();
    Values::with_steps(format, data, multipliers.concat(), scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_permuted_in_place() {
        for order in [
            vec![0],
            vec![1, 0],
            vec![2, 0, 1, 4, 3],
            vec![0, 3, 2, 1],
            vec![4, 3, 2, 1, 0],
        ] {
            let k = order.len();
            let before: Vec<f32> = (0..k * k).map(|i| i as f32).collect();
            let mut after = before.clone();
            permute(&mut after, k, &order);
            for (i, j) in (0..k).flat_map(|i| (0..k).map(move |j| (i, j))) {
                assert_eq!(after[i * k + j], before[order[i] * k + order[j]], "{order:?}");
            }
        }
    }

    /// Correlated inputs: rounding that knows them loses less on `W·x` than rounding to nearest.
    #[test]
    fn less_is_lost_on_the_calibration_vectors_than_by_rounding_to_nearest() {
        let (n, k, vectors) = (20, 48, 300);
        let noise = |i: usize| ((i * 7919 + i / 7 * 104_729) % 2000) as f32 / 1000.0 - 1.0;
        let x: Vec<f32> = (0..vectors * k)
            .map(|i| noise(i / k * 3) * (1.0 + (i % k) as f32 / 8.0) + 0.4 * noise(i))
            .collect();
        let mut gram = vec![0.0; k * k];
        factor::multiply_add(
            [k, vectors, k],
            1.0 / vectors as f32,
            (&x, 1, k),
            (&x, k, 1),
            (&mut gram, k, 1),
        );
        let mean = (0..k)
            .map(|j| x.iter().skip(j).step_by(k).sum::<f32>() / vectors as f32)
            .collect();
        let rounder = Rounder::new(Moments { width: k, gram, mean }).unwrap();
        let w: Vec<f32> = (0..n * k).map(|i| noise(i * 31 + 5)).collect();
        let lost = |values: &Values| -> f64 {
            let back = values.to_f32();
            let error = |v: &[f32], row: usize| -> f64 {
                (0..k)
                    .map(|j| f64::from(w[row * k + j] - back[row * k + j]) * f64::from(v[j]))
                    .sum()
            };
            x.chunks(k)
                .flat_map(|v| (0..n).map(move |row| (v, row)))
                .map(|(v, row)| error(v, row).powi(2))
                .sum()
        };
        for format in [Format::I8, Format::I8A, Format::I4] {
            let plain = lost(&Values::round_to_nearest(format, &w, n));
            let ours = lost(&rounder.round(format, &w).unwrap());
            assert!(ours < 0.5 * plain, "{format}: {ours} against {plain}");
        }
        assert!(rounder.round(Format::F16, &w).is_none());
    }
}
