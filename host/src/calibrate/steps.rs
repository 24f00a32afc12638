//! The steps of int8 and int4 numbers by least squared error: the largest number of a row need not be met exactly when a
//! smaller step serves all the others better. Errors of a column weigh as much as the mean square of its input.

use thimble_shared::number::{I4_BLOCK, I4_MULTIPLIER_MAX, I4_RANGE, absmax_scale, i4, quantise};

/// Fractions of the step that meets the largest number.
const FRACTIONS: [f32; 12] = [1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5];

fn least<T: Copy>(candidates: impl IntoIterator<Item = T>, error: impl Fn(T) -> f64, first: T) -> (T, f64) {
    let mut best = (first, error(first));
    for candidate in candidates {
        let found = error(candidate);
        if found < best.1 {
            best = (candidate, found);
        }
    }
    best
}

fn squared(row: &[f32], weights: &[f32], round: impl Fn(f32) -> f32) -> f64 {
    let each = row
        .iter()
        .zip(weights)
        .map(|(&x, &h)| f64::from(h) * f64::from(x - round(x)).powi(2));
    each.sum()
}

/// The scale of an int8 row.
pub fn int8(row: &[f32], weights: &[f32]) -> f32 {
    let most = absmax_scale(row);
    let error = |scale: f32| squared(row, weights, |x| f32::from(quantise(x, scale)) * scale);
    least(FRACTIONS.map(|f| f * most), error, most).0
}

/// The scale of an int4 row and its blocks' multipliers.
pub fn int4(row: &[f32], weights: &[f32]) -> (f32, Vec<u8>) {
    let blocks: Vec<(&[f32], &[f32])> = row.chunks(I4_BLOCK).zip(weights.chunks(I4_BLOCK)).collect();
    let error =
        |(block, weights): (&[f32], &[f32]), step: f32| squared(block, weights, |x| f32::from(i4(x, step)) * step);
    let best_step = |&(block, weights): &(&[f32], &[f32])| {
        let most = block.iter().fold(0f32, |m, x| m.max(x.abs())) / f32::from(I4_RANGE.1);
        least(FRACTIONS.map(|f| f * most), |step| error((block, weights), step), most).0
    };
    let largest = blocks.iter().map(best_step).fold(0f32, f32::max);
    if largest == 0.0 {
        return (0.0, vec![1; blocks.len()]);
    }
    // A block's step is a whole multiple of the row's scale: a smaller scale says small blocks finer and clips large ones.
    let with = |scale: f32| -> (Vec<u8>, f64) {
        let each = blocks.iter().map(|&block| {
            let all = 1..=I4_MULTIPLIER_MAX;
            least(all, |m| error(block, f32::from(m) * scale), I4_MULTIPLIER_MAX)
        });
        let (multipliers, errors): (Vec<u8>, Vec<f64>) = each.unzip();
        (multipliers, errors.iter().sum())
    };
    let whole = largest / f32::from(I4_MULTIPLIER_MAX);
    let (scale, _) = least([0.93, 0.86, 1.07].map(|f| f * whole), |scale| with(scale).1, whole);
    (scale, with(scale).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::number::{Format, Values};

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
        let plain = error(&Values::round_to_nearest(Format::I8, &row, 1));
        assert!(error(&Values::int8(&row, &[int8(&row, &weights)])) <= plain);
        let plain = error(&Values::round_to_nearest(Format::I4, &row, 1));
        let (scale, multipliers) = int4(&row, &weights);
        let ours = error(&Values::int4(&row, multipliers, vec![scale]));
        assert!(ours < plain, "{ours} against {plain}");
    }

    #[test]
    fn an_empty_row_stays_empty() {
        assert_eq!(int8(&[0.0; 8], &[1.0; 8]), 0.0);
        assert_eq!(int4(&[0.0; 40], &[1.0; 40]), (0.0, vec![1, 1]));
    }
}
