//! What the kernels for aarch64 share: a tile of sums in every vector register; and the packing and widening that NEON does. In
//! assembly where a loop needs exactly the registers there are, since compilers spill accumulators.

use super::I8Tile;
use super::panels::{EIGHT, by_panels};
use std::arch::aarch64::*;
use thimble_shared::artifact::layout::{I4_BLOCK_BYTES, I4_OFFSET, I8_DEPTH, PANEL_ROWS};

/// 8 channels × 8 tokens, 16 inputs per step. The tile is filled up to eight tokens; only the real ones' rows are written. Calls
/// `kernel(weights, inputs, steps, out, bytes from row to row)` for each panel: `steps` is at least 1, weights and inputs have 128
/// bytes each of them, and `out` has room for eight sums in each of eight rows.
pub fn by_eight(tile: I8Tile<'_>, kernel: impl Fn(*const i8, *const i8, usize, *mut i32, usize)) {
    let I8Tile {
        w,
        x,
        tokens,
        depth,
        out,
        stride,
        ..
    } = tile;
    assert!(x.len() >= depth * EIGHT.tokens && depth > 0 && depth % I8_DEPTH == 0);
    let (x, steps): (*const i8, _) = (x.as_ptr().cast(), depth / I8_DEPTH);
    by_panels::<_, _, { EIGHT.tokens }>(w, depth, tokens.len(), out, stride, |_, w, out, stride| {
        kernel(w.as_ptr(), x, steps, out, stride);
    });
}

/// Clears v16-v31, where every kernel sums its tile.
macro_rules! clear_sums {
    () => {
        ".irp r, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
        movi v\\r\\().4s, #0
        .endr"
    };
}
pub(super) use clear_sums;

/// A kernel in assembly: it may use every vector register and no stack.
macro_rules! tile_asm {
    ($($kernel:tt)*) => {
        std::arch::asm!(
            $($kernel)*
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(nostack),
        )
    };
}
pub(super) use tile_asm;

/// `to[i * width + r] = rows[r][i]` for the first multiple of four `i`; returns how many those are.
pub fn interleave(rows: &[&[f32]; PANEL_ROWS], to: &mut [f32], width: usize) -> usize {
    let fours = rows.iter().map(|r| r.len() / 4).min().unwrap_or(0);
    assert!(width >= PANEL_ROWS && (fours == 0 || to.len() >= (fours * 4 - 1) * width + PANEL_ROWS));
    for i in (0..4 * fours).step_by(4) {
        for half in 0..2 {
            let rows = &rows[4 * half..];
            // SAFETY: NEON is part of aarch64; each row has four values at `i`, and the last of the four stores ends at
            // (i + 3) * width + 8 at most.
            unsafe {
                let [a, b, c, d] = [0, 1, 2, 3].map(|r| vld1q_f32(rows[r].as_ptr().add(i)));
                let (ab, cd) = (vtrnq_f32(a, b), vtrnq_f32(c, d));
                let to = to.as_mut_ptr().add(i * width + 4 * half);
                vst1q_f32(to, vcombine_f32(vget_low_f32(ab.0), vget_low_f32(cd.0)));
                vst1q_f32(to.add(width), vcombine_f32(vget_low_f32(ab.1), vget_low_f32(cd.1)));
                vst1q_f32(
                    to.add(2 * width),
                    vcombine_f32(vget_high_f32(ab.0), vget_high_f32(cd.0)),
                );
                vst1q_f32(
                    to.add(3 * width),
                    vcombine_f32(vget_high_f32(ab.1), vget_high_f32(cd.1)),
                );
            }
        }
    }
    4 * fours
}

/// Numbers of one round of the reductions below: four registers.
const ROUND: usize = 16;

/// The largest magnitude; 0 of nothing. Compilers make pairs of compares and selects of halves of registers instead.
pub fn max_abs(x: &[f32]) -> f32 {
    let (rounds, rest) = x.as_chunks::<ROUND>();
    // SAFETY: NEON is part of aarch64, and every load lies within its round.
    let most = unsafe {
        let mut most = [vdupq_n_f32(0.0); 4];
        for round in rounds {
            for (i, most) in most.iter_mut().enumerate() {
                *most = vmaxnmq_f32(*most, vabsq_f32(vld1q_f32(round.as_ptr().add(4 * i))));
            }
        }
        let [a, b, c, d] = most;
        vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a, b), vmaxnmq_f32(c, d)))
    };
    rest.iter().fold(most, |most, x| most.max(x.abs()))
}

/// The least and the greatest number; infinities the wrong way round of nothing.
pub fn range(x: &[f32]) -> (f32, f32) {
    let (rounds, rest) = x.as_chunks::<ROUND>();
    // SAFETY: as above.
    let (least, most) = unsafe {
        let mut least = [vdupq_n_f32(f32::INFINITY); 4];
        let mut most = [vdupq_n_f32(f32::NEG_INFINITY); 4];
        for round in rounds {
            for (i, (least, most)) in least.iter_mut().zip(&mut most).enumerate() {
                let four = vld1q_f32(round.as_ptr().add(4 * i));
                *least = vminnmq_f32(*least, four);
                *most = vmaxnmq_f32(*most, four);
            }
        }
        let [a, b, c, d] = least;
        let least = vminnmvq_f32(vminnmq_f32(vminnmq_f32(a, b), vminnmq_f32(c, d)));
        let [a, b, c, d] = most;
        (least, vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a, b), vmaxnmq_f32(c, d))))
    };
    rest.iter()
        .fold((least, most), |(least, most), &x| (least.min(x), most.max(x)))
}

/// One block of an int4 panel as int8: the numbers in the low halves of its bytes and, where `high` is asked for, those in the high
/// halves, each times its channel's multiplier.
#[inline(always)]
pub fn expand_int4(
    bytes: &[u8; I4_BLOCK_BYTES],
    multipliers: &[u8; PANEL_ROWS],
    low: &mut [i8; I4_BLOCK_BYTES],
    high: Option<&mut [i8; I4_BLOCK_BYTES]>,
) {
    // Each channel's multiplier beside each of its four numbers, for the channels of either half of a step.
    const FIRST: [u8; 16] = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3];
    // SAFETY: NEON is part of aarch64; every load and store lies within its array, 16 bytes at multiples of 16 below 128.
    unsafe {
        let multipliers = vcombine_u8(vld1_u8(multipliers.as_ptr()), vdup_n_u8(0));
        let first = vld1q_u8(FIRST.as_ptr());
        let times = [first, vaddq_u8(first, vdupq_n_u8(4))].map(|at| vreinterpretq_s8_u8(vqtbl1q_u8(multipliers, at)));
        let offset = vdupq_n_s8(I4_OFFSET);
        let number = |half, i: usize| vmulq_s8(vsubq_s8(vreinterpretq_s8_u8(half), offset), times[i % 2]);
        match high {
            Some(high) => {
                for i in 0..I4_BLOCK_BYTES / 16 {
                    let both = vld1q_u8(bytes.as_ptr().add(16 * i));
                    vst1q_s8(low.as_mut_ptr().add(16 * i), number(vandq_u8(both, vdupq_n_u8(15)), i));
                    vst1q_s8(high.as_mut_ptr().add(16 * i), number(vshrq_n_u8::<4>(both), i));
                }
            }
            None => {
                for i in 0..I4_BLOCK_BYTES / 16 {
                    let both = vld1q_u8(bytes.as_ptr().add(16 * i));
                    vst1q_s8(low.as_mut_ptr().add(16 * i), number(vandq_u8(both, vdupq_n_u8(15)), i));
                }
            }
        }
    }
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
