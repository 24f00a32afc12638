//! Sentence embeddings, from sentence-transformers' folders to answers. The right values are those of
//! `SentenceTransformer.encode`, stored in `tests/fixtures/sentence`; each folder there is put together with the transformer of
//! `wild/d01_sentence_transformers`.

#[path = "../../tests/support/mod.rs"]
mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use support::fixture;
use thimble::eval::dataset::Row;
use thimble::eval::runner;
use thimble::models::checkpoint;
use thimble::models::model_file::ModelSource;
use thimble::models::tokenizer_json::Tokenizer;
use thimble_device::engine::{Engine, EngineOptions, Input};
use thimble_device::image::Image;
use thimble_shared::decode::cosine;
use thimble_shared::model::Head;
use thimble_shared::model::head::sentence::OUTPUT;
use tract_onnx::prelude::*;

/// Largest difference from the right values.
const LIMIT: f32 = 1e-4;
/// The ways of pooling, by sentence-transformers' names.
const MODES: [&str; 6] = [
    "cls",
    "max",
    "mean",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
];

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
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

/// Changes a JSON file.
fn change(path: &Path, edit: impl Fn(&mut Value)) {
    let mut value = json(path);
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Makes the model of a case in `to`.
fn model(case: &str, to: &Path) {
    copy_folder(&fixture("wild/d01_sentence_transformers"), to);
    fs::remove_dir_all(to.join("1_Pooling")).unwrap();
    if MODES.contains(&case) {
        copy_folder(&fixture("sentence/mean"), to);
        change(&to.join("1_Pooling/config.json"), |c| c["pooling_mode"] = case.into());
    } else {
        copy_folder(&fixture("sentence").join(case), to);
    }
}

/// Texts, and the embeddings of each by case.
fn expected() -> (Vec<String>, Vec<(String, Vec<Vec<f32>>)>) {
    let all = json(&fixture("sentence/expected.json"));
    let texts = serde_json::from_value(all["texts"].clone()).unwrap();
    let cases = all.as_object().unwrap().iter().filter(|(name, _)| *name != "texts");
    let of = |value: &Value| serde_json::from_value(value["embeddings"].clone()).unwrap();
    (texts, cases.map(|(name, value)| (name.clone(), of(value))).collect())
}

fn rows(tokenizer: &Tokenizer, texts: &[String]) -> Vec<Row> {
    let row = |text: &String| {
        let encoded = tokenizer.encode(text, None).unwrap();
        Row::of(std::slice::from_ref(&encoded), tokenizer.pad_id(), false)
    };
    texts.iter().map(row).collect()
}

/// The rows as one batch, padded to the longest.
fn batch(rows: &[Row]) -> Input {
    let seq = rows.iter().map(Row::seq).max().unwrap();
    let mut all = Row::default().input();
    (all.shape, all.attention_mask, all.token_type_ids) = (vec![rows.len(), seq], Some(vec![]), Some(vec![]));
    for row in rows {
        let padded = |values: &[i64]| {
            values
                .iter()
                .copied()
                .chain(std::iter::repeat(0))
                .take(seq)
                .collect::<Vec<i64>>()
        };
        all.input_ids.extend(padded(&row.input_ids));
        all.attention_mask.as_mut().unwrap().extend(padded(&row.attention_mask));
        all.token_type_ids.as_mut().unwrap().extend(padded(&row.token_type_ids));
    }
    all
}

fn engine(file: &Path) -> Engine {
    Engine::new(Image::copy(&fs::read(file).unwrap()), EngineOptions::default()).unwrap()
}

fn thimble(arguments: &[&str]) -> std::process::Output {
    let cache = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_thimble"))
        .args(arguments)
        .env("THIMBLE_CACHE", cache.path())
        .output()
        .unwrap()
}

fn export(model: &Path, to: &Path, more: &[&str]) {
    let arguments = [&["export", model.to_str().unwrap(), "-o", to.to_str().unwrap()], more].concat();
    let done = thimble(&arguments);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// What stock tract says of a file.
fn tract(file: &Path, input: &Input) -> Vec<f32> {
    let mut model = tract_onnx::onnx().model_for_path(file).unwrap();
    let mut feeds = tvec![];
    for port in 0..model.inputs.len() {
        let values = match model.node(model.inputs[port].node).name.as_str() {
            "input_ids" => &input.input_ids,
            "attention_mask" => input.attention_mask.as_ref().unwrap(),
            _ => input.token_type_ids.as_ref().unwrap(),
        };
        model.set_input_fact(port, i64::fact(&input.shape).into()).unwrap();
        feeds.push(Tensor::from_shape(&input.shape, values).unwrap().into_tvalue());
    }
    let outputs = model
        .into_optimized()
        .unwrap()
        .into_runnable()
        .unwrap()
        .run(feeds)
        .unwrap();
    let plain = outputs[0].try_as_plain_ram().unwrap();
    plain.as_slice::<f32>().unwrap().to_vec()
}

fn gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let gap = |(a, b): (&f32, &f32)| (a - b).abs();
    let worse = |most: f32, gap: f32| if gap.is_nan() { f32::INFINITY } else { most.max(gap) };
    a.iter().zip(b).map(gap).fold(0.0, worse)
}

#[test]
fn every_model_answers_as_sentence_transformers() {
    let (texts, cases) = expected();
    assert_eq!(cases.len(), MODES.len() + 5);
    for (case, want) in cases {
        let folder = tempfile::tempdir().unwrap();
        model(&case, folder.path());
        let subject = ModelSource::open(folder.path()).unwrap_or_else(|e| panic!("{case}: {e:#}"));
        let config = subject.config().clone();
        assert_eq!(config.head, Head::SentenceEmbedding, "{case}");
        assert!(!config.pooler, "{case}");
        let tokenizer = subject.tokenizer().unwrap().open(&config).unwrap();
        let rows = rows(&tokenizer, &texts);
        let engine = Engine::new(subject.image().unwrap(), EngineOptions::default()).unwrap();
        let alone: Vec<Vec<f32>> = rows
            .iter()
            .map(|row| runner::run(&engine, row).unwrap()[OUTPUT].data.clone())
            .collect();
        for ((text, alone), want) in texts.iter().zip(&alone).zip(&want) {
            let gap = gap(alone, want);
            assert!(gap <= LIMIT, "{case}, '{text}': {gap:e}");
        }
        // What stands beside a sequence in a batch changes no bit of it.
        let together = engine.run(&batch(&rows)).unwrap();
        assert_eq!(together.get(OUTPUT).unwrap().data, alone.concat(), "{case}");
    }
}

#[test]
fn files_state_it_in_standard_operators_in_every_format() {
    let (texts, cases) = expected();
    // Opset 13 spells LayerNormalization out, 18 gives ReduceMax its axes as an input.
    let formats: [(&str, &str, f32, f32); 5] = [
        ("fp32", "13", LIMIT, LIMIT),
        ("fp32", "18", LIMIT, LIMIT),
        ("fp16", "17", 2e-2, LIMIT),
        ("int8", "17", 0.4, 0.2),
        ("int4", "17", 2.0, 0.8),
    ];
    for (case, want) in cases
        .iter()
        .filter(|(case, _)| ["all", "two_dense", "old", "weightedmean"].contains(&case.as_str()))
    {
        let folder = tempfile::tempdir().unwrap();
        model(case, folder.path());
        for (precision, opset, from_right, from_engine) in formats {
            let file = folder.path().join(format!("{precision}-{opset}.onnx"));
            export(folder.path(), &file, &["--precision", precision, "--opset", opset]);
            let engine = engine(&file);
            let tokenizer = thimble_text::tokenizer_beside(&file);
            let tokenizer = Tokenizer::open(&tokenizer, engine.config()).unwrap();
            let rows = rows(&tokenizer, &texts);
            let alone = rows
                .iter()
                .map(|row| engine.run(&row.input()).unwrap().get(OUTPUT).unwrap().data.clone());
            let alone: Vec<f32> = alone.collect::<Vec<_>>().concat();
            let (wrong, input) = (gap(&alone, &want.concat()), batch(&rows));
            assert!(
                wrong <= from_right,
                "{case} {precision}: {wrong:e} from the right values"
            );
            assert_eq!(
                engine.run(&input).unwrap().get(OUTPUT).unwrap().data,
                alone,
                "{case} {precision}"
            );
            let apart = gap(&tract(&file, &input), &alone);
            assert!(
                apart <= from_engine,
                "{case} {precision}, opset {opset}: {apart:e} from stock tract"
            );
        }
    }
}

#[test]
fn an_empty_mask_is_a_number_in_every_way_of_pooling() {
    for mode in MODES {
        let folder = tempfile::tempdir().unwrap();
        model(mode, folder.path());
        let file = folder.path().join("model.onnx");
        export(folder.path(), &file, &[]);
        let input = Input {
            input_ids: vec![2, 9, 17, 3],
            attention_mask: Some(vec![0; 4]),
            token_type_ids: Some(vec![0; 4]),
            shape: vec![1, 4],
        };
        let ours = engine(&file).run(&input).unwrap().get(OUTPUT).unwrap().data.clone();
        assert!(ours.iter().all(|x| x.is_finite()), "{mode}");
        let apart = gap(&tract(&file, &input), &ours);
        assert!(apart <= LIMIT, "{mode}: {apart:e}");
    }
}

#[test]
fn texts_are_compared_by_their_cosine() {
    let (texts, cases) = expected();
    let want = &cases.iter().find(|(case, _)| case == "all").unwrap().1;
    let folder = tempfile::tempdir().unwrap();
    model("all", folder.path());
    let path = folder.path().to_str().unwrap();
    let run = |arguments: &[&str]| thimble(&[&["run", path], arguments].concat());
    let answer = |arguments: &[&str]| -> Value {
        let done = run(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)))
    };
    let one = answer(&["--text", &texts[0]]);
    assert_eq!(one["kind"], "embedding");
    let embedding: Vec<f32> = serde_json::from_value(one["embedding"].clone()).unwrap();
    assert!(gap(&embedding, &want[0]) <= LIMIT);
    let two = answer(&["--text", &texts[0], "--text", &texts[1]]);
    let near = |found: &Value, want: f64| assert!((found.as_f64().unwrap() - want).abs() <= 1e-4, "{found}, {want}");
    near(&two["cosine"], cosine(&want[0], &want[1]));
    let three = answer(&["--text", &texts[0], "--text", &texts[1], "--text", &texts[3]]);
    assert_eq!(
        (three["cosine"].clone(), three["embeddings"].as_array().unwrap().len()),
        (Value::Null, 3)
    );
    near(&three["cosines"][0][2], cosine(&want[0], &want[3]));
    near(&three["cosines"][1][1], 1.0);
    let said = String::from_utf8(run(&["--text", &texts[0], "--text", &texts[1]]).stdout).unwrap();
    assert!(
        said.starts_with("text 1 [24]: ") && said.contains("\ncosine 0.") && said.lines().count() == 3,
        "{said}"
    );
    let wrong = [
        (
            &["--text", "a", "--text", "b", "--pair", "c"][..],
            "--pair goes with one --text",
        ),
        (
            &["--text", "a", "--max-answer", "3"],
            "--max-answer is for question answering",
        ),
    ];
    for (arguments, words) in wrong {
        let done = run(arguments);
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && said.contains(words), "{said}");
    }
    let classifier = fixture("albert-seq-tiny");
    let done = thimble(&["run", classifier.to_str().unwrap(), "--text", "a", "--text", "b"]);
    assert!(!done.status.success());
}

