//! Answers from a model's outputs, as the pipelines of transformers 4.57 give them: scores of labels, the best tokens, answer
//! spans and tagged spans. In come f32 logits of one sequence, row-major; out come probabilities as f64 with positions of
//! tokens and bytes of texts. Host and board decide with these functions alone.

use crate::model::Config;
use std::collections::BTreeMap;

/// Longest answer in tokens: `max_answer_len` of the question-answering pipeline.
pub const MAX_ANSWER: usize = 15;
/// Tokens of one window over a question and its context: `max_seq_len` of the pipeline.
pub const WINDOW: usize = 384;
/// Tokens two neighboring windows share: `doc_stride` of the pipeline.
pub const STRIDE: usize = 128;
/// Spans of one window that are turned into words: the pipeline's `2 * top_k + 10` for one answer.
const CANDIDATES: usize = 12;
/// What the pipeline puts in place of the logit of a token that cannot be part of an answer.
const IMPOSSIBLE: f32 = -10000.0;

/// How a sequence classifier's logits become scores (`function_to_apply` of the text-classification pipeline).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// One label of several is right.
    Softmax,
    /// Each label has a probability of its own.
    Sigmoid,
    /// A regression: the logits are the values.
    Raw,
}

impl Scoring {
    /// The scoring of a sequence classifier of `config`.
    pub fn of(config: &Config) -> Scoring {
        if config.multi_label {
            Scoring::Sigmoid
        } else if config.predicts_values() {
            Scoring::Raw
        } else {
            Scoring::Softmax
        }
    }

    /// The function, as the pipeline names it.
    pub fn name(self) -> &'static str {
        match self {
            Scoring::Softmax => "softmax",
            Scoring::Sigmoid => "sigmoid",
            Scoring::Raw => "none",
        }
    }

    /// One score for each logit.
    pub fn scores(self, logits: &[f32]) -> Vec<f64> {
        match self {
            Scoring::Softmax => softmax(logits),
            Scoring::Sigmoid => logits.iter().map(|&x| sigmoid(x)).collect(),
            Scoring::Raw => logits.iter().map(|&x| x.into()).collect(),
        }
    }
}

/// Whether an independent label is given: its probability is over one half.
pub fn given(logit: f32) -> bool {
    logit > 0.0
}

/// 1 / (1 + exp(-x)).
pub fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + f64::from(-x).exp())
}

/// exp(x) over the sum of all exp(x), computed from differences to the largest.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// Logarithms of the softmax.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(f64::from(v)));
    let sum: f64 = logits.iter().map(|&v| (f64::from(v) - max).exp()).sum();
    logits.iter().map(|&v| f64::from(v) - max - sum.ln()).collect()
}

/// The place of the largest number, the first of equals; none of an empty slice.
pub fn argmax(values: &[f32]) -> Option<usize> {
    let mut best = None;
    for (at, value) in values.iter().enumerate() {
        if best.is_none_or(|b: usize| values[b] < *value) {
            best = Some(at);
        }
    }
    best
}

/// The places of the `most` largest numbers, largest first, of equals the first.
pub fn top(values: &[f32], most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let best = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    if most == 0 {
        return Vec::new();
    }
    if most < order.len() {
        order.select_nth_unstable_by(most, best);
        order.truncate(most);
    }
    order.sort_unstable_by(best);
    order
}

/// Where a token comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// 0 for the text, 1 for its pair, none for special tokens.
    pub sequence: Option<usize>,
    /// Number of the word within its text.
    pub word: Option<u32>,
    /// Bytes of its text.
    pub bytes: (usize, usize),
}

/// How many code points of `text` lie before byte `at`: the offsets Python counts in.
pub fn characters_before(text: &str, at: usize) -> usize {
    text.char_indices().take_while(|(byte, _)| *byte < at).count()
}

/// Bytes of a text as an answer shows them: without white space around them.
pub fn excerpt(text: &str, bytes: (usize, usize)) -> Option<&str> {
    text.get(bytes.0..bytes.1).map(str::trim)
}

/// The windows a question and its context are cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens of a window, question and special tokens included.
    pub tokens: usize,
    /// Tokens of the context that two neighboring windows share.
    pub stride: usize,
}

impl Windows {
    /// The pipeline's: 384 tokens or as many as an input may have, sharing 128 or half a window.
    pub fn of(most: usize) -> Windows {
        let tokens = most.min(WINDOW);
        Windows {
            tokens,
            stride: (tokens / 2).min(STRIDE),
        }
    }
}

/// Which tokens of a question-answering input belong to the context, by `places`: those of the second text.
pub fn context_of_places(places: &[Place]) -> Vec<bool> {
    places.iter().map(|p| p.sequence == Some(1)).collect()
}

