//! How much larger a model is than what it is held against, and which cause has what share in it.

use super::causes::{Account, is_substance};
use super::ledger::Cause;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// How many times as large it is.
    pub factor: f64,
    /// Bytes more; fewer below 0.
    pub bytes: i64,
    /// What the weights themselves take more. With `causes` it adds up to `bytes`.
    pub weights: Share,
    /// Everything else that is in the file.
    pub causes: BTreeMap<Cause, Share>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    pub bytes: i64,
    /// Of the growth; none where nothing has grown.
    pub share: Option<f64>,
}

impl Growth {
    pub fn of(account: &Account, against: u64) -> Growth {
        let total = account.total();
        let bytes = total as i64 - against as i64;
        let share = |part: i64| Share {
            bytes: part,
            share: (bytes > 0).then(|| part as f64 / bytes as f64),
        };
        let (substance, rest): (Vec<_>, Vec<_>) = account.causes.iter().partition(|(cause, _)| is_substance(**cause));
        let weights: u64 = substance.into_iter().map(|(_, n)| n).sum();
        Growth {
            factor: total as f64 / against as f64,
            bytes,
            weights: share(weights as i64 - against as i64),
            causes: rest.into_iter().map(|(&cause, &n)| (cause, share(n as i64))).collect(),
        }
    }
}
