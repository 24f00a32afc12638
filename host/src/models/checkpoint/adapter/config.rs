//! Reads PEFT's `adapter_config.json`: in comes the JSON, out come the scale of each adapted module and the head the adapter was
//! trained with. What would change the arithmetic in a way that is not computed here is refused by its name.

use super::super::fields::Fields;
use super::super::{SourceError, config};
use regex::{Regex, RegexBuilder};
use serde_json::Value;
use std::path::{Path, PathBuf};
use thimble_shared::model::Head;

/// PEFT's defaults of `r` and `lora_alpha`.
const DEFAULT_RANK: usize = 8;
const DEFAULT_ALPHA: f64 = 8.0;

/// Fields that ask for another function of the weights than W + scale · B · A where they are set to anything.
const OTHER_FUNCTIONS: [&str; 9] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
];

/// Adapters that change what goes through the layers instead of their weights.
const UNMERGED: [&str; 10] = [
    "ADAPTION_PROMPT",
    "CARTRIDGE",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "SHADOW",
    "XLORA",
];

/// Initializations that leave the base model as it was. Others (PiSSA, OLoRA, CorDA, LoftQ …) change it when they start.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Most patterns of a kind; PEFT's have one for each kind of module.
const MOST_PATTERNS: usize = 256;

/// Most bytes one pattern may take when it is compiled.
const MOST_COMPILED: usize = 256 << 10;

/// What an adapter's configuration says.
#[derive(Clone, Debug)]
pub struct AdapterConfig {
    path: PathBuf,
    /// The model it was trained on: an id on the hub or a folder.
    pub base: Option<String>,
    rank: usize,
    alpha: f64,
    rank_of: Vec<(String, usize)>,
    alpha_of: Vec<(String, f64)>,
    rank_stabilized: bool,
    /// Whether each row is scaled to a length of its own (DoRA).
    pub dora: bool,
    /// `modules_to_save`: ends of the names of modules that it brings whole.
    saved: Vec<String>,
    /// The head that its task or its model's class means.
    pub head: Option<Head>,
}

impl AdapterConfig {
    /// Reads the `json` found at `path`.
    pub fn read(path: &Path, json: &Value) -> Result<AdapterConfig, SourceError> {
        let fields = Fields::of(path, json)?;
        match fields.text("peft_type")? {
            Some("LORA") => {}
            Some(other) if UNMERGED.contains(&other) => {
                return fields.bad(
                    "peft_type",
                    format!("is {other}, which PEFT itself merges into no weights; thimble merges LORA only"),
                );
            }
            Some(other) => {
                return fields.bad(
                    "peft_type",
                    format!("is {other}; thimble merges LORA only. {MERGE_IN_PEFT}"),
                );
            }
            None => return fields.bad("peft_type", "is missing: this is no configuration of PEFT's"),
        }
        for field in OTHER_FUNCTIONS {
            if fields.get(field).is_some_and(is_set) {
                return fields.bad(field, format!("is not supported. {MERGE_IN_PEFT}"));
            }
        }
        match fields.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => {}
            Some(Value::String(start)) if PLAIN_STARTS.contains(&start.as_str()) => {}
            Some(other) => {
                return fields.bad(
                    "init_lora_weights",
                    format!("{other} changed the base model before training. {MERGE_IN_PEFT}"),
                );
            }
        }
        Ok(AdapterConfig {
            path: path.to_path_buf(),
            base: fields
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .filter(|name| !name.is_empty())
                .map(str::to_string),
            rank: fields.size("r")?.unwrap_or(DEFAULT_RANK),
            alpha: fields.number("lora_alpha")?.unwrap_or(DEFAULT_ALPHA),
            rank_of: patterns(&fields, "rank_pattern", |n| usize::try_from(n.as_u64()?).ok())?,
            alpha_of: patterns(&fields, "alpha_pattern", Value::as_f64)?,
            rank_stabilized: fields.flag("use_rslora")?.unwrap_or(false),
            dora: fields.flag("use_dora")?.unwrap_or(false),
            saved: fields
                .get("modules_to_save")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|name| name.as_str().map(str::to_string))
                .collect(),
            head: head(&fields)?,
        })
    }

    /// What B · A of a module is multiplied with: alpha / r, or alpha / √r where it is rank-stabilized.
    ///
    /// # Errors
    /// Where the configuration gives the module another rank than `rank`, that of the matrices stored.
    pub fn scale(&self, module: &str, rank: usize) -> Result<f64, SourceError> {
        let said = of(&self.rank_of, module).unwrap_or(self.rank);
        let alpha = of(&self.alpha_of, module).unwrap_or(self.alpha);
        if said != rank || rank == 0 {
            return Err(SourceError::Config {
                path: self.path.clone(),
                field: "r".into(),
                problem: format!("gives {module} rank {said}, but its matrices have rank {rank}"),
            });
        }
        let divisor = if self.rank_stabilized {
            (rank as f64).sqrt()
        } else {
            rank as f64
        };
        Ok(alpha / divisor)
    }

    /// Whether `modules_to_save` covers a module, as PEFT decides it: by the end of its name.
    pub fn saves(&self, module: &str) -> bool {
        self.saved.iter().any(|end| module.ends_with(end.as_str()))
    }
}

