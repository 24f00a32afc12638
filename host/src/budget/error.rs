//! Why a budget has no answer.

use crate::eval::error::EvalError;
use crate::models::image::ImageError;
use crate::quantize::error::QuantizeError;
use thimble_shared::artifact::ArtifactError;

/// Why a model could not be fitted into a budget.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// Candidates could not be run or compared.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A candidate's numbers could not be prepared or rounded.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// A candidate could not be laid out in memory.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A candidate's file could not be laid out, so it has no size.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The source cannot be prepared in any way, its own included.
    #[error("there is no model to make smaller")]
    NoModel,
    /// No format on offer suits a family of weights.
    #[error("--formats {offered}: none of them suits {family}")]
    NoFormat {
        /// The formats on offer, separated by commas.
        offered: String,
        /// The family.
        family: &'static str,
    },
    /// Every choice that fits gives NaN or infinities on the tuning rows.
    #[error("{}", crate::budget::answer::NOTHING_FINITE)]
    NothingFinite,
    /// The machine has less memory than the search takes.
    #[error(
        "shrink takes {need} of memory for this model beyond the model itself, and there are {available} ({by}); {remedy}, or ask for \
         less: --nearest gathers no statistics, fewer --formats keep fewer encodings"
    )]
    Memory {
        /// Bytes needed, as text.
        need: String,
        /// Bytes available, as text.
        available: String,
        /// What limits them.
        by: String,
        /// What gives more.
        remedy: String,
    },
}
