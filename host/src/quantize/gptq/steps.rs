//! The steps of int8 and int4 numbers by least squared error: the largest number of a row need not be met exactly when a
//! smaller step serves all the others better. Errors of a column weigh as much as the mean square of its input.

use thimble_device::multiversion;
use thimble_shared::dtype::{I4_BLOCK, I4_MULTIPLIER_MAX, Levels, absmax};

const _: () = assert!(FRACTIONS.len() <= LANES && (I4_MULTIPLIER_MAX as usize) < LANES);

/// Fractions of the step that meets the largest number.
const FRACTIONS: [f32; 12] = [1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5];

/// Candidates compared at once: all of [`FRACTIONS`], all multipliers of a block.
const LANES: usize = 16;

multiversion! {
    /// The squared errors of rounding `row` with each of the steps to numbers in `range`, a column's error `weights` times. A step
    /// of zero rounds everything to zero.
    fn errors(row: &[f32], weights: &[f32], steps: &[f32; LANES], range: (f32, f32)) -> [f64; LANES] {
        let mut sums = [0f64; LANES];
        for (&x, &h) in row.iter().zip(weights) {
            for (sum, &step) in sums.iter_mut().zip(steps) {
                // As `Levels::nearest` rounds, without a branch.
                let q = (x / step).round_ties_even().clamp(range.0, range.1);
                let off = x - if step == 0.0 { 0.0 } else { q } * step;
                *sum += f64::from(h) * f64::from(off).powi(2);
            }
        }
        sums
    }
}

/// The first of the candidates with the least error; the one at `first` unless another is better.
fn least(candidates: usize, errors: &[f64; LANES], first: usize) -> usize {
    let better = |best: usize, i: usize| if errors[i] < errors[best] { i } else { best };
    (0..candidates).fold(first, better)
}

/// The best fraction of the step `most`, which meets the largest number.
fn best_fraction(row: &[f32], weights: &[f32], most: f32, range: (f32, f32)) -> f32 {
    let mut steps = [most; LANES];
    steps.iter_mut().zip(FRACTIONS).for_each(|(step, f)| *step = f * most);
    steps[least(FRACTIONS.len(), &errors(row, weights, &steps, range), 0)]
}

/// The scale of a row that has one step.
pub fn of_row(row: &[f32], weights: &[f32], levels: Levels) -> f32 {
    best_fraction(row, weights, absmax(row) / levels.ends().1, levels.ends())
}

/// The scale of a row and its blocks' multipliers.
pub fn of_blocks(row: &[f32], weights: &[f32], levels: Levels) -> (f32, Vec<u8>) {
    let range = levels.ends();
    let blocks: Vec<(&[f32], &[f32])> = row.chunks(I4_BLOCK).zip(weights.chunks(I4_BLOCK)).collect();
    let best_step = |&(block, weights): &(&[f32], &[f32])| {
        let most = absmax(block) / range.1;
        best_fraction(block, weights, most, range)
    };
    let largest = blocks.iter().map(best_step).fold(0f32, f32::max);
    if largest == 0.0 {
        return (0.0, vec![1; blocks.len()]);
    }
    // A block's step is a whole multiple of the row's scale: a smaller scale says small blocks finer and clips large ones.
    let with = |scale: f32| -> (f32, Vec<u8>, f64) {
        let steps = std::array::from_fn(|i| (i + 1) as f32 * scale);
        let most = usize::from(I4_MULTIPLIER_MAX);
        let each = blocks.iter().map(|(block, weights)| {
            let errors = errors(block, weights, &steps, range);
            let best = least(most, &errors, most - 1);
            ((best + 1) as u8, errors[best])
        });
        let (multipliers, errors): (Vec<u8>, Vec<f64>) = each.unzip();
        (scale, multipliers, errors.iter().sum())
    };
    let whole = largest / f32::from(I4_MULTIPLIER_MAX);
    let others = [0.93, 0.86, 1.07].map(|f| with(f * whole));
    let better = |best: (f32, Vec<u8>, f64), other: (f32, Vec<u8>, f64)| if other.2 < best.2 { other } else { best };
    let (scale, multipliers, _) = others.into_iter().fold(with(whole), better);
    (scale, multipliers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::dtype::{Format, Values};

    fn levels(format: Format) -> Levels {
        format.row().levels.unwrap()
    }

    #[test]
    fn the_steps_lose_no_more_than_those_of_the_largest_magnitude() {
        let row: Vec<f32> = (0..200)
            .map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0 + if i == 77 { 3.0 } else { 0.0 })
            .collect();
        let weights: Vec<f32> = (0..200).map(|i| 1.0 + (i % 3) as f32).collect();
        let error = |values: &Values| -> f64 {
            let back = values.to_f32();
            let each = row.iter().zip(&back).zip(&weights);
            each.map(|((a, b), &h)| f64::from(h) * f64::from(a - b).powi(2)).sum()
        };
        let with = |format, multipliers, scale| Values::with_steps(format, &row, multipliers, vec![scale]).unwrap();
        let plain = error(&Values::round_to_nearest(Format::I8, &row, 1));
        assert!(error(&with(Format::I8, vec![], of_row(&row, &weights, levels(Format::I8)))) <= plain);
        let plain = error(&Values::round_to_nearest(Format::I4, &row, 1));
        let (scale, multipliers) = of_blocks(&row, &weights, levels(Format::I4));
        let ours = error(&with(Format::I4, multipliers, scale));
        assert!(ours < plain, "{ours} against {plain}");
    }

    /// One candidate after the other, as the rounding itself computes.
    #[test]
    fn errors_of_all_candidates_are_those_of_each() {
        let row: Vec<f32> = (0..77).map(|i| ((i * 7919) % 1000) as f32 / 499.0 - 1.0).collect();
        let weights: Vec<f32> = (0..77).map(|i| 1.0 / (1.0 + i as f32)).collect();
        let steps: [f32; LANES] = std::array::from_fn(|i| i as f32 * 0.013);
        let all = errors(&row, &weights, &steps, (-8.0, 7.0));
        for (found, step) in all.iter().zip(steps) {
            let each = row.iter().zip(&weights).map(|(&x, &h)| {
                let back = f32::from(levels(Format::I4).nearest(x, step)) * step;
                f64::from(h) * f64::from(x - back).powi(2)
            });
            assert_eq!(found.to_bits(), each.sum::<f64>().to_bits(), "{step}");
        }
    }

    #[test]
    fn an_empty_row_stays_empty() {
        assert_eq!(of_row(&[0.0; 8], &[1.0; 8], levels(Format::I8)), 0.0);
        assert_eq!(of_blocks(&[0.0; 40], &[1.0; 40], levels(Format::I4)), (0.0, vec![1, 1]));
    }
}
