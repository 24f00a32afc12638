//! How far a candidate's outputs are from a reference's, as the user feels it: agreement of the predicted label with its
//! interval, KL of the output distributions, top-5 and span overlap, cosine, RMS and max |Δ| of the numbers, and accuracy
//! where labels are given. `tally` collects it row by row; the solver minimizes one [`Objective`] of it.

use crate::eval::pair_order::PairOrder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
pub use thimble_shared::decode::decides;
use thimble_shared::model::{AnswerKind, Config};

/// An f32 output: dims and row-major numbers.
pub type OutputTensor = thimble_device::engine::tensors::Tensor<f32>;
/// Outputs by Hugging Face's names.
pub type NamedOutputs = BTreeMap<String, OutputTensor>;

/// Numbers of one output over all rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distance {
    /// Greatest absolute difference.
    pub max_abs: f64,
    /// Root mean square of the differences.
    pub rms: f64,
    /// Of the reference's numbers: their standard deviation around one mean, the same around the mean of each channel (of
    /// the last axis), and their RMS.
    pub reference_std: f64,
    /// Around the mean of each channel of the last axis.
    pub channel_std: f64,
    /// Root mean square of the reference's numbers.
    pub reference_rms: f64,
    /// Mean cosine of the vectors along the last axis.
    pub cosine: f64,
    /// Numbers compared, padding left out.
    pub values: u64,
}

/// Deviations below this share of the numbers' size are none.
const SAME: f64 = 1e-6;

impl Distance {
    /// RMS error in units of the deviation around channel means: a channel far from the others hides no error.
    pub fn relative(&self) -> f64 {
        self.held_against(self.channel_std)
    }

    /// RMS error in units of the plain standard deviation.
    pub fn plain(&self) -> f64 {
        self.held_against(self.reference_std)
    }

    /// An error is held against the size of numbers that do not differ, and counts as it is where they are all zero.
    fn held_against(&self, deviation: f64) -> f64 {
        let unit = match self.reference_rms {
            size if deviation > SAME * size => deviation,
            size if size > 0.0 => size,
            _ => 1.0,
        };
        self.rms / unit
    }
}

/// A share of decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Decisions that came out as wanted.
    pub hits: u64,
    /// All decisions.
    pub of: u64,
}

/// The normal distribution's quantile of a two-sided 95 % interval.
const Z95: f64 = 1.959_963_984_540_054;

impl Share {
    /// `hits / of`; `None` where nothing was decided.
    pub fn rate(self) -> Option<f64> {
        (self.of > 0).then(|| self.hits as f64 / self.of as f64)
    }

    /// Wilson's score interval at 95 %: where the true share lies if the decisions are independent draws (Wilson 1927,
    /// "Probable inference, the law of succession, and statistical inference").
    pub fn interval(self) -> Option<(f64, f64)> {
        let (n, p) = (self.of as f64, self.rate()?);
        let z2 = Z95 * Z95;
        let center = p + z2 / (2.0 * n);
        let spread = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z2 / n;
        Some((
            ((center - spread) / scale).max(0.0),
            ((center + spread) / scale).min(1.0),
        ))
    }

    /// Counts one decision.
    pub fn count(&mut self, hit: bool) {
        self.hits += u64::from(hit);
        self.of += 1;
    }

    /// Adds another share's decisions.
    pub fn absorb(&mut self, other: Share) {
        self.hits += other.hits;
        self.of += other.of;
    }
}

/// How far a candidate is from its reference over all rows; `null` in JSON is what the head does not have.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Loss {
    /// Inputs compared.
    pub rows: usize,
    /// Decisions (labels, tags, tokens, spans, choices) on which both models agree; `null` for models that decide nothing.
    pub agreement: Option<f64>,
    /// 95 % interval of the agreement.
    pub agreement_interval: Option<(f64, f64)>,
    /// Decisions both models made.
    pub decisions: u64,
    /// Decisions on which the models part.
    #[serde(skip)]
    pub misses: u64,
    /// Mean Kullback-Leibler divergence of the candidate's distributions from the reference's, in nats.
    pub kl: Option<f64>,
    /// Masked LM: share of the reference's five likeliest tokens that are among the candidate's.
    pub top5: Option<Top5>,
    /// Question answering: mean F1 of the candidate's likeliest span against the reference's, in tokens.
    pub span_f1: Option<f64>,
    /// Embeddings: whether pairs of inputs keep their order of likeness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair_order: Option<PairOrder>,
    /// By Hugging Face's names.
    pub outputs: BTreeMap<String, Distance>,
    /// Share of given labels each model gets right.
    pub reference_accuracy: Option<f64>,
    /// Of the candidate; `reference_accuracy` is the reference's.
    pub accuracy: Option<f64>,
    /// 95 % interval of the candidate's accuracy.
    pub accuracy_interval: Option<(f64, f64)>,
    /// Models that give values: mean squared error of each model against given ones.
    pub reference_squared_error: Option<f64>,
    /// Of the candidate; `reference_squared_error` is the reference's.
    pub squared_error: Option<f64>,
}

