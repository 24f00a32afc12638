//! What a model's outputs say, as a person or a program reads it: labels with probabilities, tags, filled blanks, spans,
//! choices. In come one row's outputs by Hugging Face's names and the row; out comes an [`Answer`] for text or JSON.

use crate::inputs::{MASK, Row};
use crate::loss::Outputs;
use crate::text::printable;
use crate::tokenise::{Encoded, Tokeniser};
use serde::Serialize;
use std::fmt;
use thimble_shared::graph::{Config, Head};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("the model gave no {0}")]
    Missing(&'static str),
    #[error("{name} has {found} numbers, {expected} were expected")]
    Length {
        name: &'static str,
        found: usize,
        expected: usize,
    },
    #[error("nothing to fill: mark the place with [MASK]")]
    NoMask,
    #[error("nothing to search: no token of the context is left")]
    NoContext,
}

/// What was asked. The encodings (one, or one per choice) and the tokenizer give the answer its words; without them it
/// speaks in token ids.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub row: &'a Row,
    pub encoded: &'a [Encoded],
    pub tokeniser: Option<&'a Tokeniser>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    /// Sequence classification, most probable first.
    Labels { labels: Vec<Scored> },
    /// A regression: sequence classification with one label.
    Value { name: String, value: f32 },
    /// Token classification; a word has the tag of its first token.
    Tags { words: Vec<Tag>, tokens: Vec<Tag> },
    /// Masked LM: the likeliest tokens for each blank.
    Fills { blanks: Vec<Blank> },
    /// Pre-training: blanks, and whether the second text follows the first.
    PreTraining {
        blanks: Vec<Blank>,
        in_order: f64,
        swapped: f64,
    },
    /// Question answering: tokens `first..=last`, and their text where it is known.
    Span {
        text: Option<String>,
        first: usize,
        last: usize,
        score: f64,
    },
    /// Multiple choice, in the order asked.
    Choice { chosen: usize, choices: Vec<Scored> },
    /// No head: the hidden states in figures.
    Hidden {
        shape: Vec<usize>,
        mean: f64,
        std: f64,
        min: f32,
        max: f32,
        first_token: Vec<f32>,
        pooled: Option<Vec<f32>>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    pub label: String,
    pub score: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tag {
    pub text: String,
    pub label: String,
    pub score: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blank {
    /// Token position.
    pub position: usize,
    pub fills: Vec<Fill>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fill {
    pub id: usize,
    pub token: Option<String>,
    pub score: f64,
}

/// Candidates shown per blank.
const FILLS: usize = 5;
/// Longest answer span in tokens.
const SPAN: usize = 30;
/// Numbers of a hidden vector shown.
const SHOWN: usize = 8;

/// Reads the answer of a model of `config` out of `outputs`.
pub fn answer(config: &Config, outputs: &Outputs, asked: Asked) -> Result<Answer, AnswerError> {
    let row = asked.row;
    let seq = row.seq();
    match config.head {
        Head::SequenceClassification => {
            let logits = numbers(outputs, "logits", config.labels.len())?;
            Ok(match config.labels.as_slice() {
                [name] if !config.multi_label => Answer::Value {
                    name: name.clone(),
                    value: logits[0],
                },
                names => Answer::Labels {
                    labels: scored(names, &probabilities(logits, config.multi_label), true),
                },
            })
        }
        Head::TokenClassification => {
            let logits = numbers(outputs, "logits", seq * config.labels.len())?;
            Ok(tags(config, logits, asked))
        }
        Head::MaskedLm => {
            let blanks = blanks(config, numbers(outputs, "logits", seq * config.vocab_size)?, asked);
            if blanks.is_empty() {
                Err(AnswerError::NoMask)
            } else {
                Ok(Answer::Fills { blanks })
            }
        }
        Head::PreTraining => {
            let blanks = blanks(
                config,
                numbers(outputs, "prediction_logits", seq * config.vocab_size)?,
                asked,
            );
            let order = softmax(numbers(outputs, "sop_logits", 2)?);
            Ok(Answer::PreTraining {
                blanks,
                in_order: order[0],
                swapped: order[1],
            })
        }
        Head::QuestionAnswering => span(
            numbers(outputs, "start_logits", seq)?,
            numbers(outputs, "end_logits", seq)?,
            asked,
        ),
        Head::MultipleChoice => {
            let count = row.shape.get(1).copied().unwrap_or(0);
            let scores = softmax(numbers(outputs, "logits", count)?);
            let name = |i: usize| {
                asked
                    .encoded
                    .get(i)
                    .and_then(|e| e.pair.clone())
                    .unwrap_or_else(|| format!("choice {i}"))
            };
            let names: Vec<String> = (0..count).map(name).collect();
            Ok(Answer::Choice {
                chosen: best(&scores),
                choices: scored(&names, &scores, false),
            })
        }
        Head::None => hidden(config, outputs, row),
    }
}

fn numbers<'a>(outputs: &'a Outputs, name: &'static str, expected: usize) -> Result<&'a [f32], AnswerError> {
    let output = outputs.get(name).ok_or(AnswerError::Missing(name))?;
    match output.data.len() {
        found if found == expected && found > 0 => Ok(&output.data),
        found => Err(AnswerError::Length { name, found, expected }),
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&x| f64::from(x - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn probabilities(logits: &[f32], independent: bool) -> Vec<f64> {
    if independent {
        logits.iter().map(|&x| 1.0 / (1.0 + f64::from(-x).exp())).collect()
    } else {
        softmax(logits)
    }
}

/// Index of the largest score, the first of equals.
fn best(scores: &[f64]) -> usize {
    (0..scores.len())
        .rev()
        .max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
        .unwrap_or(0)
}

fn scored(names: &[String], scores: &[f64], sorted: bool) -> Vec<Scored> {
    let mut all: Vec<Scored> = names
        .iter()
        .zip(scores)
        .map(|(label, &score)| Scored {
            label: label.clone(),
            score,
        })
        .collect();
    if sorted {
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
    }
    all
}

fn tags(config: &Config, logits: &[f32], asked: Asked) -> Answer {
    let encoded = asked.encoded.first();
    let tag = |at: usize, text: String| {
        let scores = softmax(&logits[at * config.labels.len()..(at + 1) * config.labels.len()]);
        let chosen = best(&scores);
        Tag {
            text,
            label: config.labels[chosen].clone(),
            score: scores[chosen],
        }
    };
    let real = (0..asked.row.seq()).filter(|&i| asked.row.attention_mask.get(i) == Some(&1));
    let tokens = match encoded {
        None => real.map(|i| tag(i, asked.row.input_ids[i].to_string())).collect(),
        Some(e) => {
            let inside = real.filter(|&i| e.places.get(i).is_some_and(|p| p.sequence.is_some()));
            inside.map(|i| tag(i, e.tokens[i].clone())).collect()
        }
    };
    let words = encoded.map_or(Vec::new(), |e| {
        words(e)
            .into_iter()
            .map(|(first, last)| tag(first, e.slice(first, last).unwrap_or_default().to_string()))
            .collect()
    });
    Answer::Tags { words, tokens }
}

/// First and last token of each word.
fn words(encoded: &Encoded) -> Vec<(usize, usize)> {
    let mut words: Vec<(usize, usize)> = Vec::new();
    for (i, place) in encoded.places.iter().enumerate().filter(|(_, p)| p.sequence.is_some()) {
        match words.last_mut() {
            Some((first, last))
                if place.word.is_some()
                    && encoded.places[*first].word == place.word
                    && encoded.places[*first].sequence == place.sequence =>
            {
                *last = i;
            }
            _ => words.push((i, i)),
        }
    }
    words
}

fn blanks(config: &Config, logits: &[f32], asked: Asked) -> Vec<Blank> {
    let mask = asked.tokeniser.map_or(Some(MASK), Tokeniser::mask_id);
    let row = asked.row;
    let is_blank = |&i: &usize| Some(row.input_ids[i]) == mask && row.attention_mask[i] == 1;
    let blank = |position: usize| {
        let scores = softmax(&logits[position * config.vocab_size..(position + 1) * config.vocab_size]);
        let mut ids: Vec<usize> = (0..scores.len()).collect();
        ids.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let token = |id: usize| asked.tokeniser.and_then(|t| t.token(id as i64));
        let fills = ids
            .into_iter()
            .take(FILLS)
            .map(|id| Fill {
                id,
                token: token(id),
                score: scores[id],
            })
            .collect();
        Blank { position, fills }
    };
    (0..row.seq()).filter(is_blank).map(blank).collect()
}

/// The likeliest span over tokens of the context with mask 1, as Hugging Face's pipeline scores it: the product of the start's
/// and the end's probability, each over the context only.
fn span(start: &[f32], end: &[f32], asked: Asked) -> Result<Answer, AnswerError> {
    let row = asked.row;
    let encoded = asked.encoded.first();
    let second = row.token_type_ids.contains(&1);
    let allowed: Vec<usize> = (0..row.seq())
        .filter(|&i| row.attention_mask[i] == 1)
        .filter(|&i| match encoded {
            Some(e) => {
                let wanted = usize::from(e.pair.is_some());
                e.places.get(i).is_some_and(|p| p.sequence == Some(wanted))
            }
            // Bare ids: the second text by its type, all real tokens when there is none.
            None => !second || row.token_type_ids[i] == 1,
        })
        .collect();
    if allowed.is_empty() {
        return Err(AnswerError::NoContext);
    }
    let pick = |logits: &[f32]| softmax(&allowed.iter().map(|&i| logits[i]).collect::<Vec<_>>());
    let (starts, ends) = (pick(start), pick(end));
    let mut found = (0, 0, -1.0);
    for (a, p) in starts.iter().enumerate() {
        for (b, q) in ends.iter().enumerate().skip(a).take(SPAN) {
            if p * q > found.2 {
                found = (a, b, p * q);
            }
        }
    }
    let (first, last) = (allowed[found.0], allowed[found.1]);
    let text = encoded.and_then(|e| e.slice(first, last)).map(str::to_string);
    Ok(Answer::Span {
        text,
        first,
        last,
        score: found.2,
    })
}

fn hidden(config: &Config, outputs: &Outputs, row: &Row) -> Result<Answer, AnswerError> {
    let width = config.hidden_size;
    let all = numbers(outputs, "last_hidden_state", row.seq() * width)?;
    let real = all
        .chunks(width)
        .zip(&row.attention_mask)
        .filter(|(_, m)| **m == 1)
        .flat_map(|(v, _)| v)
        .copied();
    let (mut count, mut sum, mut squares, mut min, mut max) = (0u64, 0f64, 0f64, f32::INFINITY, f32::NEG_INFINITY);
    for x in real {
        count += 1;
        sum += f64::from(x);
        squares += f64::from(x) * f64::from(x);
        (min, max) = (min.min(x), max.max(x));
    }
    let n = count.max(1) as f64;
    let mean = sum / n;
    let head = |v: &[f32]| v[..v.len().min(SHOWN)].to_vec();
    Ok(Answer::Hidden {
        shape: vec![row.seq(), width],
        mean,
        std: (squares / n - mean * mean).max(0.0).sqrt(),
        min,
        max,
        first_token: head(&all[..width]),
        pooled: outputs.get("pooler_output").map(|t| head(&t.data)),
    })
}

/// Rows of a label list printed before the rest becomes a count.
const PRINTED: usize = 10;

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Labels { labels } => scores(f, labels, None),
            Answer::Value { name, value } => writeln!(f, "{} = {value}", printable(name)),
            Answer::Tags { words, tokens } => {
                let tags = if words.is_empty() { tokens } else { words };
                let width = tags
                    .iter()
                    .map(|t| printable(&t.text).chars().count())
                    .max()
                    .unwrap_or(0);
                tags.iter().try_for_each(|t| {
                    writeln!(
                        f,
                        "{:width$}  {}  {:.2} %",
                        printable(&t.text),
                        printable(&t.label),
                        t.score * 100.0
                    )
                })
            }
            Answer::Fills { blanks } => print_blanks(f, blanks),
            Answer::PreTraining {
                blanks,
                in_order,
                swapped,
            } => {
                print_blanks(f, blanks)?;
                writeln!(
                    f,
                    "order: in order {:.2} %, swapped {:.2} %",
                    in_order * 100.0,
                    swapped * 100.0
                )
            }
            Answer::Span {
                text,
                first,
                last,
                score,
            } => {
                if let Some(text) = text {
                    writeln!(f, "{}", printable(text))?;
                }
                writeln!(f, "tokens {first} to {last}, {:.2} %", score * 100.0)
            }
            Answer::Choice { chosen, choices } => scores(f, choices, Some(*chosen)),
            Answer::Hidden {
                shape,
                mean,
                std,
                min,
                max,
                first_token,
                pooled,
            } => {
                writeln!(
                    f,
                    "last_hidden_state {shape:?}: mean {mean:.6}, std {std:.6}, {min:.6} to {max:.6}"
                )?;
                writeln!(f, "first token: {}", first_numbers(first_token))?;
                match pooled {
                    Some(pooled) => writeln!(f, "pooler_output: {}", first_numbers(pooled)),
                    None => Ok(()),
                }
            }
        }
    }
}

fn first_numbers(numbers: &[f32]) -> String {
    numbers.iter().map(|x| format!("{x:.6}")).collect::<Vec<_>>().join(" ") + " ..."
}

fn scores(f: &mut fmt::Formatter<'_>, all: &[Scored], chosen: Option<usize>) -> fmt::Result {
    let shown = if chosen.is_some() {
        all.len()
    } else {
        all.len().min(PRINTED)
    };
    let width = all[..shown]
        .iter()
        .map(|s| printable(&s.label).chars().count())
        .max()
        .unwrap_or(0);
    for (i, one) in all[..shown].iter().enumerate() {
        let mark = match chosen {
            Some(chosen) if chosen == i => "> ",
            Some(_) => "  ",
            None => "",
        };
        writeln!(f, "{mark}{:width$}  {:6.2} %", printable(&one.label), one.score * 100.0)?;
    }
    if shown < all.len() {
        writeln!(f, "... and {} more", all.len() - shown)?;
    }
    Ok(())
}

fn print_blanks(f: &mut fmt::Formatter<'_>, blanks: &[Blank]) -> fmt::Result {
    for blank in blanks {
        let fill = |c: &Fill| {
            // `▁` is the vocabulary's leading space.
            let token = c
                .token
                .as_ref()
                .map_or(c.id.to_string(), |t| printable(t.trim_start_matches('▁')));
            format!("{token} {:.2} %", c.score * 100.0)
        };
        let fills: Vec<String> = blank.fills.iter().map(fill).collect();
        writeln!(f, "[MASK] at token {}: {}", blank.position, fills.join(", "))?;
    }
    Ok(())
}
