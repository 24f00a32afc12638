//! Thousands of damaged ONNX files, each with one thing broken in one kind of its bytes: whatever reads foreign files gives an
//! answer or one error line, soon, in little memory, and never stops the program. Seeds are fixed, so a failure comes again.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thimble::inspect::{explain, html, ledger};
use thimble::models::onnx_import;
use thimble::onnx::OnnxFile;
use thimble::onnx::slim::{SlimOptions, slim};
use thimble::render::text::one_line;
use thimble_shared::onnx::protobuf::Message;
use thimble_shared::random::Random;

/// Enough to be thousands, few enough to be waited for.
const EACH: usize = 8;
/// Every so many cases the whole import is tried, proof and all.
const IMPORTED: usize = 12;
/// Longest a case may take on a machine that does something else as well, and most memory all may have taken at once.
const LONGEST: Duration = Duration::from_secs(30);
const MOST_MEMORY: u64 = 3 << 30;

const SOURCES: [&str; 5] = [
    "mlm_torch1.8_dyn.onnx",
    "seq_torch2.6_half.onnx",
    "seq_torch2.6_static.onnx",
    "seq_torch2.6_sdpa.onnx",
    "qa_torch2.6.onnx",
];

/// One way to damage `bytes` at `at`.
type Damage = fn(&mut Vec<u8>, usize, &mut Random);

const DAMAGES: [(&str, Damage); 10] = [
    ("a bit flipped", |bytes, at, random| bytes[at] ^= 1 << random.below(8)),
    ("a byte of ones", |bytes, at, _| bytes[at] = 0xff),
    ("a byte that goes on", |bytes, at, _| bytes[at] |= 0x80),
    ("a byte of zero", |bytes, at, _| bytes[at] = 0),
    ("another byte", |bytes, at, random| bytes[at] = random.below(256) as u8),
    ("cut off", |bytes, at, _| bytes.truncate(at)),
    ("bytes taken out", |bytes, at, random| {
        let end = (at + 1 + random.below(16)).min(bytes.len());
        bytes.drain(at..end);
    }),
    ("bytes put in", |bytes, at, random| {
        let new: Vec<u8> = (0..1 + random.below(16)).map(|_| random.below(256) as u8).collect();
        bytes.splice(at..at, new);
    }),
    ("a number past all bounds", |bytes, at, _| {
        for (byte, new) in bytes[at..]
            .iter_mut()
            .zip([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])
        {
            *byte = new;
        }
    }),
    ("bytes from elsewhere", |bytes, at, random| {
        let (from, len) = (random.below(bytes.len()), 1 + random.below(48));
        let chunk: Vec<u8> = bytes[from..].iter().take(len).copied().collect();
        for (byte, new) in bytes[at..].iter_mut().zip(chunk) {
            *byte = new;
        }
    }),
];

fn tensor(name: &str, data_type: i64, dims: &[i64]) -> Message {
    let mut m = Message::default();
    m.packed(1, dims);
    m.int(2, data_type);
    m.text(8, name);
    m
}

fn external(name: &str, location: &str, offset: &str) -> Message {
    let mut m = tensor(name, 1, &[4, 4]);
    for (key, value) in [("location", location), ("offset", offset), ("length", "64")] {
        let mut entry = Message::default();
        entry.text(1, key);
        entry.text(2, value);
        m.message(13, &entry);
    }
    m.int(14, 1);
    m
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Message]) -> Message {
    let mut m = Message::default();
    inputs.iter().for_each(|i| m.text(1, i));
    outputs.iter().for_each(|o| m.text(2, o));
    m.text(4, op);
    attributes.iter().for_each(|a| m.message(5, a));
    m
}

fn attribute(name: &str, number: u32, value: &Message) -> Message {
    let mut m = Message::default();
    m.text(1, name);
    m.message(number, value);
    m
}

fn port(name: &str) -> Message {
    let mut dim = Message::default();
    dim.int(1, 4);
    let (mut shape, mut kind, mut declared, mut m) = <(Message, Message, Message, Message)>::default();
    shape.message(1, &dim);
    shape.message(1, &dim);
    kind.int(1, 1);
    kind.message(2, &shape);
    declared.message(1, &kind);
    m.text(1, name);
    m.message(2, &declared);
    m
}

