//! Text to ALBERT's tokens with a `tokenizer.json`, the same on the desk and on the board. In comes text, or a pair of
//! texts; out come ids and token types with special tokens, and where each token lies in its text (byte offsets). [`answer`] says
//! in words what a model computed from them.
//!
//! A [`Splitter`] does what a tokenizer.json says; a [`Tokenizer`] also keeps to one model's vocabulary and length.
//!
//! ```
//! use thimble_text::Splitter;
//!
//! let json = r#"{
//!     "pre_tokenizer": {"type": "WhitespaceSplit"},
//!     "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "small": 1, "boards": 2}}
//! }"#;
//! let splitter = Splitter::new(json.as_bytes())?;
//! let encoding = splitter.encode("small green boards", None)?;
//! assert_eq!(encoding.get_ids(), [1, 0, 2]);
//! # Ok::<(), String>(())
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod answer;
mod footprint;
mod outline;
mod piece_model;
mod pieces;
pub mod questions;
pub mod slow;
mod unigram;
mod words;

pub use footprint::{ALBERT_RAM, ram};
pub use outline::{LONGEST_PIECE, MAX_LENGTH};
pub use piece_model::PieceModel;
use slow::{Slow, SlowRules};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
pub use thimble_shared::decode::Place;
use thimble_shared::decode::{Windows, excerpt};
use thimble_shared::files;
use thimble_shared::model::{AnswerKind, Config};
use tokenizers::utils::truncation::{TruncationStrategy, truncate_encodings};
use tokenizers::{
    DecoderWrapper, Encoding, NormalizerWrapper, PostProcessor, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl, TruncationParams,
};

/// The tokenizers library's tokenizer, whose vocabulary is kept in little memory.
pub type Library =
    TokenizerImpl<PieceModel, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Why a text cannot be split. `path` is always the tokenizer.json.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// The operating system could not read it.
    #[error("{path}: {cause}", path = .path.display())]
    Io {
        /// The tokenizer.json.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        cause: std::io::Error,
    },
    /// It is no tokenizer.json, is too large, or has rules that are not known here.
    #[error("{path}: not a tokenizer: {problem}", path = .path.display())]
    Format {
        /// The tokenizer.json.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The tokenizers library failed on this text; tables that contradict each other show here.
    #[error("{path}: {problem}", path = .path.display())]
    Encode {
        /// The tokenizer.json.
        path: PathBuf,
        /// What the library said.
        problem: String,
    },
    /// A text gave an id the model has no row for.
    #[error(
        "{path}: token '{token}' has id {id}, but the model's vocabulary ends at {vocab_size}: this is another model's tokenizer",
        path = .path.display()
    )]
    Vocabulary {
        /// The tokenizer.json.
        path: PathBuf,
        /// Text of the token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's vocabulary; ids must be below it.
        vocab_size: usize,
    },
    /// The model's inputs are so short that special tokens alone fill them.
    #[error("{path}: an input has at most {max} tokens, {special} are special ones: no room for text", path = .path.display())]
    NoRoom {
        /// The tokenizer.json.
        path: PathBuf,
        /// Most tokens of an input.
        max: usize,
        /// Special tokens around a pair.
        special: usize,
    },
    /// A question so long that windows over its context could not move on.
    #[error(
        "{path}: the question has {question} tokens; the context is read in windows of {tokens} that share {stride}, which leaves a question {most}: shorten one of them",
        path = .path.display()
    )]
    LongQuestion {
        /// The tokenizer.json.
        path: PathBuf,
        /// Tokens of the question.
        question: usize,
        /// Tokens of one window, special tokens included.
        tokens: usize,
        /// Tokens of the context that two windows share.
        stride: usize,
        /// Most tokens a question may have here.
        most: usize,
    },
}

/// What a tokenizer.json states: the library's tokenizer, and where the file has rules of a slow one, those.
pub struct Splitter {
    library: Library,
    slow: Option<Slow>,
    max_length: Option<usize>,
}

