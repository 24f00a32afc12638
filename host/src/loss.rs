//! How far a candidate's outputs are from a reference's, as the user feels it: agreement of the predicted label, KL of the
//! output distributions, cosine, RMS and max |Δ| of the numbers, and accuracy where labels are given. Positions whose mask
//! is 0 are nobody's promise and never compared.

use serde::Serialize;
use std::collections::BTreeMap;
use thimble_shared::graph::{Config, Head};

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

    fn relative_error(&self) -> f64 {
        let each = self
            .outputs
            .values()
            .map(|d| (d.rms / d.reference_std.max(f64::MIN_POSITIVE)).powi(2));
        each.sum::<f64>() / self.outputs.len().max(1) as f64 + 0.0
    }
}

/// Whether a model's outputs are answers, which two models can agree on: labels, tags, tokens, spans or choices.
pub fn decides(config: &Config) -> bool {
    match config.head {
        Head::None => false,
        Head::SequenceClassification | Head::TokenClassification => config.multi_label || config.labels.len() > 1,
        _ => true,
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

/// Why two models' outputs cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LossError {
    #[error("one model gives {name}, the other does not")]
    Missing { name: String },
    #[error("{name} is {a:?} from one model and {b:?} from the other")]
    Shape { name: String, a: Vec<usize>, b: Vec<usize> },
    #[error("the reference's {name} holds NaN or an infinity: its weights or inputs are beyond f32")]
    NotFinite { name: String },
}

/// Collects row after row.
pub struct Meter<'a> {
    config: &'a Config,
    rows: usize,
    sums: BTreeMap<String, Sums>,
    agreement: Share,
    kl: f64,
    right_reference: Share,
    right: Share,
}

impl<'a> Meter<'a> {
    pub fn new(config: &'a Config) -> Self {
        let share = Share::default();
        Meter {
            config,
            rows: 0,
            sums: BTreeMap::new(),
            agreement: share,
            kl: 0.0,
            right_reference: share,
            right: share,
        }
    }

    /// Adds one input's outputs. `mask` is its attention mask (of all choices one after another), `labels` what is right:
    /// one class; one per token with -100 where nothing is asked; first and last token of an answer.
    pub fn add(
        &mut self,
        mask: &[i64],
        labels: Option<&[i64]>,
        reference: &Outputs,
        candidate: &Outputs,
    ) -> Result<(), LossError> {
        self.rows += 1;
        if let Some(name) = candidate.keys().find(|name| !reference.contains_key(*name)) {
            return Err(LossError::Missing { name: name.clone() });
        }
        for (name, a) in reference {
            let b = candidate
                .get(name)
                .ok_or_else(|| LossError::Missing { name: name.clone() })?;
            if a.shape != b.shape || a.data.len() != b.data.len() {
                let (a, b) = (a.shape.clone(), b.shape.clone());
                return Err(LossError::Shape {
                    name: name.clone(),
                    a,
                    b,
                });
            }
            match name.as_str() {
                "start_logits" => self.add_span(name, mask, labels.and_then(|l| l.first()), a, b)?,
                "end_logits" => self.add_span(name, mask, labels.and_then(|l| l.get(1)), a, b)?,
                _ => self.add_output(name, mask, labels, a, b)?,
            }
        }
        Ok(())
    }

    /// One distribution over the real positions of the sequence.
    fn add_span(
        &mut self,
        name: &str,
        mask: &[i64],
        label: Option<&i64>,
        a: &Output,
        b: &Output,
    ) -> Result<(), LossError> {
        let real: Vec<usize> = (0..mask.len().min(a.data.len())).filter(|&i| mask[i] != 0).collect();
        let pick = |values: &[f32]| -> Vec<f32> { real.iter().map(|&i| values[i]).collect() };
        // Where the right answer stands among the real positions; one outside them is wrong for both.
        let label = label.map(|&l| real.iter().position(|&i| i as i64 == l).map_or(i64::MAX, |i| i as i64));
        self.add_vector(name, &pick(&a.data), &pick(&b.data), label)
    }

