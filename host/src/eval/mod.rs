//! Measuring models: inputs, the runs, how far outputs are apart, and what they answer.

pub mod answer;
pub mod comparison;
pub mod dataset;
pub mod kept_outputs;
pub mod metrics;
pub mod pair_order;
pub mod runner;
