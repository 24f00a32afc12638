//! ALBERT: word, token type and position embeddings of a size of their own, projected to the hidden size, and groups of layers
//! that share their weights. Layers are BERT's.

use super::{Defaults, FamilyRow, Names, Sharing, SpecialIds};
use crate::model::config::Config;
use crate::model::head::{masked_lm, pretraining};
use crate::model::network::{self, HIDDEN, Step};
use crate::model::weight::{Role, WeightList};

pub(super) const ROW: FamilyRow = FamilyRow {
    name: "ALBERT",
    model_type: "albert",
    class: "Albert",
    since: 1,
    defaults: Defaults {
        vocab_size: 30000,
        embedding_size: Some(128),
        hidden_size: 4096,
        num_hidden_layers: 12,
        num_attention_heads: 64,
        intermediate_size: 16384,
        max_position_embeddings: 512,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_act: "gelu_new",
    },
    sharing: Sharing::Groups,
    refused: &[],
    // <pad> is 0 and <unk> 1.
    ids: SpecialIds {
        cls: 2,
        sep: 3,
        mask: 4,
        words: 5,
    },
    names: NAMES,
    embedding_weights,
    layer_weights: WeightList::post_norm_layer,
    embed,
    layer: network::post_norm_layer,
};

const NAMES: Names = Names {
    prefix: "albert.",
    layer: "encoder.albert_layer_groups.{group}.albert_layers.{inner}",
    modules: &[
        (Role::Word, "embeddings.word_embeddings"),
        (Role::Position, "embeddings.position_embeddings"),
        (Role::TokenType, "embeddings.token_type_embeddings"),
        (Role::EmbeddingNorm, "embeddings.LayerNorm"),
        (Role::Map, "encoder.embedding_hidden_mapping_in"),
        (Role::Query, "attention.query"),
        (Role::Key, "attention.key"),
        (Role::Value, "attention.value"),
        (Role::AttentionOutput, "attention.dense"),
        (Role::AttentionNorm, "attention.LayerNorm"),
        (Role::Up, "ffn"),
        (Role::Down, "ffn_output"),
        (Role::FeedForwardNorm, "full_layer_layer_norm"),
        (masked_lm::DENSE, "predictions.dense"),
        (masked_lm::NORM, "predictions.LayerNorm"),
        (masked_lm::DECODER, "predictions.decoder"),
        (pretraining::ORDER, "sop_classifier.classifier"),
    ],
    decoder_bias: "predictions.bias",
    mark: Some(Role::Map),
    hidden_size: (Role::Map, 0),
    // BERT's words, as lonepatient's albert_pytorch and its descendants have them.
    respelled_in_layer: &[
        ("attention.self.query", "attention.query"),
        ("attention.self.key", "attention.key"),
        ("attention.self.value", "attention.value"),
        ("attention.self.dense", "attention.dense"),
        ("attention.output.dense", "attention.dense"),
        ("attention.self.LayerNorm", "attention.LayerNorm"),
        ("attention.output.LayerNorm", "attention.LayerNorm"),
        ("intermediate.dense", "ffn"),
        ("output.dense", "ffn_output"),
        ("output.LayerNorm", "full_layer_layer_norm"),
        ("ffn.dense", "ffn"),
    ],
    respelled: &[
        ("pooler.dense", "pooler"),
        ("cls.predictions.transform.dense", "predictions.dense"),
        ("cls.predictions.transform.LayerNorm", "predictions.LayerNorm"),
        ("cls.predictions.decoder", "predictions.decoder"),
        ("cls.predictions", "predictions"),
        ("cls.seq_relationship", "sop_classifier.classifier"),
    ],
    only_layer: Some("encoder.layer_shared"),
    // The first takes off what a TensorFlow Hub module puts before each name.
    // transformers/models/albert/modeling_albert.py, `load_tf_weights_in_albert`.
    tensorflow: &[
        ("module/", ""),
        ("ffn_1", "ffn"),
        ("bert/", "albert/"),
        ("attention_1", "attention"),
        ("transform/", ""),
        ("LayerNorm_1", "full_layer_layer_norm"),
        ("LayerNorm", "attention/LayerNorm"),
        ("transformer/", ""),
        ("intermediate/dense/", ""),
        ("ffn/intermediate/output/dense/", "ffn_output/"),
        ("/output/", "/"),
        ("/self/", "/"),
        ("pooler/dense", "pooler"),
        ("cls/predictions", "predictions"),
        ("predictions/attention", "predictions"),
        ("embeddings/attention", "embeddings"),
        ("inner_group_", "albert_layers/"),
        ("group_", "albert_layer_groups/"),
    ],
};

fn embedding_weights(list: &mut WeightList, config: &Config) {
    list.embeddings(config);
    list.linear(Role::Map, config.hidden_size, config.embedding_size);
}

fn embed() -> Vec<Step> {
    let mut steps = network::embeddings("embed");
    steps.push(network::step(network::linear(Role::Map, "embed", None), HIDDEN));
    steps
}
