//! Tokens as the slow tokenizers of transformers give them, for what a tokenizer.json cannot tell the tokenizers library: in goes
//! text, out comes that library's [`Encoding`] with the ids of AlbertTokenizer or BertTokenizer. The rules travel as the member
//! `slow` of the file's `decoder`, which other readers of the file pass over.

mod added;
mod albert;
mod aligned;
mod charsmap;
mod lexicon;
mod sentencepiece;
mod tables;
mod wordpiece;

pub use albert::{AlbertRules, COMMA_PENALTY, ends_in_number_comma};
pub use charsmap::CharsMap;
pub use sentencepiece::{Algorithm, SPACE, SentencePieceRules, user_defined_score};
pub use wordpiece::{CONTINUES, MOST_CHARACTERS, WordPieceRules};

use super::{Library, guarded, pieces};
use added::{AddedToken, AddedTokens};
use albert::Albert;
use aligned::{Char, aligned, lower_one};
use base64::decode;
use sentencepiece::SentencePiece;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{Encoding, TruncationParams, TruncationStrategy};
use wordpiece::WordPiece;

/// The member of a tokenizer.json's `decoder` that holds [`SlowRules`].
pub const MEMBER: &str = "slow";

/// What a slow tokenizer does beside what the rest of its tokenizer.json says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlowRules {
    /// Where texts are lower-cased before they are split: what is left as it is, the first that fits being taken.
    pub keep_case: Option<Vec<String>>,
    /// Split added tokens that stand in a text like any other text.
    pub split_special_tokens: bool,
    /// Whether long texts lose their beginning instead of their end.
    pub truncate_left: bool,
    /// Text of the token that stands for a blank, e.g. `[MASK]`; `None` where the tokenizer has none.
    pub mask_token: Option<String>,
    /// Text of the padding token, e.g. `<pad>`; `None` where the tokenizer has none.
    pub pad_token: Option<String>,
    /// How the text between added tokens is split.
    pub tokenizer: Class,
}

/// The class in transformers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Class {
    /// SentencePiece pieces.
    #[serde(rename = "AlbertTokenizer")]
    Albert(AlbertRules),
    /// Words, then word pieces.
    #[serde(rename = "BertTokenizer")]
    Bert(WordPieceRules),
}

/// What is read of a tokenizer.json.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    post_processor: Option<Value>,
    model: Model,
    decoder: Decoder,
}

#[derive(Deserialize)]
struct Decoder {
    slow: SlowRules,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocabulary,
    unk_id: Option<u32>,
    unk_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    Scored(Vec<(String, f64)>),
    Numbered(HashMap<String, u32>),
}

impl Vocabulary {
    /// All tokens with their ids; an added one takes the place of the piece that has its id.
    fn with(&self, added: &[AddedToken]) -> Map<String, Value> {
        let taken: HashSet<u32> = added.iter().map(|token| token.id).collect();
        let piece = |text: &String, id: u32| (!taken.contains(&id)).then(|| (text.clone(), id.into()));
        let mut all: Map<String, Value> = match self {
            Vocabulary::Scored(list) => list
                .iter()
                .zip(0..)
                .filter_map(|((text, _), id)| piece(text, id))
                .collect(),
            Vocabulary::Numbered(table) => table.iter().filter_map(|(text, id)| piece(text, *id)).collect(),
        };
        all.extend(added.iter().map(|token| (token.content.clone(), token.id.into())));
        all
    }
}

/// A slow tokenizer.
pub struct Slow {
    rules: SlowRules,
    added: AddedTokens,
    pieces: Pieces,
}

enum Pieces {
    Albert(Box<Albert>),
    Bert(Box<WordPiece>),
}