/// What to do with an adapter that is not merged here.
pub const MERGE_IN_PEFT: &str =
    "Merge it in PEFT: AutoPeftModelFor….from_pretrained(ADAPTER).merge_and_unload().save_pretrained(ANOTHER_DIR)";

/// What the first pattern that fits says of a module.
fn of<T: Copy>(patterns: &[(String, T)], module: &str) -> Option<T> {
    let fits = |pattern: &str| compiled(pattern).is_some_and(|regex| regex.is_match(module));
    patterns.iter().find(|(p, _)| fits(p)).map(|(_, value)| *value)
}

/// A pattern as PEFT applies it: `re.match(rf"(.*\.)?({key})$", name)`. It is compiled anew for each module, so that hundreds of
/// patterns take no memory at once.
fn compiled(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
        .size_limit(MOST_COMPILED)
        .build()
        .ok()
}

/// Whether a field holds more than an empty or false value.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
    }
}

/// `rank_pattern` and `alpha_pattern`: regular expressions for the end of a module's name, and a number for each.
fn patterns<T>(fields: &Fields, field: &str, read: fn(&Value) -> Option<T>) -> Result<Vec<(String, T)>, SourceError> {
    let Some(value) = fields.get(field) else {
        return Ok(Vec::new());
    };
    let Some(object) = value.as_object() else {
        return fields.bad(field, "must be an object from pattern to number");
    };
    if object.len() > MOST_PATTERNS {
        return fields.bad(
            field,
            format!("has {} patterns, at most {MOST_PATTERNS} are read", object.len()),
        );
    }
    object
        .iter()
        .map(|(pattern, value)| match (compiled(pattern), read(value)) {
            (Some(_), Some(number)) => Ok((pattern.clone(), number)),
            (None, _) => fields.bad(field, format!("'{pattern}' is no regular expression thimble reads")),
            (_, None) => fields.bad(field, format!("'{pattern}' has {value}, not a number")),
        })
        .collect()
}

/// The head that `task_type` means, else the one of the class in `auto_mapping`.
fn head(fields: &Fields) -> Result<Option<Head>, SourceError> {
    let class = fields
        .get("auto_mapping")
        .and_then(|mapping| mapping.get("base_model_class")?.as_str());
    match fields.text("task_type")? {
        None => Ok(class.and_then(config::head_of)),
        Some("SEQ_CLS") => Ok(Some(Head::SequenceClassification)),
        Some("TOKEN_CLS") => Ok(Some(Head::TokenClassification)),
        Some("QUESTION_ANS") => Ok(Some(Head::QuestionAnswering)),
        Some("FEATURE_EXTRACTION") => Ok(Some(Head::None)),
        Some(other) => fields.bad("task_type", format!("{other} is no task of ALBERT's")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scales_follow_the_patterns_and_the_root_of_the_rank() {
        let plain = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8});
        let patterns = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": true,
            "rank_pattern": {"attention.query": 16}, "alpha_pattern": {r"layers\.\d+\.ffn": 3}});
        for (json, module, rank, want) in [
            (&plain, "a.attention.query", 4, Some(2.0)),
            (&plain, "a.attention.query", 8, None),
            (&patterns, "a.attention.query", 16, Some(2.0)),
            (&patterns, "a.xattention.query", 16, None),
            (&patterns, "a.layers.0.ffn", 4, Some(1.5)),
            (&patterns, "a.layers.0.ffn_output", 4, Some(4.0)),
            (&json!({"peft_type": "LORA"}), "x", 8, Some(1.0)),
        ] {
            let config = AdapterConfig::read(Path::new("x"), json).unwrap();
            assert_eq!(config.scale(module, rank).ok(), want, "{module}");
        }
    }

    #[test]
    fn other_adapters_are_refused_by_name() {
        for (json, words) in [
            (
                json!({"peft_type": "IA3"}),
                "peft_type: is IA3; thimble merges LORA only. Merge it in PEFT",
            ),
            (
                json!({"peft_type": "PROMPT_TUNING"}),
                "is PROMPT_TUNING, which PEFT itself merges into no weights",
            ),
            (json!({}), "peft_type: is missing"),
            (
                json!({"peft_type": "LORA", "init_lora_weights": "pissa"}),
                "changed the base model",
            ),
            (
                json!({"peft_type": "LORA", "layer_replication": [[0, 4]]}),
                "layer_replication: is not supported",
            ),
            (
                json!({"peft_type": "LORA", "task_type": "CAUSAL_LM"}),
                "CAUSAL_LM is no task",
            ),
            (
                json!({"peft_type": "LORA", "rank_pattern": {"(": 1}}),
                "no regular expression",
            ),
            (json!({"peft_type": "LORA", "r": -1}), "r: is -1"),
        ] {
            let said = AdapterConfig::read(Path::new("x"), &json).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }
}
