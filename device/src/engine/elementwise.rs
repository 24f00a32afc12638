//! Functions of single numbers and of rows, written so that the compiler vectorizes them: activations, softmax and
//! LayerNorm over f32 slices. On x86_64 each is compiled a second time for AVX2 and chosen at run time; no fused
//! multiply-add is used there, so both give the same bits. Every aarch64 has one, and a quarter of an activation's work goes.

#[cfg(target_arch = "arm")]
use crate::engine::kernels::finish32;
use crate::engine::tile::Tile;
use thimble_shared::board::memory::QUERIES;
use thimble_shared::model::Activation;

/// Compiles the function as written and, on x86_64, once more with AVX2, and picks at run time.
#[macro_export]
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the CPU has AVX2, the only feature the function is compiled for.
                    #[allow(unsafe_code)]
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// Independent partial results of a reduction; what makes it vectorize, and the same everywhere.
const LANES: usize = 16;

#[inline(always)]
fn reduce(x: &[f32], start: f32, map: impl Fn(f32) -> f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [start; LANES];
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, map(v));
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane = fold(*lane, map(v));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = fold(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn sum(x: &[f32], map: impl Fn(f32) -> f32) -> f32 {
    reduce(x, 0.0, map, |a, b| a + b)
}

/// The greater of two numbers, `b` where `a` is NaN: one instruction on every target.
#[inline(always)]
pub(crate) fn greater(a: f32, b: f32) -> f32 {
    if cfg!(target_arch = "aarch64") {
        a.max(b)
    } else if a > b {
        a
    } else {
        b
    }
}

/// The largest magnitude. 64-bit Arm has its own.
#[cfg(not(target_arch = "aarch64"))]
#[inline(always)]
pub(crate) fn max_abs(x: &[f32]) -> f32 {
    reduce(x, 0.0, f32::abs, greater)
}

/// The least and the greatest number. 64-bit Arm has its own.
#[cfg(not(target_arch = "aarch64"))]
#[inline(always)]
pub(crate) fn range(x: &[f32]) -> (f32, f32) {
    let lesser = |a, b| if a < b { a } else { b };
    (
        reduce(x, f32::INFINITY, |v| v, lesser),
        reduce(x, f32::NEG_INFINITY, |v| v, greater),
    )
}

/// Limits `x` and lets NaN through.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    at_least(if x > high { high } else { x }, low)
}

/// `low` for anything below, and NaN for NaN.
#[inline(always)]
pub(crate) fn at_least(x: f32, low: f32) -> f32 {
    if x < low { low } else { x }
}

/// `a * b + c`, in one rounding where every CPU of the architecture has the instruction.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// 2^x with a relative error below 2.5e-7 from 2^-126.5 on; 0 below. Larger numbers than 127 count as 127.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    power(clamp(x, LOWEST, 127.0))
}

/// The same, but of NaN it may make a number: for what is NaN anyhow.
#[inline(always)]
#[allow(clippy::manual_clamp, reason = "one instruction each, since NaN need not pass")]
fn exp2_of_number(x: f32) -> f32 {
    if cfg!(target_arch = "aarch64") {
        power(x.max(LOWEST).min(127.0))
    } else {
        exp2(x)
    }
}

/// Where [`power`] begins: 2^-127 is 0.
pub(crate) const LOWEST: f32 = -127.0;

/// 2^x for x in [-127, 127]: the integer part goes into the exponent, a polynomial makes the rest, which lies in [-1/2, 1/2].
#[inline(always)]
#[allow(clippy::approx_constant, reason = "the polynomial's best coefficient, not ln 2")]
pub(crate) fn power(x: f32) -> f32 {
    // Adding it rounds to an integer and leaves that, with the exponent's bias, in the low bits.
    const MAGIC: f32 = 12_582_912.0 + 127.0;
    let shifted = x + MAGIC;
    let f = x - (shifted - MAGIC);
    let square = f * f;
    let high = multiply_add(1.326_472_7e-3, f, 9.671_513e-3);
    let middle = multiply_add(5.550_733_6e-2, f, 2.402_224_2e-1);
    let low = multiply_add(6.931_47e-1, f, 1.0);
    let p = multiply_add(multiply_add(high, square, middle), square, low);
    p * f32::from_bits(shifted.to_bits() << 23)
}

