//! Reads JSON as Python's `json` does, which wrote the files: NaN and Infinity are values there. In comes a path, out comes a
//! value in which they are the texts that Python prints for them.

use super::SourceError;
use serde_json::Value;
use std::path::Path;
use thimble_shared::file_kind::FileKind;
use thimble_shared::files;

/// Largest JSON file read beside a checkpoint.
const MAX_JSON: u64 = 64 << 20;

/// What Python's `json` takes for a number and JSON does not, and what Python prints for it.
const NUMBERS: [(&[u8], &[u8]); 3] = [
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
        kind @ (FileKind::LfsPointer(_) | FileKind::Html) => SourceError::Foreign {
            path: path.to_path_buf(),
            kind,
        },
        _ => format(format!("invalid JSON: {e}")),
    })
}

/// The value a text of JSON states.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(text).or_else(|error| match spelled_out(text) {
        Some(text) => serde_json::from_slice(&text),
        None => Err(error),
    })
}

/// The text with Python's numbers as texts; none where it has none.
fn spelled_out(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut at, mut found, mut quoted) = (0, false, false);
    while at < text.len() {
        let number = NUMBERS
            .iter()
            .find(|(number, _)| !quoted && text[at..].starts_with(number));
        if let Some((number, printed)) = number {
            out.extend(*printed);
            at += number.len();
            found = true;
            continue;
        }
        // What a backslash escapes ends no text.
        let step = if quoted && text[at] == b'\\' { 2 } else { 1 };
        quoted ^= text[at] == b'"';
        let end = (at + step).min(text.len());
        out.extend(&text[at..end]);
        at = end;
    }
    found.then_some(out)
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
        for wrong in [&b"{\"a\": nan}"[..], b"{\"a\": \"NaN}", b"{\"a\": \"\\", b"NaN NaN"] {
            assert!(parse(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
