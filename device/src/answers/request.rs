//! One line of JSON to what it asks: JSON in, a checked request or one clear sentence out. Whatever the bytes are, the
//! id is found where there is one, so that the client knows which of its requests was refused.

use serde::de::IgnoredAny;
use thimble_shared::decode::AnswerOptions;
use thimble_shared::model::network::Network;
use thimble_shared::model::{AnswerKind, Config};

use super::Caller;
pub use super::request_json::Id;
use super::request_json::{List, Named, Raw};
use super::sequence::Sequence;
use super::text::Texts;

/// Most numbers of one answer, some 6 MiB of JSON.
const NUMBERS: usize = 1 << 19;
/// Candidates per position of a masked LM when nobody says how many.
const TOP: usize = 5;

#[derive(Debug, PartialEq)]
pub enum Asked {
    Ping,
    Stats,
    Infer(Infer),
}

/// Sequences to run, checked against the model, and which of the outputs are wanted.
#[derive(Debug, Default, PartialEq)]
pub struct Infer {
    /// One sequence, one per choice, or one per window over a question's context.
    pub rows: Vec<Sequence>,
    /// Positions of a per-token output; all of them when nobody chose.
    pub at: Option<Vec<usize>>,
    /// Candidates per position of a masked LM.
    pub top: Option<usize>,
    /// Also the outputs that have a vocabulary or a hidden state per token.
    pub full: bool,
    /// The ids were made here from a text, which the client cannot know.
    pub tokenized: bool,
    pub truncated: bool,
    /// A text became nothing but unknown tokens.
    pub unknown: bool,
    /// A text was empty or blank.
    pub empty: bool,
    /// `at` are the mask tokens of the text.
    pub blanks: bool,
    /// Text and pair, where the answer quotes them.
    pub texts: Vec<String>,
    /// What counts as an answer to a question.
    pub options: AnswerOptions,
    /// Numbers the answer will have, where they are many.
    pub numbers: usize,
}

/// What a number takes in an answer, its comma included, and what a question's answer has besides.
const DIGITS: usize = 14;
const FRAME: usize = 256;

impl Infer {
    /// Bytes the answer may have, about.
    pub fn bytes(&self) -> usize {
        let texts: usize = self.texts.iter().map(String::len).sum();
        FRAME + texts + self.numbers.saturating_mul(DIGITS)
    }

    pub fn longest(&self) -> usize {
        self.rows.iter().map(|row| row.ids.len()).max().unwrap_or(0)
    }

    /// The positions that are answered, of the first sequence: no head with choices has per-token outputs.
    pub fn positions(&self) -> Vec<usize> {
        let all = self.rows.first().map_or(0, |row| row.ids.len());
        self.at.clone().unwrap_or_else(|| (0..all).collect())
    }
}

/// What requests are held against.
pub struct Model {
    pub config: Config,
    pub texts: Texts,
    /// Tokens one request may add up to, padding of shorter choices included.
    pub tokens: usize,
    /// Whom errors tell what would help.
    pub caller: Caller,
}

/// Reads one line, which is not blank, and checks it against the model.
pub fn parse(line: &[u8], model: &Model) -> (Id, Result<Asked, String>) {
    let (id, raw) = read(line);
    (id, raw.and_then(|raw| model.asked(raw)))
}

/// The fields of one line, which is not blank.
pub(super) fn read(line: &[u8]) -> (Id, Result<Raw, String>) {
    if let Err(e) = std::str::from_utf8(line) {
        return (Id::Null, Err(format!("not UTF-8 at byte {}", e.valid_up_to() + 1)));
    }
    // A derived reader would take a list for an object as well.
    let object = line.trim_ascii_start().first() == Some(&b'{');
    let failure = match object.then(|| serde_json::from_slice::<Raw>(line)) {
        Some(Ok(mut raw)) => {
            let id = std::mem::take(&mut raw.id);
            return (id, Ok(raw));
        }
        Some(Err(e)) if e.is_data() => e,
        Some(Err(e)) => return (Id::Null, Err(not_json(&e))),
        None => {
            let problem = match serde_json::from_slice::<IgnoredAny>(line) {
                Ok(_) => "a request is a JSON object, like {\"id\": 1, \"ids\": [2, 17, 3]}".to_string(),
                Err(e) => not_json(&e),
            };
            return (Id::Null, Err(problem));
        }
    };
    match serde_json::from_slice::<Named>(line) {
        Ok(named) => (named.0, Err(located(&failure))),
        Err(e) if e.is_data() => (Id::Null, Err(located(&e))),
        // The rest of the line is broken as well, which is the graver matter.
        Err(e) => (Id::Null, Err(not_json(&e))),
    }
}