impl Slow {
    /// The slow tokenizer a tokenizer.json states, and the library's with what both have in common: all tokens with their ids,
    /// the normalizer, and what is put around texts. In place of the model it has a list, which takes less memory.
    ///
    /// # Errors
    /// What is wrong with the file, or what its class of tokenizer lacks.
    pub fn read(json: &[u8]) -> Result<(Slow, Library), String> {
        let file: File = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let rules = file.decoder.slow;
        let tokens = file.model.vocab.with(&file.added_tokens);
        let charsmap = file.normalizer.as_ref().map(charsmap).transpose()?.flatten();
        let library = json!({
            "model": {"type": "WordLevel", "vocab": tokens, "unk_token": ""},
            "normalizer": file.normalizer,
            "post_processor": file.post_processor,
        });
        let library: Library = guarded(|| Ok(serde_json::from_value(library)?))?;
        let pieces = match (&rules.tokenizer, file.model.vocab) {
            (Class::Albert(options), vocab) => {
                let (vocabulary, unknown) = scored(vocab, file.model.unk_id, file.model.unk_token.as_deref())?;
                Pieces::Albert(Box::new(Albert {
                    options: options.clone(),
                    model: SentencePiece::new(vocabulary, unknown, options.sentencepiece.clone(), charsmap)?,
                }))
            }
            (Class::Bert(options), Vocabulary::Numbered(vocabulary)) => {
                let unknown = file.model.unk_token.ok_or("its model has no \"unk_token\"")?;
                Pieces::Bert(Box::new(WordPiece::new(
                    numbered(vocabulary)?,
                    unknown,
                    options.clone(),
                )))
            }
            (Class::Bert(_), Vocabulary::Scored(_)) => {
                return Err("its vocabulary has scores, a BertTokenizer's none".into());
            }
        };
        let slow = Slow {
            added: AddedTokens::new(file.added_tokens),
            rules,
            pieces,
        };
        Ok((slow, library))
    }

    /// The rules as the tokenizer.json states them.
    pub fn rules(&self) -> &SlowRules {
        &self.rules
    }

    /// The id of what no token covers.
    pub fn unknown(&self) -> u32 {
        match &self.pieces {
            Pieces::Albert(albert) => albert.model.unknown(),
            Pieces::Bert(bert) => bert.unknown(),
        }
    }

    /// A text's tokens, without those that are put around it.
    pub fn encode(&self, text: &str) -> Encoding {
        let mut text = aligned(text);
        if let Some(kept) = &self.rules.keep_case {
            text = lower_each(&text, kept);
        }
        let mut tokens = Tokens::default();
        if self.rules.split_special_tokens {
            self.plain(&text, &mut tokens);
        } else {
            for stretch in self.added.split(&text) {
                match stretch.added {
                    Some(id) => {
                        tokens.words += 1;
                        tokens.push(id, aligned::string(&stretch.chars), &stretch.chars);
                    }
                    None => self.plain(&stretch.chars, &mut tokens),
                }
            }
        }
        tokens.encoding()
    }

    /// The tokens of a text without added tokens.
    fn plain(&self, text: &[Char], tokens: &mut Tokens) {
        match &self.pieces {
            Pieces::Albert(albert) => {
                tokens.words += 1;
                for (i, piece) in albert.encode(text).into_iter().enumerate() {
                    if i > 0 && piece.text.starts_with(SPACE) {
                        tokens.words += 1;
                    }
                    let id = self
                        .added
                        .id(&piece.text)
                        .unwrap_or_else(|| albert.model.id(&piece.text));
                    tokens.push(id, piece.text, &piece.chars);
                }
            }
            Pieces::Bert(bert) => {
                let first = tokens.words + 1;
                for token in bert.encode(text) {
                    tokens.words = first + token.word;
                    let id = self.added.id(&token.text).or_else(|| bert.id(&token.text));
                    tokens.push(id.unwrap_or(0), token.text, &token.chars);
                }
            }
        }
    }

    /// Which end of a long text is cut off.
    pub fn direction(&self) -> TruncationDirection {
        if self.rules.truncate_left {
            TruncationDirection::Left
        } else {
            TruncationDirection::Right
        }
    }

    /// Cuts a pair to `params.max_length` tokens together as `PreTrainedTokenizerBase.truncate_sequences` does where the strategy
    /// is longest first: one token at a time from the longer, of equal ones from the second. The library leaves the odd token
    /// to the other.
    pub fn truncate(&self, first: &mut Encoding, second: &mut Encoding, params: &TruncationParams) {
        if params.strategy != TruncationStrategy::LongestFirst {
            return;
        }
        let (mut a, mut b) = (first.len(), second.len());
        while a + b > params.max_length {
            if a > b {
                a -= 1;
            } else {
                b -= 1;
            }
        }
        first.truncate(a, params.stride.min(a.saturating_sub(1)), params.direction);
        second.truncate(b, params.stride.min(b.saturating_sub(1)), params.direction);
    }
}

