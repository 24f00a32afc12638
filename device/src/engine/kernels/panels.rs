//! What the kernels for Arm share, 64-bit and 32-bit ones: a tile of sums, panel by panel.

use super::tiling::Tiling;
use thimble_shared::artifact::layout::PANEL_ROWS;

/// Eight tokens, the last ones filled up.
pub const EIGHT: Tiling = Tiling {
    tokens: 8,
    padded: true,
};

/// Calls `kernel(panel's number, panel, out, bytes from row to row)` for each panel of `w`. The kernel writes all `T` rows of
/// eight sums; where fewer tokens are real, into a tile of which their rows are kept.
pub fn by_panels<W, S: Copy + Default, const T: usize>(
    w: &[W],
    depth: usize,
    tokens: usize,
    out: &mut [S],
    stride: usize,
    kernel: impl Fn(usize, &[W], *mut S, usize),
) {
    let panels = w.chunks_exact(depth * PANEL_ROWS);
    assert!((1..=T).contains(&tokens) && out.len() >= (tokens - 1) * stride + panels.len() * PANEL_ROWS);
    for (p, w) in panels.enumerate() {
        let at = p * PANEL_ROWS;
        if tokens == T {
            // Rows at + t*stride, eight sums each, lie in `out` by the assertion.
            kernel(p, w, out[at..].as_mut_ptr(), stride * size_of::<S>());
            continue;
        }
        let mut tile = [[S::default(); PANEL_ROWS]; T];
        kernel(p, w, tile.as_mut_ptr().cast(), PANEL_ROWS * size_of::<S>());
        for (t, row) in tile.iter().take(tokens).enumerate() {
            out[t * stride + at..][..PANEL_ROWS].copy_from_slice(row);
        }
    }
}