fn not_json(error: &serde_json::Error) -> String {
    format!("not JSON: {}", located(error))
}

/// The error with its place said as a byte: a request has only one line.
fn located(error: &serde_json::Error) -> String {
    /// The parser quotes what it did not expect, all of it.
    const MOST: usize = 300;
    let mut text = error.to_string();
    if text.len() > MOST {
        let end = text
            .rfind(" at line ")
            .map_or(String::new(), |at| text[at..].to_string());
        let cut = (0..=MOST).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(cut);
        text += "…";
        text += &end;
    }
    match text.rsplit_once(" at line ") {
        Some((problem, _)) => format!("{problem} at byte {}", error.column()),
        None => text,
    }
}

impl Model {
    fn asked(&self, raw: Raw) -> Result<Asked, String> {
        let Some(op) = &raw.op else {
            return self.infer(raw).map(Asked::Infer);
        };
        if let Some(other) = raw.other() {
            return Err(format!("\"op\" and \"{other}\" are in one request; send two"));
        }
        match op.as_str() {
            "ping" => Ok(Asked::Ping),
            "stats" => Ok(Asked::Stats),
            _ => Err(format!(
                "no op {:?}; it is \"ping\" or \"stats\", and none for inference",
                op.chars().take(40).collect::<String>()
            )),
        }
    }

    pub(super) fn infer(&self, raw: Raw) -> Result<Infer, String> {
        let (top, full) = (raw.top, raw.full);
        let options = self.options(raw.max_answer, raw.no_answer)?;
        let at = match raw.at {
            None => None,
            Some(List::Numbers(at)) => Some(at),
            Some(_) => return Err("\"at\" is a list of positions, like [3, 5]".into()),
        };
        let mut infer = match (raw.ids, raw.text) {
            (Some(_), Some(_)) => return Err("\"ids\" and \"text\" are both given; give one".into()),
            (None, Some(text)) => self.encode(&text, raw.pair.as_deref(), raw.choices, raw.types)?,
            (ids, None) => {
                if raw.pair.is_some() {
                    return Err("\"pair\" goes with \"text\"".into());
                }
                self.sequences(ids, raw.choices, raw.types)?
            }
        };
        (infer.full, infer.options) = (full, options);
        self.check(&infer)?;
        self.choose(&mut infer, at, top)?;
        Ok(infer)
    }

    fn options(&self, max_answer: Option<u32>, no_answer: bool) -> Result<AnswerOptions, String> {
        let mut options = AnswerOptions {
            allow_none: no_answer,
            ..AnswerOptions::default()
        };
        if self.config.head.answer() != AnswerKind::Span && (no_answer || max_answer.is_some()) {
            return Err(format!(
                "\"max_answer\" and \"no_answer\" are for question answering, this model's head is {}",
                self.config.head.name()
            ));
        }
        match max_answer {
            Some(0) => return Err("\"max_answer\" is 0; one token is the least".into()),
            Some(tokens) => options.max_answer = tokens as usize,
            None => {}
        }
        Ok(options)
    }

    fn sequences(&self, ids: Option<List>, choices: Option<List>, types: Option<List>) -> Result<Infer, String> {
        let several = self.config.head.takes_choices();
        let (name, rows) = match (ids, choices) {
            (Some(_), Some(_)) => return Err("\"ids\" and \"choices\" are both given; give one".into()),
            (Some(List::Numbers(ids)), None) if !several => ("ids", vec![ids]),
            (Some(_), None) if !several => {
                return Err("\"ids\" is one sequence, like [2, 17, 3]; send one request for each".into());
            }
            (None, Some(List::Rows(rows))) if several => ("choices", rows),
            (None, Some(List::Numbers(none))) if several && none.is_empty() => {
                return Err("\"choices\" is empty".into());
            }
            (None, Some(List::Texts(_))) if several => {
                return Err("\"choices\" are texts; the question is missing as \"text\"".into());
            }
            (_, _) if several => {
                return Err(
                    "this model answers multiple choice: give \"choices\", like [[2, 17, 3], [2, 9, 3]]".into(),
                );
            }
            (None, Some(_)) => {
                return Err(format!(
                    "\"choices\" is for multiple choice, this model's head is {}; give \"ids\"",
                    self.config.head.name()
                ));
            }
            (_, None) => return Err("no input: give \"ids\", like [2, 17, 3]".into()),
        };
        let types: Vec<Option<Vec<i64>>> = match types {
            None => vec![None; rows.len()],
            Some(List::Numbers(types)) if !several => vec![Some(types)],
            Some(List::Rows(types)) if several && types.len() == rows.len() => types.into_iter().map(Some).collect(),
            Some(_) => return Err(format!("\"types\" has another shape than \"{name}\"")),
        };
        let rows = rows.into_iter().zip(types).map(|(ids, types)| Sequence {
            ids,
            types,
            places: vec![],
        });
        Ok(Infer {
            rows: rows.collect(),
            ..Infer::default()
        })
    }

