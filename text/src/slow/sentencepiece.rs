//! SentencePiece's encoder: in goes text, out come the pieces `SentencePieceProcessor.encode(out_type=str)` gives, with the
//! bytes each covers. Normalization, the Unigram search and merging by BPE follow
//! <https://github.com/google/sentencepiece/tree/v0.2.0/src>, sums in f32 as of 0.2.3 included, so that ties fall alike.

use super::aligned::{Char, string};
use super::charsmap::CharsMap;
use super::lexicon::Lexicon;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// How SentencePiece writes a space.
pub const SPACE: char = '▁';
/// What an unknown character costs beyond the least likely piece.
const UNKNOWN_PENALTY: f32 = 10.0;
/// What a symbol of the user scores for each of its bytes but the first.
const USER_DEFINED_BONUS: f64 = 0.1;

/// The score of a symbol of the user, whatever the model says of it: that of sentencepiece 0.2.3. Up to 0.2.1 it was the greatest
/// score of a piece for each byte, less 0.1.
pub fn user_defined_score(symbol: &str) -> f32 {
    (USER_DEFINED_BONUS * symbol.len().saturating_sub(1) as f64) as f32
}

/// What SentencePiece does beside what the vocabulary of a tokenizer.json says; pieces are named by their text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SentencePieceRules {
    /// Put a space before the text, or after it with `treat_whitespace_as_suffix`.
    pub add_dummy_prefix: bool,
    /// Drop spaces at both ends and of several in a row all but one.
    pub remove_extra_whitespaces: bool,
    /// Write a space as `▁` inside pieces.
    pub escape_whitespaces: bool,
    /// Put the space of `add_dummy_prefix` after the text instead of before it.
    pub treat_whitespace_as_suffix: bool,
    /// Replace a character the vocabulary does not have by one piece per byte, `<0x00>` to `<0xFF>`.
    pub byte_fallback: bool,
    /// Pieces that never arise from text: control symbols and, with `byte_fallback`, bytes.
    pub reserved: Vec<String>,
    /// Pieces that are cut out of a text before anything else is.
    pub user_defined: Vec<String>,
    /// Pieces that have an id and are not used.
    pub unused: Vec<String>,
    /// Least score of the normal pieces.
    pub least_score: f32,
    /// How pieces of a text are chosen.
    pub algorithm: Algorithm,
}

/// How SentencePiece was trained to choose pieces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// The most likely pieces; the scores are those of the vocabulary.
    #[default]
    Unigram,
    /// Pairs merged by score, greatest first; by id.
    Bpe(Vec<f32>),
}

/// One piece of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub text: String,
    /// Characters of the normalized text it stands for; a byte of an unknown character has all of that character's.
    pub chars: Vec<Char>,
}

/// A SentencePiece model.
pub struct SentencePiece {
    rules: SentencePieceRules,
    charsmap: Option<CharsMap>,
    /// Pieces that arise from text.
    pieces: Lexicon,
    reserved: HashMap<String, u32>,
    symbols: Lexicon,
    unused: HashSet<u32>,
    scores: Vec<f32>,
    unknown: u32,
}

impl SentencePiece {
    /// The model of `vocabulary` (text and score by id), whose piece `unknown` stands for what no piece covers.
    ///
    /// # Errors
    /// Where its pieces have more than 4 GiB.
    pub fn new(
        vocabulary: Vec<(String, f32)>,
        unknown: u32,
        rules: SentencePieceRules,
        charsmap: Option<CharsMap>,
    ) -> Result<SentencePiece, String> {
        let id = |i: usize| u32::try_from(i).unwrap_or(u32::MAX);
        let named = |list: &[String]| -> HashSet<u32> {
            let list: HashSet<&str> = list.iter().map(String::as_str).collect();
            let of = vocabulary.iter().enumerate();
            of.filter(|(_, (text, _))| list.contains(text.as_str()))
                .map(|(i, _)| id(i))
                .collect()
        };
        let (reserved, user_defined, unused) =
            (named(&rules.reserved), named(&rules.user_defined), named(&rules.unused));
        let scores = match &rules.algorithm {
            Algorithm::Unigram => {
                let all = vocabulary.iter().enumerate();
                all.map(|(i, (text, score))| match user_defined.contains(&id(i)) {
                    true => user_defined_score(text),
                    false => *score,
                })
                .collect()
            }
            Algorithm::Bpe(scores) => scores.clone(),
        };
        let all = || {
            vocabulary
                .iter()
                .enumerate()
                .map(|(i, (text, _))| (text.as_str(), id(i)))
        };
        let apart = |i: u32| i == unknown || reserved.contains(&i);
        let reserved = all().filter(|(_, i)| apart(*i));
        Ok(SentencePiece {
            pieces: Lexicon::new(all().filter(|(_, i)| !apart(*i)))?,
            symbols: Lexicon::new(all().filter(|(_, i)| user_defined.contains(i)))?,
            reserved: reserved.map(|(text, i)| (text.to_string(), i)).collect(),
            rules,
            charsmap,
            unused,
            scores,
            unknown,
        })
    }

