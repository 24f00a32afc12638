//! Reads the fields of a configuration as Hugging Face's class of the family would, and settles which head the model has. In come
//! the fields and the canonical names and shapes of the tensors present, out comes the graph's `Config` with notes. What the
//! file leaves out is told by the tensors' shapes, and the rest is that class's defaults.

use super::described::{Certainty, Described};
use super::fields::Fields;
use super::names::Stored;
use super::{SourceError, labels};
use serde_json::Value;
use std::path::Path;
use thimble_shared::model::family::Sharing;
use thimble_shared::model::head::sequence;
use thimble_shared::model::sentence::Pooling;
use thimble_shared::model::sentence::Sentence;
use thimble_shared::model::{
    Activation, AnswerKind, AttentionArithmetic, Config, FamilyRow, Head, ModelFamily, Role, Site,
};

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
/// A `head` asked for counts, whatever class the file names. `sentence` is how that head pools, where files say so.
/// One field of [`Config`] after another, so it is not cut into parts.
pub fn read(
    path: &Path,
    json: &Value,
    stored: &Stored,
    head: Option<Head>,
    sentence: Option<Sentence>,
) -> Result<Described, SourceError> {
    let fields = Fields::of(path, json)?;
    let mut notes = Vec::new();
    let family = model_type(&fields, &mut notes)?;
    let row = family.row();
    unsupported(&fields, row)?;
    let (architecture, head, certainty) = match head {
        Some(head) => (row.class_of(head), head, Certainty::Settled),
        None => architecture(&fields, stored, &mut notes)?,
    };
    let axis = |role, site, axis: usize| stored.shape(role, site).and_then(|shape| shape.get(axis).copied());
    let labels = match head.row().has_labels {
        true => {
            let rows = head.row().told_by.first().and_then(|role| axis(*role, None, 0));
            labels::read(&fields, rows, &mut notes)?
        }
        false => Vec::new(),
    };
    let sentence = pooling(head, sentence, &mut notes);
    let size = |field: &str, default: usize| Ok::<_, SourceError>(fields.size(field)?.unwrap_or(default));
    let told =
        |field: &str, role: Role, rows: usize, default: usize| size(field, axis(role, None, rows).unwrap_or(default));
    let known = &row.defaults;
    let problem = problem_type(&fields, head, labels.len())?;
    notes.extend(problem.note(labels.len()).map(str::to_string));
    let pooler = head.needs_pooler() || (head == Head::None && stored.has(Role::Pooler));
    if head == Head::None && !pooler {
        notes.push("the checkpoint has no pooler: the model will not give pooler_output".into());
    }
    defaults(&fields, row, &mut notes);
    let (of_hidden, width) = row.names.hidden_size;
    let hidden_size = told("hidden_size", of_hidden, width, known.hidden_size)?;
    let num_hidden_layers = size("num_hidden_layers", known.num_hidden_layers)?;
    let (groups, inner) = match row.sharing {
        Sharing::Groups => {
            let (groups, inner) = stored.groups();
            (size("num_hidden_groups", groups)?, size("inner_group_num", inner)?)
        }
        Sharing::Nothing => (num_hidden_layers, 1),
    };
    let first = Some(Site { group: 0, inner: 0 });
    let mut config = Config {
        family,
        vocab_size: told("vocab_size", Role::Word, 0, known.vocab_size)?,
        embedding_size: match known.embedding_size {
            Some(default) => told("embedding_size", Role::Word, 1, default)?,
            None => hidden_size,
        },
        hidden_size,
        num_hidden_layers,
        num_hidden_groups: groups,
        inner_group_num: inner,
        num_attention_heads: size("num_attention_heads", known.num_attention_heads)?,
        intermediate_size: size(
            "intermediate_size",
            axis(Role::Up, first, 0).unwrap_or(known.intermediate_size),
        )?,
        max_position_embeddings: told(
            "max_position_embeddings",
            Role::Position,
            0,
            known.max_position_embeddings,
        )?,
        type_vocab_size: told("type_vocab_size", Role::TokenType, 0, known.type_vocab_size)?,
        layer_norm_eps: fields.number("layer_norm_eps")?.unwrap_or(known.layer_norm_eps) as f32,
        activation: activation(&fields, row)?,
        head,
        tied_decoder: false,
        pooler,
        multi_label: problem.multi_label,
        regression: problem.regression,
        labels,
        hidden_shift: false,
        sentence,
        attention: AttentionArithmetic::F32,
    };
    if let Some(sentence) = &mut config.sentence {
        // Positions end there in any case.
        let positions = config.max_position_embeddings;
        sentence.max_tokens = sentence.max_tokens.filter(|most| *most < positions);
    }
    check(path, &config, stored)?;
    Ok(Described {
        config,
        architecture,
        certainty,
        tie: fields.flag("tie_word_embeddings")?.unwrap_or(true),
        notes,
    })
}

