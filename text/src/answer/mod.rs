//! What a model's outputs say, as a person or a program reads it: labels with probabilities, tags, filled blanks, spans,
//! choices, embeddings. In come the rows' outputs by Hugging Face's names and the rows; out comes an [`Answer`] for text or JSON. What is
//! decided is decided by `thimble_shared::decode`. Desk and board print with this code.

mod print;

use crate::{Encoded, Tokenizer};
pub use print::per_token;
use serde::Serialize;
use thimble_shared::decode::{self, AnswerOptions, Place, Scoring, Window, characters_before, context_of_ids, softmax};
use thimble_shared::model::{AnswerKind, Config};

/// Why outputs and inputs give no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The model has no output of that name.
    #[error("the model gave no {0}")]
    Missing(&'static str),
    /// An output is not as long as the input and the head say.
    #[error("{name} has {found} numbers, {expected} were expected")]
    Length {
        /// Name of the output.
        name: &'static str,
        /// Numbers it has.
        found: usize,
        /// Numbers it should have.
        expected: usize,
    },
    /// A masked LM was given no blank; how one is marked.
    #[error("nothing to fill: mark the place with {0}")]
    NoMask(String),
    /// A masked LM whose tokenizer has no token for a blank.
    #[error("nothing to fill: the tokenizer has no mask token; name it as mask_token in tokenizer_config.json")]
    Maskless,
    /// Question answering where cutting left nothing of the context.
    #[error("nothing to search: no token of the context is left")]
    NoContext,
}

/// The outputs of one row: names as Hugging Face has them, and the numbers.
pub type Outputs<'a> = Vec<(&'a str, &'a [f32])>;

/// One input that was run: a sequence, or the choices of a question.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// `[1, seq]`, or `[1, choices, seq]` for multiple choice.
    pub shape: &'a [usize],
    /// Flat, as many as `shape` says.
    pub ids: &'a [i64],
    /// Token types, as many as `ids`.
    pub types: &'a [i64],
    /// 1 for real tokens, 0 for padding; as many as `ids`.
    pub mask: &'a [i64],
}

impl Row<'_> {
    fn seq(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    /// Which tokens may be part of an answer to a question.
    fn context(&self) -> Vec<bool> {
        context_of_ids(self.ids, Some(self.types), Some(self.mask))
    }
}

/// What was asked. The encodings (one, or one per choice or window) and the tokenizer give the answer its words; without them
/// it speaks in token ids.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// One row; for question answering one per window.
    pub rows: &'a [Row<'a>],
    /// In the order of the rows' sequences; empty where only token ids were given.
    pub encoded: &'a [Encoded],
    /// The model's; `None` where only token ids were given.
    pub tokenizer: Option<&'a Tokenizer>,
    /// How question answering chooses among spans.
    pub options: AnswerOptions,
}

/// What one input was answered with; JSON has the variant's name as `kind`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    /// Sequence classification, most probable first.
    Labels {
        /// All labels with their probabilities.
        labels: Vec<Scored>,
    },
    /// A regression: sequence classification with one label.
    Value {
        /// Name of the label.
        name: String,
        /// The model's output, unscaled.
        value: f32,
    },
    /// A regression with several labels, in the model's order; the scores are the values.
    Values {
        /// All labels with their values.
        labels: Vec<Scored>,
    },
    /// Token classification: neighboring tokens of one entity as spans, and every token's tag; a word has the tag of its
    /// first token.
    Tags {
        /// Neighboring tokens of one entity, in order of the text.
        spans: Vec<Entity>,
        /// Every word of the text; empty where only token ids were given.
        words: Vec<Tag>,
        /// Every token of the text, special tokens left out.
        tokens: Vec<Tag>,
    },
    /// Masked LM: the likeliest tokens for each blank.
    Fills {
        /// One for each mask token, in order.
        blanks: Vec<Blank>,
    },
    /// Pre-training: blanks, and whether the second text follows the first.
    PreTraining {
        /// One for each mask token, in order.
        blanks: Vec<Blank>,
        /// Probability that the second text follows the first.
        in_order: f64,
        /// Probability that the two texts are exchanged.
        swapped: f64,
    },
    /// Question answering: an answer, empty where there is none.
    Span(Span),
    /// Multiple choice, in the order asked.
    Choice {
        /// Index of the likeliest choice, from 0.
        chosen: usize,
        /// Every choice with its probability.
        choices: Vec<Scored>,
    },
    /// No head: the hidden states in figures.
    Hidden {
        /// `[seq, hidden]`.
        shape: Vec<usize>,
        /// Over all real tokens, as the other figures.
        mean: f64,
        /// Standard deviation.
        std: f64,
        /// The least number.
        min: f32,
        /// The greatest number.
        max: f32,
        /// The first 8 numbers of the first token's vector.
        first_token: Vec<f32>,
        /// The first 8 numbers of `pooler_output`, where the model has one.
        pooled: Option<Vec<f32>>,
    },
    /// A sentence's embedding.
    Embedding {
        /// `[size]`.
        embedding: Vec<f32>,
    },
    /// Those of several texts, and how near each is to each; `cosine` is that of two.
    Embeddings {
        /// One embedding a text.
        embeddings: Vec<Vec<f32>>,
        /// The cosine of the two, where there are two texts.
        cosine: Option<f64>,
        /// The cosine of each text with each.
        cosines: Vec<Vec<f64>>,
    },
}