/// tanh with an absolute error below 2e-7.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp2(x * (2.0 * std::f32::consts::LOG2_E)) + 1.0)
}

/// erf with an absolute error below 5e-7, as a ratio of polynomials on [-4, 4].
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = clamp(x, -4.0, 4.0);
    let s = x * x;
    let p = -2.726_142_4e-10;
    let p = multiply_add(p, s, 2.770_681_5e-8);
    let p = multiply_add(p, s, -2.101_024e-6);
    let p = multiply_add(p, s, -5.692_506_2e-5);
    let p = multiply_add(p, s, -7.349_906_4e-4);
    let p = multiply_add(p, s, -2.954_6e-3);
    let p = multiply_add(p, s, -1.609_603_3e-2);
    let q = -1.456_607_15e-5;
    let q = multiply_add(q, s, -2.133_740_5e-4);
    let q = multiply_add(q, s, -1.682_827e-3);
    let q = multiply_add(q, s, -7.373_329_3e-3);
    let q = multiply_add(q, s, -1.426_473_9e-2);
    x * p / q
}

/// Channels that pass at a time where rows are that short: as a constant, so that the loop becomes a few vectors and the constants
/// stay in registers from row to row.
const CHUNK: usize = 16;

#[inline(always)]
fn each(tile: &mut Tile<'_>, f: impl Fn(f32) -> f32) {
    for row in 0..tile.rows() {
        let row = tile.row(row);
        if let Ok(chunk) = <&mut [f32; CHUNK]>::try_from(&mut *row) {
            for x in chunk {
                *x = f(*x);
            }
            continue;
        }
        for x in row {
            *x = f(*x);
        }
    }
}

multiversion! {
    fn gelu(tile: &mut Tile<'_>) {
        each(tile, |x| 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)));
    }
}

multiversion! {
    // 0.5 x (1 + tanh u) = x / (1 + e^-2u): one exponential, and no cancellation for large negative x.
    fn gelu_new(tile: &mut Tile<'_>) {
        const MINUS_2_SQRT_2_OVER_PI: f64 = -1.595_769_121_605_730_7;
        // In powers of two.
        const FIRST: f32 = (MINUS_2_SQRT_2_OVER_PI * std::f64::consts::LOG2_E) as f32;
        const THIRD: f32 = (0.044715 * MINUS_2_SQRT_2_OVER_PI * std::f64::consts::LOG2_E) as f32;
        #[cfg(target_arch = "arm")]
        if finish32::gelu_new(tile, FIRST, THIRD) {
            return;
        }
        each(tile, |x| x / (1.0 + exp2_of_number(x * multiply_add(THIRD, x * x, FIRST))));
    }
}

multiversion! {
    fn relu(tile: &mut Tile<'_>) {
        each(tile, |x| greater(x, 0.0));
    }
}

multiversion! {
    fn silu(tile: &mut Tile<'_>) {
        each(tile, |x| x / (1.0 + exp2_of_number(x * -std::f32::consts::LOG2_E)));
    }
}

multiversion! {
    fn tanh_all(tile: &mut Tile<'_>) {
        each(tile, tanh);
    }
}

/// Applies an activation in place.
#[cfg(test)]
pub fn activate(activation: Activation, x: &mut [f32]) {
    activate_tile(activation, &mut Tile::of(x));
}

/// Applies an activation in place.
pub fn activate_tile(activation: Activation, tile: &mut Tile<'_>) {
    match activation {
        Activation::Gelu => gelu(tile),
        Activation::GeluNew => gelu_new(tile),
        Activation::Relu => relu(tile),
        Activation::Silu => silu(tile),
        Activation::Tanh => tanh_all(tile),
    }
}

/// What scores are to be multiplied by besides `1/√d`: [`weigh`] takes powers of two.
pub const SCORE_UNIT: f32 = std::f32::consts::LOG2_E;