/// The same where only ids are known: tokens of type 1 without the separator that ends them; without types, all tokens but the
/// first. A token whose mask is 0 is never part of it.
pub fn context_of_ids(ids: &[i64], types: Option<&[i64]>, mask: Option<&[i64]>) -> Vec<bool> {
    let real = |i: usize| mask.is_none_or(|m| m.get(i).is_some_and(|&m| m != 0));
    let second = |i: usize| types.and_then(|t| t.get(i)) == Some(&1);
    let begin = (0..ids.len()).find(|&i| real(i) && second(i));
    let mut context: Vec<bool> = (0..ids.len())
        .map(|i| i > 0 && real(i) && (begin.is_none() || second(i)))
        .collect();
    // The separator is what stands between the texts, and again at the end.
    let separator = begin.and_then(|b| ids.get(b.checked_sub(1)?));
    if let Some(last) = context.iter().rposition(|&c| c)
        && separator == Some(&ids[last])
    {
        context[last] = false;
    }
    context
}

/// Tokens `first..=last` of a window as an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenSpan {
    /// First token.
    pub first: usize,
    /// Last token.
    pub last: usize,
    /// Probability of the start times that of the end.
    pub score: f64,
}

/// The softmax over a window's context and its first token, which stands for "no answer".
fn over_context(logits: &[f32], context: &[bool]) -> Vec<f64> {
    let possible = |i: usize| i == 0 || context.get(i) == Some(&true);
    let masked = |(i, &x): (usize, &f32)| if possible(i) { x } else { IMPOSSIBLE };
    softmax(&logits.iter().enumerate().map(masked).collect::<Vec<_>>())
}

/// The best spans of one window, best first, and the score of "no answer", which is that of the first token (`[CLS]`).
/// `context` says which tokens may be part of an answer; the first never is. A span has at most `max_answer` tokens.
pub fn spans(start: &[f32], end: &[f32], context: &[bool], max_answer: usize, most: usize) -> (Vec<TokenSpan>, f64) {
    let len = start.len().min(end.len()).min(context.len());
    let (starts, ends) = (
        over_context(&start[..len], &context[..len]),
        over_context(&end[..len], &context[..len]),
    );
    let none = starts.first().zip(ends.first()).map_or(0.0, |(a, b)| a * b);
    let mut best: Vec<TokenSpan> = Vec::with_capacity(most + 1);
    for first in (1..len).filter(|&i| context[i]) {
        let until = first.saturating_add(max_answer).min(len);
        for last in (first..until).filter(|&i| context[i]) {
            let score = starts[first] * ends[last];
            let at = best.partition_point(|b| b.score >= score);
            if at < most && !score.is_nan() {
                best.insert(at, TokenSpan { first, last, score });
                best.truncate(most);
            }
        }
    }
    (best, none)
}

/// One window of a question: logits of its tokens, and where they come from.
#[derive(Clone, Debug)]
pub struct Window<'a> {
    /// `start_logits`, one per token.
    pub start: &'a [f32],
    /// `end_logits`, one per token.
    pub end: &'a [f32],
    /// Which tokens may be part of an answer.
    pub context: Vec<bool>,
    /// Where the tokens lie in the context's text; empty where only ids are known.
    pub places: &'a [Place],
}

/// What counts as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerOptions {
    /// Most tokens of an answer.
    pub max_answer: usize,
    /// Whether "no answer" is one (`handle_impossible_answer`).
    pub allow_none: bool,
}

impl Default for AnswerOptions {
    fn default() -> AnswerOptions {
        AnswerOptions {
            max_answer: MAX_ANSWER,
            allow_none: false,
        }
    }
}

/// The answer to a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// The window it was found in, and its best span there.
    pub window: usize,
    /// First token.
    pub first: usize,
    /// Last token.
    pub last: usize,
    /// Bytes of the context, whole words; none where only ids are known.
    pub bytes: Option<(usize, usize)>,
    /// Scores of all spans, in all windows, that read the same: the pipeline adds them up, so it may exceed 1.
    pub score: f64,
}

/// An answer, or none, and how likely none is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answered {
    /// The best span; `None` where no answer is allowed and likelier.
    pub found: Option<Found>,
    /// The least score of "no answer" over the windows.
    pub none: f64,
}

