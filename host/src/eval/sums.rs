//! Sums over pairs of numbers, from which distances and errors come.

use super::metrics::Distance;

/// How far two models' numbers of one output are apart.
#[derive(Default)]
pub(super) struct Sums {
    max: f64,
    squares: f64,
    /// Sum and sum of squares of the reference's numbers in each channel.
    channels: Vec<[f64; 2]>,
    values: u64,
    cosines: f64,
    vectors: u64,
}

impl Sums {
    pub(super) fn add(&mut self, x: &[f32], y: &[f32], channels: usize) {
        self.channels.resize(channels, [0.0; 2]);
        let (mut xy, mut xx, mut yy) = (0f64, 0f64, 0f64);
        for (i, (&a, &b)) in x.iter().zip(y).enumerate() {
            let (a, b) = (f64::from(a), f64::from(b));
            // NaN must show as the largest difference, never as none.
            let delta = if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() };
            self.max = self.max.max(delta);
            self.squares += delta * delta;
            let [sum, squares] = &mut self.channels[i % channels];
            *sum += a;
            *squares += a * a;
            self.values += 1;
            xy += a * b;
            xx += a * a;
            yy += b * b;
        }
        let norm = (xx * yy).sqrt();
        self.cosines += if norm > 0.0 {
            xy / norm
        } else {
            f64::from(u8::from(xx == yy))
        };
        self.vectors += 1;
    }

    pub(super) fn absorb(&mut self, other: &Sums) {
        self.max = self.max.max(other.max);
        self.squares += other.squares;
        self.channels.resize(other.channels.len(), [0.0; 2]);
        for (own, [sum, squares]) in self.channels.iter_mut().zip(&other.channels) {
            own[0] += sum;
            own[1] += squares;
        }
        self.values += other.values;
        self.cosines += other.cosines;
        self.vectors += other.vectors;
    }

    pub(super) fn distance(self) -> Distance {
        let n = self.values.max(1) as f64;
        let each = n / self.channels.len().max(1) as f64;
        let sum: f64 = self.channels.iter().map(|[sum, _]| sum).sum();
        let squares: f64 = self.channels.iter().map(|[_, squares]| squares).sum();
        let within: f64 = self
            .channels
            .iter()
            .map(|[sum, squares]| squares - sum * sum / each)
            .sum();
        Distance {
            max_abs: self.max,
            rms: (self.squares / n).sqrt(),
            reference_std: ((squares - sum * sum / n) / n).max(0.0).sqrt(),
            channel_std: (within / n).max(0.0).sqrt(),
            reference_rms: (squares / n).sqrt(),
            cosine: self.cosines / self.vectors.max(1) as f64,
            values: self.values,
        }
    }
}

/// Squared errors against given values.
#[derive(Clone, Copy, Default)]
pub(super) struct Errors {
    squares: f64,
    of: u64,
}

impl Errors {
    pub(super) fn add(&mut self, values: &[f32], targets: &[f32]) {
        for (&value, &target) in values.iter().zip(targets) {
            let error = (f64::from(value) - f64::from(target)).powi(2);
            // NaN must show as the largest error, never as none.
            self.squares += if error.is_nan() { f64::INFINITY } else { error };
            self.of += 1;
        }
    }

    pub(super) fn absorb(&mut self, other: Errors) {
        self.squares += other.squares;
        self.of += other.of;
    }

    pub(super) fn mean(self) -> Option<f64> {
        (self.of > 0).then(|| self.squares / self.of as f64)
    }
}
