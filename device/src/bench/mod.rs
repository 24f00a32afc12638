//! Measuring a model on a board: timed runs, what the board did meanwhile, and what makes figures doubtful.

pub mod report;
pub mod timing;
pub mod warnings;