impl Splitter {
    /// Reads a tokenizer.json; its padding and truncation are left out.
    ///
    /// # Errors
    /// What is wrong with the file: no JSON object, too large a vocabulary, or rules that are not known.
    pub fn new(json: &[u8]) -> Result<Splitter, String> {
        let outline = outline::read(json)?;
        let (slow, library) = if outline.slow {
            let (slow, library) = Slow::read(json)?;
            (Some(slow), library)
        } else {
            let mut library: Library = guarded(|| Ok(serde_json::from_slice(json)?))?;
            library.with_padding(None);
            library.with_truncation(None).map_err(|e| e.to_string())?;
            (None, library)
        };
        Ok(Splitter {
            library,
            slow,
            max_length: outline.max_length,
        })
    }

    /// The library's tokenizer. A slow one has the tokens and what is put around texts in common with it, not the splitting.
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// Cuts what is encoded from now on to `max_length` tokens, special tokens included.
    ///
    /// # Errors
    /// What the library says of a length that special tokens alone exceed.
    pub fn truncate_to(&mut self, max_length: usize) -> Result<(), String> {
        let truncation = TruncationParams {
            max_length,
            direction: self.slow.as_ref().map_or_else(Default::default, Slow::direction),
            ..TruncationParams::default()
        };
        let set = self.library.with_truncation(Some(truncation));
        set.map(|_| ()).map_err(|e| e.to_string())
    }

    /// The tokens of a text or pair, with special tokens.
    ///
    /// # Errors
    /// What the library says; tables of the file that contradict each other show here.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Encoding, String> {
        let Some(slow) = &self.slow else {
            return match pair {
                Some(pair) => guarded(|| self.library.encode((text, pair), true)),
                None => guarded(|| self.library.encode(text, true)),
            };
        };
        let mut first = slow.encode(text);
        let mut second = pair.map(|pair| {
            let mut second = slow.encode(pair);
            second.set_type_ids(vec![1; second.len()]);
            second
        });
        if let (Some(second), Some(params)) = (&mut second, self.library.get_truncation()) {
            let special = self.library.get_post_processor().map_or(0, |p| p.added_tokens(true));
            let params = TruncationParams {
                max_length: params.max_length.saturating_sub(special),
                ..params.clone()
            };
            guarded(|| {
                slow.truncate(&mut first, second, &params);
                Ok(())
            })?;
        }
        guarded(|| self.library.post_process(first, second, true))
    }

    /// The tokens of a text, uncut and without special tokens.
    fn alone(&self, text: &str) -> Result<Encoding, String> {
        match &self.slow {
            Some(slow) => Ok(slow.encode(text)),
            None => guarded(|| self.library.encode(text, false)),
        }
    }

    /// Tokens that are added around a text or a pair.
    fn special_tokens(&self, pair: bool) -> usize {
        self.library.get_post_processor().map_or(0, |p| p.added_tokens(pair))
    }

    /// The id of what the vocabulary does not have.
    fn unknown(&self) -> Option<u32> {
        match &self.slow {
            Some(slow) => Some(slow.unknown()),
            None => ["<unk>", "[UNK]"]
                .iter()
                .find_map(|token| self.library.token_to_id(token)),
        }
    }

    /// Text and id of the token of a slow tokenizer's that `own` names, or else of the first of the usual ones that there is.
    fn special(&self, own: impl Fn(&SlowRules) -> Option<&str>, usual: [&'static str; 2]) -> Option<(&str, u32)> {
        let of = |token| Some((token, self.library.token_to_id(token)?));
        match &self.slow {
            Some(slow) => own(slow.rules()).and_then(of),
            None => usual.into_iter().find_map(of),
        }
    }
}

/// Rows to multiples of which vocabularies are padded.
const ROUND: [usize; 8] = [8, 16, 32, 64, 128, 256, 512, 1024];

/// A tokenizer set to one model's vocabulary and length.
pub struct Tokenizer {
    path: PathBuf,
    inner: Splitter,
    vocab_size: usize,
    max: usize,
    /// How question answering cuts a context that is too long; other heads leave its end out.
    windows: Option<Windows>,
    /// What is put before every text.
    prompt: Option<String>,
}

