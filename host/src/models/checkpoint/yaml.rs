//! Reads the YAML of a training configuration as PyYAML's safe loader would: in comes text, out comes a value of JSON's kinds.
//! Tags are passed over. What aliases repeat is counted before it is copied, texts by their bytes: repetitions of repetitions
//! could ask for any amount of memory.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;

/// Largest text, and most bytes of texts that aliases repeat; training configurations have a few thousand bytes.
pub const MAX_YAML: usize = 1 << 20;
/// Lists and mappings inside each other.
const MAX_DEPTH: usize = 64;
/// Scalars, lists and mappings of a text, and how many more aliases repeat.
const MAX_NODES: usize = 1 << 16;
const MAX_REPEATED: usize = 1 << 13;
/// The key under which a mapping takes over the entries of others.
const MERGE: &str = "<<";

/// Why a text is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// It is no YAML.
    #[error("invalid YAML: {0}")]
    Syntax(String),
    /// It is larger or deeper than any training configuration.
    #[error("more than {0}, which no training configuration has")]
    TooMuch(String),
    /// An alias repeats what it lies in.
    #[error("line {0}: an alias contains itself")]
    Alias(usize),
    /// A mapping's key is a list or a mapping.
    #[error("line {0}: a key is no text")]
    Key(usize),
    /// Something else than mappings is merged into one.
    #[error("line {0}: '<<' takes over mappings only")]
    Merge(usize),
}

/// A list or mapping that is not yet closed, with its anchor.
enum Open {
    List(Vec<Value>, usize),
    Map(Mapping, usize),
}

/// The entries of a mapping that is not yet closed.
#[derive(Default)]
struct Mapping {
    own: Map<String, Value>,
    merged: Map<String, Value>,
    /// Whose value comes next, and whether it is taken over.
    key: Option<(String, bool)>,
}

/// What may still be copied: for aliases, and to have what they repeat at hand.
struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Budget {
    /// Takes `value`, which is to be copied into something `depth` deep.
    fn take(&mut self, value: &Value, depth: usize) -> Result<(), YamlError> {
        if depth > MAX_DEPTH {
            return Err(YamlError::TooMuch(format!("{MAX_DEPTH} levels")));
        }
        let left = self.nodes.checked_sub(1);
        self.nodes = left.ok_or_else(|| YamlError::TooMuch(format!("{MAX_REPEATED} repeated values")))?;
        match value {
            Value::String(text) => self.text(text.len()),
            Value::Array(items) => items.iter().try_for_each(|item| self.take(item, depth + 1)),
            Value::Object(items) => items.iter().try_for_each(|(key, item)| {
                self.text(key.len())?;
                self.take(item, depth + 1)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }

    fn text(&mut self, bytes: usize) -> Result<(), YamlError> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or_else(|| YamlError::TooMuch(format!("{MAX_YAML} bytes of repeated text")))?;
        Ok(())
    }
}

/// Reads the first document of `text`.
///
/// # Errors
/// Text that is no YAML, or is too large with what it repeats.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    if text.len() > MAX_YAML {
        return Err(YamlError::TooMuch(format!("{MAX_YAML} bytes")));
    }
    let mut open: Vec<Open> = Vec::new();
    let mut anchored: HashMap<usize, Value> = HashMap::new();
    let mut budget = Budget {
        nodes: MAX_REPEATED,
        bytes: MAX_YAML,
    };
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
        let mut merges = false;
        let (done, anchor) = match event {
            Event::Scalar(text, ScalarStyle::Plain, anchor, _) => {
                merges = text == MERGE;
                (plain(&text), anchor)
            }
            Event::Scalar(text, _, anchor, _) => (Value::String(text.into_owned()), anchor),
            Event::Alias(anchor) => {
                let value = anchored.get(&anchor).ok_or(YamlError::Alias(line))?;
                budget.take(value, open.len())?;
                (value.clone(), 0)
            }
            Event::SequenceStart(anchor, ..) => {
                open.push(Open::List(Vec::new(), anchor));
                continue;
            }
            Event::MappingStart(anchor, ..) => {
                open.push(Open::Map(Mapping::default(), anchor));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items, anchor)) => (Value::Array(items), anchor),
                Some(Open::Map(mut mapping, anchor)) => {
                    mapping.merged.extend(mapping.own);
                    (Value::Object(mapping.merged), anchor)
                }
                None => return Err(YamlError::Syntax("an end without a beginning".into())),
            },
            Event::DocumentEnd | Event::StreamEnd => break,
            _ => continue,
        };
        if anchor > 0 {
            budget.take(&done, open.len())?;
            anchored.insert(anchor, done.clone());
        }
        match open.last_mut() {
            None => return Ok(done),
            Some(Open::List(items, _)) => items.push(done),
            Some(Open::Map(mapping, _)) => match mapping.key.take() {
                None => mapping.key = Some((name(done).ok_or(YamlError::Key(line))?, merges)),
                Some((_, true)) => merge(&mut mapping.merged, done).ok_or(YamlError::Merge(line))?,
                Some((name, false)) => drop(mapping.own.insert(name, done)),
            },
        }
    }
    Ok(Value::Null)
}

