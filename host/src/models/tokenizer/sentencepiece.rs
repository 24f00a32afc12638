//! AlbertTokenizer's spiece.model as tokenizer.json: in comes SentencePiece's ModelProto
//! (<https://github.com/google/sentencepiece/blob/v0.2.0/src/sentencepiece_model.proto>), out comes the file with the rules of
//! AlbertTokenizer and of SentencePiece itself.

use super::MOST_TOKENS;
use super::error::TokenizerError;
use super::json::{self, Parts};
use super::settings::{AddedToken, ROLES, Settings};
use base64::encode;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use thimble_shared::onnx::protobuf::{Field, Fields, WireError};
use thimble_text::LONGEST_PIECE;
use thimble_text::slow::{
    AlbertRules, Algorithm, COMMA_PENALTY, CharsMap, Class, SPACE, SentencePieceRules, ends_in_number_comma,
    user_defined_score,
};

/// SentencePiece.Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Debug)]
struct Piece<'a> {
    text: &'a str,
    score: f32,
    kind: Kind,
}

/// What is read of a ModelProto.
struct Proto<'a> {
    pieces: Vec<Piece<'a>>,
    model_type: i64,
    treat_whitespace_as_suffix: bool,
    byte_fallback: bool,
    charsmap: &'a [u8],
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

/// TrainerSpec.ModelType.
const UNIGRAM: i64 = 1;
const BPE: i64 = 2;

