//! The fields of one record, of JSON or of a table, as texts, token ids, labels and values of a model.

use super::Row;
use super::row::compares_labels;
use crate::eval::columns::{self, Columns};
use serde_json::{Map, Value};
use thimble_shared::model::Config;
use thimble_shared::terminal::printable;

/// One row's fields.
pub(super) struct Line<'a> {
    pub(super) object: &'a Map<String, Value>,
    pub(super) config: &'a Config,
    pub(super) columns: &'a Columns,
    /// Whether numbers are told from texts.
    pub(super) typed: bool,
}

impl<'a> Line<'a> {
    fn get(&self, names: &[&str]) -> Option<&'a Value> {
        names
            .iter()
            .find_map(|name| self.object.get(*name))
            .filter(|v| !v.is_null())
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        match self.object.get(name) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(format!("\"{}\" must be a string", printable(name))),
        }
    }

    /// The texts to encode: one, or one per choice.
    pub(super) fn texts(&self) -> Result<Vec<(&'a str, Option<&'a str>)>, String> {
        let names = self.columns.texts(self.object)?;
        let first = self.text(names[0])?;
        if !self.config.head.takes_choices() {
            let pair = names.get(1).map(|name| self.text(name)).transpose()?;
            return Ok(vec![(first, pair)]);
        }
        let choices = match self.get(&["choices"]) {
            Some(Value::Array(choices)) if !choices.is_empty() => {
                let text = |c: &'a Value| c.as_str().ok_or(r#""choices" must be texts"#.to_string());
                choices.iter().map(text).collect::<Result<Vec<_>, _>>()?
            }
            _ => columns::choices(self.object),
        };
        if choices.is_empty() {
            return Err(r#"multiple choice needs "choices", a list of texts, or fields choice0, choice1 …"#.into());
        }
        Ok(choices.into_iter().map(|choice| (first, Some(choice))).collect())
    }

    pub(super) fn ids(&self) -> Result<Row, String> {
        let (inner, input_ids) = integers("input_ids", &self.object["input_ids"])?;
        let same = |name: &str, default: i64| match self.get(&[name]) {
            None => Ok(vec![default; input_ids.len()]),
            Some(value) => match integers(name, value)? {
                (shape, values) if shape == inner => Ok(values),
                (shape, _) => Err(format!("{name} has shape {shape:?}, input_ids {inner:?}")),
            },
        };
        let (attention_mask, token_type_ids) = (same("attention_mask", 1)?, same("token_type_ids", 0)?);
        // A batch of one, as a tokenizer's return_tensors gives it, is the row itself.
        let shape = match inner.as_slice() {
            [1, seq] if !self.config.head.takes_choices() => vec![1, *seq],
            inner => [&[1], inner].concat(),
        };
        Ok(Row {
            shape,
            input_ids,
            attention_mask,
            token_type_ids,
            ..Row::default()
        })
    }

    pub(super) fn labels(&self) -> Result<Option<Vec<i64>>, String> {
        let value = self.columns.label(self.object).filter(|_| compares_labels(self.config));
        let value = value.map(|(_, value)| value);
        let one = |v: &Value| self.label(v);
        match value {
            None => Ok(None),
            Some(Value::Array(list)) => list.iter().map(one).collect::<Result<Vec<_>, _>>().map(Some),
            Some(value) => Ok(Some(vec![one(value)?])),
        }
    }

    /// A regression's values: a number, or one for each label.
    pub(super) fn targets(&self) -> Result<Option<Vec<f32>>, String> {
        let value = self
            .columns
            .label(self.object)
            .filter(|_| self.config.predicts_values());
        let value = value.map(|(_, value)| value);
        let one = |v: &Value| {
            let number = match v {
                Value::String(text) if !self.typed => text.trim().parse::<f64>().ok(),
                value => value.as_f64(),
            };
            let number = number.ok_or_else(|| format!("label {v} must be a number: the model gives values"))?;
            Ok(number as f32)
        };
        match value {
            None => Ok(None),
            Some(Value::Array(list)) => list.iter().map(one).collect::<Result<Vec<_>, _>>().map(Some),
            Some(value) => Ok(Some(vec![one(value)?])),
        }
    }

    /// A class by number or by name.
    fn label(&self, value: &Value) -> Result<i64, String> {
        if let Some(number) = value.as_i64() {
            return Ok(number);
        }
        let name = value
            .as_str()
            .ok_or_else(|| format!("label {value} must be a whole number or a label's name"))?;
        let labels = &self.config.labels;
        let at = labels.iter().position(|l| l == name);
        if at.is_none() && !self.typed {
            // In a table a class's number is a text too; where names are numbers themselves, only names are taken.
            let number = whole_number(name).filter(|_| !labels.iter().any(|label| whole_number(label).is_some()));
            if let Some(number) = number {
                return Ok(number);
            }
            if let Some(at) = labels.iter().position(|l| l == name.trim()) {
                return Ok(at as i64);
            }
        }
        at.map(|i| i as i64).ok_or_else(|| {
            format!(
                "label '{name}' is not one of the model's: {}",
                self.config.labels.join(", ")
            )
        })
    }
}

/// A whole number as a table spells it: pandas writes 3.0 where a column has gaps.
fn whole_number(text: &str) -> Option<i64> {
    let text = text.trim();
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}

/// A list of integers, or a list of equally long ones: its shape and its numbers.
fn integers(name: &str, value: &Value) -> Result<(Vec<usize>, Vec<i64>), String> {
    let list = value
        .as_array()
        .ok_or_else(|| format!("{name} must be a list of integers"))?;
    let flat = |list: &[Value]| -> Result<Vec<i64>, String> {
        list.iter()
            .map(|v| v.as_i64().ok_or_else(|| format!("{name}: {v} is not an integer")))
            .collect()
    };
    if !list.first().is_some_and(Value::is_array) {
        return Ok((vec![list.len()], flat(list)?));
    }
    let mut values = Vec::new();
    let mut seq = None;
    for row in list {
        let row = flat(
            row.as_array()
                .ok_or_else(|| format!("{name} mixes lists and integers"))?,
        )?;
        if *seq.get_or_insert(row.len()) != row.len() {
            return Err(format!(
                "{name}: the choices must be equally long (pad them and give attention_mask)"
            ));
        }
        values.extend(row);
    }
    Ok((vec![list.len(), seq.unwrap_or(0)], values))
}