/// Takes over the entries of a mapping, or of a list of mappings of which the first goes before the others.
fn merge(into: &mut Map<String, Value>, from: Value) -> Option<()> {
    let mappings = match from {
        Value::Array(items) => items,
        one => vec![one],
    };
    for mapping in mappings.into_iter().rev() {
        match mapping {
            Value::Object(entries) => into.extend(entries),
            _ => return None,
        }
    }
    Some(())
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
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    let digits = text.replace('_', "");
    let float = || Number::from_f64(digits.parse().ok().filter(|_| digits.contains(['.', 'e', 'E']))?);
    let number = integer(&digits).or_else(float);
    match number.filter(|_| numeric) {
        Some(number) => Value::Number(number),
        None => Value::String(text.to_string()),
    }
}

/// An integer of YAML 1.1: of base 2, 16 or, after a zero, 8.
fn integer(digits: &str) -> Option<Number> {
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'b', ..] => (2, &digits[2..]),
        [b'0', b'x', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // A second sign is none of a number's.
    let value = i64::from_str_radix(digits, base)
        .ok()
        .filter(|_| !digits.starts_with(['+', '-']))?;
    Some(if negative { value.wrapping_neg() } else { value }.into())
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
    fn scalars_are_those_of_pyyaml() {
        for (text, want) in [
            ("012", json!(10)),
            ("0x0c", json!(12)),
            ("-0b11", json!(-3)),
            ("0", json!(0)),
            ("+7", json!(7)),
            ("1_000", json!(1000)),
            ("12.0", json!(12.0)),
            ("0.5", json!(0.5)),
            ("08", json!("08")),
            ("0o14", json!("0o14")),
            ("--1", json!("--1")),
            ("e5", json!("e5")),
            ("1e-12", json!(1e-12)),
            ("12 layers", json!("12 layers")),
            ("On", json!(true)),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn aliases_repeat_and_mappings_take_over_others() {
        for (text, want) in [
            (
                "a: &a [x, {y: 1}]\nb: *a",
                json!({"a": ["x", {"y": 1}], "b": ["x", {"y": 1}]}),
            ),
            (
                "a: &a {x: 1, y: 2}\nb: {y: 3, <<: *a}",
                json!({"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
            ),
            (
                "a: &a {x: 1}\nb: &b {x: 2, z: 4}\nc: {<<: [*a, *b]}",
                json!({"a": {"x": 1}, "b": {"x": 2, "z": 4}, "c": {"x": 1, "z": 4}}),
            ),
            ("{'<<': 1}", json!({"<<": 1})),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_would_take_too_much_is_refused() {
        let laughs: String = (1..40)
            .map(|n| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1))
            .collect();
        let deep: String = (1..3)
            .map(|n| format!("a{n}: &a{n} {}*a{}{}\n", "[".repeat(40), n - 1, "]".repeat(40)))
            .collect();
        let long = format!("a: &a {}\nb: [*a, *a]\n", "x".repeat(400_000));
        let cases = [
            (format!("a0: &a0 x\n{laughs}"), "8192 repeated values"),
            (format!("a0: &a0 x\n{deep}"), "64 levels"),
            (long, "1048576 bytes of repeated text"),
            ("a: {<<: [1]}".into(), "takes over mappings only"),
            ("a: *a".into(), "invalid YAML"),
            ("a: &a\n  b: *a\n".into(), "line 2: an alias contains itself"),
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
