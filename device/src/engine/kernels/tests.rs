//! Kernels against plain arithmetic on awkward shapes: int8 exactly, f32 within rounding.

use super::pack::PackedF32;
use super::*;
use crate::engine::threads::Pool;
use thimble_shared::artifact::layout::{I8_DEPTH, PanelLayout};
use thimble_shared::dtype::{I8_INPUTS, InputRange, Storage};
pub(crate) use thimble_shared::random::Random;

/// Random cases a test makes. An interpreter takes minutes for a few, and 32-bit Arm is always emulated, f64 slowly.
pub(crate) const CASES: u64 = match (cfg!(miri), cfg!(target_arch = "arm")) {
    (true, _) => 3,
    (false, true) => 40,
    (false, false) => 200,
};

/// A length of 1 to `most`: often the least, often at or just past the edge of a tile.
pub(crate) fn size(random: &mut Random, most: usize) -> usize {
    let any = 1 + random.next() as usize % most;
    match random.next() % 8 {
        0 => 1,
        1 => any.next_multiple_of(PANEL_ROWS).min(most),
        2 => (any.next_multiple_of(PANEL_ROWS) + 1).min(most),
        _ => any,
    }
}

const SHAPES: [(usize, usize, usize); 9] = [
    (1, 16, 1),
    (8, 16, 16),
    (24, 48, 3),
    (16, 768, 17),
    (40, 96, 8),
    (32, 80, 33),
    (64, 3072, 5),
    (8, 128, 40),
    (48, 12, 12),
];

/// Channels, inputs and tokens: the shapes of a model, and random ones.
fn shapes(random: &mut Random) -> Vec<(usize, usize, usize)> {
    let mut all = if cfg!(miri) { vec![] } else { SHAPES.to_vec() };
    all.extend((0..CASES).map(|_| (size(random, 80), size(random, 300), size(random, 40))));
    all
}

/// The largest products of one sign, as many as an int8 sum may have: the sum fits, and no kernel loses a bit of it.
#[test]
#[cfg_attr(miri, ignore = "a million products take an interpreter too long")]
fn every_int8_kernel_holds_the_largest_sums() {
    for kernel in I8Kernel::available() {
        for (weight, k) in [(127i8, I8_INPUTS), (-127, I8_INPUTS), (127, 3072), (-127, 4096)] {
            let mut w = Buffer::default();
            w.take::<i8>(PANEL_ROWS * k).fill(weight);
            let w = w.view::<i8>(PANEL_ROWS * k);
            for rows in [1, 5] {
                let mut packed = PackedI8::default();
                let x = vec![1.0; rows * k];
                let range = InputRange::Symmetric;
                packed.quantize(&Pool::inline(), kernel.tiling(), kernel.order(), range, &x, k);
                let chains: Vec<u8> = fits_four(w).collect();
                let mut work = KernelWork::default();
                let got = kernel.multiply(w, &chains, &packed, 0..rows, &mut work).unwrap();
                let want = i32::from(weight) * 127 * k as i32;
                assert!(
                    got.iter().all(|&s| s == want),
                    "{} {weight} x {k}: {} not {want}",
                    kernel.name(),
                    got[0]
                );
            }
        }
    }
}

