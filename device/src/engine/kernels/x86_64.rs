//! Kernels for x86_64 in intrinsics, where they beat tract's on thimble's panels: AVX-512 for f32 (two panels fill one
//! register), VNNI and AVX2 for int8. Same operands as `portable`; every int8 product is summed exactly.

use super::pack::Token;
use std::arch::x86_64::*;
use thimble_shared::artifact::layout::{I8_GROUP, PANEL_ROWS};

/// Calls `$kernel::<T>` for the `T` that equals `$tokens`, 1 to 16; a further constant follows it in brackets.
macro_rules! by_tokens {
    ($tokens:expr, $kernel:ident[$($more:ident)?], $args:tt) => {
        match $tokens {
            1 => $kernel::<1 $(, $more)?> $args,
            2 => $kernel::<2 $(, $more)?> $args,
            3 => $kernel::<3 $(, $more)?> $args,
            4 => $kernel::<4 $(, $more)?> $args,
            5 => $kernel::<5 $(, $more)?> $args,
            6 => $kernel::<6 $(, $more)?> $args,
            7 => $kernel::<7 $(, $more)?> $args,
            8 => $kernel::<8 $(, $more)?> $args,
            9 => $kernel::<9 $(, $more)?> $args,
            10 => $kernel::<10 $(, $more)?> $args,
            11 => $kernel::<11 $(, $more)?> $args,
            12 => $kernel::<12 $(, $more)?> $args,
            13 => $kernel::<13 $(, $more)?> $args,
            14 => $kernel::<14 $(, $more)?> $args,
            15 => $kernel::<15 $(, $more)?> $args,
            16 => $kernel::<16 $(, $more)?> $args,
            _ => unreachable!("tiles hold at most 16 tokens"),
        }
    };
}

/// The VL part is what lets 256-bit halves live in all 32 registers.
pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx2")
}

pub fn has_vnni() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw")
}

/// f32 arithmetic, 16 channels at a time; `w` is f32, or f16 (`HALF`), widened as it is read. Only when [`has_avx512`].
pub fn f32_avx512<const HALF: bool>(w: &[u8], x: &[f32], k: usize, tokens: usize, out: &mut [f32], stride: usize) {
    let panel = k * PANEL_ROWS * if HALF { 2 } else { 4 };
    assert!(has_avx512() && x.len() == k * tokens && w.len().is_multiple_of(panel.max(1)) && k > 0);
    for (pair, w) in w.chunks(2 * panel).enumerate() {
        let out = &mut out[pair * 2 * PANEL_ROWS..];
        let second = w.len() / panel - 1;
        assert!(out.len() >= (tokens - 1) * stride + PANEL_ROWS * (1 + second));
        let (w0, w1, x, out) = (w.as_ptr(), w[second * panel..].as_ptr(), x.as_ptr(), out.as_mut_ptr());
        // SAFETY: the CPU has the features; `w0` and `w1` start k*8 numbers each, `x` has k*tokens, and `out` was checked
        // to hold `tokens` rows of 8, or of 16 when there is a second panel.
        unsafe { by_tokens!(tokens, f32_pair[HALF], (w0, w1, x, k, out, stride, second == 1)) }
    }
}

/// SAFETY: see the only caller, [`f32_avx512`].
#[target_feature(enable = "avx2,avx512f,avx512dq,avx512vl")]
unsafe fn f32_pair<const T: usize, const HALF: bool>(
    w0: *const u8,
    w1: *const u8,
    x: *const f32,
    k: usize,
    out: *mut f32,
    stride: usize,
    both: bool,
) {
    // SAFETY: all offsets stay below what the caller promises; unaligned loads are used throughout.
    unsafe {
        let step = PANEL_ROWS * if HALF { 2 } else { 4 };
        let mut acc = [_mm512_setzero_ps(); T];
        for i in 0..k {
            let (w0, w1) = (w0.add(i * step), w1.add(i * step));
            let w = if HALF {
                _mm512_cvtph_ps(_mm256_set_m128i(_mm_loadu_si128(w1.cast()), _mm_loadu_si128(w0.cast())))
            } else {
                let low = _mm512_castps256_ps512(_mm256_loadu_ps(w0.cast()));
                _mm512_insertf32x8::<1>(low, _mm256_loadu_ps(w1.cast()))
            };
            // The next pair of panels follows in memory and is asked for a pair ahead: panels are too short for the
            // hardware's prefetcher to learn them. Asking past the last one is harmless.
            _mm_prefetch::<_MM_HINT_T1>(w0.wrapping_add((2 * k + i) * step).cast());
            for (t, acc) in acc.iter_mut().enumerate() {
                *acc = _mm512_fmadd_ps(w, _mm512_set1_ps(*x.add(i * T + t)), *acc);
            }
        }
        for (t, acc) in acc.iter().enumerate() {
            if both {
                _mm512_storeu_ps(out.add(t * stride), *acc);
            } else {
                _mm256_storeu_ps(out.add(t * stride), _mm512_castps512_ps256(*acc));
            }
        }
    }
}

