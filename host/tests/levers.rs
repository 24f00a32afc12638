//! Levers leave out what is not used, and nothing else: the model that is left gives the same f32 outputs to the last bit.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use thimble::eval::dataset::{self, Row};
use thimble::eval::metrics::NamedOutputs;
use thimble::eval::runner::{self, Judge, Vocabulary};
use thimble::models::image::image_of;
use thimble::models::model_file::ModelSource;
use thimble::models::tokenizer::TokenizerSource;
use thimble::models::tokenizer_json::Tokenizer;
use thimble::quantize::prune::{LeverError, Levers};
use thimble::quantize::vocabulary;
use thimble_shared::dtype::{Format, Values};
use thimble_shared::model::{Config, Head, Model};

fn albert_deb() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/albert-deb")
}

fn outputs(model: &Model, rows: &[Row]) -> Vec<NamedOutputs> {
    runner::outputs(&image_of(model).unwrap(), rows).unwrap()
}

fn remapped(rows: &[Row], vocabulary: &Vocabulary) -> Vec<Row> {
    let new = |&id: &i64| vocabulary.ids[id as usize];
    rows.iter()
        .map(|row| Row {
            input_ids: row.input_ids.iter().map(new).collect(),
            ..row.clone()
        })
        .collect()
}

/// Different numbers in every weight.
fn filled(config: Config) -> Model {
    let mut state = 1u64;
    let mut number = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let specs = config.weights();
    let weights = specs.iter().map(|w| {
        let scale = if w.name.ends_with("norm.weight") { 1.0 } else { 0.2 };
        let offset = if w.name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let values = (0..w.elements()).map(|_| offset + scale * number()).collect();
        (w.name.clone(), Values::f32(values))
    });
    Model {
        weights: weights.collect(),
        config: config.clone(),
    }
}

/// A corpus in a file of its own, of some of the model's texts.
fn corpus(folder: &Path, lines: usize) -> PathBuf {
    let text = std::fs::read_to_string(albert_deb().join("test.jsonl")).unwrap();
    let some: Vec<&str> = text.lines().take(lines).collect();
    let path = folder.join("corpus.jsonl");
    std::fs::write(&path, some.join("\n")).unwrap();
    path
}

#[test]
fn a_cut_vocabulary_gives_the_same_outputs_for_its_corpus_to_the_last_bit() {
    let subject = ModelSource::open(&albert_deb()).unwrap();
    let model = subject.model().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 60);
    let cut = vocabulary::cut(&corpus, subject.tokenizer().unwrap(), model.config.vocab_size).unwrap();
    let rows = dataset::load(Some(&corpus), &model.config, subject.tokenizer(), None)
        .unwrap()
        .rows;

    let levers = Levers {
        vocabulary: Some(cut.vocabulary.clone()),
        ..Levers::default()
    };
    let left = levers.apply(&model).unwrap();
    assert!(
        left.config.vocab_size < model.config.vocab_size / 2,
        "{}",
        left.config.vocab_size
    );
    let mapped = remapped(&rows, &cut.vocabulary);
    assert_eq!(outputs(&left, &mapped), outputs(&model, &rows));

    // The tokenizer written for it gives just those ids for the same texts.
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, &cut.tokenizer).unwrap();
    let again = dataset::load(
        Some(&corpus),
        &left.config,
        Some(&TokenizerSource::File(path.clone())),
        None,
    )
    .unwrap()
    .rows;
    assert_eq!(again, mapped);
    // Text of another corpus still encodes, piece by piece.
    let tokenizer = Tokenizer::open(&path, &left.config).unwrap();
    let encoded = tokenizer.encode("Zymurgy 42: quixotic jazz", None).unwrap();
    let unknown = tokenizer.encode("\u{10ffff}", None).unwrap();
    assert!(
        encoded
            .ids
            .iter()
            .all(|id| !unknown.ids[1..unknown.ids.len() - 1].contains(id)),
        "{:?}",
        encoded.tokens
    );
}

#[test]
fn decoder_rows_go_with_a_cut_vocabulary_and_their_logits_stay() {
    let subject = ModelSource::open(&albert_deb()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 20);
    for tied_decoder in [true, false] {
        let config = Config {
            head: Head::MaskedLm,
            tied_decoder,
            labels: vec![],
            num_hidden_layers: 2,
            ..subject.config().clone()
        };
        let model = filled(config);
        let cut = vocabulary::cut(&corpus, subject.tokenizer().unwrap(), model.config.vocab_size).unwrap();
        let rows = dataset::load(Some(&corpus), subject.config(), subject.tokenizer(), None).unwrap();
        let rows: Vec<Row> = rows.rows.into_iter().map(|row| Row { labels: None, ..row }).collect();
        let levers = Levers {
            vocabulary: Some(cut.vocabulary.clone()),
            ..Levers::default()
        };
        let left = levers.apply(&model).unwrap();
        let (before, after) = (
            outputs(&model, &rows),
            outputs(&left, &remapped(&rows, &cut.vocabulary)),
        );
        let width = model.config.vocab_size;
        for (a, b) in before.iter().zip(&after) {
            let kept: Vec<f32> = a["logits"]
                .data
                .chunks(width)
                .flat_map(|token| cut.vocabulary.kept.iter().map(|&id| token[id]))
                .collect();
            assert_eq!(kept, b["logits"].data);
        }
        // The judge sees the same: no divergence over what both know, and decisions over all tokens.
        let image = image_of(&model).unwrap();
        let judge = Judge::new(&model.config, &image, rows, Some(&cut.vocabulary));
        let loss = judge.loss(&image_of(&left).unwrap()).unwrap();
        assert_eq!(loss.kl, Some(0.0));
        assert_eq!(loss.outputs["logits"].max_abs, 0.0);
        assert!(
            loss.agreement.unwrap() < 1.0,
            "random logits favor tokens that are gone"
        );
    }
}

