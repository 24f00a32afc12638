//! The model of a tokenizer.json as the tokenizers library asks it: in goes a stretch of text, out come its tokens. Unigram,
//! WordPiece and WordLevel are kept in little memory; every other model is the library's.

use crate::pieces::Pieces;
use crate::unigram::{Scored, Unigram};
use crate::words::{WholeWords, WordPieces};
use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, Model, Result, Token, Trainer};

/// The model of a tokenizer.json.
pub struct PieceModel(Kind);

enum Kind {
    Unigram(Unigram),
    WordPieces(WordPieces),
    WholeWords(WholeWords),
    /// Any other.
    Library(Box<ModelWrapper>),
}

impl<'de> Deserialize<'de> for PieceModel {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<PieceModel, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = PieceModel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tokenizer's model")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<PieceModel, A::Error> {
                let mut fields = Map::new();
                let mut vocabulary = None;
                while let Some(key) = map.next_key::<String>()? {
                    // Where the type is known by then, as in every file that the library writes, the vocabulary goes straight
                    // from the file into its tables.
                    vocabulary = match (key.as_str(), fields.get("type").and_then(Value::as_str)) {
                        ("vocab", Some("Unigram")) => Some(Vocabulary::Scored(map.next_value()?)),
                        ("vocab", Some("WordPiece" | "WordLevel")) => Some(Vocabulary::Numbered(map.next_value()?)),
                        _ => {
                            fields.insert(key, map.next_value()?);
                            continue;
                        }
                    };
                }
                model(fields, vocabulary).map(PieceModel).map_err(A::Error::custom)
            }
        }
        from.deserialize_map(Fields)
    }
}

/// A vocabulary that was read straight from the file.
enum Vocabulary {
    Scored(Scored),
    Numbered(Pieces),
}

fn model(mut fields: Map<String, Value>, vocabulary: Option<Vocabulary>) -> std::result::Result<Kind, String> {
    let named = fields.get("type").and_then(Value::as_str).map(str::to_string);
    // Files from before models had a type: only Unigram's vocabulary is a list.
    let list = fields.get("vocab").is_some_and(Value::is_array);
    match named.as_deref() {
        None if list && !fields.contains_key("type") => {}
        Some("Unigram" | "WordPiece" | "WordLevel") => {}
        _ => {
            let model: ModelWrapper = read(Value::Object(fields))?;
            return Ok(Kind::Library(Box::new(model)));
        }
    }
    let vocab = fields.remove("vocab");
    let mut field = |name: &str| fields.remove(name).unwrap_or(Value::Null);
    let numbered = |vocabulary| match (vocabulary, vocab.clone()) {
        (Some(Vocabulary::Numbered(pieces)), _) => Ok(pieces),
        (_, Some(vocab)) => read(vocab),
        (_, None) => Err("a model without \"vocab\"".to_string()),
    };
    match named.as_deref() {
        Some("WordPiece") => Ok(Kind::WordPieces(WordPieces {
            unk_token: required("unk_token", field("unk_token"))?,
            continuing_subword_prefix: required("continuing_subword_prefix", field("continuing_subword_prefix"))?,
            max_input_chars_per_word: required("max_input_chars_per_word", field("max_input_chars_per_word"))?,
            pieces: numbered(vocabulary)?,
        })),
        Some("WordLevel") => Ok(Kind::WholeWords(WholeWords {
            unk_token: required("unk_token", field("unk_token"))?,
            pieces: numbered(vocabulary)?,
        })),
        _ => {
            let scored = match (vocabulary, vocab) {
                (Some(Vocabulary::Scored(read)), _) => read,
                (_, Some(vocab)) => read(vocab)?,
                (_, None) => return Err("a model without \"vocab\"".into()),
            };
            let fallback: Option<bool> = read(field("byte_fallback"))?;
            Unigram::new(scored, read(field("unk_id"))?, fallback.unwrap_or(false)).map(Kind::Unigram)
        }
    }
}

