//! What the kernels for x86_64 share: the number of tokens as a constant, and which CPUs have AVX-512.

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