multiversion! {
    /// Turns scores `[key][queries]`, in units of [`SCORE_UNIT`], into weights, and returns what each query's weights are still
    /// to be multiplied by to sum to 1. 8 or 16 queries lie side by side. `keep`, where it is given, is 0 for each key that
    /// weighs nothing; if that is all of them, all weigh alike, as in Hugging Face's arithmetic.
    pub fn weigh(scores: &mut [f32], queries: usize, keep: Option<&[f32]>) -> [f32; QUERIES] {
        if let Some(keep) = keep {
            for (scores, &keep) in scores.chunks_exact_mut(queries).zip(keep) {
                // score + (1 - keep) * MIN is exactly MIN for any score of ordinary size.
                if keep == 0.0 {
                    scores.fill(f32::MIN);
                }
            }
        }
        let (chunks, rest) = scores.as_chunks_mut::<QUERIES>();
        let mut most = [f32::MIN; QUERIES];
        for chunk in chunks.iter() {
            for i in 0..QUERIES {
                most[i] = greater(chunk[i], most[i]);
            }
        }
        for (most, &score) in most.iter_mut().zip(rest.iter()) {
            *most = greater(score, *most);
        }
        // Even and odd keys are summed apart however many queries there are: what stands beside a query changes no bit of it.
        let (mut even, mut odd) = ([0.0; QUERIES], [0.0; QUERIES]);
        if queries < QUERIES {
            // Two keys pass at a time, the odd ones in the second half.
            let half = QUERIES / 2;
            for i in 0..half {
                most[i] = greater(most[i], most[half + i]);
                most[half + i] = most[i];
            }
            let mut both = [0.0; QUERIES];
            for chunk in chunks {
                exponentials(chunk, &most, &mut both);
            }
            for ((score, most), total) in rest.iter_mut().zip(&most).zip(&mut both) {
                *score = power(at_least(*score - most, LOWEST));
                *total += *score;
            }
            even[..half].copy_from_slice(&both[..half]);
            odd[..half].copy_from_slice(&both[half..]);
        } else {
            let (pairs, last) = chunks.as_chunks_mut::<2>();
            for [first, second] in pairs {
                exponentials(first, &most, &mut even);
                exponentials(second, &most, &mut odd);
            }
            for last in last {
                exponentials(last, &most, &mut even);
            }
        }
        std::array::from_fn(|query| 1.0 / (even[query] + odd[query]))
    }
}

/// Turns scores into weights, the greatest of them 1, and adds these to `total`.
#[inline(always)]
fn exponentials(scores: &mut [f32; QUERIES], most: &[f32; QUERIES], total: &mut [f32; QUERIES]) {
    #[cfg(target_arch = "arm")]
    if finish32::exponentials(scores, most, total) {
        return;
    }
    for i in 0..QUERIES {
        let weight = power(at_least(scores[i] - most[i], LOWEST));
        scores[i] = weight;
        total[i] += weight;
    }
}

