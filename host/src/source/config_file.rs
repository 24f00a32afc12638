//! The file that says how a model is built. In comes a folder or a path, out come `AlbertConfig`'s fields: those of Hugging
//! Face's config.json and albert_config.json as they stand, and those inside a training configuration: `model_params` of
//! PL-BERT's config.yml, `plbert` of Kokoro's config.json.

use super::{SourceError, json, yaml};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use thimble_shared::files;

/// Names of configurations, the likeliest first.
const NAMES: [&str; 5] = [
    "config.json",
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
    let is_yaml = name.ends_with(".yml") || name.ends_with(".yaml");
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
    let (key, fields) = match inside {
        Some((key, fields)) => (key, plain(fields, &object)),
        None if is_yaml => ("", object),
        None => return Ok((Value::Object(object), Vec::new())),
    };
    if !MARKS.iter().any(|mark| fields.contains_key(*mark)) {
        return Err(SourceError::Config {
            path: path.to_path_buf(),
            field: if key.is_empty() { name } else { key.into() },
            problem: format!("describes no ALBERT: it has none of {}", MARKS.join(", ")),
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
