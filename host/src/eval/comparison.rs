//! Collects how far a candidate's outputs are from a reference's, row after row. In: the row and both models' outputs of it;
//! out: a [`Loss`]. Positions whose mask is 0 are nobody's promise and never compared. A candidate may know only some of the
//! reference's vocabulary (`kept`); distributions are then compared over the tokens both have, decisions over all.

use crate::eval::dataset::Row;
use crate::eval::metrics::{Loss, LossError, NamedOutputs, OutputTensor, Share, Top5};
use crate::eval::pair_order::Embeddings;
use crate::eval::sums::{Errors, Sums};
use std::collections::BTreeMap;
use thimble_shared::decode::{self, MAX_ANSWER, decides, log_softmax};
use thimble_shared::model::network::{Extent, Network};
use thimble_shared::model::{AnswerKind, Config};

/// What to compare, and how.
#[derive(Clone, Copy)]
pub struct Scale<'a> {
    /// The reference's.
    pub config: &'a Config,
    /// Top-5 overlap is measured at blanks only.
    pub at_blanks: bool,
    /// The reference's id of each of the candidate's tokens, where the candidate lost some.
    pub kept: Option<&'a [usize]>,
    /// Outputs of the reference that the candidate does not give are left out.
    pub fewer: bool,
}

/// Collects row after row.
pub struct LossTally<'a> {
    scale: Scale<'a>,
    rows: usize,
    sums: BTreeMap<String, Sums>,
    agreement: Share,
    kl: f64,
    right_reference: Share,
    right: Share,
    errors_reference: Errors,
    errors: Errors,
    top5: Share,
    top5_positions: u64,
    span_f1: f64,
    spans: u64,
    embeddings: Embeddings,
    /// Outputs whose last axis is positions or choices, of which inputs have more and fewer.
    unlike: Vec<&'static str>,
}

const TOP: usize = 5;

impl<'a> LossTally<'a> {
    /// One that has seen no row.
    pub fn new(scale: Scale<'a>) -> Self {
        let outputs = Network::of(scale.config).outputs.into_iter();
        let unlike = outputs.filter(|output| matches!(output.extent, Extent::Token | Extent::Choice));
        LossTally {
            scale,
            rows: 0,
            sums: BTreeMap::new(),
            agreement: Share::default(),
            kl: 0.0,
            right_reference: Share::default(),
            right: Share::default(),
            errors_reference: Errors::default(),
            errors: Errors::default(),
            top5: Share::default(),
            top5_positions: 0,
            span_f1: 0.0,
            spans: 0,
            embeddings: Embeddings::default(),
            unlike: unlike.map(|output| output.name).collect(),
        }
    }

    /// Adds one input's outputs. The row's labels are what is right: one class; one per token with -100 where nothing is
    /// asked; first and last token of an answer, 0 where there is none.
    pub fn add(&mut self, row: &Row, reference: &NamedOutputs, candidate: &NamedOutputs) -> Result<(), LossError> {
        let labels = row.labels.as_deref();
        self.rows += 1;
        if let Some(name) = candidate.keys().find(|name| !reference.contains_key(*name)) {
            return Err(LossError::Missing { name: name.clone() });
        }
        for (name, a) in reference {
            let Some(b) = candidate.get(name) else {
                if self.scale.fewer {
                    continue;
                }
                return Err(LossError::Missing { name: name.clone() });
            };
            self.comparable(name, a, b)?;
            match name.as_str() {
                "start_logits" => self.add_span_end(name, row, labels.and_then(|l| l.first()), a, b)?,
                "end_logits" => self.add_span_end(name, row, labels.and_then(|l| l.get(1)), a, b)?,
                _ => self.add_output(name, row, a, b)?,
            }
        }
        self.add_span(row, reference, candidate);
        Ok(())
    }

    /// Whether an output's last axis is the vocabulary.
    fn over_vocabulary(&self, name: &str) -> bool {
        let head = self.scale.config.head;
        head.has_decoder() && name == head.row().answered_by
    }

