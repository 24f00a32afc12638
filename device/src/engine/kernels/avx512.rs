//! f32 with AVX-512: two panels fill one register, and f16 panels are widened as they are read.

use super::x86_64::{by_tokens, has_avx512};
use super::{F32Product, F32Tile, F32Tiles, Fit, OWN_16, Row};
use std::arch::x86_64::*;
use thimble_shared::artifact::layout::PANEL_ROWS;

pub const ROW: Row<F32Product> = Row {
    name: "avx512",
    runs: || Fit::where_there(has_avx512()),
    tiling: OWN_16,
    product: F32Product::Tiles(F32Tiles {
        f32: multiply::<f32, false>,
        f16: Some(multiply::<half::f16, true>),
    }),
};

/// `HALF` tells whether the panels `W` are f16.
fn multiply<W: bytemuck::Pod, const HALF: bool>(tile: F32Tile<'_, W>) {
    let F32Tile {
        w,
        x,
        k,
        tokens,
        out,
        stride,
    } = tile;
    f32_avx512::<HALF>(bytemuck::cast_slice(w), x, k, tokens, out, stride);
}

/// f32 arithmetic, 16 channels at a time; `w` is f32, or f16 (`HALF`), widened as it is read. Only when [`has_avx512`].
fn f32_avx512<const HALF: bool>(w: &[u8], x: &[f32], k: usize, tokens: usize, out: &mut [f32], stride: usize) {
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

/// # Safety
///
/// The CPU has the features below. `w0` and `w1` start panels of `k` steps, `x` holds `k` times `T` numbers, and `out` has room
/// for `T` rows, `stride` apart, of 8 numbers, or of 16 where `both`.
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