/// A label and its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// Name of the label or text of the choice.
    pub label: String,
    /// A probability, or the value of a regression.
    pub score: f64,
}

/// A token or word with its likeliest label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tag {
    /// The word, the token as the vocabulary spells it, or the token's id where only ids were given.
    pub text: String,
    /// Name of the label.
    pub label: String,
    /// Probability of the label.
    pub score: f64,
}

/// Where an answer stands. Texts are there where the tokenizer is known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// The answer without white space around it.
    pub text: Option<String>,
    /// The context from `start` to `end`, as the pipeline names and cuts it.
    pub answer: Option<String>,
    /// Code points of the context before the answer and before its end; 0 and 0 where there is no answer.
    pub start: Option<usize>,
    /// Code points of the context before the answer's end.
    pub end: Option<usize>,
    /// Of the windows over the context, the one that holds the tokens `first..=last`.
    pub window: Option<usize>,
    /// Windows over the context.
    pub windows: usize,
    /// First token of the answer in its window; `None` where there is no answer.
    pub first: Option<usize>,
    /// Last token of the answer in its window, itself included.
    pub last: Option<usize>,
    /// Score of the answer as the pipeline gives it, or of "no answer" where that is the answer.
    pub score: f64,
    /// The score of "no answer", whether it is allowed or not.
    pub no_answer_score: f64,
}

/// A span of tokens with one tag.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entity {
    /// The entity, without a `B-` or `I-` before it.
    pub label: String,
    /// Score of the entity as the pipeline gives it.
    pub score: f64,
    /// 0 in the text, 1 in its pair.
    pub sequence: Option<usize>,
    /// What stands between `start` and `end`, which count code points, without white space around it.
    pub text: Option<String>,
    /// Code points of the text before the entity; `None` where only token ids were given.
    pub start: Option<usize>,
    /// Code points of the text before the entity's end.
    pub end: Option<usize>,
    /// Its first token.
    pub first: usize,
    /// Its last token, itself included.
    pub last: usize,
}

/// One mask token of the input and what fits there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blank {
    /// Token position.
    pub position: usize,
    /// The likeliest tokens first, 5 at most.
    pub fills: Vec<Fill>,
}

/// A token that fits a blank.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fill {
    /// Row of the vocabulary.
    pub id: usize,
    /// As the vocabulary spells it; `None` where only token ids were given.
    pub token: Option<String>,
    /// Probability of the token.
    pub score: f64,
}

/// Candidates shown per blank.
const FILLS: usize = 5;
/// Numbers of a hidden vector shown.
pub(super) const SHOWN: usize = 8;

/// Reads the answer of a model of `config` out of `outputs`, one for each of the rows asked.
///
/// # Errors
/// Any [`AnswerError`].
pub fn answer(config: &Config, outputs: &[Outputs], asked: Asked) -> Result<Answer, AnswerError> {
    let (Some(row), Some(first)) = (asked.rows.first(), outputs.first()) else {
        return Err(AnswerError::Missing("output"));
    };
    let seq = row.seq();
    let by = config.head.row().answered_by;
    match config.head.answer() {
        AnswerKind::Labels => Ok(labels(config, numbers(first, by, config.labels.len())?)),
        AnswerKind::TokenLabels => {
            let logits = numbers(first, by, seq * config.labels.len())?;
            Ok(tags(config, logits, row, asked.encoded.first()))
        }
        AnswerKind::Vocabulary => {
            let logits = numbers(first, by, seq * config.vocab_size)?;
            match blanks(config, logits, row, asked.tokenizer) {
                blanks if blanks.is_empty() => Err(no_mask(config, asked.tokenizer)),
                blanks => Ok(Answer::Fills { blanks }),
            }
        }
        AnswerKind::VocabularyAndOrder => {
            let logits = numbers(first, by, seq * config.vocab_size)?;
            let order = softmax(numbers(first, "sop_logits", 2)?);
            Ok(Answer::PreTraining {
                blanks: blanks(config, logits, row, asked.tokenizer),
                in_order: order[0],
                swapped: order[1],
            })
        }
        AnswerKind::Choice => choice(first, row, asked.encoded),
        AnswerKind::Hidden => hidden(config, first, row),
        AnswerKind::Span => span(outputs, asked),
        AnswerKind::Embedding => embeddings(config, outputs),
    }
}

