//! The files that Hugging Face's tools want beside an ONNX file: config.json for Optimum and transformers.js, tokenizer.json and
//! tokenizer_config.json. In comes a model's configuration and its tokenizer, out come names and texts.

use super::error::ModelError;
use super::file_names;
use crate::models::checkpoint::sentence_transformers::class_of;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use thimble_shared::model::head::sentence::dense_weight;
use thimble_shared::model::sentence::{Pooling, Sentence};
use thimble_shared::model::{Activation, Config, Head, Model, Role};

/// The model in such a folder, where Optimum, sentence-transformers and transformers.js look for it.
pub const MODEL: &str = "onnx/model.onnx";
/// The parts of a sentence embedding.
pub const MODULES: &str = "modules.json";

/// Special tokens by the names of transformers, as the vocabularies of ALBERTs spell them.
const SPECIAL: [(&str, [&str; 2]); 5] = [
    ("unk_token", ["<unk>", "[UNK]"]),
    ("pad_token", ["<pad>", "[PAD]"]),
    ("cls_token", ["[CLS]", "<s>"]),
    ("sep_token", ["[SEP]", "</s>"]),
    ("mask_token", ["[MASK]", "<mask>"]),
];

/// A file of the folder: its path in there, and its bytes.
pub type FolderFile = (String, Vec<u8>);

/// Every file but the model's.
///
/// # Errors
/// Dense layers that sentence-transformers' files cannot hold.
pub fn files(model: &Model, tokenizer: Option<&str>) -> Result<Vec<FolderFile>, ModelError> {
    let known = tokenizer.and_then(|text| serde_json::from_str(text).ok());
    let special = known.as_ref().map(special).unwrap_or_default();
    let mut files = vec![(file_names::CONFIG.into(), pretty(&config_json(&model.config, &special)))];
    if let Some(text) = tokenizer {
        files.push((file_names::TOKENIZER.into(), text.into()));
        files.push((
            file_names::TOKENIZER_CONFIG.into(),
            pretty(&tokenizer_config(&model.config, &special)),
        ));
    }
    if let Some(sentence) = &model.config.sentence {
        files.extend(sentence_transformers(model, sentence)?);
    }
    Ok(files)
}

/// What sentence-transformers reads: it pools the hidden states itself, which the ONNX file gives beside the embedding.
fn sentence_transformers(model: &Model, sentence: &Sentence) -> Result<Vec<FolderFile>, ModelError> {
    let hidden = model.config.hidden_size;
    let mut modules = vec![("Transformer", String::new()), ("Pooling", "1_Pooling".into())];
    let ways = Pooling::ALL.map(|way| {
        let name = match way {
            Pooling::First => "pooling_mode_cls_token",
            Pooling::Last => "pooling_mode_lasttoken",
            Pooling::Max => "pooling_mode_max_tokens",
            Pooling::Mean => "pooling_mode_mean_tokens",
            Pooling::MeanSqrtLen => "pooling_mode_mean_sqrt_len_tokens",
            Pooling::WeightedMean => "pooling_mode_weightedmean_tokens",
        };
        (name.to_string(), json!(sentence.pooling.contains(&way)))
    });
    let mut pooling = Map::from_iter(ways);
    pooling.insert("word_embedding_dimension".into(), json!(hidden));
    let mut files = vec![
        ("1_Pooling/config.json".into(), pretty(&pooling.into())),
        (
            "sentence_bert_config.json".into(),
            pretty(&json!({
                "max_seq_length": sentence.max_tokens.unwrap_or(model.config.max_position_embeddings),
                "do_lower_case": false,
            })),
        ),
    ];
    let mut inputs = hidden * sentence.pooling.len();
    for (number, dense) in sentence.dense.iter().enumerate() {
        let Some(role) = dense_weight(number) else { continue };
        let folder = format!("{}_Dense", modules.len());
        let class = match dense.activation {
            Some(activation) => class_of(Some(activation)).ok_or(ModelError::DenseActivation(activation))?,
            None => class_of(None).unwrap_or_default(),
        };
        let config = json!({
            "in_features": inputs,
            "out_features": dense.size,
            "bias": true,
            "activation_function": class,
        });
        files.push((format!("{folder}/config.json"), pretty(&config)));
        files.push((
            format!("{folder}/model.safetensors"),
            dense_tensors(model, role, [dense.size, inputs])?,
        ));
        modules.push(("Dense", folder));
        inputs = dense.size;
    }
    if sentence.normalize {
        modules.push(("Normalize", format!("{}_Normalize", modules.len())));
    }
    let modules = modules.iter().enumerate().map(|(index, (class, path))| {
        let class = format!("sentence_transformers.models.{class}");
        json!({ "idx": index, "name": index.to_string(), "path": path, "type": class })
    });
    files.push((MODULES.into(), pretty(&modules.collect())));
    if let Some(prompt) = &sentence.prompt {
        let prompts = json!({ "prompts": { "text": prompt }, "default_prompt_name": "text" });
        files.push(("config_sentence_transformers.json".into(), pretty(&prompts)));
    }
    Ok(files)
}

/// A dense layer's weight `[out, in]` and bias as a safetensors file in f32.
fn dense_tensors(model: &Model, role: Role, shape: [usize; 2]) -> Result<Vec<u8>, ModelError> {
    let bytes = |name: &str| {
        let values = model.weights[name].as_f32();
        values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()
    };
    let (weight, bias) = (bytes(role.name()), bytes(&format!("{}.bias", role.name())));
    let tensors = [
        ("linear.bias", TensorView::new(Dtype::F32, vec![shape[0]], &bias)?),
        ("linear.weight", TensorView::new(Dtype::F32, shape.to_vec(), &weight)?),
    ];
    Ok(safetensors::serialize(tensors, None)?)
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// What `AlbertConfig` reads.
fn config_json(config: &Config, special: &[(&'static str, String, u64)]) -> Value {
    // Its encoder is what sentence-transformers loads.
    let encoder = config.sentence.is_some().then(|| Head::None.row().class);
    let class = encoder.unwrap_or(config.head.row().class);
    let mut json = json!({
        "architectures": [class.of(config.family.row().class)],
        "model_type": config.family.row().model_type,
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
    let problem = match (config.regression && config.multi_label, config.predicts_values()) {
        // Both together mark one label without a problem_type, which pipelines give a sigmoid.
        (true, _) => None,
        (false, true) => Some("regression"),
        (false, false) => config.multi_label.then_some("multi_label_classification"),
    };
    fields.extend(problem.map(|problem| ("problem_type".into(), problem.into())));
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
    let of_sentence = config.sentence.as_ref().and_then(|sentence| sentence.max_tokens);
    let most = of_sentence.map_or(config.max_position_embeddings, |most| {
        most.min(config.max_position_embeddings)
    });
    let mut json = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": most,
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
