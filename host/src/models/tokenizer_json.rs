//! Rewrites a `tokenizer.json` compactly for travelling with a model; turning text into tokens is thimble-text's, which the
//! board shares.

use std::path::Path;
pub use thimble_device::image::digest::sha256;
pub use thimble_text::{Encoded, Place, Splitter, TokenizeError, Tokenizer, guarded, read};

/// The tokenizer.json at `path` as minified JSON that says exactly the same.
pub fn compact(path: &Path) -> Result<String, TokenizeError> {
    let format = |problem: String| TokenizeError::Format {
        path: path.to_path_buf(),
        problem,
    };
    let text = String::from_utf8(read(path)?).map_err(|e| format(e.to_string()))?;
    let before: serde_json::Value = serde_json::from_str(&text).map_err(|e| format(e.to_string()))?;
    if !before.get("model").is_some_and(|m| m.is_object()) {
        return Err(format("it has no \"model\"".into()));
    }
    let small = minify(&text);
    match serde_json::from_str::<serde_json::Value>(&small) {
        Ok(after) if after == before => Ok(small),
        _ => Err(format("it cannot be minified without changing it".into())),
    }
}

/// Drops white space between the lexemes of valid JSON and writes escaped characters as themselves. Numbers keep their
/// digits: parsing and printing them again could change a score by one unit in the last place.
fn minify(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(c) = rest.chars().next() {
        let (_, after) = rest.split_at(c.len_utf8());
        rest = after;
        match c {
            ' ' | '\t' | '\n' | '\r' => {}
            '"' => {
                out.push('"');
                rest = string(rest, &mut out);
            }
            c => out.push(c),
        }
    }
    out
}

/// Copies a string's inside and its closing quote to `out`; gives what follows.
fn string<'a>(mut rest: &'a str, out: &mut String) -> &'a str {
    while let Some(at) = rest.find(['"', '\\']) {
        out.push_str(&rest[..at]);
        if rest[at..].starts_with('"') {
            out.push('"');
            return &rest[at + 1..];
        }
        let (decoded, len) = match rest.get(at + 1..at + 2) {
            Some("u") => unicode(&rest[at..]),
            Some("/") => (Some('/'), 2),
            _ => (None, 2),
        };
        let end = at.saturating_add(len).min(rest.len());
        match decoded.filter(|c| !c.is_control() && *c != '"' && *c != '\\') {
            Some(c) => out.push(c),
            None => out.push_str(rest.get(at..end).unwrap_or_default()),
        }
        rest = rest.get(end..).unwrap_or_default();
    }
    out.push_str(rest);
    ""
}

/// The character of a `\uXXXX` escape or a surrogate pair of them, and the escape's length.
fn unicode(escape: &str) -> (Option<char>, usize) {
    let unit = |at: usize| {
        let digits = escape.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(0) else { return (None, 2) };
    match char::from_u32(first.into()) {
        Some(c) => (Some(c), 6),
        None => match unit(6).map(|second| char::decode_utf16([first, second]).next()) {
            Some(Some(Ok(c))) => (Some(c), 12),
            _ => (None, 6),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minifying_keeps_strings_and_digits() {
        let cases = [
            (
                r#"{ "a" : [ 1.10 , -3.2807435989379883 ] }"#,
                r#"{"a":[1.10,-3.2807435989379883]}"#,
            ),
            (r#"{"a b": "c \" d"}"#, r#"{"a b":"c \" d"}"#),
            (r#"["\u2581the", "\u00e9"]"#, r#"["▁the","é"]"#),
            (r#"["\ud83d\ude00"]"#, r#"["😀"]"#),
            (r#"["\u0000\u0022\u005c\n\/"]"#, r#"["\u0000\u0022\u005c\n/"]"#),
            (r#"["\\"]"#, r#"["\\"]"#),
            ("{\n\t\"x\"\r\n: null}", r#"{"x":null}"#),
        ];
        for (before, after) in cases {
            assert_eq!(minify(before), after);
            let parse = |s: &str| serde_json::from_str::<serde_json::Value>(s).unwrap();
            assert_eq!(parse(before), parse(after));
        }
    }
}