/// How much of the reference's five likeliest tokens the candidate keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Top5 {
    /// From 0 to 1, the mean over `positions`.
    pub overlap: f64,
    /// Token positions compared.
    pub positions: u64,
    /// Only blanks (`[MASK]`) count where the inputs have any, otherwise every real position.
    pub at_blanks: bool,
}

/// What the solver minimizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Objective {
    /// Share of decisions on which the models differ; among equals the lower KL
    Agreement,
    /// Mean KL divergence of the output distributions, in nats
    Kl,
    /// 1 - mean cosine of the output vectors
    Cosine,
    /// Squared error of the outputs relative to their variance around channel means
    Error,
}

impl Objective {
    /// KL for models that decide something, the cosine for embeddings, the outputs' error for others.
    pub fn default_of(config: &Config) -> Objective {
        if decides(config) {
            Objective::Kl
        } else if config.head.answer() == AnswerKind::Embedding {
            Objective::Cosine
        } else {
            Objective::Error
        }
    }

    /// Whether it is a number only of models that decide something.
    pub fn needs_decisions(self) -> bool {
        matches!(self, Objective::Agreement | Objective::Kl)
    }

    /// As output and JSON print it; smaller is better for each.
    pub fn name(self) -> &'static str {
        match self {
            Objective::Agreement => "disagreement",
            Objective::Kl => "KL",
            Objective::Cosine => "1 - cosine",
            Objective::Error => "relative squared error",
        }
    }
}

/// The parts of a loss that objectives are made of: what is remembered of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    misses: u64,
    decisions: u64,
    #[serde(with = "bits")]
    kl: f64,
    #[serde(with = "bits")]
    one_minus_cosine: f64,
    /// Squares of [`Distance::relative`] and [`Distance::plain`].
    #[serde(with = "bits")]
    relative_error: f64,
    #[serde(with = "bits")]
    plain_error: f64,
    /// Bits of [`PairOrder::spearman`], where pairs were ranked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pair_order: Option<u64>,
}

/// A number by its bits: read from decimal digits its last place could differ, and a remembered answer from a fresh one.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(x.to_bits())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// A loss in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Beyond fair.
    Poor,
    /// Within the second bound of [`AGREEMENT_WORDS`] or [`RMS_WORDS`].
    Fair,
    /// Within the first bound of [`AGREEMENT_WORDS`] or [`RMS_WORDS`].
    Good,
}

/// Largest RMS error of the outputs, in units of their deviation around channel means, that is called good, and fair: on
/// PL-BERT, a synthesiser of speech, 2 and 4 of 100 phonemes then change their length (docs/quality.md). There these are 0.05
/// and 0.12 of the plain standard deviation, of which the deviation around channel means is 0.706.
pub const RMS_WORDS: [(f64, Word); 2] = [(0.07, Word::Good), (0.17, Word::Fair)];
/// Least share of decisions kept that is called good, and fair.
pub const AGREEMENT_WORDS: [(f64, Word); 2] = [(0.99, Word::Good), (0.97, Word::Fair)];
/// Least rank correlation of the pairs' cosines that is called good, and fair.
pub const ORDER_WORDS: [(f64, Word); 2] = [(0.99, Word::Good), (0.97, Word::Fair)];

impl Word {
    /// The word in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Word::Good => "good",
            Word::Fair => "fair",
            Word::Poor => "poor",
        }
    }

    /// Of a relative squared error.
    pub fn of_error(relative_error: f64) -> Word {
        let rms = relative_error.sqrt();
        let found = RMS_WORDS.into_iter().find(|(most, _)| rms <= *most);
        found.map_or(Word::Poor, |(_, word)| word)
    }

    fn at_least(words: [(f64, Word); 2], share: f64) -> Word {
        let found = words.into_iter().find(|(least, _)| share >= *least);
        found.map_or(Word::Poor, |(_, word)| word)
    }
}

