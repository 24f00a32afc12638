//! What NEON does in 32-bit programs to the results of products, where the compiler has none of it: scales and bias, gelu, and the
//! weights of attention. Plain Rust does what is left, and everything where there is no NEON; results differ by roundings at most.

use super::arm::{has_neon, neon_asm};
use crate::engine::tile::{Fresh, Tile};
use thimble_shared::board::memory::QUERIES;

/// Channels of one row of a chunk.
const CHUNK: usize = 16;

/// What int8 sums are multiplied by and what is added to them, channel by channel.
#[derive(Clone, Copy)]
pub struct Scales<'a> {
    pub scales: &'a [f32; CHUNK],
    /// What a token's center is multiplied by, where it has one.
    pub row_sums: Option<&'a [f32; CHUNK]>,
    pub bias: &'a [f32; CHUNK],
}

/// `sum * scale * scales[i] + center * row_sums[i] + bias[i]` of each row of sums, `width` apart; `token(row)` gives scale and
/// center. False where rows are shorter than a chunk, and nothing was written.
pub fn rescale(
    sums: &[i32],
    width: usize,
    token: impl Fn(usize) -> (f32, f32),
    by: Scales<'_>,
    to: &mut Fresh<'_>,
) -> bool {
    if !has_neon() {
        return false;
    }
    for row in 0..to.rows() {
        let sums = sums[row * width..].first_chunk::<CHUNK>();
        let (Some(sums), Ok(to)) = (sums, <&mut [_; CHUNK]>::try_from(to.row(row))) else {
            return false;
        };
        let (scale, center) = token(row);
        // SAFETY: the CPU has NEON. 64 bytes are read of the sums and of all that `by` has, and 64 written.
        unsafe {
            neon_asm!(
                ".macro thimble_all op, a, b, c, d",
                "\\op q8, q8, \\a",
                "\\op q9, q9, \\b",
                "\\op q10, q10, \\c",
                "\\op q11, q11, \\d",
                ".endm",
                ".macro thimble_load from",
                "vld1.32 {{d24, d25, d26, d27}}, [\\from]!",
                "vld1.32 {{d28, d29, d30, d31}}, [\\from]",
                ".endm",
                "vld1.32 {{d16, d17, d18, d19}}, [{sums}]!",
                "vld1.32 {{d20, d21, d22, d23}}, [{sums}]",
                "thimble_load {scales}",
                "vdup.32 q0, {scale}",
                "vcvt.f32.s32 q8, q8",
                "vcvt.f32.s32 q9, q9",
                "vcvt.f32.s32 q10, q10",
                "vcvt.f32.s32 q11, q11",
                "thimble_all vmul.f32, q0, q0, q0, q0",
                "thimble_all vmul.f32, q12, q13, q14, q15",
                "cmp {row_sums}, #0",
                "beq 2f",
                "thimble_load {row_sums}",
                "vdup.32 q0, {center}",
                "vmul.f32 q12, q12, q0",
                "vmul.f32 q13, q13, q0",
                "vmul.f32 q14, q14, q0",
                "vmul.f32 q15, q15, q0",
                "thimble_all vadd.f32, q12, q13, q14, q15",
                "2:",
                "thimble_load {bias}",
                "thimble_all vadd.f32, q12, q13, q14, q15",
                "vst1.32 {{d16, d17, d18, d19}}, [{to}]!",
                "vst1.32 {{d20, d21, d22, d23}}, [{to}]",
                ".purgem thimble_all",
                ".purgem thimble_load",
                sums = inout(reg) sums.as_ptr() => _,
                scales = inout(reg) by.scales.as_ptr() => _,
                row_sums = inout(reg) by.row_sums.map_or(std::ptr::null(), |sums| sums.as_ptr()) => _,
                bias = inout(reg) by.bias.as_ptr() => _,
                to = inout(reg) to.as_mut_ptr() => _,
                scale = in(reg) scale.to_bits(),
                center = in(reg) center.to_bits(),
            );
        }
    }
    true
}

/// The polynomial of 2^f on [-1/2, 1/2], as in `elementwise`: from the fifth power down; and what is added to find f.
const POWER: [f32; 8] = [
    1.326_472_7e-3,
    9.671_513e-3,
    5.550_733_6e-2,
    2.402_224_2e-1,
    6.931_47e-1,
    1.0,
    12_582_912.0 + 127.0,
    -127.0,
];

