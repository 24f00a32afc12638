//! The arithmetic in which attention multiplies: scores of queries and keys, and their weighted sums of values.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How attention's two products are computed. docs/arithmetic.md has the formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionArithmetic {
    /// In f32.
    #[default]
    F32,
    /// Of int8 numbers: queries, keys and values over the range of each token's head, weights over the range of each query's.
    Int8,
}

impl AttentionArithmetic {
    /// All of them.
    pub const ALL: [AttentionArithmetic; 2] = [AttentionArithmetic::F32, AttentionArithmetic::Int8];

    /// The version of the `thimble.graph` text that brought the newest of them.
    pub const SINCE: u32 = 4;

    /// The name in files and in options.
    pub fn name(self) -> &'static str {
        match self {
            AttentionArithmetic::F32 => "f32",
            AttentionArithmetic::Int8 => "int8",
        }
    }

    /// The version of the `thimble.graph` text that brought it.
    pub fn since(self) -> u32 {
        match self {
            AttentionArithmetic::F32 => 1,
            AttentionArithmetic::Int8 => AttentionArithmetic::SINCE,
        }
    }

    /// Whether it is the one that files do not name.
    pub(crate) fn is_unsaid(&self) -> bool {
        *self == AttentionArithmetic::default()
    }
}

impl fmt::Display for AttentionArithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for AttentionArithmetic {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let mut all = AttentionArithmetic::ALL.into_iter();
        all.find(|arithmetic| arithmetic.name() == s)
            .ok_or_else(|| format!("unknown arithmetic of attention '{s}'; known are f32 and int8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arithmetic_goes_by_its_name() {
        for arithmetic in AttentionArithmetic::ALL {
            assert_eq!(arithmetic.name().parse(), Ok(arithmetic));
            assert_eq!(serde_json::to_value(arithmetic).unwrap(), arithmetic.name());
        }
        assert!("int4".parse::<AttentionArithmetic>().is_err());
    }
}
