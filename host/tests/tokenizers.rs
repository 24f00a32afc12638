//! spiece.model and vocab.txt against the slow tokenizers of transformers 4.57: over a thousand texts and two hundred pairs a
//! kind, whole and cut. tests/fixtures/tokenizers/make.py made files and ids.

use flate2::read::GzDecoder;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use thimble::evaluate;
use thimble::inputs::Row;
use thimble::source;
use thimble::subject::Subject;
use thimble::tokenise::Splitter;
use thimble::tokenizer::{self, TokenizerSource};
use thimble::vocabulary;
use thimble_device::engine::{Engine, EngineOptions};
use thimble_shared::model::Config;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(fs::File::open(path).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&unpacked(path)).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn numbers(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The tokenizer of a folder whose spiece.model is compressed.
fn tokenizer(folder: &Path) -> TokenizerSource {
    let plain = TempDir::new().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match name {
            "ids.json.gz" => {}
            "spiece.model.gz" => fs::write(plain.path().join("spiece.model"), unpacked(&path)).unwrap(),
            name => drop(fs::copy(&path, plain.path().join(name)).unwrap()),
        }
    }
    tokenizer::find(plain.path()).unwrap().unwrap()
}

/// The tokenizers and their texts; `THIMBLE_TOKENIZERS` names others that make.py made with another seed.
fn made() -> PathBuf {
    std::env::var_os("THIMBLE_TOKENIZERS").map_or_else(|| fixtures().join("tokenizers"), PathBuf::from)
}

/// Ids found and right, where they differ.
fn compare(differences: &mut Vec<String>, kind: &str, text: &str, found: &[u32], right: &[u32]) {
    if found != right {
        differences.push(format!("{kind} {text:?}\n  found {found:?}\n  right {right:?}"));
    }
}

fn differences(name: &str) -> (usize, Vec<String>) {
    let folder = made();
    let (texts, right) = (
        json(&folder.join("texts.json.gz")),
        json(&folder.join(name).join("ids.json.gz")),
    );
    let made = tokenizer(&folder.join(name)).compact().unwrap();
    let mut splitter = Splitter::new(made.as_bytes()).unwrap();
    let mut differences = Vec::new();
    let mut tried = 0;
    for (text, ids) in strings(&texts["texts"]).iter().zip(numbers(&right["texts"])) {
        let found = splitter.encode(text, None).unwrap();
        compare(&mut differences, "text", text, found.get_ids(), &ids);
        tried += 1;
        for &(start, end) in found.get_offsets() {
            assert!(
                text.get(start..end).is_some(),
                "{text:?}: {start}..{end} is no part of it"
            );
        }
    }
    let pairs: Vec<[String; 2]> = serde_json::from_value(texts["pairs"].clone()).unwrap();
    for (kind, types) in [("pairs", "types"), ("cut", "cut_types")] {
        if kind == "cut" {
            splitter.truncate_to(texts["cut"].as_u64().unwrap() as usize).unwrap();
        }
        let right = numbers(&right[kind]).into_iter().zip(right[types].as_array().unwrap());
        for ([a, b], (ids, ones)) in pairs.iter().zip(right) {
            let found = splitter.encode(a, Some(b)).unwrap();
            compare(&mut differences, kind, &format!("{a} | {b}"), found.get_ids(), &ids);
            let second = found.get_type_ids().iter().filter(|t| **t == 1).count();
            assert!(
                !differences.is_empty() || second as u64 == ones.as_u64().unwrap(),
                "{a} | {b}"
            );
            tried += 1;
        }
    }
    (tried, differences)
}

