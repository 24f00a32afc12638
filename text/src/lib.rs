//! Text to ALBERT's tokens with a `tokenizer.json`, the same on the desk and on the board. In comes text, or a pair of
//! texts; out come ids and token types with special tokens, and where each token lies in its text (byte offsets).

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use thimble_shared::files;
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
        let bytes = files::read(path).map_err(|cause| TokeniseError::Io {
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

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs the tokenizer library; tables in a tokenizer.json that contradict each other make it panic, which is an error of the
/// file like any other. Where panics abort, the panic ends the program.
pub fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    // The hook would print the panic as if thimble had broken. It is replaced once and asks the thread, because several
    // threads tokenise at a time and each swapping hooks could lose the one there was.
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                hook(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    match result {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("its tables contradict each other".into()),
    }
}

/// Where a model's tokenizer stands: `model.onnx` has `model.tokenizer.json` beside it.
pub fn tokenizer_beside(model: &Path) -> PathBuf {
    let mut name = match model.extension() {
        Some(e) if e == "onnx" => model.with_extension("").into_os_string(),
        _ => model.as_os_str().to_os_string(),
    };
    name.push(".tokenizer.json");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_library_is_an_error_on_every_thread() {
        let panics = || guarded(|| -> tokenizers::Result<()> { panic!("tables") });
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(panics)).collect();
        for thread in threads {
            assert_eq!(
                thread.join().unwrap(),
                Err("its tables contradict each other".to_string())
            );
        }
        assert!(!GUARDED.get());
    }

    #[test]
    fn the_tokenizer_lies_beside_the_model() {
        let cases = [
            ("a/m.onnx", "a/m.tokenizer.json"),
            ("m.v2.onnx", "m.v2.tokenizer.json"),
            ("model", "model.tokenizer.json"),
        ];
        for (model, beside) in cases {
            assert_eq!(tokenizer_beside(Path::new(model)), Path::new(beside));
        }
    }
}
