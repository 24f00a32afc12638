//! Turns text into ALBERT's tokens with a `tokenizer.json`, and rewrites that file compactly for travelling with a model.
//! In comes text, or a pair of texts; out come ids and token types with special tokens, and where each token lies in its
//! text (byte offsets).

use sha2::{Digest, Sha256};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use thimble_shared::graph::Config;
use tokenizers::{Encoding, PostProcessor, Tokenizer, TruncationParams};

#[derive(Debug, thiserror::Error)]
pub enum TokeniseError {
    #[error("{path}: {cause}", path = .path.display())]
    Io { path: PathBuf, cause: std::io::Error },
    #[error("{path}: not a tokenizer: {problem}", path = .path.display())]
    Format { path: PathBuf, problem: String },
    #[error("{path}: {problem}", path = .path.display())]
    Encode { path: PathBuf, problem: String },
    #[error(
        "{path}: token '{token}' has id {id}, but the model's vocabulary ends at {vocab_size}: this is another model's tokenizer",
        path = .path.display()
    )]
    Vocabulary {
        path: PathBuf,
        token: String,
        id: u32,
        vocab_size: usize,
    },
    #[error("{path}: the model has {max} positions, {special} are taken by special tokens: no room for text", path = .path.display())]
    NoRoom { path: PathBuf, max: usize, special: usize },
}

/// A tokenizer set to one model's vocabulary and length.
pub struct Tokeniser {
    path: PathBuf,
    inner: Tokenizer,
    vocab_size: usize,
    max: usize,
}

/// One text or pair, encoded. All vectors have one entry per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    pub text: String,
    pub pair: Option<String>,
    pub ids: Vec<i64>,
    pub types: Vec<i64>,
    pub tokens: Vec<String>,
    pub places: Vec<Place>,
    /// Whether tokens were cut off to fit the model.
    pub truncated: bool,
}

/// Where a token comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// 0 for `text`, 1 for `pair`, none for special tokens.
    pub sequence: Option<usize>,
    /// Number of the word within its text.
    pub word: Option<u32>,
    /// Bytes of its text.
    pub bytes: (usize, usize),
}

impl Encoded {
    /// The part of the text that tokens `first..=last` of one sequence cover.
    pub fn slice(&self, first: usize, last: usize) -> Option<&str> {
        let (a, b) = (self.places.get(first)?, self.places.get(last)?);
        let text = match a.sequence? {
            0 => &self.text,
            _ => self.pair.as_ref()?,
        };
        text.get(a.bytes.0..b.bytes.1).map(str::trim)
    }
}

impl Tokeniser {
    /// Reads the tokenizer at `path` for a model of `config`. Truncation and padding set in the file are replaced.
    pub fn open(path: &Path, config: &Config) -> Result<Tokeniser, TokeniseError> {
        let bytes = std::fs::read(path).map_err(|cause| TokeniseError::Io {
            path: path.to_path_buf(),
            cause,
        })?;
        let format = |problem| TokeniseError::Format {
            path: path.to_path_buf(),
            problem,
        };
        let max = config.max_position_embeddings;
        let mut inner = guarded(|| Tokenizer::from_bytes(&bytes)).map_err(format)?;
        let special = inner.get_post_processor().map_or(0, |p| p.added_tokens(true));
        if max <= special + 1 {
            return Err(TokeniseError::NoRoom {
                path: path.to_path_buf(),
                max,
                special,
            });
        }
        inner.with_padding(None);
        let truncation = TruncationParams {
            max_length: max,
            ..TruncationParams::default()
        };
        inner
            .with_truncation(Some(truncation))
            .map_err(|e| format(e.to_string()))?;
        Ok(Tokeniser {
            path: path.to_path_buf(),
            inner,
            vocab_size: config.vocab_size,
            max,
        })
    }

    /// Tokens the longest input has, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max
    }

    /// Encodes a text or pair with special tokens, the longer text cut first where both exceed the model's positions.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Encoded, TokeniseError> {
        let encoding = match pair {
            Some(pair) => guarded(|| self.inner.encode((text, pair), true)),
            None => guarded(|| self.inner.encode(text, true)),
        };
        let encoding = encoding.map_err(|problem| TokeniseError::Encode {
            path: self.path.clone(),
            problem,
        })?;
        self.encoded(text, pair, &encoding)
    }

    fn encoded(&self, text: &str, pair: Option<&str>, encoding: &Encoding) -> Result<Encoded, TokeniseError> {
        let outside = encoding
            .get_ids()
            .iter()
            .zip(encoding.get_tokens())
            .find(|(id, _)| **id as usize >= self.vocab_size);
        if let Some((&id, token)) = outside {
            return Err(TokeniseError::Vocabulary {
                path: self.path.clone(),
                token: token.clone(),
                id,
                vocab_size: self.vocab_size,
            });
        }
        let sequences = encoding.get_sequence_ids();
        let places = (0..encoding.get_ids().len()).map(|i| {
            let special = encoding.get_special_tokens_mask()[i] != 0;
            Place {
                sequence: sequences[i].filter(|_| !special),
                word: encoding.get_word_ids()[i],
                bytes: encoding.get_offsets()[i],
            }
        });
        Ok(Encoded {
            text: text.to_string(),
            pair: pair.map(str::to_string),
            ids: encoding.get_ids().iter().map(|&id| id.into()).collect(),
            types: encoding.get_type_ids().iter().map(|&id| id.into()).collect(),
            tokens: encoding.get_tokens().to_vec(),
            places: places.collect(),
            truncated: !encoding.get_overflowing().is_empty(),
        })
    }

    /// The token that stands for a blank, when the vocabulary has one.
    pub fn mask_id(&self) -> Option<i64> {
        ["[MASK]", "<mask>"]
            .iter()
            .find_map(|token| self.inner.token_to_id(token))
            .map(i64::from)
    }

    pub fn pad_id(&self) -> i64 {
        ["<pad>", "[PAD]"]
            .iter()
            .find_map(|token| self.inner.token_to_id(token))
            .map_or(0, i64::from)
    }

    /// A token's text as the vocabulary spells it, a leading space shown as `▁`.
    pub fn token(&self, id: i64) -> Option<String> {
        u32::try_from(id).ok().and_then(|id| self.inner.id_to_token(id))
    }
}

