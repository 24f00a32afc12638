//! Measuring models: inputs, the runs, how far outputs are apart, and what they answer.

pub mod answer;
pub mod columns;
pub mod comparison;
pub mod dataset;
pub(crate) mod digest;
pub mod error;
pub(crate) mod kept_outputs;
pub mod metrics;
pub mod pair_order;
pub mod record;
pub mod records;
pub mod runner;
mod sums;
mod table;
