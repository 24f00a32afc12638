//! Which tokens a corpus produces, and a tokenizer.json with only those. In: texts and a tokenizer whose model is Unigram or
//! WordPiece; out: the ids that stay, in order, and the file rewritten to match. Special tokens stay, and so does every
//! piece of a single character or byte: text of other corpora still encodes, in shorter pieces.

use crate::eval::columns;
use crate::eval::record::RecordError;
use crate::eval::records::Records;
use crate::eval::runner::Vocabulary;
use crate::models::raw_json::{elements, members, object};
use crate::models::tokenizer::TokenizerSource;
use crate::models::tokenizer_json::{Splitter, TokenizeError};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use thimble_shared::files;
use thimble_text::Library;
use tokenizers::{NormalizedString, Normalizer};

/// Why a vocabulary cannot be cut to a corpus.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    /// The operating system could not read the corpus.
    #[error("{path}: {cause}", path = .path.display())]
    Io {
        /// The corpus.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        cause: std::io::Error,
    },
    /// The corpus holds no text.
    #[error("{path}: no text in it; one text per line, JSON lines with \"text\", or a table with a column of texts", path = .path.display())]
    Empty {
        /// The corpus.
        path: PathBuf,
    },
    /// A line of the corpus is no text.
    #[error("{path}, line {line}: {problem}", path = .path.display())]
    Line {
        /// The corpus.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What was found.
        problem: String,
    },
    /// The corpus as a whole holds no texts.
    #[error("{path}: {problem}", path = .path.display())]
    Rows {
        /// The corpus.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A text of the corpus cannot be split.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// The tokenizer cannot be cut, or is another model's.
    #[error("{path}: {problem}", path = .path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What stands against it.
        problem: String,
    },
    /// The cut tokenizer splits a text of the corpus otherwise than the whole one.
    #[error("{path}, text {text}: the tokenizer splits it otherwise once the vocabulary is cut", path = .path.display())]
    Splits {
        /// The corpus.
        path: PathBuf,
        /// Number of the text, counted from 1.
        text: usize,
    },
}

/// A vocabulary cut to a corpus.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Old ids that stay, and the new id of each old one.
    pub vocabulary: Vocabulary,
    /// The rewritten tokenizer.json, compact.
    pub tokenizer: String,
    /// Texts read, and tokens before.
    pub texts: usize,
    /// Rows of the model's vocabulary before the cut.
    pub before: usize,
}

/// Cuts the vocabulary of the tokenizer at `tokenizer`, of a model with `vocab_size` rows, to what `corpus` produces.
///
/// # Errors
/// Any [`VocabularyError`].
pub fn cut(corpus: &Path, tokenizer: &TokenizerSource, vocab_size: usize) -> Result<Cut, VocabularyError> {
    let bad = |problem: String| VocabularyError::Tokenizer {
        path: tokenizer.path().to_path_buf(),
        problem,
    };
    let texts = texts(corpus)?;
    let json = tokenizer.compact()?;
    let table = Table::read(&json).map_err(bad)?;
    let old = Splitter::new(json.as_bytes()).map_err(bad)?;
    let mut splits = Vec::with_capacity(texts.len());
    let mut kept = table.always_kept(old.library());
    for text in &texts {
        let ids = encode(&old, text).map_err(bad)?;
        kept.extend(&ids);
        splits.push(ids);
    }
    if let Some(id) = kept.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(bad(format!(
            "its id {id} is beyond the model's {vocab_size} rows: this is another model's tokenizer"
        )));
    }
    // A word no piece covers to its end can be split otherwise when a piece goes that it began with. Keeping every piece
    // such a text contains settles it; a second pass proves it.
    for pass in 0..2 {
        let ids = new_ids(&kept);
        let rewritten = table.rewrite(&json, &ids).map_err(bad)?;
        let new = Splitter::new(rewritten.as_bytes()).map_err(bad)?;
        let mut wrong = Vec::new();
        for (i, (text, split)) in texts.iter().zip(&splits).enumerate() {
            let found = encode(&new, text).map_err(bad)?;
            if !split.iter().map(|id| ids.get(id)).eq(found.iter().map(Some)) {
                wrong.push(i);
            }
        }
        match wrong.first() {
            None => return Ok(finish(kept, &ids, rewritten, &table, texts.len(), vocab_size)),
            Some(&text) if pass == 1 => {
                let path = corpus.to_path_buf();
                return Err(VocabularyError::Splits { path, text: text + 1 });
            }
            Some(_) => wrong
                .into_iter()
                .for_each(|i| table.pieces_within(old.library(), &texts[i], &mut kept)),
        }
    }
    Err(bad("it cannot be cut".into()))
}

