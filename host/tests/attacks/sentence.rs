//! Attacks on models of sentence-transformers: the list of their parts, and the parts.

use super::Expect::{Read, Refused};
use super::Reader::Checkpoint;
use super::checkpoint::{NUMBERS, fifo, fixture};
use super::{Attack, torch};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A good model with a dense layer.
fn good(folder: &Path) -> PathBuf {
    copy(&fixture("albert-tiny-groups"), folder);
    copy(&fixture("sentence/all"), folder);
    changed(folder, "1_Pooling/config.json", |c| {
        *c = json!({"pooling_mode": "mean"})
    });
    let hidden: Json = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let hidden = hidden["hidden_size"].as_u64().unwrap() as usize;
    dense(
        folder,
        &json!({"dtype": "F32", "shape": [2, hidden], "data_offsets": [0, 8 * hidden]}),
        &vec![0; 8 * hidden],
    );
    let path = folder.join("2_Dense/config.json");
    let options = json!({"in_features": hidden, "out_features": 2, "bias": false, "activation_function": TANH});
    std::fs::write(path, options.to_string()).unwrap();
    folder.to_path_buf()
}

const TANH: &str = "torch.nn.modules.activation.Tanh";

/// Writes the weight of the dense layer.
fn dense(folder: &Path, tensor: &Json, data: &[u8]) {
    let header = json!({"linear.weight": tensor}).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
    std::fs::write(folder.join("2_Dense/model.safetensors"), bytes).unwrap();
}

