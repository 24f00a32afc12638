//! Attacks on TensorFlow's checkpoints and on adapters: the table's blocks, the entries in it, and what stands beside.

use super::Expect::{Read, Refused};
use super::Reader::{Adapter, Checkpoint};
use super::checkpoint::{NUMBERS, fixture};
use super::{Attack, Reader};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// CRC-32C a bit at a time, masked.
fn checksum(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| (c >> 1) ^ (0x82f6_3b78 * (c & 1)))
    });
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// An entry whose key shares `shared` bytes with the one before it.
fn entry(shared: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
    let lengths = [varint(shared), varint(key.len() as u64), varint(value.len() as u64)].concat();
    [&lengths[..], key, value].concat()
}

/// Entries as a block has them, with their one restart.
fn block(entries: &[Vec<u8>]) -> Vec<u8> {
    [&entries.concat()[..], &[0, 0, 0, 0, 1, 0, 0, 0]].concat()
}

fn sealed(contents: &[u8], kind: u8) -> Vec<u8> {
    let whole = [contents, &[kind]].concat();
    [&whole[..], &checksum(&whole).to_le_bytes()].concat()
}

fn handle(offset: u64, size: u64) -> Vec<u8> {
    [varint(offset), varint(size)].concat()
}

/// A table of these blocks, whose index has `index` for entries, each a key and a handle.
fn table(blocks: &[u8], index: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<Vec<u8>> = index.iter().map(|(key, handle)| entry(0, key, handle)).collect();
    let index = block(&entries);
    let mut footer = [handle(0, 0), handle(blocks.len() as u64, index.len() as u64)].concat();
    footer.resize(40, 0);
    [
        blocks,
        &sealed(&index, 0),
        &footer,
        &0xdb47_7524_8b80_fb57u64.to_le_bytes(),
    ]
    .concat()
}

/// A table of one block.
fn one_block(contents: &[u8], kind: u8) -> Vec<u8> {
    table(&sealed(contents, kind), &[(b"~", handle(0, contents.len() as u64))])
}

/// The header of a checkpoint with this many data files.
fn header(shards: u64) -> Vec<u8> {
    [vec![8], varint(shards)].concat()
}

/// A variable of f32.
fn variable(dims: &[u64], offset: u64, size: u64) -> Vec<u8> {
    let mut shape = Vec::new();
    for &dim in dims {
        let dim = [vec![8], varint(dim)].concat();
        shape.extend([vec![0x12], varint(dim.len() as u64), dim].concat());
    }
    let shape = [vec![0x12], varint(shape.len() as u64), shape].concat();
    [vec![8, 1], shape, vec![0x20], varint(offset), vec![0x28], varint(size)].concat()
}

fn variables(shards: u64, of: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut entries = vec![entry(0, b"", &header(shards))];
    entries.extend(of.iter().map(|(name, value)| entry(0, name.as_bytes(), value)));
    one_block(&block(&entries), 0)
}

/// Google's checkpoint with this index.
fn indexed(folder: &Path, index: &[u8]) -> PathBuf {
    let path = google(folder);
    std::fs::write(path.join("model.ckpt-best.index"), index).unwrap();
    path
}

fn copied(folder: &Path, from: &str) -> PathBuf {
    for file in std::fs::read_dir(fixture(from)).unwrap().map(Result::unwrap) {
        std::fs::write(folder.join(file.file_name()), std::fs::read(file.path()).unwrap()).unwrap();
    }
    folder.to_path_buf()
}

fn google(folder: &Path) -> PathBuf {
    copied(folder, "wild/t01_google_tf1")
}

/// A file with one byte changed.
fn flipped(folder: &Path, name: &str, at: usize) -> PathBuf {
    let path = google(folder);
    let mut bytes = std::fs::read(path.join(name)).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path.join(name), bytes).unwrap();
    path
}

