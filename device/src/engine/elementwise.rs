//! Functions of single numbers and of rows, written so that the compiler vectorizes them: activations, softmax and
//! LayerNorm over f32 slices. On x86_64 each is compiled a second time for AVX2 and chosen at run time; no fused
//! multiply-add is used there, so both give the same bits. Every aarch64 has one, and a quarter of an activation's work goes.

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

/// `if a > b` instead of `f32::max`: one instruction on every target.
#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The largest magnitude. Arm has its own.
#[cfg(not(target_arch = "aarch64"))]
#[inline(always)]
pub(crate) fn max_abs(x: &[f32]) -> f32 {
    reduce(x, 0.0, f32::abs, greater)
}

/// The least and the greatest number. Arm has its own.
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
    let x = if x > high { high } else { x };
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

/// e^x with a relative error below 2e-7; arguments are limited to what f32 can hold.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = clamp(x, -87.0, 88.0);
    const MAGIC: f32 = 12_582_912.0;
    let shifted = multiply_add(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    // ln 2 in two parts: the first has so few bits that n * HIGH is exact.
    const HIGH: f32 = 6.933_594e-1;
    const LOW: f32 = -2.121_944_4e-4;
    let r = multiply_add(n, -LOW, multiply_add(n, -HIGH, x));
    let p = 1.987_569_1e-4;
    let p = multiply_add(p, r, 1.398_199_9e-3);
    let p = multiply_add(p, r, 8.333_452e-3);
    let p = multiply_add(p, r, 4.166_579_6e-2);
    let p = multiply_add(p, r, 1.666_666_6e-1);
    let p = multiply_add(p, r, 0.5);
    let e = multiply_add(p * r, r, r) + 1.0;
    let power = ((shifted.to_bits() as i32)
        .wrapping_sub(MAGIC.to_bits() as i32)
        .wrapping_add(127)
        << 23) as u32;
    e * f32::from_bits(power)
}

/// tanh with an absolute error below 2e-7.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
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

multiversion! {
    fn gelu(x: &mut [f32]) {
        for v in x {
            *v = 0.5 * *v * (1.0 + erf(*v * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

multiversion! {
    // 0.5 x (1 + tanh u) = x / (1 + e^-2u): one exponential, and no cancellation for large negative x.
    fn gelu_new(x: &mut [f32]) {
        const MINUS_2_SQRT_2_OVER_PI: f32 = -1.595_769_2;
        for v in x {
            let x = *v;
            let u = x * multiply_add(0.044715 * MINUS_2_SQRT_2_OVER_PI, x * x, MINUS_2_SQRT_2_OVER_PI);
            *v = x / (1.0 + exp(u));
        }
    }
}

multiversion! {
    fn silu(x: &mut [f32]) {
        for v in x {
            *v /= 1.0 + exp(-*v);
        }
    }
}

multiversion! {
    fn tanh_all(x: &mut [f32]) {
        for v in x {
            *v = tanh(*v);
        }
    }
}

/// Applies an activation in place.
pub fn activate(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Gelu => gelu(x),
        Activation::GeluNew => gelu_new(x),
        Activation::Relu => x.iter_mut().for_each(|v| *v = greater(*v, 0.0)),
        Activation::Silu => silu(x),
        Activation::Tanh => tanh_all(x),
    }
}

multiversion! {
    /// Scales a row of scores, adds the mask's bias and turns it into weights that sum to 1. `keep[j]` is 1 where key `j` may
    /// be looked at and 0 elsewhere; a row that keeps nothing weighs all keys alike, as Hugging Face's arithmetic does.
    pub fn masked_softmax(scores: &mut [f32], keep: &[f32], scale: f32) {
        // score + (1 - keep) * MIN is exactly MIN for any score of ordinary size, as in Hugging Face.
        for (s, &k) in scores.iter_mut().zip(keep) {
            *s = if k != 0.0 { *s * scale } else { f32::MIN };
        }
        let max = reduce(scores, f32::MIN, |v| v, greater);
        for s in scores.iter_mut() {
            *s = exp(*s - max);
        }
        // exp stops at e^-87 instead of 0: masked keys must weigh exactly nothing.
        if max > f32::MIN {
            for (s, &k) in scores.iter_mut().zip(keep) {
                *s = if k != 0.0 { *s } else { 0.0 };
            }
        }
        let inverse = 1.0 / sum(scores, |v| v);
        for s in scores.iter_mut() {
            *s *= inverse;
        }
    }
}

multiversion! {
    /// LayerNorm of one row in place: mean and variance in two passes, as LayerNormalization states it.
    pub fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        let len = x.len() as f32;
        let mean = sum(x, |v| v) / len;
        for v in x.iter_mut() {
            *v -= mean;
        }
        let variance = sum(x, |v| v * v) / len;
        let scale = 1.0 / (variance + eps).sqrt();
        for ((v, w), b) in x.iter_mut().zip(weight).zip(bias) {
            *v = *v * scale * w + b;
        }
    }
}

multiversion! {
    /// `to += from`, element by element.
    pub fn add(to: &mut [f32], from: &[f32]) {
        for (a, b) in to.iter_mut().zip(from) {
            *a += b;
        }
    }
}

#[cfg(test)]
mod tests {
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
            let e = wide.exp();
            assert!(
                (f64::from(exp(x)) - e).abs() <= 2e-7 * e,
                "exp({x}) = {} not {e}",
                exp(x)
            );
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() < 2e-7, "tanh({x})");
            if x.abs() < 4.5 {
                assert!(
                    (f64::from(erf(x)) - erf_f64(wide)).abs() < 5e-7,
                    "erf({x}) = {}",
                    erf(x)
                );
            }
        }
        assert!(exp(f32::NAN).is_nan() && erf(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
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
            let mut got = inputs.clone();
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

    #[test]
    fn softmax_ignores_masked_keys_and_spreads_over_all_when_none_is_left() {
        let mut s = [0.3, 9.0, -1.2, 0.0, 5.0];
        masked_softmax(&mut s, &[1.0, 0.0, 1.0, 1.0, 0.0], 2.0);
        let e = [0.6f64, -2.4, 0.0].map(f64::exp);
        let total: f64 = e.iter().sum();
        for (got, want) in s.iter().zip([e[0] / total, 0.0, e[1] / total, e[2] / total, 0.0]) {
            assert!((f64::from(*got) - want).abs() < 1e-7);
        }
        assert_eq!((s[1], s[4]), (0.0, 0.0));
        let mut s = [0.3, 9.0, -1.2, 1e4];
        masked_softmax(&mut s, &[0.0; 4], 2.0);
        assert_eq!(s, [0.25; 4]);
    }

    #[test]
    fn layer_norm_agrees_with_f64() {
        for len in [3usize, 16, 24, 129, 768] {
            let x: Vec<f32> = (0..len).map(|i| ((i * 7919) % 613) as f32 * 0.01 - 2.0).collect();
            let (w, b): (Vec<f32>, Vec<f32>) = (0..len).map(|i| (1.0 + i as f32 * 1e-3, i as f32 * 1e-2)).unzip();
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / len as f64;
            let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / len as f64;
            let mut got = x.clone();
            layer_norm(&mut got, &w, &b, 1e-12);
            for i in 0..len {
                let want = (f64::from(x[i]) - mean) / (var + 1e-12).sqrt() * f64::from(w[i]) + f64::from(b[i]);
                assert!((f64::from(got[i]) - want).abs() < 5e-6, "{len}: {} not {want}", got[i]);
            }
        }
    }
}
