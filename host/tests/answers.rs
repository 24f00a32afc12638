//! Text to answer, judged by Hugging Face: its token ids for every test text, its logits for the labels. Spans, blanks, tags
//! and choices are read from outputs whose right answer is plain.

#[path = "../../tests/support/mod.rs"]
mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use support::{fixture, npy};
use tempfile::TempDir;
use thimble::eval::answer::{Answer, AnswerError, Asked, answer, per_token};
use thimble::eval::dataset::{self, Row};
use thimble::eval::metrics::{NamedOutputs, OutputTensor};
use thimble::models::checkpoint;
use thimble::models::tokenizer::TokenizerSource;
use thimble::models::tokenizer_json::{self, Encoded, Tokenizer};
use thimble_shared::decode::{AnswerOptions, Windows};
use thimble_shared::model::{Config, Head};

fn deb(max: usize) -> (Config, Tokenizer) {
    let mut config = checkpoint::read(&fixture("albert-deb")).unwrap().config;
    config.max_position_embeddings = max;
    let tokenizer = Tokenizer::open(&fixture("albert-deb/tokenizer.json"), &config).unwrap();
    (config, tokenizer)
}

/// The model's configuration with another head, to read other answers with the same tokenizer.
fn with_head(head: Head) -> (Config, Tokenizer) {
    let (mut config, tokenizer) = deb(128);
    config.head = head;
    config.labels = if head == Head::TokenClassification {
        vec!["O".into(), "NAME".into()]
    } else {
        vec![]
    };
    (config, tokenizer)
}

fn outputs(named: &[(&str, Vec<f32>)]) -> NamedOutputs {
    named
        .iter()
        .map(|(n, d)| {
            (
                n.to_string(),
                OutputTensor {
                    shape: vec![1, d.len()],
                    data: d.clone(),
                },
            )
        })
        .collect()
}

#[test]
fn every_text_gets_hugging_face_s_ids() {
    // The reference was made with at most 64 tokens.
    let (config, _) = deb(64);
    let file = fixture("albert-deb/test.jsonl");
    let inputs = dataset::load(
        Some(&file),
        &config,
        Some(&TokenizerSource::File(fixture("albert-deb/tokenizer.json"))),
        None,
    )
    .unwrap();
    let (shape, bytes) = npy(&fixture("albert-deb/test_input_ids_i16.npy"));
    assert_eq!((inputs.rows.len(), inputs.given), (shape[0], true));
    for (row, want) in inputs.rows.iter().zip(bytes.chunks(2 * shape[1])) {
        let want = want
            .chunks(2)
            .map(|b| i16::from_le_bytes([b[0], b[1]]) as i64)
            .filter(|&id| id != 0);
        assert_eq!(row.input_ids, want.collect::<Vec<_>>());
    }
    assert!(inputs.truncated > 100, "{} truncated", inputs.truncated);
}

