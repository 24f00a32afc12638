//! Kernels for aarch64 without dot-product instructions (Cortex-A53, A57, A72): int8 by SMULL, SMLAL and SADALP over the
//! same panels as SDOT, and the widening of f16 panels. Same operands as `portable`; every product is summed exactly.

use std::arch::aarch64::*;
use thimble_shared::panel::{I8_DEPTH, PANEL_ROWS};

/// Tokens per tile: their accumulators, the weights of one step and the products fill all 32 registers.
pub const TOKENS: usize = 4;

/// int8, 8 channels × 4 tokens, 16 inputs per step. Two products always fit an i16 lane (2 × 127 × 127, which is why -128
/// is never stored); where `chains` says so of a panel (see [`super::fits_four`]), four do, and a fifth of the work goes.
/// `x` is a tile `[depth/16][4][16]`; only `tokens` rows are written.
pub fn i8_smull(w: &[i8], chains: &[bool], x: &[i8], depth: usize, tokens: usize, out: &mut [i32], stride: usize) {
    let panel = depth * PANEL_ROWS;
    assert!(x.len() >= depth * TOKENS && depth > 0 && depth % I8_DEPTH == 0 && tokens <= TOKENS);
    for (p, w) in w.chunks_exact(panel).enumerate() {
        let multiply = if chains.get(p) == Some(&true) {
            by_fours
        } else {
            by_twos
        };
        let mut tile = [0i32; TOKENS * PANEL_ROWS];
        // SAFETY: NEON is part of aarch64; `w` has depth*8 bytes, `x` depth*4, both multiples of what one step reads.
        unsafe { multiply(w.as_ptr(), x.as_ptr(), depth / I8_DEPTH, &mut tile) };
        for (t, row) in tile.chunks_exact(PANEL_ROWS).take(tokens).enumerate() {
            out[t * stride + p * PANEL_ROWS..][..PANEL_ROWS].copy_from_slice(row);
        }
    }
}

/// Defines one kernel from what it does for one token in one step: v0-v7 hold four groups of four inputs for eight channels,
/// v8-v11 the token's inputs of each group, repeated. a, b, c and d are the accumulators of channels 0-1, 2-3, 4-5 and 6-7,
/// each channel as two partial sums. In assembly because the registers are exactly enough: compilers spill accumulators.
macro_rules! smull_kernel {
    ($name:ident, $($line:literal,)*) => {
        /// SAFETY: see the only caller, [`i8_smull`]; `steps` of 16 inputs each, at least one.
        unsafe fn $name(w: *const i8, x: *const i8, steps: usize, out: &mut [i32; TOKENS * PANEL_ROWS]) {
            let mut acc = [zero(); 4 * TOKENS];
            let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15] = &mut acc;
            // SAFETY: 128 bytes of `w` and 64 of `x` are read per step, and the caller has steps of them.
            unsafe {
                std::arch::asm!(
                    ".macro thimble_token a, b, c, d",
                    "ld4r {{v8.4s-v11.4s}}, [{x}], #16",
                    $($line,)*
                    ".endm",
                    "2:",
                    "ld1 {{v0.16b-v3.16b}}, [{w}], #64",
                    "ld1 {{v4.16b-v7.16b}}, [{w}], #64",
                    "subs {steps}, {steps}, #1",
                    "thimble_token 16, 17, 18, 19",
                    "thimble_token 20, 21, 22, 23",
                    "thimble_token 24, 25, 26, 27",
                    "thimble_token 28, 29, 30, 31",
                    "b.ne 2b",
                    ".purgem thimble_token",
                    w = inout(reg) w => _,
                    x = inout(reg) x => _,
                    steps = inout(reg) steps => _,
                    out("v0") _, out("v1") _, out("v2") _, out("v3") _,
                    out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                    out("v8") _, out("v9") _, out("v10") _, out("v11") _,
                    out("v12") _, out("v13") _, out("v14") _, out("v15") _,
                    inout("v16") *a0, inout("v17") *a1, inout("v18") *a2, inout("v19") *a3,
                    inout("v20") *a4, inout("v21") *a5, inout("v22") *a6, inout("v23") *a7,
                    inout("v24") *a8, inout("v25") *a9, inout("v26") *a10, inout("v27") *a11,
                    inout("v28") *a12, inout("v29") *a13, inout("v30") *a14, inout("v31") *a15,
                    options(readonly, nostack),
                );
            }
            for (acc, out) in acc.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<PANEL_ROWS>().0) {
                // SAFETY: NEON is part of aarch64; four sums are written to each half of a row of eight.
                unsafe {
                    vst1q_s32(out.as_mut_ptr(), vpaddq_s32(acc[0], acc[1]));
                    vst1q_s32(out[4..].as_mut_ptr(), vpaddq_s32(acc[2], acc[3]));
                }
            }
        }
    };
}