/// The answer over all windows of one question, as `QuestionAnsweringPipeline.postprocess` finds it: spans become whole words,
/// those that read the same (upper and lower case alike) add up, the best wins. `None` where no window has a context.
pub fn answer(windows: &[Window], context: Option<&str>, options: AnswerOptions) -> Option<Answered> {
    let mut all: Vec<Found> = Vec::new();
    let mut by_text: BTreeMap<String, usize> = BTreeMap::new();
    let mut least = f64::INFINITY;
    for (number, window) in windows.iter().enumerate() {
        let (spans, none) = spans(
            window.start,
            window.end,
            &window.context,
            options.max_answer,
            CANDIDATES,
        );
        least = least.min(none);
        for span in spans {
            let bytes = whole_words(window.places, span.first, span.last);
            let text = bytes.and_then(|(a, b)| context?.get(a..b)).map(str::to_lowercase);
            if let Some(same) = text.as_ref().and_then(|text| by_text.get(text)) {
                all[*same].score += span.score;
                continue;
            }
            by_text.extend(text.map(|text| (text, all.len())));
            all.push(Found {
                window: number,
                first: span.first,
                last: span.last,
                bytes,
                score: span.score,
            });
        }
    }
    let best = all.into_iter().reduce(|a, b| if b.score > a.score { b } else { a })?;
    Some(Answered {
        found: Some(best).filter(|best| !options.allow_none || best.score >= least),
        none: least,
    })
}

/// The bytes from the start of the first token's word to the end of the last token's, as far as they lie in this window; those
/// of the tokens where either is part of no word.
fn whole_words(places: &[Place], first: usize, last: usize) -> Option<(usize, usize)> {
    let (a, b) = (places.get(first)?, places.get(last)?);
    let of_word = |place: &Place| {
        place.word?;
        let same = |p: &&Place| p.sequence == place.sequence && p.word == place.word;
        let begin = places.iter().find(same)?.bytes.0;
        Some((begin, places.iter().rev().find(same)?.bytes.1))
    };
    match (of_word(a), of_word(b)) {
        (Some((start, _)), Some((_, end))) => Some((start, end)),
        _ => Some((a.bytes.0, b.bytes.1)),
    }
}

/// The tag of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenTag {
    /// Token position.
    pub at: usize,
    /// Number of the label.
    pub label: usize,
    /// Its probability.
    pub score: f64,
}

/// The likeliest label of the token at `at`, whose logits these are.
pub fn tag(at: usize, logits: &[f32]) -> Option<TokenTag> {
    let label = argmax(logits)?;
    Some(TokenTag {
        at,
        label,
        score: softmax(logits)[label],
    })
}

/// Neighboring tokens of one entity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TagSpan<'a> {
    /// The label without its `B-` or `I-`.
    pub label: &'a str,
    /// First token.
    pub first: usize,
    /// Last token.
    pub last: usize,
    /// Mean of the tokens' scores.
    pub score: f64,
}

/// The label of tokens outside every entity.
const OUTSIDE: &str = "O";

/// `tags` merged into spans as `aggregation_strategy="simple"` does: a token goes on with the span before it where the names
/// after `B-` or `I-` are the same and its own label does not begin with `B-`. Spans named `O` are left out.
pub fn tag_spans<'a>(tags: &[TokenTag], labels: &'a [String]) -> Vec<TagSpan<'a>> {
    let name = |tag: &TokenTag| labels.get(tag.label).map_or("", String::as_str);
    let split = |label: &'a str| match (label.strip_prefix("B-"), label.strip_prefix("I-")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => (false, label),
    };
    let goes_on = |a: &TokenTag, b: &TokenTag| {
        let ((_, before), (begins, now)) = (split(name(a)), split(name(b)));
        before == now && !begins
    };
    let span = |group: &[TokenTag]| {
        let (first, last) = (group.first()?, group.last()?);
        let label = name(first);
        Some(TagSpan {
            // Unlike the merging, the name is what follows the first dash, whatever stands before it.
            label: label.split_once('-').map_or(label, |(_, rest)| rest),
            first: first.at,
            last: last.at,
            score: group.iter().map(|t| t.score).sum::<f64>() / group.len() as f64,
        })
    };
    let spans = tags.chunk_by(goes_on).filter_map(span);
    spans.filter(|s| s.label != OUTSIDE).collect()
}

/// The cosine of the angle between two vectors of one length; 0 where one of them is 0, as sentence-transformers' `cos_sim` has it.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let sum = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let lengths = (sum(a, a) * sum(b, b)).sqrt();
    if lengths == 0.0 { 0.0 } else { sum(a, b) / lengths }
}

