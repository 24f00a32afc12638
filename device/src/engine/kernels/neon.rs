//! f32 with FMLA, which every aarch64 has. Attention multiplies small matrices with it: a call costs little.

use super::aarch64::{clear_sums, tile_asm};
use super::panels::{EIGHT, by_panels};
use super::{F32Product, F32Tile, F32Tiles, Fit, Row};
use thimble_shared::artifact::layout::PANEL_ROWS;

pub const ROW: Row<F32Product> = Row {
    name: "neon",
    runs: || Fit::Runs,
    tiling: EIGHT,
    product: F32Product::Tiles(F32Tiles {
        f32: multiply,
        f16: None,
    }),
};

/// 8 channels × 8 tokens. The tile is filled up to eight tokens; only the real ones' rows are written.
fn multiply(tile: F32Tile<'_, f32>) {
    let F32Tile {
        w,
        x,
        k,
        tokens,
        out,
        stride,
    } = tile;
    assert!(k > 0 && x.len() >= k * EIGHT.tokens);
    by_panels::<_, _, { EIGHT.tokens }>(w, k, tokens, out, stride, |_, w, out, stride| {
        assert!(w.len() >= k * PANEL_ROWS);
        // SAFETY: `w` and `x` have eight numbers for each of `k` inputs, `out` eight rows of eight.
        unsafe { fmla(w.as_ptr(), x.as_ptr(), k, out, stride) };
    });
}

/// v16 + 2t and v17 + 2t gather token t's channels 0-3 and 4-7. Four inputs a round, v0-v7 their weights and v8-v15 their tokens;
/// then the rest one by one.
///
/// Not inlined, so that tools find its loop by its name.
///
/// # Safety
///
/// `k` is at least 1; `w` and `x` have eight numbers for each of `k` inputs; `out` has room for eight sums in each of eight rows
/// `stride` bytes apart. NEON is part of aarch64.
#[inline(never)]
unsafe fn fmla(w: *const f32, x: *const f32, k: usize, out: *mut f32, stride: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        tile_asm!(
            ".macro thimble_input low, high, a, b",
            "fmla v16.4s, v\\low\\().4s, v\\a\\().s[0]",
            "fmla v17.4s, v\\high\\().4s, v\\a\\().s[0]",
            "fmla v18.4s, v\\low\\().4s, v\\a\\().s[1]",
            "fmla v19.4s, v\\high\\().4s, v\\a\\().s[1]",
            "fmla v20.4s, v\\low\\().4s, v\\a\\().s[2]",
            "fmla v21.4s, v\\high\\().4s, v\\a\\().s[2]",
            "fmla v22.4s, v\\low\\().4s, v\\a\\().s[3]",
            "fmla v23.4s, v\\high\\().4s, v\\a\\().s[3]",
            "fmla v24.4s, v\\low\\().4s, v\\b\\().s[0]",
            "fmla v25.4s, v\\high\\().4s, v\\b\\().s[0]",
            "fmla v26.4s, v\\low\\().4s, v\\b\\().s[1]",
            "fmla v27.4s, v\\high\\().4s, v\\b\\().s[1]",
            "fmla v28.4s, v\\low\\().4s, v\\b\\().s[2]",
            "fmla v29.4s, v\\high\\().4s, v\\b\\().s[2]",
            "fmla v30.4s, v\\low\\().4s, v\\b\\().s[3]",
            "fmla v31.4s, v\\high\\().4s, v\\b\\().s[3]",
            ".endm",
            clear_sums!(),
            "subs {k}, {k}, #4",
            "b.lo 3f",
            "2:",
            "ld1 {{v0.4s-v3.4s}}, [{w}], #64",
            "ld1 {{v8.4s-v11.4s}}, [{x}], #64",
            "ld1 {{v4.4s-v7.4s}}, [{w}], #64",
            "ld1 {{v12.4s-v15.4s}}, [{x}], #64",
            "subs {k}, {k}, #4",
            "thimble_input 0, 1, 8, 9",
            "thimble_input 2, 3, 10, 11",
            "thimble_input 4, 5, 12, 13",
            "thimble_input 6, 7, 14, 15",
            "b.hs 2b",
            "3:",
            "adds {k}, {k}, #4",
            "b.eq 5f",
            "4:",
            "ld1 {{v0.4s-v1.4s}}, [{w}], #32",
            "ld1 {{v8.4s-v9.4s}}, [{x}], #32",
            "subs {k}, {k}, #1",
            "thimble_input 0, 1, 8, 9",
            "b.ne 4b",
            "5:",
            "stp q16, q17, [{out}]",
            "add {out}, {out}, {stride}",
            "stp q18, q19, [{out}]",
            "add {out}, {out}, {stride}",
            "stp q20, q21, [{out}]",
            "add {out}, {out}, {stride}",
            "stp q22, q23, [{out}]",
            "add {out}, {out}, {stride}",
            "stp q24, q25, [{out}]",
            "add {out}, {out}, {stride}",
            "stp q26, q27, [{out}]",
            "add {out}, {out}, {stride}",
            "stp q28, q29, [{out}]",
            "add {out}, {out}, {stride}",
            "stp q30, q31, [{out}]",
            ".purgem thimble_input",
            w = inout(reg) w => _,
            x = inout(reg) x => _,
            k = inout(reg) k => _,
            out = inout(reg) out => _,
            stride = in(reg) stride,
        );
    }
}
