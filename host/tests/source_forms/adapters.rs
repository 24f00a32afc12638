//! LoRA adapters of PEFT: what merging them gives, and what is said of those that are not merged.

use super::{answers, copy_folder, fixture, json, model};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use thimble::models::checkpoint;
use thimble::models::model_file::ModelSource;
use thimble::models::read_options::ReadOptions;

fn with_adapter(adapter: Option<PathBuf>) -> ReadOptions {
    ReadOptions {
        adapter,
        ..ReadOptions::default()
    }
}

#[test]
fn adapters_are_merged_as_peft_merges_them() {
    for folder in [
        "sequence",
        "patterns",
        "five_labels",
        "bare",
        "bias_of_b",
        "dora",
        "word_saved",
    ] {
        let adapter = fixture("lora").join(folder);
        let golden = json(&adapter.join("golden.json"));
        let base = fixture(golden["base"].as_str().unwrap());
        let options = with_adapter(Some(adapter.clone()));
        answers(&base, &options, &golden["ids"], &golden["outputs"]);
        let source = checkpoint::read_with(&base, &options).unwrap();
        if let Some(labels) = golden["labels"].as_u64() {
            assert_eq!(source.config.labels.len() as u64, labels, "{folder}");
        }
        assert!(
            source.notes.iter().any(|n| n.contains("is merged")),
            "{folder}: {:?}",
            source.notes
        );
        // An output must not replace what was read.
        assert!(source.files.contains(&adapter.join("adapter_config.json")), "{folder}");
        assert_ne!(source.sha256, checkpoint::read(&base).unwrap().sha256, "{folder}");
    }
}

/// The adapter in a fixture with another configuration and other tensors, which are shape and first number by name.
fn changed(to: &Path, fixture_name: &str, change: impl Fn(&mut Value), tensors: &[(&str, &[usize])]) {
    copy_folder(&fixture(fixture_name), to);
    let mut config = json(&to.join("adapter_config.json"));
    change(&mut config);
    fs::write(to.join("adapter_config.json"), config.to_string()).unwrap();
    if tensors.is_empty() {
        return;
    }
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        data.resize(start + 4 * shape.iter().product::<usize>(), 0u8);
        let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.to_string(), tensor);
    }
    let header = Value::from(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(to.join("adapter_model.safetensors"), file).unwrap();
}

/// `modules_to_save` unties the decoder from the word embedding; a table that is only saved beside the matrices does not.
#[test]
fn a_decoder_keeps_the_table_that_modules_to_save_copies() {
    let base = fixture("albert-mlm-tiny");
    let saved = checkpoint::read_with(&base, &with_adapter(Some(fixture("lora/word_saved")))).unwrap();
    assert!(!saved.config.tied_decoder);
    assert_eq!(
        saved.weights["mlm.decoder"],
        checkpoint::read(&base).unwrap().weights["word"]
    );
    assert_ne!(saved.weights["mlm.decoder"], saved.weights["word"]);
    let note = "modules_to_save has the word embedding: the decoder keeps a table of its own, as in PEFT";
    assert!(saved.notes.iter().any(|n| n == note), "{:?}", saved.notes);
    let folder = tempfile::tempdir().unwrap();
    changed(
        folder.path(),
        "lora/word_saved",
        |c| c["modules_to_save"] = Value::Null,
        &[],
    );
    let tied = checkpoint::read_with(&base, &with_adapter(Some(folder.path().into()))).unwrap();
    assert!(tied.config.tied_decoder);
    assert_eq!(tied.weights["word"], saved.weights["word"]);
}

#[test]
fn a_word_embedding_of_another_size_is_the_adapters() {
    const QUERY: &str = "base_model.model.albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query";
    let folder = tempfile::tempdir().unwrap();
    let tensors: [(&str, &[usize]); 3] = [
        (&format!("{QUERY}.lora_A.weight"), &[4, 24]),
        (&format!("{QUERY}.lora_B.weight"), &[24, 4]),
        ("base_model.model.albert.embeddings.word_embeddings.weight", &[105, 12]),
    ];
    changed(folder.path(), "lora/sequence", |_| {}, &tensors);
    let options = with_adapter(Some(folder.path().into()));
    let source = checkpoint::read_with(&fixture("albert-seq-tiny"), &options).unwrap();
    assert_eq!(source.config.vocab_size, 105);
    let said = "brings a word embedding of 105 rows and the model has 97";
    assert!(source.notes.iter().any(|n| n.contains(said)), "{:?}", source.notes);
}

#[test]
fn what_is_not_merged_says_what_to_do() {
    const DECODER: &str = "base_model.model.predictions.decoder";
    type Case = (&'static str, fn(&Path) -> (PathBuf, PathBuf), &'static str);
    let cases: [Case; 4] = [
        (
            "matrices on a tied decoder",
            |d| {
                let tensors: [(&str, &[usize]); 2] = [
                    (&format!("{DECODER}.lora_A.weight"), &[2, 12]),
                    (&format!("{DECODER}.lora_B.weight"), &[97, 2]),
                ];
                changed(d, "lora/word_saved", |_| {}, &tensors);
                (fixture("albert-mlm-tiny"), d.to_path_buf())
            },
            "is adapted, and is the word embedding as well: PEFT answers differently before and after merging",
        ),
        (
            "an adapter for its own base",
            |d| {
                changed(d, "lora/sequence", |_| {}, &[]);
                (d.to_path_buf(), d.to_path_buf())
            },
            "it is an adapter of PEFT, not a model: it changes 'somebody/albert-seq-tiny'. Give that model",
        ),
        (
            "its weights for the base",
            |d| {
                changed(d, "lora/sequence", |_| {}, &[]);
                (d.join("adapter_model.safetensors"), d.to_path_buf())
            },
            "it is an adapter of PEFT, not a model",
        ),
        (
            "a prompt",
            |d| {
                changed(d, "lora/sequence", |c| c["peft_type"] = json!("PROMPT_TUNING"), &[]);
                (fixture("albert-seq-tiny"), d.to_path_buf())
            },
            "peft_type: is PROMPT_TUNING, which PEFT itself merges into no weights",
        ),
    ];
    for (name, build, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (base, adapter) = build(folder.path());
        let said = match ModelSource::open_with(&base, &with_adapter(Some(adapter))) {
            Ok(_) => panic!("{name}: is read"),
            Err(error) => format!("{error:#}"),
        };
        assert!(said.contains(words), "{name}: '{words}' is not in: {said}");
    }
    // Beside a model it is merged into that.
    let folder = tempfile::tempdir().unwrap();
    changed(folder.path(), "lora/sequence", |_| {}, &[]);
    model(folder.path());
    checkpoint::read_with(folder.path(), &with_adapter(Some(folder.path().into()))).unwrap();
}
