//! How far a candidate's outputs are from a reference's, as the user feels it: agreement of the predicted label, KL of the
//! output distributions, cosine, RMS and max |Δ| of the numbers, and accuracy where labels are given. Positions whose mask
//! is 0 are nobody's promise and never compared.

use serde::Serialize;
use std::collections::BTreeMap;
use thimble_shared::graph::Head;

/// An f32 output: dims and row-major numbers.
pub type Output = thimble_device::tensors::Tensor<f32>;
/// Outputs by Hugging Face's names.
pub type Outputs = BTreeMap<String, Output>;

/// Numbers of one output over all rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distance {
    pub max_abs: f64,
    pub rms: f64,
    /// Standard deviation of the reference's numbers: what the other figures are to be read against.
    pub reference_std: f64,
    /// Mean cosine of the vectors along the last axis.
    pub cosine: f64,
    pub values: u64,
}

/// A share of decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    pub hits: u64,
    pub of: u64,
}

impl Share {
    pub fn rate(self) -> Option<f64> {
        (self.of > 0).then(|| self.hits as f64 / self.of as f64)
    }

    fn count(&mut self, hit: bool) {
        self.hits += u64::from(hit);
        self.of += 1;
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Loss {
    pub rows: usize,
    /// Decisions (labels, tags, tokens, spans, choices) on which both models agree; `null` for models that decide nothing.
    pub agreement: Option<f64>,
    pub decisions: u64,
    /// Mean Kullback-Leibler divergence of the candidate's distributions from the reference's, in nats.
    pub kl: Option<f64>,
    pub outputs: BTreeMap<String, Distance>,
    /// Share of given labels each model gets right.
    pub reference_accuracy: Option<f64>,
    pub accuracy: Option<f64>,
}

impl Loss {
    /// The one number the solver minimises: KL where the model decides, otherwise the squared error relative to the
    /// reference's variance, averaged over outputs.
    pub fn objective(&self) -> f64 {
        self.kl.unwrap_or_else(|| self.relative_error())
    }

    pub fn relative_error(&self) -> f64 {
        let each = self
            .outputs
            .values()
            .map(|d| (d.rms / d.reference_std.max(f64::MIN_POSITIVE)).powi(2));
        each.sum::<f64>() / self.outputs.len().max(1) as f64
    }

    /// Lowest mean cosine over the outputs.
    pub fn cosine(&self) -> f64 {
        self.outputs.values().map(|d| d.cosine).fold(1.0, f64::min)
    }
}

#[derive(Default)]
struct Sums {
    max: f64,
    squares: f64,
    sum: f64,
    sum2: f64,
    values: u64,
    cosines: f64,
    vectors: u64,
}

/// Collects row after row.
pub struct Meter {
    head: Head,
    rows: usize,
    sums: BTreeMap<String, Sums>,
    agreement: Share,
    kl: f64,
    right_reference: Share,
    right: Share,
}

impl Meter {
    pub fn new(head: Head) -> Self {
        let share = Share::default();
        Meter {
            head,
            rows: 0,
            sums: BTreeMap::new(),
            agreement: share,
            kl: 0.0,
            right_reference: share,
            right: share,
        }
    }

    /// Adds one input's outputs. `mask` is its attention mask (of all choices one after another), `labels` what is right:
    /// one class, or one per token with -100 where nothing is asked.
    pub fn add(&mut self, mask: &[i64], labels: Option<&[i64]>, reference: &Outputs, candidate: &Outputs) {
        self.rows += 1;
        for (name, a) in reference {
            if let Some(b) = candidate.get(name) {
                self.add_output(name, mask, labels, a, b);
            }
        }
    }

    fn add_output(&mut self, name: &str, mask: &[i64], labels: Option<&[i64]>, a: &Output, b: &Output) {
        // The last axis is a vector of channels or classes, except for span logits, whose last axis is the sequence.
        let span = name == "start_logits" || name == "end_logits";
        let width = if span {
            mask.len()
        } else {
            a.shape.last().copied().unwrap_or(1).max(1)
        };
        let per_token = !span && a.data.len() == mask.len() * width;
        let mut decided = 0;
        for (i, (x, y)) in a.data.chunks(width).zip(b.data.chunks(width)).enumerate() {
            if per_token && mask[i] == 0 {
                continue;
            }
            let real = |v: &[f32]| -> Vec<f32> {
                if span {
                    v.iter().zip(mask).filter(|(_, m)| **m != 0).map(|(x, _)| *x).collect()
                } else {
                    v.to_vec()
                }
            };
            let (x, y) = (real(x), real(y));
            self.sums.entry(name.to_string()).or_default().add(&x, &y);
            if !self.decides(name) || x.len() < 2 {
                continue;
            }
            decided += 1;
            self.agreement.count(argmax(&x) == argmax(&y));
            self.kl += divergence(&x, &y);
            let label = labels.and_then(|l| if per_token { l.get(i) } else { l.first() });
            if let Some(&label) = label.filter(|&&l| l >= 0 && !span) {
                self.right_reference.count(argmax(&x) as i64 == label);
                self.right.count(argmax(&y) as i64 == label);
            }
        }
        debug_assert!(decided <= a.data.len());
    }

    /// Whether an output is a distribution over answers.
    fn decides(&self, name: &str) -> bool {
        match self.head {
            Head::None => false,
            Head::PreTraining => name.ends_with("_logits"),
            _ => name.ends_with("logits"),
        }
    }

    pub fn finish(self) -> Loss {
        let decisions = self.agreement.of;
        Loss {
            rows: self.rows,
            agreement: self.agreement.rate(),
            decisions,
            kl: (decisions > 0).then(|| self.kl / decisions as f64),
            outputs: self.sums.into_iter().map(|(name, s)| (name, s.distance())).collect(),
            reference_accuracy: self.right_reference.rate(),
            accuracy: self.right.rate(),
        }
    }
}

impl Sums {
    fn add(&mut self, x: &[f32], y: &[f32]) {
        let (mut xy, mut xx, mut yy) = (0f64, 0f64, 0f64);
        for (&a, &b) in x.iter().zip(y) {
            let (a, b) = (f64::from(a), f64::from(b));
            // NaN must show as the largest difference, never as none.
            let delta = if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() };
            self.max = self.max.max(delta);
            self.squares += delta * delta;
            self.sum += a;
            self.sum2 += a * a;
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

    fn distance(self) -> Distance {
        let n = self.values.max(1) as f64;
        let mean = self.sum / n;
        Distance {
            max_abs: self.max,
            rms: (self.squares / n).sqrt(),
            reference_std: (self.sum2 / n - mean * mean).max(0.0).sqrt(),
            cosine: self.cosines / self.vectors.max(1) as f64,
            values: self.values,
        }
    }
}

pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}

fn log_softmax(values: &[f32]) -> Vec<f64> {
    let max = values.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(f64::from(v)));
    let sum: f64 = values.iter().map(|&v| (f64::from(v) - max).exp()).sum();
    values.iter().map(|&v| f64::from(v) - max - sum.ln()).collect()
}

/// KL(p ‖ q) of the softmax distributions of two logit vectors, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (log_softmax(p), log_softmax(q));
    let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
    if kl.is_nan() { f64::INFINITY } else { kl.max(0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, shape: &[usize], data: &[f32]) -> Outputs {
        [(
            name.to_string(),
            Output {
                shape: shape.to_vec(),
                data: data.to_vec(),
            },
        )]
        .into()
    }

    #[test]
    fn padding_is_never_compared() {
        let mut meter = Meter::new(Head::TokenClassification);
        let a = one("logits", &[1, 3, 2], &[1.0, 0.0, 0.0, 1.0, 9.0, 9.0]);
        let b = one("logits", &[1, 3, 2], &[1.0, 0.0, 0.0, 1.0, -5.0, f32::NAN]);
        meter.add(&[1, 1, 0], Some(&[0, 0, 1]), &a, &b);
        let loss = meter.finish();
        assert_eq!((loss.agreement, loss.decisions, loss.kl), (Some(1.0), 2, Some(0.0)));
        assert_eq!(loss.accuracy, Some(0.5));
        assert_eq!(loss.outputs["logits"].max_abs, 0.0);
    }

    #[test]
    fn a_nan_is_the_largest_difference() {
        let mut meter = Meter::new(Head::SequenceClassification);
        meter.add(
            &[1],
            None,
            &one("logits", &[1, 2], &[1.0, 0.0]),
            &one("logits", &[1, 2], &[f32::NAN, 0.0]),
        );
        let loss = meter.finish();
        assert!(loss.objective().is_infinite() && loss.outputs["logits"].max_abs.is_infinite());
    }

    #[test]
    fn divergence_is_that_of_the_textbook() {
        let (p, q) = ([0.9f32.ln(), 0.1f32.ln()], [0.5f32.ln(), 0.5f32.ln()]);
        let want = 0.9 * (0.9f64 / 0.5).ln() + 0.1 * (0.1f64 / 0.5).ln();
        assert!((divergence(&p, &q) - want).abs() < 1e-6);
    }
}
