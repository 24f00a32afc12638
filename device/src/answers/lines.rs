//! Engine outputs of a batch to lines of JSON: each request its own rows, without padding, numbers as the shortest decimals
//! that read back as the same f32.

use std::io::Write;
use std::time::Instant;

use crate::engine::tensors::Tensor;
use crate::{Input, Outputs};
use serde::Serialize;
use thimble_shared::decode::{self, Scoring, TokenTag, Window, characters_before, softmax};
use thimble_shared::model::network::{Extent, HIDDEN_STATES, Output};
use thimble_shared::model::{AnswerKind, Config, Head};

use super::request::{Id, Infer, Model};
use super::text::Texts;

/// The sequences of several requests as one batch, shorter ones padded.
pub fn input<'a>(requests: impl Iterator<Item = &'a Infer> + Clone, head: Head) -> Input {
    let all = requests.flat_map(|r| &r.rows);
    let rows = all.clone().count();
    let seq = all.clone().map(|row| row.ids.len()).max().unwrap_or(0);
    let padded = all.clone().any(|row| row.ids.len() < seq);
    let typed = all.clone().any(|row| row.types.is_some());
    let mut input = Input {
        shape: if head.takes_choices() {
            // Questions may differ in their number of choices; the network sees rows.
            vec![1, rows, seq]
        } else {
            vec![rows, seq]
        },
        input_ids: Vec::with_capacity(rows * seq),
        attention_mask: padded.then(|| Vec::with_capacity(rows * seq)),
        token_type_ids: typed.then(|| Vec::with_capacity(rows * seq)),
    };
    for (number, row) in all.enumerate() {
        let (begin, end) = (number * seq + row.ids.len(), (number + 1) * seq);
        input.input_ids.extend(&row.ids);
        input.input_ids.resize(end, 0);
        if let Some(mask) = &mut input.attention_mask {
            mask.resize(begin, 1);
            mask.resize(end, 0);
        }
        if let Some(types) = &mut input.token_type_ids {
            types.extend(row.types.iter().flatten());
            types.resize(end, 0);
        }
    }
    input
}

/// Where one request's sequences lie in the batch's outputs.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub outputs: &'a Outputs,
    /// Hugging Face's names, and whether each has one row per token.
    pub declared: &'a [Output],
    pub first: usize,
    /// Rows and tokens per row of the whole batch.
    pub rows: usize,
    pub seq: usize,
}

impl<'a> Place<'a> {
    /// The output of that name for the whole first row of the request.
    pub fn whole(&self, name: &str) -> Option<Vec<f32>> {
        Some(self.row(self.outputs.get(name)?, 0).to_vec())
    }

    /// The numbers of one output that belong to row `row` of the request, padding not cut.
    fn row(&self, tensor: &'a Tensor<f32>, row: usize) -> &'a [f32] {
        let width = tensor.data.len() / self.rows.max(1);
        tensor
            .data
            .get((self.first + row) * width..)
            .unwrap_or(&[])
            .get(..width)
            .unwrap_or(&[])
    }
}

/// What one line of outputs comes to, where the head decides between things that have numbers or names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Best {
    /// Number of the class or of the choice, or the id of a token.
    pub index: Option<usize>,
    /// Name of the class, the text of an answer, or a token as the vocabulary spells it.
    pub label: Option<String>,
    /// Its score.
    pub score: Option<f64>,
}

/// What an answer is told of beside its request.
#[derive(Clone, Copy, Default)]
pub struct Frame<'a> {
    /// The name of the request, repeated first of all.
    pub id: Option<&'a Id>,
    /// When the request came, for the milliseconds that are told last.
    pub since: Option<Instant>,
}