/// A good adapter, changed.
fn adapter(folder: &Path, change: fn(&mut Json, &mut BTreeMap<String, (Vec<usize>, Vec<u8>)>)) -> PathBuf {
    let path = copied(folder, "lora/sequence");
    let mut config: Json = serde_json::from_slice(&std::fs::read(path.join("adapter_config.json")).unwrap()).unwrap();
    let bytes = std::fs::read(path.join("adapter_model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, view)| (name.to_string(), (view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut config, &mut tensors);
    std::fs::write(path.join("adapter_config.json"), config.to_string()).unwrap();
    let views = tensors
        .iter()
        .map(|(name, (shape, data))| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(path.join("adapter_model.safetensors"), file).unwrap();
    path
}

const A: &str = "base_model.model.albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query.lora_A.weight";

const TABLE: &str = "LevelDB's and RocksDB's fuzzers: blocks and entries that lie about lengths and places";
const BUNDLE: &str = "CVE-2021-41203 (TensorFlow): checkpoints whose entries lie about shapes and sizes";
const LORA: &str = "adapters that are not what their configuration says";

const fn row(
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

const fn of_table(name: &'static str, build: fn(&Path) -> PathBuf, words: &'static str) -> Attack {
    row(Checkpoint, name, TABLE, build, words)
}

const fn of_bundle(name: &'static str, build: fn(&Path) -> PathBuf, words: &'static str) -> Attack {
    row(Checkpoint, name, BUNDLE, build, words)
}

const fn of_adapter(name: &'static str, build: fn(&Path) -> PathBuf, words: &'static str) -> Attack {
    row(Adapter, name, LORA, build, words)
}

pub const ROWS: &[Attack] = &[
    of_table(
        "a block past the end of the table",
        |d| indexed(d, &table(b"", &[(b"~", handle(9, 1 << 40))])),
        "reaches outside the file",
    ),
    of_table(
        "a block of 2⁶⁴ bytes",
        |d| indexed(d, &table(b"", &[(b"~", handle(u64::MAX, u64::MAX))])),
        "reaches outside the file",
    ),
    of_table(
        "one block a thousand times",
        |d| {
            let contents = block(&[entry(0, b"a", b"")]);
            let index: Vec<(Vec<u8>, Vec<u8>)> = (0..1000u32)
                .map(|n| (format!("b{n:04}").into_bytes(), handle(0, contents.len() as u64)))
                .collect();
            let index: Vec<(&[u8], Vec<u8>)> = index.iter().map(|(k, h)| (&k[..], h.clone())).collect();
            indexed(d, &table(&sealed(&contents, 0), &index))
        },
        "overlaps the one before it",
    ),
    of_table(
        "a key that shares more than there is",
        |d| indexed(d, &one_block(&block(&[entry(0, b"a", b""), entry(9, b"b", b"")]), 0)),
        "malformed at its byte 4",
    ),
    of_table(
        "a value longer than its block",
        |d| {
            indexed(
                d,
                &one_block(
                    &block(&[[varint(0), varint(1), varint(u64::MAX), b"a".to_vec()].concat()]),
                    0,
                ),
            )
        },
        "malformed at its byte 0",
    ),
    of_table(
        "2³² restarts",
        |d| indexed(d, &one_block(&[0xff; 64], 0)),
        "malformed at its byte 64",
    ),
    of_table(
        "keys of 64 KiB in four bytes each",
        |d| {
            let mut entries = vec![entry(0, &[b'a'; 1 << 16], b"")];
            entries.extend((0..20_000).map(|_| entry((1 << 16) - 1, b"b", b"")));
            indexed(d, &one_block(&block(&entries), 0))
        },
        "not in order",
    ),
    of_table(
        "keys of 64 KiB that grow by a byte each",
        |d| {
            let mut entries = vec![entry(0, &[b'a'; 1 << 16], b"")];
            entries.extend((0..20_000u64).map(|n| entry((1 << 16) + n, b"b", b"")));
            indexed(d, &one_block(&block(&entries), 0))
        },
        "times the file's bytes",
    ),
    of_table(
        "keys out of order",
        |d| indexed(d, &one_block(&block(&[entry(0, b"b", b""), entry(0, b"a", b"")]), 0)),
        "not in order",
    ),
    of_table(
        "a block said to be compressed",
        |d| indexed(d, &one_block(&block(&[]), 1)),
        "is compressed",
    ),
    of_table(
        "a byte of the index changed",
        |d| flipped(d, "model.ckpt-best.index", 40),
        "the file is damaged",
    ),
    of_table("an index without an end", |d| indexed(d, b"\0\0\0"), "cut short"),
    of_bundle(
        "no data files",
        |d| indexed(d, &variables(0, &[])),
        "says that it has 0 data files",
    ),
    of_bundle("2⁶³ data files", |d| indexed(d, &variables(1 << 63, &[])), "data files"),
    of_bundle(
        "99,999 data files",
        |d| indexed(d, &variables(99_999, &[])),
        "data file 1 of 99999",
    ),
    of_bundle(
        "a variable past the end",
        |d| {
            indexed(
                d,
                &variables(1, &[("bert/pooler/dense/bias", variable(&[64], 1 << 40, 256))]),
            )
        },
        "it was cut short",
    ),
    of_bundle(
        "a variable before the start",
        |d| {
            indexed(
                d,
                &variables(1, &[("bert/pooler/dense/bias", variable(&[64], u64::MAX, 256))]),
            )
        },
        "is malformed",
    ),
    of_bundle(
        "a shape whose product is 2⁶⁴",
        |d| {
            indexed(
                d,
                &variables(
                    1,
                    &[("bert/pooler/dense/kernel", variable(&[1 << 32, 1 << 32], 0, 256))],
                ),
            )
        },
        "not a shape of",
    ),
    of_bundle(
        "a dimension below zero",
        |d| {
            indexed(
                d,
                &variables(1, &[("bert/pooler/dense/kernel", variable(&[u64::MAX, 4], 0, 16))]),
            )
        },
        "is malformed",
    ),
    of_bundle(
        "two variables that share bytes",
        |d| {
            let both = [("a/x", variable(&[64], 0, 256)), ("b/x", variable(&[64], 128, 256))];
            indexed(d, &variables(1, &both))
        },
        "b/x overlaps a/x",
    ),
    of_bundle(
        "another number in a weight",
        |d| flipped(d, "model.ckpt-best.data-00000-of-00001", 4000),
        "does not have the checksum stored with it",
    ),
    Attack {
        name: "a list that names a checkpoint elsewhere",
        imitates: "path traversal: a name that leads out of the folder",
        reader: Checkpoint,
        build: |d| {
            let path = google(d);
            std::fs::write(path.join("checkpoint"), "model_checkpoint_path: \"../victim\"\n").unwrap();
            path
        },
        expect: Read("the only checkpoint of the folder is taken, whatever the list says"),
    },
    row(
        Checkpoint,
        "a part of a sentence model elsewhere",
        "path traversal: a name that leads out of the folder",
        |d| {
            let parts = json!([{"type": "sentence_transformers.models.Transformer", "path": "../victim"}]);
            std::fs::write(d.join("modules.json"), parts.to_string()).unwrap();
            d.to_path_buf()
        },
        "no folder inside this one",
    ),
    of_adapter(
        "a rank of 2⁶³",
        |d| adapter(d, |c, _| c["r"] = json!(1u64 << 63)),
        "its matrices have rank 4",
    ),
    of_adapter(
        "a pattern that is a program",
        |d| adapter(d, |c, _| c["alpha_pattern"] = json!({"((a{1000}){1000}){1000}": 1})),
        "no regular expression",
    ),
    of_adapter(
        "a thousand patterns",
        |d| {
            adapter(d, |c, _| {
                let patterns = (0..1000).map(|n| (format!(r"\w{n}"), json!(1)));
                c["rank_pattern"] = Json::Object(patterns.collect());
            })
        },
        "at most 256 are read",
    ),
    of_adapter(
        "matrices of another weight",
        |d| {
            adapter(d, |_, t| {
                let a = t.get_mut(A).unwrap();
                a.0 = vec![2, 48];
            })
        },
        "do not change a weight of",
    ),
    of_adapter("half an adapter", |d| adapter(d, |_, t| drop(t.remove(A))), "not both"),
    of_adapter(
        "one matrix twice",
        |d| {
            adapter(d, |_, t| {
                let a = t[A].clone();
                t.insert(A.replace("albert.encoder", "encoder"), a);
            })
        },
        "is the same matrix as",
    ),
    row(
        Adapter,
        "a NaN in A",
        NUMBERS,
        |d| {
            adapter(d, |_, t| {
                t.get_mut(A).unwrap().1[..4].copy_from_slice(&f32::NAN.to_le_bytes())
            })
        },
        "not finite",
    ),
    of_adapter(
        "a module that the model does not have",
        |d| {
            adapter(d, |_, t| {
                let a = t.remove(A).unwrap();
                t.insert(A.replace("groups.0", "groups.7"), a);
            })
        },
        "not both",
    ),
];
