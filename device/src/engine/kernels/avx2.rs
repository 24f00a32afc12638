//! int8 with AVX2, in i16 arithmetic.

use super::pack::Order;
use super::x86_64::by_tokens;
use super::{Fit, I8Product, I8Tile, I8Tiles, OWN_4, Row};
use std::arch::x86_64::*;
use thimble_shared::artifact::layout::{I8_GROUP, PANEL_ROWS};

pub const ROW: Row<I8Product> = Row {
    name: "avx2",
    runs: || Fit::where_there(is_x86_feature_detected!("avx2")),
    tiling: OWN_4,
    product: I8Product::Tiles(I8Tiles {
        order: Order::WideGroups,
        asks_for_chains: false,
        multiply,
    }),
};

fn multiply(tile: I8Tile<'_>) {
    let (x, tokens) = (bytemuck::cast_slice(tile.x), tile.tokens.len());
    i8_avx2(tile.w, x, tile.depth, tokens, tile.out, tile.stride);
}

/// int8 widened to i16 and multiplied with VPMADDWD, which cannot saturate at these magnitudes; `x` is packed wide.
/// Call only when AVX2 is there.
fn i8_avx2(w: &[i8], x: &[i16], depth: usize, tokens: usize, out: &mut [i32], stride: usize) {
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

/// # Safety
///
/// The CPU has AVX2. `w` starts a panel of `groups` steps, `x` holds `groups` times `T` groups of i16, and `out` has room for
/// `T` rows, `stride` apart, of 8 numbers.
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