fn read<T: DeserializeOwned>(value: Value) -> std::result::Result<T, String> {
    serde_json::from_value(value).map_err(|e| e.to_string())
}

fn required<T: DeserializeOwned>(name: &str, value: Value) -> std::result::Result<T, String> {
    match value {
        Value::Null => Err(format!("a model without \"{name}\"")),
        value => read(value).map_err(|e| format!("\"{name}\": {e}")),
    }
}

impl PieceModel {
    /// The pieces, where they are kept here.
    fn pieces(&self) -> std::result::Result<&Pieces, &ModelWrapper> {
        match &self.0 {
            Kind::Unigram(model) => Ok(&model.pieces),
            Kind::WordPieces(model) => Ok(&model.pieces),
            Kind::WholeWords(model) => Ok(&model.pieces),
            Kind::Library(model) => Err(model),
        }
    }
}

impl Model for PieceModel {
    type Trainer = NoTrainer;

    fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        match &self.0 {
            Kind::Unigram(model) => model.tokenize(text),
            Kind::WordPieces(model) => model.tokenize(text),
            Kind::WholeWords(model) => model.tokenize(text),
            Kind::Library(model) => model.tokenize(text),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self.pieces() {
            Ok(pieces) => pieces.id(token),
            Err(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self.pieces() {
            Ok(pieces) => pieces.piece(id).map(str::to_string),
            Err(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self.pieces() {
            Ok(pieces) => pieces.iter().map(|(piece, id)| (piece.to_string(), id)).collect(),
            Err(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self.pieces() {
            Ok(pieces) => pieces.len(),
            Err(model) => model.get_vocab_size(),
        }
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("a tokenizer that was read is not written".into())
    }

    fn get_trainer(&self) -> NoTrainer {
        NoTrainer
    }
}

/// The trainer of a model that is only read.
pub struct NoTrainer;

impl Trainer for NoTrainer {
    type Model = PieceModel;

    fn should_show_progress(&self) -> bool {
        false
    }

    fn train(&self, _: &mut PieceModel) -> Result<Vec<AddedToken>> {
        Err("a tokenizer that was read is not trained".into())
    }

    fn feed<I, S, F>(&mut self, _: I, _: F) -> Result<()>
    where
        I: Iterator<Item = S> + Send,
        S: AsRef<str> + Send,
        F: Fn(&str) -> Result<Vec<String>> + Sync,
    {
        Err("a tokenizer that was read is not trained".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_may_come_last_or_not_at_all() {
        let vocab = r#""vocab":[["<unk>",0],["a\u0062",-1.5]]"#;
        let cases = [
            format!(r#"{{"type":"Unigram","unk_id":0,{vocab}}}"#),
            format!(r#"{{"unk_id":0,{vocab},"byte_fallback":false,"type":"Unigram"}}"#),
            format!(r#"{{"unk_id":0,{vocab}}}"#),
        ];
        for json in cases {
            let model: PieceModel = serde_json::from_str(&json).unwrap();
            assert!(matches!(model.0, Kind::Unigram(_)), "{json}");
            let tokens = model.tokenize("abz").unwrap();
            assert_eq!(
                tokens.iter().map(|token| token.id).collect::<Vec<u32>>(),
                [1, 0],
                "{json}"
            );
        }
        let words: PieceModel =
            serde_json::from_str(r#"{"vocab":{"a":0},"type":"WordLevel","unk_token":"a"}"#).unwrap();
        assert!(matches!(words.0, Kind::WholeWords(_)));
        let merges: PieceModel = serde_json::from_str(r#"{"type":"BPE","vocab":{"a":0},"merges":[]}"#).unwrap();
        assert!(matches!(merges.0, Kind::Library(_)));
        let beyond = r#"{"type":"Unigram","unk_id":2,"vocab":[["a",0]]}"#;
        let problem = serde_json::from_str::<PieceModel>(beyond).err().unwrap().to_string();
        assert!(
            problem.contains("\"unk_id\" is 2, the vocabulary has 1 pieces"),
            "{problem}"
        );
    }
}