/// Runs the tokenizer library; tables in a tokenizer.json that contradict each other make it panic, which is an error of the
/// file like any other.
pub(crate) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // The hook would print the panic as if thimble had broken.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(work));
    std::panic::set_hook(hook);
    match result {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("its tables contradict each other".into()),
    }
}

/// Largest tokenizer read for rewriting.
const MAX_BYTES: u64 = 256 << 20;

/// The tokenizer.json at `path` as minified JSON that says exactly the same.
pub fn compact(path: &Path) -> Result<String, TokeniseError> {
    let io = |cause| TokeniseError::Io {
        path: path.to_path_buf(),
        cause,
    };
    let format = |problem: String| TokeniseError::Format {
        path: path.to_path_buf(),
        problem,
    };
    if std::fs::metadata(path).map_err(io)?.len() > MAX_BYTES {
        return Err(format(format!("more than {MAX_BYTES} bytes")));
    }
    let text = String::from_utf8(std::fs::read(path).map_err(io)?).map_err(|e| format(e.to_string()))?;
    let before: serde_json::Value = serde_json::from_str(&text).map_err(|e| format(e.to_string()))?;
    if !before.get("model").is_some_and(|m| m.is_object()) {
        return Err(format("it has no \"model\"".into()));
    }
    let small = minify(&text);
    match serde_json::from_str::<serde_json::Value>(&small) {
        Ok(after) if after == before => Ok(small),
        _ => Err(format("it cannot be minified without changing it".into())),
    }
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Drops white space between the lexemes of valid JSON and writes escaped characters as themselves. Numbers keep their
/// digits: parsing and printing them again could change a score by one unit in the last place.
fn minify(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(c) = rest.chars().next() {
        let (_, after) = rest.split_at(c.len_utf8());
        rest = after;
        match c {
            ' ' | '\t' | '\n' | '\r' => {}
            '"' => {
                out.push('"');
                rest = string(rest, &mut out);
            }
            c => out.push(c),
        }
    }
    out
}

/// Copies a string's inside and its closing quote to `out`; gives what follows.
fn string<'a>(mut rest: &'a str, out: &mut String) -> &'a str {
    while let Some(at) = rest.find(['"', '\\']) {
        out.push_str(&rest[..at]);
        if rest[at..].starts_with('"') {
            out.push('"');
            return &rest[at + 1..];
        }
        let (decoded, len) = match rest.get(at + 1..at + 2) {
            Some("u") => unicode(&rest[at..]),
            Some("/") => (Some('/'), 2),
            _ => (None, 2),
        };
        let end = at.saturating_add(len).min(rest.len());
        match decoded.filter(|c| !c.is_control() && *c != '"' && *c != '\\') {
            Some(c) => out.push(c),
            None => out.push_str(rest.get(at..end).unwrap_or_default()),
        }
        rest = rest.get(end..).unwrap_or_default();
    }
    out.push_str(rest);
    ""
}

/// The character of a `\uXXXX` escape or a surrogate pair of them, and the escape's length.
fn unicode(escape: &str) -> (Option<char>, usize) {
    let unit = |at: usize| {
        let digits = escape.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(0) else { return (None, 2) };
    match char::from_u32(first.into()) {
        Some(c) => (Some(c), 6),
        None => match unit(6).map(|second| char::decode_utf16([first, second]).next()) {
            Some(Some(Ok(c))) => (Some(c), 12),
            _ => (None, 6),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minifying_keeps_strings_and_digits() {
        let cases = [
            (
                r#"{ "a" : [ 1.10 , -3.2807435989379883 ] }"#,
                r#"{"a":[1.10,-3.2807435989379883]}"#,
            ),
            (r#"{"a b": "c \" d"}"#, r#"{"a b":"c \" d"}"#),
            (r#"["\u2581the", "\u00e9"]"#, r#"["▁the","é"]"#),
            (r#"["\ud83d\ude00"]"#, r#"["😀"]"#),
            (r#"["\u0000\u0022\u005c\n\/"]"#, r#"["\u0000\u0022\u005c\n/"]"#),
            (r#"["\\"]"#, r#"["\\"]"#),
            ("{\n\t\"x\"\r\n: null}", r#"{"x":null}"#),
        ];
        for (before, after) in cases {
            assert_eq!(minify(before), after);
            let parse = |s: &str| serde_json::from_str::<serde_json::Value>(s).unwrap();
            assert_eq!(parse(before), parse(after));
        }
    }
}
