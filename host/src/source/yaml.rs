//! Reads the YAML of a training configuration as PyYAML's safe loader would: in comes text, out comes a value of JSON's kinds.
//! Tags are passed over. An alias repeats a scalar only: lists and mappings that repeat each other could ask for any amount of
//! memory.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;

/// Largest text; training configurations have a few thousand bytes.
pub const MAX_YAML: usize = 1 << 20;
/// Lists and mappings inside each other.
const MAX_DEPTH: usize = 64;
/// Scalars, lists and mappings of a text.
const MAX_NODES: usize = 1 << 16;

/// Why a text is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// It is no YAML.
    #[error("invalid YAML: {0}")]
    Syntax(String),
    /// It is larger or deeper than any training configuration.
    #[error("more than {0}, which no training configuration has")]
    TooMuch(String),
    /// An alias repeats a list or a mapping.
    #[error("line {0}: an alias repeats a list or a mapping, which is not read; write it out")]
    Alias(usize),
    /// A mapping's key is a list or a mapping.
    #[error("line {0}: a key is no text")]
    Key(usize),
}

/// A list or mapping that is not yet closed.
enum Open {
    List(Vec<Value>),
    /// With the key whose value comes next.
    Map(Map<String, Value>, Option<String>),
}

/// Reads the first document of `text`.
///
/// # Errors
/// Text that is no YAML, is too large, or repeats more than scalars.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    if text.len() > MAX_YAML {
        return Err(YamlError::TooMuch(format!("{MAX_YAML} bytes")));
    }
    let mut open: Vec<Open> = Vec::new();
    let mut scalars: HashMap<usize, Value> = HashMap::new();
    let mut nodes = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| YamlError::Syntax(e.to_string()))?;
        let line = span.start.line();
        nodes += 1;
        if nodes > MAX_NODES {
            return Err(YamlError::TooMuch(format!("{MAX_NODES} values")));
        }
        if open.len() > MAX_DEPTH {
            return Err(YamlError::TooMuch(format!("{MAX_DEPTH} levels")));
        }
        let done = match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = match style {
                    ScalarStyle::Plain => plain(&text),
                    _ => Value::String(text.into_owned()),
                };
                if anchor > 0 {
                    scalars.insert(anchor, value.clone());
                }
                value
            }
            Event::Alias(anchor) => scalars.get(&anchor).cloned().ok_or(YamlError::Alias(line))?,
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::Array(items),
                Some(Open::Map(items, _)) => Value::Object(items),
                None => return Err(YamlError::Syntax("an end without a beginning".into())),
            },
            Event::DocumentEnd | Event::StreamEnd => break,
            _ => continue,
        };
        match open.last_mut() {
            None => return Ok(done),
            Some(Open::List(items)) => items.push(done),
            Some(Open::Map(items, key)) => match key.take() {
                Some(name) => drop(items.insert(name, done)),
                None => *key = Some(name(done).ok_or(YamlError::Key(line))?),
            },
        }
    }
    Ok(Value::Null)
}

fn name(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null => Some("null".into()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A scalar without quotes: null, a truth value, a number, else text.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.replace('_', "");
    let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    let number = digits
        .strip_prefix('+')
        .unwrap_or(&digits)
        .parse::<i64>()
        .map(Number::from)
        .ok()
        .or_else(|| Number::from_f64(digits.parse().ok()?));
    match number.filter(|_| numeric) {
        Some(number) => Value::Number(number),
        None => Value::String(text.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_training_configuration_is_read() {
        let text = "log_dir: \"Checkpoint\"\nmixed_precision: fp16 # half\nnum: 1_000\nlr: 1e-4\nnone: ~\nyes_no: no\n\
                    dataset_params:\n    token_separator: \" \"\n    list: [1, -2.5, x]\nmodel_params:\n    hidden_size: &h 64\n    \
                    again: *h\n    'quoted': '64'\n---\nsecond: 1\n";
        let want = json!({
            "log_dir": "Checkpoint", "mixed_precision": "fp16", "num": 1000, "lr": 1e-4, "none": null, "yes_no": false,
            "dataset_params": {"token_separator": " ", "list": [1, -2.5, "x"]},
            "model_params": {"hidden_size": 64, "again": 64, "quoted": "64"},
        });
        assert_eq!(parse(text).unwrap(), want);
    }

    #[test]
    fn what_would_take_too_much_is_refused() {
        let laughs = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n";
        let cases = [
            (laughs.to_string(), "line 2: an alias repeats"),
            ("a: *a".into(), "invalid YAML"),
            ("a: &a\n  b: *a\n".into(), "an alias repeats"),
            ("[".repeat(70), "64 levels"),
            ("- 1\n".repeat(70_000), "65536 values"),
            ("{[1]: 2}".into(), "a key is no text"),
            ("a: [".into(), "invalid YAML"),
            (" ".repeat(MAX_YAML + 1), "1048576 bytes"),
        ];
        for (text, want) in cases {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(want), "expected {want}, found {error}");
        }
    }
}