#[test]
fn ids_are_those_of_the_slow_tokenizers() {
    let mut wrong = Vec::new();
    let mut folders: Vec<_> = fs::read_dir(made())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    folders.sort();
    for name in folders {
        let (tried, found) = differences(&name);
        println!("{name}: {tried} tried, {} otherwise", found.len());
        assert!(tried > 1500, "{name}");
        wrong.extend(found.into_iter().take(4).map(|d| format!("{name}: {d}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn models_as_people_have_them_give_the_ids_of_their_classes() {
    let wild = fixtures().join("wild");
    let expected: Value = serde_json::from_slice(&fs::read(wild.join("expected.json")).unwrap()).unwrap();
    for name in [
        "c01_zh_vocab_only",
        "c02_zh_tokconf",
        "c05_spiece_only",
        "c06_spiece_conf",
    ] {
        let read = source::read(&wild.join(name)).unwrap();
        let tokeniser = read.tokenizer.unwrap().open(&read.config).unwrap();
        let entries = expected.as_object().unwrap();
        let (_, texts) = entries.iter().find(|(key, _)| key.starts_with(name)).unwrap();
        assert_eq!(tokeniser.scarce(), None, "{name}");
        for (text, ids) in texts.as_object().unwrap() {
            let ids: Vec<i64> = serde_json::from_value(ids.clone()).unwrap();
            assert_eq!(tokeniser.encode(text, None).unwrap().ids, ids, "{name}: {text}");
        }
    }
    // A folder that has both keeps to its tokenizer.json.
    let both = source::read(&wild.join("b05_qa_text")).unwrap().tokenizer.unwrap();
    assert!(both.path().ends_with("tokenizer.json"));
}

#[test]
fn a_model_with_a_vocabulary_alone_answers_as_hugging_face_does() {
    let wild = fixtures().join("wild");
    let expected: Value = serde_json::from_slice(&fs::read(wild.join("expected.json")).unwrap()).unwrap();
    let subject = Subject::open(&wild.join("c01_zh_vocab_only")).unwrap();
    let config = subject.config().clone();
    let tokeniser = subject.tokenizer().unwrap().open(&config).unwrap();
    let encoded = tokeniser.encode("今天心情很好 hello", None).unwrap();
    let row = Row::of(&[encoded], tokeniser.pad_id(), false);
    let engine = Engine::new(subject.image().unwrap(), EngineOptions::default()).unwrap();
    let logits = evaluate::run(&engine, &row).unwrap()["logits"].data.clone();
    let right: Vec<f32> = serde_json::from_value(expected["c01: logits of texts[0] by those ids"].clone()).unwrap();
    assert_eq!(logits.len(), right.len());
    for (found, right) in logits.iter().zip(&right) {
        assert!((found - right).abs() < 1e-4, "{found} {right}");
    }
}

#[test]
fn texts_without_known_tokens_and_tokenizers_that_are_too_small_are_told() {
    let wild = fixtures().join("wild");
    let read = source::read(&wild.join("c05_spiece_only")).unwrap();
    let (source, config) = (read.tokenizer.unwrap(), read.config);
    let own = source.open(&config).unwrap();
    let cases = [
        ("今天", true),
        ("☃ ☃", true),
        ("今天 a", false),
        ("", false),
        ("[MASK]", false),
        ("the", false),
    ];
    for (text, unknown) in cases {
        assert_eq!(own.encode(text, None).unwrap().unknown, unknown, "{text}");
    }
    // 500 tokens: rows they are padded to, some more, and another model's.
    let rows = [
        (500, false),
        (504, false),
        (512, false),
        (555, false),
        (1024, false),
        (600, true),
        (30000, true),
    ];
    for (rows, told) in rows {
        let config = Config {
            vocab_size: rows,
            ..config.clone()
        };
        assert_eq!(source.open(&config).unwrap().scarce().is_some(), told, "{rows}");
    }
}

#[test]
fn a_converted_vocabulary_is_cut_to_a_corpus() {
    let folder = TempDir::new().unwrap();
    let corpus = folder.path().join("corpus.txt");
    let texts = "the board (maps) the file\n1,000 files, 9,9,\n[MASK] is a-b\n";
    fs::write(&corpus, texts).unwrap();
    for name in ["symbols", "added", "bert"] {
        let source = tokenizer(&fixtures().join("tokenizers").join(name));
        let cut = vocabulary::cut(&corpus, &source, 1000).unwrap();
        let before = Splitter::new(source.compact().unwrap().as_bytes()).unwrap();
        let after = Splitter::new(cut.tokenizer.as_bytes()).unwrap();
        assert!(
            cut.vocabulary.kept.len() < before.library().get_vocab_size(true),
            "{name}"
        );
        for text in texts.lines() {
            let ids = |splitter: &Splitter| splitter.encode(text, None).unwrap().get_ids().to_vec();
            let kept = |id: u32| cut.vocabulary.kept[id as usize] as u32;
            let old: Vec<u32> = ids(&after).into_iter().map(kept).collect();
            assert_eq!(old, ids(&before), "{name}: {text}");
        }
    }
}

#[test]
fn what_is_no_tokenizer_is_said() {
    let spiece = fs::read(fixtures().join("wild/c05_spiece_only/spiece.model")).unwrap();
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n";
    let text = |s: &str| s.as_bytes().to_vec();
    let cases: [(&[(&str, Vec<u8>)], &str); 9] = [
        (
            &[("spiece.model", spiece[..spiece.len() / 2].to_vec())],
            "does not hold together",
        ),
        (
            &[("spiece.model", text("version https://git-lfs.github.com/spec/v1\n"))],
            "Git LFS pointer",
        ),
        (&[("spiece.model", vec![])], "no pieces"),
        (&[("vocab.txt", text("a\nb\n"))], "has no [UNK], which is its unk_token"),
        (&[("vocab.txt", vec![0xff, 0xfe, b'a'])], "not UTF-8 after byte 0"),
        (
            &[
                ("vocab.txt", text(vocab)),
                (
                    "tokenizer_config.json",
                    text(r#"{"tokenizer_class": "BertJapaneseTokenizer"}"#),
                ),
            ],
            "texts of a BertJapaneseTokenizer are not split here",
        ),
        (
            &[
                ("vocab.txt", text(vocab)),
                ("tokenizer_config.json", text(r#"{"do_lower_case": "no"}"#)),
            ],
            r#"do_lower_case: "no" is neither true nor false"#,
        ),
        (
            &[
                ("spiece.model", spiece.clone()),
                (
                    "tokenizer_config.json",
                    text(r#"{"sp_model_kwargs": {"enable_sampling": true}}"#),
                ),
            ],
            "sp_model_kwargs: enable_sampling is true",
        ),
        (&[("config.json", text("{}"))], "no tokenizer here"),
    ];
    for (files, wanted) in cases {
        let dir = TempDir::new().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let error = tokenizer::named(dir.path()).unwrap_err().to_string();
        assert!(error.contains(wanted) && !error.contains('\n'), "{wanted}: {error}");
    }
}