    fn comparable(&self, name: &str, a: &OutputTensor, b: &OutputTensor) -> Result<(), LossError> {
        let mut wanted = a.shape.clone();
        if let (Some(kept), true, Some(last)) = (self.scale.kept, self.over_vocabulary(name), wanted.last_mut()) {
            *last = kept.len();
        }
        let count: usize = wanted.iter().product();
        if wanted == b.shape && count == b.data.len() && a.data.len() == a.shape.iter().product::<usize>() {
            return Ok(());
        }
        Err(LossError::Shape {
            name: name.to_string(),
            a: a.shape.clone(),
            b: b.shape.clone(),
        })
    }

    /// One distribution over the context and the first token, which stands for "no answer".
    fn add_span_end(
        &mut self,
        name: &str,
        row: &Row,
        label: Option<&i64>,
        a: &OutputTensor,
        b: &OutputTensor,
    ) -> Result<(), LossError> {
        let mut possible = row.context();
        if let (Some(first), Some(mask)) = (possible.first_mut(), row.attention_mask.first()) {
            *first = *mask != 0;
        }
        let places: Vec<usize> = (0..possible.len().min(a.data.len())).filter(|&i| possible[i]).collect();
        let pick = |values: &[f32]| -> Vec<f32> { places.iter().map(|&i| values[i]).collect() };
        // Where the right answer stands among them; one elsewhere is wrong for both.
        let label = label.map(|&l| {
            places
                .iter()
                .position(|&i| i as i64 == l)
                .map_or(i64::MAX, |i| i as i64)
        });
        self.add_vector(name, &pick(&a.data), &pick(&b.data), label)
    }

    /// The spans both models would answer with, held against each other.
    fn add_span(&mut self, row: &Row, reference: &NamedOutputs, candidate: &NamedOutputs) {
        let span = |outputs: &NamedOutputs| {
            let (start, end) = (outputs.get("start_logits")?, outputs.get("end_logits")?);
            best_span(row, &start.data, &end.data)
        };
        let Some(a) = span(reference) else { return };
        self.spans += 1;
        // A candidate without any number to rank by answers nothing.
        self.span_f1 += span(candidate).map_or(0.0, |b| span_f1(a, b));
    }

    fn add_output(&mut self, name: &str, row: &Row, a: &OutputTensor, b: &OutputTensor) -> Result<(), LossError> {
        let labels = row.labels.as_deref();
        let width = |o: &OutputTensor| o.shape.last().copied().unwrap_or(1).max(1);
        if let (Some(targets), "logits") = (&row.targets, name) {
            self.errors_reference.add(&a.data, targets);
            self.errors.add(&b.data, targets);
        }
        let per_token = a.shape.len() == 3;
        let vocabulary = self.over_vocabulary(name);
        if self.scale.config.head.answer() == AnswerKind::Embedding {
            self.embeddings.add(&a.data, &b.data);
        }
        for (i, (x, y)) in a.data.chunks(width(a)).zip(b.data.chunks(width(b))).enumerate() {
            if per_token && row.attention_mask.get(i) == Some(&0) {
                continue;
            }
            if self.scale.config.multi_label && decides(self.scale.config) && name == "logits" {
                self.add_labels(x, y, labels)?;
                continue;
            }
            let label = labels.and_then(|l| if per_token { l.get(i) } else { l.first() });
            match self.scale.kept.filter(|_| vocabulary) {
                Some(kept) => self.add_kept(name, x, y, label.copied(), kept)?,
                None => self.add_vector(name, x, y, label.copied())?,
            }
            if vocabulary && (!self.scale.at_blanks || row.blanks.contains(&i)) {
                self.add_top5(x, y);
            }
        }
        Ok(())
    }

    fn add_vector(&mut self, name: &str, x: &[f32], y: &[f32], label: Option<i64>) -> Result<(), LossError> {
        self.add_numbers(name, x, y)?;
        let answer = decides(self.scale.config) && name.ends_with("logits");
        if answer && x.len() >= 2 {
            self.kl += divergence(x, y);
            self.decide(decode::argmax(x), decode::argmax(y), y, label);
        }
        Ok(())
    }