    pub fn unknown(&self) -> u32 {
        self.unknown
    }

    /// `PieceToId`.
    pub fn id(&self, piece: &str) -> u32 {
        let known = self.reserved.get(piece).copied().or_else(|| self.pieces.get(piece));
        known.unwrap_or(self.unknown)
    }

    /// The pieces of a text, neighboring unknown characters as one.
    pub fn encode(&self, text: &[Char]) -> Vec<Piece> {
        let text = self.normalize(text);
        let found = match self.rules.algorithm {
            Algorithm::Unigram => self.most_likely(&text),
            Algorithm::Bpe(_) => self.merged(&text),
        };
        let mut pieces: Vec<Piece> = Vec::with_capacity(found.len());
        let mut after_unknown = false;
        for (range, id) in found {
            let chars = &text[range];
            let unknown = id == self.unknown;
            match pieces.last_mut() {
                _ if unknown && self.rules.byte_fallback => {
                    pieces.extend(string(chars).bytes().map(|byte| Piece {
                        text: format!("<0x{byte:02X}>"),
                        chars: chars.to_vec(),
                    }));
                }
                Some(last) if unknown && after_unknown => {
                    last.text.push_str(&string(chars));
                    last.chars.extend(chars);
                }
                _ => pieces.push(Piece {
                    text: string(chars),
                    chars: chars.to_vec(),
                }),
            }
            after_unknown = unknown;
        }
        pieces
    }

    /// What the text begins with, replaced: characters read, and what they become. None for one character left as it is.
    fn prefix(&self, text: &[Char]) -> Option<(usize, &str)> {
        let map = self.charsmap.as_ref()?;
        let mut buffer = [0; 4];
        let bytes = text.iter().flat_map(move |c| {
            let length = c.c.encode_utf8(&mut buffer).len();
            buffer.into_iter().take(length)
        });
        let (length, to) = map.longest(bytes)?;
        let mut left = length;
        let read = text.iter().take_while(|c| {
            let whole = left > 0;
            left = left.saturating_sub(c.c.len_utf8());
            whole
        });
        Some((read.count(), to))
    }

    fn normalize(&self, mut text: &[Char]) -> Vec<Char> {
        let rules = &self.rules;
        let space = if rules.escape_whitespaces { SPACE } else { ' ' };
        let mut out: Vec<Char> = Vec::with_capacity(text.len() + 1);
        let at = |place: usize| Char {
            c: space,
            start: place,
            end: place,
        };
        let mut before_space = rules.remove_extra_whitespaces;
        let mut begun = false;
        while let Some(first) = text.first() {
            let symbol = self.symbols.longest(text);
            let replaced = if symbol.is_none() { self.prefix(text) } else { None };
            let read = symbol.or(replaced.map(|(read, _)| read)).unwrap_or(1).max(1);
            let (from, rest) = text.split_at(read);
            let end = from.last().map_or(first.end, |c| c.end);
            let becomes: Vec<Char> = match replaced {
                Some((_, to)) => to.chars().map(|c| Char { c, end, ..*first }).collect(),
                None => from.to_vec(),
            };
            // Spaces at the beginning go before the prefix is written.
            if !begun && rules.remove_extra_whitespaces && matches!(becomes[..], [Char { c: ' ', .. }]) {
                text = rest;
                continue;
            }
            if !std::mem::replace(&mut begun, true) && rules.add_dummy_prefix && !rules.treat_whitespace_as_suffix {
                out.push(at(first.start));
            }
            let kept = becomes.iter().skip_while(|c| before_space && c.c == ' ');
            let kept: Vec<Char> = kept.copied().collect();
            if let Some(last) = kept.last() {
                before_space = last.c == ' ';
            }
            out.extend(
                kept.into_iter()
                    .map(|c| if c.c == ' ' { Char { c: space, ..c } } else { c }),
            );
            before_space &= rules.remove_extra_whitespaces;
            text = rest;
        }
        if begun && rules.remove_extra_whitespaces {
            let end = out.iter().rposition(|c| c.c != space).map_or(0, |last| last + 1);
            out.truncate(end);
        }
        if begun && rules.add_dummy_prefix && rules.treat_whitespace_as_suffix {
            out.push(at(out.last().map_or(0, |c| c.end)));
        }
        out
    }

