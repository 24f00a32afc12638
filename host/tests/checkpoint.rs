//! Checkpoints as users have them: every fixture, what torch itself wrote in each layout, and a table of spoilt ones with the
//! words each error must contain. Expected values come from the safetensors fixtures, read here with the safetensors crate.

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use thimble::source::{self, Source, SourceError};
use thimble_shared::graph::{Activation, Head, WeightSpec};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

/// A checkpoint in pieces, to be spoilt and written again.
#[derive(Clone)]
struct Pieces {
    config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Pieces {
    fn of(name: &str) -> Pieces {
        let dir = fixture(name);
        let bytes = fs::read(dir.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |data: &[u8]| {
            data.chunks(4)
                .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
                .collect()
        };
        Pieces {
            config: serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap(),
            tensors: tensors
                .iter()
                .map(|(n, v)| (n.to_string(), (v.shape().to_vec(), floats(v.data()))))
                .collect(),
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let tensor = self.tensors.remove(from).unwrap_or_else(|| panic!("no tensor {from}"));
        self.tensors.insert(to.into(), tensor);
    }

    fn write(&self) -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("config.json"), self.config.to_string()).unwrap();
        let bytes: BTreeMap<_, Vec<u8>> = self
            .tensors
            .iter()
            .map(|(n, (_, d))| (n, d.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let view = |n: &String| TensorView::new(Dtype::F32, self.tensors[n].0.clone(), &bytes[n]).unwrap();
        let file = safetensors::serialize(self.tensors.keys().map(|n| (n, view(n))), None).unwrap();
        fs::write(dir.path().join("model.safetensors"), file).unwrap();
        dir
    }

    fn read(&self) -> Result<Source, SourceError> {
        source::read(self.write().path())
    }
}

const SEQ: &str = "albert-seq-tiny";
const LAYER: &str = "albert.encoder.albert_layer_groups.0.albert_layers.0";

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
        let source = source::read(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
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
        assert_eq!(source::weight_file_bytes(&fixture(name)).unwrap(), source.bytes);
        assert_eq!(source.notes, Vec::<String>::new(), "{name}");
    }
    assert_eq!(
        source::read(&fixture("albert-deb")).unwrap().config.labels[4],
        "javascript"
    );
    assert!(source::read(&fixture("albert-deb")).unwrap().tokenizer.is_some());
    assert_eq!(source::read(&fixture(SEQ)).unwrap().tokenizer, None);
}

#[test]
fn the_digest_of_one_file_is_that_file_s() {
    let manifest: Value = serde_json::from_slice(&fs::read(fixture(SEQ).join("manifest.json")).unwrap()).unwrap();
    let source = source::read(&fixture(SEQ)).unwrap();
    assert_eq!(manifest["model_safetensors_sha256"], source.sha256.as_str());
}

#[test]
fn what_torch_wrote_is_read_to_the_last_bit() {
    let exact = source::read(&fixture(SEQ)).unwrap();
    let round: [(&str, &str, fn(f32) -> f32); 6] = [
        ("f32", "f32", |x| x),
        ("f64", "f64", |x| x),
        ("f16", "f16", |x| f16::from_f32(x).to_f32()),
        ("bf16", "bf16", |x| bf16::from_f32(x).to_f32()),
        ("strided", "f32", |x| x),
        ("sharded", "f32", |x| x),
    ];
    for (folder, stored, round) in round {
        let source = source::read(&fixture("torch").join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        assert_eq!(source.config, exact.config, "{folder}");
        assert_eq!(source.stored_as, [stored], "{folder}");
        for (name, weight) in &exact.weights {
            let want: Vec<u32> = weight.data.iter().map(|&x| round(x).to_bits()).collect();
            let got: Vec<u32> = source.weights[name].data.iter().map(|x| x.to_bits()).collect();
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
        source::read(&fixture(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

#[test]
fn refused_pickles_name_what_they_tried_and_nothing_runs() {
    let message = source::read(&fixture("torch/evil")).unwrap_err().to_string();
    assert!(message.contains("global posix.system is not allowed"), "{message}");
    assert!(!Path::new("executed-by-pickle").exists());
    let message = source::read(&fixture("torch/legacy")).unwrap_err().to_string();
    assert!(
        message.contains("old format") && message.contains("torch.save"),
        "{message}"
    );
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
    let mut differ = mlm;
    differ.tensors.insert(
        "predictions.decoder.bias".into(),
        (bias.0, bias.1.iter().map(|x| x + 1.0).collect()),
    );
    assert!(
        differ
            .read()
            .unwrap_err()
            .to_string()
            .contains("predictions.decoder.bias: differs from predictions.bias")
    );
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

#[test]
fn a_missing_architecture_is_inferred_and_said() {
    for (name, class) in [
        ("albert-seq-tiny", "AlbertForSequenceClassification"),
        ("albert-tok-tiny", "AlbertForTokenClassification"),
        ("albert-qa-tiny", "AlbertForQuestionAnswering"),
        ("albert-mlm-tiny", "AlbertForMaskedLM"),
        ("albert-pretraining-tiny", "AlbertForPreTraining"),
        ("albert-tiny-groups", "AlbertModel"),
    ] {
        let mut pieces = Pieces::of(name);
        pieces.config.as_object_mut().unwrap().remove("architectures");
        let source = pieces.read().unwrap();
        assert_eq!(source.architecture, class);
        assert_eq!(
            source.notes,
            [format!(
                "config.json names no architecture: taken for {class} by the tensors present"
            )]
        );
    }
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
    assert_eq!(regression.read().unwrap().config.labels, ["score"]);
}

#[test]
fn spoilt_checkpoints_are_refused_in_words() {
    let query = format!("{LAYER}.attention.query.weight");
    type Spoil = Box<dyn Fn(&mut Pieces)>;
    let set = |field: &'static str, value: Value| -> Spoil { Box::new(move |p| p.config[field] = value.clone()) };
    let cases: Vec<(Spoil, &str)> = vec![
        (
            set("model_type", json!("bert")),
            "model_type: this is a 'bert' model; thimble reads ALBERT",
        ),
        (set("model_type", json!(7)), "model_type: is 7, must be a string"),
        (
            set("architectures", json!(["BertModel"])),
            "architectures: 'BertModel' is not supported; known are AlbertModel",
        ),
        (
            set("architectures", json!("AlbertModel")),
            "architectures: must be a list",
        ),
        (
            set("position_embedding_type", json!("relative_key")),
            "'relative_key' is not supported",
        ),
        (
            set("hidden_act", json!("quick_gelu")),
            "hidden_act: 'quick_gelu' is not supported; known are gelu, ",
        ),
        (
            set("num_attention_heads", json!(5)),
            "num_attention_heads: 5 does not divide hidden_size 24",
        ),
        (set("num_attention_heads", json!(0)), "num_attention_heads: is 0"),
        (
            set("hidden_size", json!(-3)),
            "hidden_size: is -3, must be a whole number",
        ),
        (
            set("hidden_size", json!(24.5)),
            "hidden_size: is 24.5, must be a whole number",
        ),
        (
            set("vocab_size", json!(1u64 << 60)),
            "vocab_size: is 1152921504606846976",
        ),
        (set("num_hidden_groups", json!(1000)), "num_hidden_groups"),
        (set("inner_group_num", json!(1000)), "1000 layers to store"),
        (
            set("layer_norm_eps", json!("tiny")),
            "layer_norm_eps: is \"tiny\", must be a number",
        ),
        (set("layer_norm_eps", json!(-1.0)), "layer_norm_eps"),
        (
            set("quantization_config", json!({"quant_method": "gptq"})),
            "already quantised (gptq)",
        ),
        (set("pruned_heads", json!({"0": [1]})), "pruned_heads"),
        (set("id2label", json!({"0": "a", "2": "b"})), "id2label: '2'"),
        (
            set("id2label", json!({"0": "a", "00": "b"})),
            "id2label: must name the labels 0, 1, 2 ... without a gap",
        ),
        (
            set("id2label", json!({"0": "a", "1": "b"})),
            "classifier.weight: expected [2, 24], found [3, 24]",
        ),
        (
            set("vocab_size", json!(98)),
            "albert.embeddings.word_embeddings.weight: expected [98, 12], found [97, 12]",
        ),
        (
            Box::new(|p| drop(p.tensors.remove("classifier.bias"))),
            "missing  classifier.bias [3]",
        ),
        (
            Box::new(|p| p.rename("albert.pooler.weight", "albert.puller.weight")),
            "missing  albert.pooler.weight [24, 24]\n  unknown  albert.puller.weight [24, 24]",
        ),
        (
            Box::new(|p| {
                p.tensors
                    .insert("classifier.bias".into(), (vec![3], vec![0.0, f32::NAN, f32::INFINITY]))
                    .map_or((), drop)
            }),
            "tensor classifier.bias: 2 of 3 numbers are not finite in f32, the first at index 1: NaN",
        ),
        (
            Box::new({
                let query = query.clone();
                move |p| {
                    let t = p.tensors[&query].clone();
                    p.tensors.insert(query.replace("albert.enc", "enc"), t);
                }
            }),
            "is the same weight as",
        ),
        (
            Box::new(|p| p.tensors.retain(|name, _| name.starts_with("classifier"))),
            "25 missing",
        ),
    ];
    for (spoil, want) in cases {
        let mut pieces = Pieces::of(SEQ);
        spoil(&mut pieces);
        let message = match pieces.read() {
            Err(error) => error.to_string(),
            Ok(_) => panic!("read, but expected: {want}"),
        };
        assert!(message.contains(want), "expected: {want}\nfound: {message}");
    }
    // Long lists are cut.
    let mut pieces = Pieces::of(SEQ);
    pieces.tensors.retain(|name, _| name.starts_with("classifier"));
    let message = pieces.read().unwrap_err().to_string();
    assert!(
        message.contains("... and 13 more") && message.lines().count() < 16,
        "{message}"
    );
}

#[test]
fn files_that_are_no_checkpoint_say_what_would_work() {
    let config = fs::read(fixture(SEQ).join("config.json")).unwrap();
    let weights = fs::read(fixture(SEQ).join("model.safetensors")).unwrap();
    let torch = fs::read(fixture("torch/f32/pytorch_model.bin")).unwrap();
    let index = |file: &str| json!({"weight_map": {"x": file}}).to_string().into_bytes();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("tf_model.h5", b"\x89HDF".to_vec(), "tf_model.h5 is there: convert it"),
        (
            "weights.safetensors",
            weights.clone(),
            "weights.safetensors is there: name the file itself",
        ),
        ("model.safetensors", Vec::new(), "is empty"),
        (
            "model.safetensors",
            weights[..weights.len() - 1].to_vec(),
            "model.safetensors",
        ),
        ("model.safetensors", weights[..100].to_vec(), "model.safetensors"),
        (
            "model.safetensors",
            vec![0xff; 64],
            "neither a safetensors file nor a zip archive",
        ),
        (
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            "git lfs pull",
        ),
        (
            "pytorch_model.bin",
            torch[..torch.len() - 1].to_vec(),
            "zip archive: no end record",
        ),
        ("pytorch_model.bin", torch[..200].to_vec(), "zip archive"),
        (
            "model.safetensors.index.json",
            index("../secret.safetensors"),
            "is not the name of a file beside the index",
        ),
        (
            "model.safetensors.index.json",
            index("/etc/passwd"),
            "is not the name of a file beside the index",
        ),
        (
            "model.safetensors.index.json",
            index("lost.safetensors"),
            "lost.safetensors",
        ),
        ("pytorch_model.bin.index.json", b"{}".to_vec(), "weight_map: is missing"),
        ("pytorch_model.bin.index.json", b"{".to_vec(), "invalid JSON"),
    ];
    for (name, bytes, want) in cases {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("config.json"), &config).unwrap();
        fs::write(dir.path().join(name), bytes).unwrap();
        let message = source::read(dir.path()).unwrap_err().to_string();
        assert!(message.contains(want), "expected: {want}\nfound: {message}");
    }
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("model.safetensors"), &weights).unwrap();
    assert!(matches!(
        source::read(dir.path()).unwrap_err(),
        SourceError::NoConfig { .. }
    ));
    assert!(matches!(
        source::read(&dir.path().join("nowhere")).unwrap_err(),
        SourceError::Io { .. }
    ));
}

/// Bytes of a small torch archive changed one at a time: an error or a read, never a panic.
#[test]
fn a_flipped_byte_never_panics() {
    let torch = fs::read(fixture("torch/f32/pytorch_model.bin")).unwrap();
    let dir = TempDir::new().unwrap();
    fs::copy(fixture(SEQ).join("config.json"), dir.path().join("config.json")).unwrap();
    let file = dir.path().join("pytorch_model.bin");
    // The pickle and the directory of the archive are where structure lies; payload bytes are only numbers.
    let structure = (0..3600).chain(torch.len() - 3000..torch.len());
    for (i, at) in structure.step_by(7).enumerate() {
        let mut spoilt = torch.clone();
        spoilt[at] ^= [0x01, 0x80, 0xff][i % 3];
        fs::write(&file, &spoilt).unwrap();
        let _ = source::read(dir.path());
    }
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