    /// Over a vocabulary of which the candidate kept only some: a token it lost can only be disagreed on.
    fn add_kept(
        &mut self,
        name: &str,
        x: &[f32],
        y: &[f32],
        label: Option<i64>,
        kept: &[usize],
    ) -> Result<(), LossError> {
        let known: Vec<f32> = kept.iter().map(|&id| x[id]).collect();
        self.add_numbers(name, &known, y)?;
        self.kl += divergence(&known, y);
        let chosen = decode::argmax(y).and_then(|i| kept.get(i).copied());
        self.decide(decode::argmax(x), chosen, y, label);
        Ok(())
    }

    fn decide(&mut self, a: Option<usize>, b: Option<usize>, y: &[f32], label: Option<i64>) {
        // An answer that is no number agrees with nothing.
        let finite = y.iter().all(|v| v.is_finite());
        self.agreement.count(finite && a == b);
        if let Some(label) = label.filter(|&l| l >= 0) {
            let right = |choice: Option<usize>| choice.is_some_and(|i| i as i64 == label);
            self.right_reference.count(right(a));
            self.right.count(finite && right(b));
        }
    }

    fn add_top5(&mut self, x: &[f32], y: &[f32]) {
        let finite = y.iter().all(|v| v.is_finite());
        let mine = decode::top(y, TOP)
            .into_iter()
            .map(|i| self.scale.kept.map_or(i, |kept| kept[i]));
        let mine: Vec<usize> = if finite { mine.collect() } else { vec![] };
        for token in decode::top(x, TOP) {
            self.top5.count(mine.contains(&token));
        }
        self.top5_positions += 1;
    }

    /// Labels that do not exclude each other: each is a decision of its own. `labels` is 1 or 0 for each.
    fn add_labels(&mut self, x: &[f32], y: &[f32], labels: Option<&[i64]>) -> Result<(), LossError> {
        self.add_numbers("logits", x, y)?;
        for (i, (&a, &b)) in x.iter().zip(y).enumerate() {
            self.agreement
                .count(b.is_finite() && decode::given(a) == decode::given(b));
            self.kl += divergence(&[a, 0.0], &[b, 0.0]);
            if let Some(&label) = labels.and_then(|l| l.get(i)).filter(|&&l| l >= 0) {
                self.right_reference.count(decode::given(a) == (label == 1));
                self.right.count(b.is_finite() && decode::given(b) == (label == 1));
            }
        }
        Ok(())
    }

    fn add_numbers(&mut self, name: &str, x: &[f32], y: &[f32]) -> Result<(), LossError> {
        if x.iter().any(|v| !v.is_finite()) {
            return Err(LossError::NotFinite { name: name.to_string() });
        }
        let channels = if self.unlike.contains(&name) { 1 } else { x.len() };
        self.sums.entry(name.to_string()).or_default().add(x, y, channels);
        Ok(())
    }

    /// Adds what another tally of the same scale collected.
    pub fn absorb(&mut self, other: LossTally) {
        self.rows += other.rows;
        for (name, sums) in other.sums {
            self.sums.entry(name).or_default().absorb(&sums);
        }
        self.agreement.absorb(other.agreement);
        self.kl += other.kl;
        self.right_reference.absorb(other.right_reference);
        self.right.absorb(other.right);
        self.errors_reference.absorb(other.errors_reference);
        self.errors.absorb(other.errors);
        self.top5.absorb(other.top5);
        self.top5_positions += other.top5_positions;
        self.span_f1 += other.span_f1;
        self.spans += other.spans;
        self.embeddings.absorb(other.embeddings);
    }

    /// What all rows come to.
    pub fn finish(self) -> Loss {
        let decisions = self.agreement.of;
        Loss {
            rows: self.rows,
            agreement: self.agreement.rate(),
            agreement_interval: self.agreement.interval(),
            decisions,
            misses: decisions - self.agreement.hits,
            // Adding 0 turns a sum of nothing, -0, into 0.
            kl: (decisions > 0).then(|| self.kl / decisions as f64 + 0.0),
            top5: self.top5.rate().map(|overlap| Top5 {
                overlap,
                positions: self.top5_positions,
                at_blanks: self.scale.at_blanks,
            }),
            pair_order: self.embeddings.order(),
            span_f1: (self.spans > 0).then(|| self.span_f1 / self.spans as f64),
            outputs: self.sums.into_iter().map(|(name, s)| (name, s.distance())).collect(),
            reference_accuracy: self.right_reference.rate(),
            accuracy: self.right.rate(),
            accuracy_interval: self.right.interval(),
            reference_squared_error: self.errors_reference.mean(),
            squared_error: self.errors.mean(),
        }
    }
}

