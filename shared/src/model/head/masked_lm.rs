//! Masked language modeling: a score for every token of the vocabulary, at every token.

use super::{AnswerKind, ClassName, HeadRow};
use crate::model::config::Config;
use crate::model::network::{Extent, HIDDEN, HeadSteps, Op, Value};
use crate::model::weight::{Kind, Role, Slot, WeightList};

pub(super) const ROW: HeadRow = HeadRow {
    name: "masked LM",
    flag: ("mlm", "Masked language modeling"),
    class: ClassName::OfFamily("ForMaskedLM"),
    answer: AnswerKind::Vocabulary,
    answered_by: "logits",
    needs_pooler: false,
    has_decoder: true,
    has_labels: false,
    takes_choices: false,
    gives_hidden: false,
    told_by: &[DENSE],
    modules: &[],
    weights,
    steps: |config, head| predictions(config, head, "logits"),
};

/// Before the norm, `[embedding, hidden]`.
pub const DENSE: Role = Role::Head("mlm.dense");
/// LayerNorm of width `embedding`.
pub const NORM: Role = Role::Head("mlm.norm");
/// Scores the vocabulary, `[vocab, embedding]`; absent where the word table is used.
pub const DECODER: Role = Role::Head("mlm.decoder");

pub(super) fn weights(config: &Config, list: &mut WeightList) {
    list.linear(DENSE, config.embedding_size, config.hidden_size);
    list.norm(NORM, config.embedding_size);
    if config.tied_decoder {
        list.push(DECODER, Slot::Bias, Kind::Vector, &[config.vocab_size]);
    } else {
        list.linear(DECODER, config.vocab_size, config.embedding_size);
    }
}

/// The scores, as the output `name`.
pub(super) fn predictions(config: &Config, head: &mut HeadSteps, name: Value) {
    let dense = Op::Linear {
        weight: DENSE,
        bias: DENSE,
        input: HIDDEN,
        activation: Some((config.activation, "mlm.hidden")),
    };
    let dense = head.step(dense, "mlm.act");
    let norm = Op::LayerNorm {
        norm: NORM,
        input: dense,
        residual: None,
    };
    let normed = head.step(norm, "mlm.normed");
    let decoder = Op::Linear {
        weight: if config.tied_decoder { Role::Word } else { DECODER },
        bias: DECODER,
        input: normed,
        activation: None,
    };
    head.step(decoder, name);
    head.output(name, Extent::Tokens(config.vocab_size));
}
