//! A Unigram model in little memory: in goes a text, out come its most likely pieces. The library's own nests one table per byte
//! of its pieces, which takes 24 MB for the 30000 of ALBERT's; this one takes 1 MB.

use crate::pieces::{Pieces, Text};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::ops::Range;
use tokenizers::{Result, Token};

/// What a piece that no other covers costs beside the least likely one: SentencePiece's constant.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Pieces with log probabilities: a text is split so that their sum is the largest. The splits are those of the library's
/// `Unigram`, which a test holds it against.
#[derive(Debug, Clone)]
pub(crate) struct Unigram {
    pub(crate) pieces: Pieces,
    scores: Vec<f64>,
    least: f64,
    unknown: Option<u32>,
    byte_fallback: bool,
}

/// Of `Unigram`: the best way to a byte of the text.
#[derive(Clone, Copy)]
struct Best {
    id: u32,
    score: f64,
    start: Option<usize>,
}

impl Best {
    /// Takes a way that begins at `start`, if it is better; false where it is and its piece is none.
    fn offer(&mut self, start: usize, score: f64, piece: impl FnOnce() -> Option<u32>) -> bool {
        if self.start.is_some() && score <= self.score {
            return true;
        }
        let Some(id) = piece() else { return false };
        *self = Best {
            id,
            score,
            start: Some(start),
        };
        true
    }
}

const NO_UNKNOWN: &str = "a character has no piece, and the model no \"unk_id\"";

impl Unigram {
    pub fn new(
        vocabulary: Scored,
        unknown: Option<usize>,
        byte_fallback: bool,
    ) -> std::result::Result<Unigram, String> {
        let Scored { pieces, scores } = vocabulary;
        let unknown = unknown
            .map(|id| match u32::try_from(id) {
                _ if scores.is_empty() => Err("the vocabulary is empty".to_string()),
                Ok(short) if id < scores.len() => Ok(short),
                _ => Err(format!(
                    "\"unk_id\" is {id}, the vocabulary has {} pieces",
                    scores.len()
                )),
            })
            .transpose()?;
        Ok(Unigram {
            least: scores
                .iter()
                .fold(f64::INFINITY, |least, &score| if score < least { score } else { least }),
            pieces: pieces.finished(),
            scores,
            unknown,
            byte_fallback,
        })
    }

    /// Where the pieces of a text end, each with the next; neighboring unknown characters are one.
    fn split(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let unset = Best {
            id: 0,
            score: 0.0,
            start: None,
        };
        let mut best = vec![unset; text.len() + 1];
        for (start, c) in text.char_indices() {
            let so_far = best[start].score;
            let mut alone = false;
            self.pieces.prefixes(text[start..].bytes(), |length, id| {
                best[start + length].offer(start, self.scores[id as usize] + so_far, || Some(id));
                alone |= length == c.len_utf8();
            });
            let unknown = self.least - UNKNOWN_PENALTY + so_far;
            if !alone && !best[start + c.len_utf8()].offer(start, unknown, || self.unknown) {
                return Err(NO_UNKNOWN.into());
            }
        }
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let (mut end, mut after_unknown) = (text.len(), false);
        while end > 0 {
            let Best { id, start, .. } = best[end];
            let start = start.ok_or("its pieces do not meet")?;
            let unknown = self.unknown == Some(id);
            match ranges.last_mut() {
                Some(last) if unknown && after_unknown => last.start = start,
                _ => ranges.push(start..end),
            }
            (end, after_unknown) = (start, unknown);
        }
        ranges.reverse();
        Ok(ranges)
    }

    /// The tokens of a text, with the bytes each covers.
    pub fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        for range in self.split(text)? {
            let (piece, place) = (&text[range.clone()], (range.start, range.end));
            if let Some(id) = self.pieces.id(piece) {
                tokens.push(Token::new(id, piece.to_string(), place));
                continue;
            }
            let byte = |byte: u8| {
                let name = format!("<0x{byte:02X}>");
                self.pieces.id(&name).map(|id| Token::new(id, name, place))
            };
            match piece.bytes().map(byte).collect::<Option<Vec<Token>>>() {
                Some(bytes) if self.byte_fallback => tokens.extend(bytes),
                _ => {
                    let unknown = self.unknown.ok_or(NO_UNKNOWN)?;
                    tokens.push(Token::new(unknown, piece.to_string(), place));
                }
            }
        }
        Ok(tokens)
    }
}

/// A vocabulary with scores while it is read, straight from the file: no piece has an allocation of its own.
#[derive(Default)]
pub(crate) struct Scored {
    pieces: Pieces,
    scores: Vec<f64>,
}

impl<'de> Deserialize<'de> for Scored {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Scored, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Scored;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of pieces and scores")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Scored, A::Error> {
                let mut all = Scored::default();
                while let Some((Text(piece), score)) = list.next_element::<(Text<'de>, f64)>()? {
                    let id = u32::try_from(all.scores.len()).map_err(A::Error::custom)?;
                    all.pieces.push(&piece, id).map_err(A::Error::custom)?;
                    all.scores.push(score);
                }
                all.scores.shrink_to_fit();
                Ok(all)
            }
        }
        from.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::random::Random;
    use tokenizers::Model;
    use tokenizers::models::unigram::Unigram as Original;

    /// A vocabulary of made-up pieces, some of them twice, and the least likely alone.
    fn vocabulary(random: &mut Random, letters: &[&str]) -> Vec<(String, f64)> {
        let mut all = vec![("<unk>".to_string(), 0.0)];
        for _ in 0..1 + random.below(40) {
            let length = 1 + random.below(4);
            let piece = (0..length).map(|_| letters[random.below(letters.len() - 1)]).collect();
            all.push((piece, f64::from(random.unit()) * 4.0 - 5.0));
        }
        all
    }

    fn both(vocabulary: &[(String, f64)], unknown: Option<usize>, fallback: bool) -> (Unigram, Original) {
        let json = serde_json::to_string(vocabulary).unwrap();
        let own = Unigram::new(serde_json::from_str(&json).unwrap(), unknown, fallback).unwrap();
        // What the number reads as is what both have.
        let read: Vec<(String, f64)> = serde_json::from_str(&json).unwrap();
        (own, Original::from(read, unknown, fallback).unwrap())
    }

    #[test]
    fn texts_split_as_in_the_library() {
        let letters = ["a", "b", "é", "▁", "本", "<0x62>", "<unk>", "x"];
        let mut random = Random(7);
        for round in 0..400 {
            let mut vocabulary = vocabulary(&mut random, &letters);
            let fallback = round % 3 == 0;
            if fallback {
                vocabulary.extend((0..=255).map(|byte: u8| (format!("<0x{byte:02X}>"), -3.0)));
            }
            let unknown = (round % 5 > 0).then_some(0);
            let (own, library) = both(&vocabulary, unknown, fallback);
            for _ in 0..20 {
                let text: String = (0..random.below(12))
                    .map(|_| letters[random.below(letters.len())])
                    .collect();
                match (own.tokenize(&text), library.tokenize(&text)) {
                    (Ok(own), Ok(library)) => assert_eq!(own, library, "{text:?} {vocabulary:?}"),
                    (own, library) => assert_eq!(own.is_err(), library.is_err(), "{text:?} {vocabulary:?}"),
                }
            }
            for (id, (piece, _)) in (0..).zip(&vocabulary) {
                assert_eq!(own.pieces.id(piece), library.token_to_id(piece));
                assert_eq!(own.pieces.piece(id), Some(piece.as_str()));
            }
        }
    }
}