/// How a sentence's embedding is pooled: as files say, else the tokens' mean.
fn pooling(head: Head, sentence: Option<Sentence>, notes: &mut Vec<String>) -> Option<Sentence> {
    match (head.answer(), sentence) {
        (AnswerKind::Embedding, None) => {
            notes.push(
                "no modules.json says how tokens become a sentence's embedding: it is their mean, as sentence-transformers takes it then"
                    .into(),
            );
            Some(Sentence::pooled(Pooling::Mean))
        }
        (_, sentence) => sentence,
    }
}

/// What a head with `labels` labels is trained for.
fn problem_type(fields: &Fields, head: Head, labels: usize) -> Result<ProblemType, SourceError> {
    match (head.answer(), fields.text("problem_type")?) {
        (AnswerKind::Labels, named) => match ProblemType::of(named, labels) {
            Ok(problem) => Ok(problem),
            Err(problem) => fields.bad("problem_type", problem),
        },
        // No other head's class reads it.
        (_, _) => Ok(ProblemType::default()),
    }
}

/// Holds a configuration to what thimble builds, and to how much the checkpoint stores.
fn check(path: &Path, config: &Config, stored: &Stored) -> Result<(), SourceError> {
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
    Ok(())
}

/// Says which fields that change the answers and that no tensor tells are the defaults of the family's configuration.
fn defaults(fields: &Fields, family: &FamilyRow, notes: &mut Vec<String>) {
    let known = &family.defaults;
    let known = [
        ("num_hidden_layers", known.num_hidden_layers.to_string()),
        ("num_attention_heads", known.num_attention_heads.to_string()),
        ("hidden_act", known.hidden_act.to_string()),
    ];
    let left: Vec<String> = known
        .iter()
        .filter(|(field, _)| fields.get(field).is_none())
        .map(|(field, default)| format!("{field} {default}"))
        .collect();
    if !left.is_empty() {
        notes.push(format!(
            "not configured, {}Config's default taken: {}",
            family.class,
            left.join(", ")
        ));
    }
}

/// What `problem_type` and the number of labels make of a sequence classifier, as transformers 4.57 decides it: its
/// text-classification pipeline the scores, `AlbertForSequenceClassification` the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProblemType {
    /// [`Config::multi_label`].
    pub multi_label: bool,
    /// [`Config::regression`].
    pub regression: bool,
}

impl ProblemType {
    /// Of the value of `problem_type`.
    ///
    /// # Errors
    /// A value transformers refuses.
    pub fn of(named: Option<&str>, labels: usize) -> Result<ProblemType, String> {
        let (multi_label, regression) = match (named, labels) {
            (Some("multi_label_classification"), _) => (true, false),
            // One label without `multi_label` is a value without more being said.
            (Some("regression"), 1) => (false, false),
            (Some("regression"), _) => (false, true),
            (None | Some("single_label_classification"), 1) => (true, true),
            (None | Some("single_label_classification"), _) => (false, false),
            (Some(other), _) => {
                return Err(format!(
                    "'{other}' is none of regression, single_label_classification, multi_label_classification"
                ));
            }
        };
        Ok(ProblemType {
            multi_label,
            regression,
        })
    }

