//! Sequence classification and regression: one score a label, from the pooled first token.

use super::{AnswerKind, ClassName, HeadRow};
use crate::model::config::Config;
use crate::model::network::{Extent, HeadSteps};
use crate::model::weight::{Role, WeightList};

pub(super) const ROW: HeadRow = HeadRow {
    name: "sequence classification",
    flag: ("sequence", "Sequence classification or regression"),
    class: ClassName::OfFamily("ForSequenceClassification"),
    answer: AnswerKind::Labels,
    answered_by: "logits",
    needs_pooler: true,
    has_decoder: false,
    has_labels: true,
    takes_choices: false,
    gives_hidden: false,
    told_by: &[CLASSIFIER, Role::Pooler],
    modules: &[],
    weights,
    steps,
};

/// Scores the labels, `[labels, hidden]`.
pub const CLASSIFIER: Role = Role::Head("classifier");

fn weights(config: &Config, list: &mut WeightList) {
    list.linear(CLASSIFIER, config.labels.len(), config.hidden_size);
}

fn steps(config: &Config, head: &mut HeadSteps) {
    let pooled = head.pooled("pooled");
    let logits = head.linear(CLASSIFIER, pooled, "logits");
    head.output(logits, Extent::Row(config.labels.len()));
}