/// Appends one answer, with its line feed, to `line`.
pub fn write(line: &mut Vec<u8>, frame: Frame, asked: &Infer, place: Place, model: &Model) -> Best {
    let Model { config, texts, .. } = model;
    let mut json = match frame.id {
        Some(id) => Object::begin(line, id),
        None => Object::open_in(line),
    };
    let positions = asked.positions();
    let mut outputs = false;
    for (output, (_, tensor)) in place.declared.iter().zip(&place.outputs.0) {
        let (name, per_token) = (output.name, output.extent.per_token());
        let wide =
            matches!(name, HIDDEN_STATES | "prediction_logits") || (name == "logits" && config.head.has_decoder());
        let chosen = asked.full || (config.head.answer() == AnswerKind::Hidden && asked.at.is_some());
        if wide && !chosen {
            continue;
        }
        json.key(if outputs { "" } else { "outputs" }, name);
        outputs = true;
        if output.extent == Extent::Choice {
            let scores: Vec<f32> = (0..asked.rows.len())
                .flat_map(|r| place.row(tensor, r))
                .copied()
                .collect();
            json.value(&scores);
        } else if !per_token {
            json.value(place.row(tensor, 0));
        } else {
            let row = place.row(tensor, 0);
            let width = row.len() / place.seq.max(1);
            if asked.rows.len() > 1 {
                let windows = asked.rows.iter().enumerate();
                json.list(windows.map(|(r, w)| place.row(tensor, r).get(..w.ids.len()).unwrap_or(&[])));
            } else if tensor.shape.len() == 2 {
                let values: Vec<f32> = positions.iter().filter_map(|&p| row.get(p)).copied().collect();
                json.value(&values);
            } else {
                json.list(positions.iter().map(|&p| &row[p * width..][..width]));
            }
        }
    }
    if outputs {
        json.close();
    }
    let mut best = decisions(&mut json, asked, place, config, &positions);
    if let Some(top) = asked.top {
        best = candidates(&mut json, place, &positions, top, texts);
        if !asked.blanks {
            // Any token was asked for, and the first one's is no answer to all.
            best = Best::default();
        }
    }
    if let Some(at) = &asked.at {
        json.key("", "at");
        json.value(at);
    }
    if asked.tokenized {
        json.key("", "ids");
        match asked.rows.as_slice() {
            [row] if !config.head.takes_choices() => json.value(&row.ids),
            rows => json.list(rows.iter().map(|row| &row.ids)),
        }
    }
    let flags = [
        ("truncated", asked.truncated),
        ("unknown", asked.unknown),
        ("empty", asked.empty),
    ];
    for (name, holds) in flags {
        if holds {
            json.key("", name);
            json.value(&true);
        }
    }
    if let Some(since) = frame.since {
        json.key("", "ms");
        json.value(&milliseconds(since));
    }
    json.end();
    best
}

/// Thousandths are enough of a millisecond.
pub fn milliseconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// What the outputs say, as `thimble run` reads them.
fn decisions(json: &mut Object, asked: &Infer, place: Place, config: &Config, positions: &[usize]) -> Best {
    let Some(numbers) = place.outputs.get(config.head.row().answered_by) else {
        return Best::default();
    };
    let row = place.row(numbers, 0);
    match config.head.answer() {
        AnswerKind::Span => span(json, asked, place),
        AnswerKind::Labels => classes(json, row, config),
        AnswerKind::TokenLabels => {
            tags(json, asked, row, config, positions);
            Best::default()
        }
        AnswerKind::Choice => {
            let scores: Vec<f32> = (0..asked.rows.len())
                .flat_map(|r| place.row(numbers, r))
                .copied()
                .collect();
            let (chosen, scores) = (decode::argmax(&scores), softmax(&scores));
            json.key("", "argmax");
            json.value(&chosen);
            json.key("", "scores");
            json.value(&scores);
            Best {
                index: chosen,
                label: None,
                score: chosen.and_then(|at| scores.get(at)).copied(),
            }
        }
        // The outputs say it themselves, or the candidates do.
        AnswerKind::Hidden | AnswerKind::Vocabulary | AnswerKind::VocabularyAndOrder | AnswerKind::Embedding => {
            Best::default()
        }
    }
}

/// The class that is right, by number and by name, or those that are; a regression's values are its logits.
fn classes(json: &mut Object, row: &[f32], config: &Config) -> Best {
    let scoring = Scoring::of(config);
    let best = decode::argmax(row);
    let scores = scoring.scores(row);
    match scoring {
        // Several values are told by the outputs alone: the largest is no answer.
        Scoring::Raw => {
            return match (config.labels.as_slice(), scores.as_slice()) {
                ([name], [value]) => Best {
                    index: Some(0),
                    label: Some(name.clone()),
                    score: Some(*value),
                },
                _ => Best::default(),
            };
        }
        Scoring::Sigmoid => {
            let likely = row
                .iter()
                .zip(&config.labels)
                .filter(|(logit, _)| decode::given(**logit));
            json.key("", "labels");
            json.value(&likely.map(|(_, name)| name).collect::<Vec<_>>());
        }
        Scoring::Softmax => {
            let Some(best) = best else { return Best::default() };
            json.key("", "argmax");
            json.value(&best);
            json.key("", "label");
            json.value(&config.labels.get(best));
        }
    }
    json.key("", "scores");
    json.value(&scores);
    Best {
        index: best,
        label: best.and_then(|at| config.labels.get(at)).cloned(),
        score: best.and_then(|at| scores.get(at)).copied(),
    }
}

