//! Attacks on the device: thimble's own file with something changed in it.

use super::Expect::{Read, Refused};
use super::Reader::{Audit, Device, Inputs};
use super::onnx::tensor;
use super::{Attack, Reader};
use crate::support::tiny;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::artifact::{self, KEY_GRAPH, Provenance};
use thimble_shared::dtype::{Format, Values};
use thimble_shared::model::{Config, Head, Kind, Model};
use thimble_shared::onnx::protobuf::{FieldValue, Fields, Message};

pub fn config() -> Config {
    Config {
        pooler: true,
        ..tiny(Head::None)
    }
}

fn bytes(format: Format) -> Vec<u8> {
    let config = config();
    let weights = config.weights().into_iter().map(|w| {
        let data: Vec<f32> = (0..w.elements())
            .map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0)
            .collect();
        let format = if w.kind == Kind::Vector { Format::F32 } else { format };
        let values = Values::round_to_nearest(format, &data, w.rows());
        (w.name, values)
    });
    let model = Model {
        weights: weights.collect(),
        config: config.clone(),
    };
    artifact::write(&model, LowerOptions::default(), &Provenance::default()).unwrap()
}

fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The file with the first bytes of a stored tensor replaced.
fn spoilt(folder: &Path, format: Format, tensor: &str, with: &[u8]) -> PathBuf {
    let mut file = bytes(format);
    let start = artifact::open(&file).unwrap().tensors[tensor].range.start;
    file[start..start + with.len()].copy_from_slice(with);
    write(folder, &file)
}

fn scale(folder: &Path, scale: f32) -> PathBuf {
    spoilt(folder, Format::I8, "0.0.q.scale", &scale.to_le_bytes())
}

/// The file with the fields of its graph text changed.
fn described(folder: &Path, change: fn(&mut Json)) -> PathBuf {
    text(folder, |text| {
        let mut graph: Json = serde_json::from_str(text).unwrap();
        change(&mut graph);
        graph.to_string()
    })
}

/// The same of a file that says its attention is int8.
fn attending(folder: &Path, change: fn(&mut Json)) -> PathBuf {
    text(folder, |text| {
        let mut graph: Json = serde_json::from_str(text).unwrap();
        graph["schema"] = 4.into();
        graph["config"]["attention"] = "int8".into();
        change(&mut graph);
        graph.to_string()
    })
}

/// The file with another graph text.
fn text(folder: &Path, change: impl Fn(&str) -> String) -> PathBuf {
    let file = bytes(Format::I8);
    let mut out = Message::default();
    for field in Fields::new(&file).map(Result::unwrap) {
        match field.value {
            FieldValue::Varint(v) => out.int(field.number, v as i64),
            FieldValue::Bytes(entry) if field.number == 14 => {
                let of = |number| {
                    let mut fields = Fields::new(entry).map(Result::unwrap);
                    fields.find(|f| f.number == number).unwrap().text().unwrap()
                };
                let value = if of(1) == KEY_GRAPH {
                    change(of(2))
                } else {
                    of(2).to_string()
                };
                let mut entry = Message::default();
                entry.text(1, of(1));
                entry.text(2, &value);
                out.message(14, &entry);
            }
            FieldValue::Bytes(bytes) => out.bytes(field.number, bytes),
            other => panic!("{other:?} is in no file of ours"),
        }
    }
    write(folder, &out.0)
}

/// The file with more graph behind its graph: protobuf takes two messages in one place for one.
fn added(folder: &Path, graph: &Message) -> PathBuf {
    let mut file = Message(bytes(Format::I8));
    file.message(7, graph);
    write(folder, &file.0)
}

/// `count` times the same few bytes as a graph.
fn flood(folder: &Path, part: &[u8], count: usize) -> PathBuf {
    added(folder, &Message(part.repeat(count)))
}

fn initializer(name: &str, dims: &[i64], raw: &[u8]) -> Message {
    let (mut tensor, mut graph) = (tensor(name, dims), Message::default());
    tensor.bytes(9, raw);
    graph.message(5, &tensor);
    graph
}

/// The file with the one `from` in it overwritten by a `to` of the same length.
fn overwritten(folder: &Path, format: Format, from: &[u8], to: &[u8]) -> PathBuf {
    let mut file = bytes(format);
    let at = file.windows(from.len()).position(|w| w == from).unwrap();
    file[at..at + to.len()].copy_from_slice(to);
    write(folder, &file)
}

/// The file cut off before `at` bytes of its end and filled up again with zeros of no field.
fn shifted(folder: &Path) -> PathBuf {
    let mut padding = Message::default();
    padding.text(6, "x");
    write(folder, &[padding.0, bytes(Format::I8)].concat())
}