    /// What the user should know of it.
    pub fn note(self, labels: usize) -> Option<&'static str> {
        match (self.multi_label, self.regression) {
            (true, false) => {
                Some("problem_type is multi_label_classification: each label has a probability of its own")
            }
            (true, true) => Some(
                "one label, and problem_type is not regression: its score is the sigmoid of the output, as Hugging Face's \
                 pipeline gives it; models are compared by the squared error of the output",
            ),
            (false, true) => Some("problem_type is regression: the outputs are values, compared by squared error"),
            (false, false) if labels == 1 => {
                Some("problem_type is regression: the output is a value, compared by squared error")
            }
            (false, false) => None,
        }
    }
}

fn model_type(fields: &Fields, notes: &mut Vec<String>) -> Result<ModelFamily, SourceError> {
    let Some(named) = fields.text("model_type")? else {
        let (family, name) = (
            ModelFamily::default(),
            fields.path.file_name().unwrap_or_default().to_string_lossy(),
        );
        notes.push(format!("{name} has no model_type: read as {}", family.row().model_type));
        return Ok(family);
    };
    match ModelFamily::of_type(named) {
        Some(family) => Ok(family),
        None => {
            let known = ModelFamily::ALL.map(|family| format!("{} ('{}')", family.row().name, family.row().model_type));
            fields.bad(
                "model_type",
                format!("this is a '{named}' model; thimble reads {} only", known.join(", ")),
            )
        }
    }
}

/// The family whose names a checkpoint with this configuration has; what [`read`] refuses is looked at as ALBERT.
pub fn family(json: &Value) -> &'static FamilyRow {
    let named = json.get("model_type").and_then(Value::as_str);
    named.and_then(ModelFamily::of_type).unwrap_or_default().row()
}

/// Fields that would change the arithmetic in ways the graph does not say.
fn unsupported(fields: &Fields, family: &FamilyRow) -> Result<(), SourceError> {
    for field in family.refused {
        if fields.flag(field)? == Some(true) {
            return fields.bad(field, "is true; thimble computes encoders only");
        }
    }
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
            format!("the weights are already quantized ({method}); start from the original checkpoint"),
        );
    }
    // Other implementations can put the norms before the sublayers, or share part of a layer only.
    for (field, computed) in [("ln_type", "postln"), ("share_type", "all")] {
        if let Some(other) = fields.text(field)?.filter(|value| *value != computed) {
            return fields.bad(
                field,
                format!("'{other}' is not supported; thimble computes '{computed}' only"),
            );
        }
    }
    match fields.get("pruned_heads") {
        Some(Value::Object(pruned)) if !pruned.is_empty() => fields.bad(
            "pruned_heads",
            "models with attention heads pruned away are not supported",
        ),
        _ => Ok(()),
    }
}

fn architecture(
    fields: &Fields,
    stored: &Stored,
    notes: &mut Vec<String>,
) -> Result<(String, Head, Certainty), SourceError> {
    let family = stored.family;
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
            _ => return fields.bad("architectures", "must be a list of class names"),
        },
        Some(_) => return fields.bad("architectures", "must be a list of class names"),
    };
    if let Some(head) = named.and_then(|class| family.head_of(class)) {
        return Ok((family.class_of(head), head, Certainty::Settled));
    }
    let head = infer(stored);
    let class = family.class_of(head);
    let said = match named {
        None => "it names no class".to_string(),
        Some(name) => format!(
            "'{name}' is not one of {}",
            Head::ALL.map(|head| family.class_of(head)).join(", ")
        ),
    };
    if let Some(reason) = doubtful(fields, stored, head, named.unwrap_or_default()) {
        return fields.bad(
            "architectures",
            format!("{said}; the tensors fit {class}, but {reason}: say which with --head NAME"),
        );
    }
    let what = match named {
        None => {
            let name = fields.path.file_name().unwrap_or_default().to_string_lossy();
            format!("{name} names no architecture")
        }
        Some(name) => format!("architectures names '{name}'"),
    };
    // Nothing stored tells a regression's row from a choice's.
    let one = stored
        .shape(sequence::CLASSIFIER, None)
        .is_some_and(|shape| shape.first() == Some(&1));
    let choice = head == Head::SequenceClassification && one;
    notes.push(format!(
        "{what}: taken for {class} by the tensors present; --head {} another",
        if choice {
            "choice makes multiple choice of it, --head NAME"
        } else {
            "NAME chooses"
        }
    ));
    let certainty = if named.is_none() && head == Head::None {
        Certainty::Settled
    } else {
        Certainty::Inferred(fields.path.to_path_buf(), said)
    };
    Ok((class, head, certainty))
}