/// A file with what no exporter's file has: external and shared data, sparse tensors, a function, a branch, text.
fn strange(location: &str) -> Vec<u8> {
    let raw = |mut m: Message, bytes: &[u8]| {
        m.bytes(9, bytes);
        m
    };
    let mut text = tensor("words", 8, &[2]);
    text.text(6, "one");
    text.text(6, "two");
    let mut typed = tensor("typed", 3, &[4]);
    typed.packed(5, &[-1, 2, -3, 4]);
    let (mut sparse, mut branch, mut function) = <(Message, Message, Message)>::default();
    sparse.message(1, &raw(tensor("sparse", 1, &[2]), &[1; 8]));
    sparse.message(2, &raw(tensor("", 7, &[2]), &[0; 16]));
    sparse.packed(3, &[4, 4]);
    branch.message(1, &node("MatMul", &["h", "a"], &["inner"], &[]));
    branch.message(5, &raw(tensor("own", 1, &[4, 4]), &[3; 64]));
    branch.message(12, &port("inner"));
    let constant = |name: &str| {
        let value = attribute("value", 5, &raw(tensor("", 1, &[4, 4]), &[5; 64]));
        node("Constant", &[], &[name], &[value])
    };
    function.text(1, "f");
    function.text(4, "v");
    function.text(5, "w");
    function.message(7, &constant("c"));
    function.message(7, &node("MatMul", &["v", "c"], &["w"], &[]));
    let mut graph = Message::default();
    let branches = [
        attribute("then_branch", 6, &branch),
        attribute("else_branch", 6, &branch),
    ];
    for node in [
        constant("k1"),
        constant("k2"),
        node("MatMul", &["x", "a"], &["g"], &[]),
        node("Sum", &["g", "k1", "k2", "b", "sparse"], &["h"], &[]),
        node("If", &["typed"], &["i"], &branches),
        node("Identity", &["i"], &["j"], &[]),
        node("Add", &["j", "c"], &["y"], &[]),
    ] {
        graph.message(1, &node);
    }
    for tensor in [
        external("a", location, "0"),
        external("b", "w.bin", "0"),
        external("c", "./w.bin", "32"),
        text,
        typed,
    ] {
        graph.message(5, &tensor);
    }
    graph.message(15, &sparse);
    graph.message(11, &port("x"));
    graph.message(12, &port("y"));
    graph.message(13, &port("g"));
    let (mut opset, mut model) = <(Message, Message)>::default();
    opset.int(2, 17);
    model.int(1, 8);
    model.message(8, &opset);
    model.message(7, &graph);
    model.message(25, &function);
    model.0
}

/// Reads the file in every way; what is said when it cannot be read is one line that names the file.
fn read(path: &Path, proof: bool) -> Result<usize, String> {
    let mut errors = Vec::new();
    match explain(path) {
        Ok(explanation) => {
            let page = html::page(&explanation, Some(1 << 20));
            assert!(page.ends_with("</html>"));
            let account = &explanation.account;
            assert_eq!(account.causes.values().sum::<u64>(), account.total());
        }
        Err(e) => errors.push(anyhow::Error::from(e)),
    }
    match OnnxFile::open(path) {
        Ok(file) => {
            let short = SlimOptions {
                short_names: true,
                one_file: true,
                ..SlimOptions::default()
            };
            for options in [SlimOptions::default(), short] {
                match slim(&file, &options, "out.onnx.data") {
                    Ok(slimmed) => {
                        let bytes: usize = slimmed.model.pieces.iter().map(|p| p.len()).sum();
                        assert_eq!(bytes as u64, slimmed.model.len);
                    }
                    Err(e) => errors.push(e.into()),
                }
            }
        }
        Err(e) => errors.push(e.into()),
    }
    if proof && let Err(e) = onnx_import::open(path) {
        errors.push(e.into());
    }
    for error in &errors {
        let line = one_line(error.as_ref());
        if line.contains('\n') || !line.contains("damaged.onnx") || line.len() > 8000 {
            return Err(format!("says: {line}"));
        }
    }
    Ok(errors.len())
}

