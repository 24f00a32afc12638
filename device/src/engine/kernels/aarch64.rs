//! Kernels for aarch64, all over the same int8 panels: SMMLA where the CPU has int8 matrix instructions, SDOT where it has
//! dot products (Cortex-A76), SMULL, SMLAL and SADALP elsewhere (Cortex-A53, A57, A72); and the widening of f16 panels.
//! Same operands as `portable`; every product is summed exactly. In assembly because each kernel needs exactly the registers
//! there are, and compilers spill accumulators.

use std::arch::aarch64::*;
use thimble_shared::artifact::layout::{I8_DEPTH, PANEL_ROWS};

/// Tokens per tile of SMULL: their accumulators, the weights of one step and the products fill all 32 registers.
pub const SMULL_TOKENS: usize = 4;
/// Tokens per tile of SDOT and SMMLA: accumulators, weights and inputs of one step fill all 32 registers.
pub const DOT_TOKENS: usize = 8;

/// The instructions a dot-product kernel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dot {
    /// Reads tiles `[depth/16][8][16]`.
    Sdot,
    /// Reads tiles `[depth/8][8][8]`: two tokens' eight inputs are one operand.
    Smmla,
}

impl Dot {
    pub fn available(self) -> bool {
        match self {
            Dot::Sdot => std::arch::is_aarch64_feature_detected!("dotprod"),
            Dot::Smmla => std::arch::is_aarch64_feature_detected!("i8mm"),
        }
    }
}

/// int8, 8 channels × 8 tokens, 16 inputs per step. `x` is a tile filled up to eight tokens; only `tokens` rows are written.
pub fn i8_dot(dot: Dot, w: &[i8], x: &[i8], depth: usize, tokens: usize, out: &mut [i32], stride: usize) {
    assert!(x.len() >= depth * DOT_TOKENS && depth > 0 && depth % I8_DEPTH == 0 && dot.available());
    let kernel = match dot {
        Dot::Sdot => sdot,
        Dot::Smmla => smmla,
    };
    let (x, steps) = (x.as_ptr(), depth / I8_DEPTH);
    by_panels::<DOT_TOKENS>(w, depth, tokens, out, stride, |_, w, out, stride| {
        // SAFETY: the CPU has the instructions; `w` has depth*8 bytes, `x` depth*8, both multiples of what one step reads;
        // `out` has eight rows.
        unsafe { kernel(w.as_ptr(), x, steps, out, stride) };
    });
}

/// Calls `kernel(panel's number, panel, out, bytes from row to row)` for each panel of `w`. The kernel writes all `T` rows of
/// eight sums; where fewer tokens are real, into a tile of which their rows are kept.
fn by_panels<const T: usize>(
    w: &[i8],
    depth: usize,
    tokens: usize,
    out: &mut [i32],
    stride: usize,
    kernel: impl Fn(usize, &[i8], *mut i32, usize),
) {
    let panels = w.chunks_exact(depth * PANEL_ROWS);
    assert!((1..=T).contains(&tokens) && out.len() >= (tokens - 1) * stride + panels.len() * PANEL_ROWS);
    for (p, w) in panels.enumerate() {
        let at = p * PANEL_ROWS;
        if tokens == T {
            // Rows at + t*stride, eight sums each, lie in `out` by the assertion.
            kernel(p, w, out[at..].as_mut_ptr(), stride * size_of::<i32>());
            continue;
        }
        let mut tile = [[0i32; PANEL_ROWS]; T];
        kernel(p, w, tile.as_mut_ptr().cast(), PANEL_ROWS * size_of::<i32>());
        for (t, row) in tile.iter().take(tokens).enumerate() {
            out[t * stride + at..][..PANEL_ROWS].copy_from_slice(row);
        }
    }
}

/// Clears v16-v31, where every kernel sums its tile.
macro_rules! clear_sums {
    () => {
        ".irp r, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
        movi v\\r\\().4s, #0
        .endr"
    };
}

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

