//! Spoilt checkpoints, each with the words its error must contain; none may panic, and nothing in one is executed.

use crate::pieces::{Pieces, SEQ, fixture};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use thimble::models::checkpoint::{self, SourceError};

const LAYER: &str = "albert.encoder.albert_layer_groups.0.albert_layers.0";

#[test]
fn refused_pickles_name_what_they_tried_and_nothing_runs() {
    let message = checkpoint::read(&fixture("torch/evil")).unwrap_err().to_string();
    assert!(message.contains("global posix.system is not allowed"), "{message}");
    assert!(!Path::new("executed-by-pickle").exists());
    for (folder, class) in [
        ("torch/module", "torch.nn.modules.container.Sequential"),
        ("torch/module_legacy", "torch.nn.modules.container.Sequential"),
        ("wild/a05e_whole_module", "AlbertForSequenceClassification"),
    ] {
        let message = checkpoint::read(&fixture(folder)).unwrap_err().to_string();
        assert!(
            message.contains("a whole pickled module") && message.contains(class) && message.contains("state_dict()"),
            "{message}"
        );
    }
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
            set("architectures", json!(["AlbertForTokens"])),
            "architectures: 'AlbertForTokens' is not one of AlbertModel",
        ),
        (set("ln_type", json!("preln")), "ln_type: 'preln' is not supported"),
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
        (set("inner_group_num", json!(300)), "300 layers to store"),
        (set("inner_group_num", json!(1000)), "3000 layers in all, at most 1024"),
        (
            set("layer_norm_eps", json!("tiny")),
            "layer_norm_eps: is \"tiny\", must be a number",
        ),
        (set("layer_norm_eps", json!(-1.0)), "layer_norm_eps"),
        (
            set("quantization_config", json!({"quant_method": "gptq"})),
            "already quantized (gptq)",
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
            "missing classifier.bias [3]",
        ),
        (
            Box::new(|p| p.rename("albert.pooler.weight", "albert.puller.weight")),
            "missing albert.pooler.weight [24, 24]; unknown albert.puller.weight [24, 24]; --head NAME",
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
        message.contains("; and 21 more") && message.lines().count() == 1,
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
        (
            "tf_model.h5",
            b"\x89HDF".to_vec(),
            "tf_model.h5 is an HDF5 file of Keras, which transformers before",
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
            "neither ONNX, safetensors nor an archive of torch.save",
        ),
        (
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            "git lfs pull",
        ),
        ("pytorch_model.bin", torch[..torch.len() - 1].to_vec(), "cut short"),
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
        (
            "pytorch_model.bin.index.json",
            b"version https://git-lfs.github.com/spec/v1\nsize 12\n".to_vec(),
            "a Git LFS pointer, not the file itself, which has 12 bytes",
        ),
        (
            "weights.bin",
            b"<html>sign in</html>".to_vec(),
            "weights.bin is an HTML page",
        ),
    ];
    for (name, bytes, want) in cases {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("config.json"), &config).unwrap();
        fs::write(dir.path().join(name), bytes).unwrap();
        let message = checkpoint::read(dir.path()).unwrap_err().to_string();
        assert!(message.contains(want), "expected: {want}\nfound: {message}");
    }
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("model.safetensors"), &weights).unwrap();
    assert!(matches!(
        checkpoint::read(dir.path()).unwrap_err(),
        SourceError::NoConfig { .. }
    ));
    assert!(matches!(
        checkpoint::read(&dir.path().join("nowhere")).unwrap_err(),
        SourceError::Absent { .. }
    ));
}

/// Bytes of a small torch archive, of a stream from before 1.6 and of a training configuration changed one at a time: an error
/// or a read, never a panic.
#[test]
fn a_flipped_byte_never_panics() {
    let dir = TempDir::new().unwrap();
    fs::copy(fixture(SEQ).join("config.json"), dir.path().join("config.json")).unwrap();
    let read = |name: &str, whole: &[u8], places: &mut dyn Iterator<Item = usize>| {
        for (i, at) in places.enumerate() {
            let mut spoilt = whole.to_vec();
            spoilt[at] ^= [0x01, 0x80, 0xff][i % 3];
            fs::write(dir.path().join(name), &spoilt).unwrap();
            let _ = checkpoint::read(dir.path());
        }
        fs::write(dir.path().join(name), whole).unwrap();
    };
    // The pickle and the directory of the archive are where structure lies; payload bytes are only numbers.
    let torch = fs::read(fixture("torch/f32/pytorch_model.bin")).unwrap();
    let structure = (0..3600).chain(torch.len() - 3000..torch.len());
    read("pytorch_model.bin", &torch, &mut structure.step_by(7));
    let stream = fs::read(fixture("torch/legacy/pytorch_model.bin")).unwrap();
    read("pytorch_model.bin", &stream, &mut (0..5200).step_by(3));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    fs::remove_file(dir.path().join("pytorch_model.bin")).unwrap();
    let synthesizer = fixture("torch/styletts2");
    fs::copy(synthesizer.join("epoch_2nd_00020.pth"), dir.path().join("model.pth")).unwrap();
    let yaml = fs::read(synthesizer.join("config.yml")).unwrap();
    read("config.yml", &yaml, &mut (0..yaml.len()));
    checkpoint::read(dir.path()).unwrap();
}
