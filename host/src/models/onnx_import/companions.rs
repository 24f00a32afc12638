//! What stands beside a foreign ONNX file, or one folder up, and says what the file cannot: label names and the problem type in
//! config.json, and the tokenizer. Neither is needed; what does not fit the graph is left alone, with a note.

use crate::models::checkpoint::ProblemType;
use crate::models::checkpoint::sentence_transformers::{Modules, Texts};
use crate::models::file_names::CONFIG;
use crate::models::tokenizer::{self, TokenizerSource};
use crate::render::text::printable;
use serde_json::Value;
use std::path::{Path, PathBuf};
use thimble_shared::files;
use thimble_shared::model::ModelFamily;
use thimble_shared::model::sentence::Sentence;
use thimble_shared::model::{AnswerKind, Config};
use thimble_text::tokenizer_beside;

#[derive(Debug, Default)]
pub struct Neighbors {
    pub tokenizer: Option<TokenizerSource>,
    /// The config.json that was read.
    pub config: Option<PathBuf>,
}

/// The folders that may say more of a model: its own, and the one around it, where optimum's `onnx/` lies in a checkpoint's.
fn folders(model: &Path) -> Vec<PathBuf> {
    let own = match model.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    };
    // A folder that is named by what it holds has no parent to cut off.
    let around = match own.file_name() {
        Some(_) => own.parent().map(Path::to_path_buf),
        None => Some(own.join("..")),
    };
    let around = around.map(|dir| {
        if dir.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            dir
        }
    });
    [own].into_iter().chain(around).collect()
}

/// The tokenizer of the model at `path`: the file named after it, or that of a folder that belongs to it.
fn tokenizer(model: &Path, notes: &mut Vec<String>) -> Option<TokenizerSource> {
    let named = Some(tokenizer_beside(model)).filter(|p| p.is_file());
    named.map(TokenizerSource::File).or_else(|| {
        folders(model)
            .into_iter()
            .find_map(|dir| tokenizer::beside(&dir, notes))
    })
}

/// The nearest config.json that can be read as one, and is none of another kind of model. Where there is none: why, in words.
fn config(model: &Path) -> Result<(PathBuf, Value), String> {
    let (mut why, family) = (None, ModelFamily::Albert.row());
    for dir in folders(model) {
        let path = dir.join(CONFIG);
        let Ok(bytes) = files::read(&path) else { continue };
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let problem = match json.get("model_type").and_then(Value::as_str) {
            _ if !json.is_object() => "is no JSON object".to_string(),
            Some(kind) if kind != family.model_type => format!("is of another kind of model ({})", printable(kind)),
            _ => return Ok((path, json)),
        };
        why.get_or_insert_with(|| format!("{} {problem} and is ignored", path.display()));
    }
    Err(why.unwrap_or_else(|| "no config.json lies beside it or one folder up".into()))
}

/// A label's name; Hugging Face takes numbers and booleans too.
fn label(value: &Value) -> Option<String> {
    match value {
        Value::String(name) => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(true) => Some("True".into()),
        Value::Bool(false) => Some("False".into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Completes what a graph does not say. `sigmoid`: one followed the logits.
pub fn read(model: &Path, sigmoid: bool, config: &mut Config, notes: &mut Vec<String>) -> Neighbors {
    let mut found = Neighbors {
        tokenizer: self::tokenizer(model, notes),
        config: None,
    };
    if let Some(sentence) = &mut config.sentence {
        texts(model, config.max_position_embeddings, sentence, &mut found, notes);
    }
    if !config.head.row().has_labels {
        return found;
    }
    let sequence = config.head.answer() == AnswerKind::Labels;
    let sigmoids = (sequence && sigmoid && config.labels.len() > 1).then_some("multi_label_classification");
    let (path, json) = match self::config(model) {
        Ok(found) => found,
        Err(why) => {
            notes.push(match sigmoids {
                Some(_) => format!(
                    "{why}: label names are unknown, and its Sigmoid says that each label has a probability of its own"
                ),
                None => format!("{why}: label names and problem type are unknown"),
            });
            if sequence {
                problem(sigmoids, config, model, notes);
            }
            return found;
        }
    };
    if sequence {
        let named = json.get("problem_type").and_then(Value::as_str);
        problem(named.or(sigmoids), config, &path, notes);
    }
    found.config = Some(path.clone());
    let Some(map) = json.get("id2label").and_then(Value::as_object) else {
        notes.push(format!("{} names no labels; they are numbered", path.display()));
        return found;
    };
    let names: Option<Vec<String>> = (0..config.labels.len())
        .map(|i| label(map.get(&i.to_string())?))
        .collect();
    match names.filter(|n| n.len() == map.len()) {
        Some(names) => {
            config.labels = names;
            notes.push(format!("label names are those of {}", path.display()));
        }
        None => notes.push(format!(
            "{} names other labels than the file has outputs; they are numbered",
            path.display()
        )),
    }
    found
}

/// What sentence-transformers' files say of texts.
fn texts(model: &Path, positions: usize, sentence: &mut Sentence, found: &mut Neighbors, notes: &mut Vec<String>) {
    let Some(dir) = folders(model).into_iter().find(|dir| Texts::are_said(dir)) else {
        return;
    };
    match Texts::read(&dir, &dir) {
        Ok(texts) => {
            sentence.max_tokens = texts.max_tokens.filter(|most| *most < positions);
            sentence.prompt = texts.prompt;
            notes.extend(texts.notes);
            if texts.lower_case {
                found.tokenizer = found.tokenizer.take().map(TokenizerSource::lower_casing);
            }
        }
        Err(e) => notes.push(format!("{e}; it is left alone")),
    }
}

/// How sentence-transformers pools the hidden states that a file gives, and the folder whose `modules.json` says so: the file's or
/// the one around it. An error where that takes weights that the file does not have, or is not computed.
pub fn pooling(model: &Path) -> Option<Result<(Sentence, PathBuf), String>> {
    let modules = |dir: PathBuf| match Modules::find(&dir) {
        Ok(modules) => modules.filter(Modules::pools).map(|modules| (dir, modules.embedding())),
        Err(e) => Some((dir, Err(e))),
    };
    let (dir, found) = folders(model).into_iter().find_map(modules)?;
    Some(match found {
        Ok(embedding) if embedding.weights().next().is_some() => Err(format!(
            "{} has dense layers that the file has not; start from the checkpoint",
            dir.display()
        )),
        Ok(embedding) => Ok((embedding.sentence, dir)),
        Err(e) => Err(e.to_string()),
    })
}

/// Takes over the `problem_type` that is named; one that transformers does not know is left out with a note.
fn problem(named: Option<&str>, config: &mut Config, path: &Path, notes: &mut Vec<String>) {
    match ProblemType::of(named, config.labels.len()) {
        Ok(problem) => {
            (config.multi_label, config.regression) = (problem.multi_label, problem.regression);
            notes.extend(problem.note(config.labels.len()).map(str::to_string));
        }
        Err(problem) => notes.push(format!("{}: problem_type: {problem}; it is left out", path.display())),
    }
}
