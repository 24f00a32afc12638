//! One row of a file of rows, and why it cannot be read.

use serde_json::{Map, Value};

/// Why rows cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", .line.map(|n| format!("line {n}: ")).unwrap_or_default())]
pub struct RecordError {
    /// Counted from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
}

impl RecordError {
    /// Of the whole file.
    pub(super) fn whole(problem: impl Into<String>) -> RecordError {
        RecordError {
            line: None,
            problem: problem.into(),
        }
    }

    /// Of one line.
    pub(super) fn at(line: usize, problem: impl Into<String>) -> RecordError {
        RecordError {
            line: Some(line),
            problem: problem.into(),
        }
    }

    /// A line that is no text.
    pub(super) fn not_utf8(line: usize) -> RecordError {
        RecordError::at(
            line,
            "is not UTF-8; save the file as UTF-8 (iconv -f latin1 -t utf-8 OLD > NEW, where it is Latin 1)",
        )
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Where it begins, counted from 1.
    pub line: usize,
    /// Its values by name.
    pub fields: Map<String, Value>,
    /// Whether numbers are told from texts: in a table every value is a text.
    pub typed: bool,
}