#[test]
fn losses_are_cosines_and_the_order_of_pairs() {
    let folder = tempfile::tempdir().unwrap();
    model("mean", folder.path());
    let source = folder.path().to_str().unwrap();
    let [whole, small] =
        ["whole.onnx", "small.onnx"].map(|name| folder.path().join(name).to_str().unwrap().to_string());
    export(folder.path(), Path::new(&whole), &[]);
    let verify = |candidate: &str| -> Value {
        let done = thimble(&["verify", source, candidate, "--json"]);
        serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)))
    };
    let same = verify(&whole);
    assert_eq!(same["agreement"], Value::Null);
    assert_eq!(
        (&same["pair_order"]["spearman"], &same["pair_order"]["pairs"]),
        (&json!(1.0), &json!(64 * 63 / 2))
    );
    let done = thimble(&["shrink", source, "-o", &small, "--budget", "80000", "--json"]);
    let plan: Value =
        serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)));
    assert_eq!(plan["objective"], "1 - cosine");
    let (order, word) = (
        plan["loss"]["pair_order"]["spearman"].as_f64().unwrap(),
        plan["word"].as_str().unwrap(),
    );
    assert!(order > 0.5 && order < 1.0, "{order}");
    let want = if order >= 0.99 {
        "good"
    } else if order >= 0.97 {
        "fair"
    } else {
        "poor"
    };
    assert_eq!(word, want, "{order}");
    assert!(verify(&small)["outputs"][OUTPUT]["cosine"].as_f64().unwrap() > 0.9);
}

