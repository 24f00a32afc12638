//! Checkpoints as users have them: every fixture, and what torch itself wrote in each layout. Expected values come from the
//! safetensors fixtures, read here with the safetensors crate.

mod classes;
mod files;
mod pieces;
mod spoilt;
#[path = "../../../tests/support/mod.rs"]
mod support;

use half::{bf16, f16};
use pieces::{Pieces, SEQ, fixture};
use serde_json::{Value, json};
use std::fs;
use thimble::models::checkpoint;
use thimble_shared::model::{Activation, Config, Head, WeightSpec};

#[test]
fn every_fixture_is_read_whole() {
    let cases = [
        (
            "albert-seq-tiny",
            Head::SequenceClassification,
            Activation::Relu,
            true,
            false,
            3,
        ),
        (
            "albert-tok-tiny",
            Head::TokenClassification,
            Activation::GeluNew,
            false,
            false,
            5,
        ),
        (
            "albert-qa-tiny",
            Head::QuestionAnswering,
            Activation::GeluNew,
            false,
            false,
            0,
        ),
        ("albert-mlm-tiny", Head::MaskedLm, Activation::GeluNew, false, true, 0),
        (
            "albert-pretraining-tiny",
            Head::PreTraining,
            Activation::GeluNew,
            true,
            true,
            0,
        ),
        (
            "albert-choice-tiny",
            Head::MultipleChoice,
            Activation::Silu,
            true,
            false,
            0,
        ),
        ("albert-tiny-groups", Head::None, Activation::Gelu, true, false, 0),
        (
            "albert-deb",
            Head::SequenceClassification,
            Activation::GeluNew,
            true,
            false,
            12,
        ),
        (
            "albert-brackets",
            Head::TokenClassification,
            Activation::GeluNew,
            false,
            false,
            6,
        ),
    ];
    for (name, head, activation, pooler, tied, labels) in cases {
        let source = checkpoint::read(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let config = &source.config;
        assert_eq!((config.head, config.activation), (head, activation), "{name}");
        assert_eq!(
            (config.pooler, config.tied_decoder, config.labels.len()),
            (pooler, tied, labels),
            "{name}"
        );
        let specs = config.weights();
        assert_eq!(specs.len(), source.weights.len(), "{name}");
        for spec in &specs {
            let weight = &source.weights[&spec.name];
            assert_eq!(weight.shape, spec.shape, "{name} {}", spec.name);
            assert_eq!(weight.data.len(), spec.elements(), "{name} {}", spec.name);
        }
        // Every number stored is read, once: the sums of squares agree.
        let square = |data: &[f32]| data.iter().map(|x| f64::from(x.abs())).sum::<f64>();
        let stored: f64 = Pieces::of(name).tensors.values().map(|(_, d)| square(d)).sum();
        let read: f64 = source.weights.values().map(|w| square(&w.data)).sum();
        assert!(
            (stored - read).abs() < 1e-6 * stored,
            "{name}: {stored} stored, {read} read"
        );
        assert_eq!(
            source.bytes,
            fs::metadata(fixture(name).join("model.safetensors")).unwrap().len()
        );
        assert_eq!(checkpoint::weight_file_bytes(&fixture(name)).unwrap(), source.bytes);
        assert_eq!(source.notes, Vec::<String>::new(), "{name}");
    }
    assert_eq!(
        checkpoint::read(&fixture("albert-deb")).unwrap().config.labels[4],
        "javascript"
    );
    assert!(checkpoint::read(&fixture("albert-deb")).unwrap().tokenizer.is_some());
    assert_eq!(checkpoint::read(&fixture(SEQ)).unwrap().tokenizer, None);
}

#[test]
fn the_digest_of_one_file_is_that_file_s() {
    let manifest: Value = serde_json::from_slice(&fs::read(fixture(SEQ).join("manifest.json")).unwrap()).unwrap();
    let source = checkpoint::read(&fixture(SEQ)).unwrap();
    assert_eq!(manifest["model_safetensors_sha256"], source.sha256.as_str());
}

#[test]
fn what_torch_wrote_is_read_to_the_last_bit() {
    let exact = checkpoint::read(&fixture(SEQ)).unwrap();
    type Round = fn(f32) -> f32;
    let round: [(&str, &str, Round); 11] = [
        ("f32", "f32", |x| x),
        ("f64", "f64", |x| x),
        ("f16", "f16", |x| f16::from_f32(x).to_f32()),
        ("bf16", "bf16", |x| bf16::from_f32(x).to_f32()),
        ("strided", "f32", |x| x),
        ("sharded", "f32", |x| x),
        ("legacy", "f32", |x| x),
        ("legacy_cuda", "f16", |x| f16::from_f32(x).to_f32()),
        ("legacy_f64", "f64", |x| x),
        ("legacy_strided", "f32", |x| x),
        ("legacy_sharded", "f32", |x| x),
    ];
    for (folder, stored, round) in round {
        let source = checkpoint::read(&fixture("torch").join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        assert_eq!(source.config, exact.config, "{folder}");
        assert_eq!(source.stored_as, [stored], "{folder}");
        for (name, weight) in &exact.weights {
            let want: Vec<u32> = weight.data.iter().map(|&x| round(x).to_bits()).collect();
            let got: Vec<u32> = source.weights[name].data.iter().map(|x| x.to_bits()).collect();
            assert!(got == want, "{folder}: {name}");
        }
    }
}

/// What trainers keep around a state dict is left alone, and said; an ALBERT is found among a synthesizer's modules.
#[test]
fn a_state_dict_is_found_wherever_it_lies() {
    let exact = checkpoint::read(&fixture(SEQ)).unwrap();
    let half = |x: f32| f16::from_f32(x).to_f32().to_bits();
    let beside = "epoch, best, args, optimizer, rng, numpy_rng beside it left out";
    let cases = [
        ("training", Head::SequenceClassification, "net", beside),
        (
            "training_legacy",
            Head::SequenceClassification,
            "net",
            "epoch, best, args, optimizer, rng, numpy_rng beside",
        ),
        (
            "kokoro",
            Head::None,
            "bert",
            "bert_encoder, predictor beside it left out",
        ),
        (
            "styletts2",
            Head::None,
            "net.bert",
            "bert_encoder, predictor beside it left out",
        ),
    ];
    for (folder, head, place, beside) in cases {
        let source = checkpoint::read(&fixture("torch").join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let notes = source.notes.join("\n");
        assert_eq!(source.config.head, head, "{folder}");
        for said in [
            &format!("the weights are those of '{place}'"),
            beside,
            "names begin with 'module.",
        ] {
            assert!(notes.contains(said), "{folder}: '{said}' is not in\n{notes}");
        }
        assert_eq!(
            source.config.max_position_embeddings,
            exact.config.max_position_embeddings
        );
        assert_eq!(source.config.intermediate_size, exact.config.intermediate_size);
        for (name, weight) in &source.weights {
            let want: Vec<u32> = exact.weights[name].data.iter().map(|&x| half(x)).collect();
            let got: Vec<u32> = weight.data.iter().map(|x| x.to_bits()).collect();
            assert!(got == want, "{folder}: {name}");
        }
    }
}

#[test]
fn a_weights_file_or_an_index_may_be_named_itself() {
    for path in [
        "albert-seq-tiny/model.safetensors",
        "torch/f32/pytorch_model.bin",
        "torch/sharded/pytorch_model.bin.index.json",
    ] {
        checkpoint::read(&fixture(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

#[test]
fn other_spellings_of_names_are_the_same_model() {
    let mut pieces = Pieces::of(SEQ);
    let want = pieces.read().unwrap().weights;
    for name in pieces.tensors.keys().cloned().collect::<Vec<_>>() {
        let old = name
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
        pieces.rename(&name, &format!("module.{old}"));
    }
    pieces.tensors.insert(
        "module.albert.embeddings.position_ids".into(),
        (vec![1, 2], vec![0.0, 1.0]),
    );
    assert_eq!(pieces.read().unwrap().weights, want);
    // A bare AlbertModel whose names carry no prefix, and one whose names do.
    let mut bare = Pieces::of("albert-tiny-groups");
    let want = bare.read().unwrap().weights;
    for name in bare.tensors.keys().cloned().collect::<Vec<_>>() {
        bare.rename(&name, &format!("albert.{name}"));
    }
    assert_eq!(bare.read().unwrap().weights, want);
}

#[test]
fn decoders_are_tied_when_they_are_the_word_embedding() {
    let mlm = Pieces::of("albert-mlm-tiny");
    let word = mlm.tensors["albert.embeddings.word_embeddings.weight"].clone();
    let bias = mlm.tensors["predictions.bias"].clone();
    let decoder = "predictions.decoder.weight";
    let mut other = word.clone();
    other.1[5] += 1.0;
    type Change = fn(&mut Pieces);
    let untie: Change = |p| p.config["tie_word_embeddings"] = json!(false);
    let leave: Change = |_| {};
    for (stored, change, tied, note) in [
        (None, leave, true, ""),
        (Some(&word), leave, true, ""),
        (Some(&word), untie, true, "stored once"),
        (Some(&other), leave, false, "weight of its own"),
        (Some(&other), untie, false, ""),
    ] {
        let mut pieces = mlm.clone();
        change(&mut pieces);
        pieces.tensors.insert("predictions.decoder.bias".into(), bias.clone());
        if let Some(stored) = stored {
            pieces.tensors.insert(decoder.into(), stored.clone());
        }
        let source = pieces.read().unwrap();
        assert_eq!(source.config.tied_decoder, tied);
        assert_eq!(source.weights.contains_key("mlm.decoder"), !tied);
        assert!(source.notes.concat().contains(note), "{:?}", source.notes);
        assert_eq!(source.weights["mlm.decoder.bias"].data, bias.1);
    }
    let mut lost = mlm.clone();
    untie(&mut lost);
    assert!(lost.read().unwrap_err().to_string().contains(decoder));
    let mut only = mlm.clone();
    only.rename("predictions.bias", "predictions.decoder.bias");
    assert_eq!(only.read().unwrap().weights["mlm.decoder.bias"].data, bias.1);
    // transformers 4.48 to 5.24 compute with the decoder's bias where both are stored.
    for fixture in ["albert-mlm-tiny", "albert-pretraining-tiny"] {
        let mut differ = Pieces::of(fixture);
        let other: Vec<f32> = differ.tensors["predictions.bias"].1.iter().map(|x| x + 1.0).collect();
        differ
            .tensors
            .insert("predictions.decoder.bias".into(), (bias.0.clone(), other.clone()));
        let source = differ.read().unwrap();
        assert_eq!(source.weights["mlm.decoder.bias"].data, other);
        assert_eq!(
            source.notes,
            ["predictions.bias and predictions.decoder.bias differ: the decoder's counts, as in transformers"]
        );
    }
}

#[test]
fn parts_the_head_does_not_read_are_noted() {
    let pretraining = Pieces::of("albert-pretraining-tiny");
    for (class, head, notes) in [
        (
            "AlbertForMaskedLM",
            Head::MaskedLm,
            vec![
                "pooler left out: no output of AlbertForMaskedLM needs it",
                "sop_classifier left out: no output of AlbertForMaskedLM needs it",
            ],
        ),
        (
            "AlbertModel",
            Head::None,
            vec![
                "predictions left out: no output of AlbertModel needs it",
                "sop_classifier left out: no output of AlbertModel needs it",
            ],
        ),
    ] {
        let mut pieces = pretraining.clone();
        pieces.config["architectures"] = json!([class]);
        let source = pieces.read().unwrap();
        assert_eq!(source.config.head, head);
        assert_eq!(source.notes, notes);
    }
}

/// Names behind a common prefix, wherever the head lies, are the same model; the note says the prefix.
#[test]
fn a_prefix_that_all_names_share_is_taken_off() {
    let whole = Pieces::of(SEQ);
    let want = whole.read().unwrap().weights;
    for (model, head) in [
        ("bert.", ""),
        ("model.albert.", "model."),
        ("encoder.albert.", ""),
        ("module.encoder.", "module."),
        ("_orig_mod.albert.", "_orig_mod."),
        ("encoder.", ""),
        ("net.model.bert.", "net."),
        ("albert._fsdp_wrapped_module.", ""),
    ] {
        let mut pieces = whole.clone();
        for name in whole.tensors.keys() {
            let new = match name.strip_prefix("albert.") {
                Some(rest) => format!("{model}{rest}"),
                None => format!("{head}{name}"),
            };
            pieces.rename(name, &new);
        }
        let source = pieces.read().unwrap_or_else(|e| panic!("{model}: {e}"));
        assert_eq!(source.weights, want, "{model}");
        let note = format!("names begin with '{model}', which is taken off");
        assert_eq!(source.notes, [note], "{model}");
    }
}

/// Sizes that the configuration leaves out are those of the tensors; what no tensor tells is AlbertConfig's default, and said.
#[test]
fn sizes_left_out_are_those_of_the_tensors() {
    for name in [SEQ, "albert-tiny-groups"] {
        let mut pieces = Pieces::of(name);
        let want = pieces.read().unwrap().config;
        for field in [
            "vocab_size",
            "embedding_size",
            "hidden_size",
            "num_hidden_groups",
            "inner_group_num",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "layer_norm_eps",
        ] {
            pieces.config.as_object_mut().unwrap().remove(field);
        }
        let source = pieces.read().unwrap();
        assert_eq!(source.config, want, "{name}");
        assert_eq!(source.notes, Vec::<String>::new(), "{name}");
    }
    let mut pieces = Pieces::of(SEQ);
    pieces.config.as_object_mut().unwrap().remove("num_hidden_layers");
    let source = pieces.read().unwrap();
    assert_eq!(source.config.num_hidden_layers, 12);
    assert_eq!(
        source.notes,
        ["not configured, AlbertConfig's default taken: num_hidden_layers 12"]
    );
}

#[test]
fn defaults_and_variants_of_config_json() {
    let with = |field: &str, value: Value| {
        let mut pieces = Pieces::of(SEQ);
        pieces.config[field] = value;
        pieces.read().unwrap()
    };
    for (name, activation) in [
        ("gelu", Activation::Gelu),
        ("gelu_python", Activation::Gelu),
        ("gelu_new", Activation::GeluNew),
        ("gelu_fast", Activation::GeluNew),
        ("gelu_pytorch_tanh", Activation::GeluNew),
        ("gelu_accurate", Activation::GeluNew),
        ("swish", Activation::Silu),
        ("silu", Activation::Silu),
        ("tanh", Activation::Tanh),
    ] {
        assert_eq!(with("hidden_act", json!(name)).config.activation, activation, "{name}");
    }
    assert_eq!(
        with("id2label", json!({"2": "c", "0": "a", "1": "b"})).config.labels,
        ["a", "b", "c"]
    );
    // What Python prints for numbers and truth values, which Hugging Face keeps as names.
    assert_eq!(
        with("id2label", json!({"0": 5, "1": true, " 2 ": 1e-7})).config.labels,
        ["5", "True", "1e-07"]
    );
    assert!(
        with("problem_type", json!("multi_label_classification"))
            .config
            .multi_label
    );
    let mut none = Pieces::of(SEQ);
    none.config.as_object_mut().unwrap().remove("id2label");
    none.config["num_labels"] = json!(3);
    assert_eq!(none.read().unwrap().config.labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
    // A bare model without a pooler gives no pooler_output.
    let mut bare = Pieces::of("albert-tiny-groups");
    bare.tensors.retain(|name, _| !name.starts_with("pooler"));
    let source = bare.read().unwrap();
    assert!(!source.config.pooler && source.notes.concat().contains("no pooler"));
    // Regression: one label.
    let mut regression = Pieces::of(SEQ);
    regression.config["id2label"] = json!({"0": "score"});
    regression.config["problem_type"] = json!("regression");
    regression
        .tensors
        .insert("classifier.weight".into(), (vec![1, 24], vec![0.5; 24]));
    regression
        .tensors
        .insert("classifier.bias".into(), (vec![1], vec![0.0]));
    let read = |pieces: &Pieces| pieces.read().unwrap().config;
    let kind = |config: &Config| (config.multi_label, config.regression, config.predicts_values());
    assert_eq!(read(&regression).labels, ["score"]);
    assert_eq!(kind(&read(&regression)), (false, false, true));
    regression.config.as_object_mut().unwrap().remove("problem_type");
    assert_eq!(kind(&read(&regression)), (true, true, true));
    assert_eq!(
        kind(&with("problem_type", json!("regression")).config),
        (false, true, true)
    );
    let mut unknown = Pieces::of(SEQ);
    unknown.config["problem_type"] = json!("ranking");
    assert!(unknown.read().unwrap_err().to_string().contains("problem_type"));
}

#[test]
fn albert_base_has_the_weights_of_its_shape() {
    let manifest: Value =
        serde_json::from_slice(&fs::read(fixture("albert-base-rand").join("manifest.json")).unwrap()).unwrap();
    let mut config: Pieces = Pieces::of("albert-tiny-groups");
    config.config =
        serde_json::from_slice(&fs::read(fixture("albert-base-rand").join("config.json")).unwrap()).unwrap();
    config.tensors = manifest["tensors"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, t)| {
            let shape: Vec<usize> = serde_json::from_value(t["shape"].clone()).unwrap();
            let count = shape.iter().product();
            (name.clone(), (shape, vec![0.25; count]))
        })
        .collect();
    let source = config.read().unwrap();
    assert_eq!(
        source.config.weights().iter().map(WeightSpec::elements).sum::<usize>(),
        11_683_584
    );
    assert_eq!(source.notes, Vec::<String>::new());
}
