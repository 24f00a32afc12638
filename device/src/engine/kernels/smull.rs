//! int8 with SMULL, SMLAL and SADALP, which every aarch64 has (Cortex-A53, A57, A72): products in i16, two or four of which share
//! a lane before they are gathered.

use super::aarch64::{clear_sums, tile_asm};
use super::pack::Order;
use super::panels::by_panels;
use super::tiling::Tiling;
use super::{Fit, I8Product, I8Tile, I8Tiles, Row};
use thimble_shared::artifact::layout::{I8_DEPTH, PANEL_ROWS};

/// Tokens per tile: their accumulators, the weights of one step and the products fill all 32 registers.
const TOKENS: usize = 4;

pub const ROW: Row<I8Product> = Row {
    name: "smull",
    runs: || Fit::Runs,
    tiling: Tiling {
        tokens: TOKENS,
        padded: true,
    },
    product: I8Product::Tiles(I8Tiles {
        order: Order::Blocks,
        asks_for_chains: true,
        multiply,
    }),
};

/// 8 channels × 4 tokens, 16 inputs per step. Two products always fit an i16 lane (2 × 127 × 127, which is why -128
/// is never stored); in steps of which `chains` says so (see [`super::fits_four`]), four do, and a fifth of the work goes.
/// `x` is a tile `[depth/16][4][16]`; only `tokens` rows are written.
fn multiply(tile: I8Tile<'_>) {
    let I8Tile {
        w,
        chains,
        x,
        tokens,
        depth,
        out,
        stride,
    } = tile;
    assert!(x.len() >= depth * TOKENS && depth > 0 && depth % I8_DEPTH == 0);
    let (x, steps): (*const i8, _) = (x.as_ptr().cast(), depth / I8_DEPTH);
    assert!(chains.len() >= w.len() / (depth * PANEL_ROWS) * steps);
    by_panels::<_, _, TOKENS>(w, depth, tokens.len(), out, stride, |p, w, out, stride| {
        let chains = chains[p * steps..][..steps].as_ptr();
        // SAFETY: `w` has depth*8 bytes, `x` depth*4, both multiples of what one step reads; `chains` has one byte per step,
        // `out` four rows.
        unsafe { smull(w.as_ptr(), chains, x, steps, out, stride) };
    });
}

/// v0-v7 hold four groups of four inputs for eight channels, v8-v11 one token's inputs of each group, repeated; v12-v15 its
/// products. Each channel gathers as two partial sums, which the last ADDP joins.
///
/// Not inlined, like the others, so that tools find its loop by its name.
///
/// # Safety
///
/// `steps` is at least 1; of each of them `w` has 128 bytes, `x` 64 and `chains` one; `out` has room for eight sums in each of
/// four rows `stride` bytes apart. NEON is part of aarch64.
#[inline(never)]
unsafe fn smull(w: *const i8, chains: *const u8, x: *const i8, steps: usize, out: *mut i32, stride: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        tile_asm!(
            ".macro thimble_products op, low, high, x",
            "\\op v12.8h, v\\low\\().8b, v\\x\\().8b",
            "\\op\\()2 v13.8h, v\\low\\().16b, v\\x\\().16b",
            "\\op v14.8h, v\\high\\().8b, v\\x\\().8b",
            "\\op\\()2 v15.8h, v\\high\\().16b, v\\x\\().16b",
            ".endm",
            ".macro thimble_gather a, b, c, d",
            "sadalp v\\a\\().4s, v12.8h",
            "sadalp v\\b\\().4s, v13.8h",
            "sadalp v\\c\\().4s, v14.8h",
            "sadalp v\\d\\().4s, v15.8h",
            ".endm",
            ".macro thimble_fours a, b, c, d",
            "ld4r {{v8.4s-v11.4s}}, [{x}], #16",
            "thimble_products smull, 0, 1, 8",
            "thimble_products smlal, 2, 3, 9",
            "thimble_products smlal, 4, 5, 10",
            "thimble_products smlal, 6, 7, 11",
            "thimble_gather \\a, \\b, \\c, \\d",
            ".endm",
            ".macro thimble_twos a, b, c, d",
            "ld4r {{v8.4s-v11.4s}}, [{x}], #16",
            "thimble_products smull, 0, 1, 8",
            "thimble_products smlal, 2, 3, 9",
            "thimble_gather \\a, \\b, \\c, \\d",
            "thimble_products smull, 4, 5, 10",
            "thimble_products smlal, 6, 7, 11",
            "thimble_gather \\a, \\b, \\c, \\d",
            ".endm",
            ".macro thimble_row a, b, c, d",
            "addp v0.4s, v\\a\\().4s, v\\b\\().4s",
            "addp v1.4s, v\\c\\().4s, v\\d\\().4s",
            "stp q0, q1, [{out}]",
            "add {out}, {out}, {stride}",
            ".endm",
            clear_sums!(),
            "2:",
            "ld1 {{v0.16b-v3.16b}}, [{w}], #64",
            "ld1 {{v4.16b-v7.16b}}, [{w}], #64",
            "ldrb {fits:w}, [{chains}], #1",
            "subs {steps}, {steps}, #1",
            "cbz {fits:w}, 3f",
            "thimble_fours 16, 17, 18, 19",
            "thimble_fours 20, 21, 22, 23",
            "thimble_fours 24, 25, 26, 27",
            "thimble_fours 28, 29, 30, 31",
            "b.ne 2b",
            "b 4f",
            "3:",
            "thimble_twos 16, 17, 18, 19",
            "thimble_twos 20, 21, 22, 23",
            "thimble_twos 24, 25, 26, 27",
            "thimble_twos 28, 29, 30, 31",
            "b.ne 2b",
            "4:",
            "thimble_row 16, 17, 18, 19",
            "thimble_row 20, 21, 22, 23",
            "thimble_row 24, 25, 26, 27",
            "thimble_row 28, 29, 30, 31",
            ".purgem thimble_products",
            ".purgem thimble_gather",
            ".purgem thimble_fours",
            ".purgem thimble_twos",
            ".purgem thimble_row",
            w = inout(reg) w => _,
            chains = inout(reg) chains => _,
            x = inout(reg) x => _,
            steps = inout(reg) steps => _,
            out = inout(reg) out => _,
            stride = in(reg) stride,
            fits = out(reg) _,
        );
    }
}