/// A key and the nine bytes of a length near 2⁶³.
fn endless(folder: &Path) -> PathBuf {
    let length = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    write(folder, &[bytes(Format::I8), vec![7 << 3 | 2], length.to_vec()].concat())
}

fn inputs(folder: &Path, header: &str) -> PathBuf {
    let path = folder.join("in.safetensors");
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(&path, [&length[..], header.as_bytes(), &[0; 16]].concat()).unwrap();
    path
}

const fn row(name: &'static str, imitates: &'static str, build: fn(&Path) -> PathBuf, words: &'static str) -> Attack {
    asked(Device, name, imitates, build, words)
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

const fn harmless(
    reader: Reader,
    name: &'static str,
    imitates: &'static str,
    build: fn(&Path) -> PathBuf,
    why: &'static str,
) -> Attack {
    Attack {
        name,
        imitates,
        reader,
        build,
        expect: Read(why),
    }
}

const OVERFLOW: &str = "CVE-2025-53630 (GGUF): sizes summed past 2⁶⁴, and a small buffer was written past its end";
const PRODUCT: &str = "CVE-2026-33298 (GGUF): a product of dims that overflows looked like a small tensor";
const LENGTH: &str = "CVE-2026-27940 (GGUF): a size near 2⁶⁴ got past its check once alignment was added";
const ALLOCATION: &str = "rten issue 1218: memory taken because the file declares it";
const SCALES: &str = "a file that loads and gives nonsense: scales no quantizer writes";
const STACK: &str = "CVE-2025-4565 (protobuf) and its like in JSON: parsers that recurse as deep as the file says";
const VERSIONS: &str = "readers that disagree: a field that programs of the version said do not know";
const CONFUSION: &str = "type confusion: declared as one type, stored as another";

pub const ROWS: &[Attack] = &[
    row("a length near 2⁶³", LENGTH, endless, "field 7 at byte"),
    row(
        "dims whose product is 2⁶⁴",
        PRODUCT,
        |d| {
            described(d, |g| {
                g["config"]["vocab_size"] = (1u64 << 32).into();
                g["config"]["embedding_size"] = (1u64 << 32).into();
            })
        },
        "vocab_size: is 4294967296, must be 1 to 16777216",
    ),
    row(
        "an embedding of 2⁴⁰ numbers",
        ALLOCATION,
        |d| {
            described(d, |g| {
                g["config"]["head"] = "sentence_embedding".into();
                g["config"]["sentence"] = serde_json::json!({"pooling": ["mean"], "dense": [{"size": 1u64 << 40}]});
            })
        },
        "sentence: a size of 1099511627776, must be 1 to 16777216",
    ),
    row(
        "an embedding without a way of pooling",
        ALLOCATION,
        |d| {
            described(d, |g| {
                g["config"]["head"] = "sentence_embedding".into();
                g["config"]["sentence"] = serde_json::json!({"pooling": []});
            })
        },
        "sentence: pooling has each way at most once, and at least one",
    ),
    row(
        "int8 attention in a file of an older version",
        VERSIONS,
        |d| described(d, |g| g["config"]["attention"] = "int8".into()),
        "schema 1, but the network has what came with schema 4",
    ),
    row(
        "attention in an arithmetic nobody knows",
        CONFUSION,
        |d| attending(d, |g| g["config"]["attention"] = "int4".into()),
        "unknown variant `int4`, expected `f32` or `int8`",
    ),
    row(
        "attention that is a number",
        CONFUSION,
        |d| attending(d, |g| g["config"]["attention"] = 8.into()),
        "invalid type: integer `8`, expected string",
    ),
    row(
        "int8 attention over 2¹⁷ tokens",
        OVERFLOW,
        |d| attending(d, |g| g["config"]["max_position_embeddings"] = (1u64 << 17).into()),
        "attention: int8 sums hold 65536 products, and a head or a sequence has 131072",
    ),
    row(
        "int8 attention for another runtime",
        CONFUSION,
        |d| attending(d, |g| g["for"] = "onnx".into()),
        "attention in int8 is for boards, and the file is for onnx",
    ),
    asked(
        Audit,
        "int8 attention said, f32 stated",
        CONFUSION,
        |d| attending(d, |_| ()),
        "L0.kh",
    ),
    row(
        "the largest table there may be",
        OVERFLOW,
        |d| described(d, |g| g["config"]["vocab_size"] = (1u64 << 24).into()),
        "weight 'word' [97, 12] stands where the config has 'word' [16777216, 12]",
    ),
    row(
        "dims of an initializer whose product wraps to the right size",
        PRODUCT,
        |d| overwritten(d, Format::F32, b"\x0a\x02\x61\x0c\x10\x01", b"\x0a\x02\x7f\x7f\x10\x01"),
        "dims [127, 127]",
    ),
    row(
        "10¹² layers",
        ALLOCATION,
        |d| described(d, |g| g["config"]["num_hidden_layers"] = 1_000_000_000_000u64.into()),
        "num_hidden_layers: is 1000000000000",
    ),
    row(
        "a sequence of 10¹⁵ tokens",
        ALLOCATION,
        |d| described(d, |g| g["seq"] = 1_000_000_000_000_000u64.into()),
        "seq 1000000000000000 is outside",
    ),
    row(
        "a million empty nodes",
        ALLOCATION,
        |d| flood(d, b"\x0a\x00", 1_000_000),
        "a node without an operator",
    ),
    row(
        "two million nodes",
        ALLOCATION,
        |d| flood(d, b"\x0a\x03\x22\x01A", 2_000_000),
        "more than 1048576",
    ),
    row(
        "a million nameless tensors",
        ALLOCATION,
        |d| flood(d, b"\x2a\x00", 1_000_000),
        "an initializer without a name",
    ),
    row(
        "a million tensors of one name",
        ALLOCATION,
        |d| flood(d, b"\x2a\x03\x42\x01A", 1_000_000),
        "'A': stands twice",
    ),
    row(
        "two tensors of one name, the second elsewhere",
        "overlap: two payloads where readers disagree which counts",
        |d| added(d, &initializer("map.bias", &[24], &[0x7f; 96])),
        "'map.bias': stands twice among the initializers",
    ),
    harmless(
        Device,
        "a tensor inside a tensor's padding",
        "overlap: a payload that holds what looks like another message",
        |d| {
            added(
                d,
                &initializer("more", &[1], &initializer("map.bias", &[24], &[0x7f; 96]).0),
            )
        },
        "fields of protobuf nest and cannot overlap, and the device asks only for tensors its metadata names",
    ),
    asked(
        Audit,
        "a tensor nobody asked for",
        "a payload smuggled along in a file that works",
        |d| added(d, &initializer("more", &[1], &[0; 4])),
        "initializer 'more' is not in the metadata",
    ),
    row(
        "payloads moved by three bytes",
        "misalignment: loads that fault or tear on ARM",
        shifted,
        "not at a multiple of 64",
    ),
    row(
        "f32 declared, int8 stored",
        CONFUSION,
        |d| overwritten(d, Format::I8, b"\x10\x03\x42\x050.0.q", b"\x10\x01\x42\x050.0.q"),
        "tensor '0.0.q': has ONNX type 1",
    ),
    row(
        "f32 said by the metadata, f16 stored",
        CONFUSION,
        |d| {
            let path = spoilt(d, Format::F16, "map.bias", &[]);
            let file = std::fs::read(&path).unwrap();
            let from = b"\"format\":\"f16\"";
            let mut file: Vec<u8> = file;
            while let Some(at) = file.windows(from.len()).position(|w| w == from) {
                file[at..at + from.len()].copy_from_slice(b"\"format\":\"f32\"");
            }
            write(d, &file)
        },
        "needs type 1",
    ),
    row(
        "a payload shorter than its dims",
        "dims trusted over bytes: reads past the payload",
        |d| {
            let mut file = bytes(Format::I8);
            let range = artifact::open(&file).unwrap().tensors["map.bias"].range.clone();
            assert_eq!(file[range.start - 1], 96);
            file[range.start - 1] = 95;
            write(d, &file)
        },
        "the file is truncated, damaged or something else",
    ),
    row(
        "metadata nested 100,000 deep",
        STACK,
        |d| text(d, |_| "[".repeat(100_000)),
        "recursion limit exceeded",
    ),
    row(
        "a field number past all there are",
        "readers that disagree: a key cut to 32 bits",
        |d| {
            let mut file = bytes(Format::I8);
            file.extend([0xba, 0x80, 0x80, 0x80, 0x80, 0x01, 0x00]);
            write(d, &file)
        },
        "field number",
    ),
    row(
        "numbers in another file",
        "CVE-2022-25882 (ONNX): external data in ../../etc/passwd was read",
        |d| {
            // The tensor itself goes by another name, so that there is one of this name.
            let mut tensor = Message::default();
            tensor.packed(1, &[24]);
            tensor.int(2, 1);
            tensor.text(8, "map.bias");
            tensor.int(14, 1);
            let mut file = bytes(Format::I8);
            let at = file.windows(10).position(|w| w == b"\x42\x08map.bias").unwrap();
            file[at + 2] = b'n';
            let mut graph = Message::default();
            graph.message(5, &tensor);
            let mut file = Message(file);
            file.message(7, &graph);
            write(d, &file.0)
        },
        "'map.bias': keeps its numbers in another file",
    ),
    row(
        "a NaN scale",
        SCALES,
        |d| scale(d, f32::NAN),
        "'0.0.q.scale': has a scale that is negative, NaN or infinite",
    ),
    row(
        "an infinite scale",
        SCALES,
        |d| scale(d, f32::INFINITY),
        "'0.0.q.scale': has a scale",
    ),
    row(
        "a negative scale",
        SCALES,
        |d| scale(d, -1.0),
        "'0.0.q.scale': has a scale",
    ),
    harmless(
        Device,
        "a scale of zero",
        SCALES,
        |d| scale(d, 0.0),
        "a row of zeros has it",
    ),
    harmless(
        Device,
        "a subnormal scale",
        SCALES,
        |d| scale(d, 1e-42),
        "a row of tiny numbers has it",
    ),
    row(
        "NaN in a bias",
        SCALES,
        |d| spoilt(d, Format::I8, "map.bias", &f32::NAN.to_le_bytes()),
        "'map.bias': holds NaN or an infinity",
    ),
    row(
        "an infinity in a LayerNorm",
        SCALES,
        |d| spoilt(d, Format::F32, "embed_norm.weight", &f32::NEG_INFINITY.to_le_bytes()),
        "'embed_norm.weight': holds NaN or an infinity",
    ),
    harmless(
        Device,
        "NaN in an f32 weight",
        SCALES,
        |d| spoilt(d, Format::F32, "0.0.q", &f32::NAN.to_le_bytes()),
        "looking would read the whole file from storage; the answers are NaN, no memory is at stake",
    ),
    asked(
        Audit,
        "NaN in an f32 weight",
        SCALES,
        |d| spoilt(d, Format::F32, "0.0.q", &f32::NAN.to_le_bytes()),
        "'0.0.q': holds NaN or an infinity",
    ),
    asked(
        Audit,
        "NaN in an f16 weight",
        SCALES,
        |d| spoilt(d, Format::F16, "0.0.q", &[0xff, 0x7f]),
        "'0.0.q': holds NaN or a value beyond",
    ),
    harmless(
        Device,
        "an int8 of -128",
        "a number out of its range: products that overflow the i16 step of one kernel",
        |d| spoilt(d, Format::I8, "0.0.q", &[0x80]),
        "as above; sums of the kernel wrap and stay within their lanes",
    ),
    asked(
        Audit,
        "an int8 of -128",
        SCALES,
        |d| spoilt(d, Format::I8, "0.0.q", &[0x80]),
        "'0.0.q': holds -128",
    ),
    asked(
        Audit,
        "an int8a of -128",
        SCALES,
        |d| spoilt(d, Format::I8A, "0.0.down", &[0x80]),
        "'0.0.down': holds -128",
    ),
    row(
        "a format that came after the schema stated",
        "a downgrade: a file that says it is older than what it uses",
        |d| overwritten(d, Format::I8A, b"{\"schema\":2,", b"{\"schema\":1,"),
        "schema 1, but weight 'word' is in i8a, which came with schema 2",
    ),
    asked(
        Audit,
        "int8 said by the metadata, int8a stated by the nodes",
        CONFUSION,
        |d| {
            let [from, to] = ["i8a\"", "i8\" "].map(|f| format!("\"map\",\"shape\":[24,12],\"format\":\"{f}"));
            overwritten(d, Format::I8A, from.as_bytes(), to.as_bytes())
        },
        "node 'hidden.mm' is Add, the metadata states Mul",
    ),
    asked(
        Audit,
        "a multiplier of 255",
        SCALES,
        |d| spoilt(d, Format::I4, "0.0.q.mult", &[255]),
        "'0.0.q': has a multiplier outside 1 to 15",
    ),
    row(
        "a tensor's name that moves the cursor",
        "CVE-2021-42574 and terminal escapes: text that acts where it is shown",
        |d| {
            let graph = [
                initializer("a\x1b[2J\nb", &[1], &[0; 4]).0,
                initializer("a\x1b[2J\nb", &[1], &[0; 4]).0,
            ];
            added(d, &Message(graph.concat()))
        },
        "'a\\u{1b}[2J b': stands twice",
    ),
    asked(
        Inputs,
        "a header of 2⁶⁴ bytes",
        LENGTH,
        |d| {
            let path = d.join("in.safetensors");
            std::fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
            path
        },
        "the header is longer than the file",
    ),
    asked(
        Inputs,
        "a shape whose product is 2⁶⁴",
        PRODUCT,
        |d| {
            inputs(
                d,
                r#"{"a":{"dtype":"I64","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
            )
        },
        "disagree",
    ),
    asked(
        Inputs,
        "a header nested 100,000 deep",
        STACK,
        |d| inputs(d, &"[".repeat(100_000)),
        "the header is not a JSON object",
    ),
];