impl<'a> Proto<'a> {
    fn read(bytes: &'a [u8]) -> Result<Proto<'a>, String> {
        let mut proto = Proto {
            pieces: Vec::new(),
            model_type: UNIGRAM,
            treat_whitespace_as_suffix: false,
            byte_fallback: false,
            charsmap: &[],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        };
        let damaged =
            |_| "is no SentencePiece model, or a damaged one: its protobuf does not hold together".to_string();
        for field in Fields::new(bytes) {
            let field = field.map_err(damaged)?;
            match field.number {
                1 => {
                    let id = proto.pieces.len();
                    if id == MOST_TOKENS {
                        return Err(format!("has more than the {MOST_TOKENS} pieces that are read"));
                    }
                    proto.pieces.push(piece(&field, id)?);
                }
                2 => proto.trainer(&field).map_err(damaged)?,
                3 => proto.normalizer(&field).map_err(damaged)?,
                _ => {}
            }
        }
        if proto.pieces.is_empty() {
            return Err("is no SentencePiece model: it has no pieces".into());
        }
        Ok(proto)
    }

    fn trainer(&mut self, field: &Field<'a>) -> Result<(), WireError> {
        for field in field.fields()? {
            let field = field?;
            match field.number {
                3 => self.model_type = field.int()?,
                24 => self.treat_whitespace_as_suffix = field.int()? != 0,
                35 => self.byte_fallback = field.int()? != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, field: &Field<'a>) -> Result<(), WireError> {
        for field in field.fields()? {
            let field = field?;
            match field.number {
                2 => self.charsmap = field.bytes()?,
                3 => self.add_dummy_prefix = field.int()? != 0,
                4 => self.remove_extra_whitespaces = field.int()? != 0,
                5 => self.escape_whitespaces = field.int()? != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// Ids by text, where the pieces hold together as SentencePiece itself asks.
    fn ids(&self) -> Result<HashMap<&'a str, u32>, String> {
        let mut ids = HashMap::with_capacity(self.pieces.len());
        let mut bytes = 0;
        for (piece, id) in self.pieces.iter().zip(0u32..) {
            if piece.text.is_empty() || piece.text.contains('\0') {
                return Err(format!("piece {id} is empty or holds a zero byte"));
            }
            if piece.text.len() > LONGEST_PIECE {
                let length = piece.text.len();
                return Err(format!(
                    "piece {id} has {length} bytes, at most {LONGEST_PIECE} are read"
                ));
            }
            if let Some(first) = ids.insert(piece.text, id) {
                return Err(format!("piece {id}, {:?}, is piece {first} as well", piece.text));
            }
            if !piece.score.is_finite() {
                return Err(format!("piece {id}, {:?}, has the score {}", piece.text, piece.score));
            }
            bytes += usize::from(piece.kind == Kind::Byte);
        }
        match self.pieces.iter().filter(|p| p.kind == Kind::Unknown).count() {
            1 => {}
            count => return Err(format!("{count} of its pieces are the unknown one, one is needed")),
        }
        if self.byte_fallback || bytes > 0 {
            let found = (0..=u8::MAX).filter(|byte| {
                let id = ids.get(format!("<0x{byte:02X}>").as_str());
                id.is_some_and(|&id| self.pieces[id as usize].kind == Kind::Byte)
            });
            if found.count() != 256 || bytes != 256 || !self.byte_fallback {
                return Err(format!(
                    "{bytes} of its pieces are bytes; with byte_fallback there are 256, without it none"
                ));
            }
        }
        Ok(ids)
    }

    fn texts(&self, kinds: &[Kind]) -> Vec<String> {
        let of = self.pieces.iter().filter(|p| kinds.contains(&p.kind));
        of.map(|p| p.text.to_string()).collect()
    }

    fn rules(&self) -> SentencePieceRules {
        let normal = self.pieces.iter().filter(|p| p.kind == Kind::Normal);
        SentencePieceRules {
            add_dummy_prefix: self.add_dummy_prefix,
            remove_extra_whitespaces: self.remove_extra_whitespaces,
            escape_whitespaces: self.escape_whitespaces,
            treat_whitespace_as_suffix: self.treat_whitespace_as_suffix,
            byte_fallback: self.byte_fallback,
            reserved: self.texts(&[Kind::Control, Kind::Byte]),
            user_defined: self.texts(&[Kind::UserDefined]),
            unused: self.texts(&[Kind::Unused]),
            least_score: normal.map(|p| p.score).fold(f32::MAX, f32::min),
            algorithm: if self.model_type == BPE {
                Algorithm::Bpe(self.pieces.iter().map(|p| p.score).collect())
            } else {
                Algorithm::Unigram
            },
        }
    }

    /// The library's model. It knows no kinds of pieces: symbols of the user get the score SentencePiece counts for them.
    fn model(&self, unknown: u32) -> Result<Value, String> {
        if self.model_type == BPE {
            let vocab = self.pieces.iter().zip(0u32..);
            let vocab: Map<String, Value> = vocab.map(|(p, id)| (p.text.to_string(), id.into())).collect();
            return Ok(json!({
                "type": "BPE", "dropout": null, "unk_token": self.pieces[unknown as usize].text, "fuse_unk": true,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "byte_fallback": self.byte_fallback, "vocab": vocab, "merges": self.merges()?,
            }));
        }
        let entry = |piece: &Piece| {
            let mut score = f64::from(match piece.kind {
                Kind::UserDefined => user_defined_score(piece.text),
                _ => piece.score,
            });
            if ends_in_number_comma(piece.text) {
                score -= COMMA_PENALTY;
            }
            json!([piece.text, score])
        };
        Ok(json!({
            "type": "Unigram", "unk_id": unknown, "byte_fallback": self.byte_fallback,
            "vocab": self.pieces.iter().map(entry).collect::<Vec<_>>(),
        }))
    }

    /// The pairs BPE merges, greatest score first: each piece's halves that are pieces too.
    fn merges(&self) -> Result<Vec<[&'a str; 2]>, String> {
        let normal = || self.pieces.iter().filter(|p| p.kind == Kind::Normal);
        let known: HashSet<&str> = normal().map(|p| p.text).collect();
        let most = normal().map(|p| p.text.len()).sum::<usize>() * MERGED;
        let (mut merges, mut bytes) = (Vec::new(), 0);
        for piece in normal() {
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if known.contains(left) && known.contains(right) {
                    bytes += piece.text.len();
                    merges.push((piece.score, [left, right]));
                }
            }
            if bytes > most {
                return Err(format!(
                    "its pieces are made of each other in more than {MERGED} ways each: the list of merges would be too long"
                ));
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok(merges.into_iter().map(|(_, pair)| pair).collect())
    }
}

/// Bytes of merges for each byte of BPE's pieces; real ones have a fourth of it.
const MERGED: usize = 16;

/// One SentencePiece message; `id` is its number among them.
fn piece<'a>(field: &Field<'a>, id: usize) -> Result<Piece<'a>, String> {
    let damaged = |_| format!("piece {id} does not hold together or is not UTF-8");
    let mut piece = Piece {
        text: "",
        score: 0.0,
        kind: Kind::Normal,
    };
    for field in field.fields().map_err(damaged)? {
        let field = field.map_err(damaged)?;
        match field.number {
            1 => piece.text = field.text().map_err(damaged)?,
            2 => piece.score = field.float().map_err(damaged)?,
            3 => {
                piece.kind = match field.int().map_err(damaged)? {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => {
                        return Err(format!(
                            "piece {id} is of type {other}, which SentencePiece does not have"
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// The symbols of the user in the model in `bytes`; none where it is no model.
pub fn user_defined(bytes: &[u8]) -> Vec<String> {
    Proto::read(bytes).map_or(Vec::new(), |proto| proto.texts(&[Kind::UserDefined]))
}

/// Converts the model in `bytes`, read from `path`; a note comes with it where it lacks tokens. Memory: some ten times the file.
pub fn convert(path: &Path, bytes: &[u8], settings: &Settings) -> Result<(String, Option<String>), TokenizerError> {
    let format = |problem: String| TokenizerError::Format {
        path: path.to_path_buf(),
        problem,
    };
    let proto = Proto::read(bytes).map_err(format)?;
    if ![UNIGRAM, BPE].contains(&proto.model_type) {
        return Err(format(format!(
            "its model is of type {}; Unigram (1) and BPE (2) are read",
            proto.model_type
        )));
    }
    refuse_sampling(settings)?;
    let ids = proto.ids().map_err(format)?;
    let rules = AlbertRules {
        do_lower_case: settings.flag("do_lower_case", true)?,
        remove_space: settings.flag("remove_space", true)?,
        keep_accents: settings.flag("keep_accents", false)?,
        sentencepiece: proto.rules(),
    };
    let default = |content: &str| Some(AddedToken::special(content));
    let mask = AddedToken {
        lstrip: true,
        ..AddedToken::special("[MASK]")
    };
    let defaults: [_; ROLES.len()] = [
        default("[CLS]"),
        default("[SEP]"),
        default("<unk>"),
        default("[SEP]"),
        default("<pad>"),
        default("[CLS]"),
        Some(mask),
    ];
    let tokens = settings.tokens(&ids, defaults)?;
    let lacks = tokens.lacking(&ids, settings)?;
    let unknown = proto.pieces.iter().position(|p| p.kind == Kind::Unknown).unwrap_or(0) as u32;
    let parts = Parts {
        normalizer: normalizer(&proto, &rules).map_err(format)?,
        pre_tokenizer: metaspace(&proto),
        model: proto.model(unknown).map_err(format)?,
        decoder: metaspace(&proto),
    };
    let lowers = rules.do_lower_case;
    let rules = json::rules(settings, &tokens, lowers, Class::Albert(rules))?;
    Ok((json::write(parts, &tokens, settings, &rules)?, lacks))
}

/// What AlbertTokenizer hands to SentencePiece: nothing that would make its answers random or longer is read.
fn refuse_sampling(settings: &Settings) -> Result<(), TokenizerError> {
    let given = settings.get("sp_model_kwargs").and_then(Value::as_object);
    for (name, value) in given.into_iter().flatten() {
        let harmless = ["nbest_size", "alpha"].contains(&name.as_str()) || value == &Value::Bool(false);
        if !harmless {
            return Err(settings.wrong(
                "sp_model_kwargs",
                format!("{name} is {value}; texts are split without sampling or additions"),
            ));
        }
    }
    Ok(())
}

fn metaspace(proto: &Proto) -> Value {
    let prefix = if proto.add_dummy_prefix { "always" } else { "never" };
    json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prefix, "split": true})
}

/// The library's normalization: Hugging Face's own conversion has the same steps.
fn normalizer(proto: &Proto, rules: &AlbertRules) -> Result<Value, String> {
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut steps = vec![replace("``", "\""), replace("''", "\"")];
    if !rules.keep_accents {
        steps.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
    }
    if rules.do_lower_case {
        steps.push(json!({"type": "Lowercase"}));
    }
    if !proto.charsmap.is_empty() {
        CharsMap::new(proto.charsmap)?.check()?;
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": encode(proto.charsmap)}));
    }
    steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    Ok(json!({"type": "Sequence", "normalizers": steps}))
}
