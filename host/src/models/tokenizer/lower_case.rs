//! A tokenizer.json that lower-cases texts, made of one that keeps their case: what sentence-transformers does to a tokenizer where
//! `do_lower_case` asks for it. In and out: the compact JSON text.

use crate::models::raw_json;
use serde_json::{Value, json};
use thimble_text::slow::MEMBER;

/// The tokenizer with lower-casing; none where it lower-cases already, or is no tokenizer.
pub fn lower_casing(json: &str) -> Option<String> {
    let members = raw_json::members(json);
    let decoder = members.iter().find(|(name, _)| name == "decoder");
    let slow = decoder.is_some_and(|(_, spelt)| spelt.contains(&format!("\"{MEMBER}\"")));
    let mut changed = false;
    let mut fields = vec![];
    for (name, spelt) in &members {
        let new = match (name.as_str(), slow) {
            ("decoder", true) => slow_rules(spelt),
            ("normalizer", false) => normalizer(spelt),
            _ => None,
        };
        changed |= new.is_some();
        fields.push((name.clone(), new.unwrap_or_else(|| spelt.to_string())));
    }
    changed.then(|| raw_json::object(fields))
}

/// A slow tokenizer's rules.
fn slow_rules(spelt: &str) -> Option<String> {
    let mut decoder: Value = serde_json::from_str(spelt).ok()?;
    let class = decoder.get_mut(MEMBER)?.get_mut("tokenizer")?.as_object_mut()?;
    let options = class.values_mut().next()?.as_object_mut()?;
    let before = options.insert("do_lower_case".into(), true.into());
    (before != Some(true.into())).then(|| decoder.to_string())
}

/// The library's normalizer, after one that lower-cases.
fn normalizer(spelt: &str) -> Option<String> {
    let normalizer: Value = serde_json::from_str(spelt).ok()?;
    if lowers(&normalizer) {
        return None;
    }
    let first = json!({"type": "Lowercase"});
    let all = match &normalizer {
        Value::Null => vec![first],
        Value::Object(object) if object.get("type") == Some(&"Sequence".into()) => {
            let rest = object.get("normalizers")?.as_array()?;
            std::iter::once(first).chain(rest.iter().cloned()).collect()
        }
        other => vec![first, other.clone()],
    };
    Some(json!({"type": "Sequence", "normalizers": all}).to_string())
}

fn lowers(normalizer: &Value) -> bool {
    match normalizer["type"].as_str() {
        Some("Lowercase") => true,
        Some("BertNormalizer") => normalizer["lowercase"] == true,
        Some("Sequence") => normalizer["normalizers"]
            .as_array()
            .is_some_and(|all| all.iter().any(lowers)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_lower_cased_first_and_once() {
        let cases = [
            (
                r#"{"normalizer":null,"model":{}}"#,
                Some(r#"{"normalizer":{"normalizers":[{"type":"Lowercase"}],"type":"Sequence"},"model":{}}"#),
            ),
            (
                r#"{"normalizer":{"type":"NFKD"}}"#,
                Some(r#"{"normalizer":{"normalizers":[{"type":"Lowercase"},{"type":"NFKD"}],"type":"Sequence"}}"#),
            ),
            (
                r#"{"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKD"}]}}"#,
                Some(r#"{"normalizer":{"normalizers":[{"type":"Lowercase"},{"type":"NFKD"}],"type":"Sequence"}}"#),
            ),
            (
                r#"{"normalizer":{"type":"Sequence","normalizers":[{"type":"Lowercase"}]}}"#,
                None,
            ),
            (r#"{"normalizer":{"type":"BertNormalizer","lowercase":true}}"#, None),
            (
                r#"{"decoder":{"slow":{"tokenizer":{"AlbertTokenizer":{"do_lower_case":true}}}},"normalizer":null}"#,
                None,
            ),
            (
                r#"{"decoder":{"slow":{"tokenizer":{"AlbertTokenizer":{"do_lower_case":false}}}},"normalizer":null}"#,
                Some(
                    r#"{"decoder":{"slow":{"tokenizer":{"AlbertTokenizer":{"do_lower_case":true}}}},"normalizer":null}"#,
                ),
            ),
            ("[]", None),
        ];
        for (json, want) in cases {
            assert_eq!(lower_casing(json).as_deref(), want, "{json}");
        }
    }
}
