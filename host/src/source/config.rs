//! Reads a Hugging Face `config.json` as `AlbertConfig` would, defaults included, and settles which head the model has.
//! In comes the JSON and the canonical names of the tensors present, out comes the graph's `Config` with notes.

use super::SourceError;
use super::names::Stored;
use serde_json::{Map, Value};
use std::path::Path;
use thimble_shared::graph::{Activation, Config, Head};

/// What config.json settles, beyond the graph itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    pub config: Config,
    /// The class named or inferred, e.g. `AlbertForMaskedLM`.
    pub architecture: &'static str,
    /// `tie_word_embeddings`: whether a masked-LM decoder may be the word embedding.
    pub tie: bool,
    pub notes: Vec<String>,
}

const ARCHITECTURES: [(&str, Head); 7] = [
    ("AlbertModel", Head::None),
    ("AlbertForMaskedLM", Head::MaskedLm),
    ("AlbertForPreTraining", Head::PreTraining),
    ("AlbertForSequenceClassification", Head::SequenceClassification),
    ("AlbertForTokenClassification", Head::TokenClassification),
    ("AlbertForQuestionAnswering", Head::QuestionAnswering),
    ("AlbertForMultipleChoice", Head::MultipleChoice),
];

/// Hugging Face's `hidden_act` names with the formula behind each. `gelu_fast` and `gelu_accurate` write the tanh form with
/// other groupings and constants rounded to ten digits: within one f32 rounding of each other.
const ACTIVATIONS: [(&str, Activation); 11] = [
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluNew),
    ("gelu_fast", Activation::GeluNew),
    ("gelu_pytorch_tanh", Activation::GeluNew),
    ("gelu_python_tanh", Activation::GeluNew),
    ("gelu_accurate", Activation::GeluNew),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("tanh", Activation::Tanh),
];

/// Reads `json`, found at `path`, for a checkpoint that stores `stored`.
/// A `head` asked for counts, whatever class the file names.
pub fn read(path: &Path, json: &Value, stored: &Stored, head: Option<Head>) -> Result<Described, SourceError> {
    let Some(object) = json.as_object() else {
        return Err(SourceError::Format {
            path: path.to_path_buf(),
            problem: "is no JSON object".into(),
        });
    };
    let fields = Fields { path, object };
    let mut notes = Vec::new();
    model_type(&fields, &mut notes)?;
    unsupported(&fields)?;
    let (architecture, head) = match head {
        Some(head) => (class_of(head), head),
        None => architecture(&fields, stored, &mut notes)?,
    };
    let labels = labels(&fields, head, &mut notes)?;
    let pooler = head.needs_pooler() || (head == Head::None && stored.has("pooler.weight"));
    if head == Head::None && !pooler {
        notes.push("the checkpoint has no pooler: the model will not give pooler_output".into());
    }
    let config = Config {
        vocab_size: fields.size("vocab_size", 30000)?,
        embedding_size: fields.size("embedding_size", 128)?,
        hidden_size: fields.size("hidden_size", 4096)?,
        num_hidden_layers: fields.size("num_hidden_layers", 12)?,
        num_hidden_groups: fields.size("num_hidden_groups", 1)?,
        inner_group_num: fields.size("inner_group_num", 1)?,
        num_attention_heads: fields.size("num_attention_heads", 64)?,
        intermediate_size: fields.size("intermediate_size", 16384)?,
        max_position_embeddings: fields.size("max_position_embeddings", 512)?,
        type_vocab_size: fields.size("type_vocab_size", 2)?,
        layer_norm_eps: fields.number("layer_norm_eps", 1e-12)? as f32,
        activation: activation(&fields)?,
        head,
        tied_decoder: false,
        pooler,
        labels,
        multi_label: head == Head::SequenceClassification
            && fields.text("problem_type")? == Some("multi_label_classification"),
        hidden_shift: false,
    };
    let bad = |field: &str, problem| SourceError::Config {
        path: path.to_path_buf(),
        field: field.to_string(),
        problem,
    };
    config.check().map_err(|e| bad(e.field, e.problem))?;
    // Each layer has sixteen tensors; a config that promises more layers than there are tensors is not worth listing.
    let layers = config.num_hidden_groups.saturating_mul(config.inner_group_num);
    if layers > stored.count().max(1) {
        return Err(bad(
            "num_hidden_groups",
            format!(
                "{layers} layers to store in {} groups, but the checkpoint has {} tensors in all",
                config.num_hidden_groups,
                stored.count()
            ),
        ));
    }
    Ok(Described {
        config,
        architecture,
        tie: fields.flag("tie_word_embeddings", true)?,
        notes,
    })
}

fn model_type(fields: &Fields, notes: &mut Vec<String>) -> Result<(), SourceError> {
    match fields.text("model_type")? {
        Some("albert") => Ok(()),
        Some(other) => fields.bad(
            "model_type",
            format!("this is a '{other}' model; thimble reads ALBERT ('albert') only"),
        ),
        None => {
            notes.push("config.json has no model_type: read as albert".into());
            Ok(())
        }
    }
}

/// Fields that would change the arithmetic in ways the graph does not say.
fn unsupported(fields: &Fields) -> Result<(), SourceError> {
    match fields.text("position_embedding_type")? {
        None | Some("absolute") => {}
        Some(other) => {
            return fields.bad(
                "position_embedding_type",
                format!("'{other}' is not supported; thimble computes 'absolute' only"),
            );
        }
    }
    if let Some(value) = fields.get("quantization_config") {
        let method = value.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        return fields.bad(
            "quantization_config",
            format!("the weights are already quantised ({method}); start from the original checkpoint"),
        );
    }
    match fields.get("pruned_heads") {
        Some(Value::Object(pruned)) if !pruned.is_empty() => fields.bad(
            "pruned_heads",
            "models with attention heads pruned away are not supported".into(),
        ),
        _ => Ok(()),
    }
}

