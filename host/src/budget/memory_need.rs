//! Memory that `thimble shrink` takes, from a model's shape alone, and the word for a user whose machine has not got it. In: a
//! configuration, the formats on offer and the rows; out: bytes at the peak, which the tests hold to what the kernel counts.

use crate::budget::error::BudgetError;
use crate::eval::dataset::Row;
use crate::fs::ram;
use crate::quantize::gptq;
use crate::render::text::exact;
use std::collections::BTreeSet;
use thimble_shared::artifact::tensors::weight_bytes;
use thimble_shared::board::memory::{self, Work};
use thimble_shared::dtype::Format;
use thimble_shared::model::{Config, Kind, Role, Slot, WeightSpec};

/// The program itself, its tokenizer and what it holds beside the model.
const PROGRAM: u64 = 32 << 20;

/// What is asked of the solver.
pub struct Task<'a> {
    pub config: &'a Config,
    pub formats: &'a [Format],
    /// Rows of the longest sequences that are run.
    pub rows: &'a [Row],
    /// Whether numbers are rounded with regard to the rows.
    pub calibrated: bool,
}

/// Bytes at the peak, beside the model in f32.
fn beside_the_model(task: &Task) -> u64 {
    let config = task.config;
    let weights = config.weights();
    let in_format = |format: Format| -> u64 {
        let format_of = |w: &WeightSpec| if w.kind == Kind::Vector { Format::F32 } else { format };
        weights.iter().map(|w| weight_bytes(w, format_of(w)) as u64).sum()
    };
    // One candidate at a time, as large as the original at most.
    let image = in_format(Format::F32);
    // All int8 formats have the same numbers, which are held once.
    let rounded = task.formats.iter().filter(|f| f.has_scales());
    let rounded: BTreeSet<Format> = rounded.map(|f| f.row().numbers).collect();
    let encoded: u64 = rounded.iter().map(|&f| in_format(f)).sum();
    let [moments, waiting] = if task.calibrated { gptq::bytes(config) } else { [0; 2] };
    // Two quantizers are held: what was best so far and what is tried, which gathers moments if it calibrates; later the
    // chosen one and the source's own, rounded to nearest for comparison.
    image + moments + waiting + 2 * encoded + channels(&weights) + activations(task)
}

/// Weights that exist once more with their channels rescaled or split.
fn channels(weights: &[WeightSpec]) -> u64 {
    const MOVED: [Role; 5] = [Role::Map, Role::Value, Role::AttentionOutput, Role::Up, Role::Down];
    let moved = |w: &&WeightSpec| w.slot == Slot::Whole && MOVED.contains(&w.role);
    weights.iter().filter(moved).map(|w| 4 * w.elements() as u64).sum()
}

/// What the engines of all cores hold for the longest row, its outputs included.
fn activations(task: &Task) -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let longest = task.rows.iter().map(|row| row.input_ids.len()).max().unwrap_or(1);
    let work = Work {
        rows: 1,
        seq: longest,
        threads: 1,
    };
    let each = memory::activations(task.config, task.formats, work);
    each.saturating_mul(threads.min(task.rows.len().max(1)) as u64)
}

/// An error where this machine has less memory than the task will take from here on, the model being in memory already.
///
/// # Errors
/// What is needed, what there is, and what would help.
pub fn check(task: &Task) -> Result<(), BudgetError> {
    let need = PROGRAM.saturating_add(beside_the_model(task));
    // Some evaluate, and some multiply for them.
    let threads = 2 * std::thread::available_parallelism().map_or(1, |n| n.get());
    match ram::available(threads) {
        Some(available) if available.bytes < need => Err(BudgetError::Memory {
            need: exact(need),
            available: exact(available.bytes),
            remedy: available
                .remedy(need)
                .unwrap_or_else(|| "close other programs, or use a machine with more".to_string()),
            by: available.by,
        }),
        _ => Ok(()),
    }
}