#[test]
fn the_head_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    model("all", folder.path());
    let read = |head: Option<Head>, path: &Path| {
        let options = thimble::models::read_options::ReadOptions {
            head,
            ..Default::default()
        };
        checkpoint::read_with(path, &options).unwrap()
    };
    let hidden = read(Some(Head::None), folder.path());
    assert_eq!(hidden.config.head, Head::None);
    let left_out = "Pooling, Dense, Normalize are left out";
    assert!(hidden.notes.iter().any(|n| n.contains(left_out)), "{:?}", hidden.notes);
    assert_eq!(
        read(None, folder.path()).config,
        read(Some(Head::SentenceEmbedding), folder.path()).config
    );
    // A plain model's tokens are pooled by their mean, as sentence-transformers does it.
    let plain = read(Some(Head::SentenceEmbedding), &fixture("albert-seq-tiny"));
    assert_eq!(plain.config.sentence.unwrap().to_string(), "mean pooling");
    assert!(
        plain.notes.iter().any(|n| n.contains("no modules.json")),
        "{:?}",
        plain.notes
    );
}

#[test]
fn onnx_that_pools_is_a_sentence_embedding() {
    for (name, normalized) in [("e09_sentence", false), ("e09b_sentence_norm", true)] {
        let path = fixture("wild/onnx").join(format!("{name}.onnx"));
        let subject = ModelSource::open(&path).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        let sentence = subject.config().sentence.clone().unwrap_or_else(|| panic!("{name}"));
        let want = if normalized {
            "mean pooling, normalized"
        } else {
            "mean pooling"
        };
        assert_eq!(sentence.to_string(), want, "{name}");
        let hidden = thimble::models::read_options::ReadOptions {
            head: Some(Head::None),
            ..Default::default()
        };
        assert_eq!(
            ModelSource::open_with(&path, &hidden).unwrap().config().sentence,
            None,
            "{name}"
        );
    }
}