/// The most memory this program has had mapped at once.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_damaged_file_is_read_or_refused_in_one_line() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/exported");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("w.bin"), [9; 96]).unwrap();
    let path: PathBuf = dir.path().join("damaged.onnx");
    let mut sources: Vec<(&str, Vec<u8>)> = SOURCES
        .iter()
        .map(|name| (*name, std::fs::read(fixtures.join(name)).unwrap()))
        .collect();
    sources.push(("strange", strange("w.bin")));
    let before = peak();
    let (mut failures, mut cases, mut refused) = (String::new(), 0, 0);
    for (name, whole) in &sources {
        let spans = ledger::spans(whole).unwrap();
        let mut causes: Vec<ledger::Cause> = spans.iter().map(|s| s.cause).collect();
        causes.sort();
        causes.dedup();
        for cause in causes {
            let places: Vec<usize> = spans
                .iter()
                .filter(|s| s.cause == cause)
                .flat_map(|s| s.range.clone())
                .collect();
            for (what, damage) in DAMAGES {
                for seed in 0..EACH {
                    let mut random = Random((cases as u64) << 20 | seed as u64);
                    let mut bytes = whole.clone();
                    damage(&mut bytes, places[random.below(places.len())], &mut random);
                    std::fs::write(&path, &bytes).unwrap();
                    let start = Instant::now();
                    let result = catch_unwind(AssertUnwindSafe(|| read(&path, cases % IMPORTED == 0)));
                    let case = format!("{name}, {what} in {cause:?}, case {cases}");
                    match result {
                        Ok(Ok(errors)) => refused += usize::from(errors > 0),
                        Ok(Err(line)) => writeln!(failures, "{case}: {line}").unwrap(),
                        Err(_) => writeln!(failures, "{case}: panics").unwrap(),
                    }
                    if start.elapsed() > LONGEST {
                        writeln!(failures, "{case}: takes {:?}", start.elapsed()).unwrap();
                    }
                    cases += 1;
                }
            }
        }
    }
    assert!(failures.is_empty(), "of {cases} damaged files:\n{failures}");
    assert!(cases > 2000 && refused > cases / 4, "{cases} cases, {refused} refused");
    assert!(peak() - before < MOST_MEMORY, "{} bytes of memory", peak() - before);
}

#[test]
fn external_data_is_read_from_the_model_s_folder_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("w.bin"), [9; 96]).unwrap();
    let path = dir.path().join("damaged.onnx");
    let long = "x".repeat(5000);
    let cases = [
        ("w.bin", None),
        ("./w.bin", None),
        ("../damaged/w.bin", Some("outside")),
        ("/etc/hostname", Some("outside")),
        ("gone.bin", Some("gone.bin")),
        ("", Some("outside")),
        ("w.bin\0", Some("'a'")),
        ("damaged.onnx", Some("itself")),
        (long.as_str(), Some("'a'")),
    ];
    for (location, problem) in cases {
        std::fs::write(&path, strange(location)).unwrap();
        let account = explain(&path).unwrap().account;
        // Both spellings of the data are one file, and each of its bytes counts once.
        assert_eq!(account.files.len(), 2, "{location}");
        assert_eq!(account.files[1].bytes, 96);
        let file = OnnxFile::open(&path).unwrap();
        let slimmed = slim(&file, &SlimOptions::default(), "out.onnx.data");
        match problem {
            None => assert!(slimmed.is_ok(), "{location}"),
            Some(word) => {
                assert!(
                    account.notes.iter().any(|n| n.contains(word)),
                    "{location}: {:?}",
                    account.notes
                );
                let Err(error) = slimmed else {
                    panic!("'{location}' is read")
                };
                let line = one_line(&error);
                assert!(line.contains(word) && line.contains("'a'"), "{line}");
            }
        }
    }
}
