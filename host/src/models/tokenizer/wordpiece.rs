//! BertTokenizer's vocab.txt as tokenizer.json: in come the lines, one token each and its id the line's number from 0, out comes
//! the file with BertTokenizer's rules.

use super::MOST_TOKENS;
use super::error::TokenizerError;
use super::json::{self, Parts};
use super::settings::{AddedToken, ROLES, Settings};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;
use thimble_text::slow::{CONTINUES, Class, MOST_CHARACTERS, WordPieceRules};

/// Converts the vocabulary in `bytes`, read from `path`; a note comes with it where it lacks tokens. Memory: some ten times the
/// file.
pub fn convert(path: &Path, bytes: &[u8], settings: &Settings) -> Result<(String, Option<String>), TokenizerError> {
    let format = |problem: String| TokenizerError::Format {
        path: path.to_path_buf(),
        problem,
    };
    let text = std::str::from_utf8(bytes).map_err(|e| {
        format(format!(
            "is no vocabulary: it is not UTF-8 after byte {}",
            e.valid_up_to()
        ))
    })?;
    if text.contains('\0') {
        return Err(format("is no vocabulary: it holds zero bytes".into()));
    }
    // As Python reads lines: CRLF and a lone CR end one too, and what follows the last end is a line where it is not empty.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines = || text.strip_suffix('\n').unwrap_or(&text).split('\n');
    if lines().nth(MOST_TOKENS).is_some() {
        return Err(format(format!("has more than the {MOST_TOKENS} lines that are read")));
    }
    let vocabulary: HashMap<&str, u32> = lines().zip(0..).collect();
    let default = |content: &str| Some(AddedToken::special(content));
    let defaults: [_; ROLES.len()] = [
        None,
        None,
        default("[UNK]"),
        default("[SEP]"),
        default("[PAD]"),
        default("[CLS]"),
        default("[MASK]"),
    ];
    let tokens = settings.tokens(&vocabulary, defaults)?;
    let (unknown, _) = tokens.needed("unk_token", settings)?;
    if !vocabulary.contains_key(unknown) {
        return Err(format(format!("has no {unknown}, which is its unk_token")));
    }
    let lacks = tokens.lacking(&vocabulary, settings)?;
    let rules = WordPieceRules {
        do_basic_tokenize: settings.flag("do_basic_tokenize", true)?,
        do_lower_case: settings.flag("do_lower_case", true)?,
        tokenize_chinese_chars: settings.flag("tokenize_chinese_chars", true)?,
        strip_accents: settings.strip_accents()?,
        never_split: never_split(settings)?,
        special: tokens.special.clone(),
    };
    let lowers = rules.do_basic_tokenize && rules.do_lower_case;
    let parts = Parts {
        normalizer: json!({
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": rules.tokenize_chinese_chars,
            "strip_accents": rules.strip_accents, "lowercase": rules.do_lower_case,
        }),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        model: json!({
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": CONTINUES,
            "max_input_chars_per_word": MOST_CHARACTERS,
            "vocab": vocabulary.iter().map(|(token, id)| (token.to_string(), (*id).into())).collect::<Map<String, Value>>(),
        }),
        decoder: json!({"type": "WordPiece", "prefix": CONTINUES, "cleanup": true}),
    };
    let rules = json::rules(settings, &tokens, lowers, Class::Bert(rules))?;
    Ok((json::write(parts, &tokens, settings, &rules)?, lacks))
}

fn never_split(settings: &Settings) -> Result<Vec<String>, TokenizerError> {
    let wrong = || settings.wrong("never_split", "must be a list of texts".into());
    let Some(list) = settings.get("never_split") else {
        return Ok(Vec::new());
    };
    let list = list.as_array().ok_or_else(wrong)?;
    list.iter()
        .map(|word| word.as_str().map(str::to_string).ok_or_else(wrong))
        .collect()
}