#[test]
fn what_is_not_computed_is_refused_by_its_name() {
    type Spoil = fn(&Path);
    fn modules(to: &Path, edit: impl Fn(&mut Vec<Value>)) {
        change(&to.join("modules.json"), |list| edit(list.as_array_mut().unwrap()));
    }
    fn module(kind: &str, path: &str) -> Value {
        json!({"idx": 9, "name": "9", "path": path, "type": format!("sentence_transformers.models.{kind}")})
    }
    fn dense(to: &Path, edit: impl Fn(&mut Value)) {
        change(&to.join("2_Dense/config.json"), edit);
    }
    let cases: [(&str, Spoil, &[&str]); 27] = [
        (
            "LSTM",
            |d| modules(d, |l| l.insert(1, module("LSTM", "1_LSTM"))),
            &["module LSTM is none of", "--head none"],
        ),
        (
            "CNN",
            |d| modules(d, |l| l.push(module("CNN", "4_CNN"))),
            &["module CNN"],
        ),
        (
            "LayerNorm",
            |d| modules(d, |l| l.push(module("LayerNorm", "4_LayerNorm"))),
            &["module LayerNorm"],
        ),
        (
            "WordWeights",
            |d| modules(d, |l| l.push(module("WordWeights", ""))),
            &["module WordWeights"],
        ),
        (
            "a module of one's own",
            |d| modules(d, |l| l[1]["type"] = "custom_st.Pooling".into()),
            &["module custom_st.Pooling"],
        ),
        (
            "no transformer",
            |d| {
                fs::write(
                    d.join("modules.json"),
                    json!([
                        module("StaticEmbedding", ""),
                        module("Asym", ""),
                        module("WordEmbeddings", "")
                    ])
                    .to_string(),
                )
                .unwrap();
            },
            &["StaticEmbedding, Asym, WordEmbeddings: none is a Transformer"],
        ),
        (
            "two poolings",
            |d| modules(d, |l| l.insert(2, l[1].clone())),
            &["several Pooling"],
        ),
        (
            "two transformers",
            |d| modules(d, |l| l.push(module("Transformer", ""))),
            &["Transformer is module 4"],
        ),
        (
            "Dense before Pooling",
            |d| modules(d, |l| l.swap(1, 2)),
            &["Dense stands before Pooling"],
        ),
        (
            "Dense behind Normalize",
            |d| modules(d, |l| l.swap(2, 3)),
            &["Dense stands behind Normalize"],
        ),
        (
            "five dense layers",
            |d| modules(d, |l| (0..4).for_each(|_| l.insert(2, l[2].clone()))),
            &["2_Dense/config.json", "a dense layer more than 4"],
        ),
        (
            "Sigmoid",
            |d| {
                dense(d, |c| {
                    c["activation_function"] = "torch.nn.modules.activation.Sigmoid".into()
                })
            },
            &[
                "2_Dense/config.json: activation_function",
                "Sigmoid\"; torch's Tanh, Identity, ReLU, GELU, SiLU",
            ],
        ),
        (
            "code as activation",
            |d| dense(d, |c| c["activation_function"] = "os.system".into()),
            &["\"os.system\""],
        ),
        (
            "no activation",
            |d| dense(d, |c| c["activation_function"] = Value::Null),
            &["activation_function: is null"],
        ),
        (
            "another input",
            |d| dense(d, |c| c["module_input_name"] = "token_embeddings".into()),
            &["module_input_name: is 'token_embeddings'"],
        ),
        (
            "no size",
            |d| dense(d, |c| drop(c.as_object_mut().unwrap().remove("in_features"))),
            &["in_features: is missing"],
        ),
        (
            "a size that the weights contradict",
            |d| dense(d, |c| c["out_features"] = 4_000_000_000_000u64.into()),
            &["tensor linear.weight: has shape [24, 384]", "4000000000000"],
        ),
        (
            "a size that the pooling contradicts",
            |d| change(&d.join("1_Pooling/config.json"), |c| c["pooling_mode"] = "mean".into()),
            &["2_Dense/config.json: in_features: is 384, what stands before it gives 64"],
        ),
        (
            "a hidden size that is another",
            |d| {
                change(&d.join("1_Pooling/config.json"), |c| {
                    c["embedding_dimension"] = 768.into()
                })
            },
            &["1_Pooling/config.json: word_embedding_dimension: is 768"],
        ),
        (
            "no weights",
            |d| fs::remove_file(d.join("2_Dense/model.safetensors")).unwrap(),
            &["2_Dense", "without model.safetensors"],
        ),
        (
            "weights of something else",
            |d| {
                fs::copy(
                    fixture("albert-seq-tiny/model.safetensors"),
                    d.join("2_Dense/model.safetensors"),
                )
                .unwrap();
            },
            &["2_Dense/model.safetensors: tensor linear.weight: is missing"],
        ),
        (
            "an unknown way of pooling",
            |d| {
                change(&d.join("1_Pooling/config.json"), |c| {
                    c["pooling_mode"] = "median".into()
                })
            },
            &["pooling_mode: must be of cls"],
        ),
        (
            "an unknown way of pooling in old words",
            |d| {
                fs::write(
                    d.join("1_Pooling/config.json"),
                    r#"{"pooling_mode_median_tokens": true}"#,
                )
                .unwrap()
            },
            &["pooling_mode_median_tokens: is a way of pooling that thimble does not compute"],
        ),
        (
            "the same way twice",
            |d| {
                change(&d.join("1_Pooling/config.json"), |c| {
                    c["pooling_mode"] = json!(["mean", "mean"])
                })
            },
            &["pooling_mode: pooling has each way at most once"],
        ),
        (
            "a prompt that is not pooled",
            |d| {
                change(&d.join("1_Pooling/config.json"), |c| c["include_prompt"] = false.into());
                let prompts = json!({"prompts": {"query": "query: "}, "default_prompt_name": "query"});
                fs::write(d.join("config_sentence_transformers.json"), prompts.to_string()).unwrap();
            },
            &["include_prompt is false"],
        ),
        (
            "a prompt that is none",
            |d| {
                let prompts = json!({"prompts": {"query": "query: "}, "default_prompt_name": "passage"});
                fs::write(d.join("config_sentence_transformers.json"), prompts.to_string()).unwrap();
            },
            &["default_prompt_name: 'passage' is none of the prompts"],
        ),
        (
            "a length that is none",
            |d| {
                change(&d.join("sentence_bert_config.json"), |c| {
                    c["max_seq_length"] = "long".into()
                })
            },
            &["sentence_bert_config.json: max_seq_length: is \"long\""],
        ),
    ];
    for (name, spoil, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        model("all", folder.path());
        spoil(folder.path());
        let said = match checkpoint::read(folder.path()) {
            Ok(_) => panic!("{name}: is read"),
            Err(error) => error.to_string(),
        };
        for words in words {
            assert!(said.contains(words), "{name}: '{words}' is not in: {said}");
        }
        assert!(!said.contains('\n'), "{name}: {said}");
    }
}

#[test]
fn texts_are_lower_cased_where_sentence_transformers_does_it() {
    let folder = tempfile::tempdir().unwrap();
    model("mean", folder.path());
    let ids = |text: &str| {
        let source = checkpoint::read(folder.path()).unwrap();
        source
            .tokenizer
            .unwrap()
            .open(&source.config)
            .unwrap()
            .encode(text, None)
            .unwrap()
            .ids
    };
    let lower = ids("the board");
    change(&folder.path().join("tokenizer.json"), |json| {
        let all = json["normalizer"]["normalizers"].as_array_mut().unwrap();
        all.retain(|normalizer| normalizer["type"] != "Lowercase");
    });
    assert_eq!(ids("the board"), lower);
    assert_ne!(ids("THE BOARD"), lower);
    change(&folder.path().join("sentence_bert_config.json"), |c| {
        c["do_lower_case"] = true.into()
    });
    assert_eq!(ids("THE BOARD"), lower);
}
