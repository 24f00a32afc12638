//! No head: hidden states, and the pooler's output where there is a pooler.

use super::HeadRow;
use crate::model::config::Config;
use crate::model::network::{Extent, HIDDEN, HeadSteps, Op};
use crate::model::weight::{Role, WeightList};

pub(super) const ROW: HeadRow = HeadRow {
    name: "none",
    class: "AlbertModel",
    needs_pooler: false,
    has_decoder: false,
    has_labels: false,
    takes_choices: false,
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
        head.step(Op::AddVector { input, vector }, "last_hidden_state");
    }
    head.output("last_hidden_state", Extent::Tokens(config.hidden_size));
    if config.pooler {
        let pooled = head.pooled("pooler_output");
        head.output(pooled, Extent::Row(config.hidden_size));
    }
}
