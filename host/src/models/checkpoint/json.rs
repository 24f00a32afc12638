//! Reads JSON as Python's `json` does, which wrote the files: NaN, Infinity, integers of any size, floats beyond f64 and lone
//! halves of surrogates are values there. In comes a path, out comes a value in which numbers that JSON has not are the texts that
//! Python prints for them, and lone surrogates the replacement character.

use super::SourceError;
use serde_json::Value;
use std::path::Path;
use thimble_shared::file_kind::FileKind;
use thimble_shared::files;

/// Largest JSON file read beside a checkpoint.
const MAX_JSON: u64 = 64 << 20;

/// What Python's `json` takes for a number and JSON does not, and what Python prints for it.
const WORDS: [(&[u8], &[u8]); 3] = [
    (b"-Infinity", b"\"-inf\""),
    (b"Infinity", b"\"inf\""),
    (b"NaN", b"\"nan\""),
];

/// Reads the JSON file at `path`.
pub fn read(path: &Path) -> Result<Value, SourceError> {
    let io = |cause| SourceError::Io {
        path: path.to_path_buf(),
        cause,
    };
    let len = std::fs::metadata(path).map_err(io)?.len();
    let format = |problem: String| SourceError::Format {
        path: path.to_path_buf(),
        problem,
    };
    if len > MAX_JSON {
        return Err(format(format!("{len} bytes of JSON, at most {MAX_JSON} are read")));
    }
    let text = files::read(path).map_err(io)?;
    parse(&text).map_err(|e| match FileKind::of(&text) {
        kind @ (FileKind::LfsPointer(_) | FileKind::Html | FileKind::ErrorPage) => SourceError::Foreign {
            path: path.to_path_buf(),
            kind,
        },
        _ => format(format!("invalid JSON: {e}")),
    })
}

/// The value a text of JSON states.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(&rewritten(text))
}

/// The text in JSON's own words.
fn rewritten(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let (mut at, mut quoted) = (0, false);
    while let Some(&byte) = text.get(at) {
        let rest = &text[at..];
        let (len, new) = match byte {
            b'"' => {
                quoted = !quoted;
                (1, None)
            }
            // What a backslash escapes ends no text.
            b'\\' if quoted => escape(rest),
            b'0'..=b'9' | b'-' | b'I' | b'N' if !quoted => number(rest),
            _ => (1, None),
        };
        let end = (at + len).min(text.len());
        match new {
            Some(new) => out.extend(new),
            None => out.extend(&text[at..end]),
        }
        at = end;
    }
    out
}

/// How long the number at the start of `text` is, and what stands for it where JSON has no such number.
fn number(text: &[u8]) -> (usize, Option<Vec<u8>>) {
    if let Some((word, printed)) = WORDS.iter().find(|(word, _)| text.starts_with(word)) {
        return (word.len(), Some(printed.to_vec()));
    }
    let len = text
        .iter()
        .take_while(|b| b.is_ascii_digit() || b"+-.eE".contains(b))
        .count();
    let Some(digits) = std::str::from_utf8(&text[..len]).ok().filter(|_| len > 0) else {
        return (1, None);
    };
    let integer = digits.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let is_long = || integer && digits.parse::<i64>().is_err() && digits.parse::<u64>().is_err();
    let after_zero = digits.trim_start_matches('-').starts_with(['0', '.']);
    let printed = match digits.parse::<f64>() {
        _ if digits == "-0" => "0".to_string(),
        Ok(_) if !after_zero && is_long() => format!("\"{digits}\""),
        Ok(x) if !after_zero && x.is_infinite() => format!("\"{x}\""),
        _ => return (len, None),
    };
    (len, Some(printed.into_bytes()))
}

/// How long the escape at the start of `text` is, and what stands for it where it is one half of a character.
fn escape(text: &[u8]) -> (usize, Option<Vec<u8>>) {
    let unit = |text: &[u8]| {
        let digits = text.strip_prefix(b"\\u")?.get(..4)?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let next = text.get(6..).and_then(unit);
    match unit(text) {
        Some(0xd800..=0xdbff) if matches!(next, Some(0xdc00..=0xdfff)) => (12, None),
        Some(0xd800..=0xdfff) => (6, Some(b"\\ufffd".to_vec())),
        Some(_) => (6, None),
        None => (2, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pythons_numbers_are_read_as_python_prints_them() {
        let text = br#"{"a": NaN, "b": [Infinity, -Infinity], "NaN": "Infinity \" NaN", "c": 1}"#;
        let want = json!({"a": "nan", "b": ["inf", "-inf"], "NaN": "Infinity \" NaN", "c": 1});
        assert_eq!(parse(text).unwrap(), want);
        for (text, want) in [
            ("1e400", json!("inf")),
            ("-1e400", json!("-inf")),
            ("12345678901234567890123", json!("12345678901234567890123")),
            ("-9223372036854775809", json!("-9223372036854775809")),
            ("18446744073709551615", json!(u64::MAX)),
            ("-0", json!(0)),
            ("[-0.0, 1e-7, 5]", json!([-0.0, 1e-7, 5])),
            (r#""\ud83d""#, json!("\u{fffd}")),
            (r#""\ud83dx""#, json!("\u{fffd}x")),
            (r#""\ude00\ud83d\ude00""#, json!("\u{fffd}\u{1f600}")),
            (r#""\\ud83d 1e400""#, json!("\\ud83d 1e400")),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), want, "{text}");
        }
        for wrong in [
            &b"{\"a\": nan}"[..],
            b"{\"a\": \"NaN}",
            b"{\"a\": \"\\",
            b"NaN NaN",
            b"01",
            b"1-",
            b"--1",
            b"\"\\u12\"",
            b"1e400.5",
            b"01e400",
        ] {
            assert!(parse(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