    fn add_output(
        &mut self,
        name: &str,
        mask: &[i64],
        labels: Option<&[i64]>,
        a: &Output,
        b: &Output,
    ) -> Result<(), LossError> {
        let width = a.shape.last().copied().unwrap_or(1).max(1);
        let per_token = a.shape.len() == 3;
        for (i, (x, y)) in a.data.chunks(width).zip(b.data.chunks(width)).enumerate() {
            if per_token && mask.get(i) == Some(&0) {
                continue;
            }
            if self.config.multi_label && name == "logits" {
                self.add_labels(x, y, labels)?;
            } else {
                let label = labels.and_then(|l| if per_token { l.get(i) } else { l.first() });
                self.add_vector(name, x, y, label.copied())?;
            }
        }
        Ok(())
    }

    fn add_vector(&mut self, name: &str, x: &[f32], y: &[f32], label: Option<i64>) -> Result<(), LossError> {
        self.add_numbers(name, x, y)?;
        let answer = decides(self.config) && name.ends_with("logits");
        if !answer || x.len() < 2 {
            return Ok(());
        }
        // An answer that is no number agrees with nothing.
        let finite = y.iter().all(|v| v.is_finite());
        self.agreement.count(finite && argmax(x) == argmax(y));
        self.kl += divergence(x, y);
        if let Some(label) = label.filter(|&l| l >= 0) {
            self.right_reference.count(argmax(x) as i64 == label);
            self.right.count(finite && argmax(y) as i64 == label);
        }
        Ok(())
    }

    /// Labels that do not exclude each other: each is a decision of its own, its logit against 0. `labels` is 1 or 0 for each.
    fn add_labels(&mut self, x: &[f32], y: &[f32], labels: Option<&[i64]>) -> Result<(), LossError> {
        self.add_numbers("logits", x, y)?;
        for (i, (&a, &b)) in x.iter().zip(y).enumerate() {
            self.agreement.count(b.is_finite() && (a > 0.0) == (b > 0.0));
            self.kl += divergence(&[a, 0.0], &[b, 0.0]);
            if let Some(&label) = labels.and_then(|l| l.get(i)).filter(|&&l| l >= 0) {
                self.right_reference.count((a > 0.0) == (label == 1));
                self.right.count(b.is_finite() && (b > 0.0) == (label == 1));
            }
        }
        Ok(())
    }

    fn add_numbers(&mut self, name: &str, x: &[f32], y: &[f32]) -> Result<(), LossError> {
        if x.iter().any(|v| !v.is_finite()) {
            return Err(LossError::NotFinite { name: name.to_string() });
        }
        self.sums.entry(name.to_string()).or_default().add(x, y);
        Ok(())
    }

