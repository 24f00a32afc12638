//! Pre-training: masked language modeling, and whether two segments are in order.

use super::{AnswerKind, ClassName, HeadRow, masked_lm};
use crate::model::config::Config;
use crate::model::network::{Extent, HeadSteps};
use crate::model::weight::{Role, WeightList};

pub(super) const ROW: HeadRow = HeadRow {
    name: "pre-training",
    flag: ("pretraining", "Masked language modeling and sentence order"),
    class: ClassName::OfFamily("ForPreTraining"),
    answer: AnswerKind::VocabularyAndOrder,
    answered_by: "prediction_logits",
    needs_pooler: true,
    has_decoder: true,
    has_labels: false,
    takes_choices: false,
    gives_hidden: false,
    told_by: &[ORDER],
    modules: &[],
    weights,
    steps,
};

/// Scores the order of two texts, `[2, hidden]`.
pub const ORDER: Role = Role::Head("sop");

fn weights(config: &Config, list: &mut WeightList) {
    masked_lm::weights(config, list);
    list.linear(ORDER, 2, config.hidden_size);
}

fn steps(config: &Config, head: &mut HeadSteps) {
    masked_lm::predictions(config, head, "prediction_logits");
    let pooled = head.pooled("pooled");
    let order = head.linear(ORDER, pooled, "sop_logits");
    head.output(order, Extent::Row(2));
}