    /// The pieces whose scores sum to the most: `unigram::Model::EncodeOptimized`.
    fn most_likely(&self, text: &[Char]) -> Vec<(std::ops::Range<usize>, u32)> {
        /// The best path that ends at a character.
        #[derive(Clone, Copy)]
        struct Best {
            score: f32,
            start: usize,
            id: u32,
        }
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        for start in 0..text.len() {
            let so_far = best[start].map_or(0.0, |b| b.score);
            let mut offer = |end: usize, score: f32, id: u32| {
                if best[end].is_none_or(|b| score > b.score) {
                    best[end] = Some(Best { score, start, id });
                }
            };
            let mut alone = false;
            self.pieces.prefixes(&text[start..], |count, id| {
                if self.unused.contains(&id) {
                    return;
                }
                let score = self.scores.get(id as usize).copied().unwrap_or(0.0);
                offer(start + count, score + so_far, id);
                alone |= count == 1;
            });
            if !alone {
                offer(
                    start + 1,
                    self.rules.least_score - UNKNOWN_PENALTY + so_far,
                    self.unknown,
                );
            }
        }
        let mut path = Vec::new();
        let mut end = text.len();
        while let Some(last) = best[end].filter(|_| end > 0) {
            path.push((last.start..end, last.id));
            end = last.start;
        }
        path.reverse();
        path
    }

    /// Characters merged to pieces, the pair of the greatest score first: `bpe::Model::SampleEncode` without dropout.
    fn merged(&self, text: &[Char]) -> Vec<(std::ops::Range<usize>, u32)> {
        let mut row = Row::new(self, text);
        for right in 1..row.symbols.len() {
            row.offer(Some(right - 1), Some(right));
        }
        while let Some(pair) = row.agenda.pop() {
            let (left, right) = (&row.symbols[pair.left], &row.symbols[pair.right]);
            if left.is_empty() || right.is_empty() || left.len() + right.len() != pair.length {
                continue;
            }
            row.symbols[pair.left].end = row.symbols[pair.right].end;
            row.symbols[pair.right] = 0..0;
            let next = row.next[pair.right];
            row.next[pair.left] = next;
            if let Some(next) = next {
                row.previous[next] = Some(pair.left);
            }
            row.offer(row.previous[pair.left], Some(pair.left));
            row.offer(Some(pair.left), next);
        }
        let mut path = Vec::new();
        for symbol in row.symbols.iter().filter(|s| !s.is_empty()) {
            // Pieces that are not used fall apart again into what they were merged from.
            let mut open = vec![symbol.clone()];
            while let Some(range) = open.pop() {
                let piece = string(&text[range.clone()]);
                let id = self.id(&piece);
                match row.unmerge.get(&piece).filter(|_| self.unused.contains(&id)) {
                    Some(&left) => open.extend([range.start + left..range.end, range.start..range.start + left]),
                    None => path.push((range, id)),
                }
            }
        }
        path
    }
}

/// A pair of symbols that could be one piece.
#[derive(PartialEq)]
struct Pair {
    left: usize,
    right: usize,
    score: f32,
    length: usize,
}

impl Eq for Pair {}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        let score = self.score.total_cmp(&other.score);
        score.then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A text while it is merged.
