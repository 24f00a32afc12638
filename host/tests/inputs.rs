//! Input files as users write them, and a table of spoilt ones with the words each error must contain.

#[path = "../../tests/support/mod.rs"]
mod support;

use serde_json::json;
use std::fs;
use support::fixture;
use tempfile::TempDir;
use thimble::eval::columns::Columns;
use thimble::eval::dataset::{self, Dataset, Row, RowOptions, made_up};
use thimble::eval::records::Form;
use thimble::models::checkpoint;
use thimble::models::tokenizer;
use thimble_shared::model::Config;

fn config(name: &str) -> Config {
    checkpoint::read(&fixture(name)).unwrap().config
}

fn read(name: &str, text: &str) -> Result<Dataset, String> {
    read_bytes(name, text.as_bytes(), &RowOptions::default())
}

fn read_bytes(name: &str, bytes: &[u8], options: &RowOptions) -> Result<Dataset, String> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("x.jsonl");
    fs::write(&file, bytes).unwrap();
    let tokenizer = tokenizer::find(&fixture(name)).unwrap();
    dataset::load_with(Some(&file), &config(name), tokenizer.as_ref(), None, options).map_err(|e| e.to_string())
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
            "\"text\": \"a\"}\n{\"text\": \"b\", \"label\": \"perl\"}\n{\"text\": \"c\"}\n",
            "line 1: is no JSON object, and most lines after it are",
        ),
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

/// Texts come as rows of ids: equal texts are equal rows, whatever form they came in.
fn same(text: &str, label: Option<i64>) -> Row {
    let mut row = read("albert-deb", &json!({ "text": text }).to_string())
        .unwrap()
        .rows
        .remove(0);
    row.labels = label.map(|label| vec![label]);
    row
}