/// A vocabulary of pieces and ids in little memory.
fn numbered(vocabulary: HashMap<String, u32>) -> Result<pieces::Pieces, String> {
    let mut list: Vec<(u32, String)> = vocabulary.into_iter().map(|(piece, id)| (id, piece)).collect();
    list.sort_unstable();
    let mut pieces = pieces::Pieces::default();
    list.iter().try_for_each(|(id, piece)| pieces.push(piece, *id))?;
    Ok(pieces.finished())
}

/// A vocabulary by id, and the unknown piece's id.
fn scored(
    vocab: Vocabulary,
    unk_id: Option<u32>,
    unk_token: Option<&str>,
) -> Result<(Vec<(String, f32)>, u32), String> {
    match vocab {
        Vocabulary::Scored(list) => {
            let score = |piece: &str, score: f64| match ends_in_number_comma(piece) {
                true => (score + COMMA_PENALTY) as f32,
                false => score as f32,
            };
            let of = |(piece, s): (String, f64)| {
                let s = score(&piece, s);
                (piece, s)
            };
            let unknown = unk_id.ok_or("its model has no \"unk_id\"")?;
            Ok((list.into_iter().map(of).collect(), unknown))
        }
        Vocabulary::Numbered(map) => {
            let unknown = unk_token.and_then(|token| map.get(token).copied());
            let unknown = unknown.ok_or("its vocabulary lacks the \"unk_token\"")?;
            let mut list: Vec<(u32, String)> = map.into_iter().map(|(piece, id)| (id, piece)).collect();
            list.sort_unstable();
            if list.iter().zip(0..).any(|((id, _), place)| *id != place) {
                return Err("the ids of its vocabulary leave a gap or repeat".into());
            }
            Ok((list.into_iter().map(|(_, piece)| (piece, 0.0)).collect(), unknown))
        }
    }
}

/// The precompiled character map of a normalizer or of those it is a sequence of.
fn charsmap(normalizer: &Value) -> Result<Option<CharsMap>, String> {
    let one = std::slice::from_ref(normalizer);
    let all = normalizer
        .get("normalizers")
        .and_then(Value::as_array)
        .map_or(one, Vec::as_slice);
    let map = all.iter().find_map(|n| n.get("precompiled_charsmap")?.as_str());
    let Some(map) = map else { return Ok(None) };
    let blob = decode(map).map_err(|_| "its character map is not base64")?;
    Ok(Some(CharsMap::new(&blob)?))
}

/// Every character in lower case by itself, but for the words `kept`.
fn lower_each(text: &[Char], kept: &[String]) -> Vec<Char> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let fits = |word: &&String| {
            let mut chars = rest.iter().map(|c| c.c);
            !word.is_empty() && word.chars().all(|c| chars.next() == Some(c))
        };
        if let Some(word) = kept.iter().find(fits) {
            let (whole, after) = rest.split_at(word.chars().count());
            out.extend(whole);
            rest = after;
        } else {
            out.extend(lower_one(*first));
            rest = after;
        }
    }
    out
}

/// Tokens on their way into an [`Encoding`].
#[derive(Default)]
struct Tokens {
    ids: Vec<u32>,
    tokens: Vec<String>,
    places: Vec<(usize, usize)>,
    numbers: Vec<Option<u32>>,
    /// Words begun; the current one has this number less one.
    words: u32,
}

impl Tokens {
    fn push(&mut self, id: u32, token: String, chars: &[Char]) {
        let start = chars.iter().map(|c| c.start).min().unwrap_or(0);
        let end = chars.iter().map(|c| c.end).max().unwrap_or(start);
        self.ids.push(id);
        self.tokens.push(token);
        self.places.push((start, end));
        self.numbers.push(Some(self.words.saturating_sub(1)));
    }

    fn encoding(self) -> Encoding {
        let count = self.ids.len();
        Encoding::new(
            self.ids,
            vec![0; count],
            self.tokens,
            self.numbers,
            self.places,
            vec![0; count],
            vec![1; count],
            vec![],
            Default::default(),
        )
    }
}