/// KL(p ‖ q) of the softmax distributions of two logit vectors, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (log_softmax(p), log_softmax(q));
    let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
    if kl.is_nan() { f64::INFINITY } else { kl.max(0.0) }
}

/// The span a model answers with, first to last token. None where there is no context or no number to rank by.
fn best_span(row: &Row, start: &[f32], end: &[f32]) -> Option<(usize, usize)> {
    let (best, _) = decode::spans(start, end, &row.context(), MAX_ANSWER, 1);
    best.first().map(|span| (span.first, span.last))
}

/// F1 of the tokens two spans have in common.
fn span_f1(a: (usize, usize), b: (usize, usize)) -> f64 {
    let common = (a.1.min(b.1) + 1).saturating_sub(a.0.max(b.0));
    2.0 * common as f64 / ((a.1 - a.0 + 1) + (b.1 - b.0 + 1)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::tiny;
    use thimble_shared::model::Head;

    fn scale(config: &Config) -> Scale<'_> {
        Scale {
            config,
            at_blanks: false,
            kept: None,
            fewer: false,
        }
    }

    fn row(mask: &[i64], labels: Option<&[i64]>) -> Row {
        Row {
            attention_mask: mask.to_vec(),
            labels: labels.map(<[i64]>::to_vec),
            ..Row::default()
        }
    }

    fn one(name: &str, shape: &[usize], data: &[f32]) -> NamedOutputs {
        [(
            name.to_string(),
            OutputTensor {
                shape: shape.to_vec(),
                data: data.to_vec(),
            },
        )]
        .into()
    }

    fn config(head: Head) -> Config {
        Config {
            vocab_size: 8,
            hidden_size: 2,
            pooler: true,
            labels: vec!["a".into(), "b".into()],
            ..tiny(head)
        }
    }

    #[test]
    fn padding_is_never_compared() {
        let config = config(Head::TokenClassification);
        let mut tally = LossTally::new(scale(&config));
        let a = one("logits", &[1, 3, 2], &[1.0, 0.0, 0.0, 1.0, 9.0, 9.0]);
        let b = one("logits", &[1, 3, 2], &[1.0, 0.0, 0.0, 1.0, -5.0, f32::NAN]);
        tally.add(&row(&[1, 1, 0], Some(&[0, 0, 1])), &a, &b).unwrap();
        let loss = tally.finish();
        assert_eq!((loss.agreement, loss.decisions, loss.kl), (Some(1.0), 2, Some(0.0)));
        assert_eq!(loss.accuracy, Some(0.5));
        assert_eq!(loss.outputs["logits"].max_abs, 0.0);
    }

    #[test]
    fn a_nan_is_the_largest_difference_and_agrees_with_nothing() {
        let config = config(Head::SequenceClassification);
        let mut tally = LossTally::new(scale(&config));
        let (good, nan) = (
            one("logits", &[1, 2], &[1.0, 0.0]),
            one("logits", &[1, 2], &[f32::NAN, f32::NAN]),
        );
        tally.add(&row(&[1], None), &good, &nan).unwrap();
        let loss = tally.finish();
        assert!(loss.objective().is_infinite() && loss.outputs["logits"].max_abs.is_infinite());
        assert_eq!(loss.agreement, Some(0.0));
        let error = LossTally::new(scale(&config))
            .add(&row(&[1], None), &nan, &good)
            .unwrap_err();
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
            assert!(LossTally::new(scale(&config)).add(&row(&[1], None), a, b).is_err());
        }
    }

    #[test]
    fn span_labels_are_positions_of_the_sequence() {
        let config = config(Head::QuestionAnswering);
        let mut tally = LossTally::new(scale(&config));
        let a: NamedOutputs = [
            (
                "start_logits".to_string(),
                OutputTensor {
                    shape: vec![1, 4],
                    data: vec![9.0, 0.0, 5.0, 1.0],
                },
            ),
            (
                "end_logits".to_string(),
                OutputTensor {
                    shape: vec![1, 4],
                    data: vec![9.0, 0.0, 1.0, 5.0],
                },
            ),
        ]
        .into();
        let mut row = row(&[0, 1, 1, 1], Some(&[2, 2]));
        row.input_ids = vec![0, 8, 9, 9];
        tally.add(&row, &a, &a).unwrap();
        let loss = tally.finish();
        assert_eq!((loss.agreement, loss.decisions), (Some(1.0), 2));
        assert_eq!(loss.accuracy, Some(0.5), "the start is right, the end is not");
    }

    #[test]
    fn labels_that_do_not_exclude_each_other_are_decided_one_by_one() {
        let config = Config {
            multi_label: true,
            hidden_shift: false,
            sentence: None,
            ..config(Head::SequenceClassification)
        };
        let mut tally = LossTally::new(scale(&config));
        let (a, b) = (
            one("logits", &[1, 2], &[3.0, 2.0]),
            one("logits", &[1, 2], &[3.0, -2.0]),
        );
        tally.add(&row(&[1], Some(&[1, 0])), &a, &b).unwrap();
        let loss = tally.finish();
        assert_eq!((loss.agreement, loss.decisions), (Some(0.5), 2));
        assert_eq!((loss.reference_accuracy, loss.accuracy), (Some(0.5), Some(1.0)));
    }

    #[test]
    fn values_are_held_against_targets_and_decide_nothing() {
        for (labels, multi_label, regression) in [(2, false, true), (1, false, false), (1, true, true)] {
            let config = Config {
                labels: vec!["x".into(); labels],
                multi_label,
                regression,
                ..config(Head::SequenceClassification)
            };
            let mut tally = LossTally::new(scale(&config));
            let mut row = row(&[1], None);
            row.targets = Some(vec![1.0; labels]);
            let (a, b) = (vec![1.5; labels], vec![3.0; labels]);
            tally
                .add(&row, &one("logits", &[1, labels], &a), &one("logits", &[1, labels], &b))
                .unwrap();
            let loss = tally.finish();
            assert_eq!((loss.agreement, loss.kl, loss.decisions), (None, None, 0));
            assert_eq!(
                (loss.reference_squared_error, loss.squared_error),
                (Some(0.25), Some(4.0))
            );
            assert_eq!(loss.outputs["logits"].rms, 1.5);
        }
    }

    #[test]
    fn divergence_is_that_of_the_textbook() {
        let (p, q) = ([0.9f32.ln(), 0.1f32.ln()], [0.5f32.ln(), 0.5f32.ln()]);
        let want = 0.9 * (0.9f64 / 0.5).ln() + 0.1 * (0.1f64 / 0.5).ln();
        assert!((divergence(&p, &q) - want).abs() < 1e-6);
    }

    #[test]
    fn a_span_never_ends_before_it_starts_and_lies_in_the_second_text() {
        let mut row = row(&[1, 1, 1, 1, 0], None);
        row.input_ids = vec![2, 3, 8, 9, 0];
        let (start, end) = ([9.0, 7.0, 1.0, 5.0, 9.0], [9.0, 7.0, 5.0, 0.5, 9.0]);
        assert_eq!(best_span(&row, &start, &end), Some((1, 1)));
        row.token_type_ids = vec![0, 0, 1, 1, 1];
        assert_eq!(best_span(&row, &start, &end), Some((2, 2)), "3 to 2 would score more");
        assert_eq!(best_span(&row, &[f32::NAN; 5], &end), None);
        let cases = [
            ((2, 5), (2, 5), 1.0),
            ((2, 5), (4, 7), 0.5),
            ((2, 3), (4, 5), 0.0),
            ((0, 2), (2, 2), 0.5),
        ];
        for (a, b, f1) in cases {
            assert_eq!(span_f1(a, b), f1, "{a:?} {b:?}");
        }
    }

    #[test]
    fn the_five_likeliest_are_compared_at_blanks_only() {
        let config = Config {
            tied_decoder: true,
            ..config(Head::MaskedLm)
        };
        let up: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let down: Vec<f32> = up.iter().rev().copied().collect();
        let (a, b) = ([up.clone(), up.clone()].concat(), [down, up].concat());
        let mut row = row(&[1, 1], None);
        row.blanks = vec![0];
        for (at_blanks, overlap, positions) in [(true, 0.4, 1), (false, 0.7, 2)] {
            let mut tally = LossTally::new(Scale {
                at_blanks,
                ..scale(&config)
            });
            tally
                .add(&row, &one("logits", &[1, 2, 8], &a), &one("logits", &[1, 2, 8], &b))
                .unwrap();
            let top5 = tally.finish().top5.unwrap();
            assert_eq!(
                (top5.overlap, top5.positions, top5.at_blanks),
                (overlap, positions, at_blanks)
            );
        }
    }

    #[test]
    fn tokens_a_candidate_lost_can_only_be_disagreed_on() {
        let config = config(Head::MaskedLm);
        let reference = one("logits", &[1, 2, 4], &[1.0, 2.0, 3.0, 9.0, 1.0, 2.0, 3.0, 0.0]);
        // Tokens 0 to 2 are left, with the same logits: no divergence among them, one decision lost.
        let candidate = one("logits", &[1, 2, 3], &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        let mut tally = LossTally::new(Scale {
            kept: Some(&[0, 1, 2]),
            ..scale(&config)
        });
        tally.add(&row(&[1, 1], None), &reference, &candidate).unwrap();
        let loss = tally.finish();
        assert_eq!((loss.agreement, loss.kl), (Some(0.5), Some(0.0)));
        let mut strict = LossTally::new(scale(&config));
        assert!(strict.add(&row(&[1, 1], None), &reference, &candidate).is_err());
    }

    #[test]
    fn deviations_are_taken_around_one_mean_and_around_each_channels() {
        // Channel 0 is 300 at every token, channel 1 is -1 or 1.
        let none = config(Head::None);
        let mut tally = LossTally::new(scale(&none));
        let a = one("last_hidden_state", &[1, 2, 2], &[300.0, -1.0, 300.0, 1.0]);
        let b = one("last_hidden_state", &[1, 2, 2], &[300.0, -0.5, 300.0, 0.5]);
        tally.add(&row(&[1, 1], None), &a, &b).unwrap();
        let loss = tally.finish();
        let found = &loss.outputs["last_hidden_state"];
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9 * b;
        assert!(near(found.channel_std, 0.5f64.sqrt()), "{found:?}");
        assert!(near(found.reference_std, (150.0f64 * 150.0 + 0.5).sqrt()), "{found:?}");
        assert!(near(loss.score().relative_rms(), 0.5), "{:?}", loss.score());
        assert!(loss.score().plain_rms() < 0.003 && loss.score().word() == crate::eval::metrics::Word::Poor);

        // The values of a span's ends are positions', however many a row has.
        let spans = config(Head::QuestionAnswering);
        let mut tally = LossTally::new(scale(&spans));
        for seq in [2, 3] {
            let start = one("start_logits", &[1, seq], &[4.0, 1.0, 1.0][..seq]);
            let mut row = row(&[1, 1, 1][..seq], None);
            row.input_ids = vec![2, 8, 9][..seq].to_vec();
            tally.add(&row, &start, &start).unwrap();
        }
        let found = &tally.finish().outputs["start_logits"];
        assert_eq!((found.values, found.channel_std), (5, found.reference_std));
    }

    #[test]
    fn meters_add_up() {
        let config = config(Head::SequenceClassification);
        let rows = [
            ([1.0, 0.0], [0.5, 0.7]),
            ([2.0, 1.0], [2.5, 0.7]),
            ([0.0, 1.0], [-1.0, 3.0]),
        ];
        let (mut whole, mut parts) = (LossTally::new(scale(&config)), LossTally::new(scale(&config)));
        for (a, b) in rows {
            let (a, b) = (one("logits", &[1, 2], &a), one("logits", &[1, 2], &b));
            whole.add(&row(&[1], Some(&[0])), &a, &b).unwrap();
            let mut part = LossTally::new(scale(&config));
            part.add(&row(&[1], Some(&[0])), &a, &b).unwrap();
            parts.absorb(part);
        }
        assert_eq!(whole.finish(), parts.finish());
    }
}