    fn encode(
        &self,
        text: &str,
        pair: Option<&str>,
        choices: Option<List>,
        types: Option<List>,
    ) -> Result<Infer, String> {
        if types.is_some() {
            return Err("\"types\" goes with \"ids\"; those of a text are its tokenizer's".into());
        }
        let several = self.config.head.takes_choices();
        let pairs: Vec<Option<&str>> = match (&choices, several) {
            (Some(List::Texts(choices)), true) if pair.is_none() => choices.iter().map(|c| Some(c.as_str())).collect(),
            (_, true) => {
                return Err(
                    "this model answers multiple choice: give \"choices\", a list of texts, beside \"text\"".into(),
                );
            }
            (Some(_), false) => return Err("\"choices\" is for multiple choice; give \"pair\"".into()),
            (None, false) => vec![pair],
        };
        let mut infer = Infer {
            tokenized: true,
            ..Infer::default()
        };
        if self.config.head.answer() == AnswerKind::Span {
            let Some(context) = pair else {
                return Err("question answering needs the question as \"text\", the context as \"pair\"".into());
            };
            let (rows, cut) = self.texts.windows(text, context)?;
            infer.rows = rows;
            infer.unknown = cut.unknown;
            infer.empty = cut.empty;
            infer.texts = vec![text.to_string(), context.to_string()];
            return Ok(infer);
        }
        if self.config.head.answer() == AnswerKind::TokenLabels {
            infer.texts = [Some(text), pair].into_iter().flatten().map(str::to_string).collect();
        }
        // Before the work, not after it: the last choice may be the shortest of thousands.
        self.bounded(pairs.len(), 1)?;
        for (pair, after) in pairs.iter().zip((0..pairs.len()).rev()) {
            let (row, cut) = self.texts.encode(text, *pair)?;
            infer.rows.push(row);
            infer.truncated |= cut.truncated;
            infer.unknown |= cut.unknown;
            infer.empty |= cut.empty;
            self.bounded(infer.rows.len() + after, infer.longest())?;
        }
        Ok(infer)
    }

    fn check(&self, infer: &Infer) -> Result<(), String> {
        let config = &self.config;
        let several = config.head.takes_choices();
        for (number, row) in infer.rows.iter().enumerate() {
            let name = |field: &str| match (several, field) {
                (false, field) => field.to_string(),
                (true, "ids") => format!("choices[{number}]"),
                (true, field) => format!("{field}[{number}]"),
            };
            let len = row.ids.len();
            if len == 0 {
                return Err(format!("{} is empty; one token is the least", name("ids")));
            }
            if len > config.max_position_embeddings {
                return Err(format!(
                    "{} has {len} tokens, the model's positions end at {}",
                    name("ids"),
                    config.max_position_embeddings
                ));
            }
            within(&name("ids"), &row.ids, config.vocab_size)?;
            if let Some(types) = &row.types {
                if types.len() != len {
                    let (types, ids) = (types.len(), name("ids"));
                    return Err(format!("{} has {types} values, {ids} {len}", name("types")));
                }
                within(&name("types"), types, config.type_vocab_size)?;
            }
        }
        let (rows, longest) = (infer.rows.len(), infer.longest());
        if rows == 0 {
            return Err("\"choices\" is empty".into());
        }
        self.bounded(rows, longest)
    }

    /// Whether so many sequences, padded to the longest, may be one request.
    fn bounded(&self, rows: usize, longest: usize) -> Result<(), String> {
        let all = rows * longest;
        if all > self.tokens {
            let most = self.tokens;
            let what = match self.config.head.answer() {
                AnswerKind::Span => "windows",
                _ => "choices",
            };
            let limit = match self.caller {
                Caller::Server => format!("this server computes {most} at once; --tokens raises it"),
                Caller::Program => format!("at most {most} are computed at once"),
            };
            return Err(format!(
                "{rows} {what} of {longest} tokens or more are {all} in all, {limit}"
            ));
        }
        Ok(())
    }