/// v16 + 2t and v17 + 2t gather token t's channels 0-3 and 4-7; v0-v7 are four groups of four inputs for eight channels,
/// v8-v15 the sixteen inputs of one token each. Two steps a round; an odd number of them begins in the middle.
///
/// SAFETY: the CPU has dot products; `steps` is at least 1, `w` and `x` have 128 bytes each of them, `out` has room for eight
/// sums in each of eight rows `stride` bytes apart.
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
            "ldp q0, q1, [{w}], #32",
            "ldp q8, q9, [{x}], #32",
            "ldp q10, q11, [{x}], #32",
            "ldp q12, q13, [{x}], #32",
            "ldp q14, q15, [{x}], #32",
            "ldp q2, q3, [{w}], #32",
            "ldp q4, q5, [{w}], #32",
            "ldp q6, q7, [{w}], #32",
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

/// v16 + 4p … v19 + 4p gather tokens 2p and 2p+1 of channels 0-1, 2-3, 4-5, 6-7, as `[token][channel]`. Panels hold four
/// inputs of a channel side by side; ZIP makes the eight that SMMLA wants of two groups.
///
/// SAFETY: as for [`sdot`], and the CPU has int8 matrix products.
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

/// int8, 8 channels × 4 tokens, 16 inputs per step. Two products always fit an i16 lane (2 × 127 × 127, which is why -128
/// is never stored); in steps of which `chains` says so (see [`super::fits_four`]), four do, and a fifth of the work goes.
/// `x` is a tile `[depth/16][4][16]`; only `tokens` rows are written.
pub fn i8_smull(w: &[i8], chains: &[u8], x: &[i8], depth: usize, tokens: usize, out: &mut [i32], stride: usize) {
    assert!(x.len() >= depth * SMULL_TOKENS && depth > 0 && depth % I8_DEPTH == 0);
    let (x, steps) = (x.as_ptr(), depth / I8_DEPTH);
    assert!(chains.len() >= w.len() / (depth * PANEL_ROWS) * steps);
    by_panels::<SMULL_TOKENS>(w, depth, tokens, out, stride, |p, w, out, stride| {
        let chains = chains[p * steps..][..steps].as_ptr();
        // SAFETY: `w` has depth*8 bytes, `x` depth*4, both multiples of what one step reads; `chains` has one byte per step,
        // `out` four rows.
        unsafe { smull(w.as_ptr(), chains, x, steps, out, stride) };
    });
}

