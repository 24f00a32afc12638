//! Kernels for aarch64 without dot-product instructions (Cortex-A53, A57, A72): int8 by SMULL, SMLAL and SADALP over the
//! same panels as SDOT, and the widening of f16 panels. Same operands as `portable`; every product is summed exactly.

use std::arch::aarch64::*;
use thimble_shared::panel::{I8_GROUP, PANEL_ROWS};

/// Tokens per tile: their four inputs at one step are one LD4R.
pub const TOKENS: usize = 4;

/// int8, 8 channels × 4 tokens. Two products share an i16 lane: 2 × 127 × 127 fits, which is why -128 is never stored.
/// `x` is a tile filled up to four tokens; only `tokens` rows are written.
pub fn i8_smull(w: &[i8], x: &[i8], depth: usize, tokens: usize, out: &mut [i32], stride: usize) {
    let panel = depth * PANEL_ROWS;
    assert!(x.len() >= depth * TOKENS && depth > 0 && depth % (2 * I8_GROUP) == 0 && tokens <= TOKENS);
    for (p, w) in w.chunks_exact(panel).enumerate() {
        let mut tile = [0i32; TOKENS * PANEL_ROWS];
        // SAFETY: NEON is part of aarch64; `w` has depth*8 bytes, `x` depth*4, both multiples of what one step reads.
        unsafe { panel_by_tile(w.as_ptr(), x.as_ptr(), depth / (2 * I8_GROUP), &mut tile) };
        for (t, row) in tile.chunks_exact(PANEL_ROWS).take(tokens).enumerate() {
            out[t * stride + p * PANEL_ROWS..][..PANEL_ROWS].copy_from_slice(row);
        }
    }
}

/// One token's share of a step: channels 2p and 2p+1 gather in accumulator p as two partial sums each.
macro_rules! token {
    ($x0:literal, $x1:literal, $a0:literal, $a1:literal, $a2:literal, $a3:literal) => {
        concat!(
            "smull v12.8h, v0.8b, v",
            $x0,
            ".8b\n",
            "smull2 v13.8h, v0.16b, v",
            $x0,
            ".16b\n",
            "smull v14.8h, v1.8b, v",
            $x0,
            ".8b\n",
            "smull2 v15.8h, v1.16b, v",
            $x0,
            ".16b\n",
            "smlal v12.8h, v2.8b, v",
            $x1,
            ".8b\n",
            "smlal2 v13.8h, v2.16b, v",
            $x1,
            ".16b\n",
            "smlal v14.8h, v3.8b, v",
            $x1,
            ".8b\n",
            "smlal2 v15.8h, v3.16b, v",
            $x1,
            ".16b\n",
            "sadalp v",
            $a0,
            ".4s, v12.8h\n",
            "sadalp v",
            $a1,
            ".4s, v13.8h\n",
            "sadalp v",
            $a2,
            ".4s, v14.8h\n",
            "sadalp v",
            $a3,
            ".4s, v15.8h\n",
        )
    };
}

/// `steps` of eight inputs each. In assembly because the 32 registers are exactly enough, and compilers spill four of the
/// accumulators in every step.
///
/// SAFETY: see the only caller, [`i8_smull`].
unsafe fn panel_by_tile(w: *const i8, x: *const i8, steps: usize, out: &mut [i32; TOKENS * PANEL_ROWS]) {
    let mut acc = [vdupq_zero(); 4 * TOKENS];
    let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15] = &mut acc;
    // SAFETY: 64 bytes of `w` and 32 of `x` are read per step, and the caller has steps of them.
    unsafe {
        std::arch::asm!(
            "2:",
            "ld1 {{v0.16b-v3.16b}}, [{w}], #64",
            "ld4r {{v4.4s-v7.4s}}, [{x}], #16",
            "ld4r {{v8.4s-v11.4s}}, [{x}], #16",
            "subs {steps}, {steps}, #1",
            token!("4", "8", "16", "17", "18", "19"),
            token!("5", "9", "20", "21", "22", "23"),
            token!("6", "10", "24", "25", "26", "27"),
            token!("7", "11", "28", "29", "30", "31"),
            "b.ne 2b",
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

fn vdupq_zero() -> int32x4_t {
    // SAFETY: NEON is part of aarch64.
    unsafe { vdupq_n_s32(0) }
}

/// f16 → f32 by FCVTL, which every aarch64 has; the `half` crate uses it only with the fp16 extension.
pub fn widen_f16(from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let (from, from_rest) = from.as_chunks::<8>();
    let (to, to_rest) = to.as_chunks_mut::<8>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: 16 bytes are read from `from`, 32 written to `to`, both exactly that long.
        unsafe {
            std::arch::asm!(
                "ldr {h:q}, [{from}]",
                "fcvtl {low}.4s, {h}.4h",
                "fcvtl2 {high}.4s, {h}.8h",
                "stp {low:q}, {high:q}, [{to}]",
                from = in(reg) from.as_ptr(),
                to = in(reg) to.as_mut_ptr(),
                h = out(vreg) _,
                low = out(vreg) _,
                high = out(vreg) _,
                options(nostack, preserves_flags),
            );
        }
    }
    for (from, to) in from_rest.iter().zip(to_rest) {
        *to = half::f16::from_bits(*from).to_f32();
    }
}