    /// Settles which outputs are answered.
    fn choose(&self, infer: &mut Infer, at: Option<Vec<i64>>, top: Option<u32>) -> Result<(), String> {
        let config = &self.config;
        let (decoder, seq) = (config.head.has_decoder(), infer.longest());
        let per_token = Network::of(config)
            .outputs
            .iter()
            .any(|output| output.extent.per_token());
        if let Some(at) = at {
            if infer.rows.len() > 1 && per_token {
                return Err("\"at\" chooses tokens of one sequence, the context is read in several windows".into());
            }
            if !per_token {
                return Err(format!(
                    "\"at\" chooses tokens, the {} head has one answer for all of them",
                    config.head.name()
                ));
            }
            let place = |&p: &i64| usize::try_from(p).ok().filter(|&p| p < seq).ok_or(p);
            let places: Result<Vec<usize>, i64> = at.iter().map(place).collect();
            infer.at = Some(places.map_err(|p| format!("\"at\" has {p}, the positions are 0 to {}", seq - 1))?);
        } else if decoder && infer.tokenized {
            // What a text with blanks asks is what they stand for.
            let mask = self.texts.mask_id();
            let ids = infer.rows[0].ids.iter().enumerate();
            let blanks: Vec<usize> = ids.filter(|(_, id)| Some(**id) == mask).map(|(i, _)| i).collect();
            infer.at = Some(blanks).filter(|b| !b.is_empty());
            infer.blanks = infer.at.is_some();
        }
        if let Some(top) = top {
            if !decoder {
                return Err(format!(
                    "\"top\" is for masked LM, this model's head is {}",
                    config.head.name()
                ));
            }
            if !(1..=config.vocab_size).contains(&(top as usize)) {
                return Err(format!("\"top\" is {top}, must be 1 to {}", config.vocab_size));
            }
        }
        infer.top = match top {
            Some(top) => Some(top as usize),
            None => (decoder && !infer.full).then_some(TOP.min(config.vocab_size)),
        };
        let positions = infer.at.as_ref().map_or(seq, Vec::len);
        if positions > seq {
            return Err(format!("\"at\" names {positions} positions, the sequence has {seq}"));
        }
        let (wide, once) = numbers(config, infer);
        let of_positions = positions.saturating_mul(wide);
        if of_positions > NUMBERS {
            return Err(format!(
                "the answer would have {of_positions} numbers, at most {NUMBERS} are sent; choose fewer positions with \"at\"",
            ));
        }
        if once > NUMBERS {
            return Err(format!(
                "the answer would have {once} numbers, at most {NUMBERS} are sent"
            ));
        }
        infer.numbers = of_positions + once;
        Ok(())
    }
}

fn within(name: &str, values: &[i64], end: usize) -> Result<(), String> {
    let wrong = |v: i64| usize::try_from(v).map_or(true, |v| v >= end);
    match values.iter().position(|&v| wrong(v)) {
        Some(at) => Err(format!("{name}[{at}] is {}, must be 0 to {}", values[at], end - 1)),
        None => Ok(()),
    }
}

/// Numbers of an answer: at each position, and once, outputs, scores and names among them.
fn numbers(config: &Config, infer: &Infer) -> (usize, usize) {
    match config.head.answer() {
        AnswerKind::Hidden if infer.full || infer.at.is_some() => (config.hidden_size, 0),
        AnswerKind::Hidden => (0, 0),
        AnswerKind::Vocabulary | AnswerKind::VocabularyAndOrder => {
            let full = if infer.full { config.vocab_size } else { 0 };
            (full + 3 * infer.top.unwrap_or(0), 0)
        }
        AnswerKind::Labels => (0, 3 * config.labels.len()),
        // A tag and, where each token is an entity of its own, a span.
        AnswerKind::TokenLabels => (config.labels.len() + 10, 0),
        AnswerKind::Span => (2 * infer.rows.len(), 16),
        AnswerKind::Choice => (0, 2 * infer.rows.len()),
        AnswerKind::Embedding => (0, config.sentence.as_ref().map_or(0, |s| s.size(config.hidden_size))),
    }
}
