//! What is asked of a budget: which model, which rows, which formats.

use crate::budget::problem::Problem;
use crate::eval::dataset::Row;
use crate::eval::metrics::Objective;
use crate::eval::runner::Vocabulary;
use thimble_shared::artifact::Provenance;
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::dtype::Format;
use thimble_shared::model::{AttentionArithmetic, Config, Kind, Model};

/// Never fewer rows than this, if there are as many.
const SENSE_ROWS: usize = 8;

/// The question, whatever the budget.
pub struct Question<'a> {
    /// The model as it came; what results are compared with.
    pub original: &'a Model,
    /// What is to be made smaller: the original, or what the levers left of it.
    pub source: &'a Model,
    /// How the source's vocabulary differs from the original's.
    pub vocabulary: Option<&'a Vocabulary>,
    /// Rows the choice is made on, in the original's ids.
    pub tune: &'a [Row],
    /// Rows its loss is reported on.
    pub report: &'a [Row],
    pub formats: &'a [Format],
    /// Linear weights take only those of the formats whose arithmetic is in integers.
    pub integers_only: bool,
    /// The arithmetic of attention that choices are measured in.
    pub attention: AttentionArithmetic,
    pub objective: Objective,
    pub onnx: LowerOptions,
    pub provenance: &'a Provenance,
}

impl Question<'_> {
    /// The families of a network made of the source, and the formats on offer to each.
    pub fn unmeasured(&self, config: &Config) -> Problem {
        let mut problem = Problem::unmeasured(config, self.formats);
        if self.integers_only {
            problem.keep_to_integers();
        }
        problem
    }
}

/// Multiply-accumulates of the linear maps for the rows.
pub fn work(config: &Config, rows: &[Row]) -> usize {
    let tokens: usize = rows.iter().map(|row| row.input_ids.len()).sum();
    let linear = config.weights().into_iter().filter(|w| w.kind == Kind::Linear);
    let weights: usize = linear.map(|w| w.elements()).sum();
    weights
        .saturating_mul(config.num_hidden_layers)
        .saturating_mul(tokens)
        .max(1)
}

/// As many of the tuning rows as `evaluations` of the model on each may take `most` multiply-accumulates for.
pub fn affordable_rows(question: &Question, most: usize, evaluations: usize) -> usize {
    let all = question.tune.len();
    let each = work(&question.source.config, question.tune) / all.max(1);
    let rows = most / each.max(1) / evaluations.max(1);
    rows.clamp(SENSE_ROWS.min(all), all)
}
