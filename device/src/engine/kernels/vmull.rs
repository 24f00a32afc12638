//! int8 with VMULL, VMLAL and VPADAL, where a 32-bit Arm CPU has NEON (Cortex-A7, A9, A53 in 32-bit mode): products in i16, two or
//! four of which share a lane before they are gathered.

use super::arm::{clear_sums, has_neon, neon_asm};
use super::pack::Order;
use super::panels::by_panels;
use super::tiling::Tiling;
use super::{Fit, I8Product, I8Tile, I8Tiles, Row};
use thimble_shared::artifact::layout::{I8_DEPTH, I8_GROUP, PANEL_ROWS};

/// Tokens per tile: their accumulators, half a panel's weights of one step and the products fill all 16 registers.
const TOKENS: usize = 4;
/// Channels of half a panel.
const HALF: usize = PANEL_ROWS / 2;

pub const ROW: Row<I8Product> = Row {
    name: "vmull",
    runs: || Fit::where_there(has_neon()),
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

/// 8 channels × 4 tokens, four channels at a time, 16 inputs per step. Two products always fit an i16 lane (2 × 127 × 127, which is
/// why -128 is never stored); in steps of which `chains` says so (see [`super::fits_four`]), four do, and an eighth of the work goes.
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
    assert!(has_neon() && x.len() >= depth * TOKENS && depth > 0 && depth % I8_DEPTH == 0);
    let (x, steps): (*const i8, _) = (x.as_ptr().cast(), depth / I8_DEPTH);
    assert!(chains.len() >= w.len() / (depth * PANEL_ROWS) * steps);
    by_panels::<_, _, TOKENS>(w, depth, tokens.len(), out, stride, |p, w, out, stride| {
        let chains = chains[p * steps..][..steps].as_ptr();
        for half in [0, HALF] {
            // SAFETY: the CPU has NEON. Of `w`'s depth*8 bytes a half begins at the first or the second 16 of each 32; `x` has
            // depth*4, `chains` one per step, and the rows of `out` have room for eight.
            unsafe { vmull(w.as_ptr().add(half * I8_GROUP), chains, x, steps, out.add(half), stride) };
        }
    });
}

/// q0-q7 gather two registers a token, each channel as two partial sums, which the last VPADD joins. q8-q11 hold four groups of
/// four inputs for four channels, q14-q15 one token's inputs of each group, repeated; q12-q13 its products.
///
/// Not inlined, like the others, so that tools find its loop by its name.
///
/// # Safety
///
/// The CPU has NEON. `steps` is at least 1; of each of them `w` has four times 16 bytes, 32 bytes apart, `x` 64 and `chains` one;
/// `out` has room for four sums in each of four rows `stride` bytes apart.
#[inline(never)]
unsafe fn vmull(w: *const i8, chains: *const u8, x: *const i8, steps: usize, out: *mut i32, stride: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        neon_asm!(
            ".macro thimble_first w, wide, x",
            "vmull.s8 q12, d\\w, d\\x",
            "vmull.s8 q13, d\\wide, d\\x",
            ".endm",
            ".macro thimble_more w, wide, x",
            "vmlal.s8 q12, d\\w, d\\x",
            "vmlal.s8 q13, d\\wide, d\\x",
            ".endm",
            ".macro thimble_gather a, b",
            "vpadal.s16 q\\a, q12",
            "vpadal.s16 q\\b, q13",
            ".endm",
            ".macro thimble_fours a, b",
            "vld4.32 {{d28[], d29[], d30[], d31[]}}, [{x}]!",
            "thimble_first 16, 17, 28",
            "thimble_more 18, 19, 29",
            "thimble_more 20, 21, 30",
            "thimble_more 22, 23, 31",
            "thimble_gather \\a, \\b",
            ".endm",
            ".macro thimble_twos a, b",
            "vld4.32 {{d28[], d29[], d30[], d31[]}}, [{x}]!",
            "thimble_first 16, 17, 28",
            "thimble_more 18, 19, 29",
            "thimble_gather \\a, \\b",
            "thimble_first 20, 21, 30",
            "thimble_more 22, 23, 31",
            "thimble_gather \\a, \\b",
            ".endm",
            ".macro thimble_row low, high, a, b, c, d",
            "vpadd.i32 d\\low, d\\a, d\\b",
            "vpadd.i32 d\\high, d\\c, d\\d",
            "vst1.32 {{d\\low, d\\high}}, [{out}], {stride}",
            ".endm",
            clear_sums!("0, 1, 2, 3, 4, 5, 6, 7"),
            "2:",
            "vld1.8 {{d16, d17}}, [{w}], {next}",
            "vld1.8 {{d18, d19}}, [{w}], {next}",
            "ldrb {fits}, [{chains}], #1",
            "vld1.8 {{d20, d21}}, [{w}], {next}",
            "vld1.8 {{d22, d23}}, [{w}], {next}",
            "cmp {fits}, #0",
            "beq 3f",
            "thimble_fours 0, 1",
            "thimble_fours 2, 3",
            "thimble_fours 4, 5",
            "thimble_fours 6, 7",
            "subs {steps}, {steps}, #1",
            "bne 2b",
            "b 4f",
            "3:",
            "thimble_twos 0, 1",
            "thimble_twos 2, 3",
            "thimble_twos 4, 5",
            "thimble_twos 6, 7",
            "subs {steps}, {steps}, #1",
            "bne 2b",
            "4:",
            "thimble_row 16, 17, 0, 1, 2, 3",
            "thimble_row 18, 19, 4, 5, 6, 7",
            "thimble_row 20, 21, 8, 9, 10, 11",
            "thimble_row 22, 23, 12, 13, 14, 15",
            ".purgem thimble_first",
            ".purgem thimble_more",
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
            next = in(reg) PANEL_ROWS * I8_GROUP,
            fits = out(reg) _,
        );
    }
}