/// The macro thimble_power: q5 becomes 2^q5 as two factors, q9 and q6. q5 is at most 127; q0 and q1 hold [`POWER`], q2 its last
/// number but one, and q3 its last, in every lane. Uses q7, q8 and q10, too.
macro_rules! power {
    () => {
        ".macro thimble_power
        vmax.f32 q5, q5, q3
        vadd.f32 q6, q5, q2
        vsub.f32 q7, q6, q2
        vdup.32 q8, d0[1]
        vsub.f32 q5, q5, q7
        vshl.i32 q6, q6, #23
        vdup.32 q7, d1[1]
        vdup.32 q9, d2[1]
        vmla.f32 q8, q5, d0[0]
        vmul.f32 q10, q5, q5
        vmla.f32 q7, q5, d1[0]
        vmla.f32 q9, q5, d2[0]
        vmla.f32 q7, q8, q10
        vmla.f32 q9, q7, q10
        .endm"
    };
}

/// `x / (1 + 2^(x * (first + third * x * x)))` of every number. False where rows are no whole vectors, and nothing was done.
pub fn gelu_new(tile: &mut Tile<'_>, first: f32, third: f32) -> bool {
    if !has_neon() {
        return false;
    }
    let numbers = [first, third, 127.0, 0.0];
    for row in 0..tile.rows() {
        let x = tile.row(row);
        let fours = x.len() / 4;
        if fours == 0 || x.len() % 4 != 0 {
            return false;
        }
        // SAFETY: the CPU has NEON. Of each four numbers, and there are some, 16 bytes are read and written; `POWER` has 32 bytes,
        // `numbers` 16.
        unsafe {
            neon_asm!(
                power!(),
                "vld1.32 {{d0, d1, d2, d3}}, [{power}]",
                "vld1.32 {{d8, d9}}, [{numbers}]",
                "vdup.32 q2, d3[0]",
                "vdup.32 q3, d3[1]",
                "vdup.32 q11, d8[0]",
                "vdup.32 q12, d8[1]",
                "vdup.32 q13, d9[0]",
                "2:",
                "vld1.32 {{d8, d9}}, [{x}]",
                "subs {fours}, {fours}, #1",
                "vmul.f32 q5, q4, q4",
                "vmul.f32 q5, q5, q12",
                "vadd.f32 q5, q5, q11",
                "vmul.f32 q5, q5, q4",
                "vmin.f32 q5, q5, q13",
                "thimble_power",
                "vdup.32 q5, d2[1]",
                "vmla.f32 q5, q6, q9",
                // Two steps of Newton's from the eight bits that VRECPE gives.
                "vrecpe.f32 q6, q5",
                "vrecps.f32 q7, q5, q6",
                "vmul.f32 q6, q6, q7",
                "vrecps.f32 q7, q5, q6",
                "vmul.f32 q6, q6, q7",
                "vmul.f32 q4, q4, q6",
                "vst1.32 {{d8, d9}}, [{x}]!",
                "bne 2b",
                ".purgem thimble_power",
                x = inout(reg) x.as_mut_ptr() => _,
                fours = inout(reg) fours => _,
                power = in(reg) POWER.as_ptr(),
                numbers = in(reg) numbers.as_ptr(),
            );
        }
    }
    true
}

/// Turns a key's scores into weights, `2^(score - most)`, and adds these to `total`. False where nothing was done.
#[inline(always)]
pub fn exponentials(scores: &mut [f32; QUERIES], most: &[f32; QUERIES], total: &mut [f32; QUERIES]) -> bool {
    if !has_neon() {
        return false;
    }
    // SAFETY: the CPU has NEON. 64 bytes each are read of all three, and written of scores and total; `POWER` has 32.
    unsafe {
        neon_asm!(
            power!(),
            "vld1.32 {{d0, d1, d2, d3}}, [{power}]",
            "vdup.32 q2, d3[0]",
            "vdup.32 q3, d3[1]",
            "2:",
            "vld1.32 {{d10, d11}}, [{scores}]",
            "vld1.32 {{d22, d23}}, [{most}]!",
            "vld1.32 {{d24, d25}}, [{total}]",
            "subs {fours}, {fours}, #1",
            "vsub.f32 q5, q5, q11",
            "thimble_power",
            "vmul.f32 q9, q9, q6",
            "vadd.f32 q12, q12, q9",
            "vst1.32 {{d18, d19}}, [{scores}]!",
            "vst1.32 {{d24, d25}}, [{total}]!",
            "bne 2b",
            ".purgem thimble_power",
            scores = inout(reg) scores.as_mut_ptr() => _,
            most = inout(reg) most.as_ptr() => _,
            total = inout(reg) total.as_mut_ptr() => _,
            fours = inout(reg) QUERIES / 4 => _,
            power = in(reg) POWER.as_ptr(),
        );
    }
    true
}
