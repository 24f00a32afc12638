//! A vocabulary without scores in little memory: in goes a word, out come its pieces, the longest from the left, or the token
//! that has the word's own text. Both are the library's WordPiece and WordLevel, whose tables take 200 bytes a piece.

use crate::pieces::Pieces;
use serde::Deserialize;
use tokenizers::{Result, Token};

/// Pieces of words: the longest from the left, those that go on with a word marked.
#[derive(Debug, Deserialize)]
pub(crate) struct WordPieces {
    #[serde(rename = "vocab")]
    pub pieces: Pieces,
    pub unk_token: String,
    pub continuing_subword_prefix: String,
    pub max_input_chars_per_word: usize,
}

impl WordPieces {
    /// The tokens of a word, with the bytes each covers; of a word without pieces the unknown token.
    pub fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        let unknown = || whole(&self.pieces, &self.unk_token, word);
        if word.chars().count() > self.max_input_chars_per_word {
            return unknown();
        }
        let (mut tokens, mut start) = (Vec::new(), 0);
        while start < word.len() {
            let mark = if start > 0 {
                self.continuing_subword_prefix.as_str()
            } else {
                ""
            };
            let mut longest = None;
            let rest = mark.bytes().chain(word[start..].bytes());
            self.pieces.prefixes(rest, |bytes, id| longest = Some((bytes, id)));
            let Some((bytes, id)) = longest.filter(|&(bytes, _)| bytes > mark.len()) else {
                return unknown();
            };
            let end = start + bytes - mark.len();
            tokens.push(Token::new(id, format!("{mark}{}", &word[start..end]), (start, end)));
            start = end;
        }
        Ok(tokens)
    }
}

/// Words that are a token each.
#[derive(Debug, Deserialize)]
pub(crate) struct WholeWords {
    #[serde(rename = "vocab")]
    pub pieces: Pieces,
    pub unk_token: String,
}

impl WholeWords {
    /// The token of a word; the unknown token of one that the vocabulary does not have.
    pub fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        match self.pieces.id(word) {
            Some(id) => Ok(vec![Token::new(id, word.to_string(), (0, word.len()))]),
            None => whole(&self.pieces, &self.unk_token, word),
        }
    }
}

/// One token for all of a word: the unknown one.
fn whole(pieces: &Pieces, unknown: &str, word: &str) -> Result<Vec<Token>> {
    let id = pieces.id(unknown).ok_or("its vocabulary lacks the unknown token")?;
    Ok(vec![Token::new(id, unknown.to_string(), (0, word.len()))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::random::Random;
    use tokenizers::Model;
    use tokenizers::models::wordlevel::WordLevel;
    use tokenizers::models::wordpiece::WordPiece;

    #[test]
    fn words_split_as_in_the_library() {
        let letters = ["a", "b", "é", "本", "##", "x"];
        let mut random = Random(9);
        for round in 0..300 {
            let mut vocabulary = serde_json::Map::new();
            if round % 7 > 0 {
                vocabulary.insert("[UNK]".into(), 90.into());
            }
            for id in 0..1 + random.below(30) {
                let length = 1 + random.below(4);
                let piece: String = (0..length).map(|_| letters[random.below(letters.len() - 1)]).collect();
                let mark = if random.below(2) == 0 { "##" } else { "" };
                vocabulary.insert(format!("{mark}{piece}"), id.into());
            }
            let json = serde_json::json!({
                "vocab": vocabulary, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
            });
            let own: WordPieces = serde_json::from_str(&json.to_string()).unwrap();
            let library: WordPiece = serde_json::from_value(json.clone()).unwrap();
            let whole: WholeWords = serde_json::from_str(&json.to_string()).unwrap();
            let level: WordLevel =
                serde_json::from_value(serde_json::json!({"vocab": json["vocab"], "unk_token": "[UNK]"})).unwrap();
            for _ in 0..20 {
                let word: String = (0..random.below(11))
                    .map(|_| letters[random.below(letters.len())])
                    .collect();
                let pairs = [
                    (own.tokenize(&word), library.tokenize(&word)),
                    (whole.tokenize(&word), level.tokenize(&word)),
                ];
                for pair in pairs {
                    match pair {
                        (Ok(own), Ok(library)) => assert_eq!(own, library, "{word:?} {json}"),
                        (own, library) => assert_eq!(own.is_err(), library.is_err(), "{word:?} {json}"),
                    }
                }
                assert_eq!(own.pieces.id(&word), library.token_to_id(&word));
            }
        }
    }
}
