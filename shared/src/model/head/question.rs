//! Extractive question answering: scores for the first and the last token of the answer.

use super::{AnswerKind, ClassName, HeadRow};
use crate::model::config::Config;
use crate::model::network::{Extent, HIDDEN, HeadSteps, Op};
use crate::model::weight::{Role, WeightList};

pub(super) const ROW: HeadRow = HeadRow {
    name: "question answering",
    flag: ("qa", "Extractive question answering"),
    class: ClassName::OfFamily("ForQuestionAnswering"),
    answer: AnswerKind::Span,
    answered_by: "start_logits",
    needs_pooler: false,
    has_decoder: false,
    has_labels: false,
    takes_choices: false,
    gives_hidden: false,
    told_by: &[SPAN],
    modules: &[(SPAN, "qa_outputs")],
    weights,
    steps,
};

/// Scores start and end at every token, `[2, hidden]`.
pub const SPAN: Role = Role::Head("qa");

fn weights(config: &Config, list: &mut WeightList) {
    list.linear(SPAN, 2, config.hidden_size);
}

fn steps(_: &Config, head: &mut HeadSteps) {
    let spans = head.linear(SPAN, HIDDEN, "spans");
    for (column, name) in ["start_logits", "end_logits"].into_iter().enumerate() {
        let logits = head.step(Op::Column { input: spans, column }, name);
        head.output(logits, Extent::Token);
    }
}
