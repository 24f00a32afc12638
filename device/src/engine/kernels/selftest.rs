//! The proof, at every start, that a kernel computes what it should: a few panels and tokens multiplied and compared with
//! plain arithmetic. tract's panel order is no documented interface, and a CPU may promise more than it does.

use super::pack::{PackedF32, PackedI8};
use super::{F32Kernel, I8Kernel, KernelError, KernelWork, fits_four, widen};
use crate::image::buffer::Buffer;
use half::f16;
use thimble_shared::artifact::layout::{PANEL_ROWS, PanelLayout};
use thimble_shared::dtype::{InputRange, Storage};
use thimble_shared::random::Random;

impl F32Kernel {
    pub(super) fn self_test(&self) -> Result<(), KernelError> {
        let (panels, k, rows) = (3, 37, 21);
        let mut random = Random(1);
        // Values that f16 holds exactly, so that both ways of storing them must give the same sums.
        let (mut halves, mut w) = (Buffer::default(), Buffer::default());
        let len = panels * PANEL_ROWS * k;
        halves.take::<f16>(len).fill_with(|| f16::from_f32(random.normal()));
        let halves = halves.view::<f16>(len);
        widen(halves, w.take::<f32>(len));
        let w = w.view::<f32>(len);
        let x: Vec<f32> = (0..rows * k).map(|_| random.normal()).collect();
        let mut packed = PackedF32::default();
        packed.pack(&crate::engine::threads::Pool::inline(), self.tiling(), &x, rows, k, k);
        let wanted = |t: usize, n: usize| {
            let panel = &w[n / PANEL_ROWS * PANEL_ROWS * k..];
            (0..k)
                .map(|j| f64::from(panel[j * PANEL_ROWS + n % PANEL_ROWS]) * f64::from(x[t * k + j]))
                .sum()
        };
        let mut work = KernelWork::default();
        let found = self
            .multiply(w, packed.tiles(self.tiling()), &mut work)
            .map_err(|e| failed(self.name(), &e))?;
        compare(self.name(), panels * PANEL_ROWS, found, 1e-4, wanted)?;
        let found = self
            .multiply_f16(halves, packed.tiles(self.tiling()), &mut Buffer::default(), &mut work)
            .map_err(|e| failed(self.name(), &e))?;
        compare(self.name(), panels * PANEL_ROWS, found, 1e-4, wanted)
    }
}

impl I8Kernel {
    pub(super) fn self_test(&self) -> Result<(), KernelError> {
        let (panels, k, rows) = (3, 80, 21);
        let mut random = Random(2);
        let mut w = Buffer::default();
        w.take::<i8>(panels * PANEL_ROWS * k).fill_with(|| random.int8());
        // The largest products there are, all of one sign, without and with the promise that four of them fit an i16: what
        // overflows first in a kernel that can overflow.
        let extremes = w.take::<i8>(panels * PANEL_ROWS * k);
        extremes[..PANEL_ROWS * k].fill(127);
        for (i, group) in extremes[2 * PANEL_ROWS * k..].chunks_exact_mut(32).enumerate() {
            group.fill(if i % 2 == 0 { 65 } else { 64 });
        }
        let w = w.view::<i8>(panels * PANEL_ROWS * k);
        // Every row holds a 127, so quantizing keeps the whole numbers as they are.
        let x: Vec<f32> = (0..rows * k)
            .map(|i| {
                if i % k == 0 || i < k {
                    127.0
                } else {
                    f32::from(random.int8())
                }
            })
            .collect();
        let pool = crate::engine::threads::Pool::inline();
        let (mut packed, mut work) = (PackedI8::default(), KernelWork::default());
        let chains: Vec<u8> = fits_four(w).collect();
        let channels = panels * PANEL_ROWS;
        let layout = PanelLayout::new(Storage::I8, channels, k);
        let rows_of = |x: &[f32], range, packed: &mut PackedI8, work: &mut KernelWork| {
            packed.quantize(&pool, self.tiling(), self.order(), range, x, k);
            let found = self.multiply(w, &chains, packed, 0..rows, work);
            let found = found.map_err(|e| failed(self.name(), &e))?;
            // All sums stay below 2^24, so f32 holds them exactly.
            Ok::<Vec<f32>, KernelError>(found.iter().map(|&v| v as f32).collect())
        };
        let found = rows_of(&x, InputRange::Symmetric, &mut packed, &mut work)?;
        compare(self.name(), channels, &found, 0.0, |t, n| {
            (0..k)
                .map(|j| f64::from(w[layout.index(n, j)]) * f64::from(x[t * k + j]))
                .sum()
        })?;
        // The same around 2: both ends of the range stand in every row.
        let moved = x.iter().enumerate();
        let moved: Vec<f32> = moved.map(|(i, x)| if i % k == 1 { -125.0 } else { x + 2.0 }).collect();
        let found = rows_of(&moved, InputRange::Centered, &mut packed, &mut work)?;
        compare(self.name(), channels, &found, 0.0, |t, n| {
            (0..k)
                .map(|j| f64::from(w[layout.index(n, j)]) * f64::from(moved[t * k + j] - 2.0))
                .sum()
        })
    }
}

fn failed(kernel: &str, error: &dyn std::fmt::Display) -> KernelError {
    KernelError::Failed {
        kernel: kernel.to_string(),
        problem: error.to_string(),
    }
}

fn compare(
    kernel: &str,
    channels: usize,
    found: &[f32],
    tolerance: f64,
    wanted: impl Fn(usize, usize) -> f64,
) -> Result<(), KernelError> {
    for (i, &found) in found.iter().enumerate() {
        let (token, channel) = (i / channels, i % channels);
        let (found, wanted) = (f64::from(found), wanted(token, channel));
        if (found - wanted).abs() > tolerance || found.is_nan() {
            return Err(KernelError::SelfTest {
                kernel: kernel.to_string(),
                token,
                channel,
                found,
                wanted,
            });
        }
    }
    Ok(())
}
