//! A program that holds the engine: requests built field by field are those of JSON, batches answer in order, and what does not fit
//! is refused with the field's name.

mod fixture;

use fixture::{Checkpoint, TINY, file};
use std::path::PathBuf;
use thimble_device::session::SessionOptions;
use thimble_device::{Input, Reply, Request, Responder};
use thimble_shared::dtype::Format;

/// Thimble files in a folder that goes with it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("thimble-answers-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Place(dir)
    }

    fn open(&self, name: &str) -> Responder {
        let path = self.0.join(format!("{name}.onnx"));
        std::fs::write(&path, file(&Checkpoint::read(name).model(Format::F32))).unwrap();
        Responder::open(&path, &SessionOptions::default(), None).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn json(reply: &Reply) -> serde_json::Value {
    serde_json::from_str(reply.json()).unwrap()
}

/// The same numbers but for the last bits, which padding of a batch may change.
fn alike(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Object(a), Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| alike(a, b)))
        }
        (Number(a), Number(b)) => (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-4,
        _ => a == b,
    }
}

#[test]
fn fields_and_json_ask_the_same() {
    let place = Place::new("fields");
    let rows = vec![vec![2, 17, 3], vec![2, 9, 11, 3]];
    let cases = [
        (
            "albert-seq-tiny",
            Request::ids([2, 17, 3]),
            r#"{"id": 7, "ids": [2, 17, 3]}"#,
        ),
        (
            "albert-seq-tiny",
            Request::ids([2, 17, 3]).with_types([0, 1, 1]),
            r#"{"ids": [2, 17, 3], "types": [0, 1, 1]}"#,
        ),
        (
            "albert-mlm-tiny",
            Request::ids([2, 17, 4, 3]).at([2]).top(3),
            r#"{"ids": [2, 17, 4, 3], "at": [2], "top": 3}"#,
        ),
        (
            "albert-mlm-tiny",
            Request::ids([2, 3]).full(),
            r#"{"ids": [2, 3], "full": true}"#,
        ),
        (
            "albert-choice-tiny",
            Request::choices(rows),
            r#"{"choices": [[2, 17, 3], [2, 9, 11, 3]]}"#,
        ),
        (
            "albert-qa-tiny",
            Request::ids([2, 17, 3, 9, 3]).max_answer(2).allow_no_answer(),
            r#"{"ids": [2, 17, 3, 9, 3], "max_answer": 2, "no_answer": true}"#,
        ),
    ];
    for (name, fields, text) in cases {
        let model = place.open(name);
        let (mine, theirs) = (
            model.answer(fields).unwrap(),
            model.answer(Request::json(text)).unwrap(),
        );
        assert_eq!(mine, theirs, "{name}");
        let told = json(&mine);
        assert!(told.get("id").is_none() && told.get("ms").is_none(), "{told}");
    }
}

#[test]
fn a_reply_is_what_its_json_says() {
    let place = Place::new("reply");
    let model = place.open("albert-seq-tiny");
    let reply = model.answer(Request::ids([2, 17, 3])).unwrap();
    let told = json(&reply);
    assert_eq!(reply.label(), told["label"].as_str());
    assert_eq!(reply.index(), told["argmax"].as_u64().map(|at| at as usize));
    assert_eq!(reply.score(), told["scores"][reply.index().unwrap()].as_f64());
    let outputs = model.session().run(&Input::sequence(&[2, 17, 3])).unwrap();
    let read: Vec<f32> = serde_json::from_value(told["outputs"]["logits"].clone()).unwrap();
    assert_eq!(
        read,
        outputs.get("logits").unwrap().data,
        "the decimals read back as the same f32"
    );

    let model = place.open("albert-choice-tiny");
    let reply = model
        .answer(Request::choices(vec![vec![2, 17, 3], vec![2, 9, 3]]))
        .unwrap();
    assert_eq!(json(&reply)["argmax"], serde_json::json!(reply.index()));
    assert!(reply.label().is_none() && reply.score().is_some_and(|score| score >= 0.5));

    let model = place.open("albert-tok-tiny");
    let reply = model.answer(Request::ids([2, 17, 3])).unwrap();
    assert_eq!((reply.label(), reply.index(), reply.score()), (None, None, None));
}

