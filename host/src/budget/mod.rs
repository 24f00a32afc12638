//! The byte budget: which format each family of weights takes, so that the file fits and the measured loss is least.

pub mod answer;
pub mod branch_and_bound;
pub mod candidates;
pub mod chart;
pub mod frontier;
pub mod integer_arithmetic;
pub mod loss_cache;
pub mod memory_need;
pub mod preparations;
pub mod problem;
pub mod question;
pub mod sensitivity;
pub mod sizes;
pub mod solver;
pub mod surrogate;