impl Score {
    /// Whether the model decides something.
    pub fn decides(&self) -> bool {
        self.decisions > 0
    }

    /// RMS error in units of the outputs' deviation around channel means.
    pub fn relative_rms(&self) -> f64 {
        self.relative_error.sqrt()
    }

    /// RMS error in units of the outputs' plain standard deviation.
    pub fn plain_rms(&self) -> f64 {
        self.plain_error.sqrt()
    }

    /// Spearman's rank correlation of the pairs' cosines, where they were ranked.
    pub fn pair_order(&self) -> Option<f64> {
        self.pair_order.map(f64::from_bits)
    }

    /// The loss in one word: by the decisions where there are any, by the order of pairs of embeddings, by the outputs' error
    /// elsewhere.
    pub fn word(&self) -> Word {
        match (self.agreement().rate(), self.pair_order()) {
            _ if !self.is_finite() => Word::Poor,
            (Some(share), _) => Word::at_least(AGREEMENT_WORDS, share),
            (None, Some(order)) => Word::at_least(ORDER_WORDS, order),
            (None, None) => Word::of_error(self.relative_error),
        }
    }

    /// The rule behind the word, as a person reads it.
    pub fn rule(&self) -> String {
        if self.decides() {
            let [good, fair] = AGREEMENT_WORDS.map(|(share, _)| share * 100.0);
            format!("good from {good} % of the decisions kept, fair from {fair} %")
        } else if self.pair_order.is_some() {
            let [good, fair] = ORDER_WORDS.map(|(order, _)| order);
            format!("good from {good} rank correlation of pairs, fair from {fair}")
        } else {
            let [good, fair] = RMS_WORDS.map(|(rms, _)| rms);
            format!("good up to {good}, fair up to {fair} of the deviation around channel means")
        }
    }

    /// The loss as the user feels it, in a few words.
    pub fn felt(&self) -> String {
        match (self.agreement().rate(), self.pair_order()) {
            (Some(share), _) => format!("{:.2} % of {} decisions kept", share * 100.0, self.decisions),
            (None, Some(order)) => format!(
                "cosine {:.6} to the original's embeddings, rank correlation of pairs {order:.4}",
                1.0 - self.one_minus_cosine
            ),
            (None, None) => format!(
                "RMS error {:.4} of the outputs' deviation around channel means, {:.4} of their standard deviation",
                self.relative_rms(),
                self.plain_rms()
            ),
        }
    }

    /// Of a candidate whose numbers leave what its format can hold.
    pub const IMPOSSIBLE: Score = Score {
        misses: 0,
        decisions: 0,
        kl: f64::INFINITY,
        one_minus_cosine: f64::INFINITY,
        relative_error: f64::INFINITY,
        plain_error: f64::INFINITY,
        pair_order: None,
    };

    /// Whether every figure the solver minimizes is a number.
    pub fn is_finite(&self) -> bool {
        [self.kl, self.one_minus_cosine, self.relative_error]
            .iter()
            .all(|x| x.is_finite())
    }

    /// The figure to minimize; infinite where the candidate's outputs are no numbers.
    pub fn objective(&self, objective: Objective) -> f64 {
        if !self.is_finite() {
            return f64::INFINITY;
        }
        match objective {
            // A miss weighs more than any KL, which x / (1 + x) keeps below one.
            Objective::Agreement => (self.misses as f64 + self.kl / (1.0 + self.kl)) / self.decisions.max(1) as f64,
            Objective::Kl => self.kl,
            Objective::Cosine => self.one_minus_cosine,
            Objective::Error => self.relative_error,
        }
    }

    /// Decisions on which both models agree.
    pub fn agreement(&self) -> Share {
        Share {
            hits: self.decisions.saturating_sub(self.misses),
            of: self.decisions,
        }
    }
}

impl Loss {
    /// Decisions on which both models agree.
    pub fn agreed(&self) -> Share {
        Share {
            hits: self.decisions.saturating_sub(self.misses),
            of: self.decisions,
        }
    }

