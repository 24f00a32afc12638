//! Loops over rows of numbers that NEON does in 32-bit programs, where the compiler has none of it: the ends of a row's range, and
//! its quantization. Each does whole rounds and leaves the rest, or everything where there is no NEON, to plain Rust. All but
//! numbers below 2^-126, which NEON takes for 0, give the same bits.

use super::arm::{clear_sums, has_neon, neon_asm};
use crate::engine::elementwise;

/// Numbers of one round: four registers.
const ROUND: usize = 16;

/// The largest magnitude; 0 of nothing.
pub fn max_abs(x: &[f32]) -> f32 {
    let (rounds, rest) = x.as_chunks::<ROUND>();
    if rounds.is_empty() || !has_neon() {
        return elementwise::max_abs(x);
    }
    let mut most = [0f32; 4];
    // SAFETY: the CPU has NEON. Of each round, and there is one, 64 bytes are read; 16 are written.
    unsafe {
        neon_asm!(
            ".macro thimble_most r, new",
            "vacgt.f32 q12, q\\new, q\\r",
            "vbit q\\r, q\\new, q12",
            ".endm",
            clear_sums!("0, 1, 2, 3"),
            "2:",
            "vld1.32 {{d16, d17, d18, d19}}, [{x}]!",
            "vld1.32 {{d20, d21, d22, d23}}, [{x}]!",
            "subs {rounds}, {rounds}, #1",
            "thimble_most 0, 8",
            "thimble_most 1, 9",
            "thimble_most 2, 10",
            "thimble_most 3, 11",
            "bne 2b",
            "thimble_most 0, 1",
            "thimble_most 2, 3",
            "thimble_most 0, 2",
            "vst1.32 {{d0, d1}}, [{to}]",
            ".purgem thimble_most",
            x = inout(reg) x.as_ptr() => _,
            rounds = inout(reg) rounds.len() => _,
            to = in(reg) most.as_mut_ptr(),
        );
    }
    elementwise::max_abs(&most).max(elementwise::max_abs(rest))
}

/// The least and the greatest number; infinities the wrong way round of nothing.
pub fn range(x: &[f32]) -> (f32, f32) {
    let (rounds, rest) = x.as_chunks::<ROUND>();
    if rounds.is_empty() || !has_neon() {
        return elementwise::range(x);
    }
    let mut ends = [f32::INFINITY, f32::NEG_INFINITY].map(|end| [end; 4]);
    // SAFETY: the CPU has NEON. Of each round, and there is one, 64 bytes are read; 32 are read and written.
    unsafe {
        neon_asm!(
            ".macro thimble_least r, new",
            "vcgt.f32 q12, q\\r, q\\new",
            "vbit q\\r, q\\new, q12",
            ".endm",
            ".macro thimble_most r, new",
            "vcgt.f32 q13, q\\new, q\\r",
            "vbit q\\r, q\\new, q13",
            ".endm",
            "vld1.32 {{d0, d1, d2, d3}}, [{to}]",
            "vmov q2, q0",
            "vmov q3, q1",
            "2:",
            "vld1.32 {{d16, d17, d18, d19}}, [{x}]!",
            "vld1.32 {{d20, d21, d22, d23}}, [{x}]!",
            "subs {rounds}, {rounds}, #1",
            "thimble_least 0, 8",
            "thimble_most 1, 8",
            "thimble_least 2, 9",
            "thimble_most 3, 9",
            "thimble_least 0, 10",
            "thimble_most 1, 10",
            "thimble_least 2, 11",
            "thimble_most 3, 11",
            "bne 2b",
            "thimble_least 0, 2",
            "thimble_most 1, 3",
            "vst1.32 {{d0, d1, d2, d3}}, [{to}]",
            ".purgem thimble_least",
            ".purgem thimble_most",
            x = inout(reg) x.as_ptr() => _,
            rounds = inout(reg) rounds.len() => _,
            to = in(reg) ends.as_mut_ptr(),
        );
    }
    let ((least, _), (_, most)) = (elementwise::range(&ends[0]), elementwise::range(&ends[1]));
    let (first, last) = elementwise::range(rest);
    (least.min(first), most.max(last))
}

/// `q[i]` is the integer nearest to `(x[i] - center) * inverse`, ties to even, for as many `i` as are returned.
pub fn round(x: &[f32], center: f32, inverse: f32, q: &mut [i8]) -> usize {
    /// Adding it leaves the integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let rounds = x.len().min(q.len()) / ROUND;
    if rounds == 0 || !has_neon() {
        return 0;
    }
    let numbers = [MAGIC, center, inverse, 0.0];
    // SAFETY: the CPU has NEON. Of each round, and there is one, 64 bytes are read and 16 written; four numbers are read.
    unsafe {
        neon_asm!(
            ".macro thimble_scaled r",
            "vsub.f32 q\\r, q\\r, q2",
            "vmul.f32 q\\r, q\\r, d1[0]",
            "vadd.f32 q\\r, q\\r, q1",
            ".endm",
            "vld1.32 {{d0, d1}}, [{numbers}]",
            "vdup.32 q1, d0[0]",
            "vdup.32 q2, d0[1]",
            "2:",
            "vld1.32 {{d16, d17, d18, d19}}, [{x}]!",
            "vld1.32 {{d20, d21, d22, d23}}, [{x}]!",
            "subs {rounds}, {rounds}, #1",
            "thimble_scaled 8",
            "thimble_scaled 9",
            "thimble_scaled 10",
            "thimble_scaled 11",
            "vmovn.i32 d24, q8",
            "vmovn.i32 d25, q9",
            "vmovn.i32 d26, q10",
            "vmovn.i32 d27, q11",
            "vmovn.i16 d28, q12",
            "vmovn.i16 d29, q13",
            "vst1.8 {{d28, d29}}, [{q}]!",
            "bne 2b",
            ".purgem thimble_scaled",
            x = inout(reg) x.as_ptr() => _,
            q = inout(reg) q.as_mut_ptr() => _,
            rounds = inout(reg) rounds => _,
            numbers = in(reg) numbers.as_ptr(),
        );
    }
    rounds * ROUND
}
