//! The kernels in plain Rust: what every other kernel is compared with, and what runs where nothing better does. One
//! call multiplies a few panels by one tile of tokens into `out[token][8 × panels]`, `out` rows being `stride` apart.

use super::pack::Order;
use super::{F32Product, F32Tiles, Fit, I8Product, I8Tiles, OWN_4, OWN_8, Row};
use thimble_shared::artifact::layout::{I8_GROUP, PANEL_ROWS};

pub const F32: Row<F32Product> = Row {
    name: "portable",
    runs: || Fit::Runs,
    tiling: OWN_8,
    product: F32Product::Tiles(F32_TILES),
};

pub const I8: Row<I8Product> = Row {
    name: "portable",
    runs: || Fit::Runs,
    tiling: OWN_4,
    product: I8Product::Tiles(I8_TILES),
};

pub const F32_TILES: F32Tiles = F32Tiles {
    f32: |tile| f32_tile(tile.w, tile.x, tile.k, tile.tokens, tile.out, tile.stride),
    f16: None,
};

pub const I8_TILES: I8Tiles = I8Tiles {
    order: Order::Groups,
    asks_for_chains: false,
    multiply: |tile| {
        let (x, tokens) = (bytemuck::cast_slice(tile.x), tile.tokens.len());
        i8_tile(tile.w, x, tile.depth, tokens, tile.out, tile.stride);
    },
};

/// `w` holds whole panels `[k][8]`, `x` one tile `[k][token]`.
fn f32_tile(w: &[f32], x: &[f32], k: usize, tokens: usize, out: &mut [f32], stride: usize) {
    for (p, panel) in w.chunks_exact(k * PANEL_ROWS).enumerate() {
        for t in 0..tokens {
            let mut acc = [0f32; PANEL_ROWS];
            for (row, x) in panel
                .as_chunks::<PANEL_ROWS>()
                .0
                .iter()
                .zip(x[t..].iter().step_by(tokens))
            {
                for (a, w) in acc.iter_mut().zip(row) {
                    *a += w * x;
                }
            }
            out[t * stride + p * PANEL_ROWS..][..PANEL_ROWS].copy_from_slice(&acc);
        }
    }
}

/// `w` holds whole panels `[depth/4][8][4]`, `x` one tile `[depth/4][token][4]`.
fn i8_tile(w: &[i8], x: &[i8], depth: usize, tokens: usize, out: &mut [i32], stride: usize) {
    let x = x.as_chunks::<I8_GROUP>().0;
    for (p, panel) in w.chunks_exact(depth * PANEL_ROWS).enumerate() {
        let groups = panel.as_chunks::<{ PANEL_ROWS * I8_GROUP }>().0;
        for t in 0..tokens {
            let mut acc = [0i32; PANEL_ROWS];
            for (w, x) in groups.iter().zip(x[t..].iter().step_by(tokens)) {
                for (a, w) in acc.iter_mut().zip(w.as_chunks::<I8_GROUP>().0) {
                    *a += w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum::<i32>();
                }
            }
            out[t * stride + p * PANEL_ROWS..][..PANEL_ROWS].copy_from_slice(&acc);
        }
    }
}