/// The best tag of each token, and of a whole sequence the spans they make.
fn tags(json: &mut Object, asked: &Infer, row: &[f32], config: &Config, positions: &[usize]) {
    let width = config.labels.len();
    let tag = |&at: &usize| decode::tag(at, row.get(at * width..(at + 1) * width)?);
    let all: Vec<TokenTag> = positions.iter().filter_map(tag).collect();
    json.key("", "argmax");
    json.value(&all.iter().map(|t| t.label).collect::<Vec<_>>());
    json.key("", "labels");
    json.value(&all.iter().map(|t| config.labels.get(t.label)).collect::<Vec<_>>());
    json.key("", "scores");
    json.value(&all.iter().map(|t| t.score).collect::<Vec<_>>());
    if asked.at.is_some() {
        return;
    }
    let places = asked.rows.first().map_or(&[][..], |row| &row.places);
    let sequence = |tag: &TokenTag| places.get(tag.at).and_then(|p| p.sequence);
    let inside: Vec<TokenTag> = all
        .into_iter()
        .filter(|tag| places.is_empty() || sequence(tag).is_some())
        .collect();
    json.key("", "spans");
    json.open(b'[');
    // No entity goes from a text into its pair.
    for tags in inside.chunk_by(|a, b| sequence(a) == sequence(b)) {
        for span in decode::tag_spans(tags, &config.labels) {
            json.open(b'{');
            json.key("", "label");
            json.value(span.label);
            json.key("", "score");
            json.value(&span.score);
            json.key("", "first");
            json.value(&span.first);
            json.key("", "last");
            json.value(&span.last);
            if let (Some(first), Some(last)) = (places.get(span.first), places.get(span.last))
                && let Some(text) = first.sequence.and_then(|s| asked.texts.get(s))
            {
                quote(json, text, (first.bytes.0, last.bytes.1));
            }
            json.close();
        }
    }
    json.close();
}

/// Part of a text without white space around it, and its place counted in code points.
fn quote(json: &mut Object, text: &str, bytes: (usize, usize)) {
    json.key("", "start");
    json.value(&characters_before(text, bytes.0));
    json.key("", "end");
    json.value(&characters_before(text, bytes.1));
    json.key("", "text");
    json.value(decode::excerpt(text, bytes).unwrap_or_default());
}

/// The answer to a question over all its windows; null where nothing is left of the context.
fn span(json: &mut Object, asked: &Infer, place: Place) -> Best {
    let (Some(start), Some(end)) = (place.outputs.get("start_logits"), place.outputs.get("end_logits")) else {
        return Best::default();
    };
    let windows: Vec<Window> = asked
        .rows
        .iter()
        .enumerate()
        .map(|(number, row)| {
            let own = |tensor| place.row(tensor, number).get(..row.ids.len()).unwrap_or(&[]);
            Window {
                start: own(start),
                end: own(end),
                context: match row.places.as_slice() {
                    [] => decode::context_of_ids(&row.ids, row.types.as_deref(), None),
                    places => decode::context_of_places(places),
                },
                places: &row.places,
            }
        })
        .collect();
    let context = asked.texts.get(1).map(String::as_str);
    json.key("", "answer");
    let Some(answered) = decode::answer(&windows, context, asked.options) else {
        json.value(&());
        return Best::default();
    };
    json.open(b'{');
    let score = answered.found.map_or(answered.none, |f| f.score);
    json.key("", "score");
    json.value(&score);
    json.key("", "no_answer_score");
    json.value(&answered.none);
    if let Some(found) = answered.found {
        if windows.len() > 1 {
            json.key("", "window");
            json.value(&found.window);
        }
        json.key("", "first");
        json.value(&found.first);
        json.key("", "last");
        json.value(&found.last);
    }
    if let Some(context) = context {
        quote(json, context, answered.found.and_then(|f| f.bytes).unwrap_or((0, 0)));
    }
    json.close();
    let bytes = answered.found.and_then(|found| found.bytes);
    Best {
        index: None,
        label: context
            .and_then(|text| decode::excerpt(text, bytes.unwrap_or((0, 0))))
            .map(str::to_string),
        score: Some(score),
    }
}

/// The likeliest tokens at each position of a masked LM, best first, of equal ones the lower id.
/// The best of the first position comes back.
fn candidates(json: &mut Object, place: Place, positions: &[usize], top: usize, texts: &Texts) -> Best {
    let decoder = place
        .outputs
        .0
        .iter()
        .find(|(name, _)| name == "logits" || name == "prediction_logits");
    let Some((_, tensor)) = decoder else {
        return Best::default();
    };
    let mut best = Best::default();
    let row = place.row(tensor, 0);
    let width = row.len() / place.seq.max(1);
    json.key("", "top");
    json.open(b'[');
    for &at in positions {
        let logits = &row[at * width..][..width];
        let order = decode::top(logits, top);
        let scores = softmax(logits);
        if let (None, Some(&id)) = (best.index, order.first()) {
            best = Best {
                index: Some(id),
                label: texts.token(id as i64),
                score: Some(scores[id]),
            };
        }
        json.open(b'{');
        json.key("", "at");
        json.value(&at);
        json.key("", "ids");
        json.value(&order);
        if texts.known() {
            json.key("", "tokens");
            json.value(&order.iter().map(|&id| texts.token(id as i64)).collect::<Vec<_>>());
        }
        json.key("", "logits");
        json.value(&order.iter().map(|&id| logits[id]).collect::<Vec<_>>());
        json.key("", "scores");
        json.value(&order.iter().map(|&id| scores[id]).collect::<Vec<_>>());
        json.close();
    }
    json.close();
    best
}

