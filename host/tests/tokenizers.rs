//! spiece.model and vocab.txt against the slow tokenizers of transformers 4.57: over a thousand texts and two hundred pairs a
//! kind, whole and cut. tests/fixtures/tokenizers/make.py made files and ids.

#[path = "../../tests/support/mod.rs"]
mod support;

use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use thimble::eval::dataset::Row;
use thimble::eval::runner;
use thimble::models::checkpoint;
use thimble::models::model_file::ModelSource;
use thimble::models::tokenizer::{self, TokenizerSource};
use thimble::models::tokenizer_json::Splitter;
use thimble::quantize::vocabulary;
use thimble_device::engine::{Engine, EngineOptions};
use thimble_shared::model::{Config, Head};

fn fixtures() -> PathBuf {
    support::fixture("")
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(fs::File::open(path).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

fn unpacked_json(path: &Path) -> Value {
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
        unpacked_json(&folder.join("texts.json.gz")),
        unpacked_json(&folder.join(name).join("ids.json.gz")),
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
        let read = checkpoint::read(&wild.join(name)).unwrap();
        let tokenizer = read.tokenizer.unwrap().open(&read.config).unwrap();
        let entries = expected.as_object().unwrap();
        let (_, texts) = entries.iter().find(|(key, _)| key.starts_with(name)).unwrap();
        assert_eq!(tokenizer.scarce(), None, "{name}");
        for (text, ids) in texts.as_object().unwrap() {
            let ids: Vec<i64> = serde_json::from_value(ids.clone()).unwrap();
            assert_eq!(tokenizer.encode(text, None).unwrap().ids, ids, "{name}: {text}");
        }
    }
    // A folder that has both keeps to its tokenizer.json.
    let both = checkpoint::read(&wild.join("b05_qa_text")).unwrap().tokenizer.unwrap();
    assert!(both.path().ends_with("tokenizer.json"));
}

#[test]
fn a_model_with_a_vocabulary_alone_answers_as_hugging_face_does() {
    let wild = fixtures().join("wild");
    let expected: Value = serde_json::from_slice(&fs::read(wild.join("expected.json")).unwrap()).unwrap();
    let subject = ModelSource::open(&wild.join("c01_zh_vocab_only")).unwrap();
    let config = subject.config().clone();
    let tokenizer = subject.tokenizer().unwrap().open(&config).unwrap();
    let encoded = tokenizer.encode("今天心情很好 hello", None).unwrap();
    let row = Row::of(&[encoded], tokenizer.pad_id(), false);
    let engine = Engine::new(subject.image().unwrap(), EngineOptions::default()).unwrap();
    let logits = runner::run(&engine, &row).unwrap()["logits"].data.clone();
    let right: Vec<f32> = serde_json::from_value(expected["c01: logits of texts[0] by those ids"].clone()).unwrap();
    assert_eq!(logits.len(), right.len());
    for (found, right) in logits.iter().zip(&right) {
        assert!((found - right).abs() < 1e-4, "{found} {right}");
    }
}

#[test]
fn texts_without_known_tokens_and_tokenizers_that_are_too_small_are_told() {
    let wild = fixtures().join("wild");
    let read = checkpoint::read(&wild.join("c05_spiece_only")).unwrap();
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
        let encoded = own.encode(text, None).unwrap();
        assert_eq!((encoded.unknown, encoded.empty), (unknown, text.is_empty()), "{text}");
    }
    for (text, pair, empty) in [("  \n", None, true), ("the", Some(""), true), ("the", Some("a"), false)] {
        assert_eq!(own.encode(text, pair).unwrap().empty, empty, "{text:?} {pair:?}");
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

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn ids_of(source: &TokenizerSource, text: &str) -> Vec<u32> {
    let splitter = Splitter::new(source.compact().unwrap().as_bytes()).unwrap();
    splitter.encode(text, None).unwrap().get_ids().to_vec()
}

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nbert\nBert\ncafe\ncafé\nCafé\n北\n京\n北京\n##京\n";
const TEXT: &str = "Bert Café 北京";
const LOWER: &[u32] = &[2, 5, 7, 10, 11, 3];
const CASED: &[u32] = &[2, 6, 9, 10, 11, 3];

/// BertTokenizer of transformers 4.57 gives these ids.
#[test]
fn options_are_true_where_python_has_them_true() {
    let (joined, accents): (&[u32], &[u32]) = (&[2, 5, 7, 12, 3], &[2, 5, 8, 10, 11, 3]);
    let cases = [
        ("{}", LOWER),
        (r#"{"do_lower_case": null}"#, CASED),
        (r#"{"do_lower_case": 0}"#, CASED),
        (r#"{"do_lower_case": 1}"#, LOWER),
        (r#"{"tokenize_chinese_chars": null}"#, joined),
        (r#"{"tokenize_chinese_chars": 0}"#, joined),
        (r#"{"strip_accents": null}"#, LOWER),
        (r#"{"strip_accents": false}"#, accents),
        (r#"{"strip_accents": 0}"#, LOWER),
        (r#"{"strip_accents": 1, "do_lower_case": 0}"#, &[2, 6, 1, 10, 11, 3]),
        (r#"{"strip_accents": 0, "do_lower_case": false}"#, CASED),
        (r#"{"do_basic_tokenize": null}"#, &[2, 6, 9, 12, 3]),
        (r#"{"model_max_length": Infinity, "do_lower_case": false}"#, CASED),
    ];
    for (config, wanted) in cases {
        let dir = folder(&[
            ("vocab.txt", VOCAB.as_bytes()),
            ("tokenizer_config.json", config.as_bytes()),
        ]);
        let source = tokenizer::find(dir.path()).unwrap().unwrap();
        assert_eq!(ids_of(&source, TEXT), wanted, "{config}");
    }
}

/// AutoTokenizer of transformers 4.57 gives these ids with a tokenizer.json that lower-cases, and with one that does not.
#[test]
fn the_options_of_a_fast_bert_tokenizer_go_before_its_file() {
    let file = |lowers: bool| {
        let vocab = VOCAB
            .lines()
            .zip(0..)
            .map(|(token, id)| (token.to_string(), Value::from(id)));
        let special = |token: &str, id: u32| (token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]}));
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": lowers},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": Map::from_iter([special("[CLS]", 2), special("[SEP]", 3)])},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": Map::from_iter(vocab)},
        })
        .to_string()
    };
    let (lowers, keeps) = (file(true), file(false));
    let cases: [(&str, &[u32], &[u32]); 12] = [
        (r#"{"tokenizer_class": "BertTokenizer"}"#, LOWER, LOWER),
        (
            r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": false}"#,
            CASED,
            CASED,
        ),
        (
            r#"{"tokenizer_class": "BertTokenizerFast", "do_lower_case": true}"#,
            LOWER,
            LOWER,
        ),
        (
            r#"{"tokenizer_class": "BertTokenizer", "strip_accents": false}"#,
            &[2, 5, 8, 10, 11, 3],
            &[2, 5, 8, 10, 11, 3],
        ),
        (
            r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": false, "strip_accents": true}"#,
            &[2, 6, 1, 10, 11, 3],
            &[2, 6, 1, 10, 11, 3],
        ),
        (
            r#"{"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": false}"#,
            &[2, 5, 7, 12, 3],
            &[2, 5, 7, 12, 3],
        ),
        (
            r#"{"tokenizer_class": "DistilBertTokenizer", "do_lower_case": false}"#,
            CASED,
            CASED,
        ),
        (
            r#"{"tokenizer_class": "ElectraTokenizer", "do_lower_case": false}"#,
            CASED,
            CASED,
        ),
        (
            r#"{"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": false}"#,
            LOWER,
            CASED,
        ),
        (
            r#"{"tokenizer_class": "AlbertTokenizer", "do_lower_case": false}"#,
            LOWER,
            CASED,
        ),
        (
            r#"{"tokenizer_class": "BertJapaneseTokenizer", "do_lower_case": false}"#,
            LOWER,
            CASED,
        ),
        (r#"{"do_lower_case": false}"#, LOWER, CASED),
    ];
    for (config, of_lowers, of_keeps) in cases {
        for (json, wanted) in [(&lowers, of_lowers), (&keeps, of_keeps)] {
            let dir = folder(&[
                ("tokenizer.json", json.as_bytes()),
                ("tokenizer_config.json", config.as_bytes()),
            ]);
            let whole = tokenizer::named(dir.path()).unwrap();
            assert_eq!(ids_of(&whole, TEXT), wanted, "{config}");
            let file = tokenizer::named(&dir.path().join("tokenizer.json")).unwrap();
            assert_eq!(file, whole, "{config}");
            let changed = wanted != if std::ptr::eq(json, &lowers) { LOWER } else { CASED };
            assert!(!changed || whole.note().is_some(), "{config}");
        }
    }
}

#[test]
fn masks_are_known_by_the_id_that_the_files_give_them() {
    let added = |id: u32, token: &str| {
        let token_of = json!({"content": token, "special": true});
        json!({"added_tokens_decoder": {id.to_string(): token_of}, "mask_token": token}).to_string()
    };
    let without = VOCAB.replace("[MASK]\n", "");
    let config = Config {
        vocab_size: 600,
        ..checkpoint::read(&fixtures().join("wild/c05_spiece_only"))
            .unwrap()
            .config
    };
    // Ids and mask ids of BertTokenizer.
    let cases: [(&str, String, &str, &str, &[i64]); 4] = [
        (VOCAB, "{}".into(), "[MASK]", "北[MASK]京", &[2, 10, 4, 11, 3]),
        (
            &without,
            added(500, "[MASK]"),
            "[MASK]",
            "北[MASK]京",
            &[2, 9, 500, 10, 3],
        ),
        (VOCAB, added(7, "<m>"), "<m>", "北<m>京", &[2, 10, 7, 11, 3]),
        (&without, "{}".into(), "[MASK]", "北[MASK]京", &[2, 9, 13, 10, 3]),
    ];
    for (vocab, options, mask, text, ids) in cases {
        let dir = folder(&[
            ("vocab.txt", vocab.as_bytes()),
            ("tokenizer_config.json", options.as_bytes()),
        ]);
        let tokenizer = tokenizer::named(dir.path()).unwrap().open(&config).unwrap();
        assert_eq!(tokenizer.encode(text, None).unwrap().ids, ids, "{options}");
        assert_eq!(tokenizer.mask(), Some((mask, ids[2])), "{options}");
        assert_eq!(tokenizer.token(ids[2]).as_deref(), Some(mask), "{options}");
    }
}

/// AlbertTokenizer and BertTokenizer put what the vocabulary lacks behind it.
#[test]
fn special_tokens_that_a_vocabulary_lacks_come_behind_it() {
    let mut spiece = fs::read(fixtures().join("wild/c05_spiece_only/spiece.model")).unwrap();
    for at in 0..spiece.len() - 5 {
        if [&b"[CLS]"[..], b"[SEP]"].contains(&&spiece[at..at + 5]) {
            (spiece[at], spiece[at + 4]) = (b'(', b')');
        }
    }
    let vocab = VOCAB.replace("[CLS]\n", "").replace("[SEP]\n", "");
    let cases: [(&str, &[u8], &str, &[u32], &str); 2] = [
        (
            "spiece.model",
            &spiece,
            "The board [MASK]",
            &[500, 10, 75, 4, 501],
            "[CLS] gets the id 500, [SEP] gets the id 501",
        ),
        (
            "vocab.txt",
            vocab.as_bytes(),
            "bert",
            &[13, 3, 12],
            "[CLS] gets the id 13, [SEP] gets the id 12",
        ),
    ];
    for (name, bytes, text, ids, note) in cases {
        let dir = folder(&[(name, bytes)]);
        let source = tokenizer::named(dir.path()).unwrap();
        assert_eq!(ids_of(&source, text), ids, "{name}");
        assert!(source.note().unwrap().contains(note), "{name}: {:?}", source.note());
    }
}

#[test]
fn a_tokenizer_json_that_splits_otherwise_than_the_spiece_model_beside_it_is_told() {
    let symbols = unpacked(&fixtures().join("tokenizers/symbols/spiece.model.gz"));
    let file = |special: bool| {
        let added = json!({"id": 5, "content": "(", "special": special, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false});
        json!({"added_tokens": [added], "model": {"type": "WordLevel", "vocab": {"(": 5}, "unk_token": "("}})
            .to_string()
    };
    let plain = fs::read(fixtures().join("wild/c05_spiece_only/spiece.model")).unwrap();
    for (json, spiece, told) in [
        (file(false), &symbols, true),
        (file(true), &symbols, false),
        (file(false), &plain, false),
    ] {
        let dir = folder(&[("tokenizer.json", json.as_bytes()), ("spiece.model", spiece)]);
        let found = tokenizer::find(dir.path()).unwrap().unwrap();
        assert!(found.path().ends_with("tokenizer.json"));
        let note = found.note().unwrap_or_default();
        assert_eq!(
            note.contains("--tokenizer") && note.ends_with("spiece.model"),
            told,
            "{note}"
        );
    }
}

/// Lengths and ids are those of AlbertTokenizerFast with `max_length=32, stride=16`, which the pipeline asks for.
#[test]
fn a_tokenizer_s_own_length_cuts_contexts_and_travels() {
    let context = "the perl module to parse dates and the files of the board with budget on disk in many ways that were not \
        known before we had a look at it and more words follow here to make it longer than thirty two tokens";
    let first = [
        2, 549, 343, 6, 1, 3, 7, 119, 50, 13, 343, 2029, 10, 7, 61, 15, 7, 3598, 22, 1781, 24, 1215, 37, 487, 17, 258,
        243, 6, 27, 1316, 106, 3,
    ];
    let deb = fixtures().join("albert-deb");
    let with_head = |head: Head| Config {
        head,
        ..checkpoint::read(&deb).unwrap().config
    };
    for name in ["tokenizer.json", "spiece.model"] {
        let bytes = fs::read(deb.join(name)).unwrap();
        for (length, wanted) in [
            ("32", vec![32, 32, 32, 30]),
            ("32.0", vec![32, 32, 32, 30]),
            ("1e30", vec![0]),
        ] {
            let options = format!(r#"{{"tokenizer_class": "AlbertTokenizer", "model_max_length": {length}}}"#);
            let dir = folder(&[(name, &bytes), ("tokenizer_config.json", options.as_bytes())]);
            let travelled = dir.path().join("m.tokenizer.json");
            fs::write(&travelled, tokenizer::named(dir.path()).unwrap().compact().unwrap()).unwrap();
            let source = tokenizer::named(&travelled).unwrap();
            let asking = source.open(&with_head(Head::QuestionAnswering)).unwrap();
            let windows = asking.windows("what parses?", context).unwrap();
            let lengths: Vec<usize> = windows.iter().map(|w| w.ids.len()).collect();
            if wanted.len() > 1 {
                assert_eq!(lengths, wanted, "{name} {length}");
                assert_eq!(windows[0].ids, first, "{name} {length}");
            } else {
                assert_eq!(lengths.len(), 1, "{name} {length}");
            }
            for (head, cut) in [(Head::TokenClassification, wanted.len() > 1), (Head::MaskedLm, false)] {
                let encoded = source.open(&with_head(head)).unwrap().encode(context, None).unwrap();
                assert_eq!(encoded.truncated, cut, "{name} {length} {head:?}");
            }
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