/// One text or pair, encoded. All vectors have one entry per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// The text as it was given; in question answering the question.
    pub text: Arc<str>,
    /// The second text of a pair; in question answering the context. `None` for a single text.
    pub pair: Option<Arc<str>>,
    /// Row of the vocabulary, special tokens included.
    pub ids: Vec<i64>,
    /// Token types: 0 in the first text, 1 in the second; those of special tokens are the tokenizer's choice.
    pub types: Vec<i64>,
    /// As the vocabulary spells them.
    pub tokens: Vec<String>,
    /// Where each token lies in its text; special tokens lie in none.
    pub places: Vec<Place>,
    /// Whether tokens were cut off to fit the model.
    pub truncated: bool,
    /// Whether nothing but unknown tokens came of it.
    pub unknown: bool,
    /// Whether the text, or one of a pair, gave no token: it is empty or blank.
    pub empty: bool,
}

impl Encoded {
    /// The part of the text that tokens `first..=last` of one sequence cover.
    pub fn slice(&self, first: usize, last: usize) -> Option<&str> {
        let (a, b) = (self.places.get(first)?, self.places.get(last)?);
        let text = match a.sequence? {
            0 => &self.text,
            _ => self.pair.as_ref()?,
        };
        excerpt(text, (a.bytes.0, b.bytes.1))
    }
}

impl Tokenizer {
    /// Reads the tokenizer at `path` for a model of `config`. Truncation and padding set in the file are replaced.
    ///
    /// # Errors
    /// Those of [`read`] and [`Tokenizer::new`].
    pub fn open(path: &Path, config: &Config) -> Result<Tokenizer, TokenizeError> {
        Tokenizer::new(path, &read(path)?, config)
    }

    /// The tokenizer a tokenizer.json of these bytes states; errors name `path`.
    ///
    /// # Errors
    /// [`TokenizeError::Format`], and [`TokenizeError::NoRoom`] where the model's inputs are too short for any text.
    pub fn new(path: &Path, json: &[u8], config: &Config) -> Result<Tokenizer, TokenizeError> {
        let format = |problem| TokenizeError::Format {
            path: path.to_path_buf(),
            problem,
        };
        let mut inner = Splitter::new(json).map_err(format)?;
        let positions = config.max_tokens();
        let answer = config.head.answer();
        // Of the pipelines of transformers these two cut at the tokenizer's own length.
        let cuts = matches!(answer, AnswerKind::Span | AnswerKind::TokenLabels);
        let most = inner
            .max_length
            .filter(|_| cuts)
            .map_or(positions, |own| own.min(positions));
        let windows = (answer == AnswerKind::Span).then(|| Windows::of(most));
        let max = windows.map_or(most, |w| w.tokens);
        let special = inner.special_tokens(true);
        if max <= special + 1 {
            return Err(TokenizeError::NoRoom {
                path: path.to_path_buf(),
                max,
                special,
            });
        }
        // Windows are cut here: the library stops reading a text at the longest length, and what follows would be lost.
        if windows.is_none() {
            inner.truncate_to(max).map_err(format)?;
        }
        Ok(Tokenizer {
            path: path.to_path_buf(),
            inner,
            vocab_size: config.vocab_size,
            max,
            windows,
            prompt: config.sentence.as_ref().and_then(|sentence| sentence.prompt.clone()),
        })
    }