fn architecture(
    fields: &Fields,
    stored: &Stored,
    notes: &mut Vec<String>,
) -> Result<(&'static str, Head), SourceError> {
    let known = || ARCHITECTURES.map(|(name, _)| name).join(", ");
    let named = match fields.get("architectures") {
        None => None,
        Some(Value::Array(names)) => match names.as_slice() {
            [] => None,
            [Value::String(name)] => Some(name.as_str()),
            [Value::String(name), others @ ..] => {
                notes.push(format!(
                    "architectures names {} classes; the first, {name}, is taken",
                    others.len() + 1
                ));
                Some(name.as_str())
            }
            _ => return fields.bad("architectures", "must be a list of class names".into()),
        },
        Some(_) => return fields.bad("architectures", "must be a list of class names".into()),
    };
    if let Some(name) = named {
        return match ARCHITECTURES.into_iter().find(|(known, _)| *known == name) {
            Some(found) => Ok(found),
            None => fields.bad(
                "architectures",
                format!("'{name}' is not supported; known are {}", known()),
            ),
        };
    }
    let head = infer(stored);
    let name = class_of(head);
    notes.push(format!(
        "config.json names no architecture: taken for {name} by the tensors present"
    ));
    Ok((name, head))
}

/// The transformers class of a head.
fn class_of(head: Head) -> &'static str {
    ARCHITECTURES
        .into_iter()
        .find(|(_, h)| *h == head)
        .map_or("AlbertModel", |(name, _)| name)
}

/// The head that fits the tensors present. A classifier over pooled tokens is taken for sequence classification: nothing in
/// the weights tells multiple choice from regression.
fn infer(stored: &Stored) -> Head {
    let has = |name| stored.has(name);
    if has("qa_outputs.weight") {
        Head::QuestionAnswering
    } else if has("sop_classifier.classifier.weight") {
        Head::PreTraining
    } else if has("predictions.dense.weight") {
        Head::MaskedLm
    } else if has("classifier.weight") && has("pooler.weight") {
        Head::SequenceClassification
    } else if has("classifier.weight") {
        Head::TokenClassification
    } else {
        Head::None
    }
}

fn activation(fields: &Fields) -> Result<Activation, SourceError> {
    let name = fields.text("hidden_act")?.unwrap_or("gelu_new");
    match ACTIVATIONS.into_iter().find(|(known, _)| *known == name) {
        Some((_, activation)) => Ok(activation),
        None => fields.bad(
            "hidden_act",
            format!(
                "'{name}' is not supported; known are {}",
                ACTIVATIONS.map(|(n, _)| n).join(", ")
            ),
        ),
    }
}

/// Most labels a classifier may have.
const MAX_LABELS: usize = 1 << 20;

/// Label names in order: `id2label`, else `num_labels` made-up names, else Hugging Face's two.
fn labels(fields: &Fields, head: Head, notes: &mut Vec<String>) -> Result<Vec<String>, SourceError> {
    if !matches!(head, Head::SequenceClassification | Head::TokenClassification) {
        return Ok(Vec::new());
    }
    let count = match fields.get("num_labels") {
        None => None,
        Some(_) => Some(fields.size("num_labels", 2)?),
    };
    let Some(map) = fields.get("id2label") else {
        let count = count.unwrap_or(2);
        if count == 0 || count > MAX_LABELS {
            return fields.bad("num_labels", format!("is {count}, must be 1 to {MAX_LABELS}"));
        }
        return Ok((0..count).map(|i| format!("LABEL_{i}")).collect());
    };
    let Value::Object(map) = map else {
        return fields.bad("id2label", "must be an object from number to name".into());
    };
    let mut names = vec![None; map.len()];
    for (id, name) in map {
        let slot = id.parse::<usize>().ok().and_then(|i| names.get_mut(i));
        let (Some(slot), Some(name)) = (slot, name.as_str()) else {
            return fields.bad(
                "id2label",
                format!("'{id}': the keys must be 0 to {} and the names strings", map.len() - 1),
            );
        };
        *slot = Some(name.to_string());
    }
    let Some(names) = names.into_iter().collect::<Option<Vec<_>>>().filter(|n| !n.is_empty()) else {
        return fields.bad("id2label", "must name the labels 0, 1, 2 ... without a gap".into());
    };
    if let Some(count) = count.filter(|&n| n != names.len()) {
        notes.push(format!(
            "num_labels is {count}, id2label names {}: id2label is taken",
            names.len()
        ));
    }
    Ok(names)
}

struct Fields<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn bad<T>(&self, field: &str, problem: String) -> Result<T, SourceError> {
        Err(SourceError::Config {
            path: self.path.to_path_buf(),
            field: field.to_string(),
            problem,
        })
    }

    /// A field that is there and not null.
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|v| !v.is_null())
    }

    fn size(&self, field: &str, default: usize) -> Result<usize, SourceError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) => Ok(n),
                None => self.bad(field, format!("is {value}, must be a whole number")),
            },
        }
    }

    fn number(&self, field: &str, default: f64) -> Result<f64, SourceError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => match value.as_f64() {
                Some(n) => Ok(n),
                None => self.bad(field, format!("is {value}, must be a number")),
            },
        }
    }

    fn text(&self, field: &str) -> Result<Option<&'a str>, SourceError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text)),
                None => self.bad(field, format!("is {value}, must be a string")),
            },
        }
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool, SourceError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => match value.as_bool() {
                Some(flag) => Ok(flag),
                None => self.bad(field, format!("is {value}, must be true or false")),
            },
        }
    }
}