#[test]
fn labels_are_read_from_hugging_face_s_logits() {
    let (config, _) = deb(128);
    let file = fixture("albert-deb/test.jsonl");
    let inputs = dataset::load(
        Some(&file),
        &config,
        Some(&TokenizerSource::File(fixture("albert-deb/tokenizer.json"))),
        None,
    )
    .unwrap();
    let (shape, bytes) = npy(&fixture("albert-deb/test_logits_fp32.npy"));
    let mut right = 0;
    for (row, logits) in inputs.rows.iter().zip(bytes.chunks(4 * shape[1])) {
        let logits: Vec<f32> = logits
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let asked = Asked {
            rows: std::slice::from_ref(row),
            encoded: &[],
            tokenizer: None,
            options: AnswerOptions::default(),
        };
        let Answer::Labels { labels } = answer(&config, &[outputs(&[("logits", logits)])], asked).unwrap() else {
            panic!("labels expected")
        };
        assert!((labels.iter().map(|l| l.score).sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(labels.windows(2).all(|w| w[0].score >= w[1].score));
        right += usize::from(labels[0].label == config.labels[row.labels.as_ref().unwrap()[0] as usize]);
    }
    let accuracy = right as f64 / shape[0] as f64;
    assert!((accuracy - 0.8411).abs() < 0.0001, "{accuracy}");
}

#[test]
fn regression_and_independent_labels_are_no_distribution() {
    let (mut config, _) = deb(128);
    let row = Row::sequence(&[2, 3]);
    let asked = Asked {
        rows: std::slice::from_ref(&row),
        encoded: &[],
        tokenizer: None,
        options: AnswerOptions::default(),
    };
    config.labels = vec!["yes".into(), "also".into()];
    config.multi_label = true;
    let both = answer(&config, &[outputs(&[("logits", vec![0.0, 100.0])])], asked).unwrap();
    assert_eq!(
        serde_json::to_value(&both).unwrap(),
        json!({"kind": "labels", "labels": [{"label": "also", "score": 1.0}, {"label": "yes", "score": 0.5}]})
    );
    config.labels = vec!["score".into()];
    config.multi_label = false;
    let one = answer(&config, &[outputs(&[("logits", vec![2.5])])], asked).unwrap();
    assert_eq!(one.to_string(), "score = 2.5\n");
    config.labels = vec!["valence".into(), "arousal".into()];
    config.regression = true;
    let two = answer(&config, &[outputs(&[("logits", vec![2.5, -0.25])])], asked).unwrap();
    assert_eq!(two.to_string(), "valence = 2.5\narousal = -0.25\n");
    // One label of which nothing is said: a probability, as the pipeline gives it.
    config.labels = vec!["relevance".into()];
    config.multi_label = true;
    let one = answer(&config, &[outputs(&[("logits", vec![0.0])])], asked).unwrap();
    assert_eq!(one.to_string(), "relevance   50.00 %\n");
}

#[test]
fn a_pair_has_types_and_places() {
    let (_, tokenizer) = deb(128);
    let e = tokenizer.encode("Rust  library", Some("in Perl")).unwrap();
    assert_eq!(
        (e.tokens[0].as_str(), e.tokens.last().unwrap().as_str()),
        ("[CLS]", "[SEP]")
    );
    let boundary = e.types.iter().position(|&t| t == 1).unwrap();
    assert_eq!(e.tokens[boundary - 1], "[SEP]");
    assert!(e.types[boundary..].iter().all(|&t| t == 1));
    let of = |sequence| {
        let at: Vec<usize> = (0..e.ids.len())
            .filter(|&i| e.places[i].sequence == Some(sequence))
            .collect();
        e.slice(at[0], *at.last().unwrap()).unwrap().to_string()
    };
    assert_eq!((of(0), of(1)), ("Rust  library".into(), "in Perl".into()));
    assert!(!e.truncated);
    assert!(tokenizer.encode(&"word ".repeat(500), None).unwrap().truncated);
    assert_eq!(
        tokenizer.encode(&"word ".repeat(500), Some("short")).unwrap().ids.len(),
        128
    );
}

#[test]
fn spans_lie_in_the_context_and_read_as_its_text() {
    let (config, tokenizer) = with_head(Head::QuestionAnswering);
    let e = tokenizer
        .encode(
            "Which language?",
            Some("A library for Perl and for Python, écrit à la main."),
        )
        .unwrap();
    let row = Row::of(std::slice::from_ref(&e), 0, false);
    let context: Vec<usize> = (0..e.ids.len()).filter(|&i| e.places[i].sequence == Some(1)).collect();
    let find = |word: &str| {
        *context
            .iter()
            .find(|&&i| e.slice(i, i).is_some_and(|t| t.starts_with(word)))
            .unwrap()
    };
    let (first, last) = (find("Perl"), find("Python"));
    let (mut start, mut end) = (vec![0.0; e.ids.len()], vec![0.0; e.ids.len()]);
    (start[first], end[last]) = (20.0, 20.0);
    // The question and the special tokens shout louder, and are no answer.
    (start[0], end[0], start[1], end[1]) = (90.0, 90.0, 90.0, 90.0);
    let asked = Asked {
        rows: std::slice::from_ref(&row),
        encoded: std::slice::from_ref(&e),
        tokenizer: Some(&tokenizer),
        options: AnswerOptions::default(),
    };
    let given = [outputs(&[("start_logits", start), ("end_logits", end)])];
    let Answer::Span(span) = answer(&config, &given, asked).unwrap() else {
        panic!("span expected")
    };
    let (text, a, b) = (span.text.as_deref(), span.first.unwrap(), span.last.unwrap());
    // The words of this tokenizer end at white space.
    assert_eq!((text, a, b), (Some("Perl and for Python,"), first, last));
    assert_eq!((span.windows, span.no_answer_score > 0.99), (1, true));
    // [CLS] takes nearly all of the softmax; where it may, it wins.
    let none = Asked {
        options: AnswerOptions {
            allow_none: true,
            ..AnswerOptions::default()
        },
        ..asked
    };
    let Answer::Span(span) = answer(&config, &given, none).unwrap() else {
        panic!("span expected")
    };
    assert_eq!(
        (span.text.as_deref(), span.start, span.first),
        (Some(""), Some(0), None)
    );
    // By ids alone, the context is known by its type; a mask of 0 is never an answer.
    let mut bare = row.clone();
    let n = bare.seq();
    bare.attention_mask[n - 1] = 0;
    let peak = |at: usize| (0..n).map(|i| if i == at { 9.0 } else { 0.0 }).collect::<Vec<f32>>();
    let loud = [outputs(&[("start_logits", peak(n - 1)), ("end_logits", peak(n - 1))])];
    let Answer::Span(span) = answer(
        &config,
        &loud,
        Asked {
            rows: std::slice::from_ref(&bare),
            encoded: &[],
            tokenizer: None,
            options: AnswerOptions::default(),
        },
    )
    .unwrap() else {
        panic!("span expected")
    };
    let begin = e.types.iter().position(|&t| t == 1).unwrap();
    assert!(span.text.is_none() && span.first.unwrap() >= begin && span.last.unwrap() < n - 1);
}

#[test]
fn a_long_context_is_read_in_windows_that_share_half() {
    let (mut config, _) = deb(128);
    config.head = Head::QuestionAnswering;
    config.labels = vec![];
    config.max_position_embeddings = 40;
    let tokenizer = Tokenizer::open(&fixture("albert-deb/tokenizer.json"), &config).unwrap();
    let (question, context) = (
        "Which language?",
        "A library für Perl, größer 模型 and Python. ".repeat(12),
    );
    let windows = tokenizer.windows(question, &context).unwrap();
    let Windows { tokens, stride } = Windows::of(40);
    assert!(windows.len() > 3 && stride == 20);
    let inside =
        |w: &Encoded| -> Vec<usize> { (0..w.ids.len()).filter(|&i| w.places[i].sequence == Some(1)).collect() };
    for pair in windows.windows(2) {
        let (a, b) = (inside(&pair[0]), inside(&pair[1]));
        assert_eq!(pair[0].ids.len(), tokens);
        let shared: Vec<_> = a[a.len() - stride..]
            .iter()
            .map(|&i| (pair[0].ids[i], pair[0].places[i]))
            .collect();
        assert_eq!(
            shared,
            b[..stride]
                .iter()
                .map(|&i| (pair[1].ids[i], pair[1].places[i]))
                .collect::<Vec<_>>()
        );
    }
    let last = windows.last().unwrap();
    assert!(context.trim_end().len() <= last.places[*inside(last).last().unwrap()].bytes.1);
    assert_eq!(tokenizer.windows(question, "short").unwrap().len(), 1);
    let long = "why ".repeat(18);
    assert!(tokenizer.windows(&long, "short").is_ok());
    let problem = tokenizer.windows(&long, &context).unwrap_err().to_string();
    assert!(problem.contains("the question has"), "{problem}");
    // Rows to calibrate on are the same windows.
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.jsonl");
    fs::write(
        &file,
        format!("{}\n", json!({"question": question, "context": context})),
    )
    .unwrap();
    let rows = dataset::load(
        Some(&file),
        &config,
        Some(&TokenizerSource::File(fixture("albert-deb/tokenizer.json"))),
        None,
    )
    .unwrap();
    let ids = |rows: &[Row]| rows.iter().map(|r| r.input_ids.clone()).collect::<Vec<_>>();
    assert_eq!(
        ids(&rows.rows),
        windows.iter().map(|w| w.ids.clone()).collect::<Vec<_>>()
    );
    assert_eq!(rows.truncated, 0);
}

#[test]
fn blanks_are_filled_and_their_lack_is_said() {
    let (config, tokenizer) = with_head(Head::MaskedLm);
    let e = tokenizer.encode("a [MASK] library", None).unwrap();
    let row = Row::of(std::slice::from_ref(&e), 0, false);
    let at = e.ids.iter().position(|&id| Some(id) == tokenizer.mask_id()).unwrap();
    assert_eq!(e.tokens[at].trim(), "[MASK]");
    let mut logits = vec![0.0; e.ids.len() * config.vocab_size];
    (logits[at * config.vocab_size + 7], logits[at * config.vocab_size + 9]) = (12.0, 11.0);
    let given = outputs(&[("logits", logits)]);
    let asked = Asked {
        rows: std::slice::from_ref(&row),
        encoded: std::slice::from_ref(&e),
        tokenizer: Some(&tokenizer),
        options: AnswerOptions::default(),
    };
    let Answer::Fills { blanks } = answer(&config, &[given], asked).unwrap() else {
        panic!("fills expected")
    };
    assert_eq!((blanks.len(), blanks[0].position, blanks[0].fills.len()), (1, at, 5));
    assert_eq!(
        (blanks[0].fills[0].token.as_deref(), blanks[0].fills[1].id),
        (Some("▁the"), 9)
    );
    let none = Row::sequence(&[2, 7, 3]);
    let given = outputs(&[("logits", vec![0.0; 3 * config.vocab_size])]);
    let asked = Asked {
        rows: std::slice::from_ref(&none),
        encoded: &[],
        tokenizer: None,
        options: AnswerOptions::default(),
    };
    assert_eq!(
        answer(&config, &[given], asked).unwrap_err(),
        AnswerError::NoMask("the id 4".into())
    );
}

#[test]
fn words_have_the_tag_of_their_first_token() {
    let (config, tokenizer) = with_head(Head::TokenClassification);
    let e = tokenizer.encode("uncharacteristically Perl", None).unwrap();
    let row = Row::of(std::slice::from_ref(&e), 0, false);
    let perl = (0..e.ids.len())
        .find(|&i| e.slice(i, i).is_some_and(|t| t.starts_with('P')))
        .unwrap();
    assert!(perl > 2, "the first word must have several tokens: {:?}", e.tokens);
    let logits = (0..e.ids.len())
        .flat_map(|i| if i == perl { [0.0, 5.0] } else { [5.0, 0.0] })
        .collect();
    let asked = Asked {
        rows: std::slice::from_ref(&row),
        encoded: std::slice::from_ref(&e),
        tokenizer: Some(&tokenizer),
        options: AnswerOptions::default(),
    };
    let found = answer(&config, &[outputs(&[("logits", logits)])], asked).unwrap();
    assert_eq!(per_token(&found).lines().count(), e.ids.len() - 2);
    assert_eq!(found.to_string(), "Perl  NAME  99.33 %\n");
    let Answer::Tags { spans, words, tokens } = found else {
        panic!("tags expected")
    };
    assert_eq!((spans.len(), spans[0].first, spans[0].end), (1, perl, Some(25)));
    let words: Vec<_> = words.iter().map(|w| (w.text.as_str(), w.label.as_str())).collect();
    assert_eq!(words, [("uncharacteristically", "O"), ("Perl", "NAME")]);
    assert_eq!(tokens.len(), e.ids.len() - 2);
}

#[test]
fn choices_orders_and_hidden_states() {
    let (config, tokenizer) = with_head(Head::MultipleChoice);
    let encoded: Vec<Encoded> = ["short", "a much longer choice"]
        .iter()
        .map(|c| tokenizer.encode("Which?", Some(c)).unwrap())
        .collect();
    let row = Row::of(&encoded, tokenizer.pad_id(), true);
    row.check(&config).unwrap();
    assert_eq!(row.shape, [1, 2, encoded[1].ids.len()]);
    let asked = Asked {
        rows: std::slice::from_ref(&row),
        encoded: &encoded,
        tokenizer: Some(&tokenizer),
        options: AnswerOptions::default(),
    };
    let chosen = answer(&config, &[outputs(&[("logits", vec![1.0, 3.0])])], asked).unwrap();
    assert_eq!(
        chosen.to_string(),
        "  short                  11.92 %\n> a much longer choice   88.08 %\n"
    );
    let (config, _) = with_head(Head::PreTraining);
    let row = Row::sequence(&[2, 3]);
    let asked = Asked {
        rows: std::slice::from_ref(&row),
        encoded: &[],
        tokenizer: None,
        options: AnswerOptions::default(),
    };
    let given = outputs(&[
        ("prediction_logits", vec![0.0; 2 * config.vocab_size]),
        ("sop_logits", vec![9.0, 0.0]),
    ]);
    assert!(
        matches!(answer(&config, &[given], asked).unwrap(), Answer::PreTraining { in_order, .. } if in_order > 0.99)
    );
    let (config, _) = with_head(Head::None);
    let given = outputs(&[(
        "last_hidden_state",
        [vec![1.0; config.hidden_size], vec![3.0; config.hidden_size]].concat(),
    )]);
    let Answer::Hidden {
        mean,
        std,
        first_token,
        pooled,
        ..
    } = answer(&config, &[given], asked).unwrap()
    else {
        panic!("hidden states expected")
    };
    assert_eq!((mean, std, first_token[0], pooled), (2.0, 1.0, 1.0, None));
    assert_eq!(
        answer(&config, &[BTreeMap::new()], asked).unwrap_err(),
        AnswerError::Missing("last_hidden_state")
    );
    let short = outputs(&[("last_hidden_state", vec![1.0])]);
    assert!(matches!(
        answer(&config, &[short], asked).unwrap_err(),
        AnswerError::Length { found: 1, .. }
    ));
}

#[test]
fn the_compact_tokenizer_says_the_same_in_fewer_bytes() {
    let path = fixture("albert-deb/tokenizer.json");
    let small = tokenizer_json::compact(&path).unwrap();
    let before = fs::metadata(&path).unwrap().len();
    assert!((small.len() as u64) * 10 < before * 8, "{} of {before}", small.len());
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("m.tokenizer.json");
    fs::write(&copy, &small).unwrap();
    assert_eq!(tokenizer_json::compact(&copy).unwrap(), small);
    let (config, first) = deb(128);
    let second = Tokenizer::open(&copy, &config).unwrap();
    for line in fs::read_to_string(fixture("albert-deb/test.jsonl"))
        .unwrap()
        .lines()
        .take(200)
    {
        let text = serde_json::from_str::<Value>(line).unwrap()["text"]
            .as_str()
            .unwrap()
            .to_string();
        assert_eq!(first.encode(&text, None).unwrap(), second.encode(&text, None).unwrap());
    }
}

#[test]
fn unfit_tokenizers_are_refused() {
    let (mut config, _) = deb(128);
    let path = fixture("albert-deb/tokenizer.json");
    config.vocab_size = 100;
    let tokenizer = Tokenizer::open(&path, &config).unwrap();
    let message = tokenizer.encode("a rare library", None).unwrap_err().to_string();
    assert!(message.contains("another model's tokenizer"), "{message}");
    config.max_position_embeddings = 3;
    assert!(
        Tokenizer::open(&path, &config)
            .err()
            .unwrap()
            .to_string()
            .contains("no room for text")
    );
    let dir = TempDir::new().unwrap();
    for (bytes, want) in [
        ("{}", "not a tokenizer"),
        ("[1", "not a tokenizer"),
        ("", "not a tokenizer"),
    ] {
        let bad = dir.path().join("bad.json");
        fs::write(&bad, bytes).unwrap();
        for message in [
            Tokenizer::open(&bad, &config).err().unwrap(),
            tokenizer_json::compact(&bad).unwrap_err(),
        ] {
            assert!(message.to_string().contains(want), "{message}");
        }
    }
}

/// Tables that contradict each other make the tokenizer library panic; here that is an error.
#[test]
fn a_spoilt_table_is_an_error_or_harmless() {
    let (config, _) = deb(128);
    let text = fs::read_to_string(fixture("albert-deb/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    let charsmap = json["normalizer"]["normalizers"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .find_map(|n| n.get_mut("precompiled_charsmap"))
        .unwrap();
    // A trie of one unit whose offset leads far outside.
    *charsmap = json!("BAAAAP////8AAAAA");
    let dir = TempDir::new().unwrap();
    let bad = dir.path().join("bad.json");
    fs::write(&bad, json.to_string()).unwrap();
    if let Ok(tokenizer) = Tokenizer::open(&bad, &config) {
        let _ = tokenizer.encode("a library, ﬁne", Some("ｗｉｄｅ"));
    }
}