    /// Tokens the longest input has, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max
    }

    /// Encodes a text or pair with special tokens, the model's prompt before it, the longer text cut first where both exceed the
    /// model's positions. For
    /// question answering a pair is the first of its [`windows`](Self::windows).
    ///
    /// # Errors
    /// [`TokenizeError::Encode`], [`TokenizeError::Vocabulary`] and, for a pair in question answering,
    /// [`TokenizeError::LongQuestion`].
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Encoded, TokenizeError> {
        let prompted = self.prompt.as_ref().map(|prompt| format!("{prompt}{text}"));
        let text = prompted.as_deref().unwrap_or(text);
        let encoding = self.encoding(text, pair)?;
        self.encoded(&text.into(), pair.map(Arc::from).as_ref(), &encoding)
    }

    /// Encodes a question and its context: one window, or several that share tokens where the context is too long for one
    /// ([`Windows`]). A tokenizer opened for another head gives one, cut.
    ///
    /// # Errors
    /// A question that leaves windows no room to move on.
    pub fn windows(&self, question: &str, context: &str) -> Result<Vec<Encoded>, TokenizeError> {
        let encoding = self.encoding(question, Some(context))?;
        let all = std::iter::once(&encoding).chain(match self.windows {
            Some(_) => encoding.get_overflowing().as_slice(),
            None => &[],
        });
        // Hundreds of windows share one text.
        let (question, context) = (question.into(), context.into());
        all.map(|window| self.encoded(&question, Some(&context), window))
            .collect()
    }

    fn encoding(&self, text: &str, pair: Option<&str>) -> Result<Encoding, TokenizeError> {
        let encoding = match (pair, self.windows) {
            (Some(pair), Some(windows)) => return self.cut(text, pair, windows),
            (_, None) => self.inner.encode(text, pair),
            (None, Some(windows)) => self.inner.alone(text).and_then(|encoding| {
                let cut = TruncationParams {
                    max_length: windows.tokens.saturating_sub(self.inner.special_tokens(false)),
                    ..TruncationParams::default()
                };
                guarded(|| {
                    let (encoding, _) = truncate_encodings(encoding, None, &cut)?;
                    self.inner.library.post_process(encoding, None, true)
                })
            }),
        };
        encoding.map_err(|problem| self.unfit(problem))
    }

    fn unfit(&self, problem: String) -> TokenizeError {
        TokenizeError::Encode {
            path: self.path.clone(),
            problem,
        }
    }

    /// A question with as much of its context as fits; the other windows are its overflow.
    fn cut(&self, question: &str, context: &str, windows: Windows) -> Result<Encoding, TokenizeError> {
        let alone = |text: &str| self.inner.alone(text).map_err(|problem| self.unfit(problem));
        let (question, mut context) = (alone(question)?, alone(context)?);
        context.set_type_ids(vec![1; context.len()]);
        let room = windows.tokens.saturating_sub(self.inner.special_tokens(true));
        // A window that holds no more of the context than it shares with the next leads nowhere.
        let most = room.saturating_sub(windows.stride + 1);
        if question.len() > most && question.len() + context.len() > room {
            return Err(TokenizeError::LongQuestion {
                path: self.path.clone(),
                question: question.len(),
                tokens: windows.tokens,
                stride: windows.stride,
                most,
            });
        }
        let cut = TruncationParams {
            max_length: room,
            strategy: TruncationStrategy::OnlySecond,
            stride: windows.stride,
            ..TruncationParams::default()
        };
        let encoding = guarded(|| {
            let (question, context) = truncate_encodings(question, Some(context), &cut)?;
            self.inner.library.post_process(question, context, true)
        });
        encoding.map_err(|problem| self.unfit(problem))
    }

    fn encoded(&self, text: &Arc<str>, pair: Option<&Arc<str>>, encoding: &Encoding) -> Result<Encoded, TokenizeError> {
        let outside = encoding
            .get_ids()
            .iter()
            .zip(encoding.get_tokens())
            .find(|(id, _)| **id as usize >= self.vocab_size);
        if let Some((&id, token)) = outside {
            return Err(TokenizeError::Vocabulary {
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
            text: text.clone(),
            pair: pair.cloned(),
            ids: encoding.get_ids().iter().map(|&id| id.into()).collect(),
            types: encoding.get_type_ids().iter().map(|&id| id.into()).collect(),
            tokens: encoding.get_tokens().to_vec(),
            places: places.collect(),
            truncated: !encoding.get_overflowing().is_empty(),
            unknown: self.is_unknown(encoding),
            empty: is_empty(encoding, if pair.is_some() { 2 } else { 1 }),
        })
    }

    /// Whether text became tokens of which all are unknown; a space of SentencePiece's beside them says nothing.
    fn is_unknown(&self, encoding: &Encoding) -> bool {
        let Some(unknown) = self.inner.unknown() else {
            return false;
        };
        let all = encoding.get_ids().iter().zip(encoding.get_tokens());
        let mut own = all
            .zip(encoding.get_special_tokens_mask())
            .filter(|((_, token), special)| **special == 0 && token.as_str() != "▁")
            .map(|((id, _), _)| *id)
            .peekable();
        own.peek().is_some() && own.all(|id| id == unknown)
    }

    /// What to say where the tokenizer has far fewer tokens than the model has rows: another model's, most likely. Vocabularies
    /// padded to a round number of rows are common, and so are some rows that were left over.
    pub fn scarce(&self) -> Option<String> {
        let (tokens, rows) = (self.inner.library.get_vocab_size(true), self.vocab_size);
        let padded = ROUND.iter().any(|&round| tokens.next_multiple_of(round) == rows);
        (!padded && tokens.saturating_mul(10) < rows.saturating_mul(9)).then(|| {
            format!(
                "{} has {tokens} tokens, the model {rows} rows: it may be another model's tokenizer",
                self.path.display()
            )
        })
    }

    /// The token that stands for a blank, when the vocabulary has one: its text and its id.
    pub fn mask(&self) -> Option<(&str, i64)> {
        let mask = self
            .inner
            .special(|rules| rules.mask_token.as_deref(), ["[MASK]", "<mask>"]);
        mask.map(|(text, id)| (text, id.into()))
    }

    /// Id of the token of [`Tokenizer::mask`]; `None` where the vocabulary has none.
    pub fn mask_id(&self) -> Option<i64> {
        self.mask().map(|(_, id)| id)
    }

    /// Id that rows of a batch are filled up with; 0 where the vocabulary has no padding token.
    pub fn pad_id(&self) -> i64 {
        let pad = self
            .inner
            .special(|rules| rules.pad_token.as_deref(), ["<pad>", "[PAD]"]);
        pad.map_or(0, |(_, id)| id.into())
    }

    /// A token's text as the vocabulary spells it, a leading space shown as `▁`.
    pub fn token(&self, id: i64) -> Option<String> {
        u32::try_from(id).ok().and_then(|id| self.inner.library.id_to_token(id))
    }
}

