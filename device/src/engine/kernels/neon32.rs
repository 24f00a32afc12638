//! Loops that NEON does in 32-bit programs, where the compiler has none of it: the ends of a row's range, its quantization, and the
//! expansion of panels. Each does whole rounds and leaves the rest, or everything where there is no NEON, to plain Rust. All but
//! numbers below 2^-126, which NEON takes for 0, give the same bits.

use super::arm::{clear_sums, has_neon, neon_asm};
use super::expand::{self, STEP};
use crate::engine::elementwise;
use half::f16;
use half::slice::HalfFloatSliceExt;
use thimble_shared::artifact::layout::{I4_BLOCK_BYTES, I4_OFFSET, PANEL_ROWS};

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

/// One block of an int4 panel as int8: the numbers in the low halves of its bytes and, where `high` is asked for, those in the high
/// halves, each times its channel's multiplier.
#[inline(always)]
pub fn expand_int4(
    bytes: &[u8; I4_BLOCK_BYTES],
    multipliers: &[u8; PANEL_ROWS],
    low: &mut [i8; I4_BLOCK_BYTES],
    high: Option<&mut [i8; I4_BLOCK_BYTES]>,
) {
    if !has_neon() {
        return expand::plain_block(bytes, multipliers, low, high);
    }
    let high = high.map_or(std::ptr::null_mut(), |high| high.as_mut_ptr());
    // SAFETY: the CPU has NEON. Eight multipliers are read, four times 32 bytes, and as many written to `low` and, but for null, to
    // `high`.
    unsafe {
        neon_asm!(
            ".macro thimble_numbers a, b",
            "vsub.i8 q\\a, q\\a, q4",
            "vsub.i8 q\\b, q\\b, q4",
            "vmul.i8 q\\a, q\\a, q0",
            "vmul.i8 q\\b, q\\b, q1",
            ".endm",
            // Each channel's multiplier beside each of its four numbers.
            "vld1.8 {{d0}}, [{multipliers}]",
            "vmov d1, d0",
            "vzip.8 d0, d1",
            "vmov d2, d1",
            "vmov d3, d1",
            "vmov d1, d0",
            "vzip.16 d0, d1",
            "vzip.16 d2, d3",
            "vmov.i8 q4, #{offset}",
            "vmov.i8 q5, #15",
            "2:",
            "vld1.8 {{d16, d17, d18, d19}}, [{bytes}]!",
            "vand q10, q8, q5",
            "vand q11, q9, q5",
            "thimble_numbers 10, 11",
            "vst1.8 {{d20, d21, d22, d23}}, [{low}]!",
            "cmp {high}, #0",
            "beq 3f",
            "vshr.u8 q8, q8, #4",
            "vshr.u8 q9, q9, #4",
            "thimble_numbers 8, 9",
            "vst1.8 {{d16, d17, d18, d19}}, [{high}]!",
            "3:",
            "subs {steps}, {steps}, #1",
            "bne 2b",
            ".purgem thimble_numbers",
            bytes = inout(reg) bytes.as_ptr() => _,
            low = inout(reg) low.as_mut_ptr() => _,
            high = inout(reg) high => _,
            steps = inout(reg) I4_BLOCK_BYTES / STEP => _,
            multipliers = in(reg) multipliers.as_ptr(),
            offset = const I4_OFFSET,
        );
    }
}

/// Whole steps of an int8 panel `[depth/4][8][4]` to f32 `[k][8]`; returns how many steps that were.
#[inline(always)]
pub fn expand_int8(panel: &[i8], to: &mut [f32]) -> usize {
    let steps = panel.len().min(to.len()) / STEP;
    if steps == 0 || !has_neon() {
        return 0;
    }
    // SAFETY: the CPU has NEON. Of each step, and there is one, 32 bytes are read and 128 written.
    unsafe {
        neon_asm!(
            ".macro thimble_input d",
            "vmovl.s8 q8, d\\d",
            "vmovl.s16 q10, d16",
            "vmovl.s16 q11, d17",
            "vcvt.f32.s32 q10, q10",
            "vcvt.f32.s32 q11, q11",
            "vst1.32 {{d20, d21, d22, d23}}, [{to}]!",
            ".endm",
            "2:",
            "vld4.8 {{d0, d1, d2, d3}}, [{panel}]!",
            "subs {steps}, {steps}, #1",
            "thimble_input 0",
            "thimble_input 1",
            "thimble_input 2",
            "thimble_input 3",
            "bne 2b",
            ".purgem thimble_input",
            panel = inout(reg) panel.as_ptr() => _,
            to = inout(reg) to.as_mut_ptr() => _,
            steps = inout(reg) steps => _,
        );
    }
    steps
}

/// The kernel's bit for the second version of the vector unit, which converts halves.
const HWCAP_VFPV4: libc::c_ulong = 1 << 16;

/// f16 → f32 by VCVT, where the CPU has it (Cortex-A7, not A9); the `half` crate does it in integers.
pub fn widen_f16(from: &[f16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let mut steps = from.len() / ROUND;
    // SAFETY: as in `has_neon`.
    if !has_neon() || unsafe { libc::getauxval(libc::AT_HWCAP) } & HWCAP_VFPV4 == 0 {
        steps = 0;
    }
    if steps > 0 {
        // SAFETY: the CPU has NEON and VFPv4. Of each step 32 bytes are read from `from` and 64 written to `to`.
        unsafe {
            neon_asm!(
                ".fpu neon-vfpv4",
                "2:",
                "vld1.16 {{d16, d17, d18, d19}}, [{from}]!",
                "subs {steps}, {steps}, #1",
                "vcvt.f32.f16 q0, d16",
                "vcvt.f32.f16 q1, d17",
                "vcvt.f32.f16 q2, d18",
                "vcvt.f32.f16 q3, d19",
                "vst1.32 {{d0, d1, d2, d3}}, [{to}]!",
                "vst1.32 {{d4, d5, d6, d7}}, [{to}]!",
                "bne 2b",
                from = inout(reg) from.as_ptr() => _,
                to = inout(reg) to.as_mut_ptr() => _,
                steps = inout(reg) steps => _,
            );
        }
    }
    HalfFloatSliceExt::convert_to_f32_slice(&from[steps * ROUND..], &mut to[steps * ROUND..]);
}