    /// The figures the solver compares, outputs averaged.
    pub fn score(&self) -> Score {
        let mean = |of: &dyn Fn(&Distance) -> f64| {
            self.outputs.values().map(of).sum::<f64>() / self.outputs.len().max(1) as f64 + 0.0
        };
        Score {
            misses: self.misses,
            decisions: self.decisions,
            kl: self.kl.unwrap_or(0.0),
            // NaN, the cosine of what is no number, must rank last and never be kept.
            one_minus_cosine: mean(&|d| {
                if d.cosine.is_nan() {
                    f64::INFINITY
                } else {
                    1.0 - d.cosine
                }
            })
            .max(0.0),
            relative_error: mean(&|d| d.relative().powi(2)),
            plain_error: mean(&|d| d.plain().powi(2)),
            pair_order: self.pair_order.map(|order| order.spearman.to_bits()),
        }
    }

    /// The default objective: KL where the model decides, the cosine of embeddings, otherwise the relative squared error.
    pub fn objective(&self) -> f64 {
        let objective = if self.kl.is_some() {
            Objective::Kl
        } else if self.pair_order.is_some() {
            Objective::Cosine
        } else {
            Objective::Error
        };
        self.score().objective(objective)
    }
}

/// Why two models' outputs cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LossError {
    /// An output is there in one model alone.
    #[error("one model gives {name}, the other does not")]
    Missing {
        /// Name of the output.
        name: String,
    },
    /// An output differs in shape.
    #[error("{name} is {a:?} from one model and {b:?} from the other")]
    Shape {
        /// Name of the output.
        name: String,
        /// Its shape from one model.
        a: Vec<usize>,
        /// Its shape from the other.
        b: Vec<usize>,
    },
    /// The reference itself gives no numbers.
    #[error("the reference's {name} holds NaN or an infinity: its weights or inputs are beyond f32")]
    NotFinite {
        /// Name of the output.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_intervals_are_those_of_the_textbook() {
        // Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        let cases = [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ];
        for (hits, of, low, high) in cases {
            let (a, b) = Share { hits, of }.interval().unwrap();
            assert!(
                (a - low).abs() < 5e-5 && (b - high).abs() < 5e-5,
                "{hits} of {of}: {a} to {b}"
            );
        }
        assert_eq!(Share::default().interval(), None);
    }

    #[test]
    fn a_score_is_remembered_to_the_last_bit() {
        let mut x = 0.1f64;
        for _ in 0..500 {
            x = (x * 3.7) % 1.0 * 1e-3 + 1e-9;
            let score = Score {
                misses: 1,
                decisions: 9,
                kl: x,
                one_minus_cosine: x / 3.0,
                relative_error: x * x,
                plain_error: x * x / 2.0,
                pair_order: (x > 1e-4).then(|| x.to_bits()),
            };
            let text = serde_json::to_string(&score).unwrap();
            assert_eq!(serde_json::from_str::<Score>(&text).unwrap(), score);
        }
    }

    #[test]
    fn an_error_is_held_against_what_tells_outputs_apart() {
        // RMS error, deviation around one mean, around channel means, RMS of the reference: relative and plain error.
        let cases = [
            (0.5, 2.0, 1.0, 2.0, 0.5, 0.25),
            // One constant channel at 300 makes the plain deviation; the error is half of what the others say.
            (0.5, 53.0, 1.0, 53.0, 0.5, 0.5 / 53.0),
            // One number, or many that are the same: their size.
            (0.01, 0.0, 0.0, 0.5, 0.02, 0.02),
            (0.01, 1e-9, 1e-9, 0.5, 0.02, 0.02),
            // Nothing but zeros: the error itself.
            (0.25, 0.0, 0.0, 0.0, 0.25, 0.25),
            (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        ];
        for (rms, reference_std, channel_std, reference_rms, relative, plain) in cases {
            let distance = Distance {
                rms,
                reference_std,
                channel_std,
                reference_rms,
                ..Distance::default()
            };
            assert_eq!(
                (distance.relative(), distance.plain()),
                (relative, plain),
                "{distance:?}"
            );
        }
    }

    #[test]
    fn one_miss_weighs_more_than_any_divergence() {
        let score = |misses, kl| Score {
            misses,
            decisions: 100,
            kl,
            one_minus_cosine: 0.0,
            relative_error: 0.0,
            plain_error: 0.0,
            pair_order: None,
        };
        let of = |s: Score| s.objective(Objective::Agreement);
        assert!(of(score(1, 1e6)) < of(score(2, 0.0)));
        assert!(of(score(1, 0.1)) < of(score(1, 0.2)));
        assert_eq!(Score::IMPOSSIBLE.objective(Objective::Agreement), f64::INFINITY);
        assert_eq!(score(3, 0.0).agreement().rate(), Some(0.97));
    }
}