/// Whether one of the first `texts` sequences has no token of its own; a space of SentencePiece's alone says nothing.
fn is_empty(encoding: &Encoding, texts: usize) -> bool {
    let sequences = encoding.get_sequence_ids();
    let all = sequences
        .iter()
        .zip(encoding.get_tokens())
        .zip(encoding.get_special_tokens_mask());
    let mut says = vec![false; texts];
    for ((sequence, token), special) in all {
        if let Some(says) = sequence.and_then(|sequence| says.get_mut(sequence)) {
            *says |= *special == 0 && token != "▁";
        }
    }
    says.contains(&false)
}

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs the tokenizer library; tables in a tokenizer.json that contradict each other make it panic, which is an error of the
/// file like any other. Where panics abort, the panic ends the program.
///
/// # Errors
/// The library's error, or one line for a panic of it.
pub fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    // The hook would print the panic as if thimble had broken. It is replaced once and asks the thread, because several
    // threads tokenize at a time and each swapping hooks could lose the one there was.
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

/// Largest tokenizer.json read; those with a million tokens have half of it.
const MAX_BYTES: u64 = 64 << 20;

/// The bytes of a tokenizer.json.
///
/// # Errors
/// [`TokenizeError::Io`], and [`TokenizeError::Format`] for a file above 64 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, TokenizeError> {
    let io = |cause| TokenizeError::Io {
        path: path.to_path_buf(),
        cause,
    };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MAX_BYTES {
        return Err(TokenizeError::Format {
            path: path.to_path_buf(),
            problem: format!("it has {length} bytes, at most {MAX_BYTES} are read"),
        });
    }
    files::read(path).map_err(io)
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
