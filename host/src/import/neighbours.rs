//! What stands beside a foreign ONNX file and says what the file cannot: label names in optimum's config.json, and the
//! tokenizer. Neither is needed; what does not fit the graph is left alone, with a note.

use crate::source::Problem;
use crate::subject::tokenizer_beside;
use serde_json::Value;
use std::path::{Path, PathBuf};
use thimble_shared::files;
use thimble_shared::graph::{Config, Head};

#[derive(Debug, Default)]
pub struct Neighbours {
    pub tokenizer: Option<PathBuf>,
    /// The config.json that was read.
    pub config: Option<PathBuf>,
}

pub fn read(model: &Path, config: &mut Config, notes: &mut Vec<String>) -> Neighbours {
    let beside = |name: &str| model.parent().unwrap_or(Path::new("")).join(name);
    let tokenizer = [tokenizer_beside(model), beside("tokenizer.json")]
        .into_iter()
        .find(|p| p.is_file());
    let mut found = Neighbours {
        tokenizer,
        config: None,
    };
    let labelled = matches!(config.head, Head::SequenceClassification | Head::TokenClassification);
    let path = beside("config.json");
    let Some(json) = files::read(&path)
        .ok()
        .and_then(|b| serde_json::from_slice::<Value>(&b).ok())
    else {
        return found;
    };
    if !labelled {
        return found;
    }
    let names = json.get("id2label").and_then(|map| {
        (0..config.labels.len())
            .map(|i| map.get(i.to_string())?.as_str().map(str::to_string))
            .collect::<Option<Vec<String>>>()
    });
    let count = json
        .get("id2label")
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len);
    match names.filter(|n| n.len() == count) {
        Some(names) => {
            config.labels = names;
            if config.head == Head::SequenceClassification {
                problem(&json, config, &path, notes);
            }
            notes.push(format!("label names are those of {}", path.display()));
            found.config = Some(path);
        }
        None => notes.push(format!(
            "{} names other labels than the file has outputs; they are numbered",
            path.display()
        )),
    }
    found
}

/// Takes over `problem_type`; one that transformers does not know is left out with a note.
fn problem(json: &Value, config: &mut Config, path: &Path, notes: &mut Vec<String>) {
    match Problem::of(json.get("problem_type").and_then(Value::as_str), config.labels.len()) {
        Ok(problem) => {
            (config.multi_label, config.regression) = (problem.multi_label, problem.regression);
            notes.extend(problem.note(config.labels.len()).map(str::to_string));
        }
        Err(problem) => notes.push(format!("{}: problem_type: {problem}; it is left out", path.display())),
    }
}
