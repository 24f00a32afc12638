//! Writes a tokenizer.json: in come the parts that differ from tokenizer to tokenizer, out comes the file as the tokenizers library
//! reads it, with the rules of the slow tokenizer inside, which that library passes over.

use super::error::TokenizerError;
use super::settings::{AddedToken, Settings, SpecialTokens};
use crate::models::file_names;
use serde::Serialize;
use serde_json::{Value, json};
use thimble_text::MAX_LENGTH;
use thimble_text::slow::{MEMBER, SlowRules};

/// The parts of a file that only its kind of tokenizer knows.
pub struct Parts {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub model: Value,
    pub decoder: Value,
}

/// The whole file, compact.
pub fn write(
    parts: Parts,
    tokens: &SpecialTokens,
    settings: &Settings,
    rules: &SlowRules,
) -> Result<String, TokenizerError> {
    let mut added: Vec<Added> = tokens.added.iter().map(Added::of).collect();
    added.sort_by_key(|token| token.id);
    let (cls, cls_id) = tokens.needed("cls_token", settings)?;
    let (sep, sep_id) = tokens.needed("sep_token", settings)?;
    let special = |token: &str, kind: u8| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: u8| json!({"Sequence": {"id": name, "type_id": kind}});
    let single = [special(cls, 0), text("A", 0), special(sep, 0)];
    let pair = [&single[..], &[text("B", 1), special(sep, 1)]].concat();
    let mut decoder = parts.decoder;
    decoder[MEMBER] = serde_json::to_value(rules).map_err(|e| settings.wrong(MEMBER, e.to_string()))?;
    if let Some(length) = settings.max_length() {
        decoder[MAX_LENGTH] = length.into();
    }
    let whole = File {
        added_tokens: added,
        decoder,
        model: parts.model,
        normalizer: parts.normalizer,
        padding: (),
        post_processor: json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": {
                cls: {"id": cls, "ids": [cls_id], "tokens": [cls]},
                sep: {"id": sep, "ids": [sep_id], "tokens": [sep]},
            },
        }),
        pre_tokenizer: parts.pre_tokenizer,
        truncation: (),
        version: "1.0",
    };
    serde_json::to_string(&whole).map_err(|e| settings.wrong(file_names::TOKENIZER, e.to_string()))
}

/// A tokenizer.json; the order is that of names, as in its values.
#[derive(Serialize)]
struct File<'a> {
    added_tokens: Vec<Added<'a>>,
    decoder: Value,
    model: Value,
    normalizer: Value,
    padding: (),
    post_processor: Value,
    pre_tokenizer: Value,
    truncation: (),
    version: &'a str,
}

#[derive(Serialize)]
struct Added<'a> {
    content: &'a str,
    id: u32,
    lstrip: bool,
    normalized: bool,
    rstrip: bool,
    single_word: bool,
    special: bool,
}

impl<'a> Added<'a> {
    fn of((id, token): &'a (u32, AddedToken)) -> Added<'a> {
        Added {
            content: &token.content,
            id: *id,
            lstrip: token.lstrip,
            normalized: token.normalized,
            rstrip: token.rstrip,
            single_word: token.single_word,
            special: token.special,
        }
    }
}

/// The rules every slow tokenizer has; `lowers` is whether texts are lower-cased before they are split.
pub fn rules(
    settings: &Settings,
    tokens: &SpecialTokens,
    lowers: bool,
    tokenizer: thimble_text::slow::Class,
) -> Result<SlowRules, TokenizerError> {
    let truncate_left = match settings.get("truncation_side").map(|side| side.as_str()) {
        None | Some(Some("right")) => false,
        Some(Some("left")) => true,
        Some(_) => return Err(settings.wrong("truncation_side", "must be \"left\" or \"right\"".into())),
    };
    Ok(SlowRules {
        keep_case: lowers.then(|| tokens.keep_case()),
        split_special_tokens: settings.flag("split_special_tokens", false)?,
        truncate_left,
        mask_token: tokens.role("mask_token").map(str::to_string),
        pad_token: tokens.role("pad_token").map(str::to_string),
        tokenizer,
    })
}
