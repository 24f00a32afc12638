//! f32 with VMLA, where a 32-bit Arm CPU has NEON. Attention multiplies small matrices with it: a call costs little.

use super::arm::{clear_sums, has_neon, neon_asm};
use super::panels::{EIGHT, by_panels};
use super::{F32Product, F32Tile, F32Tiles, Fit, Row};
use thimble_shared::artifact::layout::PANEL_ROWS;

/// Tokens that pass at a time: their sums, weights and inputs fill the registers.
const HALF: usize = EIGHT.tokens / 2;

pub const ROW: Row<F32Product> = Row {
    name: "vmla",
    runs: || Fit::where_there(has_neon()),
    tiling: EIGHT,
    product: F32Product::Tiles(F32Tiles {
        f32: multiply,
        f16: None,
    }),
};

/// 8 channels × 8 tokens, four tokens at a time. The tile is filled up to eight tokens; only the real ones' rows are written.
fn multiply(tile: F32Tile<'_, f32>) {
    let F32Tile {
        w,
        x,
        k,
        tokens,
        out,
        stride,
    } = tile;
    assert!(has_neon() && k > 0 && x.len() >= k * EIGHT.tokens);
    by_panels::<_, _, { EIGHT.tokens }>(w, k, tokens, out, stride, |_, w, out, stride| {
        assert!(w.len() >= k * PANEL_ROWS);
        for first in (0..tokens).step_by(HALF) {
            // SAFETY: the CPU has NEON. `w` and `x` have eight numbers for each of `k` inputs, of which a half of the tokens is
            // four; `out` has eight rows of eight, of which the half's begin at row `first`.
            unsafe {
                let (x, out) = (x.as_ptr().add(first), out.byte_add(first * stride));
                vmla(w.as_ptr(), x, k, out, stride);
            }
        }
    });
}

/// q8 + 2t and q9 + 2t gather token t's channels 0-3 and 4-7. Two inputs a round, q0-q1 their tokens and q2-q5 their weights;
/// then the last one, where they are odd.
///
/// Not inlined, so that tools find its loop by its name.
///
/// # Safety
///
/// The CPU has NEON. `k` is at least 1; for each of so many inputs `w` has eight numbers, and `x` four, 32 bytes apart; `out` has
/// room for eight sums in each of four rows `stride` bytes apart.
#[inline(never)]
unsafe fn vmla(w: *const f32, x: *const f32, k: usize, out: *mut f32, stride: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        neon_asm!(
            ".macro thimble_input low, high, a, b",
            "vmla.f32 q8, q\\low, d\\a[0]",
            "vmla.f32 q9, q\\high, d\\a[0]",
            "vmla.f32 q10, q\\low, d\\a[1]",
            "vmla.f32 q11, q\\high, d\\a[1]",
            "vmla.f32 q12, q\\low, d\\b[0]",
            "vmla.f32 q13, q\\high, d\\b[0]",
            "vmla.f32 q14, q\\low, d\\b[1]",
            "vmla.f32 q15, q\\high, d\\b[1]",
            ".endm",
            clear_sums!("8, 9, 10, 11, 12, 13, 14, 15"),
            "subs {k}, {k}, #2",
            "blo 3f",
            "2:",
            "vld1.32 {{d0, d1}}, [{x}], {next}",
            "vld1.32 {{d4, d5, d6, d7}}, [{w}]!",
            "vld1.32 {{d2, d3}}, [{x}], {next}",
            "vld1.32 {{d8, d9, d10, d11}}, [{w}]!",
            "subs {k}, {k}, #2",
            "thimble_input 2, 3, 0, 1",
            "thimble_input 4, 5, 2, 3",
            "bhs 2b",
            "3:",
            "adds {k}, {k}, #2",
            "beq 4f",
            "vld1.32 {{d0, d1}}, [{x}]",
            "vld1.32 {{d4, d5, d6, d7}}, [{w}]",
            "thimble_input 2, 3, 0, 1",
            "4:",
            "vst1.32 {{d16, d17, d18, d19}}, [{out}], {stride}",
            "vst1.32 {{d20, d21, d22, d23}}, [{out}], {stride}",
            "vst1.32 {{d24, d25, d26, d27}}, [{out}], {stride}",
            "vst1.32 {{d28, d29, d30, d31}}, [{out}]",
            ".purgem thimble_input",
            w = inout(reg) w => _,
            x = inout(reg) x => _,
            k = inout(reg) k => _,
            out = inout(reg) out => _,
            stride = in(reg) stride,
            next = in(reg) EIGHT.tokens * size_of::<f32>(),
        );
    }
}