/// The tokens a candidate's tokenizer has of the reference's, by their text; `sizes` are the models' rows. None where it has a
/// token the reference does not know.
///
/// # Errors
/// Where one of the tokenizers cannot be read.
pub fn between(
    reference: &TokenizerSource,
    candidate: &TokenizerSource,
    sizes: (usize, usize),
) -> Result<Option<Vocabulary>, VocabularyError> {
    let open = |source: &TokenizerSource| {
        let bad = |problem| VocabularyError::Tokenizer {
            path: source.path().to_path_buf(),
            problem,
        };
        Splitter::new(source.compact()?.as_bytes()).map_err(bad)
    };
    let (old, new) = (open(reference)?, open(candidate)?);
    let known = |id: usize| {
        let token = new.library().id_to_token(u32::try_from(id).ok()?)?;
        Some(old.library().token_to_id(&token)? as usize).filter(|&id| id < sizes.0)
    };
    let Some(kept) = (0..sizes.1).map(known).collect::<Option<Vec<usize>>>() else {
        return Ok(None);
    };
    let unknown = ["<unk>", "[UNK]"]
        .iter()
        .find_map(|token| new.library().token_to_id(token))
        .unwrap_or(0);
    let mut ids = vec![i64::from(unknown); sizes.0];
    kept.iter().enumerate().for_each(|(new, &old)| ids[old] = new as i64);
    Ok(Some(Vocabulary { kept, ids }))
}

fn new_ids(kept: &BTreeSet<u32>) -> HashMap<u32, u32> {
    kept.iter().zip(0..).map(|(&old, new)| (old, new)).collect()
}

fn finish(
    kept: BTreeSet<u32>,
    ids: &HashMap<u32, u32>,
    tokenizer: String,
    table: &Table,
    texts: usize,
    before: usize,
) -> Cut {
    let unknown = table.unknown.and_then(|id| ids.get(&id)).copied().unwrap_or(0);
    let new = |old: usize| {
        u32::try_from(old)
            .ok()
            .and_then(|old| ids.get(&old))
            .copied()
            .unwrap_or(unknown)
    };
    Cut {
        vocabulary: Vocabulary {
            ids: (0..before).map(|old| i64::from(new(old))).collect(),
            kept: kept.into_iter().map(|id| id as usize).collect(),
        },
        tokenizer,
        texts,
        before,
    }
}

fn encode(tokenizer: &Splitter, text: &str) -> Result<Vec<u32>, String> {
    Ok(tokenizer.encode(text, None)?.get_ids().to_vec())
}

/// Every text of a corpus, in any form that rows of inputs have.
fn texts(path: &Path) -> Result<Vec<String>, VocabularyError> {
    let bytes = files::read(path).map_err(|cause| VocabularyError::Io {
        path: path.to_path_buf(),
        cause,
    })?;
    let bad = |error: RecordError| match error.line {
        Some(line) => VocabularyError::Line {
            path: path.to_path_buf(),
            line,
            problem: error.problem,
        },
        None => VocabularyError::Rows {
            path: path.to_path_buf(),
            problem: error.problem,
        },
    };
    let records = Records::open(&bytes, None, &[]).map_err(bad)?;
    let mut texts = Vec::new();
    let all: Vec<usize> = (0..records.len()).collect();
    records
        .take(&all, |record| {
            let before = texts.len();
            for found in columns::all_texts(&record.fields) {
                match found {
                    Value::String(text) => texts.push(text.clone()),
                    Value::Array(list) => texts.extend(list.iter().filter_map(Value::as_str).map(str::to_string)),
                    _ => {}
                }
            }
            match texts.len() == before && record.typed {
                true => Err(RecordError {
                    line: Some(record.line),
                    problem: r#"has no "text""#.into(),
                }),
                false => Ok(()),
            }
        })
        .map_err(bad)?;
    if texts.is_empty() {
        return Err(VocabularyError::Empty {
            path: path.to_path_buf(),
        });
    }
    Ok(texts)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unigram,
    WordPiece,
}