multiversion! {
    /// LayerNorm of one row in place, after `residual`, where there is one, has been added: mean and variance in two passes, as
    /// LayerNormalization states it.
    pub fn layer_norm(x: &mut [f32], residual: Option<&[f32]>, weight: &[f32], bias: &[f32], eps: f32) {
        if let Some(residual) = residual {
            for (x, residual) in x.iter_mut().zip(residual) {
                *x += residual;
            }
        }
        let len = x.len() as f32;
        let mean = sum(x, |v| v) / len;
        let variance = sum(x, |v| (v - mean) * (v - mean)) / len;
        let scale = 1.0 / (variance + eps).sqrt();
        for ((v, w), b) in x.iter_mut().zip(weight).zip(bias) {
            *v = (*v - mean) * scale * w + b;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn erf_f64(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 * sum.abs() && n < 200.0 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn approximations_stay_within_their_stated_errors() {
        for i in -200_000..=200_000 {
            let x = i as f32 * 4e-4;
            let wide = f64::from(x);
            let e = wide.exp2();
            let loss = if x < -126.5 { 2f64.powi(-126) } else { 2.5e-7 * e };
            assert!((f64::from(exp2(x)) - e).abs() <= loss, "2^{x} = {} not {e}", exp2(x));
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() < 2e-7, "tanh({x})");
            if x.abs() < 4.5 {
                assert!(
                    (f64::from(erf(x)) - erf_f64(wide)).abs() < 5e-7,
                    "erf({x}) = {}",
                    erf(x)
                );
            }
        }
        assert!(exp2(f32::NAN).is_nan() && erf(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
        assert_eq!(
            [f32::NEG_INFINITY, -127.0, 0.0, 127.0].map(exp2),
            [0.0, 0.0, 1.0, 2f32.powi(127)]
        );
    }

    #[test]
    fn activations_follow_their_definitions() {
        let inputs: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 5e-3).collect();
        let cases: [(Activation, fn(f64) -> f64); 5] = [
            (Activation::Gelu, |x| {
                if x.abs() < 6.0 {
                    0.5 * x * (1.0 + erf_f64(x / 2f64.sqrt()))
                } else {
                    x.max(0.0)
                }
            }),
            (Activation::GeluNew, |x| {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }),
            (Activation::Relu, |x| x.max(0.0)),
            (Activation::Silu, |x| x / (1.0 + (-x).exp())),
            (Activation::Tanh, f64::tanh),
        ];
        for (activation, want) in cases {
            // All of them, and as many as are whole vectors.
            for inputs in [&inputs[..], &inputs[1..]] {
                let mut got = inputs.to_vec();
                activate(activation, &mut got);
                for (x, y) in inputs.iter().zip(&got) {
                    let want = want(f64::from(*x));
                    assert!(
                        (f64::from(*y) - want).abs() < 1.5e-6 * want.abs().max(1.0),
                        "{activation:?}({x}) = {y} not {want}"
                    );
                }
            }
        }
    }

    /// The softmax of some scores times `scale`, as a query among others.
    pub fn softmax(scores: &[f32], keep: Option<&[f32]>, scale: f32) -> Vec<f32> {
        let softmax = |queries: usize, query: usize| -> Vec<f32> {
            let mut all: Vec<f32> = (0..scores.len() * queries)
                .map(|i| (i * 37 % 11) as f32 - 5.0)
                .collect();
            for (row, score) in all.chunks_exact_mut(queries).zip(scores) {
                row[query] = score * scale * SCORE_UNIT;
            }
            let inverse = weigh(&mut all, queries, keep);
            all.chunks_exact(queries)
                .map(|row| row[query] * inverse[query])
                .collect()
        };
        let alone = softmax(QUERIES, 3);
        // What stands beside a query, and how many there are, changes no bit.
        let bits = |weights: &[f32]| weights.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&softmax(8, 5)), bits(&alone));
        alone
    }

    #[test]
    fn softmax_ignores_masked_keys_and_spreads_over_all_when_none_is_left() {
        let s = softmax(&[0.3, 9.0, -1.2, 0.0, 5.0], Some(&[1.0, 0.0, 1.0, 1.0, 0.0]), 2.0);
        let e = [0.6f64, -2.4, 0.0].map(f64::exp);
        let total: f64 = e.iter().sum();
        for (got, want) in s.iter().zip([e[0] / total, 0.0, e[1] / total, e[2] / total, 0.0]) {
            assert!((f64::from(*got) - want).abs() < 1e-7);
        }
        assert_eq!((s[1], s[4]), (0.0, 0.0));
        assert_eq!(softmax(&[0.3, 9.0, -1.2, 1e4], Some(&[0.0; 4]), 2.0), [0.25; 4]);
        assert!(softmax(&[0.3, f32::NAN], None, 1.0).iter().any(|w| w.is_nan()));
    }

    #[test]
    fn layer_norm_agrees_with_f64() {
        for len in [3usize, 16, 24, 129, 768] {
            let x: Vec<f32> = (0..len).map(|i| ((i * 7919) % 613) as f32 * 0.01 - 2.0).collect();
            let (w, b): (Vec<f32>, Vec<f32>) = (0..len).map(|i| (1.0 + i as f32 * 1e-3, i as f32 * 1e-2)).unzip();
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / len as f64;
            let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / len as f64;
            let mut got = x.clone();
            layer_norm(&mut got, None, &w, &b, 1e-12);
            for i in 0..len {
                let want = (f64::from(x[i]) - mean) / (var + 1e-12).sqrt() * f64::from(w[i]) + f64::from(b[i]);
                assert!((f64::from(got[i]) - want).abs() < 5e-6, "{len}: {} not {want}", got[i]);
            }
        }
    }
}
