//! Attacks on checkpoints: config.json, safetensors and what stands beside them.

use super::Expect::{Read, Refused};
use super::Reader::{Checkpoint, TokenizerJson};
use super::{Attack, Reader};
pub use crate::support::fixture;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

/// A good checkpoint's config, changed.
pub fn configured(folder: &Path, change: fn(&mut Json)) {
    let text = std::fs::read(fixture("albert-seq-tiny/config.json")).unwrap();
    let mut json: Json = serde_json::from_slice(&text).unwrap();
    change(&mut json);
    std::fs::write(folder.join("config.json"), json.to_string()).unwrap();
}

/// The header and the numbers of a good checkpoint.
pub fn good() -> (Json, Vec<u8>) {
    let bytes = std::fs::read(fixture("albert-seq-tiny/model.safetensors")).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..end]).unwrap(), bytes[end..].to_vec())
}

fn write(folder: &Path, header: &str, data: &[u8]) -> PathBuf {
    configured(folder, |_| {});
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length[..], header.as_bytes(), data].concat();
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    folder.to_path_buf()
}

/// A good checkpoint whose safetensors header is changed.
fn changed(folder: &Path, change: fn(&mut Json)) -> PathBuf {
    let (mut header, data) = good();
    change(&mut header);
    write(folder, &header.to_string(), &data)
}

/// A good checkpoint with the first number of a weight replaced.
fn numbered(folder: &Path, bits: u32) -> PathBuf {
    let (header, mut data) = good();
    let at = header[QUERY]["data_offsets"][0].as_u64().unwrap() as usize;
    data[at..at + 4].copy_from_slice(&bits.to_le_bytes());
    write(folder, &header.to_string(), &data)
}

/// A good checkpoint with another name for a weight.
fn named(folder: &Path, name: &str) -> PathBuf {
    let (mut header, data) = good();
    let tensors = header.as_object_mut().unwrap();
    let tensor = tensors.remove(QUERY).unwrap();
    tensors.insert(name.into(), tensor);
    write(folder, &header.to_string(), &data)
}

/// A good checkpoint with another config.
fn beside(folder: &Path, change: fn(&mut Json)) -> PathBuf {
    let path = changed(folder, |_| {});
    configured(folder, change);
    path
}

/// A good checkpoint with this text for its config.
fn config_text(folder: &Path, text: &str) -> PathBuf {
    let path = changed(folder, |_| {});
    std::fs::write(folder.join("config.json"), text).unwrap();
    path
}

/// A good checkpoint with this text for its training configuration.
fn yaml(folder: &Path, text: &str) -> PathBuf {
    let path = changed(folder, |_| {});
    std::fs::remove_file(folder.join("config.json")).unwrap();
    std::fs::write(folder.join("config.yml"), text).unwrap();
    path
}

fn sharded(folder: &Path, shard: &str) -> PathBuf {
    configured(folder, |_| {});
    let index = json!({ "weight_map": { QUERY: shard } });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    folder.to_path_buf()
}

pub fn fifo(path: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let text = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: `text` is a string that ends in a zero byte and lives until the call returns.
    assert_eq!(unsafe { libc::mkfifo(text.as_ptr(), 0o600) }, 0);
}

const QUERY: &str = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query.weight";

const fn row(name: &'static str, imitates: &'static str, build: fn(&Path) -> PathBuf, words: &'static str) -> Attack {
    asked(Checkpoint, name, imitates, build, words)
}

const fn asked(
    reader: Reader,
    name: &'static str,
    imitates: &'static str,
    build: fn(&Path) -> PathBuf,
    words: &'static str,
) -> Attack {
    Attack {
        name,
        imitates,
        reader,
        build,
        expect: Refused(words),
    }
}

const HEADER: &str =
    "safetensors' own threat model (audit of 2023): a header that lies about lengths, offsets or itself";
