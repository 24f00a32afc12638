//! int8 with SDOT, where the CPU has dot products (Cortex-A76): four products and their sum in one instruction.

use super::aarch64::{by_eight, clear_sums, tile_asm};
use super::pack::Order;
use super::panels::EIGHT;
use super::{Fit, I8Product, I8Tile, I8Tiles, Row};

pub const ROW: Row<I8Product> = Row {
    name: "sdot",
    runs: || Fit::where_there(runs()),
    tiling: EIGHT,
    product: I8Product::Tiles(I8Tiles {
        order: Order::Blocks,
        asks_for_chains: false,
        multiply,
    }),
};

fn runs() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

fn multiply(tile: I8Tile<'_>) {
    assert!(runs());
    by_eight(tile, |w, x, steps, out, stride| {
        // SAFETY: the CPU has the instructions, and the pointers lead to what `by_eight` promises.
        unsafe { sdot(w, x, steps, out, stride) };
    });
}

/// v16 + 2t and v17 + 2t gather token t's channels 0-3 and 4-7; v0-v7 are four groups of four inputs for eight channels,
/// v8-v15 the sixteen inputs of one token each. Two steps a round; an odd number of them begins in the middle.
///
/// # Safety
///
/// The CPU has dot products; `steps` is at least 1, `w` and `x` have 128 bytes each of them, `out` has room for eight sums in
/// each of eight rows `stride` bytes apart.
#[target_feature(enable = "neon,dotprod")]
unsafe fn sdot(w: *const i8, x: *const i8, steps: usize, out: *mut i32, stride: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        tile_asm!(
            ".macro thimble_group i, low, high",
            "sdot v16.4s, v\\low\\().16b, v8.4b[\\i]",
            "sdot v17.4s, v\\high\\().16b, v8.4b[\\i]",
            "sdot v18.4s, v\\low\\().16b, v9.4b[\\i]",
            "sdot v19.4s, v\\high\\().16b, v9.4b[\\i]",
            "sdot v20.4s, v\\low\\().16b, v10.4b[\\i]",
            "sdot v21.4s, v\\high\\().16b, v10.4b[\\i]",
            "sdot v22.4s, v\\low\\().16b, v11.4b[\\i]",
            "sdot v23.4s, v\\high\\().16b, v11.4b[\\i]",
            "sdot v24.4s, v\\low\\().16b, v12.4b[\\i]",
            "sdot v25.4s, v\\high\\().16b, v12.4b[\\i]",
            "sdot v26.4s, v\\low\\().16b, v13.4b[\\i]",
            "sdot v27.4s, v\\high\\().16b, v13.4b[\\i]",
            "sdot v28.4s, v\\low\\().16b, v14.4b[\\i]",
            "sdot v29.4s, v\\high\\().16b, v14.4b[\\i]",
            "sdot v30.4s, v\\low\\().16b, v15.4b[\\i]",
            "sdot v31.4s, v\\high\\().16b, v15.4b[\\i]",
            ".endm",
            ".macro thimble_step",
            "ld1 {{v0.16b-v3.16b}}, [{w}], #64",
            "ld1 {{v8.16b-v11.16b}}, [{x}], #64",
            "ld1 {{v12.16b-v15.16b}}, [{x}], #64",
            "ld1 {{v4.16b-v7.16b}}, [{w}], #64",
            "thimble_group 0, 0, 1",
            "thimble_group 1, 2, 3",
            "thimble_group 2, 4, 5",
            "thimble_group 3, 6, 7",
            ".endm",
            clear_sums!(),
            "tbz {steps}, #0, 2f",
            "add {steps}, {steps}, #1",
            "b 3f",
            "2:",
            "thimble_step",
            "3:",
            "thimble_step",
            "subs {steps}, {steps}, #2",
            "b.ne 2b",
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
            ".purgem thimble_step",
            ".purgem thimble_group",
            w = inout(reg) w => _,
            x = inout(reg) x => _,
            steps = inout(reg) steps => _,
            out = inout(reg) out => _,
            stride = in(reg) stride,
        );
    }
}
