//! Forms in which models come besides Hugging Face's own folders: TensorFlow's checkpoints, LoRA adapters, folders with the model
//! one level down. Right values are those of Hugging Face's classes and of PEFT's merge_and_unload, stored beside the fixtures.

mod adapters;
#[path = "../../../tests/support/mod.rs"]
mod support;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use support::fixture;
use thimble::models::checkpoint::{self, Source};
use thimble::models::model_file::ModelSource;
use thimble::models::read_options::ReadOptions;
use thimble_device::engine::{Engine, EngineOptions, Input};
use thimble_shared::model::Head;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Holds what a model answers for `ids` against the first values of each output.
fn answers(path: &Path, options: &ReadOptions, ids: &Value, outputs: &Value) {
    let name = path.display();
    let subject = ModelSource::open_with(path, options).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    let engine = Engine::new(subject.image().unwrap(), EngineOptions::default()).unwrap();
    let ids: Vec<i64> = serde_json::from_value(ids.clone()).unwrap();
    let got = engine.run(&Input::sequence(&ids)).unwrap();
    for (output, want) in outputs.as_object().unwrap() {
        let tensor = got.get(output).unwrap_or_else(|| panic!("{name}: no output {output}"));
        let want: Vec<f32> = serde_json::from_value(want.clone()).unwrap();
        assert!(!want.is_empty() && want.len() <= tensor.data.len(), "{name} {output}");
        for (at, (got, want)) in tensor.data.iter().zip(&want).enumerate() {
            assert!(
                (got - want).abs() < 1e-4,
                "{name} {output}[{at}]: {got}, expected {want}"
            );
        }
    }
}

#[test]
fn tensorflow_checkpoints_answer_as_transformers_conversion_of_them() {
    let expected = json(&fixture("wild/expected.json"));
    let google = &expected["t01_google_tf1: prediction_logits of the first token, first 12, and sop_logits"];
    let outputs = serde_json::json!({"prediction_logits": google[0], "sop_logits": google[1]});
    answers(
        &fixture("wild/t01_google_tf1"),
        &ReadOptions::default(),
        &expected["ids"],
        &outputs,
    );
    for (folder, head) in [
        ("classifier", Head::SequenceClassification),
        ("sharded", Head::PreTraining),
        ("groups_f16", Head::None),
        ("squad", Head::QuestionAnswering),
    ] {
        let path = fixture("tensorflow").join(folder);
        let golden = json(&path.join("golden.json"));
        answers(&path, &ReadOptions::default(), &golden["ids"], &golden["outputs"]);
        assert_eq!(checkpoint::read(&path).unwrap().config.head, head, "{folder}");
    }
}

#[test]
fn which_tensorflow_checkpoint_is_read_is_said_and_can_be_chosen() {
    let folder = fixture("tensorflow/classifier");
    let bias = |source: &Source| source.weights["classifier.bias"].data.clone();
    let listed = checkpoint::read(&folder).unwrap();
    assert!(
        listed.notes.iter().any(|n| n.contains("model.ckpt-100 is used of 2")),
        "{:?}",
        listed.notes
    );
    let plus_one: Vec<f32> = bias(&listed).iter().map(|x| x + 1.0).collect();
    for name in [
        "model.ckpt-200",
        "model.ckpt-200.index",
        "model.ckpt-200.data-00000-of-00001",
    ] {
        assert_eq!(bias(&checkpoint::read(&folder.join(name)).unwrap()), plus_one, "{name}");
    }
    // Without the list, the latest step counts.
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&folder, copy.path());
    fs::remove_file(copy.path().join("checkpoint")).unwrap();
    let latest = checkpoint::read(copy.path()).unwrap();
    assert_eq!(bias(&latest), plus_one);
    assert!(
        latest.notes.iter().any(|n| n.contains("the latest step")),
        "{:?}",
        latest.notes
    );
    // Of the optimizer's two slots a weight, and of the step, nothing is said or read.
    assert!(!latest.notes.iter().any(|n| n.contains("adam")), "{:?}", latest.notes);
    assert_eq!(latest.stored_as, ["f32"]);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::write(&to, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// Copies the files of a small classifier into a new folder.
fn model(to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("albert-seq-tiny").join(name), to.join(name)).unwrap();
    }
}

fn touch(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, b"x").unwrap();
}

