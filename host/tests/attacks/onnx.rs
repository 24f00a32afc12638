//! Attacks on readers of other tools' ONNX files: external data, sizes, nesting, counts.

use super::Expect::{Read, Refused};
use super::Reader::{Dequantize, Explain, Import, Onnx};
use super::checkpoint::{fifo, fixture};
use super::{Attack, Reader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use thimble_shared::onnx::protobuf::Message;

/// A `TensorProto` of f32.
pub fn tensor(name: &str, dims: &[i64]) -> Message {
    let mut m = Message::default();
    m.packed(1, dims);
    m.int(2, 1);
    m.text(8, name);
    m
}

fn stored(dims: &[i64], raw: &[u8]) -> Message {
    let mut m = tensor("a", dims);
    m.bytes(9, raw);
    m
}

/// A tensor of 16 f32 whose numbers are elsewhere.
fn elsewhere(entries: &[(&str, &str)]) -> Message {
    let mut m = tensor("a", &[4, 4]);
    for (key, value) in entries {
        let mut entry = Message::default();
        entry.text(1, key);
        entry.text(2, value);
        m.message(13, &entry);
    }
    m.int(14, 1);
    m
}

/// A file of these initializers.
fn model(tensors: &[Message]) -> Vec<u8> {
    let (mut graph, mut opset, mut model) = <(Message, Message, Message)>::default();
    tensors.iter().for_each(|t| graph.message(5, t));
    opset.int(2, 17);
    model.int(1, 8);
    model.message(8, &opset);
    model.message(7, &graph);
    model.0
}

fn write(folder: &Path, tensors: &[Message]) -> PathBuf {
    let path = folder.join("model.onnx");
    std::fs::write(&path, model(tensors)).unwrap();
    path
}

/// A model whose numbers lie at `location`; 64 good bytes are in `w.bin` beside it.
fn located(folder: &Path, location: &str) -> PathBuf {
    std::fs::write(folder.join("w.bin"), [9; 64]).unwrap();
    write(folder, &[elsewhere(&[("location", location)])])
}

/// The same with more said of the place.
fn placed(folder: &Path, entries: &[(&str, &str)]) -> PathBuf {
    std::fs::write(folder.join("w.bin"), [9; 64]).unwrap();
    write(folder, &[elsewhere(&[&[("location", "w.bin")], entries].concat())])
}

/// A good model with more graph behind its graph.
fn albert_and(folder: &Path, graph: &[u8]) -> PathBuf {
    let mut file = Message(std::fs::read(fixture("exported/seq_torch2.6_static.onnx")).unwrap());
    file.bytes(7, graph);
    let path = folder.join("model.onnx");
    std::fs::write(&path, file.0).unwrap();
    path
}

/// A good model whose LayerNorms have another axis, of ten bytes as the -1 that stands there.
fn normed_along(folder: &Path, axis: i64) -> PathBuf {
    let mut file = std::fs::read(fixture("exported/tok_torch2.6_opset18.onnx")).unwrap();
    let said = |axis: i64| {
        let mut m = Message::default();
        m.text(1, "axis");
        m.int(3, axis);
        m.0
    };
    let (from, to) = (said(-1), said(axis));
    assert_eq!(from.len(), to.len());
    let places: Vec<usize> = (0..file.len() - from.len())
        .filter(|&at| file[at..].starts_with(&from))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        file[at..][..to.len()].copy_from_slice(&to);
    }
    let path = folder.join("model.onnx");
    std::fs::write(&path, file).unwrap();
    path
}

/// A node with integer attributes; com.microsoft where the operator is one of ONNX Runtime's own.
fn node(op: &str, inputs: &[&str], out: &str, ints: &[(&str, i64)]) -> Message {
    let mut m = Message::default();
    inputs.iter().for_each(|i| m.text(1, i));
    m.text(2, out);
    m.text(4, op);
    for (name, value) in ints {
        let mut a = Message::default();
        a.text(1, name);
        a.int(3, *value);
        a.int(20, 2);
        m.message(5, &a);
    }
    if op.starts_with("MatMulN") || op.contains("Attention") {
        m.text(7, "com.microsoft");
    }
    m
}

