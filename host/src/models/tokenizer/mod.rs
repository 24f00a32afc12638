//! Tokenizers beside models: in comes a folder or a file, out comes a tokenizer.json, as it stands there or converted from
//! AlbertTokenizer's spiece.model or BertTokenizer's vocab.txt and the JSON files beside it. Converted, it gives the ids of the
//! slow tokenizers of transformers 4.57.

mod error;
mod fast;
mod json;
mod lower_case;
mod sentencepiece;
mod settings;
mod wordpiece;

pub use error::TokenizerError;

use crate::models::file_names::{self, CONFIG, TOKENIZER_CONFIG};
use crate::models::tokenizer_json::{self, TokenizeError, Tokenizer};
use settings::{Settings, model_config};
use std::path::{Path, PathBuf};
use thimble_shared::files;
use thimble_shared::model::Config;

/// The names a tokenizer has in a model's folder, the first that is there being read: transformers', then those of Google's
/// releases.
const SPIECE: [&str; 2] = ["spiece.model", "30k-clean.model"];
const VOCAB: [&str; 2] = ["vocab.txt", "vocab_chinese.txt"];

/// Largest vocabulary read, and most tokens of one: twice those of the largest published.
const MAX_BYTES: u64 = 16 << 20;
const MOST_TOKENS: usize = 1 << 20;

/// A tokenizer a model is used with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerSource {
    /// A tokenizer.json.
    File(PathBuf),
    /// A tokenizer.json made from other files, or changed as they say.
    Converted {
        /// The vocabulary: spiece.model, vocab.txt or tokenizer.json.
        path: PathBuf,
        /// The whole tokenizer.json, as text.
        json: String,
        /// Whose texts it splits alike, and what else a person should know.
        note: Option<String>,
        /// The other files read for it.
        beside: Vec<PathBuf>,
    },
}

impl TokenizerSource {
    /// The file the vocabulary stands in, which errors name.
    pub fn path(&self) -> &Path {
        match self {
            TokenizerSource::File(path) | TokenizerSource::Converted { path, .. } => path,
        }
    }

    /// Every file it was read from.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            TokenizerSource::File(path) => vec![path],
            TokenizerSource::Converted { path, beside, .. } => {
                std::iter::once(path).chain(beside).map(PathBuf::as_path).collect()
            }
        }
    }

    /// The tokenizer.json that travels with a model: compact, and saying exactly the same.
    ///
    /// # Errors
    /// Where the file cannot be read or is none.
    pub fn compact(&self) -> Result<String, TokenizeError> {
        match self {
            TokenizerSource::File(path) => tokenizer_json::compact(path),
            TokenizerSource::Converted { json, .. } => Ok(json.clone()),
        }
    }

    /// The tokenizer set to a model.
    ///
    /// # Errors
    /// Where the file cannot be read, is none, or the model has no room for a text.
    pub fn open(&self, config: &Config) -> Result<Tokenizer, TokenizeError> {
        match self {
            TokenizerSource::File(path) => Tokenizer::open(path, config),
            TokenizerSource::Converted { path, json, .. } => Tokenizer::new(path, json.as_bytes(), config),
        }
    }

    /// The same for lower-cased texts, as sentence-transformers sets it where `do_lower_case` asks for it. What cannot be read stays
    /// as it is: whoever opens it says so.
    pub fn lower_casing(self) -> TokenizerSource {
        let Some(changed) = self.compact().ok().and_then(|json| lower_case::lower_casing(&json)) else {
            return self;
        };
        let note = "texts are lower-cased: do_lower_case of sentence_bert_config.json is true";
        let notes: Vec<String> = self.note().into_iter().chain([note.to_string()]).collect();
        TokenizerSource::Converted {
            path: self.path().to_path_buf(),
            json: changed,
            note: Some(notes.join("; ")),
            beside: self.files().into_iter().skip(1).map(Path::to_path_buf).collect(),
        }
    }

    /// What a person should know of it: which file was read, and as what.
    pub fn note(&self) -> Option<String> {
        match self {
            TokenizerSource::File(path) => fast::note(path),
            TokenizerSource::Converted { note, .. } => note.clone(),
        }
    }
}

/// The tokenizer in a folder, or none where there is none: tokenizer.json, otherwise spiece.model or vocab.txt, converted.
///
/// # Errors
/// Where one is there and cannot be read.
pub fn find(dir: &Path) -> Result<Option<TokenizerSource>, TokenizerError> {
    let there = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
    if let Some(path) = there(file_names::TOKENIZER) {
        return fast::read(path, dir).map(Some);
    }
    let (spiece, vocab) = (SPIECE.into_iter().find_map(there), VOCAB.into_iter().find_map(there));
    if spiece.is_none() && vocab.is_none() {
        return Ok(None);
    }
    let settings = Settings::read(dir)?;
    let path = if is_bert(dir, &settings)? {
        vocab.or(spiece)
    } else {
        spiece.or(vocab)
    };
    path.map(|path| convert(path, settings)).transpose()
}