/// v0-v7 hold four groups of four inputs for eight channels, v8-v11 one token's inputs of each group, repeated; v12-v15 its
/// products. Each channel gathers as two partial sums, which the last ADDP joins.
///
/// SAFETY: `steps` is at least 1; of each of them `w` has 128 bytes, `x` 64 and `chains` one; `out` has room for eight sums in
/// each of four rows `stride` bytes apart. NEON is part of aarch64.
///
/// Not inlined, like the others, so that tools find its loop by its name.
#[inline(never)]
unsafe fn smull(w: *const i8, chains: *const u8, x: *const i8, steps: usize, out: *mut i32, stride: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        tile_asm!(
            ".macro thimble_products op, low, high, x",
            "\\op v12.8h, v\\low\\().8b, v\\x\\().8b",
            "\\op\\()2 v13.8h, v\\low\\().16b, v\\x\\().16b",
            "\\op v14.8h, v\\high\\().8b, v\\x\\().8b",
            "\\op\\()2 v15.8h, v\\high\\().16b, v\\x\\().16b",
            ".endm",
            ".macro thimble_gather a, b, c, d",
            "sadalp v\\a\\().4s, v12.8h",
            "sadalp v\\b\\().4s, v13.8h",
            "sadalp v\\c\\().4s, v14.8h",
            "sadalp v\\d\\().4s, v15.8h",
            ".endm",
            ".macro thimble_fours a, b, c, d",
            "ld4r {{v8.4s-v11.4s}}, [{x}], #16",
            "thimble_products smull, 0, 1, 8",
            "thimble_products smlal, 2, 3, 9",
            "thimble_products smlal, 4, 5, 10",
            "thimble_products smlal, 6, 7, 11",
            "thimble_gather \\a, \\b, \\c, \\d",
            ".endm",
            ".macro thimble_twos a, b, c, d",
            "ld4r {{v8.4s-v11.4s}}, [{x}], #16",
            "thimble_products smull, 0, 1, 8",
            "thimble_products smlal, 2, 3, 9",
            "thimble_gather \\a, \\b, \\c, \\d",
            "thimble_products smull, 4, 5, 10",
            "thimble_products smlal, 6, 7, 11",
            "thimble_gather \\a, \\b, \\c, \\d",
            ".endm",
            ".macro thimble_row a, b, c, d",
            "addp v0.4s, v\\a\\().4s, v\\b\\().4s",
            "addp v1.4s, v\\c\\().4s, v\\d\\().4s",
            "stp q0, q1, [{out}]",
            "add {out}, {out}, {stride}",
            ".endm",
            clear_sums!(),
            "2:",
            "ld1 {{v0.16b-v3.16b}}, [{w}], #64",
            "ld1 {{v4.16b-v7.16b}}, [{w}], #64",
            "ldrb {fits:w}, [{chains}], #1",
            "subs {steps}, {steps}, #1",
            "cbz {fits:w}, 3f",
            "thimble_fours 16, 17, 18, 19",
            "thimble_fours 20, 21, 22, 23",
            "thimble_fours 24, 25, 26, 27",
            "thimble_fours 28, 29, 30, 31",
            "b.ne 2b",
            "b 4f",
            "3:",
            "thimble_twos 16, 17, 18, 19",
            "thimble_twos 20, 21, 22, 23",
            "thimble_twos 24, 25, 26, 27",
            "thimble_twos 28, 29, 30, 31",
            "b.ne 2b",
            "4:",
            "thimble_row 16, 17, 18, 19",
            "thimble_row 20, 21, 22, 23",
            "thimble_row 24, 25, 26, 27",
            "thimble_row 28, 29, 30, 31",
            ".purgem thimble_products",
            ".purgem thimble_gather",
            ".purgem thimble_fours",
            ".purgem thimble_twos",
            ".purgem thimble_row",
            w = inout(reg) w => _,
            chains = inout(reg) chains => _,
            x = inout(reg) x => _,
            steps = inout(reg) steps => _,
            out = inout(reg) out => _,
            stride = in(reg) stride,
            fits = out(reg) _,
        );
    }
}

/// `to[i * 8 + r] = rows[r][i]` for the first multiple of four `i`; returns how many those are.
pub fn interleave(rows: &[&[f32]; PANEL_ROWS], to: &mut [f32]) -> usize {
    let fours = rows.iter().map(|r| r.len() / 4).min().unwrap_or(0);
    assert!(to.len() >= fours * 4 * PANEL_ROWS);
    for i in (0..4 * fours).step_by(4) {
        for half in 0..2 {
            let rows = &rows[4 * half..];
            // SAFETY: NEON is part of aarch64; each row has four values at `i`, and the last of the four stores ends at
            // (i + 3) * 8 + 8 at most.
            unsafe {
                let [a, b, c, d] = [0, 1, 2, 3].map(|r| vld1q_f32(rows[r].as_ptr().add(i)));
                let (ab, cd) = (vtrnq_f32(a, b), vtrnq_f32(c, d));
                let to = to.as_mut_ptr().add(i * PANEL_ROWS + 4 * half);
                vst1q_f32(to, vcombine_f32(vget_low_f32(ab.0), vget_low_f32(cd.0)));
                vst1q_f32(to.add(PANEL_ROWS), vcombine_f32(vget_low_f32(ab.1), vget_low_f32(cd.1)));
                vst1q_f32(
                    to.add(2 * PANEL_ROWS),
                    vcombine_f32(vget_high_f32(ab.0), vget_high_f32(cd.0)),
                );
                vst1q_f32(
                    to.add(3 * PANEL_ROWS),
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
