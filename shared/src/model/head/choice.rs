//! Multiple choice: one score a choice, from the pooled first token of each.

use super::{AnswerKind, ClassName, HeadRow};
use crate::model::config::Config;
use crate::model::network::{Extent, HeadSteps, Op};
use crate::model::weight::{Role, WeightList};

pub(super) const ROW: HeadRow = HeadRow {
    name: "multiple choice",
    flag: ("choice", "Multiple choice"),
    class: ClassName::OfFamily("ForMultipleChoice"),
    answer: AnswerKind::Choice,
    answered_by: "logits",
    needs_pooler: true,
    has_decoder: false,
    has_labels: false,
    takes_choices: true,
    gives_hidden: false,
    told_by: &[],
    modules: &[],
    weights,
    steps,
};

/// Scores a choice, `[1, hidden]`.
pub const CLASSIFIER: Role = Role::Head("classifier");

fn weights(config: &Config, list: &mut WeightList) {
    list.linear(CLASSIFIER, 1, config.hidden_size);
}

fn steps(_: &Config, head: &mut HeadSteps) {
    let pooled = head.pooled("pooled");
    let input = head.linear(CLASSIFIER, pooled, "choice_scores");
    let logits = head.step(Op::Choices { input }, "logits");
    head.output(logits, Extent::Choice);
}
