//! Input files as users write them, and a table of spoilt ones with the words each error must contain.

use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use thimble::eval::dataset::{self, Dataset, Row, made_up};
use thimble::models::checkpoint;
use thimble::models::tokenizer;
use thimble_shared::model::Config;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

fn config(name: &str) -> Config {
    checkpoint::read(&fixture(name)).unwrap().config
}

fn read(name: &str, text: &str) -> Result<Dataset, String> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("x.jsonl");
    fs::write(&file, text).unwrap();
    let tokenizer = tokenizer::find(&fixture(name)).unwrap();
    dataset::load(Some(&file), &config(name), tokenizer.as_ref(), None).map_err(|e| e.to_string())
}

#[test]
fn lines_of_every_kind_are_read() {
    let text = "{\"text\": \"a library\", \"label\": 3}\n\n{\"text\": \"a\", \"text_pair\": \"b\", \"label\": \"rust\", \"id\": 9}\r\n\
                {\"input_ids\": [2, 7, 3], \"token_type_ids\": [0, 0, 1]}";
    let inputs = read("albert-deb", text).unwrap();
    let labels: Vec<_> = inputs.rows.iter().map(|r| r.labels.clone()).collect();
    assert_eq!(labels, [Some(vec![3]), Some(vec![9]), None]);
    assert_eq!(inputs.rows[1].token_type_ids.iter().sum::<i64>(), 2);
    assert_eq!(
        inputs.rows[2],
        Row {
            token_type_ids: vec![0, 0, 1],
            ..Row::sequence(&[2, 7, 3])
        }
    );
    let tags = read(
        "albert-tok-tiny",
        r#"{"input_ids": [2, 7, 3], "labels": [-100, "LABEL_4", -100]}"#,
    )
    .unwrap();
    assert_eq!(tags.rows[0].labels, Some(vec![-100, 4, -100]));
    let values = read("answers/values", r#"{"input_ids": [2, 3], "label": [1, 2.5, -3.0]}"#).unwrap();
    assert_eq!(values.rows[0].targets, Some(vec![1.0, 2.5, -3.0]));
    assert_eq!(values.rows[0].labels, None);
    for one in ["answers/one", "answers/one_regression"] {
        let inputs = read(one, "{\"input_ids\": [2, 3], \"label\": 3.7}\n{\"input_ids\": [2, 3]}").unwrap();
        let targets: Vec<_> = inputs.rows.iter().map(|r| r.targets.clone()).collect();
        assert_eq!(targets, [Some(vec![3.7]), None]);
    }
    let choice = read(
        "albert-choice-tiny",
        r#"{"input_ids": [[2, 7, 3], [2, 3, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]], "label": 1}"#,
    );
    let choice = choice.unwrap();
    assert_eq!(
        (
            choice.rows[0].shape.as_slice(),
            choice.rows[0].attention_mask.as_slice()
        ),
        (&[1, 2, 3][..], &[1, 1, 1, 1, 1, 0][..])
    );
    // A batch of one is the row; a bare model's labels say nothing.
    let hidden = read("albert-tiny-groups", r#"{"input_ids": [[2, 7, 3]], "label": 1}"#).unwrap();
    assert_eq!(hidden.rows, [Row::sequence(&[2, 7, 3])]);
}

#[test]
fn spoilt_lines_name_file_line_and_field() {
    let cases = [
        ("albert-deb", "", "x.jsonl: no inputs in it"),
        (
            "albert-deb",
            "{\"text\": \"a\"}\n{\"text\": 7}",
            "x.jsonl, line 2: \"text\" must be a string",
        ),
        ("albert-deb", "[1]", "line 1: is no JSON object"),
        ("albert-deb", "{", "line 1: invalid JSON"),
        (
            "albert-deb",
            "{\"txt\": \"a\"}",
            "line 1: has neither \"text\" nor \"input_ids\"",
        ),
        (
            "albert-deb",
            "{\"text\": \"a\", \"label\": \"cobol\"}",
            "label 'cobol' is not one of the model's: admin, ",
        ),
        (
            "albert-deb",
            "{\"text\": \"a\", \"label\": 12}",
            "label 12 is not one of 0 to 11",
        ),
        (
            "albert-deb",
            "{\"text\": \"a\", \"label\": 0.5}",
            "label 0.5 must be a whole number",
        ),
        (
            "albert-deb",
            "{\"text\": \"a\", \"label\": [1, 2]}",
            "2 labels, the sequence classification head takes 1",
        ),
        (
            "answers/values",
            "{\"input_ids\": [2, 3], \"label\": [1, \"high\", 0]}",
            "label \"high\" must be a number",
        ),
        (
            "answers/values",
            "{\"input_ids\": [2, 3], \"label\": 1.5}",
            "1 values are given as labels, the model has 3",
        ),
        (
            "answers/one_regression",
            "{\"input_ids\": [2, 3], \"label\": 1e39}",
            "label inf is beyond f32",
        ),
        ("albert-deb", "{\"input_ids\": []}", "it has no tokens"),
        (
            "albert-deb",
            "{\"input_ids\": [4000]}",
            "input_ids[0] is 4000, must be 0 to 3999",
        ),
        ("albert-deb", "{\"input_ids\": [-1]}", "input_ids[0] is -1"),
        (
            "albert-deb",
            "{\"input_ids\": [2.5]}",
            "input_ids: 2.5 is not an integer",
        ),
        (
            "albert-deb",
            "{\"input_ids\": 5}",
            "input_ids must be a list of integers",
        ),
        ("albert-deb", "{\"input_ids\": [[1], [2]]}", "its shape is [1, 2, 1]"),
        ("albert-deb", "{\"input_ids\": [[1], [2, 3]]}", "equally long"),
        (
            "albert-deb",
            "{\"input_ids\": [2, 3], \"attention_mask\": [1]}",
            "attention_mask has shape [1], input_ids [2]",
        ),
        (
            "albert-deb",
            "{\"input_ids\": [2], \"attention_mask\": [2]}",
            "attention_mask[0] is 2, must be 0 to 1",
        ),
        (
            "albert-deb",
            "{\"input_ids\": [2], \"token_type_ids\": [2]}",
            "token_type_ids[0] is 2",
        ),
        (
            "albert-seq-tiny",
            "{\"text\": \"a\"}",
            "line 1: a text needs a tokenizer beside the model",
        ),
        (
            "albert-choice-tiny",
            "{\"text\": \"a\"}",
            "multiple choice needs \"choices\"",
        ),
        (
            "albert-choice-tiny",
            "{\"input_ids\": [2, 3]}",
            "one input of this model has 3 dimensions",
        ),
    ];
    for (name, text, want) in cases {
        let message = read(name, text).expect_err(want);
        assert!(message.contains(want), "expected: {want}\nfound: {message}");
    }
    let long = json!({"input_ids": vec![5; 129]}).to_string();
    assert!(
        read("albert-deb", &long)
            .unwrap_err()
            .contains("129 tokens, the model's positions end at 128")
    );
}

#[test]
fn golden_files_are_inputs() {
    // Two rows of 12 tokens, three of 9, one of 16; multiple choice takes each as the choices of one question.
    for (name, rows) in [
        ("albert-seq-tiny", 6),
        ("albert-mlm-tiny", 6),
        ("albert-choice-tiny", 0),
    ] {
        let config = config(name);
        let file = fixture(name).join("golden.safetensors");
        let inputs = dataset::load(Some(&file), &config, None, None).unwrap();
        if rows > 0 {
            assert_eq!(inputs.rows.len(), rows, "{name}");
            let real: Vec<i64> = inputs.rows.iter().map(|r| r.attention_mask.iter().sum()).collect();
            assert_eq!(real, [12, 7, 9, 5, 2, 12], "{name}: cases in order of name");
        } else {
            assert!(inputs.rows.iter().all(|r| r.shape.len() == 3), "{name}");
        }
        inputs.rows.iter().for_each(|r| r.check(&config).unwrap());
        let fewer = dataset::load(Some(&file), &config, None, Some(2)).unwrap();
        assert_eq!(fewer.rows.len(), inputs.rows.len().min(2));
    }
}

#[test]
fn inputs_without_a_real_token_are_left_out() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("x.jsonl");
    let masked = r#"{"input_ids": [2, 9, 3], "attention_mask": [0, 0, 0]}"#;
    let real = r#"{"input_ids": [2, 9, 3], "attention_mask": [0, 1, 0]}"#;
    let cases = [
        (vec![real], Ok((1, 0))),
        (vec![masked, real, masked], Ok((1, 2))),
        (vec![masked, masked], Err("in each of its 2 inputs")),
    ];
    for (lines, want) in cases {
        fs::write(&file, lines.join("\n")).unwrap();
        match (dataset::load(Some(&file), &config("albert-deb"), None, None), want) {
            (Ok(inputs), Ok((rows, left_out))) => {
                assert_eq!((inputs.rows.len(), inputs.masked), (rows, left_out), "{lines:?}");
                assert_eq!(inputs.warnings().len(), left_out.min(1), "{:?}", inputs.warnings());
            }
            (Err(e), Err(said)) => assert!(e.to_string().contains(said), "{e}"),
            (found, _) => panic!("{lines:?}: {found:?}"),
        }
    }
}

#[test]
fn the_rows_taken_do_not_depend_on_how_a_file_is_sorted() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("x.jsonl");
    let classes: [(&str, fn(usize) -> usize); 3] = [
        ("alternating", |i| i % 2),
        ("sorted", |i| i / 50),
        ("in fours", |i| i % 4 / 2),
    ];
    for (order, class) in classes {
        let line = |i: usize| format!("{{\"input_ids\": [2, {}, 3]}}\n", 10 + class(i));
        fs::write(&file, (0..100).map(line).collect::<String>()).unwrap();
        let taken = dataset::load(Some(&file), &config("albert-deb"), None, Some(40)).unwrap();
        let first = taken.rows.iter().filter(|r| r.input_ids[1] == 10).count();
        assert!(
            (8..=32).contains(&first),
            "{order}: {first} of 40 rows are of the first kind"
        );
        assert_eq!(
            taken,
            dataset::load(Some(&file), &config("albert-deb"), None, Some(40)).unwrap()
        );
    }
}

#[test]
fn made_up_rows_fit_any_model_and_repeat() {
    for name in [
        "albert-deb",
        "albert-choice-tiny",
        "albert-mlm-tiny",
        "albert-tiny-groups",
    ] {
        let mut config = config(name);
        let inputs = dataset::load(None, &config, None, Some(20)).unwrap();
        assert_eq!((inputs.given, inputs.rows.len()), (false, 20));
        assert_eq!(inputs, dataset::load(None, &config, None, Some(20)).unwrap());
        inputs.rows.iter().for_each(|r| r.check(&config).unwrap());
        assert!(inputs.rows.iter().any(|r| r.token_type_ids.contains(&1)));
        // Smallest models still get inputs.
        (
            config.vocab_size,
            config.max_position_embeddings,
            config.type_vocab_size,
        ) = (3, 1, 1);
        made_up(&config, 8, 1).iter().for_each(|r| r.check(&config).unwrap());
    }
}
