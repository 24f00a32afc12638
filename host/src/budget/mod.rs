//! The byte budget: which format each family of weights takes, so that the file fits and the measured loss is least.

pub(crate) mod answer;
pub(crate) mod attention;
pub(crate) mod branch_and_bound;
pub(crate) mod candidates;
pub(crate) mod chart;
pub mod error;
pub(crate) mod frontier;
pub(crate) mod integer_arithmetic;
pub(crate) mod loss_cache;
pub(crate) mod memory_need;
pub mod preparations;
pub mod problem;
pub(crate) mod question;
pub(crate) mod sensitivity;
pub(crate) mod sizes;
pub mod solver;
pub(crate) mod surrogate;