/// WordPiece, where a word no piece covers to its end is unknown as a whole: the pieces it began with must stay.
#[test]
fn a_wordpiece_vocabulary_is_cut_without_splitting_any_text_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let (tokenizer, corpus) = (folder.path().join("tokenizer.json"), folder.path().join("corpus.txt"));
    let vocab = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "##c", "ab", "abc", "##d", "##cd", "xyz", "c", "##x",
    ];
    let vocab: serde_json::Map<String, serde_json::Value> = vocab
        .iter()
        .enumerate()
        .map(|(i, piece)| (piece.to_string(), i.into()))
        .collect();
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]"), special(4, "[MASK]")],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    std::fs::write(&tokenizer, json.to_string()).unwrap();
    // "abce" begins with "abc" and ends in nothing: unknown. Without "abc" it would still be, but "abcx" would be "ab ##c ##x".
    std::fs::write(&corpus, "ab cab\nabcxe abcx\n").unwrap();
    let cut = vocabulary::cut(&corpus, &TokenizerSource::File(tokenizer.clone()), 15).unwrap();
    let kept: BTreeSet<usize> = cut.vocabulary.kept.iter().copied().collect();
    assert!(
        !kept.contains(&12) && !kept.contains(&11),
        "'xyz' and '##cd' are nowhere: {kept:?}"
    );
    let new: serde_json::Value = serde_json::from_str(&cut.tokenizer).unwrap();
    assert_eq!(new["model"]["vocab"].as_object().unwrap().len(), kept.len());
    assert_eq!(new["post_processor"]["sep"][1], cut.vocabulary.ids[3]);
    // Ids beyond the model's rows belong to another model.
    assert!(
        vocabulary::cut(&corpus, &TokenizerSource::File(tokenizer), 5)
            .unwrap_err()
            .to_string()
            .contains("another model")
    );
}

#[test]
fn positions_and_a_pooler_nobody_reads_can_go() {
    let subject = ModelSource::open(&albert_deb()).unwrap();
    let config = Config {
        head: Head::None,
        labels: vec![],
        pooler: true,
        num_hidden_layers: 2,
        ..subject.config().clone()
    };
    let model = filled(config);
    let rows = [Row::sequence(&[2, 17, 30, 3]), Row::sequence(&[2, 5, 3])];
    let levers = Levers {
        drop_pooler: true,
        max_seq: Some(4),
        vocabulary: None,
    };
    let left = levers.apply(&model).unwrap();
    let bytes = |m: &Model| m.weights.values().map(|v| v.len() * 4).sum::<usize>();
    let (h, e) = (model.config.hidden_size, model.config.embedding_size);
    let cut = (model.config.max_position_embeddings - 4) * e + h * h + h;
    assert_eq!(bytes(&model) - bytes(&left), 4 * cut);
    for (a, b) in outputs(&model, &rows).iter().zip(outputs(&left, &rows)) {
        assert_eq!(a["last_hidden_state"], b["last_hidden_state"]);
        assert!(a.contains_key("pooler_output") && !b.contains_key("pooler_output"));
    }
    let image = image_of(&left).unwrap();
    assert!(
        runner::outputs(&image, &[Row::sequence(&[2, 5, 5, 5, 3])]).is_err(),
        "five tokens are one too many"
    );
    // Taken one by one, they are all there is.
    let one_by_one = levers
        .each()
        .iter()
        .fold(levers.clone(), |rest, (_, lever)| rest.but(lever));
    assert!(!one_by_one.any());
}

#[test]
fn levers_that_cannot_be_pulled_say_why() {
    let subject = ModelSource::open(&albert_deb()).unwrap();
    let model = subject.model().unwrap();
    let of = |levers: Levers, model: &Model| levers.apply(model).unwrap_err();
    let pooler = Levers {
        drop_pooler: true,
        ..Levers::default()
    };
    assert!(matches!(of(pooler.clone(), &model), LeverError::PoolerInUse { .. }));
    let bare = Config {
        head: Head::None,
        labels: vec![],
        pooler: false,
        ..model.config.clone()
    };
    assert_eq!(of(pooler, &filled(bare)), LeverError::NoPooler);
    for asked in [0, 1, 10_000] {
        let levers = Levers {
            max_seq: Some(asked),
            ..Levers::default()
        };
        assert!(matches!(of(levers, &model), LeverError::MaxSeq { .. }));
    }
    let mut encoded = model.into_owned();
    let numbers = encoded.weights["position"].to_f32();
    let rows = encoded.config.max_position_embeddings;
    encoded
        .weights
        .insert("position".into(), Values::round_to_nearest(Format::F16, &numbers, rows));
    let levers = Levers {
        max_seq: Some(8),
        ..Levers::default()
    };
    assert!(of(levers, &encoded).to_string().contains("position"));
}
