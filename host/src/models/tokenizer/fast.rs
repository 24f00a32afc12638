//! What the files beside a tokenizer.json change in it. In come the file and tokenizer_config.json, out comes the tokenizer as
//! transformers 4.57 loads it: BertTokenizerFast sets three options of its normalizer anew, and an input may be cut earlier.

use super::settings::Settings;
use super::{BERT, SPIECE, TokenizerError, TokenizerSource, class, read_vocabulary, sentencepiece};
use crate::models::raw_json;
use crate::models::tokenizer_json;
use crate::render::text::shell_path;
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use thimble_text::MAX_LENGTH;

/// Decoders in which the tokenizers library passes over members it does not know; ALBERT's and BERT's.
const DECODERS: [&str; 2] = ["Metaspace", "WordPiece"];

/// The tokenizer.json at `path`, with what `dir` says of it.
///
/// # Errors
/// Where tokenizer_config.json cannot be read or an option is none. A tokenizer.json that cannot be read is told by those who
/// open it.
pub fn read(path: PathBuf, dir: &Path) -> Result<TokenizerSource, TokenizerError> {
    let settings = Settings::options(dir)?;
    let bert = class(dir, &settings).filter(|(_, class)| BERT.contains(&class.as_str()));
    let length = settings.max_length();
    if bert.is_none() && length.is_none() {
        return Ok(TokenizerSource::File(path));
    }
    let Ok(json) = tokenizer_json::compact(&path) else {
        return Ok(TokenizerSource::File(path));
    };
    let (mut fields, mut changed, mut notes) = (Vec::new(), false, Vec::from_iter(note(&path)));
    for (name, spelt) in raw_json::members(&json) {
        let value = match (name.as_str(), &bert, length) {
            ("normalizer", Some((_, class)), _) => normalizer(spelt, &settings)?.inspect(|_| {
                let own = format!(
                    "texts are split by tokenizer.json, with tokenizer_config.json's options as {class}Fast sets them"
                );
                notes.push(own);
            }),
            ("decoder", _, Some(length)) => with_length(spelt, length),
            _ => None,
        };
        changed |= value.is_some();
        fields.push((name, value.unwrap_or_else(|| spelt.to_string())));
    }
    if !changed {
        return Ok(TokenizerSource::File(path));
    }
    Ok(TokenizerSource::Converted {
        path,
        json: raw_json::object(fields),
        note: (!notes.is_empty()).then(|| notes.join("; ")),
        beside: settings.files,
    })
}

/// A decoder that carries the most tokens of an input, where it is one that can.
fn with_length(spelt: &str, length: usize) -> Option<String> {
    let mut decoder: Value = serde_json::from_str(spelt).ok()?;
    let carries = DECODERS.iter().any(|kind| decoder["type"] == *kind);
    carries.then(|| {
        decoder[MAX_LENGTH] = length.into();
        decoder.to_string()
    })
}

/// BERT's normalizer with the options BertTokenizerFast sets, its own defaults included; none where it has them already or is
/// another one.
fn normalizer(spelt: &str, settings: &Settings) -> Result<Option<String>, TokenizerError> {
    let before: Value = serde_json::from_str(spelt).unwrap_or_default();
    if before["type"] != "BertNormalizer" {
        return Ok(None);
    }
    let mut after = before.clone();
    after["lowercase"] = settings.flag("do_lower_case", true)?.into();
    after["strip_accents"] = settings.strip_accents()?.into();
    after["handle_chinese_chars"] = settings.flag("tokenize_chinese_chars", true)?.into();
    Ok((after != before).then(|| after.to_string()))
}

/// What to say of a tokenizer.json that transformers made of the spiece.model beside it, where its texts are split otherwise:
/// its conversion makes the user's symbols added tokens, and the text behind each begins with a space.
pub fn note(path: &Path) -> Option<String> {
    let spiece = SPIECE
        .iter()
        .map(|name| path.with_file_name(name))
        .find(|path| path.is_file())?;
    let symbols: HashSet<String> = sentencepiece::user_defined(&read_vocabulary(&spiece).ok()?)
        .into_iter()
        .collect();
    if symbols.is_empty() {
        return None;
    }
    let json: Value = serde_json::from_slice(&tokenizer_json::read(path).ok()?).ok()?;
    let mut added = json.get("added_tokens")?.as_array()?.iter();
    let symbol = |token: &Value| {
        token["content"]
            .as_str()
            .is_some_and(|content| symbols.contains(content))
    };
    added.any(|token| token["special"] == false && symbol(token)).then(|| {
        format!(
            "texts are split by tokenizer.json, which begins a word anew behind each symbol of spiece.model's user; as AlbertTokenizer splits, without that: --tokenizer {}",
            shell_path(&spiece)
        )
    })
}
