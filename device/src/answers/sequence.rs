//! One sequence of tokens to compute.

use thimble_shared::decode::Place;

/// Token ids and what is known of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    pub ids: Vec<i64>,
    /// All 0 when left out.
    pub types: Option<Vec<i64>>,
    /// Where the tokens lie in their text; empty where only ids are known.
    pub places: Vec<Place>,
}