struct Row<'a> {
    model: &'a SentencePiece,
    text: &'a [Char],
    symbols: Vec<std::ops::Range<usize>>,
    /// User-defined symbols are never merged.
    frozen: Vec<bool>,
    previous: Vec<Option<usize>>,
    next: Vec<Option<usize>>,
    agenda: BinaryHeap<Pair>,
    /// Characters of the left part, of pieces that are not used.
    unmerge: HashMap<String, usize>,
}

impl<'a> Row<'a> {
    fn new(model: &'a SentencePiece, text: &'a [Char]) -> Row<'a> {
        let (mut symbols, mut frozen) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < text.len() {
            let symbol = model.symbols.longest(&text[at..]);
            let end = at + symbol.unwrap_or(1).max(1);
            symbols.push(at..end);
            frozen.push(symbol.is_some());
            at = end;
        }
        let count = symbols.len();
        Row {
            model,
            text,
            symbols,
            frozen,
            previous: (0..count).map(|i| i.checked_sub(1)).collect(),
            next: (1..=count).map(|i| Some(i).filter(|i| *i < count)).collect(),
            agenda: BinaryHeap::new(),
            unmerge: HashMap::new(),
        }
    }

    fn offer(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else {
            return;
        };
        if self.frozen[left] || self.frozen[right] {
            return;
        }
        let (a, b) = (&self.symbols[left], &self.symbols[right]);
        let (length, left_length) = (a.len() + b.len(), a.len());
        if length > self.model.pieces.longest_piece() {
            return;
        }
        let piece = string(&self.text[a.start..b.end]);
        let Some(id) = self.model.pieces.get(&piece) else {
            return;
        };
        self.agenda.push(Pair {
            left,
            right,
            score: self.model.scores.get(id as usize).copied().unwrap_or(0.0),
            length,
        });
        if self.model.unused.contains(&id) {
            self.unmerge.insert(piece, left_length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::aligned::aligned;
    use super::*;

    /// The pieces are those of sentencepiece 0.2.3.
    #[test]
    fn symbols_of_the_user_score_by_their_bytes() {
        let cases: [(&[(&str, f32)], &str, &[&str], &[&str]); 9] = [
            (&[("t", -5.0), ("h", -5.0)], "th", &["th"], &["th"]),
            (&[("t", 0.0), ("h", 0.0)], "th", &["th"], &["th"]),
            (&[("t", 0.04), ("h", 0.04)], "th", &["th"], &["th"]),
            (&[("t", 0.06), ("h", 0.06)], "th", &["th"], &["t", "h"]),
            (&[("t", 0.06), ("h", 0.06), ("zz", 3.0)], "th", &["th"], &["t", "h"]),
            (&[("日", 0.2), ("本", 0.2)], "日本", &["日本"], &["日本"]),
            (
                &[("t", -5.0), ("h", -5.0), ("x", -5.0), ("thx", -1.0)],
                "thx",
                &["th"],
                &["thx"],
            ),
            (
                &[("t", -5.0), ("h", -5.0), ("x", -5.0), ("thx", -6.0)],
                "thx",
                &["th"],
                &["th", "x"],
            ),
            (&[("a", -2.0), ("a(", -3.0)], "a(", &["("], &["a", "("]),
        ];
        for (normal, text, symbols, wanted) in cases {
            let own = symbols.iter().map(|symbol| (symbol.to_string(), -20.0));
            let all =
                std::iter::once(("<unk>".to_string(), 0.0)).chain(normal.iter().map(|(p, s)| (p.to_string(), *s)));
            let rules = SentencePieceRules {
                user_defined: symbols.iter().map(|symbol| symbol.to_string()).collect(),
                least_score: normal.iter().map(|(_, score)| *score).fold(f32::MAX, f32::min),
                ..SentencePieceRules::default()
            };
            let model = SentencePiece::new(all.chain(own).collect(), 0, rules, None).unwrap();
            let found: Vec<String> = model
                .encode(&aligned(text))
                .into_iter()
                .map(|piece| piece.text)
                .collect();
            assert_eq!(found, wanted, "{normal:?} {text}");
        }
    }
}
