//! No head: hidden states, and the pooler's output where there is a pooler.

use super::{AnswerKind, ClassName, HeadRow};
use crate::model::config::Config;
use crate::model::network::{Extent, HIDDEN, HIDDEN_STATES, HeadSteps, Op};
use crate::model::weight::{Role, WeightList};

pub(super) const ROW: HeadRow = HeadRow {
    name: "none",
    flag: ("none", "Hidden states, and the pooler's output where there is a pooler"),
    class: ClassName::OfFamily("Model"),
    answer: AnswerKind::Hidden,
    answered_by: HIDDEN_STATES,
    needs_pooler: false,
    has_decoder: false,
    has_labels: false,
    takes_choices: false,
    gives_hidden: true,
    told_by: &[],
    modules: &[],
    weights,
    steps,
};

fn weights(config: &Config, list: &mut WeightList) {
    if config.hidden_shift {
        list.vector(Role::HiddenShift, config.hidden_size);
    }
}

fn steps(config: &Config, head: &mut HeadSteps) {
    if config.hidden_shift {
        let (input, vector) = (HIDDEN, Role::HiddenShift);
        head.step(Op::AddVector { input, vector }, HIDDEN_STATES);
    }
    head.output(HIDDEN_STATES, Extent::Tokens(config.hidden_size));
    if config.pooler {
        let pooled = head.pooled("pooler_output");
        head.output(pooled, Extent::Row(config.hidden_size));
    }
}
