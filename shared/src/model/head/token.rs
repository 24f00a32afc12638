//! Token classification: one score a label, at every token.

use super::{AnswerKind, ClassName, HeadRow};
use crate::model::config::Config;
use crate::model::network::{Extent, HIDDEN, HeadSteps};
use crate::model::weight::{Role, WeightList};

pub(super) const ROW: HeadRow = HeadRow {
    name: "token classification",
    flag: ("token", "Token classification"),
    class: ClassName::OfFamily("ForTokenClassification"),
    answer: AnswerKind::TokenLabels,
    answered_by: "logits",
    needs_pooler: false,
    has_decoder: false,
    has_labels: true,
    takes_choices: false,
    gives_hidden: false,
    told_by: &[CLASSIFIER],
    modules: &[],
    weights,
    steps,
};

/// Scores the labels at every token, `[labels, hidden]`.
pub const CLASSIFIER: Role = Role::Head("classifier");

fn weights(config: &Config, list: &mut WeightList) {
    list.linear(CLASSIFIER, config.labels.len(), config.hidden_size);
}

fn steps(config: &Config, head: &mut HeadSteps) {
    let logits = head.linear(CLASSIFIER, HIDDEN, "logits");
    head.output(logits, Extent::Tokens(config.labels.len()));
}
