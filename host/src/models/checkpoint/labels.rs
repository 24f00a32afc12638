//! The names of a classifier's labels, as Python prints them. In come the fields of a configuration and the classifier's rows,
//! out come the names in order, and whether they are the tags of tokens.

use super::SourceError;
use super::fields::Fields;
use serde_json::Value;

/// Most labels a classifier may have.
const MAX_LABELS: usize = 1 << 20;

/// Label names in order: `id2label`, else `num_labels` made-up names, else one for each row, else Hugging Face's two.
pub fn read(fields: &Fields, rows: Option<usize>, notes: &mut Vec<String>) -> Result<Vec<String>, SourceError> {
    let count = fields.size("num_labels")?;
    let Some(map) = fields.get("id2label") else {
        let count = count.or(rows).unwrap_or(2);
        if count == 0 || count > MAX_LABELS {
            return fields.bad("num_labels", format!("is {count}, must be 1 to {MAX_LABELS}"));
        }
        return Ok((0..count).map(|i| format!("LABEL_{i}")).collect());
    };
    let Value::Object(map) = map else {
        return fields.bad("id2label", "must be an object from number to name");
    };
    let mut names = vec![None; map.len()];
    for (id, name) in map {
        // Python's int() takes white space around digits.
        let slot = id.trim().parse::<usize>().ok().and_then(|i| names.get_mut(i));
        let (Some(slot), Some(name)) = (slot, printed(name)) else {
            return fields.bad(
                "id2label",
                format!(
                    "'{id}': the keys must be 0 to {} and the names texts or numbers",
                    map.len() - 1
                ),
            );
        };
        *slot = Some(name);
    }
    let Some(names) = names.into_iter().collect::<Option<Vec<_>>>().filter(|n| !n.is_empty()) else {
        return fields.bad("id2label", "must name the labels 0, 1, 2 ... without a gap");
    };
    if let Some(count) = count.filter(|&n| n != names.len()) {
        notes.push(format!(
            "num_labels is {count}, id2label names {}: id2label is taken",
            names.len()
        ));
    }
    Ok(names)
}

/// Whether `id2label` names tags of tokens: `O` for what is outside, beginnings, insides, ends and singles, or the letters that
/// cut words.
pub fn are_tags(fields: &Fields) -> bool {
    let Some(map) = fields.get("id2label").and_then(Value::as_object) else {
        return false;
    };
    let mut names = map.values().filter_map(Value::as_str);
    let cut = !map.is_empty()
        && map
            .values()
            .all(|name| ["B", "M", "I", "E", "S"].iter().any(|l| name == l));
    cut || names.any(|name| name == "O" || ["B-", "I-", "E-", "S-"].iter().any(|start| name.starts_with(start)))
}

/// What Python prints for a value that stands for a label.
fn printed(value: &Value) -> Option<String> {
    match value {
        Value::String(name) => Some(name.clone()),
        Value::Number(number) if number.is_f64() => number.as_f64().map(float),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(true) => Some("True".into()),
        Value::Bool(false) => Some("False".into()),
        Value::Null => Some("None".into()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A float as Python's `repr` writes it: the fewest digits that tell it, with an exponent below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    let scientific = format!("{x:e}");
    let exponent = scientific
        .split_once('e')
        .and_then(|(digits, e)| Some((digits, e.parse::<i32>().ok()?)));
    match exponent {
        Some((digits, e)) if !(-4..16).contains(&e) => {
            let sign = if e < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", e.unsigned_abs())
        }
        _ => format!("{x:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn names_are_what_python_prints() {
        for (value, want) in [
            (json!(1e-7), "1e-07"),
            (json!(1.5e-5), "1.5e-05"),
            (json!(1e-4), "0.0001"),
            (json!(1e15), "1000000000000000.0"),
            (json!(1e16), "1e+16"),
            (json!(1.25e20), "1.25e+20"),
            (json!(1e300), "1e+300"),
            (json!(-0.0), "-0.0"),
            (json!(1.0), "1.0"),
            (json!(0.5), "0.5"),
            (json!(-7), "-7"),
            (json!(true), "True"),
            (json!(null), "None"),
            (json!("1e-7"), "1e-7"),
        ] {
            assert_eq!(printed(&value).as_deref(), Some(want));
        }
    }

    #[test]
    fn tags_of_tokens_are_told() {
        for (names, want) in [
            (vec!["O", "COMMA", "PERIOD"], true),
            (vec!["O", "PER", "LOC"], true),
            (vec!["S-PER", "E-PER", "x"], true),
            (vec!["B", "M", "E", "S"], true),
            (vec!["yes", "no"], false),
            (vec!["OK", "o"], false),
            (vec!["A", "B"], false),
        ] {
            let map: serde_json::Map<_, _> = names
                .iter()
                .enumerate()
                .map(|(i, n)| (i.to_string(), json!(n)))
                .collect();
            let json = json!({"id2label": map});
            assert_eq!(are_tags(&Fields::of(Path::new("x"), &json).unwrap()), want, "{names:?}");
        }
    }
}
