//! BertTokenizer's splitting: in goes text, out come the tokens of its BasicTokenizer and WordpieceTokenizer, with the bytes each
//! covers. As transformers 4.57 has them in `models/bert/tokenization_bert.py`.

use super::aligned::{Char, decompose, is_space, lower, normal_form_c, string, within, words};
use super::tables;
use crate::pieces::Pieces;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// BertTokenizer's options, under its own names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WordPieceRules {
    /// Clean the text and cut it at blanks and punctuation first; otherwise only at blanks.
    pub do_basic_tokenize: bool,
    /// Lower-case each word that is not to be left whole.
    pub do_lower_case: bool,
    /// Make each Chinese character a word.
    pub tokenize_chinese_chars: bool,
    /// Not given: as `do_lower_case`.
    pub strip_accents: Option<bool>,
    /// Words the user wants whole.
    pub never_split: Vec<String>,
    /// Special tokens, which are not split either but looked up piece by piece.
    pub special: Vec<String>,
}

/// Characters above which a word is unknown.
pub const MOST_CHARACTERS: usize = 100;
/// What marks a piece that goes on with a word.
pub const CONTINUES: &str = "##";

/// A vocabulary of word pieces.
pub struct WordPiece {
    rules: WordPieceRules,
    vocabulary: Pieces,
    unknown: String,
    never_split: HashSet<String>,
    whole: HashSet<String>,
}

/// A token: its text, the characters it stands for, and the number of its word.
pub struct Token {
    pub text: String,
    pub chars: Vec<Char>,
    pub word: u32,
}

impl WordPiece {
    pub fn new(vocabulary: Pieces, unknown: String, rules: WordPieceRules) -> WordPiece {
        let never_split: HashSet<String> = rules.never_split.iter().cloned().collect();
        let whole = rules.special.iter().cloned().chain(never_split.iter().cloned());
        WordPiece {
            whole: whole.collect(),
            never_split,
            vocabulary,
            unknown,
            rules,
        }
    }

    /// The id of a token's text: the unknown token's, where the vocabulary has no such text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token).or_else(|| self.vocabulary.id(&self.unknown))
    }

    /// The unknown token's id.
    pub fn unknown(&self) -> u32 {
        self.vocabulary.id(&self.unknown).unwrap_or(0)
    }

    pub fn encode(&self, text: &[Char]) -> Vec<Token> {
        let words: Vec<Vec<Char>> = if self.rules.do_basic_tokenize {
            self.basic(text)
        } else {
            words(text).map(<[Char]>::to_vec).collect()
        };
        let mut tokens = Vec::new();
        for (word, chars) in (0..).zip(words) {
            if self.rules.do_basic_tokenize && self.never_split.contains(&string(&chars)) {
                tokens.push(Token {
                    text: string(&chars),
                    chars,
                    word,
                });
            } else {
                self.pieces(&chars, word, &mut tokens);
            }
        }
        tokens
    }

    /// BasicTokenizer: words and signs of punctuation.
    fn basic(&self, text: &[Char]) -> Vec<Vec<Char>> {
        let clean = normal_form_c(&self.clean(text));
        let mut out = Vec::new();
        for word in words(&clean) {
            let mut word = word.to_vec();
            if !self.whole.contains(&string(&word)) {
                if self.rules.do_lower_case {
                    word = lower(&word);
                }
                if self.rules.strip_accents.unwrap_or(self.rules.do_lower_case) {
                    word = decompose(&word, false);
                    word.retain(|c| !within(&tables::NONSPACING, c.c));
                }
            }
            let parts: Vec<&[Char]> = if self.whole.contains(&string(&word)) {
                vec![&word]
            } else {
                word.chunk_by(|a, b| !is_punctuation(a.c) && !is_punctuation(b.c))
                    .collect()
            };
            out.extend(parts.into_iter().flat_map(words).map(<[Char]>::to_vec));
        }
        out
    }

    /// Drops control characters, makes white space a space, and sets Chinese characters apart.
    fn clean(&self, text: &[Char]) -> Vec<Char> {
        let mut out = Vec::with_capacity(text.len());
        for &from in text {
            let blank = Char { c: ' ', ..from };
            match from.c {
                '\t' | '\n' | '\r' => out.push(blank),
                '\0' | '\u{fffd}' => {}
                c if within(&tables::OTHER, c) => {}
                // Of what is no control, white space is category Zs; lines' and paragraphs' separators are left.
                c if is_space(c) && !matches!(c, '\u{2028}' | '\u{2029}') => out.push(blank),
                c if self.rules.tokenize_chinese_chars && is_chinese(c) => out.extend([blank, from, blank]),
                _ => out.push(from),
            }
        }
        out
    }

    /// WordpieceTokenizer: the longest pieces from the left, or the unknown token for the whole word.
    fn pieces(&self, word: &[Char], number: u32, tokens: &mut Vec<Token>) {
        let unknown = Token {
            text: self.unknown.clone(),
            chars: word.to_vec(),
            word: number,
        };
        if word.len() > MOST_CHARACTERS {
            tokens.push(unknown);
            return;
        }
        let before = tokens.len();
        let mut start = 0;
        while start < word.len() {
            let marked = |end: usize| {
                let text = string(&word[start..end]);
                if start > 0 { format!("{CONTINUES}{text}") } else { text }
            };
            let longest = (start + 1..=word.len())
                .rev()
                .map(|end| (marked(end), end))
                .find(|(text, _)| self.vocabulary.id(text).is_some());
            let Some((text, end)) = longest else {
                tokens.truncate(before);
                tokens.push(unknown);
                return;
            };
            tokens.push(Token {
                text,
                chars: word[start..end].to_vec(),
                word: number,
            });
            start = end;
        }
    }
}

/// ASCII that is neither letter nor digit counts, whatever its category.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || within(&tables::PUNCTUATION, c)
}

fn is_chinese(c: char) -> bool {
    matches!(u32::from(c),
        0x4e00..=0x9fff
        | 0x3400..=0x4dbf
        | 0x20000..=0x2a6df
        | 0x2a700..=0x2b73f
        | 0x2b740..=0x2b81f
        | 0x2b820..=0x2ceaf
        | 0xf900..=0xfaff
        | 0x2f800..=0x2fa1f)
}