/// Whether a model's outputs are answers, which two models can agree on: labels, tags, tokens, spans or choices.
pub fn decides(config: &Config) -> bool {
    config.head.answer().decides(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_maxima_wins() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(argmax(&[]), None);
        assert_eq!(top(&[1.0, 3.0, 3.0, 0.0, 2.0, 5.0, 4.0], 5), [5, 6, 1, 2, 4]);
        assert_eq!(top(&[1.0, 2.0], 9), [1, 0]);
        assert!(top(&[1.0], 0).is_empty() && top(&[], 3).is_empty());
    }

    #[test]
    fn scores_of_large_logits_are_finite() {
        assert_eq!(softmax(&[1e38, -1e38]), [1.0, 0.0]);
        assert_eq!(Scoring::Sigmoid.scores(&[0.0, 1e38, -1e38]), [0.5, 1.0, 0.0]);
        assert_eq!(Scoring::Raw.scores(&[-2.5]), [-2.5]);
    }

    #[test]
    fn windows_are_the_pipeline_s() {
        let cases = [
            (512, 384, 128),
            (384, 384, 128),
            (64, 64, 32),
            (128, 128, 64),
            (5, 5, 2),
        ];
        for (positions, tokens, stride) in cases {
            assert_eq!(Windows::of(positions), Windows { tokens, stride });
        }
    }

    #[test]
    fn the_context_of_bare_ids_is_the_second_text_without_its_separator() {
        let ids = [2, 8, 3, 9, 9, 3, 0];
        let (types, mask) = ([0, 0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 0]);
        let context = context_of_ids(&ids, Some(&types), Some(&mask));
        assert_eq!(context, [false, false, false, true, true, false, false]);
        assert_eq!(context_of_ids(&ids[..3], None, None), [false, true, true]);
        assert_eq!(context_of_ids(&[9, 9], Some(&[1, 1]), None), [false, true]);
        assert!(context_of_ids(&[], None, None).is_empty());
    }

    #[test]
    fn spans_stay_in_the_context_and_under_the_longest() {
        let (start, end) = ([9.0, 9.0, 1.0, 5.0, 0.0, 9.0], [9.0, 9.0, 5.0, 0.5, 4.0, 9.0]);
        let context = [false, false, true, true, true, false];
        let best = |max| spans(&start, &end, &context, max, 1).0[0];
        assert_eq!((best(15).first, best(15).last), (3, 4), "3 to 2 would score more");
        assert_eq!((best(1).first, best(1).last), (2, 2));
        let (all, none) = spans(&start, &end, &context, 15, 9);
        assert_eq!(all.len(), 6);
        // [CLS] takes part in both softmaxes: e^9 beside e^1 + e^5 + e^0.
        let sum = |x: [f64; 4]| x.iter().map(|x| x.exp()).sum::<f64>();
        let want = (9f64.exp() / sum([9.0, 1.0, 5.0, 0.0])) * (9f64.exp() / sum([9.0, 5.0, 0.5, 4.0]));
        assert!((none - want).abs() < 1e-12);
        let lost = [f32::NAN; 6];
        assert!(spans(&lost, &end, &context, 15, 9).0.is_empty());
        assert!(spans(&[], &[], &[], 15, 9).0.is_empty());
    }

    #[test]
    fn answers_that_read_the_same_add_up_and_none_wins_only_when_allowed() {
        let place = |word, a, b| Place {
            sequence: Some(1),
            word: Some(word),
            bytes: (a, b),
        };
        let places = [Place::default(), place(0, 0, 2), place(0, 2, 4), place(1, 5, 9)];
        let window = |start| Window {
            start,
            end: start,
            context: vec![false, true, true, true],
            places: &places,
        };
        let (one, two) = ([4.0, 2.0, 2.0, 0.0], [4.0, 0.0, 0.0, 1.0]);
        let windows = [window(&one), window(&two)];
        let options = AnswerOptions::default();
        let found = answer(&windows, Some("Ab?? aB??"), options).unwrap().found.unwrap();
        // Both words read the same; "ab?? ab??" is the third.
        assert_eq!((found.window, found.bytes), (0, Some((0, 4))));
        let alone = answer(&windows[..1], Some("Ab?? xxxx"), options).unwrap();
        assert!(found.score > alone.found.unwrap().score);
        let none = AnswerOptions {
            allow_none: true,
            ..options
        };
        assert_eq!(answer(&windows, Some("Ab?? aB??"), none).unwrap().found, None);
        assert_eq!(answer(&[], Some(""), options), None);
    }

    #[test]
    fn tags_merge_as_the_simple_strategy_does() {
        let labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "NOUN", "X-PER"].map(String::from);
        let cases: [(&[usize], &[(&str, usize, usize)]); 6] = [
            (&[0, 0], &[]),
            (&[1, 2, 0, 2], &[("PER", 0, 1), ("PER", 3, 3)]),
            (&[1, 1], &[("PER", 0, 0), ("PER", 1, 1)]),
            (&[1, 4, 4], &[("PER", 0, 0), ("LOC", 1, 2)]),
            (&[5, 5, 0], &[("NOUN", 0, 1)]),
            (&[6, 2], &[("PER", 0, 0), ("PER", 1, 1)]),
        ];
        for (numbers, want) in cases {
            let tags: Vec<TokenTag> = numbers
                .iter()
                .enumerate()
                .map(|(at, &label)| TokenTag { at, label, score: 0.5 })
                .collect();
            let got: Vec<_> = tag_spans(&tags, &labels)
                .iter()
                .map(|s| (s.label, s.first, s.last))
                .collect();
            assert_eq!(got, want, "{numbers:?}");
        }
    }
}
