//! PEFT's LoRA adapters: in comes the adapter's folder, out come the tensors of the base model that it changes, W + scale · B · A
//! in f32, and those it brings whole (classifiers, biases). An adapter that nobody asked to merge is refused, never ignored.

mod config;
mod merge;

use super::described::Described;
use super::map::Mapped;
use super::names::Stored;
use super::raw::{Dtype, RawTensor};
use super::{SourceError, hub, json, locate, tensors};
use config::{AdapterConfig, MERGE_IN_PEFT};
use merge::saves_word;
use serde_json::Value;
use std::path::{Path, PathBuf};
use thimble_shared::model::head::masked_lm;
use thimble_shared::model::{Head, Role};

const CONFIG: &str = "adapter_config.json";

/// The names of an adapter's weights, the first that is there.
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Why a change of the word embedding or of the decoder is refused where they are one table.
const ONE_TABLE: &str = "PEFT answers differently before and after merging";

/// An adapter whose files are open.
#[derive(Debug)]
pub struct Adapter {
    pub config_file: PathBuf,
    config: AdapterConfig,
    weights: Mapped,
}

/// A tensor of the merged model, under its canonical name; f32, little endian, row-major.
#[derive(Clone, Debug)]
pub struct Merged {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    /// Whether it is an embedding table with LoRA's matrices.
    table: bool,
}

impl Adapter {
    /// Opens the adapter in a folder.
    pub fn open(dir: &Path) -> Result<Adapter, SourceError> {
        let config_file = dir.join(CONFIG);
        let weights = WEIGHTS.iter().map(|name| dir.join(name)).find(|path| path.is_file());
        let (true, Some(weights)) = (config_file.is_file(), weights) else {
            return Err(SourceError::Format {
                path: dir.to_path_buf(),
                problem: format!(
                    "--adapter wants a folder of PEFT's with {CONFIG} and {}",
                    WEIGHTS.join(" or ")
                ),
            });
        };
        Ok(Adapter {
            config: AdapterConfig::read(&config_file, &json::read(&config_file)?)?,
            config_file,
            weights: Mapped::open(&weights)?,
        })
    }

    /// The file its matrices are in.
    pub fn weights(&self) -> &Mapped {
        &self.weights
    }

    /// What it changes of `base`.
    pub fn merge(&self, base: &Stored) -> Result<Vec<Merged>, SourceError> {
        let tensors = tensors::stored(std::slice::from_ref(&self.weights), None)?.tensors;
        merge::merge(&self.weights.path, &self.config, &tensors, base)
    }

    /// The head it was trained with: its task's, else that of the layers it brings.
    pub fn head(&self, merged: &[Merged], base: &Stored) -> Option<Head> {
        let brings = |role| {
            merged
                .iter()
                .any(|tensor| tensor.name == base.family.weight(role, None))
        };
        let has = |role: &Role| match role {
            Role::Pooler => base.has(Role::Pooler),
            own => brings(*own),
        };
        // A decoder is the base's own, whatever an adapter changes of it.
        let told = |head: &Head| !head.has_decoder() && *head != Head::None && head.row().told_by.iter().all(has);
        self.config.head.or_else(|| Head::TOLD.into_iter().find(told))
    }

    /// Settles what the adapter makes of a decoder that is the word embedding as well. Where `modules_to_save` has one of the two,
    /// PEFT unties them. LoRA's matrices on the table are refused: PEFT's own answers before and after merging then differ, and
    /// which is meant cannot be told.
    pub fn settle_decoder(&self, merged: &[Merged], described: &mut Described) -> Result<(), SourceError> {
        let (head, family) = (described.config.head, described.config.family.row());
        if !head.has_decoder() {
            return Ok(());
        }
        if let Some(tensor) = merged.iter().find(|tensor| tensor.table) {
            return Err(SourceError::Tensor {
                path: self.weights.path.clone(),
                tensor: tensor.name.clone(),
                problem: format!(
                    "is adapted, and is the decoder of {} as well: {ONE_TABLE}. {MERGE_IN_PEFT}",
                    head.name()
                ),
            });
        }
        let saves_word = saves_word(&self.config, family);
        if saves_word {
            let note = "modules_to_save has the word embedding: the decoder keeps a table of its own, as in PEFT";
            described.notes.push(note.into());
        }
        described.tie &= !saves_word && !self.config.saves(&family.module(masked_lm::DECODER, None));
        Ok(())
    }