/// Quantized nodes that make `y`, over 4096 bytes of integers called `q` and scales called `s0` and on.
fn quantized(folder: &Path, nodes: &[Message], scales: usize) -> PathBuf {
    let (mut graph, mut opset, mut port, mut model) = <(Message, Message, Message, Message)>::default();
    nodes.iter().for_each(|n| graph.message(1, n));
    let (mut q, raw) = (Message::default(), [3u8; 4096]);
    q.packed(1, &[64, 64]);
    q.int(2, 3);
    q.text(8, "q");
    q.bytes(9, &raw);
    graph.message(5, &q);
    for i in 0..scales {
        let mut scale = tensor(&format!("s{i}"), &[]);
        scale.bytes(9, &1f32.to_le_bytes());
        graph.message(5, &scale);
    }
    port.text(1, "y");
    graph.message(12, &port);
    opset.int(2, 17);
    model.int(1, 8);
    model.message(8, &opset);
    model.message(7, &graph);
    let path = folder.join("model.onnx");
    std::fs::write(&path, model.0).unwrap();
    path
}

/// The one tensor of integers dequantized by `count` scales, and all of it added up.
fn by_many_scales(folder: &Path, count: usize) -> PathBuf {
    let mut nodes = Vec::new();
    for i in 0..count {
        let (scale, out) = (format!("s{i}"), format!("d{i}"));
        nodes.push(node("DequantizeLinear", &["q", &scale], &out, &[]));
    }
    let all: Vec<String> = (0..count).map(|i| format!("d{i}")).collect();
    nodes.push(node(
        "Sum",
        &all.iter().map(String::as_str).collect::<Vec<_>>(),
        "y",
        &[],
    ));
    quantized(folder, &nodes, count)
}

/// A graph in an attribute of a node of a graph, `levels` deep. Written from its end, since each length stands before.
fn nested(levels: usize) -> Vec<u8> {
    let mut reversed: Vec<u8> = Vec::new();
    let header = |reversed: &mut Vec<u8>, key: u8, len: usize| {
        let mut m = Message::default();
        m.header(0, len);
        reversed.extend(m.0[1..].iter().rev());
        reversed.push(key);
    };
    for _ in 0..levels {
        let len = reversed.len();
        header(&mut reversed, 6 << 3 | 2, len);
        let len = reversed.len();
        header(&mut reversed, 5 << 3 | 2, len);
        reversed.extend(b"\x22\x02If".iter().rev());
        let len = reversed.len();
        header(&mut reversed, 1 << 3 | 2, len);
    }
    reversed.reverse();
    reversed
}

