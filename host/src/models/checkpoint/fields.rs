//! The fields of a JSON object by their types. In come a file's path and what it holds, out come numbers, texts and flags; a
//! value of another type is an error with the file and the field. Null counts as absent, as `None` does in Python.

use super::SourceError;
use serde_json::{Map, Value};
use std::path::Path;

/// The object that a file holds.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    pub path: &'a Path,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The fields of `json`, found at `path`.
    pub fn of(path: &'a Path, json: &'a Value) -> Result<Fields<'a>, SourceError> {
        match json.as_object() {
            Some(object) => Ok(Fields { path, object }),
            None => Err(SourceError::Format {
                path: path.to_path_buf(),
                problem: "is no JSON object".into(),
            }),
        }
    }

    /// The error that `problem` is with a field.
    pub fn bad<T>(&self, field: &str, problem: impl Into<String>) -> Result<T, SourceError> {
        Err(SourceError::Config {
            path: self.path.to_path_buf(),
            field: field.to_string(),
            problem: problem.into(),
        })
    }

    /// A field that is there and not null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        field: &str,
        what: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, SourceError> {
        match self.get(field).map(|value| (value, read(value))) {
            None => Ok(None),
            Some((_, Some(read))) => Ok(Some(read)),
            Some((value, None)) => self.bad(field, format!("is {value}, must be {what}")),
        }
    }

    pub fn size(&self, field: &str) -> Result<Option<usize>, SourceError> {
        self.typed(field, "a whole number", |value| usize::try_from(value.as_u64()?).ok())
    }

    pub fn number(&self, field: &str) -> Result<Option<f64>, SourceError> {
        self.typed(field, "a number", Value::as_f64)
    }

    pub fn text(&self, field: &str) -> Result<Option<&'a str>, SourceError> {
        self.typed(field, "a string", Value::as_str)
    }

    pub fn flag(&self, field: &str) -> Result<Option<bool>, SourceError> {
        self.typed(field, "true or false", Value::as_bool)
    }
}