smull_kernel! {
    by_fours,
    "smull v12.8h, v0.8b, v8.8b",
    "smull2 v13.8h, v0.16b, v8.16b",
    "smull v14.8h, v1.8b, v8.8b",
    "smull2 v15.8h, v1.16b, v8.16b",
    "smlal v12.8h, v2.8b, v9.8b",
    "smlal2 v13.8h, v2.16b, v9.16b",
    "smlal v14.8h, v3.8b, v9.8b",
    "smlal2 v15.8h, v3.16b, v9.16b",
    "smlal v12.8h, v4.8b, v10.8b",
    "smlal2 v13.8h, v4.16b, v10.16b",
    "smlal v14.8h, v5.8b, v10.8b",
    "smlal2 v15.8h, v5.16b, v10.16b",
    "smlal v12.8h, v6.8b, v11.8b",
    "smlal2 v13.8h, v6.16b, v11.16b",
    "smlal v14.8h, v7.8b, v11.8b",
    "smlal2 v15.8h, v7.16b, v11.16b",
    "sadalp v\\a\\().4s, v12.8h",
    "sadalp v\\b\\().4s, v13.8h",
    "sadalp v\\c\\().4s, v14.8h",
    "sadalp v\\d\\().4s, v15.8h",
}

smull_kernel! {
    by_twos,
    "smull v12.8h, v0.8b, v8.8b",
    "smull2 v13.8h, v0.16b, v8.16b",
    "smull v14.8h, v1.8b, v8.8b",
    "smull2 v15.8h, v1.16b, v8.16b",
    "smlal v12.8h, v2.8b, v9.8b",
    "smlal2 v13.8h, v2.16b, v9.16b",
    "smlal v14.8h, v3.8b, v9.8b",
    "smlal2 v15.8h, v3.16b, v9.16b",
    "sadalp v\\a\\().4s, v12.8h",
    "sadalp v\\b\\().4s, v13.8h",
    "sadalp v\\c\\().4s, v14.8h",
    "sadalp v\\d\\().4s, v15.8h",
    "smull v12.8h, v4.8b, v10.8b",
    "smull2 v13.8h, v4.16b, v10.16b",
    "smull v14.8h, v5.8b, v10.8b",
    "smull2 v15.8h, v5.16b, v10.16b",
    "smlal v12.8h, v6.8b, v11.8b",
    "smlal2 v13.8h, v6.16b, v11.16b",
    "smlal v14.8h, v7.8b, v11.8b",
    "smlal2 v15.8h, v7.16b, v11.16b",
    "sadalp v\\a\\().4s, v12.8h",
    "sadalp v\\b\\().4s, v13.8h",
    "sadalp v\\c\\().4s, v14.8h",
    "sadalp v\\d\\().4s, v15.8h",
}

fn zero() -> int32x4_t {
    // SAFETY: NEON is part of aarch64.
    unsafe { vdupq_n_s32(0) }
}

/// f16 → f32 by FCVTL, which every aarch64 has; the `half` crate uses it only with the fp16 extension.
pub fn widen_f16(from: &[u16], to: &mut [f32]) {
    const STEP: usize = 32;
    assert_eq!(from.len(), to.len());
    let steps = from.len() / STEP;
    if steps > 0 {
        // SAFETY: per step 64 bytes are read from `from` and 128 written to `to`, and both hold that many steps.
        unsafe {
            std::arch::asm!(
                "2:",
                "ld1 {{v0.8h-v3.8h}}, [{from}], #64",
                "subs {steps}, {steps}, #1",
                "fcvtl v4.4s, v0.4h",
                "fcvtl2 v5.4s, v0.8h",
                "fcvtl v6.4s, v1.4h",
                "fcvtl2 v7.4s, v1.8h",
                "fcvtl v16.4s, v2.4h",
                "fcvtl2 v17.4s, v2.8h",
                "fcvtl v18.4s, v3.4h",
                "fcvtl2 v19.4s, v3.8h",
                "st1 {{v4.4s-v7.4s}}, [{to}], #64",
                "st1 {{v16.4s-v19.4s}}, [{to}], #64",
                "b.ne 2b",
                from = inout(reg) from.as_ptr() => _,
                to = inout(reg) to.as_mut_ptr() => _,
                steps = inout(reg) steps => _,
                out("v0") _, out("v1") _, out("v2") _, out("v3") _,
                out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                out("v16") _, out("v17") _, out("v18") _, out("v19") _,
                options(nostack),
            );
        }
    }
    for (from, to) in from[steps * STEP..].iter().zip(&mut to[steps * STEP..]) {
        *to = half::f16::from_bits(*from).to_f32();
    }
}