/// The tokenizer in a model's folder, with a note where it is converted or cannot be read: a model without texts is one too.
pub fn beside(dir: &Path, notes: &mut Vec<String>) -> Option<TokenizerSource> {
    match find(dir) {
        Ok(found) => {
            notes.extend(found.as_ref().and_then(TokenizerSource::note));
            found
        }
        Err(e) => {
            notes.push(format!("texts cannot be read: {e}"));
            None
        }
    }
}

/// The tokenizer a user names: tokenizer.json, spiece.model, vocab.txt, or a folder with one of them.
///
/// # Errors
/// Where there is none or it cannot be read.
pub fn named(path: &Path) -> Result<TokenizerSource, TokenizerError> {
    if path.is_dir() {
        return find(path)?.ok_or_else(|| TokenizerError::Missing {
            path: path.to_path_buf(),
        });
    }
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    let json = path.extension().is_some_and(|e| e == "json");
    if json || first_byte(path)? == Some(b'{') {
        // Under another name it is one that travels with a model, and whole.
        return match path.file_name().is_some_and(|name| name == file_names::TOKENIZER) {
            true => fast::read(path.to_path_buf(), dir),
            false => Ok(TokenizerSource::File(path.to_path_buf())),
        };
    }
    let settings = Settings::read(dir)?;
    is_bert(dir, &settings)?;
    convert(path.to_path_buf(), settings)
}

fn first_byte(path: &Path) -> Result<Option<u8>, TokenizerError> {
    let mut byte = [0];
    let read = files::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut byte));
    match read {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(byte[0])),
        Err(cause) => Err(TokenizerError::Io {
            path: path.to_path_buf(),
            cause,
        }),
    }
}

/// The class the files name, without `Fast`, and the file that does.
fn class(dir: &Path, settings: &Settings) -> Option<(PathBuf, String)> {
    if let Some(class) = settings.class() {
        return Some((dir.join(TOKENIZER_CONFIG), class.into()));
    }
    let json = model_config(dir)?;
    let class = json.get("tokenizer_class")?.as_str()?;
    Some((dir.join(CONFIG), class.strip_suffix("Fast").unwrap_or(class).into()))
}

/// BertTokenizer, and the names it also has.
const BERT: [&str; 4] = [
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "MobileBertTokenizer",
];

/// Whether the class the files name is BertTokenizer; other classes than it and AlbertTokenizer are refused.
fn is_bert(dir: &Path, settings: &Settings) -> Result<bool, TokenizerError> {
    match class(dir, settings) {
        None => Ok(false),
        Some((_, class)) if ["AlbertTokenizer", "PreTrainedTokenizer"].contains(&class.as_str()) => Ok(false),
        Some((_, class)) if BERT.contains(&class.as_str()) => Ok(true),
        Some((path, class)) => Err(TokenizerError::Class { path, class }),
    }
}

/// Whether a vocabulary is BertTokenizer's: text, which a SentencePiece model is not. The usual names decide first, so that
/// a damaged file is refused as what it was.
fn is_vocabulary(path: &Path, bytes: &[u8]) -> bool {
    match path.extension().and_then(|e| e.to_str()) {
        Some("txt") => true,
        Some("model") => false,
        _ => !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok(),
    }
}

/// The bytes of a spiece.model or vocab.txt.
fn read_vocabulary(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let io = |cause| TokenizerError::Io {
        path: path.to_path_buf(),
        cause,
    };
    let format = |problem: String| TokenizerError::Format {
        path: path.to_path_buf(),
        problem,
    };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MAX_BYTES {
        return Err(format(format!("{length} bytes, at most {MAX_BYTES} are read")));
    }
    let bytes = files::read(path).map_err(io)?;
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(format(
            "is a Git LFS pointer, not the vocabulary itself; fetch it with git lfs pull".into(),
        ));
    }
    Ok(bytes)
}

fn convert(path: PathBuf, settings: Settings) -> Result<TokenizerSource, TokenizerError> {
    let bytes = read_vocabulary(&path)?;
    let (class, (json, lacks)) = if is_vocabulary(&path, &bytes) {
        ("BertTokenizer", wordpiece::convert(&path, &bytes, &settings)?)
    } else {
        ("AlbertTokenizer", sentencepiece::convert(&path, &bytes, &settings)?)
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let lacks = lacks.map_or(String::new(), |lacks| format!("; {lacks}"));
    Ok(TokenizerSource::Converted {
        note: Some(format!("texts are split as {class} does with {name}{lacks}")),
        path,
        json,
        beside: settings.files,
    })
}