fn changed(folder: &Path, file: &str, change: impl Fn(&mut Json)) {
    let path = folder.join(file);
    let mut json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

fn listed(folder: &Path, text: &str) -> PathBuf {
    let path = good(folder);
    std::fs::write(folder.join("modules.json"), text).unwrap();
    path
}

fn prompted(folder: &Path, prompts: &Json) -> PathBuf {
    let path = good(folder);
    std::fs::write(folder.join("config_sentence_transformers.json"), prompts.to_string()).unwrap();
    path
}

const fn row(name: &'static str, imitates: &'static str, build: fn(&Path) -> PathBuf, words: &'static str) -> Attack {
    Attack {
        name,
        imitates,
        reader: Checkpoint,
        build,
        expect: Refused(words),
    }
}

const LIST: &str = "a list of parts that is none, or one that no machine gets to the end of";
const SIZES: &str = "a size that only a text says";
const ELSEWHERE: &str = "path traversal: a name that leads out of the folder";

pub const ROWS: &[Attack] = &[
    Attack {
        name: "a good one",
        imitates: "nothing: what the others spoil",
        reader: Checkpoint,
        build: good,
        expect: Read("it is what the library writes"),
    },
    row(
        "an object in place of a list",
        LIST,
        |d| listed(d, "{}"),
        "is no list of a model's parts",
    ),
    row(
        "a list cut short",
        LIST,
        |d| listed(d, "[{\"type\": "),
        "modules.json: not a checkpoint thimble reads: invalid JSON",
    ),
    row(
        "a list 100,000 deep",
        LIST,
        |d| listed(d, &"[".repeat(100_000)),
        "invalid JSON",
    ),
    row(
        "a hundred thousand parts",
        LIST,
        |d| {
            let part = json!({"type": "sentence_transformers.models.Transformer", "path": ""});
            listed(d, &Json::from(vec![part; 100_000]).to_string())
        },
        "100000 parts, at most 64 are read",
    ),
    row(
        "a part's name with a line break",
        "terminal escapes in an error",
        |d| {
            let kinds = ["Transformer", "Pooling", "Evil\n\u{1b}[2J"]
                .map(|kind| format!("sentence_transformers.models.{kind}"));
            listed(
                d,
                &Json::from(kinds.map(|kind| json!({"type": kind, "path": if kind.ends_with("Transformer") { "" } else { "1_Pooling" }})).to_vec()).to_string(),
            )
        },
        "Evil",
    ),
    row(
        "a pooling elsewhere",
        ELSEWHERE,
        |d| {
            let kinds = [("Transformer", ""), ("Pooling", "../victim")];
            let part = |(kind, path)| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
            listed(d, &Json::from(kinds.map(part).to_vec()).to_string())
        },
        "no folder inside this one",
    ),
    row(
        "a pooling that waits",
        "a file that never ends or never starts: FIFOs and devices",
        |d| {
            let path = good(d);
            std::fs::remove_file(d.join("1_Pooling/config.json")).unwrap();
            fifo(&d.join("1_Pooling/config.json"));
            path
        },
        "1_Pooling/config.json",
    ),
    row(
        "a dense layer that waits",
        "a file that never ends or never starts: FIFOs and devices",
        |d| {
            let path = good(d);
            std::fs::remove_file(d.join("2_Dense/model.safetensors")).unwrap();
            fifo(&d.join("2_Dense/model.safetensors"));
            path
        },
        "without model.safetensors or pytorch_model.bin",
    ),
    row(
        "a layer of 2⁶³ numbers",
        SIZES,
        |d| {
            let path = good(d);
            changed(d, "2_Dense/config.json", |c| c["out_features"] = (1u64 << 63).into());
            path
        },
        "linear.weight: has shape [2, ",
    ),
    row(
        "a layer whose file says so too",
        SIZES,
        |d| {
            let path = good(d);
            changed(d, "2_Dense/config.json", |c| c["out_features"] = (1u64 << 40).into());
            dense(
                d,
                &json!({"dtype": "F32", "shape": [1u64 << 40, 24], "data_offsets": [0, 4]}),
                &[0; 4],
            );
            path
        },
        "2_Dense/model.safetensors",
    ),
    row(
        "a layer of no rows",
        SIZES,
        |d| {
            let path = good(d);
            changed(d, "2_Dense/config.json", |c| c["out_features"] = 0.into());
            let width: Json = serde_json::from_slice(&std::fs::read(d.join("config.json")).unwrap()).unwrap();
            dense(
                d,
                &json!({"dtype": "F32", "shape": [0, width["hidden_size"]], "data_offsets": [0, 0]}),
                &[],
            );
            path
        },
        "a size of 0",
    ),
    row(
        "a layer of NaN",
        NUMBERS,
        |d| {
            let path = good(d);
            let width: Json = serde_json::from_slice(&std::fs::read(d.join("config.json")).unwrap()).unwrap();
            let width = width["hidden_size"].as_u64().unwrap() as usize;
            let data = f32::NAN.to_le_bytes().repeat(2 * width);
            dense(
                d,
                &json!({"dtype": "F32", "shape": [2, width], "data_offsets": [0, data.len()]}),
                &data,
            );
            path
        },
        "not finite",
    ),
    row(
        "a layer that is a program",
        "pickles that call what they like",
        |d| {
            let path = good(d);
            std::fs::remove_file(d.join("2_Dense/model.safetensors")).unwrap();
            let evil = torch::pickle(d, b"\x80\x02cos\nsystem\nX\x0e\x00\x00\x00touch executed\x85R.");
            let evil = if evil.is_dir() {
                evil.join("pytorch_model.bin")
            } else {
                evil
            };
            std::fs::rename(evil, d.join("2_Dense/pytorch_model.bin")).unwrap();
            path
        },
        "global os.system is not allowed",
    ),
    row(
        "a prompt of a megabyte",
        "a text that every request pays for",
        |d| {
            prompted(
                d,
                &json!({"prompts": {"q": "x".repeat(1 << 20)}, "default_prompt_name": "q"}),
            )
        },
        "a prompt of 1048576 bytes, at most 4096",
    ),
    row(
        "prompts that are none",
        LIST,
        |d| prompted(d, &json!({"prompts": [1, 2]})),
        "prompts: is no object of texts",
    ),
    Attack {
        name: "a length of 2⁶²",
        imitates: SIZES,
        reader: Checkpoint,
        build: |d| {
            let path = good(d);
            changed(d, "sentence_bert_config.json", |c| {
                c["max_seq_length"] = (1u64 << 62).into()
            });
            path
        },
        expect: Read("positions end where they do, whatever the length says"),
    },
];
