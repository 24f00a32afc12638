//! int8 with SMMLA, where the CPU has int8 matrix instructions: two tokens' eight inputs are one operand.

use super::aarch64::{by_eight, clear_sums, tile_asm};
use super::pack::Order;
use super::panels::EIGHT;
use super::{Fit, I8Product, I8Tile, I8Tiles, Row};

pub const ROW: Row<I8Product> = Row {
    name: "smmla",
    runs: || Fit::where_there(runs()),
    tiling: EIGHT,
    product: I8Product::Tiles(I8Tiles {
        order: Order::Halves,
        asks_for_chains: false,
        multiply,
    }),
};

fn runs() -> bool {
    std::arch::is_aarch64_feature_detected!("i8mm")
}

fn multiply(tile: I8Tile<'_>) {
    assert!(runs());
    by_eight(tile, |w, x, steps, out, stride| {
        // SAFETY: the CPU has the instructions, and the pointers lead to what `by_eight` promises.
        unsafe { smmla(w, x, steps, out, stride) };
    });
}

/// v16 + 4p … v19 + 4p gather tokens 2p and 2p+1 of channels 0-1, 2-3, 4-5, 6-7, as `[token][channel]`. Panels hold four
/// inputs of a channel side by side; ZIP makes the eight that SMMLA wants of two groups.
///
/// # Safety
///
/// The CPU has int8 matrix products; `steps` is at least 1, `w` and `x` have 128 bytes each of them, `out` has room for eight sums
/// in each of eight rows `stride` bytes apart.
#[target_feature(enable = "neon,i8mm")]
unsafe fn smmla(w: *const i8, x: *const i8, steps: usize, out: *mut i32, stride: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        tile_asm!(
            ".macro thimble_half",
            "ldp q0, q1, [{w}], #32",
            "ldp q2, q3, [{w}], #32",
            "ldp q12, q13, [{x}], #32",
            "ldp q14, q15, [{x}], #32",
            "zip1 v4.4s, v0.4s, v2.4s",
            "zip2 v5.4s, v0.4s, v2.4s",
            "zip1 v6.4s, v1.4s, v3.4s",
            "zip2 v7.4s, v1.4s, v3.4s",
            "smmla v16.4s, v12.16b, v4.16b",
            "smmla v17.4s, v12.16b, v5.16b",
            "smmla v18.4s, v12.16b, v6.16b",
            "smmla v19.4s, v12.16b, v7.16b",
            "smmla v20.4s, v13.16b, v4.16b",
            "smmla v21.4s, v13.16b, v5.16b",
            "smmla v22.4s, v13.16b, v6.16b",
            "smmla v23.4s, v13.16b, v7.16b",
            "smmla v24.4s, v14.16b, v4.16b",
            "smmla v25.4s, v14.16b, v5.16b",
            "smmla v26.4s, v14.16b, v6.16b",
            "smmla v27.4s, v14.16b, v7.16b",
            "smmla v28.4s, v15.16b, v4.16b",
            "smmla v29.4s, v15.16b, v5.16b",
            "smmla v30.4s, v15.16b, v6.16b",
            "smmla v31.4s, v15.16b, v7.16b",
            ".endm",
            ".macro thimble_rows a, b, c, d",
            "zip1 v0.2d, v\\a\\().2d, v\\b\\().2d",
            "zip1 v1.2d, v\\c\\().2d, v\\d\\().2d",
            "zip2 v2.2d, v\\a\\().2d, v\\b\\().2d",
            "zip2 v3.2d, v\\c\\().2d, v\\d\\().2d",
            "stp q0, q1, [{out}]",
            "add {out}, {out}, {stride}",
            "stp q2, q3, [{out}]",
            "add {out}, {out}, {stride}",
            ".endm",
            clear_sums!(),
            "2:",
            "thimble_half",
            "thimble_half",
            "subs {steps}, {steps}, #1",
            "b.ne 2b",
            "thimble_rows 16, 17, 18, 19",
            "thimble_rows 20, 21, 22, 23",
            "thimble_rows 24, 25, 26, 27",
            "thimble_rows 28, 29, 30, 31",
            ".purgem thimble_rows",
            ".purgem thimble_half",
            w = inout(reg) w => _,
            x = inout(reg) x => _,
            steps = inout(reg) steps => _,
            out = inout(reg) out => _,
            stride = in(reg) stride,
        );
    }
}