#[test]
fn every_int8_kernel_gives_the_exact_sums() {
    for kernel in I8Kernel::available() {
        let mut random = Random(3);
        for (n, k, rows) in shapes(&mut random) {
            let layout = PanelLayout::new(Storage::I8, n, k);
            let mut w = Buffer::default();
            let len = layout.bytes();
            // Small weights in every other shape and, in the rest, in every third block: SMULL's chains are then all of four
            // products, or mixed.
            for (i, block) in w.take::<i8>(len).chunks_mut(I8_DEPTH * PANEL_ROWS).enumerate() {
                let divisor = if rows % 2 == 0 || i % 3 == 0 { 4 } else { 1 };
                block.fill_with(|| random.int8() / divisor);
            }
            let w = w.view::<i8>(len);
            let chains: Vec<u8> = fits_four(w).collect();
            assert!(
                chains
                    .iter()
                    .enumerate()
                    .all(|(i, &c)| c == 1 || (rows % 2 == 1 && i % 3 != 0))
            );
            let x: Vec<f32> = (0..rows * k).map(|_| random.normal()).collect();
            for range in InputRange::ALL {
                let mut packed = PackedI8::default();
                packed.quantize(&Pool::inline(), kernel.tiling(), kernel.order(), range, &x, k);
                let mut work = KernelWork::default();
                let twos = vec![0; chains.len()];
                let chains = if range == InputRange::Tensor { &twos } else { &chains };
                let got = kernel.multiply(w, chains, &packed, 0..rows, &mut work).unwrap();
                let whole = pack::Uint8::of(&x);
                let mut q = vec![0i8; k.next_multiple_of(I8_DEPTH)];
                for t in 0..rows {
                    let x = &x[t * k..][..k];
                    match range {
                        InputRange::Symmetric => (pack::quantize_row(x, &mut q[..k]), 0.0),
                        InputRange::Centered => pack::quantize_centered(x, &mut q[..k]),
                        InputRange::Tensor => whole.quantize(x, &mut q[..k]),
                    };
                    for c in 0..layout.padded_out() {
                        let want: i32 = (0..layout.padded_in())
                            .map(|j| i32::from(w[layout.index(c, j)]) * i32::from(q[j]))
                            .sum();
                        assert_eq!(
                            got[t * layout.padded_out() + c],
                            want,
                            "{} {n}x{k}x{rows}: {t},{c}",
                            kernel.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_f32_kernel_agrees_with_f64() {
    for kernel in F32Kernel::available() {
        let mut random = Random(4);
        for (n, k, rows) in shapes(&mut random) {
            let layout = PanelLayout::new(Storage::F32, n, k);
            let len = layout.padded_out() * k;
            let mut w = Buffer::default();
            let mut halves = Buffer::default();
            halves.take::<f16>(len).fill_with(|| f16::from_f32(random.normal()));
            let halves = halves.view::<f16>(len);
            widen(halves, w.take::<f32>(len));
            let w = w.view::<f32>(len);
            let x: Vec<f32> = (0..rows * k).map(|_| random.normal()).collect();
            let mut packed = PackedF32::default();
            packed.pack(&Pool::inline(), kernel.tiling(), &x, rows, k, k);
            let mut work = KernelWork::default();
            let got = kernel
                .multiply(w, packed.tiles(kernel.tiling()), &mut work)
                .unwrap()
                .to_vec();
            let from_halves = kernel
                .multiply_f16(halves, packed.tiles(kernel.tiling()), &mut Buffer::default(), &mut work)
                .unwrap();
            for t in 0..rows {
                for c in 0..layout.padded_out() {
                    let want: f64 = (0..k)
                        .map(|j| f64::from(w[layout.index(c, j)]) * f64::from(x[t * k + j]))
                        .sum();
                    let at = t * layout.padded_out() + c;
                    for got in [f64::from(got[at]), f64::from(from_halves[at])] {
                        let name = kernel.name();
                        assert!(
                            (got - want).abs() < 1e-5 * k as f64,
                            "{name} {n}x{k}x{rows}: {got} not {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_half_is_widened_exactly() {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|h| !h.is_nan()).collect();
    let mut wide = vec![0f32; all.len()];
    widen(&all, &mut wide);
    assert!(all.iter().zip(&wide).all(|(h, w)| h.to_f32().to_bits() == w.to_bits()));
}

#[test]
fn kernels_are_chosen_by_name_and_unknown_names_are_refused() {
    assert_eq!(Kernels::choose(Some("portable")).unwrap().i8.name(), "portable");
    let error = Kernels::choose(Some("warp")).unwrap_err().to_string();
    assert!(error.contains("warp") && error.contains("portable"), "{error}");
    let (f32s, i8s) = Kernels::available();
    for name in f32s.iter().chain(&i8s) {
        Kernels::choose(Some(name)).unwrap();
    }
}

#[test]
fn four_products_fit_up_to_a_sum_of_258() {
    let mut panel = vec![0i8; 2 * 128];
    // Input 1 of channel 0 in each of the second block's groups.
    let cases = [
        ([127, 127, 4, 0], true),
        ([-127, 127, -4, 1], false),
        ([-127; 4], false),
        ([65, -64, 65, -64], true),
    ];
    for (weights, want) in cases {
        for (group, &weight) in weights.iter().enumerate() {
            panel[128 + group * 32 + 1] = weight;
        }
        assert_eq!(
            fits_four(&panel).collect::<Vec<_>>(),
            [1, u8::from(want)],
            "{weights:?}"
        );
    }
}