#[test]
fn what_is_not_read_says_what_to_do() {
    type Case = (&'static str, fn(&Path) -> PathBuf, &'static [&'static str]);
    let cases: [Case; 21] = [
        (
            "Keras weights in a folder",
            |_| fixture("wild/a20_tf_real"),
            &[
                "AlbertForSequenceClassification.from_pretrained(",
                "from_tf=True).save_pretrained(",
                "a20_tf_real-torch",
                "'transformers<4.50' torch tensorflow tf-keras",
            ],
        ),
        (
            "a file of Keras weights",
            |_| fixture("wild/a20_tf_real/tf_model.h5"),
            &["AlbertForSequenceClassification", "from_tf=True"],
        ),
        (
            "Flax weights",
            |d| {
                model(d);
                fs::remove_file(d.join("model.safetensors")).unwrap();
                fs::write(d.join("flax_model.msgpack"), b"\x81\xa6albert\x80").unwrap();
                d.to_path_buf()
            },
            &[
                "AlbertForSequenceClassification.from_pretrained(",
                "from_flax=True",
                "flax jax",
            ],
        ),
        (
            "objects of TensorFlow 2",
            |_| fixture("tensorflow/objects"),
            &["ckpt.index", "TensorFlow 2's objects", "save_pretrained"],
        ),
        (
            "a partitioned variable",
            |_| fixture("tensorflow/partitioned"),
            &["bert/embeddings/word_embeddings", "is partitioned"],
        ),
        (
            "a data file that is missing",
            |d| {
                copy_folder(&fixture("tensorflow/sharded"), d);
                fs::remove_file(d.join("albert_model.ckpt.data-00001-of-00003")).unwrap();
                d.to_path_buf()
            },
            &["data-00001-of-00003", "data file 2 of 3"],
        ),
        (
            "an adapter alone",
            |_| fixture("wild/d05_lora"),
            &[
                "adapter of PEFT",
                "'albert-base-v2'",
                "hf download albert/albert-base-v2 --local-dir albert-base-v2; thimble export albert-base-v2 --adapter ",
            ],
        ),
        (
            "an adapter beside a model",
            |d| {
                model(d);
                copy_folder(&fixture("lora/sequence"), d);
                d.to_path_buf()
            },
            &["beside a model", "'somebody/albert-seq-tiny'", "--adapter "],
        ),
        (
            "a Trainer's folder",
            |d| {
                model(&d.join("checkpoint-500"));
                model(&d.join("checkpoint-1000"));
                touch(&d.join("checkpoint-x"));
                d.to_path_buf()
            },
            &["checkpoint-1000 is the newest of 2 checkpoints of a Trainer"],
        ),
        (
            "a Trainer's state",
            |d| {
                touch(&d.join("optimizer.pt"));
                touch(&d.join("trainer_state.json"));
                d.to_path_buf()
            },
            &["(optimizer.pt, trainer_state.json)", "trainer.save_model(DIR)"],
        ),
        ("an empty folder", |d| d.to_path_buf(), &["the folder is empty"]),
        (
            "an id of the hub",
            |_| "albert-base-v2".into(),
            &["hf download albert/albert-base-v2 --local-dir albert-base-v2"],
        ),
        (
            "an id with its owner",
            |_| "voidful/albert_chinese_tiny".into(),
            &["hf download voidful/albert_chinese_tiny --local-dir albert_chinese_tiny"],
        ),
        (
            "an address of the hub",
            |_| "https://huggingface.co/albert/albert-base-v2/tree/main".into(),
            &["hf download albert/albert-base-v2 --local-dir albert-base-v2"],
        ),
        (
            "a file of an id",
            |_| "albert/albert-base-v2/model.safetensors".into(),
            &["hf download albert/albert-base-v2 --local-dir albert-base-v2"],
        ),
        (
            "a link to nothing",
            |d| {
                std::os::unix::fs::symlink("blobs/0123", d.join("model.safetensors")).unwrap();
                d.join("model.safetensors")
            },
            &["it is a link to a file that is not there"],
        ),
        (
            "a snapshot whose blobs are gone",
            |d| {
                model(&d.join("models--a--b/snapshots/1"));
                let weights = d.join("models--a--b/snapshots/1/model.safetensors");
                fs::remove_file(&weights).unwrap();
                std::os::unix::fs::symlink("../../blobs/0123", weights).unwrap();
                d.to_path_buf()
            },
            &["of model.safetensors: it is a link to a file that is not there"],
        ),
        (
            "a router of sentence-transformers",
            |d| {
                let list = r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.router.Router"}]"#;
                fs::write(d.join("modules.json"), list).unwrap();
                for part in ["query_0_Transformer", "query_1_Pooling", "document_0_Transformer"] {
                    model(&d.join(part));
                }
                d.to_path_buf()
            },
            &["it is a router", "/document_0_Transformer, ", "/query_0_Transformer"],
        ),
        (
            "HF_HOME with two models",
            |d| {
                model(&d.join("hub/models--a--b/snapshots/1"));
                model(&d.join("hub/models--a--c/snapshots/1"));
                d.to_path_buf()
            },
            &["several models (models--a--b, models--a--c)"],
        ),
        (
            "snapshots of which none is said",
            |d| {
                model(&d.join("models--a--b/snapshots/1"));
                model(&d.join("models--a--b/snapshots/2"));
                d.to_path_buf()
            },
            &["refs/main names none of its snapshots (1, 2)"],
        ),
        (
            "a cache of several models",
            |d| {
                model(&d.join("models--a--b/snapshots/1"));
                model(&d.join("models--a--c/snapshots/1"));
                d.to_path_buf()
            },
            &["several models (models--a--b, models--a--c)"],
        ),
    ];
    for (name, build, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = build(folder.path());
        let said = match ModelSource::open(&path) {
            Ok(_) => panic!("{name}: is read"),
            Err(error) => format!("{error:#}"),
        };
        for words in words {
            assert!(said.contains(words), "{name}: '{words}' is not in: {said}");
        }
        assert!(!said.contains('\n'), "{name}: {said}");
    }
}

#[test]
fn folders_lead_to_the_model_inside_and_say_what_is_left_out() {
    type Case = (&'static str, fn(&Path) -> PathBuf, &'static [&'static str]);
    let cases: [Case; 10] = [
        (
            "modules.json",
            |_| fixture("wild/d01_sentence_transformers"),
            &[
                "the transformer in this folder with mean pooling, at most 100 tokens is read, nothing is left out",
                "pooler left out",
            ],
        ),
        (
            "0_Transformer",
            |_| fixture("wild/d02_st_old"),
            &["the transformer in 0_Transformer with mean pooling, at most 100 tokens is read, nothing is left out"],
        ),
        (
            "0_Transformer without a list",
            |d| {
                copy_folder(&fixture("wild/d02_st_old"), d);
                fs::remove_file(d.join("modules.json")).unwrap();
                d.to_path_buf()
            },
            &["the transformer in 0_Transformer with mean pooling, at most 100 tokens is read, nothing is left out"],
        ),
        (
            "SetFit",
            |_| fixture("wild/d06_setfit"),
            &["SetFit's classifier (model_head.pkl)"],
        ),
        (
            "a hub's cache",
            |d| {
                model(&d.join("models--a--b/snapshots/1"));
                model(&d.join("models--a--b/snapshots/2"));
                touch(&d.join("models--a--b/refs/main"));
                fs::write(d.join("models--a--b/refs/main"), "2").unwrap();
                d.to_path_buf()
            },
            &["snapshot 2 of the hub's cache is read: refs/main names it"],
        ),
        (
            "the snapshots of a repository",
            |d| {
                model(&d.join("models--a--b/snapshots/1"));
                d.join("models--a--b/snapshots")
            },
            &["snapshot 1 of the hub's cache is read: the only one"],
        ),
        (
            "HF_HOME",
            |d| {
                model(&d.join("hub/models--a--b/snapshots/1"));
                d.to_path_buf()
            },
            &["snapshot 1 of the hub's cache is read: the only one"],
        ),
        (
            "a cross-encoder",
            |d| {
                let list = r#"[{"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]"#;
                model(d);
                fs::write(d.join("modules.json"), list).unwrap();
                d.to_path_buf()
            },
            &["the transformer in this folder is read, nothing is left out"],
        ),
        (
            "SPLADE",
            |d| {
                copy_folder(&fixture("albert-mlm-tiny"), d);
                let list = r#"[{"path": "", "type": "sentence_transformers.sparse_encoder.modules.mlm_transformer.MLMTransformer"},
                    {"path": "1_SpladePooling", "type": "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"}]"#;
                fs::write(d.join("modules.json"), list).unwrap();
                d.to_path_buf()
            },
            &["the transformer in this folder is read, SpladePooling is left out"],
        ),
        (
            "its only snapshot",
            |d| {
                model(&d.join("snapshots/1"));
                d.to_path_buf()
            },
            &["snapshot 1 of the hub's cache is read: the only one"],
        ),
    ];
    for (name, build, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let source = checkpoint::read(&build(folder.path())).unwrap_or_else(|e| panic!("{name}: {e}"));
        for words in words {
            assert!(
                source.notes.iter().any(|n| n.contains(words)),
                "{name}: {:?}",
                source.notes
            );
        }
        // Of a model without a head alone the answer is a hidden state.
        let sentence = source.notes.iter().any(|n| n.contains("no sentence embeddings"));
        assert_eq!(sentence, source.config.head == Head::None, "{name}: {:?}", source.notes);
        // A pooler is no part of a sentence embedding.
        assert_eq!(
            source.config.pooler,
            source.config.head == Head::SequenceClassification,
            "{name}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    model(&folder.path().join("checkpoint-500"));
    assert!(checkpoint::read(&folder.path().join("checkpoint-500")).is_ok());
}