/// int8 with VPDPBUSD, 16 channels at a time. The instruction wants one unsigned operand: weights enter as w + 128 (one
/// flipped bit) and 128 × the token's sum is taken off at the end. Call only when [`has_vnni`].
pub fn i8_vnni(w: &[i8], x: &[i8], tokens: &[Token], depth: usize, out: &mut [i32], stride: usize) {
    let (panel, rows) = (depth * PANEL_ROWS, tokens.len());
    assert!(
        has_vnni()
            && x.len() == depth * rows
            && w.len().is_multiple_of(panel.max(1))
            && depth > 0
            && depth.is_multiple_of(I8_GROUP)
    );
    for (pair, w) in w.chunks(2 * panel).enumerate() {
        let out = &mut out[pair * 2 * PANEL_ROWS..];
        let second = w.len() / panel - 1;
        assert!(out.len() >= (rows - 1) * stride + PANEL_ROWS * (1 + second));
        let (w0, w1) = (w.as_ptr(), w[second * panel..].as_ptr());
        // SAFETY: the CPU has the features; `w0` and `w1` start depth*8 bytes each, `x` has depth*rows, `tokens` has rows,
        // and `out` was checked to hold as many rows of 8, or of 16 when there is a second panel.
        unsafe {
            by_tokens!(rows, i8_pair[], (w0, w1, x.as_ptr(), tokens.as_ptr(), depth / I8_GROUP, out.as_mut_ptr(), stride, second == 1));
        }
    }
}

/// SAFETY: see the only caller, [`i8_vnni`].
#[target_feature(enable = "avx2,avx512f,avx512dq,avx512vl,avx512bw,avx512vnni")]
#[allow(clippy::too_many_arguments)]
unsafe fn i8_pair<const T: usize>(
    w0: *const i8,
    w1: *const i8,
    x: *const i8,
    tokens: *const Token,
    groups: usize,
    out: *mut i32,
    stride: usize,
    both: bool,
) {
    const STEP: usize = PANEL_ROWS * I8_GROUP;
    // SAFETY: all offsets stay below what the caller promises; activations are read as unaligned i32.
    unsafe {
        let flip = _mm512_set1_epi8(-128);
        let mut acc = [_mm512_setzero_si512(); T];
        for i in 0..groups {
            let low = _mm512_castsi256_si512(_mm256_loadu_si256(w0.add(i * STEP).cast()));
            let w = _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(w1.add(i * STEP).cast()));
            let w = _mm512_xor_si512(w, flip);
            _mm_prefetch::<_MM_HINT_T1>(w0.wrapping_add(2 * (groups + i) * STEP));
            for (t, acc) in acc.iter_mut().enumerate() {
                let x = x.add((i * T + t) * I8_GROUP).cast::<i32>().read_unaligned();
                *acc = _mm512_dpbusd_epi32(*acc, w, _mm512_set1_epi32(x));
            }
        }
        for (t, acc) in acc.iter().enumerate() {
            let exact = _mm512_sub_epi32(*acc, _mm512_set1_epi32((*tokens.add(t)).sum.wrapping_mul(128)));
            if both {
                _mm512_storeu_si512(out.add(t * stride).cast(), exact);
            } else {
                _mm256_storeu_si256(out.add(t * stride).cast(), _mm512_castsi512_si256(exact));
            }
        }
    }
}

/// int8 widened to i16 and multiplied with VPMADDWD, which cannot saturate at these magnitudes; `x` is packed wide.
/// Call only when AVX2 is there.
pub fn i8_avx2(w: &[i8], x: &[i16], depth: usize, tokens: usize, out: &mut [i32], stride: usize) {
    let panel = depth * PANEL_ROWS;
    assert!(
        is_x86_feature_detected!("avx2") && x.len() == depth * tokens && depth > 0 && depth.is_multiple_of(I8_GROUP)
    );
    for (p, w) in w.chunks_exact(panel).enumerate() {
        let out = &mut out[p * PANEL_ROWS..];
        assert!(out.len() >= (tokens - 1) * stride + PANEL_ROWS);
        let (w, x, groups, out) = (w.as_ptr(), x.as_ptr(), depth / I8_GROUP, out.as_mut_ptr());
        // SAFETY: the CPU has AVX2; `w` starts depth*8 bytes, `x` has depth*tokens i16, `out` holds `tokens` rows of 8.
        unsafe { by_tokens!(tokens, i8_panel_avx2[], (w, x, groups, out, stride)) }
    }
}

/// SAFETY: see the only caller, [`i8_avx2`].
#[target_feature(enable = "avx2")]
unsafe fn i8_panel_avx2<const T: usize>(w: *const i8, x: *const i16, groups: usize, out: *mut i32, stride: usize) {
    const STEP: usize = PANEL_ROWS * I8_GROUP;
    // SAFETY: all offsets stay below what the caller promises; activations are read as unaligned i64.
    unsafe {
        // Lanes are [row][pair of k]; low holds channels 0-3, high 4-7.
        let mut low = [_mm256_setzero_si256(); T];
        let mut high = [_mm256_setzero_si256(); T];
        for i in 0..groups {
            let w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.add(i * STEP).cast()));
            let w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.add(i * STEP + 16).cast()));
            for t in 0..T {
                let x = x.add((i * T + t) * I8_GROUP).cast::<i64>().read_unaligned();
                let x = _mm256_set1_epi64x(x);
                low[t] = _mm256_add_epi32(low[t], _mm256_madd_epi16(w0, x));
                high[t] = _mm256_add_epi32(high[t], _mm256_madd_epi16(w1, x));
            }
        }
        for t in 0..T {
            // hadd works within 128-bit halves: [0 1 4 5 | 2 3 6 7], put in order by one permutation of pairs.
            let sums = _mm256_hadd_epi32(low[t], high[t]);
            _mm256_storeu_si256(
                out.add(t * stride).cast(),
                _mm256_permute4x64_epi64::<0b11_01_10_00>(sums),
            );
        }
    }
}
