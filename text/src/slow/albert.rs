//! AlbertTokenizer's own part: in goes a stretch of text without added tokens, out come SentencePiece's pieces. As transformers
//! 4.57 has it in `models/albert/tokenization_albert.py`.

use super::aligned::{Char, decompose, is_digit, is_mark, lower, replace, words};
use super::sentencepiece::{Piece, SPACE, SentencePiece, SentencePieceRules};
use serde::{Deserialize, Serialize};

/// AlbertTokenizer's options, under its own names, and its model's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlbertRules {
    /// Lower-case the text.
    pub do_lower_case: bool,
    /// Join words by single spaces, and drop spaces at both ends.
    pub remove_space: bool,
    /// Keep combining marks; otherwise the text is decomposed (NFKD) and its marks are dropped.
    pub keep_accents: bool,
    /// What the SentencePiece model does itself, after the rest.
    pub sentencepiece: SentencePieceRules,
}

/// What is taken off the score of pieces that end in a comma after a digit, so that libraries that do not know
/// `Albert::encode`'s last step split them too; Hugging Face's own conversion takes off the same.
pub const COMMA_PENALTY: f64 = 100.0;

/// Whether a piece ends in a comma after a digit, like `9,`.
pub fn ends_in_number_comma(piece: &str) -> bool {
    let mut back = piece.chars().rev();
    back.next() == Some(',') && back.next().is_some_and(is_digit)
}

/// An AlbertTokenizer without its added tokens.
pub struct Albert {
    pub options: AlbertRules,
    pub model: SentencePiece,
}

impl Albert {
    /// The pieces of a text; a piece that ends in a comma after a digit is split anew without it, the comma being a piece of
    /// its own.
    pub fn encode(&self, text: &[Char]) -> Vec<Piece> {
        let mut out = Vec::new();
        for piece in self.model.encode(&self.clean(text)) {
            if ends_in_number_comma(&piece.text) {
                self.without_comma(&piece, &mut out);
            } else {
                out.push(piece);
            }
        }
        out
    }

    fn without_comma(&self, piece: &Piece, out: &mut Vec<Piece>) {
        let Some((comma, number)) = piece.chars.split_last() else {
            return;
        };
        let number: Vec<Char> = number.iter().copied().filter(|c| c.c != SPACE).collect();
        let mut pieces = self.model.encode(&number);
        if !piece.text.starts_with(SPACE)
            && let Some(first) = pieces.first_mut()
            && first.text.starts_with(SPACE)
        {
            first.text.remove(0);
            first.chars.remove(0);
            if first.text.is_empty() {
                pieces.remove(0);
            }
        }
        out.extend(pieces);
        out.push(Piece {
            text: ",".into(),
            chars: vec![*comma],
        });
    }

    fn clean(&self, text: &[Char]) -> Vec<Char> {
        let mut text = text.to_vec();
        if self.options.remove_space {
            let mut joined: Vec<Char> = Vec::with_capacity(text.len());
            for word in words(&text) {
                if let Some(last) = joined.last() {
                    joined.push(Char {
                        c: ' ',
                        start: last.end,
                        end: word[0].start,
                    });
                }
                joined.extend(word);
            }
            text = joined;
        }
        text = replace(&text, ['`', '`'], '"');
        text = replace(&text, ['\'', '\''], '"');
        if !self.options.keep_accents {
            text = decompose(&text, true);
            text.retain(|c| !is_mark(c.c));
        }
        if self.options.do_lower_case {
            text = lower(&text);
        }
        text
    }
}