/// What a tokenizer.json says of its tokens.
struct Table {
    kind: Kind,
    /// Every piece of the model's vocabulary with its id, and Unigram's log probabilities as they are spelt.
    pieces: Vec<(String, u32)>,
    scores: Vec<String>,
    added: Vec<u32>,
    unknown: Option<u32>,
}

/// Special tokens, which not every file lists as added.
const SPECIAL: [&str; 9] = [
    "<pad>", "<unk>", "<mask>", "<s>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
];

/// How the two models mark a piece's place in its word.
const MARKS: [&str; 2] = ["▁", "##"];

impl Table {
    fn read(json: &str) -> Result<Table, String> {
        let model = members(json)
            .into_iter()
            .find_map(|(key, value)| (key == "model").then_some(value))
            .ok_or("it has no \"model\"")?;
        let fields = members(model);
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
        let vocab = field("vocab").ok_or("its model has no \"vocab\"")?;
        let kind = match field("type") {
            Some("\"Unigram\"") => Kind::Unigram,
            Some("\"WordPiece\"") => Kind::WordPiece,
            None if vocab.starts_with('[') => Kind::Unigram,
            other => {
                let found = other.unwrap_or("unnamed");
                return Err(format!(
                    "its model is {found}; vocabularies are cut of Unigram and WordPiece models"
                ));
            }
        };
        let text = |raw: &str| serde_json::from_str::<String>(raw).map_err(|e| e.to_string());
        let (mut pieces, mut scores) = (Vec::new(), Vec::new());
        if kind == Kind::Unigram {
            for (id, entry) in elements(vocab).into_iter().enumerate() {
                let [piece, score] = elements(entry)[..] else {
                    return Err(format!("entry {id} of its vocabulary is no pair"));
                };
                pieces.push((text(piece)?, id as u32));
                scores.push(score.to_string());
            }
        } else {
            for (piece, id) in members(vocab) {
                pieces.push((
                    piece,
                    id.parse().map_err(|_| format!("its vocabulary has the id {id}"))?,
                ));
            }
        }
        let unknown = match kind {
            Kind::Unigram => field("unk_id").and_then(|id| id.parse().ok()),
            Kind::WordPiece => {
                let token = field("unk_token").map(text).transpose()?;
                token.and_then(|t| pieces.iter().find(|(piece, _)| *piece == t).map(|(_, id)| *id))
            }
        };
        let whole: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let added = whole["added_tokens"].as_array().cloned().unwrap_or_default();
        let id = |token: &Value| token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        Ok(Table {
            kind,
            pieces,
            scores,
            added: added.iter().filter_map(id).collect(),
            unknown,
        })
    }

    /// Special and added tokens, the unknown token, pieces of one character or byte; of Unigram the least likely piece too,
    /// because the unknown token's score is counted from it.
    fn always_kept(&self, tokenizer: &Library) -> BTreeSet<u32> {
        let mut kept: BTreeSet<u32> = self.added.iter().copied().chain(self.unknown).collect();
        kept.extend(SPECIAL.iter().filter_map(|token| tokenizer.token_to_id(token)));
        kept.extend(
            tokenizer
                .encode_fast("", true)
                .iter()
                .flat_map(|e| e.get_ids().to_vec()),
        );
        let bare = |piece: &str| {
            MARKS
                .iter()
                .find_map(|mark| piece.strip_prefix(mark))
                .unwrap_or(piece)
                .chars()
                .count()
        };
        let byte = |piece: &str| piece.len() == 6 && piece.starts_with("<0x");
        let short = self.pieces.iter().filter(|(piece, _)| bare(piece) <= 1 || byte(piece));
        kept.extend(short.map(|(_, id)| *id));
        let score = |i: &usize| self.scores[*i].parse::<f64>().unwrap_or(0.0);
        let least = (0..self.scores.len()).min_by(|a, b| score(a).total_cmp(&score(b)));
        kept.extend(least.map(|i| i as u32));
        kept
    }

