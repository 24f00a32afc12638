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

/// SAFETY: see the only caller, [`i8_smull`]. `steps` of eight inputs each.
#[target_feature(enable = "neon")]
unsafe fn panel_by_tile(w: *const i8, x: *const i8, steps: usize, out: &mut [i32; TOKENS * PANEL_ROWS]) {
    const STEP: usize = PANEL_ROWS * I8_GROUP;
    // SAFETY: all offsets stay below what the caller promises.
    unsafe {
        // acc[t][p]: channels 2p and 2p+1 of token t, each as two partial sums.
        let mut acc = [[vdupq_n_s32(0); 4]; TOKENS];
        for i in 0..steps {
            let w0 = vld1q_s8_x4(w.add(2 * i * STEP));
            let x0 = vld4q_dup_s32(x.add(2 * i * TOKENS * I8_GROUP).cast());
            let x1 = vld4q_dup_s32(x.add((2 * i + 1) * TOKENS * I8_GROUP).cast());
            let pairs = [(x0.0, x1.0), (x0.1, x1.1), (x0.2, x1.2), (x0.3, x1.3)];
            for (acc, (a, b)) in acc.iter_mut().zip(pairs) {
                let (a, b) = (vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
                let (al, bl) = (vget_low_s8(a), vget_low_s8(b));
                let p = vmlal_s8(vmull_s8(vget_low_s8(w0.0), al), vget_low_s8(w0.2), bl);
                acc[0] = vpadalq_s16(acc[0], p);
                let p = vmlal_high_s8(vmull_high_s8(w0.0, a), w0.2, b);
                acc[1] = vpadalq_s16(acc[1], p);
                let p = vmlal_s8(vmull_s8(vget_low_s8(w0.1), al), vget_low_s8(w0.3), bl);
                acc[2] = vpadalq_s16(acc[2], p);
                let p = vmlal_high_s8(vmull_high_s8(w0.1, a), w0.3, b);
                acc[3] = vpadalq_s16(acc[3], p);
            }
        }
        for (t, acc) in acc.iter().enumerate() {
            vst1q_s32(out[t * PANEL_ROWS..].as_mut_ptr(), vpaddq_s32(acc[0], acc[1]));
            vst1q_s32(out[t * PANEL_ROWS + 4..].as_mut_ptr(), vpaddq_s32(acc[2], acc[3]));
        }
    }
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
