//! What the kernels for x86_64 share: the number of tokens as a constant, and which CPUs have AVX-512; and the packing that SSE
//! does.

use std::arch::x86_64::*;
use thimble_shared::artifact::layout::PANEL_ROWS;

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
pub(super) use by_tokens;

/// The VL part is what lets 256-bit halves live in all 32 registers.
pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx2")
}

/// `to[i * width + r] = rows[r][i]` for the first multiple of four `i`; returns how many those are.
pub fn interleave(rows: &[&[f32]; PANEL_ROWS], to: &mut [f32], width: usize) -> usize {
    let fours = rows.iter().map(|r| r.len() / 4).min().unwrap_or(0);
    assert!(width >= PANEL_ROWS && (fours == 0 || to.len() >= (fours * 4 - 1) * width + PANEL_ROWS));
    for i in (0..4 * fours).step_by(4) {
        for half in 0..2 {
            let rows = &rows[4 * half..];
            // SAFETY: SSE is part of x86_64; each row has four values at `i`, and the last of the four stores ends at
            // (i + 3) * width + 8 at most.
            unsafe {
                let [mut a, mut b, mut c, mut d] = [0, 1, 2, 3].map(|r| _mm_loadu_ps(rows[r].as_ptr().add(i)));
                _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
                let to = to.as_mut_ptr().add(i * width + 4 * half);
                _mm_storeu_ps(to, a);
                _mm_storeu_ps(to.add(width), b);
                _mm_storeu_ps(to.add(2 * width), c);
                _mm_storeu_ps(to.add(3 * width), d);
            }
        }
    }
    4 * fours
}
