//! The files that Hugging Face's tools want beside an ONNX file: config.json for Optimum and transformers.js, tokenizer.json and
//! tokenizer_config.json. In comes a model's configuration and its tokenizer, out come names and texts.

use serde_json::{Map, Value, json};
use thimble_shared::model::{Activation, Config};

/// The model in such a folder, where Optimum, sentence-transformers and transformers.js look for it.
pub const MODEL: &str = "onnx/model.onnx";

/// Special tokens by the names of transformers, as the vocabularies of ALBERTs spell them.
const SPECIAL: [(&str, [&str; 2]); 5] = [
    ("unk_token", ["<unk>", "[UNK]"]),
    ("pad_token", ["<pad>", "[PAD]"]),
    ("cls_token", ["[CLS]", "<s>"]),
    ("sep_token", ["[SEP]", "</s>"]),
    ("mask_token", ["[MASK]", "<mask>"]),
];

/// Every file but the model's: name and text.
pub fn files(config: &Config, tokenizer: Option<&str>) -> Vec<(&'static str, String)> {
    let known = tokenizer.and_then(|text| serde_json::from_str(text).ok());
    let special = known.as_ref().map(special).unwrap_or_default();
    let mut files = vec![("config.json", pretty(&config_json(config, &special)))];
    if let Some(text) = tokenizer {
        files.push(("tokenizer.json", text.to_string()));
        files.push(("tokenizer_config.json", pretty(&tokenizer_config(config, &special))));
    }
    files
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// What `AlbertConfig` reads.
fn config_json(config: &Config, special: &[(&'static str, String, u64)]) -> Value {
    let mut json = json!({
        "architectures": [config.head.row().class],
        "model_type": "albert",
        "vocab_size": config.vocab_size,
        "embedding_size": config.embedding_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_hidden_groups": config.num_hidden_groups,
        "inner_group_num": config.inner_group_num,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": activation(config.activation),
    });
    let Value::Object(fields) = &mut json else { return json };
    if !config.labels.is_empty() {
        let by_id = config.labels.iter().enumerate();
        let by_id: Map<String, Value> = by_id.map(|(i, label)| (i.to_string(), json!(label))).collect();
        let by_label = config.labels.iter().enumerate();
        let by_label: Map<String, Value> = by_label.map(|(i, label)| (label.clone(), json!(i))).collect();
        fields.insert("id2label".into(), by_id.into());
        fields.insert("label2id".into(), by_label.into());
    }
    if config.predicts_values() {
        fields.insert("problem_type".into(), "regression".into());
    } else if config.multi_label {
        fields.insert("problem_type".into(), "multi_label_classification".into());
    }
    // transformers calls the first and the last token of a sequence these.
    for (name, role) in [
        ("pad_token_id", "pad_token"),
        ("bos_token_id", "cls_token"),
        ("eos_token_id", "sep_token"),
    ] {
        if let Some((_, _, id)) = special.iter().find(|(known, ..)| *known == role) {
            fields.insert(name.into(), json!(id));
        }
    }
    json
}

fn activation(activation: Activation) -> &'static str {
    match activation {
        Activation::Gelu => "gelu",
        Activation::GeluNew => "gelu_new",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
        Activation::Tanh => "tanh",
    }
}

fn tokenizer_config(config: &Config, special: &[(&'static str, String, u64)]) -> Value {
    let mut json = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_position_embeddings,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": false,
    });
    if let Value::Object(fields) = &mut json {
        for (role, token, _) in special {
            fields.insert((*role).into(), json!(token));
        }
    }
    json
}

/// The special tokens among the added ones of a tokenizer.json: name, text and id.
fn special(tokenizer: &Value) -> Vec<(&'static str, String, u64)> {
    let added: Vec<(&str, u64)> = tokenizer["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|token| Some((token["content"].as_str()?, token["id"].as_u64()?)))
        .collect();
    let found = |(role, spelt): (&'static str, [&str; 2])| {
        let token = spelt.iter().find_map(|s| added.iter().find(|(text, _)| text == s))?;
        Some((role, token.0.to_string(), token.1))
    };
    SPECIAL.into_iter().filter_map(found).collect()
}