    /// Adds every piece the text contains.
    fn pieces_within(&self, tokenizer: &Library, text: &str, kept: &mut BTreeSet<u32>) {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = tokenizer.get_normalizer() {
            // A text it cannot normalize was not encoded either.
            let _ = normalizer.normalize(&mut normalized);
        }
        let text = normalized.get();
        let bare = |piece: &str| text.contains(MARKS.iter().fold(piece, |p, mark| p.trim_start_matches(mark)));
        kept.extend(self.pieces.iter().filter(|(piece, _)| bare(piece)).map(|(_, id)| *id));
    }

    /// The file with the pieces `ids` names, under their new ids; everything else stays as it is spelt.
    fn rewrite(&self, json: &str, ids: &HashMap<u32, u32>) -> Result<String, String> {
        let fields = members(json).into_iter().map(|(key, value)| {
            let value = match key.as_str() {
                "model" => self.model(value, ids),
                "added_tokens" | "post_processor" | "padding" => {
                    let mut value: Value = serde_json::from_str(value).map_err(|e| e.to_string())?;
                    renumber(&mut value, ids)?;
                    value.to_string()
                }
                _ => value.to_string(),
            };
            Ok((key, value))
        });
        Ok(object(fields.collect::<Result<Vec<_>, String>>()?))
    }

    fn model(&self, model: &str, ids: &HashMap<u32, u32>) -> String {
        let mut kept: Vec<(u32, usize)> = self
            .pieces
            .iter()
            .enumerate()
            .filter_map(|(i, (_, id))| Some((*ids.get(id)?, i)))
            .collect();
        kept.sort_unstable();
        let text = |i: usize| Value::from(self.pieces[i].0.as_str()).to_string();
        let entries = kept.iter().map(|&(id, i)| match self.kind {
            Kind::Unigram => format!("[{},{}]", text(i), self.scores[i]),
            Kind::WordPiece => format!("{}:{id}", text(i)),
        });
        let entries = entries.collect::<Vec<_>>().join(",");
        let fields = members(model).into_iter().map(|(key, value)| {
            let value = match (key.as_str(), self.kind) {
                ("vocab", Kind::Unigram) => format!("[{entries}]"),
                ("vocab", Kind::WordPiece) => format!("{{{entries}}}"),
                ("unk_id", Kind::Unigram) => match self.unknown.and_then(|id| ids.get(&id)) {
                    Some(id) => id.to_string(),
                    None => value.to_string(),
                },
                _ => value.to_string(),
            };
            (key, value)
        });
        object(fields.collect())
    }
}

/// Gives every id in added tokens, a post-processor or padding its new number.
fn renumber(value: &mut Value, ids: &HashMap<u32, u32>) -> Result<(), String> {
    let new = |id: &mut Value| -> Result<(), String> {
        let Some(old) = id.as_u64() else { return Ok(()) };
        let known = u32::try_from(old).ok().and_then(|old| ids.get(&old));
        *id = (*known.ok_or_else(|| format!("it names the id {old}, which no token has"))?).into();
        Ok(())
    };
    match value {
        Value::Array(list) => list.iter_mut().try_for_each(|item| renumber(item, ids)),
        Value::Object(fields) => fields
            .iter_mut()
            .try_for_each(|(key, item)| match (key.as_str(), item) {
                ("id" | "pad_id", item) if item.is_u64() => new(item),
                ("ids", Value::Array(list)) => list.iter_mut().try_for_each(new),
                // ["[SEP]", 3], as BertProcessing and RobertaProcessing have it.
                ("sep" | "cls", Value::Array(pair)) => pair.iter_mut().try_for_each(new),
                (_, item) => renumber(item, ids),
            }),
        _ => Ok(()),
    }
}
