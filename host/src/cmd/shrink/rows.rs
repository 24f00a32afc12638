//! The rows that `thimble shrink` measures on: read, cut to what the model takes, and split into those that a choice is made on and
//! those that its loss is reported on.

use super::ShrinkArgs;
use crate::eval::dataset::{self, Dataset, Row};
use crate::eval::runner::Vocabulary;
use crate::models::model_file::ModelSource;
use crate::quantize::prune::Levers;
use crate::render::text::{remark, say};
use anyhow::{Error, Result};
use std::collections::BTreeSet;
use thimble_shared::model::Config;

/// Rows the loss is reported on, beside those the choice is made on.
const REPORT_ROWS: usize = 256;
/// With fewer rows than this, choice and report share them all.
pub(super) const SPLIT_FROM: usize = 16;

/// Different inputs, short enough for what the levers leave.
pub(super) fn load(args: &ShrinkArgs, config: &Config, levers: &Levers, source: &ModelSource) -> Result<Dataset> {
    let config = Config {
        max_position_embeddings: levers.max_seq.unwrap_or(config.max_position_embeddings),
        ..config.clone()
    };
    let most = args.rows.saturating_add(REPORT_ROWS);
    let path = args.calibrate.as_deref();
    let options = (args.rows_of)
        .options(("--calibrate", path.is_some()))
        .map_err(Error::msg)?;
    let mut inputs = dataset::load_with(path, &config, source.tokenizer(), Some(most), &options)?;
    inputs.read_as.iter().for_each(|form| remark(&format!("note: {form}")));
    if !inputs.given {
        say("warning: no --calibrate: the loss is measured on made-up token sequences and says little about real text");
    }
    inputs.warnings().iter().for_each(|w| say(&format!("warning: {w}")));
    if inputs.truncated > 0 {
        say(&format!(
            "warning: {} texts were longer than the model's positions and were cut, the longer of a pair first",
            inputs.truncated
        ));
    }
    let repeats = inputs.drop_repeats();
    if repeats > 0 {
        remark(&format!("note: {repeats} inputs that repeat another were left out"));
    }
    if inputs.rows.len() < SPLIT_FROM {
        say(&format!(
            "warning: {} different inputs are too few to hold any out: the loss is reported on the rows it was chosen on",
            inputs.rows.len()
        ));
    }
    Ok(inputs)
}

pub(super) fn warn_of_lost_tokens(vocabulary: &Vocabulary, inputs: &Dataset) {
    let kept: BTreeSet<i64> = vocabulary.kept.iter().map(|&id| id as i64).collect();
    let lost = |row: &&Row| row.input_ids.iter().any(|id| !kept.contains(id));
    match inputs.rows.iter().filter(lost).count() {
        0 => {}
        count => say(&format!(
            "warning: {count} of {} inputs hold tokens that --vocab-from never produces; they are measured with unknown tokens in their place",
            inputs.rows.len()
        )),
    }
}

/// Rows to choose on and rows to report on: apart where there are enough, so that no loss is reported on rows tuned on.
pub fn split(inputs: &Dataset, tune: usize) -> (Vec<Row>, Vec<Row>) {
    let rows = &inputs.rows;
    if rows.len() < SPLIT_FROM {
        return (rows.clone(), rows.clone());
    }
    let chosen: BTreeSet<usize> = dataset::sample(rows.len(), tune.min(rows.len() / 2))
        .into_iter()
        .collect();
    let pick = |want: bool| {
        let side = rows.iter().enumerate().filter(|(i, _)| chosen.contains(i) == want);
        side.map(|(_, row)| row.clone()).collect()
    };
    (pick(true), pick(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_tuned_on_and_rows_reported_on_are_apart_even_if_inputs_repeat() {
        let rows = (0..90).map(|i| Row::sequence(&[2, 5 + i % 40, 3])).collect();
        let mut inputs = Dataset {
            rows,
            ..Dataset::default()
        };
        assert_eq!(inputs.drop_repeats(), 50);
        let (tune, report) = split(&inputs, 30);
        assert_eq!((tune.len(), report.len()), (20, 20), "half of them at most");
        assert!(tune.iter().all(|row| !report.contains(row)));
        assert_eq!(split(&inputs, 30), (tune, report), "the same every time");
        inputs.rows.truncate(SPLIT_FROM - 1);
        let (tune, report) = split(&inputs, 30);
        assert_eq!(tune, report);
    }
}