    /// What was merged, for the user to read.
    pub fn note(&self, merged: &[Merged]) -> String {
        format!(
            "the LoRA adapter {} is merged: {} tensors changed or added; it was trained on {}",
            self.weights.path.display(),
            merged.len(),
            self.config.base.as_deref().unwrap_or("a model it does not name")
        )
    }
}

/// The merged tensors, as a file would hold them.
pub fn raw<'a>(merged: &'a [Merged], path: &'a Path) -> Vec<RawTensor<'a>> {
    let tensor = |tensor: &'a Merged| RawTensor {
        path,
        name: tensor.name.clone(),
        dtype: Dtype::F32,
        shape: tensor.shape.clone(),
        bytes: &tensor.bytes,
        view: None,
    };
    merged.iter().map(tensor).collect()
}

/// Refuses an adapter that is given for a model: `path` is a folder that holds one, or its weights. Where `asked`, an adapter is
/// to be merged, and one beside a model is left alone.
///
/// transformers takes such a folder for the adapter, and the model its config names for the base, whatever stands beside.
pub fn refuse(path: &Path, asked: bool) -> Result<(), SourceError> {
    let is_weights = WEIGHTS.iter().any(|name| path.ends_with(name));
    let dir = match path.parent().filter(|_| is_weights) {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    };
    let config = dir.join(CONFIG);
    if !config.is_file() {
        return Ok(());
    }
    let json = json::read(&config)?;
    let base = json.get("base_model_name_or_path").and_then(Value::as_str);
    let adapter = dir.display();
    let of = base.map_or("a model it does not name".to_string(), |base| format!("'{base}'"));
    let beside = locate::has_weights(dir) && !is_weights;
    let problem = if beside && asked {
        return Ok(());
    } else if beside {
        format!(
            "it holds an adapter of PEFT beside a model; transformers would load the adapter on {of}. To merge it into the model \
             here: --adapter {adapter}; to read the model without it, name its weights file"
        )
    } else {
        let fetch = match base {
            Some(base) if Path::new(base).exists() => None,
            Some(base) => hub::download(base),
            None => None,
        };
        let place = base.map_or("BASE_DIR".to_string(), |base| match &fetch {
            Some(_) => base.rsplit('/').next().unwrap_or(base).to_string(),
            None => base.to_string(),
        });
        let first = fetch.map(|command| format!("{command}; ")).unwrap_or_default();
        format!(
            "it is an adapter of PEFT, not a model: it changes {of}. Give that model and merge it: {first}thimble export {place} \
             --adapter {adapter} -o OUT.onnx"
        )
    };
    Err(SourceError::Format {
        path: path.to_path_buf(),
        problem,
    })
}

/// Makes the vocabulary of `json`, the base's config, that of a word embedding the adapter brings with other rows.
pub fn fit_vocabulary(json: &mut Value, merged: &[Merged], base: &Stored) -> Option<String> {
    let word = base.family.weight(Role::Word, None);
    let rows = *merged.iter().find(|tensor| tensor.name == word)?.shape.first()?;
    let before = *base.shape(Role::Word, None)?.first()?;
    if rows == before {
        return None;
    }
    json.as_object_mut()?.insert("vocab_size".into(), rows.into());
    Some(format!(
        "the adapter brings a word embedding of {rows} rows and the model has {before}: its vocabulary is resized, as by \
         resize_token_embeddings({rows})"
    ))
}

/// Makes the labels of `json`, the base's config, those of a classifier with `rows` rows where their numbers differ: which
/// names its labels have, neither the base nor the adapter says.
pub fn fit_labels(json: &mut Value, rows: usize) -> Option<String> {
    let object = json.as_object_mut()?;
    let named = match object.get("id2label") {
        Some(Value::Object(names)) => names.len(),
        _ => object
            .get("num_labels")
            .and_then(Value::as_u64)
            .map_or(2, |n| usize::try_from(n).unwrap_or(usize::MAX)),
    };
    if named == rows {
        return None;
    }
    object.remove("id2label");
    object.insert("num_labels".into(), rows.into());
    Some(format!(
        "the classifier has {rows} labels and the config {named}: they are called LABEL_0, LABEL_1 …"
    ))
}