#[test]
fn a_batch_answers_in_order_and_threads_share_a_model() {
    let place = Place::new("batch");
    for name in TINY {
        let model = place.open(name);
        let choices = name.contains("choice");
        let ask = |i: i64| {
            let row: Vec<i64> = (0..3 + i % 7).map(|at| 5 + (i * 7 + at) % 60).collect();
            if choices {
                Request::choices(vec![row.clone(), row])
            } else {
                Request::ids(row)
            }
        };
        let alone: Vec<Reply> = (0..40).map(|i| model.answer(ask(i)).unwrap()).collect();
        let together = model.answers((0..40).map(ask)).unwrap();
        assert_eq!(together.len(), alone.len());
        for (a, b) in alone.iter().zip(&together) {
            assert!(alike(&json(a), &json(b)), "{name}:\n{}\n{}", a.json(), b.json());
        }
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..40).for_each(|i| assert_eq!(model.answer(ask(i)).unwrap(), alone[i as usize])));
            }
        });
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let place = Place::new("refused");
    let model = place.open("albert-seq-tiny");
    let cases = [
        (Request::ids([]), "ids is empty"),
        (Request::ids([2, 1 << 40]), "ids[1] is 1099511627776"),
        (Request::ids([2, -1]), "ids[1] is -1"),
        (Request::ids(vec![2; 100_000]), "positions end at"),
        (Request::ids([2, 3]).with_types([0]), "types has 1 values, ids 2"),
        (Request::ids([2, 3]).with_types([0, 9]), "types[1] is 9"),
        (Request::ids([2, 3]).with_pair("x"), "\"pair\" goes with \"text\""),
        (Request::ids([2, 3]).with_choices(vec!["x".to_string()]), "give one"),
        (Request::choices(vec![vec![2, 3]]), "multiple choice"),
        (Request::ids([2, 3]).at([0]), "\"at\""),
        (Request::ids([2, 3]).top(3), "masked LM"),
        (Request::ids([2, 3]).max_answer(3), "question answering"),
        (Request::json("{\"op\": \"ping\"}"), "\"op\" is for a server"),
        (Request::json("[2, 3]"), "a request is a JSON object"),
        (Request::json("{\"ids\": [2, 3]} x"), "not JSON"),
        (Request::json("{\"idz\": [2, 3]}"), "unknown field `idz`"),
        (Request::json(""), "not JSON"),
    ];
    let fits = || Request::ids([2, 3]);
    for (request, words) in cases {
        let alone = model.answer(request.clone()).unwrap_err().to_string();
        assert!(
            alone.contains(words) && !alone.contains("server computes"),
            "{words}: {alone}"
        );
        let together = model.answers([fits(), request, fits()]).unwrap_err().to_string();
        assert_eq!(together, format!("request 1: {alone}"));
    }
    assert!(model.answers([]).unwrap().is_empty());
    let words = model.answer(Request::text("x")).unwrap_err().to_string();
    assert!(
        words.contains("tokenizer") || words.contains("token ids only"),
        "{words}"
    );
}

#[test]
fn a_file_that_is_written_to_gives_no_answer() {
    let place = Place::new("changed");
    let model = place.open("albert-seq-tiny");
    let before = model.answer(Request::ids([2, 3])).unwrap();
    assert_eq!(model.answer(Request::ids([2, 3])).unwrap(), before);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let path = place.0.join("albert-seq-tiny.onnx");
    let open = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_at(&open, b"\x08", 0).unwrap();
    let error = model.answer(Request::ids([2, 3])).unwrap_err().to_string();
    assert!(error.contains("written to while it was in use"), "{error}");
    assert!(Responder::open(&place.0, &SessionOptions::default(), None).is_err());
}