/// A model in Hugging Face's cache: a folder of links into a folder of blobs.
fn cached(folder: &Path) -> PathBuf {
    let (blobs, snapshot) = (folder.join("blobs"), folder.join("snapshots/1"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(
        blobs.join("01"),
        model(&[elsewhere(&[("location", "model.onnx_data")])]),
    )
    .unwrap();
    std::fs::write(blobs.join("02"), [9; 64]).unwrap();
    symlink("../../blobs/01", snapshot.join("model.onnx")).unwrap();
    symlink("../../blobs/02", snapshot.join("model.onnx_data")).unwrap();
    snapshot.join("model.onnx")
}

const HANG: &str = "a loop up to a number that the file says: an axis in tract's LayerNorm";
const fn row(name: &'static str, imitates: &'static str, build: fn(&Path) -> PathBuf, words: &'static str) -> Attack {
    asked(Onnx, name, imitates, build, words)
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
    name: &'static str,
    imitates: &'static str,
    build: fn(&Path) -> PathBuf,
    why: &'static str,
) -> Attack {
    Attack {
        name,
        imitates,
        reader: Onnx,
        build,
        expect: Read(why),
    }
}

const PRODUCT: &str = "CVE-2026-33298 (GGUF): a product of dims that overflows looked like a small tensor";
const SUM: &str = "CVE-2025-53630 (GGUF): an offset and a length whose sum overflows";
const CLIMBS: &str = "CVE-2022-25882 (ONNX): external data in ../../etc/passwd was read";
const HIDDEN: &str = "CVE-2024-27318 (ONNX): the fix of 25882 looked at the start of the path only";
const OVERWRITES: &str = "CVE-2025-51480 (ONNX): saving external data wrote wherever the location said";
const LINKS: &str = "CVE-2026-27489 (ONNX): a symbolic link led out of the model's folder";
const ATTRIBUTES: &str = "CVE-2026-34445 (ONNX): an entry's key became an attribute of the loader's object";
const BLOCKS: &str = "a file that never ends or never starts: FIFOs and devices";
const STACK: &str = "CVE-2025-4565 (protobuf): parsers that recurse as deep as the file says";
const ALLOCATION: &str = "rten issue 1218: memory taken because the file declares it";
const SHORT: &str = "dims trusted over bytes: reads past the payload";

pub const ROWS: &[Attack] = &[
    row(
        "dims whose product is 2⁶⁴",
        PRODUCT,
        |d| write(d, &[stored(&[1 << 32, 1 << 32], &[])]),
        "have no size in bytes",
    ),
    row(
        "dims whose bits are 2⁶⁴",
        PRODUCT,
        |d| write(d, &[stored(&[1 << 59], &[])]),
        "have no size in bytes",
    ),
    row(
        "a dim of 10¹⁸",
        PRODUCT,
        |d| write(d, &[stored(&[10i64.pow(18)], &[0; 8])]),
        "have no size in bytes",
    ),
    row(
        "a negative dim",
        PRODUCT,
        |d| write(d, &[stored(&[-1, -4], &[0; 16])]),
        "have no size in bytes",
    ),
    row(
        "a million dims",
        ALLOCATION,
        |d| write(d, &[stored(&[1 << 30; 1 << 20], &[])]),
        "have no size in bytes",
    ),
    row(
        "f32 declared, int8 stored",
        SHORT,
        |d| write(d, &[stored(&[4, 4], &[0; 16])]),
        "take 64 bytes, 16 are stored",
    ),
    row(
        "more stored than declared",
        SHORT,
        |d| write(d, &[stored(&[1], &[0; 64])]),
        "take 4 bytes, 64 are stored",
    ),
    row(
        "an offset past the end",
        SUM,
        |d| placed(d, &[("offset", "65")]),
        "lies at byte 65 of 'w.bin', which has 64",
    ),
    row(
        "a length past the end",
        SUM,
        |d| placed(d, &[("length", "65")]),
        "which has 64 bytes",
    ),
    row(
        "an offset and a length whose sum is 8",
        SUM,
        |d| placed(d, &[("offset", "18446744073709551608"), ("length", "16")]),
        "lies at byte 18446744073709551608",
    ),
    row(
        "an offset of 2⁶⁴",
        SUM,
        |d| placed(d, &[("offset", "18446744073709551616")]),
        "is no number",
    ),
    row(
        "a negative offset",
        ATTRIBUTES,
        |d| placed(d, &[("offset", "-64")]),
        "is no number",
    ),
    row(
        "a length in powers of ten",
        ATTRIBUTES,
        |d| placed(d, &[("length", "6.4e1")]),
        "is no number",
    ),
    row(
        "an offset said twice",
        ATTRIBUTES,
        |d| placed(d, &[("offset", "0"), ("offset", "64")]),
        "external offset twice",
    ),
    row(
        "a location said twice",
        ATTRIBUTES,
        |d| placed(d, &[("location", "../victim")]),
        "external location twice",
    ),
    harmless(
        "keys that are a program's own",
        ATTRIBUTES,
        |d| {
            placed(
                d,
                &[("__class__", "x"), ("basepath", ".."), ("location\0", "../victim")],
            )
        },
        "three keys are looked up, and no other does anything",
    ),
    row("..", CLIMBS, |d| located(d, ".."), "outside the model's folder"),
    row(
        "../victim",
        CLIMBS,
        |d| located(d, "../victim"),
        "outside the model's folder",
    ),
    row(
        "an absolute path",
        CLIMBS,
        |d| located(d, "/etc/passwd"),
        "outside the model's folder",
    ),
    row(
        "sub/../../victim",
        HIDDEN,
        |d| {
            std::fs::create_dir(d.join("sub")).unwrap();
            located(d, "sub/../../victim")
        },
        "outside the model's folder",
    ),
    row(
        "./../victim",
        HIDDEN,
        |d| located(d, "./../victim"),
        "outside the model's folder",
    ),
    row("backslashes", HIDDEN, |d| located(d, "..\\victim"), "No such file"),
    row(
        "a NUL in the path",
        HIDDEN,
        |d| located(d, "w.bin\0../victim"),
        "external file 'w.bin",
    ),
    row("no location", CLIMBS, |d| located(d, ""), "outside the model's folder"),
    row(
        "a directory",
        CLIMBS,
        |d| {
            std::fs::create_dir(d.join("sub")).unwrap();
            located(d, "sub")
        },
        "is a directory",
    ),
    row(
        "the model itself",
        OVERWRITES,
        |d| located(d, "model.onnx"),
        "is the model itself",
    ),
    row(
        "a link out of the folder",
        LINKS,
        |d| {
            symlink("../victim", d.join("link")).unwrap();
            located(d, "link")
        },
        "outside the model's folder",
    ),
    row(
        "a linked folder",
        LINKS,
        |d| {
            symlink("..", d.join("sub")).unwrap();
            located(d, "sub/victim")
        },
        "outside the model's folder",
    ),
    row(
        "a link to itself",
        LINKS,
        |d| {
            symlink("link", d.join("link")).unwrap();
            located(d, "link")
        },
        "external file 'link'",
    ),
    harmless(
        "links within a cache",
        LINKS,
        cached,
        "model and numbers are links into one folder, as in Hugging Face's cache",
    ),
    harmless(
        "a hard link",
        "ONNX since 1.21: a second name of a file elsewhere is refused there",
        |d| {
            std::fs::hard_link(d.join("../victim"), d.join("hard")).unwrap();
            located(d, "hard")
        },
        "a hard link is a name like any other, and caches that save space make them; none leads to what its maker could not open",
    ),
    row(
        "a FIFO",
        BLOCKS,
        |d| {
            fifo(&d.join("pipe"));
            located(d, "pipe")
        },
        "not a regular file",
    ),
    row(
        "a device",
        BLOCKS,
        |d| {
            symlink("/dev/zero", d.join("zero")).unwrap();
            located(d, "zero")
        },
        "outside the model's folder",
    ),
    row(
        "a FIFO for the model",
        BLOCKS,
        |d| {
            fifo(&d.join("model.onnx"));
            d.join("model.onnx")
        },
        "not a regular file",
    ),
    row(
        "a device for the model",
        BLOCKS,
        |_| PathBuf::from("/dev/zero"),
        "not a regular file",
    ),
    harmless(
        "two tensors that share bytes",
        "overlap: one payload under two names",
        |d| {
            std::fs::write(d.join("w.bin"), [9; 64]).unwrap();
            write(
                d,
                &[
                    elsewhere(&[("location", "w.bin")]),
                    elsewhere(&[("location", "./w.bin"), ("offset", "0")]),
                ],
            )
        },
        "tied weights are stored so, and reading takes no copy",
    ),
    harmless(
        "numbers at an odd offset",
        "misalignment: loads that fault or tear on ARM",
        |d| {
            std::fs::write(d.join("w.bin"), [9; 67]).unwrap();
            write(
                d,
                &[elsewhere(&[("location", "w.bin"), ("offset", "3"), ("length", "64")])],
            )
        },
        "foreign numbers are read byte by byte and laid out anew",
    ),
    asked(
        Import,
        "a thousand tensors of one long file",
        ALLOCATION,
        |d| {
            std::fs::write(d.join("w.bin"), vec![0; 1 << 20]).unwrap();
            let mut graph = Message::default();
            for n in 0..1000 {
                let mut tensor = tensor(&format!("t{n}"), &[1 << 18]);
                let mut entry = Message::default();
                entry.text(1, "location");
                entry.text(2, "w.bin");
                tensor.message(13, &entry);
                tensor.int(14, 1);
                graph.message(5, &tensor);
            }
            albert_and(d, &graph.0)
        },
        "in other files of 1048576 bytes",
    ),
    asked(
        Import,
        "an axis far from all dimensions",
        HANG,
        |d| normed_along(d, i64::MIN / 2),
        "of up to 64 dimensions",
    ),
    asked(
        Import,
        "a million empty nodes",
        ALLOCATION,
        |d| albert_and(d, &b"\x0a\x00".repeat(1_000_000)),
        "without an operator",
    ),
    Attack {
        name: "a million small nodes",
        imitates: ALLOCATION,
        reader: Import,
        build: |d| albert_and(d, &b"\x0a\x03\x22\x01A".repeat(1_000_000)),
        expect: Read("nodes that no output needs are leftovers of an exporter, and cost no more than is stated"),
    },
    asked(
        Explain,
        "two million small nodes",
        ALLOCATION,
        |d| albert_and(d, &b"\x0a\x03\x22\x01A".repeat(2_000_000)),
        "more than 1048576",
    ),
    row(
        "graphs nested 100,000 deep",
        STACK,
        |d| albert_and(d, &nested(100_000)),
        "graphs nest more than 32 deep",
    ),
    asked(
        Import,
        "graphs nested 100,000 deep",
        STACK,
        |d| albert_and(d, &nested(100_000)),
        "graphs nest more than 32 deep",
    ),
    asked(
        Explain,
        "graphs nested 100,000 deep",
        STACK,
        |d| albert_and(d, &nested(100_000)),
        "nest",
    ),
    asked(
        Dequantize,
        "one tensor dequantized 4000 times",
        ALLOCATION,
        |d| by_many_scales(d, 4000),
        "need tensors of more than",
    ),
    asked(
        Dequantize,
        "4-bit weights of 2⁴⁸ numbers",
        ALLOCATION,
        |d| {
            let sizes = [("K", 1 << 24), ("N", 1 << 24), ("bits", 4), ("block_size", 16)];
            quantized(d, &[node("MatMulNBits", &["x", "q", "s0"], "y", &sizes)], 1)
        },
        "16777216 × 16777216 weights",
    ),
    asked(
        Dequantize,
        "scales along dimension 2⁶³ − 1",
        PRODUCT,
        |d| {
            let axis = [("axis", i64::MAX)];
            quantized(d, &[node("DequantizeLinear", &["q", "q"], "y", &axis)], 0)
        },
        "of up to 64 dimensions",
    ),
    asked(
        Dequantize,
        "a table that is looked up in itself",
        "a cycle that a walk through a graph never leaves",
        |d| {
            let looked = node("Gather", &["g", "g"], "g", &[]);
            quantized(d, &[looked, node("DequantizeLinear", &["g", "s0"], "y", &[])], 1)
        },
        "model.onnx",
    ),
    asked(
        Import,
        "attention over 2⁴⁰ heads",
        ALLOCATION,
        |d| {
            quantized(
                d,
                &[node("Attention", &["x", "q", "q"], "y", &[("num_heads", 1 << 40)])],
                0,
            )
        },
        "heads",
    ),
];