const ABSURD: &str = "a configuration that asks for more than any machine has";
const LONG_NAME: &str = "a name that takes time out of proportion: one pass over it for each of its parts";
const STACK: &str = "stack exhaustion: JSON as deep as it is long";
pub const NUMBERS: &str = "weights that load and spoil every answer";
const BLOCKS: &str = "a file that never ends or never starts: FIFOs and devices";

pub const ROWS: &[Attack] = &[
    row(
        "a header of 2⁶⁴ bytes",
        HEADER,
        |d| {
            let path = write(d, "{}", &[]);
            std::fs::write(
                d.join("model.safetensors"),
                [&u64::MAX.to_le_bytes()[..], b"{}"].concat(),
            )
            .unwrap();
            path
        },
        "header too large",
    ),
    row(
        "a header past the end",
        HEADER,
        |d| {
            let path = write(d, "{}", &[]);
            std::fs::write(
                d.join("model.safetensors"),
                [&9000u64.to_le_bytes()[..], b"{}"].concat(),
            )
            .unwrap();
            path
        },
        "is cut short: it ends after 10 of 9008 bytes",
    ),
    row(
        "a header nested 100,000 deep",
        STACK,
        |d| write(d, &format!("{{\"a\":{}", "[".repeat(100_000)), &[]),
        "invalid JSON in header",
    ),
    row(
        "offsets past the end",
        HEADER,
        |d| changed(d, |h| h[QUERY]["data_offsets"] = json!([0, 1u64 << 40])),
        "is cut short: it ends after",
    ),
    row(
        "offsets that run backwards",
        HEADER,
        |d| changed(d, |h| h[QUERY]["data_offsets"] = json!([96, 0])),
        "invalid",
    ),
    row(
        "two tensors that share bytes",
        "overlap: one payload seen under two names and types",
        |d| {
            changed(d, |h| {
                let other = h["albert.embeddings.word_embeddings.weight"]["data_offsets"].clone();
                h[QUERY]["data_offsets"] = other;
            })
        },
        "invalid",
    ),
    row(
        "a hole between tensors",
        "polyglot files: bytes that no tensor owns",
        |d| changed(d, |h| drop(h.as_object_mut().unwrap().remove(QUERY))),
        "invalid",
    ),
    row(
        "bytes behind the last tensor",
        "polyglot files: a second file behind the first",
        |d| {
            let (header, data) = good();
            write(d, &header.to_string(), &[data, vec![0; 64]].concat())
        },
        "64 bytes follow its last tensor",
    ),
    row(
        "a shape whose product is 2⁶⁴",
        "CVE-2026-33298 (GGUF): a product of dims that overflows",
        |d| changed(d, |h| h[QUERY]["shape"] = json!([1u64 << 32, 1u64 << 32])),
        "overflow",
    ),
    row(
        "f16 declared, f32 stored",
        "type confusion: declared as one type, stored as another",
        |d| changed(d, |h| h[QUERY]["dtype"] = json!("F16")),
        "invalid shape, data type, or offset",
    ),
    row(
        "a shape of another weight",
        "type confusion: as many bytes in other dims",
        |d| changed(d, |h| h[QUERY]["shape"] = json!([12, 48])),
        "expected [24, 24], found [12, 48]",
    ),
    row(
        "a name of 400,000 wrappers",
        LONG_NAME,
        |d| named(d, &format!("{}x", "module.".repeat(400_000))),
        "has a name of 2800001 bytes, at most 1024 are read",
    ),
    row(
        "a model 400,000 modules deep",
        LONG_NAME,
        |d| named(d, &format!("{}embeddings.word_embeddings.weight", "a.".repeat(400_000))),
        "has a name of 800033 bytes",
    ),
    row(
        "NaN in a weight",
        NUMBERS,
        |d| numbered(d, 0x7fc0_0000),
        "1 of 576 numbers are not finite",
    ),
    row(
        "an infinity in a weight",
        NUMBERS,
        |d| numbered(d, 0x7f80_0000),
        "query.weight: 1 of 576",
    ),
    row(
        "10¹² layers",
        ABSURD,
        |d| beside(d, |c| c["num_hidden_layers"] = 1_000_000_000_000u64.into()),
        "num_hidden_layers",
    ),
    row(
        "10¹⁵ words",
        ABSURD,
        |d| beside(d, |c| c["vocab_size"] = 1_000_000_000_000_000u64.into()),
        "vocab_size",
    ),
    row(
        "more words than are stored",
        ABSURD,
        |d| beside(d, |c| c["vocab_size"] = (1u64 << 24).into()),
        "expected [16777216, 12]",
    ),
    row(
        "10¹² labels",
        ABSURD,
        |d| {
            beside(d, |c| {
                c["num_labels"] = 1_000_000_000_000u64.into();
                c["id2label"] = Json::Null;
            })
        },
        "num_labels: is 1000000000000",
    ),
    row(
        "a label numbered 2⁶⁰",
        ABSURD,
        |d| beside(d, |c| c["id2label"] = json!({ "1152921504606846976": "x" })),
        "id2label",
    ),
    row(
        "an epsilon of 10³⁹⁹",
        ABSURD,
        |d| config_text(d, r#"{"model_type":"albert","layer_norm_eps":1e399}"#),
        "layer_norm_eps: is \"inf\", must be a number",
    ),
    row(
        "a negative epsilon",
        ABSURD,
        |d| beside(d, |c| c["layer_norm_eps"] = json!(-1.0)),
        "layer_norm_eps",
    ),
    row(
        "a config nested 100,000 deep",
        STACK,
        |d| config_text(d, &"[".repeat(100_000)),
        "recursion limit exceeded",
    ),
    row(
        "a YAML of aliases that double",
        "billion laughs, in a training configuration",
        |d| {
            let doubled = |n: usize| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1);
            let laughs: String = (1..60).map(doubled).collect();
            yaml(
                d,
                &format!("a0: &a0 x\n{laughs}model_params: {{hidden_size: 24, x: *a59}}\n"),
            )
        },
        "more than 8192 repeated values",
    ),
    row(
        "a YAML of one long text 5,000 times",
        "billion laughs, in a training configuration",
        |d| {
            let text = "y".repeat(900_000);
            yaml(
                d,
                &format!("b: &z '{text}'\nl: [{}]\nhidden_size: 24\n", "*z,".repeat(5000)),
            )
        },
        "more than 1048576 bytes of repeated text",
    ),
    row(
        "YAML mappings that take over one another",
        "billion laughs, by merge keys",
        |d| {
            let entries: String = (0..1000).map(|n| format!("k{n}: 0, ")).collect();
            let merged: String = (1..200)
                .map(|n| format!("m{n}: &m{n} {{<<: *m{}, x{n}: 1}}\n", n - 1))
                .collect();
            yaml(d, &format!("m0: &m0 {{{entries}}}\n{merged}"))
        },
        "more than 8192 repeated values",
    ),
    row(
        "YAML aliases that nest what nests",
        STACK,
        |d| {
            let (before, after) = ("[".repeat(60), "]".repeat(60));
            let nested: String = (1..1000)
                .map(|n| format!("a{n}: &a{n} {before}*a{}{after}\n", n - 1))
                .collect();
            yaml(d, &format!("a0: &a0 x\n{nested}"))
        },
        "64 levels",
    ),
    row(
        "a YAML alias inside what it repeats",
        "a cycle, in a training configuration",
        |d| yaml(d, "model_params: &a\n  hidden_size: 24\n  again: *a\n"),
        "an alias contains itself",
    ),
    row(
        "a YAML nested 100,000 deep",
        STACK,
        |d| yaml(d, &"[".repeat(100_000)),
        "config.yml",
    ),
    row(
        "a YAML of mappings nested 1,000 deep",
        STACK,
        |d| {
            yaml(
                d,
                &(0..1000).map(|n| format!("{}a:\n", " ".repeat(n))).collect::<String>(),
            )
        },
        "64 levels",
    ),
    row(
        "a YAML of a million values",
        ABSURD,
        |d| yaml(d, &"-\n".repeat(500_000)),
        "more than 65536 values",
    ),
    row(
        "a YAML of two megabytes",
        ABSURD,
        |d| yaml(d, &" ".repeat(2 << 20)),
        "at most 1048576 are read",
    ),
    row(
        "10¹⁵ words in a YAML",
        ABSURD,
        |d| {
            yaml(
                d,
                "model_params:\n  hidden_size: 24\n  num_attention_heads: 4\n  vocab_size: 1000000000000000\n",
            )
        },
        "vocab_size",
    ),
    row(
        "a YAML that is no ALBERT's",
        "type confusion: another model's configuration",
        |d| yaml(d, "model_params:\n  dim_in: 64\n  n_token: 97\n"),
        "describes no ALBERT",
    ),
    row(
        "a FIFO for a YAML",
        BLOCKS,
        |d| {
            let path = yaml(d, "");
            std::fs::remove_file(d.join("config.yml")).unwrap();
            fifo(&d.join("config.yml"));
            path
        },
        "must stand beside its weights",
    ),
    asked(
        TokenizerJson,
        "a tokenizer nested 100,000 deep",
        STACK,
        |d| {
            let path = d.join("tokenizer.json");
            std::fs::write(&path, format!("{{\"model\":{}", "[".repeat(100_000))).unwrap();
            path
        },
        "invalid type",
    ),
    asked(
        TokenizerJson,
        "a FIFO for the tokenizer",
        BLOCKS,
        |d| {
            fifo(&d.join("tokenizer.json"));
            d.join("tokenizer.json")
        },
        "no regular file",
    ),
    row(
        "a shard in another folder",
        "CVE-2022-25882 (ONNX), on a shard index",
        |d| sharded(d, "../victim"),
        "is not the name of a file",
    ),
    row(
        "a shard of the whole disk",
        BLOCKS,
        |d| sharded(d, "/dev/zero"),
        "is not the name of a file",
    ),
    row(
        "a FIFO for a shard",
        BLOCKS,
        |d| {
            fifo(&d.join("shard"));
            sharded(d, "shard")
        },
        "is not a regular file",
    ),
    row(
        "a FIFO for the weights",
        BLOCKS,
        |d| {
            configured(d, |_| {});
            fifo(&d.join("weights.bin"));
            d.join("weights.bin")
        },
        "is not a regular file",
    ),
    row(
        "a FIFO for the config",
        BLOCKS,
        |d| {
            let path = changed(d, |_| {});
            std::fs::remove_file(d.join("config.json")).unwrap();
            fifo(&d.join("config.json"));
            path
        },
        "config.json",
    ),
    row(
        "endless zeros for the weights",
        BLOCKS,
        |d| {
            configured(d, |_| {});
            std::os::unix::fs::symlink("/dev/zero", d.join("weights.bin")).unwrap();
            d.join("weights.bin")
        },
        "is not a regular file",
    ),
    Attack {
        name: "weights that are a link to another folder",
        imitates: "CVE-2026-27489 (ONNX): a symbolic link led out of the model's folder",
        reader: Checkpoint,
        build: |d| {
            let blobs = d.join("blobs");
            std::fs::create_dir(&blobs).unwrap();
            let path = changed(d, |_| {});
            std::fs::rename(d.join("model.safetensors"), blobs.join("0123")).unwrap();
            std::os::unix::fs::symlink("blobs/0123", d.join("model.safetensors")).unwrap();
            path
        },
        expect: Read(
            "Hugging Face's cache is such links, and the file's own name is fixed: the checkpoint cannot choose it",
        ),
    },
];