#[test]
fn rows_are_read_in_every_form_people_have_them() {
    let cases: [(&str, &[u8], &str); 20] = [
        ("an array", br#"[{"text": "a library", "label": 3}, {"text": "two\nlines", "label": 9}]"#, ""),
        ("an array over lines", b"\n[\n  {\"text\": \"a library\",\n   \"label\": 3},\n  {\"text\": \"two\\nlines\", \"label\": 9}\n]\n", ""),
        ("lines with a byte order mark", b"\xef\xbb\xbf{\"text\": \"a library\", \"label\": 3}\n{\"text\": \"two\\nlines\", \"label\": \"rust\"}", ""),
        ("CSV", b"text,label\na library,3\n\"two\nlines\",9\n", "read as CSV: texts from 'text', labels from 'label'"),
        ("CSV of Windows", b"\xef\xbb\xbftext,label\r\n\"a library\",3\r\n\"two\nlines\",rust\r\n", "read as CSV"),
        ("the index of pandas", b",Sentence,Label\n0,a library,3.0\n1,\"two\nlines\",9.0\n", "texts from 'Sentence', labels from 'Label'"),
        ("semicolons", b"label;text\n3;a library\n9;\"two\nlines\"\n", "CSV with semicolons"),
        ("TSV", b"sentence\tlabel\na library\t3\n\"two\nlines\"\t9\n", "read as TSV"),
        ("rows without a text", b"text,label\na library,3\n,4\n\"two\nlines\",9\n", "read as CSV"),
        ("blanks after commas", b"text, label\na library, 3\n\"two\nlines\", rust\n", "read as CSV"),
        ("other columns", b"id,title,text,label\n7,x,a library,3\n8,y,\"two\nlines\",9\n", "texts from 'text'"),
        ("objects with other names", b"{\"sentence\": \"a library\", \"category\": 3, \"idx\": 0}\n{\"review\": \"two\\nlines\", \"class\": \"rust\"}", ""),
        ("UTF-16", &utf16("text\tlabel\r\na library\t3\r\n\"two\nlines\"\t9\r\n"), "read as TSV"),
        ("an odd column", b"text,is it (1/0)?,label\na library,1,3\n\"two\nlines\",0,9\n", "labels from 'label'"),
        ("no labels", b"text\na library\n\"two\nlines\"\n", "no labels"),
        ("labels not told", b"text,label\na library,-1\n\"two\nlines\",-1\n", "read as CSV"),
        ("texts of an array", br#"["a library", "two\nlines"]"#, ""),
        ("plain lines", b"a library\r\n\r\ntwo lines", "read as plain text, one text a line"),
        ("plain lines with commas", b"a library\ntwo, lines\n", "read as plain text"),
        ("plain lines in brackets", b"[MASK] library\n[two] lines\n", "read as plain text"),
    ];
    for (name, bytes, form) in cases {
        let inputs = read_bytes("albert-deb", bytes, &RowOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let told = inputs.read_as.clone().unwrap_or_default();
        assert!(
            told.contains(form) && told.is_empty() == form.is_empty(),
            "{name}: {told}"
        );
        if name.starts_with("plain lines") {
            assert_eq!(inputs.rows.len(), 2, "{name}");
            continue;
        }
        let labels = if form == "no labels" || name == "labels not told" || name.starts_with("texts") {
            [None, None]
        } else {
            [Some(3), Some(9)]
        };
        assert_eq!(
            inputs.rows,
            [same("a library", labels[0]), same("two\nlines", labels[1])],
            "{name}"
        );
        let warnings = inputs.warnings().join("; ");
        assert_eq!(
            name == "rows without a text",
            warnings.contains("1 rows without a text"),
            "{warnings}"
        );
        assert_eq!(
            name == "labels not told",
            warnings.contains("2 rows have the label -1"),
            "{warnings}"
        );
    }
}

fn utf16(text: &str) -> Vec<u8> {
    [0xfeff]
        .into_iter()
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect()
}

#[test]
fn pairs_and_choices_are_found_by_the_names_data_sets_give_them() {
    let pair = |text: &str| read("albert-deb", text).unwrap().rows.remove(0);
    let want = pair(r#"{"text": "a b", "text_pair": "c d"}"#);
    for text in [
        "sentence1,sentence2,label,idx\na b,c d,1,0\n",
        "premise\thypothesis\tlabel\na b\tc d\t1\n",
        "question1,question2\na b,c d\n",
        "title,question,sentence\nx,a b,c d\n",
        "id,title,context,question,answers\n1,t,c d,a b,\"{'text': ['c']}\"\n",
        r#"{"premise": "a b", "hypothesis": "c d"}"#,
        r#"[{"sentence": "a b", "context": "c d"}]"#,
    ] {
        let row = pair(text);
        assert_eq!(
            (row.input_ids, row.token_type_ids),
            (want.input_ids.clone(), want.token_type_ids.clone()),
            "{text}"
        );
    }
    // Token ids and the tags of tokens in a table, as pandas writes lists.
    let ids = read(
        "albert-tok-tiny",
        "input_ids,labels\n\"[2, 7, 3]\",\"[-100, 4, -100]\"\n",
    )
    .unwrap();
    assert_eq!(ids.rows[0].input_ids, [2, 7, 3]);
    assert_eq!(ids.rows[0].labels, Some(vec![-100, 4, -100]));
    let values = read("answers/one_regression", "input_ids,label\n\"[2, 3]\",3.7\n").unwrap();
    assert_eq!(values.rows[0].targets, Some(vec![3.7]));
}

#[test]
fn named_columns_and_forms_are_taken_at_their_word() {
    let columns = |text: &[&str], label: Option<&str>, form: Option<Form>| RowOptions {
        form,
        columns: Columns {
            text: text.iter().map(ToString::to_string).collect(),
            label: label.map(String::from),
        },
    };
    let cases: [(&str, RowOptions, Result<(), &str>); 8] = [
        (
            "body,kind,text\na library,3,x\n",
            columns(&["body"], Some("kind"), None),
            Ok(()),
        ),
        (
            "{\"body\": \"a library\", \"kind\": 3}",
            columns(&["body"], Some("kind"), None),
            Ok(()),
        ),
        (
            "body;kind\na library;3\n",
            columns(&["body"], Some("kind"), Some(Form::Csv)),
            Ok(()),
        ),
        (
            "body,kind\na library,3\n",
            columns(&["bdy"], None, None),
            Err("no column 'bdy'; the columns are 'body', 'kind'"),
        ),
        (
            "body,kind\na library,3\n",
            columns(&["body"], Some("x"), None),
            Err("no column 'x'"),
        ),
        (
            "{\"body\": \"a\"}",
            columns(&["text"], None, None),
            Err("--text-column: no field 'text' with a value; there are 'body'"),
        ),
        (
            "a,b\n",
            columns(&[], None, Some(Form::Json)),
            Err("line 1: invalid JSON"),
        ),
        ("", columns(&[], None, Some(Form::Csv)), Err("has no header line")),
    ];
    for (text, options, want) in cases {
        match (read_bytes("albert-deb", text.as_bytes(), &options), want) {
            (Ok(inputs), Ok(())) => assert_eq!(inputs.rows, [same("a library", Some(3))], "{text}"),
            (Err(e), Err(said)) => assert!(e.contains(said), "{text}: {e}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
    let lines = read_bytes(
        "albert-deb",
        b"text,label\na,1\n",
        &columns(&[], None, Some(Form::Text)),
    )
    .unwrap();
    assert_eq!(lines.rows.len(), 2);
}

#[test]
fn spoilt_tables_name_file_line_and_what_to_do() {
    let cases: [(&[u8], &str); 17] = [
        (b"text,label\na,3\nb\n", "line 3: 1 values, the header has 2 columns"),
        (
            b"text,label\na, b,3\n",
            "line 2: 3 values, the header has 2 columns; a value with a comma",
        ),
        (
            b"text,label\n\"a\nb\",3\nc,99\n",
            "line 4: label 99 is not one of 0 to 11",
        ),
        (
            b"text,label\na,cobol\n",
            "line 2: label 'cobol' is not one of the model's",
        ),
        (
            b"text\n\"a\nb\n",
            "line 2: a double quote is opened here and not closed",
        ),
        (
            b"text,label\na,3\n\"b\"c,3,4\n",
            "line 3: a double quote is opened here",
        ),
        (b"text,label\n\xe9,3\n", "line 2: is not UTF-8; save the file as UTF-8"),
        (b"caf\xe9\n", "line 1: is not UTF-8"),
        (b"text,text\na,b\n", "the column 'text' stands twice"),
        (
            b"review,comment\na,b\n",
            "several fields could be the text; choose with --text-column review or --text-column comment",
        ),
        (
            b"kind\tbody\n3\ta library\n",
            "its fields are 'body', 'kind': name the text's with --text-column NAME",
        ),
        (
            b"a text\t3\nmore, of it\t4\n",
            "line 1: the file looks like TSV, and its first line names no columns ('a text', '3')",
        ),
        (b"text\n", "no inputs in it; expected one JSON object per line"),
        (b"[{\"text\": \"a\"}", "line 1: invalid JSON: the array does not end"),
        (b"[\n{\"text\": \"a\"},\n{\"text\": }]", "line 3: invalid JSON"),
        (
            b"[{\"text\": \"a\"}]\n[{\"text\": \"a\"}]",
            "line 2: invalid JSON: more follows the array",
        ),
        (b"PAR1\x15\x04", "is a Parquet file; write it as JSON lines"),
    ];
    for (bytes, want) in cases {
        let error = read_bytes("albert-deb", bytes, &RowOptions::default()).expect_err(want);
        assert!(
            error.contains("x.jsonl") && error.contains(want),
            "expected: {want}\nfound: {error}"
        );
    }
    // Quotes of GLUE's TSV files are letters.
    let inputs = read("albert-deb", "sentence\tlabel\n\"a\" library\t3\n\"b\t4\nc\"\t5\n").unwrap();
    assert_eq!(inputs.rows.len(), 3);
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