fn get<'a>(outputs: &Outputs<'a>, name: &str) -> Option<&'a [f32]> {
    outputs
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, numbers)| *numbers)
}

fn numbers<'a>(outputs: &Outputs<'a>, name: &'static str, expected: usize) -> Result<&'a [f32], AnswerError> {
    let output = get(outputs, name).ok_or(AnswerError::Missing(name))?;
    match output.len() {
        found if found == expected && found > 0 => Ok(output),
        found => Err(AnswerError::Length { name, found, expected }),
    }
}

fn labels(config: &Config, logits: &[f32]) -> Answer {
    let scoring = Scoring::of(config);
    match (scoring, config.labels.as_slice()) {
        (Scoring::Raw, [name]) => Answer::Value {
            name: name.clone(),
            value: logits[0],
        },
        (Scoring::Raw, names) => Answer::Values {
            labels: scored(names, &scoring.scores(logits), false),
        },
        (Scoring::Softmax | Scoring::Sigmoid, names) => Answer::Labels {
            labels: scored(names, &scoring.scores(logits), true),
        },
    }
}

fn choice(outputs: &Outputs, row: &Row, encoded: &[Encoded]) -> Result<Answer, AnswerError> {
    let count = row.shape.get(1).copied().unwrap_or(0);
    let logits = numbers(outputs, "logits", count)?;
    let name = |i: usize| {
        let pair = encoded.get(i).and_then(|e| e.pair.as_deref());
        pair.map_or_else(|| format!("choice {i}"), str::to_string)
    };
    let names: Vec<String> = (0..count).map(name).collect();
    Ok(Answer::Choice {
        chosen: decode::argmax(logits).unwrap_or(0),
        choices: scored(&names, &softmax(logits), false),
    })
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

fn tags(config: &Config, logits: &[f32], row: &Row, encoded: Option<&Encoded>) -> Answer {
    let width = config.labels.len();
    let found = |at: usize| decode::tag(at, &logits[at * width..(at + 1) * width]);
    let inside = |i: &usize| match encoded {
        None => row.mask.get(*i) == Some(&1),
        Some(e) => e.places.get(*i).is_some_and(|p| p.sequence.is_some()),
    };
    let all: Vec<decode::TokenTag> = (0..row.seq()).filter(inside).filter_map(found).collect();
    let named = |tag: decode::TokenTag, text: String| Tag {
        text,
        label: config.labels[tag.label].clone(),
        score: tag.score,
    };
    let text = |at: usize| encoded.map_or_else(|| row.ids[at].to_string(), |e| e.tokens[at].clone());
    let words = encoded
        .map_or(Vec::new(), words)
        .into_iter()
        .filter_map(|(first, last)| {
            let text = encoded.and_then(|e| e.slice(first, last)).unwrap_or_default();
            Some(named(found(first)?, text.to_string()))
        });
    // No entity goes from a text into its pair.
    let sequence = |tag: &decode::TokenTag| encoded.and_then(|e| e.places[tag.at].sequence);
    let spans = all
        .chunk_by(|a, b| sequence(a) == sequence(b))
        .flat_map(|tags| decode::tag_spans(tags, &config.labels))
        .map(|span| entity(span, encoded));
    Answer::Tags {
        spans: spans.collect(),
        words: words.collect(),
        tokens: all.iter().map(|tag| named(*tag, text(tag.at))).collect(),
    }
}

fn entity(span: decode::TagSpan, encoded: Option<&Encoded>) -> Entity {
    let place = |at: usize| encoded.and_then(|e| e.places.get(at));
    let sequence = place(span.first).and_then(|p| p.sequence);
    let whole = match (encoded, sequence) {
        (Some(e), Some(0)) => Some(&*e.text),
        (Some(e), Some(_)) => e.pair.as_deref(),
        _ => None,
    };
    let (start, end) = (
        place(span.first).map(|p| p.bytes.0),
        place(span.last).map(|p| p.bytes.1),
    );
    let characters = |at: Option<usize>| Some(characters_before(whole?, at?));
    Entity {
        label: span.label.to_string(),
        score: span.score,
        sequence,
        text: start
            .zip(end)
            .and_then(|bytes| decode::excerpt(whole?, bytes))
            .map(str::to_string),
        start: characters(start),
        end: characters(end),
        first: span.first,
        last: span.last,
    }
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

fn blanks(config: &Config, logits: &[f32], row: &Row, tokenizer: Option<&Tokenizer>) -> Vec<Blank> {
    let mask = tokenizer.map_or(Some(config.family.row().ids.mask), Tokenizer::mask_id);
    let is_blank = |&i: &usize| Some(row.ids[i]) == mask && row.mask[i] == 1;
    let blank = |position: usize| {
        let logits = &logits[position * config.vocab_size..(position + 1) * config.vocab_size];
        let scores = softmax(logits);
        let fill = |id: usize| Fill {
            id,
            token: tokenizer.and_then(|t| t.token(id as i64)),
            score: scores[id],
        };
        let fills = decode::top(logits, FILLS).into_iter().map(fill).collect();
        Blank { position, fills }
    };
    (0..row.seq()).filter(is_blank).map(blank).collect()
}

/// How a blank is marked, where there is none.
fn no_mask(config: &Config, tokenizer: Option<&Tokenizer>) -> AnswerError {
    match tokenizer.map(Tokenizer::mask) {
        None => AnswerError::NoMask(format!("the id {}", config.family.row().ids.mask)),
        Some(Some((mask, _))) => AnswerError::NoMask(mask.into()),
        Some(None) => AnswerError::Maskless,
    }
}

/// The answer over all windows; with bare ids there is one.
fn span(outputs: &[Outputs], asked: Asked) -> Result<Answer, AnswerError> {
    let mut windows = Vec::with_capacity(asked.rows.len());
    for (i, (row, outputs)) in asked.rows.iter().zip(outputs).enumerate() {
        let places: &[Place] = asked.encoded.get(i).map_or(&[], |e| &e.places);
        windows.push(Window {
            start: numbers(outputs, "start_logits", row.seq())?,
            end: numbers(outputs, "end_logits", row.seq())?,
            context: match places {
                [] => row.context(),
                places => decode::context_of_places(places),
            },
            places,
        });
    }
    let context = asked.encoded.first().and_then(|e| e.pair.as_deref());
    let Some(answered) = decode::answer(&windows, context, asked.options) else {
        return Err(AnswerError::NoContext);
    };
    let found = answered.found;
    let bytes = match found {
        Some(found) => found.bytes,
        None => context.map(|_| (0, 0)),
    };
    let answer = bytes.and_then(|(a, b)| context?.get(a..b));
    let characters = |at: usize| context.map(|text| characters_before(text, at));
    Ok(Answer::Span(Span {
        text: bytes
            .and_then(|bytes| decode::excerpt(context?, bytes))
            .map(str::to_string),
        answer: answer.map(str::to_string),
        start: bytes.and_then(|b| characters(b.0)),
        end: bytes.and_then(|b| characters(b.1)),
        window: found.map(|f| f.window),
        windows: windows.len(),
        first: found.map(|f| f.first),
        last: found.map(|f| f.last),
        score: found.map_or(answered.none, |f| f.score),
        no_answer_score: answered.none,
    }))
}

/// The embedding of each row.
fn embeddings(config: &Config, outputs: &[Outputs]) -> Result<Answer, AnswerError> {
    let size = config.sentence.as_ref().map_or(0, |s| s.size(config.hidden_size));
    let by = config.head.row().answered_by;
    let numbers = |outputs| Ok(numbers(outputs, by, size)?.to_vec());
    let mut embeddings = outputs.iter().map(numbers).collect::<Result<Vec<_>, _>>()?;
    if embeddings.len() == 1 {
        return Ok(Answer::Embedding {
            embedding: embeddings.swap_remove(0),
        });
    }
    let row = |a: &Vec<f32>| embeddings.iter().map(|b| decode::cosine(a, b)).collect();
    let cosines: Vec<Vec<f64>> = embeddings.iter().map(row).collect();
    Ok(Answer::Embeddings {
        cosine: (embeddings.len() == 2).then(|| cosines[0][1]),
        embeddings,
        cosines,
    })
}

fn hidden(config: &Config, outputs: &Outputs, row: &Row) -> Result<Answer, AnswerError> {
    let width = config.hidden_size;
    let all = numbers(outputs, "last_hidden_state", row.seq() * width)?;
    let real = all
        .chunks(width)
        .zip(row.mask)
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
        pooled: get(outputs, "pooler_output").map(head),
    })
}
