//! Measuring a model on a board: timed runs, what the board did meanwhile, and what makes figures doubtful.

pub(crate) mod report;
pub mod timing;
pub(crate) mod warnings;

pub use report::DEFAULT_RUNS;