/// An object written field by field, so that its order is the one that reads best.
pub struct Object<'a> {
    line: &'a mut Vec<u8>,
    /// What closes each object or list that is open.
    open: Vec<u8>,
}

impl Object<'_> {
    /// `{"id":…`
    pub fn begin<'a>(line: &'a mut Vec<u8>, id: &Id) -> Object<'a> {
        let mut object = Object::open_in(line);
        object.key("", "id");
        object.value(id);
        object
    }

    /// `{`
    pub fn open_in(line: &mut Vec<u8>) -> Object<'_> {
        let mut object = Object { line, open: vec![] };
        object.open(b'{');
        object
    }

    fn separate(&mut self) {
        if !matches!(self.line.last(), None | Some(b'{' | b'[' | b':' | b'\n')) {
            self.line.push(b',');
        }
    }

    /// Opens an object or list, as a field's value or as the next of a list.
    fn open(&mut self, bracket: u8) {
        self.separate();
        self.line.push(bracket);
        self.open.push(if bracket == b'{' { b'}' } else { b']' });
    }

    fn close(&mut self) {
        self.line.extend(self.open.pop());
    }

    /// The name of the next field, inside a new object named `inside` if that is not empty.
    pub fn key(&mut self, inside: &str, name: &str) {
        if !inside.is_empty() {
            self.key("", inside);
            self.open(b'{');
        }
        self.separate();
        let _ = write!(self.line, "\"{name}\":");
    }

    /// Numbers that are not finite become null: JSON has none.
    pub fn value<T: Serialize + ?Sized>(&mut self, value: &T) {
        // Writing to memory what was made to be written does not fail.
        let _ = serde_json::to_writer(&mut *self.line, value);
    }

    fn list<T: Serialize>(&mut self, values: impl Iterator<Item = T>) {
        self.open(b'[');
        for value in values {
            self.separate();
            self.value(&value);
        }
        self.close();
    }

    pub fn end(mut self) {
        while !self.open.is_empty() {
            self.close();
        }
        self.line.push(b'\n');
    }
}

/// `{"id":…,"error":"…"}`
pub fn error(line: &mut Vec<u8>, id: &Id, problem: &str) {
    let mut json = Object::begin(line, id);
    json.key("", "error");
    json.value(problem);
    json.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::sequence::Sequence;

    fn infer(rows: &[(&[i64], Option<&[i64]>)]) -> Infer {
        let row = |(ids, types): &(&[i64], Option<&[i64]>)| Sequence {
            ids: ids.to_vec(),
            types: types.map(<[i64]>::to_vec),
            places: vec![],
        };
        Infer {
            rows: rows.iter().map(row).collect(),
            ..Infer::default()
        }
    }

    #[test]
    fn shorter_sequences_are_padded_and_masked() {
        let requests = [infer(&[(&[2, 7, 3], None)]), infer(&[(&[2, 3], Some(&[0, 1]))])];
        let batch = input(requests.iter(), Head::None);
        assert_eq!(batch.shape, [2, 3]);
        assert_eq!(batch.input_ids, [2, 7, 3, 2, 3, 0]);
        assert_eq!(batch.attention_mask.as_deref(), Some(&[1, 1, 1, 1, 1, 0][..]));
        assert_eq!(batch.token_type_ids.as_deref(), Some(&[0, 0, 0, 0, 1, 0][..]));
        let alone = input(requests[..1].iter(), Head::MultipleChoice);
        assert_eq!((alone.shape, alone.attention_mask), (vec![1, 1, 3], None));
    }

    #[test]
    fn objects_are_json_whatever_is_in_them() {
        let mut line = vec![];
        error(&mut line, &Id::Text("a\"\n\u{0}".into()), "not \"good\"");
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["id"], "a\"\n\u{0}");
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        let mut line = vec![];
        let mut json = Object::begin(&mut line, &Id::Signed(-3));
        json.key("outputs", "a");
        json.value(&[0.1f32, f32::NAN]);
        json.key("", "b");
        json.list([[1.0f32], [2.5]].iter());
        json.close();
        json.key("", "c");
        json.open(b'[');
        json.open(b'{');
        json.close();
        json.open(b'{');
        json.close();
        json.end();
        let expected = "{\"id\":-3,\"outputs\":{\"a\":[0.1,null],\"b\":[[1.0],[2.5]]},\"c\":[{},{}]}\n";
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }
}
