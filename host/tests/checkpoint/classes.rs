//! Which head a checkpoint has where its configuration names none of transformers' classes.

use crate::pieces::{Pieces, SEQ};
use serde_json::{Value, json};
use thimble_shared::model::Head;

/// Another class than transformers' is made by its tensors, unless they could be several heads' or a layer is between.
#[test]
fn an_unknown_class_is_made_by_its_tensors() {
    let named = |class: &str| {
        let mut pieces = Pieces::of(SEQ);
        pieces.config["architectures"] = json!([class]);
        pieces
    };
    for class in ["SpanishAlbertGeneric", "BertForMaskedLM"] {
        assert_eq!(named(class).read().unwrap().config.head, Head::SequenceClassification);
    }
    let source = named("AlbertForSentiment").read().unwrap();
    assert_eq!(source.config.head, Head::SequenceClassification);
    assert_eq!(
        source.notes,
        [
            "architectures names 'AlbertForSentiment': taken for AlbertForSequenceClassification by the tensors present; --head NAME chooses another"
        ]
    );
    let message = named("AlbertForNER").read().unwrap_err().to_string();
    assert!(
        message.contains("'AlbertForNER' is not one of") && message.contains("--head NAME"),
        "{message}"
    );
    let mut lstm = named("AlbertLstm");
    lstm.tensors
        .insert("lstm.weight_ih_l0".into(), (vec![4, 2], vec![0.0; 8]));
    let message = lstm.read().unwrap_err().to_string();
    assert!(message.contains("uses lstm.weight_ih_l0; --head NAME"), "{message}");
    // The same tensors beside a class that is known, or after hidden states, change no answer.
    lstm.config["architectures"] = json!(["AlbertForSequenceClassification"]);
    let note = "lstm.weight_ih_l0 left out: no output of AlbertForSequenceClassification needs them";
    assert_eq!(lstm.read().unwrap().notes, [note]);
    let mut crf = Pieces::of("albert-tok-tiny");
    crf.config["architectures"] = json!(["AlbertCrfForNer"]);
    crf.tensors
        .insert("crf.transitions".into(), (vec![5, 5], vec![0.0; 25]));
    let source = crf.read().unwrap();
    assert_eq!(source.config.head, Head::TokenClassification);
    assert!(
        source.notes.concat().contains("crf.transitions left out"),
        "{:?}",
        source.notes
    );
}

/// Classes and labels that may mean a head for tokens or spans, whose classifier has the names and shapes of another.
#[test]
fn a_classifier_that_may_be_one_for_tokens_is_refused() {
    let named = |class: Value, labels: [&str; 3]| {
        let mut pieces = Pieces::of(SEQ);
        pieces.config["architectures"] = class;
        pieces.config["id2label"] = json!({"0": labels[0], "1": labels[1], "2": labels[2]});
        pieces.read()
    };
    let plain = ["negative", "neutral", "positive"];
    let cases = [
        (
            json!(["AlbertForPunctuation"]),
            ["O", "COMMA", "PERIOD"],
            "a head for tokens or spans",
        ),
        (json!(["AlbertSlotFiller"]), plain, "a head for tokens or spans"),
        (json!(["AlbertForPOS"]), plain, "a head for tokens or spans"),
        (json!(["AlbertForSquad"]), plain, "a head for tokens or spans"),
        (
            json!(["AlbertForWordSegmentation"]),
            plain,
            "a head for tokens or spans",
        ),
        (Value::Null, ["O", "PER", "LOC"], "its labels are those of tokens"),
        (Value::Null, ["S-PER", "E-PER", "PAD"], "its labels are those of tokens"),
        (
            json!(["AlbertForSentiment"]),
            ["B", "M", "E"],
            "its labels are those of tokens",
        ),
    ];
    for (class, labels, words) in cases {
        let said = named(class.clone(), labels).unwrap_err().to_string();
        assert!(
            said.contains(words) && said.contains("--head NAME"),
            "{class} {labels:?}: {said}"
        );
    }
    let sequence = named(Value::Null, plain).unwrap();
    assert_eq!(sequence.config.head, Head::SequenceClassification);
}

#[test]
fn a_missing_architecture_is_inferred_and_said() {
    for (name, class) in [
        ("albert-seq-tiny", "AlbertForSequenceClassification"),
        ("albert-tok-tiny", "AlbertForTokenClassification"),
        ("albert-qa-tiny", "AlbertForQuestionAnswering"),
        ("albert-mlm-tiny", "AlbertForMaskedLM"),
        ("albert-pretraining-tiny", "AlbertForPreTraining"),
        ("albert-tiny-groups", "AlbertModel"),
    ] {
        let mut pieces = Pieces::of(name);
        pieces.config.as_object_mut().unwrap().remove("architectures");
        let source = pieces.read().unwrap();
        assert_eq!(source.architecture, class);
        assert_eq!(
            source.notes,
            [format!(
                "config.json names no architecture: taken for {class} by the tensors present; --head NAME chooses another"
            )]
        );
    }
}

/// One row is a regression's or a choice's: nothing stored tells which.
#[test]
fn of_one_row_the_note_names_multiple_choice() {
    let mut pieces = Pieces::of("albert-choice-tiny");
    pieces.config.as_object_mut().unwrap().remove("architectures");
    pieces.config["id2label"] = json!({"0": "score"});
    let said = pieces.read().unwrap().notes.concat();
    assert!(said.contains("--head choice makes multiple choice of it"), "{said}");
}
