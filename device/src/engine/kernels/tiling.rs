//! How the rows of activations are cut into the tiles that a kernel takes at a time.

/// How many tokens lie side by side, and what happens to the last few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    pub tokens: usize,
    /// The last tile is filled up with zeros (tract's kernels) instead of being narrower (ours).
    pub padded: bool,
}

impl Tiling {
    pub fn tiles(self, rows: usize) -> usize {
        rows.div_ceil(self.tokens)
    }

    /// Tokens of tile `i` that are real.
    pub fn real(self, rows: usize, tile: usize) -> usize {
        self.tokens.min(rows - tile * self.tokens)
    }

    /// Tokens tile `i` has room for.
    pub fn width(self, rows: usize, tile: usize) -> usize {
        if self.padded {
            self.tokens
        } else {
            self.real(rows, tile)
        }
    }
}