    pub fn finish(self) -> Loss {
        let decisions = self.agreement.of;
        Loss {
            rows: self.rows,
            agreement: self.agreement.rate(),
            decisions,
            // Adding 0 turns a sum of nothing, -0, into 0.
            kl: (decisions > 0).then(|| self.kl / decisions as f64 + 0.0),
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

    fn config(head: Head) -> Config {
        Config {
            vocab_size: 8,
            embedding_size: 2,
            hidden_size: 2,
            num_hidden_layers: 1,
            num_hidden_groups: 1,
            inner_group_num: 1,
            num_attention_heads: 1,
            intermediate_size: 2,
            max_position_embeddings: 8,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            activation: thimble_shared::graph::Activation::Gelu,
            head,
            tied_decoder: false,
            pooler: true,
            labels: vec!["a".into(), "b".into()],
            multi_label: false,
        }
    }

    #[test]
    fn padding_is_never_compared() {
        let config = config(Head::TokenClassification);
        let mut meter = Meter::new(&config);
        let a = one("logits", &[1, 3, 2], &[1.0, 0.0, 0.0, 1.0, 9.0, 9.0]);
        let b = one("logits", &[1, 3, 2], &[1.0, 0.0, 0.0, 1.0, -5.0, f32::NAN]);
        meter.add(&[1, 1, 0], Some(&[0, 0, 1]), &a, &b).unwrap();
        let loss = meter.finish();
        assert_eq!((loss.agreement, loss.decisions, loss.kl), (Some(1.0), 2, Some(0.0)));
        assert_eq!(loss.accuracy, Some(0.5));
        assert_eq!(loss.outputs["logits"].max_abs, 0.0);
    }

    #[test]
    fn a_nan_is_the_largest_difference_and_agrees_with_nothing() {
        let config = config(Head::SequenceClassification);
        let mut meter = Meter::new(&config);
        let (good, nan) = (
            one("logits", &[1, 2], &[1.0, 0.0]),
            one("logits", &[1, 2], &[f32::NAN, f32::NAN]),
        );
        meter.add(&[1], None, &good, &nan).unwrap();
        let loss = meter.finish();
        assert!(loss.objective().is_infinite() && loss.outputs["logits"].max_abs.is_infinite());
        assert_eq!(loss.agreement, Some(0.0));
        let error = Meter::new(&config).add(&[1], None, &nan, &good).unwrap_err();
        assert_eq!(error, LossError::NotFinite { name: "logits".into() });
    }

    #[test]
    fn other_shapes_and_missing_outputs_are_errors() {
        let config = config(Head::SequenceClassification);
        let (two, three) = (
            one("logits", &[1, 2], &[1.0, 0.0]),
            one("logits", &[1, 3], &[1.0, 0.0, 0.0]),
        );
        let other = one("pooler_output", &[1, 2], &[1.0, 0.0]);
        for (a, b) in [(&two, &three), (&two, &other), (&other, &two)] {
            assert!(Meter::new(&config).add(&[1], None, a, b).is_err());
        }
    }

    #[test]
    fn span_labels_are_positions_of_the_sequence() {
        let config = config(Head::QuestionAnswering);
        let mut meter = Meter::new(&config);
        let a: Outputs = [
            (
                "start_logits".to_string(),
                Output {
                    shape: vec![1, 4],
                    data: vec![9.0, 0.0, 5.0, 1.0],
                },
            ),
            (
                "end_logits".to_string(),
                Output {
                    shape: vec![1, 4],
                    data: vec![9.0, 0.0, 1.0, 5.0],
                },
            ),
        ]
        .into();
        meter.add(&[0, 1, 1, 1], Some(&[2, 2]), &a, &a).unwrap();
        let loss = meter.finish();
        assert_eq!((loss.agreement, loss.decisions), (Some(1.0), 2));
        assert_eq!(loss.accuracy, Some(0.5), "the start is right, the end is not");
    }

    #[test]
    fn labels_that_do_not_exclude_each_other_are_decided_one_by_one() {
        let config = Config {
            multi_label: true,
            ..config(Head::SequenceClassification)
        };
        let mut meter = Meter::new(&config);
        let (a, b) = (
            one("logits", &[1, 2], &[3.0, 2.0]),
            one("logits", &[1, 2], &[3.0, -2.0]),
        );
        meter.add(&[1], Some(&[1, 0]), &a, &b).unwrap();
        let loss = meter.finish();
        assert_eq!((loss.agreement, loss.decisions), (Some(0.5), 2));
        assert_eq!((loss.reference_accuracy, loss.accuracy), (Some(0.5), Some(1.0)));
    }

    #[test]
    fn divergence_is_that_of_the_textbook() {
        let (p, q) = ([0.9f32.ln(), 0.1f32.ln()], [0.5f32.ln(), 0.5f32.ln()]);
        let want = 0.9 * (0.9f64 / 0.5).ln() + 0.1 * (0.1f64 / 0.5).ln();
        assert!((divergence(&p, &q) - want).abs() < 1e-6);
    }
}
