//! The file that says how a model is built. In comes a folder or a path, out come `AlbertConfig`'s fields: those of Hugging
//! Face's config.json and albert_config.json as they stand, and those inside a training configuration: `model_params` of
//! PL-BERT's config.yml, `plbert` of Kokoro's config.json.

use super::{SourceError, json, yaml};
use crate::models::file_names::CONFIG;
use serde_json::{Map, Value};
use std::path::{Component, Path, PathBuf};
use thimble_shared::files;

/// Names of configurations, the likeliest first.
const NAMES: [&str; 5] = [
    CONFIG,
    "albert_config.json",
    "bert_config.json",
    "config.yml",
    "config.yaml",
];
/// Where training configurations keep `AlbertConfig`'s fields.
const INSIDE: [&str; 2] = ["plbert", "model_params"];
/// Fields one of which an ALBERT's configuration has; a synthesizer's does not.
const MARKS: [&str; 4] = [
    "hidden_size",
    "num_attention_heads",
    "num_hidden_layers",
    "intermediate_size",
];

/// Where StyleTTS2's configuration names the folder of PL-BERT's, from the top of its tree.
const PLBERT_DIR: &str = "PLBERT_dir";
/// How many folders above a checkpoint the top of StyleTTS2's tree may be; its own checkpoints lie two below.
const MAX_ABOVE: usize = 3;

/// The configuration of the model in `dir`, and what is to be said of it.
pub fn find(dir: &Path) -> Option<(PathBuf, Option<String>)> {
    let path = beside(dir)?;
    match plbert(dir, &path) {
        Some(other) => {
            let note = format!(
                "{} is read, which {PLBERT_DIR} of {} names",
                other.display(),
                path.display()
            );
            Some((other, Some(note)))
        }
        None => Some((path, None)),
    }
}

/// The configuration of PL-BERT's that a synthesizer's at `path` names, in `dir` or in a folder above it.
fn plbert(dir: &Path, path: &Path) -> Option<PathBuf> {
    let whole = is_yaml(path).then(|| read_yaml(path).ok())??;
    let named = Path::new(whole.get(PLBERT_DIR)?.as_str()?);
    let inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    let described = INSIDE.iter().any(|key| {
        whole
            .get(*key)
            .is_some_and(|fields| fields.as_object().is_some_and(has_marks))
    });
    if described || !named.components().all(inside) {
        return None;
    }
    let dir = dir.canonicalize().ok()?;
    let tops = dir.ancestors().take(MAX_ABOVE + 1);
    tops.flat_map(|top| ["config.yml", "config.yaml"].map(|name| top.join(named).join(name)))
        .find(|other| other.is_file())
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "yml" || end == "yaml")
}

fn has_marks(fields: &Map<String, Value>) -> bool {
    MARKS.iter().any(|mark| fields.contains_key(*mark))
}

/// The configuration that stands in `dir`.
pub fn beside(dir: &Path) -> Option<PathBuf> {
    let named = NAMES.iter().map(|name| dir.join(name)).find(|path| path.is_file());
    // Releases of several sizes have the size in the name: albert_config_base.json.
    named.or_else(|| {
        let mut sized: Vec<PathBuf> = std::fs::read_dir(dir)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let sized = ["albert_config_", "bert_config_"]
                    .iter()
                    .any(|start| name.starts_with(start));
                sized && name.ends_with(".json") && path.is_file()
            })
            .collect();
        sized.sort();
        match sized.as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        }
    })
}

/// `AlbertConfig`'s fields in the file at `path`, and what was decided on the way.
///
/// # Errors
/// A file that is neither JSON nor YAML, or a training configuration without an ALBERT.
pub fn read(path: &Path) -> Result<(Value, Vec<String>), SourceError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_yaml = is_yaml(path);
    let whole = if is_yaml { read_yaml(path)? } else { json::read(path)? };
    let Value::Object(object) = whole else {
        return Err(SourceError::Format {
            path: path.to_path_buf(),
            problem: "it is no configuration: no fields by name".into(),
        });
    };
    let inside = INSIDE
        .iter()
        .find_map(|key| Some((*key, object.get(*key)?.as_object()?)))
        .filter(|_| !object.contains_key("model_type"));
    let elsewhere = match object.get(PLBERT_DIR).and_then(Value::as_str) {
        Some(dir) => format!(
            "; PL-BERT's own configuration is {}: put it beside the checkpoint as config.yml",
            Path::new(dir).join("config.yml").display()
        ),
        None => String::new(),
    };
    let (key, fields) = match inside {
        Some((key, fields)) => (key, plain(fields, &object)),
        None if is_yaml => ("", object),
        None => return Ok((Value::Object(object), Vec::new())),
    };
    if !has_marks(&fields) {
        return Err(SourceError::Config {
            path: path.to_path_buf(),
            field: if key.is_empty() { name } else { key.into() },
            problem: format!("describes no ALBERT: it has none of {}{elsewhere}", MARKS.join(", ")),
        });
    }
    let place = if key.is_empty() {
        String::new()
    } else {
        format!(", {key}")
    };
    let notes = vec![format!(
        "{name}{place}: a training configuration, read as AlbertConfig's fields"
    )];
    let mut fields = fields;
    fields.entry("model_type").or_insert_with(|| "albert".into());
    Ok((Value::Object(fields), notes))
}

/// The fields of a part, with the size of the vocabulary that Kokoro keeps outside it.
fn plain(fields: &Map<String, Value>, whole: &Map<String, Value>) -> Map<String, Value> {
    let mut fields = fields.clone();
    if let Some(tokens) = whole.get("n_token").filter(|_| !fields.contains_key("vocab_size")) {
        fields.insert("vocab_size".into(), tokens.clone());
    }
    fields
}

fn read_yaml(path: &Path) -> Result<Value, SourceError> {
    let io = |cause| SourceError::Io {
        path: path.to_path_buf(),
        cause,
    };
    let format = |problem: String| SourceError::Format {
        path: path.to_path_buf(),
        problem,
    };
    let len = std::fs::metadata(path).map_err(io)?.len();
    if len > yaml::MAX_YAML as u64 {
        return Err(format(format!(
            "{len} bytes of YAML, at most {} are read",
            yaml::MAX_YAML
        )));
    }
    let text = files::read_text(path).map_err(io)?;
    yaml::parse(&text).map_err(|e| format(e.to_string()))
}
