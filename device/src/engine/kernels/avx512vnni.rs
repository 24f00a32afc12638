//! int8 with AVX-512's VNNI: two panels fill one register, four products are summed in one instruction.

use super::pack::{Order, Token};
use super::x86_64::{by_tokens, has_avx512};
use super::{Fit, I8Product, I8Tile, I8Tiles, OWN_16, Row};
use std::arch::x86_64::*;
use thimble_shared::artifact::layout::{I8_GROUP, PANEL_ROWS};

pub const ROW: Row<I8Product> = Row {
    name: "avx512vnni",
    runs: || Fit::where_there(has_vnni()),
    tiling: OWN_16,
    product: I8Product::Tiles(I8Tiles {
        order: Order::Groups,
        asks_for_chains: false,
        multiply,
    }),
};

fn has_vnni() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw")
}

fn multiply(tile: I8Tile<'_>) {
    let x = bytemuck::cast_slice(tile.x);
    i8_vnni(tile.w, x, tile.tokens, tile.depth, tile.out, tile.stride);
}

/// int8 with VPDPBUSD, 16 channels at a time. The instruction wants one unsigned operand: weights enter as w + 128 (one
/// flipped bit) and 128 × the token's sum is taken off at the end. Call only when [`has_vnni`].
fn i8_vnni(w: &[i8], x: &[i8], tokens: &[Token], depth: usize, out: &mut [i32], stride: usize) {
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

/// # Safety
///
/// The CPU has the features below. `w0` and `w1` start panels of `groups` steps, `x` holds `groups` times `T` groups, `tokens`
/// holds `T`, and `out` has room for `T` rows, `stride` apart, of 8 numbers, or of 16 where `both`.
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