/// Words in the name of a class whose head may be one for tokens, or spans of them.
const TOKEN_WORDS: [&str; 30] = [
    "token",
    "tokens",
    "ner",
    "tag",
    "tags",
    "tagger",
    "tagging",
    "crf",
    "span",
    "spans",
    "punctuation",
    "punct",
    "slot",
    "slots",
    "pos",
    "segmentation",
    "segmenter",
    "chunk",
    "chunks",
    "chunker",
    "chunking",
    "entity",
    "entities",
    "labeling",
    "labelling",
    "qa",
    "squad",
    "question",
    "questions",
    "answering",
];

/// The words of a class's name in lower case: AlbertForNER is albert, for, ner.
fn words(class: &str) -> Vec<String> {
    let letters: Vec<char> = class.chars().collect();
    let mut words: Vec<String> = Vec::new();
    for (n, &letter) in letters.iter().enumerate() {
        let before = n.checked_sub(1).map(|m| letters[m]);
        let after = letters.get(n + 1).copied();
        let is = |c: Option<char>, of: fn(char) -> bool| c.is_some_and(of);
        let starts = letter.is_uppercase() && (!is(before, char::is_uppercase) || is(after, char::is_lowercase));
        if starts || words.is_empty() || letter == '_' {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| letter != '_') {
            word.extend(letter.to_lowercase());
        }
    }
    words
}

/// Why a classifier may be another than its tensors alone say: those of three heads have the same names and shapes.
fn doubtful(fields: &Fields, stored: &Stored, head: Head, named: &str) -> Option<&'static str> {
    if head != Head::SequenceClassification {
        return None;
    }
    let words = words(named);
    let named = |any: &[&str]| words.iter().any(|word| any.contains(&word.as_str()));
    if named(&TOKEN_WORDS) {
        Some("its name may mean a head for tokens or spans")
    } else if named(&["choice", "choices", "swag"]) {
        Some("its name may mean multiple choice")
    } else if labels::are_tags(fields) {
        Some("its labels are those of tokens")
    } else if stored.has_beside("crf") {
        Some("its CRF is that of a head for tokens")
    } else {
        None
    }
}

/// The head of a transformers class, of any family.
pub fn head_of(class: &str) -> Option<Head> {
    ModelFamily::ALL
        .into_iter()
        .find_map(|family| family.row().head_of(class))
}

/// The head that fits the tensors present. A classifier over pooled tokens is taken for sequence classification: nothing in
/// the weights tells multiple choice from regression.
fn infer(stored: &Stored) -> Head {
    let told = |head: &Head| head.row().told_by.iter().all(|role| stored.has(*role));
    Head::TOLD.into_iter().find(told).unwrap_or(Head::None)
}

fn activation(fields: &Fields, family: &FamilyRow) -> Result<Activation, SourceError> {
    let name = fields.text("hidden_act")?.unwrap_or(family.defaults.hidden_act);
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

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_class_name_is_words() {
        for (name, want) in [
            ("AlbertForNER", "albert for ner"),
            ("AlbertCRFTagger", "albert crf tagger"),
            ("AlbertForGenericTask", "albert for generic task"),
            ("SpanishAlbert", "spanish albert"),
            ("my_token_model", "my token model"),
            ("", ""),
        ] {
            assert_eq!(words(name).join(" "), want);
        }
    }
}
