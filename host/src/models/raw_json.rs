//! The parts of a valid JSON text as they are spelt, so that a file can be rewritten without touching the digits of numbers
//! that stay: parsing and printing a score again could change its last place. In: minified JSON that was parsed before;
//! out: slices of it. On other text the parts are meaningless, but never a panic.
//!
//! Written by hand, because serde_json's `RawValue` would save some twenty lines: members in the order of the text need a
//! visitor with it too. Its feature `raw_value` is one for the whole workspace, and all that stands on serde_json, tract-onnx
//! and tokenizers among it, compiles again for it.

/// The members of an object: keys decoded, values as they are spelt.
pub fn members(json: &str) -> Vec<(String, &str)> {
    parts(json)
        .into_iter()
        .filter_map(|member| {
            let end = value_end(member);
            let key = serde_json::from_str(member.get(..end)?).ok()?;
            Some((key, member.get(end..)?.strip_prefix(':')?))
        })
        .collect()
}

/// The elements of an array.
pub fn elements(json: &str) -> Vec<&str> {
    parts(json)
}

/// An object of members as they are spelt.
pub fn object(members: Vec<(String, String)>) -> String {
    let each = members
        .into_iter()
        .map(|(key, value)| format!("{}:{value}", serde_json::Value::from(key)));
    format!("{{{}}}", each.collect::<Vec<_>>().join(","))
}

/// What stands between the commas of the outermost array or object.
fn parts(json: &str) -> Vec<&str> {
    let inside = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < inside.len() {
        if inside.as_bytes()[at] == b',' {
            found.push(&inside[start..at]);
            at += 1;
            start = at;
        } else {
            // A key, its colon and its value follow each other.
            at += value_end(&inside[at..]).max(1);
            while !inside.is_char_boundary(at) {
                at += 1;
            }
        }
    }
    if start < inside.len() {
        found.push(&inside[start..]);
    }
    found
}

/// Where the string, array, object or plain value that `json` starts with ends.
fn value_end(json: &str) -> usize {
    let bytes = json.as_bytes();
    let (mut depth, mut at) = (0usize, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' | b':' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
        if depth == 0 && matches!(bytes.get(at - 1), Some(b'"' | b']' | b'}')) {
            break;
        }
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_spelt_as_in_the_text() {
        assert_eq!(elements("[]"), Vec::<&str>::new());
        assert_eq!(
            elements(r#"[["a,]",-1.50],["▁\"b",2e3],null]"#),
            [r#"["a,]",-1.50]"#, r#"["▁\"b",2e3]"#, "null"]
        );
        let json = r#"{"a":{"b":[1,2]},"c\n:":"x:y","d":-0.0}"#;
        let found = members(json);
        let want = [("a", r#"{"b":[1,2]}"#), ("c\n:", r#""x:y""#), ("d", "-0.0")];
        assert_eq!(found, want.map(|(k, v)| (k.to_string(), v)));
        let again = object(found.into_iter().map(|(k, v)| (k, v.to_string())).collect());
        assert_eq!(again, json);
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in ["", "{", "[\"", "{\"a\\", "]]]", "é", "[é", "{\"é\":\"\\", "[,,]"] {
            members(text);
            elements(text);
        }
    }
}
