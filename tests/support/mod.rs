//! What tests of several crates need: fixtures, .npy files, a tiny configuration. Each includes this file with `#[path]`, so that
//! no crate depends on another for its tests.

#![allow(dead_code)] // each test program uses its own part

use std::path::{Path, PathBuf};
use thimble_shared::model::sentence::{Dense, Pooling, Sentence};
use thimble_shared::model::{Activation, AttentionArithmetic, Config, Head, ModelFamily};

/// The path of a fixture, from any crate of the workspace.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

/// Shape and payload of a little-endian .npy file of version 1.
pub fn npy(path: &Path) -> (Vec<usize>, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let len = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let header = String::from_utf8(bytes[10..10 + len].to_vec()).unwrap();
    assert!(header.contains("'fortran_order': False"), "{header}");
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    let shape = shape.split(',').filter_map(|d| d.trim().parse().ok()).collect();
    (shape, bytes[10 + len..].to_vec())
}

/// A valid model of three layers in one group, with sizes that fill no panel, and what its head needs.
pub fn tiny(head: Head) -> Config {
    Config {
        family: ModelFamily::Albert,
        vocab_size: 97,
        embedding_size: 12,
        hidden_size: 24,
        num_hidden_layers: 3,
        num_hidden_groups: 1,
        inner_group_num: 1,
        num_attention_heads: 2,
        intermediate_size: 40,
        max_position_embeddings: 32,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        activation: Activation::GeluNew,
        head,
        tied_decoder: head.has_decoder(),
        pooler: head.needs_pooler(),
        multi_label: false,
        regression: false,
        hidden_shift: false,
        attention: AttentionArithmetic::F32,
        sentence: (head == Head::SentenceEmbedding).then(|| Sentence {
            pooling: vec![Pooling::Mean, Pooling::Max],
            dense: vec![Dense {
                size: 10,
                activation: Some(Activation::Tanh),
            }],
            normalize: true,
            max_tokens: Some(16),
            prompt: None,
        }),
        labels: match head.row().has_labels {
            true => vec!["a".into(), "b".into(), "c".into()],
            false => vec![],
        },
    }
}
