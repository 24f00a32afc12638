//! Which matrix kernels this CPU gets, and the proof that they compute what they should. A kernel multiplies whole weight
//! panels by packed activations into rows of `[token][channel]`; int8 results are exact, whichever kernel ran.

#[cfg(target_arch = "aarch64")]
mod arm;
pub mod pack;
mod portable;
pub mod tract;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::buffer::Buffer;
use half::f16;
use pack::{PackedF32, PackedI8, Tiling};
use thimble_shared::panel::PANEL_ROWS;
use tract::{Operands, TractKernel, Workspace};
use tract_core::internal::TractResult;

/// Panels multiplied in one call: enough to spread a call's cost, few enough that the result stays in the first cache.
pub const GROUP: usize = 4;

#[derive(Clone, Debug)]
pub enum F32Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    Tract(TractKernel),
    Portable,
}

#[derive(Clone, Debug)]
pub enum I8Kernel {
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Smull,
    Tract(TractKernel),
    Portable,
}

/// The kernels an engine computes with.
#[derive(Clone, Debug)]
pub struct Kernels {
    pub f32: F32Kernel,
    pub i8: I8Kernel,
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("no kernel '{name}' on this CPU; it has {known}")]
    Unknown { name: String, known: String },
    #[error("kernel '{kernel}' fails its self-test: token {token}, channel {channel} is {found}, must be {wanted}")]
    SelfTest {
        kernel: String,
        token: usize,
        channel: usize,
        found: f64,
        wanted: f64,
    },
    #[error("kernel '{kernel}': {problem}")]
    Failed { kernel: String, problem: String },
}

/// What one thread works in while it multiplies.
#[derive(Default)]
pub struct Work {
    f32: Vec<f32>,
    i32: Vec<i32>,
    tract_f32: Option<Workspace>,
    tract_i32: Option<Workspace>,
}

/// One cache line of f32 activations per step.
#[cfg(target_arch = "x86_64")]
const OWN_16: Tiling = Tiling {
    tokens: 16,
    padded: false,
};
/// Two accumulators per token leave room in 16 registers.
const OWN_4: Tiling = Tiling {
    tokens: 4,
    padded: false,
};

impl F32Kernel {
    /// Best first.
    fn available() -> Vec<F32Kernel> {
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(x86::has_avx512().then_some(F32Kernel::Avx512));
            let names = ["fma_mmm_f32_8x8", "avx_mmm_f32_8x8"];
            all.extend(
                names
                    .iter()
                    .filter_map(|n| TractKernel::find(n, 0))
                    .map(F32Kernel::Tract),
            );
        }
        #[cfg(target_arch = "aarch64")]
        {
            let variant = match cpu_part().as_deref() {
                Some("0xd03") => "a53",
                Some("0xd05") => "a55",
                _ => "gen",
            };
            let mut names = vec![format!("arm64simd_mmm_f32_8x8_{variant}")];
            names.extend(
                ["gen", "a53", "a55"]
                    .iter()
                    .filter(|v| **v != variant)
                    .map(|v| format!("arm64simd_mmm_f32_8x8_{v}")),
            );
            all.extend(
                names
                    .iter()
                    .filter_map(|n| TractKernel::find(n, 0))
                    .map(F32Kernel::Tract),
            );
        }
        all.push(F32Kernel::Portable);
        all
    }

    pub fn name(&self) -> &str {
        match self {
            #[cfg(target_arch = "x86_64")]
            F32Kernel::Avx512 => "avx512",
            F32Kernel::Tract(kernel) => kernel.name(),
            F32Kernel::Portable => "portable",
        }
    }

    pub fn tiling(&self) -> Tiling {
        match self {
            #[cfg(target_arch = "x86_64")]
            F32Kernel::Avx512 => OWN_16,
            F32Kernel::Tract(kernel) => Tiling {
                tokens: kernel.tokens(),
                padded: true,
            },
            F32Kernel::Portable => OWN_4,
        }
    }

    /// `w` is whole panels `[x.k][8]`; returns one row of their channels per token.
    pub fn multiply<'w>(&self, w: &[f32], x: &PackedF32, work: &'w mut Work) -> TractResult<&'w mut [f32]> {
        let (rows, k) = (x.rows, x.k);
        let channels = w.len() / k;
        let tiling = self.tiling();
        if let F32Kernel::Tract(kernel) = self {
            let work = work.tract_f32.get_or_insert_with(|| kernel.workspace());
            let (w, x) = (bytemuck::cast_slice(w), bytemuck::cast_slice(x.all(tiling)));
            return kernel.multiply(
                Operands {
                    w,
                    channels,
                    x,
                    tokens: rows,
                    k,
                    element: 4,
                },
                work,
            );
        }
        let out = room(&mut work.f32, rows * channels);
        // Pairs of panels outermost: they stay in the first cache while all tiles pass.
        for (pair, w) in w.chunks(2 * PANEL_ROWS * k).enumerate() {
            for i in 0..tiling.tiles(rows) {
                let out = &mut out[i * tiling.tokens * channels + pair * 2 * PANEL_ROWS..];
                let (x, tokens) = (x.tile(tiling, i), tiling.real(rows, i));
                match self {
                    #[cfg(target_arch = "x86_64")]
                    F32Kernel::Avx512 => x86::f32_avx512(w, x, k, tokens, out, channels),
                    _ => portable::f32_tile(w, x, k, tokens, out, channels),
                }
            }
        }
        Ok(out)
    }

    fn self_test(&self) -> Result<(), KernelError> {
        let (panels, k, rows) = (3, 37, 21);
        let mut random = Random(1);
        let mut w = Buffer::default();
        w.take::<f32>(panels * PANEL_ROWS * k).fill_with(|| random.normal());
        let w = w.view::<f32>(panels * PANEL_ROWS * k);
        let x: Vec<f32> = (0..rows * k).map(|_| random.normal()).collect();
        let mut packed = PackedF32::default();
        packed.pack(&crate::pool::Pool::inline(), self.tiling(), &x, rows, k, k);
        let mut work = Work::default();
        let found = self
            .multiply(w, &packed, &mut work)
            .map_err(|e| failed(self.name(), &e))?;
        compare(self.name(), panels * PANEL_ROWS, found, 1e-4, |t, n| {
            let panel = &w[n / PANEL_ROWS * PANEL_ROWS * k..];
            (0..k)
                .map(|j| f64::from(panel[j * PANEL_ROWS + n % PANEL_ROWS]) * f64::from(x[t * k + j]))
                .sum()
        })
    }
}

impl I8Kernel {
    /// Best first.
    fn available() -> Vec<I8Kernel> {
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(x86::has_vnni().then_some(I8Kernel::Vnni));
            all.extend(is_x86_feature_detected!("avx2").then_some(I8Kernel::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        {
            all.extend(TractKernel::find("arm64simd_mmm_i32_8x8_dot", 1).map(I8Kernel::Tract));
            all.push(I8Kernel::Smull);
        }
        all.push(I8Kernel::Portable);
        all
    }

    pub fn name(&self) -> &str {
        match self {
            #[cfg(target_arch = "x86_64")]
            I8Kernel::Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            I8Kernel::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            I8Kernel::Smull => "smull",
            I8Kernel::Tract(kernel) => kernel.name(),
            I8Kernel::Portable => "portable",
        }
    }

    pub fn tiling(&self) -> Tiling {
        match self {
            #[cfg(target_arch = "x86_64")]
            I8Kernel::Vnni => OWN_16,
            #[cfg(target_arch = "x86_64")]
            I8Kernel::Avx2 => OWN_4,
            #[cfg(target_arch = "aarch64")]
            I8Kernel::Smull => Tiling {
                tokens: arm::TOKENS,
                padded: true,
            },
            I8Kernel::Tract(kernel) => Tiling {
                tokens: kernel.tokens(),
                padded: true,
            },
            I8Kernel::Portable => OWN_4,
        }
    }

    /// Whether activations are packed as i16.
    pub fn wide(&self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            I8Kernel::Avx2 => true,
            _ => false,
        }
    }

    /// `w` is whole panels `[x.depth/4][8][4]`; returns one row of their channels per token.
    pub fn multiply<'w>(&self, w: &[i8], x: &PackedI8, work: &'w mut Work) -> TractResult<&'w mut [i32]> {
        let (rows, depth) = (x.rows(), x.depth);
        let channels = w.len() / depth;
        let tiling = self.tiling();
        if let I8Kernel::Tract(kernel) = self {
            let work = work.tract_i32.get_or_insert_with(|| kernel.workspace());
            let (w, x) = (bytemuck::cast_slice(w), x.all(tiling));
            return kernel.multiply(
                Operands {
                    w,
                    channels,
                    x,
                    tokens: rows,
                    k: depth,
                    element: 1,
                },
                work,
            );
        }
        let out = room(&mut work.i32, rows * channels);
        for (pair, w) in w.chunks(2 * PANEL_ROWS * depth).enumerate() {
            for i in 0..tiling.tiles(rows) {
                let out = &mut out[i * tiling.tokens * channels + pair * 2 * PANEL_ROWS..];
                let tokens = &x.tokens[i * tiling.tokens..][..tiling.real(rows, i)];
                let tile = x.tile(tiling, i);
                match self {
                    #[cfg(target_arch = "x86_64")]
                    I8Kernel::Vnni => x86::i8_vnni(w, bytemuck::cast_slice(tile), tokens, depth, out, channels),
                    #[cfg(target_arch = "x86_64")]
                    I8Kernel::Avx2 => x86::i8_avx2(w, bytemuck::cast_slice(tile), depth, tokens.len(), out, channels),
                    #[cfg(target_arch = "aarch64")]
                    I8Kernel::Smull => arm::i8_smull(w, bytemuck::cast_slice(tile), depth, tokens.len(), out, channels),
                    _ => portable::i8_tile(w, bytemuck::cast_slice(tile), depth, tokens.len(), out, channels),
                }
            }
        }
        Ok(out)
    }

    fn self_test(&self) -> Result<(), KernelError> {
        let (panels, k, rows) = (3, 80, 21);
        let mut random = Random(2);
        let mut w = Buffer::default();
        w.take::<i8>(panels * PANEL_ROWS * k).fill_with(|| random.int8());
        // The largest products there are, all of one sign: what overflows first in a kernel that can overflow.
        w.take::<i8>(panels * PANEL_ROWS * k)[..PANEL_ROWS * k].fill(127);
        let w = w.view::<i8>(panels * PANEL_ROWS * k);
        // Every row holds a 127, so quantising keeps the whole numbers as they are.
        let x: Vec<f32> = (0..rows * k)
            .map(|i| {
                if i % k == 0 || i < k {
                    127.0
                } else {
                    f32::from(random.int8())
                }
            })
            .collect();
        let mut packed = PackedI8::default();
        packed.quantise(&crate::pool::Pool::inline(), self.tiling(), self.wide(), &x, rows, k);
        let mut work = Work::default();
        let found = self
            .multiply(w, &packed, &mut work)
            .map_err(|e| failed(self.name(), &e))?;
        let layout =
            thimble_shared::panel::PanelLayout::new(thimble_shared::number::Format::I8, panels * PANEL_ROWS, k);
        let found: Vec<f32> = found.iter().map(|&v| v as f32).collect();
        // All sums stay below 2^24, so f32 holds them exactly.
        compare(self.name(), panels * PANEL_ROWS, &found, 0.0, |t, n| {
            (0..k)
                .map(|j| f64::from(w[layout.index(n, j)]) * f64::from(x[t * k + j]))
                .sum()
        })
    }
}

fn room<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
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

impl Kernels {
    /// The best kernels of this CPU, or the ones named: `portable`, or the name of one for f32 or for int8. What is
    /// chosen has passed its self-test.
    pub fn choose(forced: Option<&str>) -> Result<Kernels, KernelError> {
        let (f32s, i8s) = (F32Kernel::available(), I8Kernel::available());
        let mut known: Vec<&str> = f32s
            .iter()
            .map(F32Kernel::name)
            .chain(i8s.iter().map(I8Kernel::name))
            .collect();
        known.sort_unstable();
        known.dedup();
        if let Some(name) = forced
            && !known.contains(&name)
        {
            return Err(KernelError::Unknown {
                name: name.to_string(),
                known: known.join(", "),
            });
        }
        let is = |name: &str| Some(name) == forced;
        // Both lists end with the portable kernel, so there is a first.
        let f32 = f32s
            .iter()
            .find(|k| is(k.name()))
            .or(f32s.first())
            .cloned()
            .unwrap_or(F32Kernel::Portable);
        let i8 = i8s
            .iter()
            .find(|k| is(k.name()))
            .or(i8s.first())
            .cloned()
            .unwrap_or(I8Kernel::Portable);
        f32.self_test()?;
        i8.self_test()?;
        Ok(Kernels { f32, i8 })
    }

    /// Names of all kernels this CPU can run, for f32 and for int8, best first.
    pub fn available() -> (Vec<String>, Vec<String>) {
        let names = |all: Vec<&str>| all.into_iter().map(str::to_string).collect();
        let (f32s, i8s) = (F32Kernel::available(), I8Kernel::available());
        (
            names(f32s.iter().map(F32Kernel::name).collect()),
            names(i8s.iter().map(I8Kernel::name).collect()),
        )
    }
}

/// Widens half-precision numbers with whatever instruction the CPU has for it.
pub fn widen(from: &[f16], to: &mut [f32]) {
    #[cfg(target_arch = "aarch64")]
    arm::widen_f16(bytemuck::cast_slice(from), to);
    #[cfg(not(target_arch = "aarch64"))]
    half::slice::HalfFloatSliceExt::convert_to_f32_slice(from, to);
}

/// First `CPU part` of /proc/cpuinfo. The in-order cores want other instruction schedules than the rest.
#[cfg(target_arch = "aarch64")]
fn cpu_part() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("CPU part"))?;
    Some(line.split(':').nth(1)?.trim().to_string())
}

/// A small generator for self-tests and tests: splitmix64.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Roughly normal, standard deviation 1.
    pub fn normal(&mut self) -> f32 {
        self.unit() + self.unit() + self.unit()
    }

    pub fn int8(&mut self) -> i8 {
        ((self.next() % 255) as i32 - 127) as i8
    }
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::Random;
    use super::*;
    use crate::pool::Pool;
    use thimble_shared::number::Format;
    use thimble_shared::panel::{I8_DEPTH, PanelLayout};

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

    #[test]
    fn every_int8_kernel_gives_the_exact_sums() {
        let mut random = Random(3);
        for kernel in I8Kernel::available() {
            for (n, k, rows) in SHAPES {
                let layout = PanelLayout::new(Format::I8, n, k);
                let mut w = Buffer::default();
                let len = layout.bytes();
                w.take::<i8>(len).fill_with(|| random.int8());
                let w = w.view::<i8>(len);
                let x: Vec<f32> = (0..rows * k).map(|_| random.normal()).collect();
                let mut packed = PackedI8::default();
                packed.quantise(&Pool::inline(), kernel.tiling(), kernel.wide(), &x, rows, k);
                let mut work = Work::default();
                let got = kernel.multiply(w, &packed, &mut work).unwrap();
                let mut q = vec![0i8; k.next_multiple_of(I8_DEPTH)];
                for t in 0..rows {
                    pack::quantise_row(&x[t * k..][..k], &mut q[..k]);
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

    #[test]
    fn every_f32_kernel_agrees_with_f64() {
        let mut random = Random(4);
        for kernel in F32Kernel::available() {
            for (n, k, rows) in SHAPES {
                let layout = PanelLayout::new(Format::F32, n, k);
                let len = layout.padded_out() * k;
                let mut w = Buffer::default();
                w.take::<f32>(len).fill_with(|| random.normal());
                let w = w.view::<f32>(len);
                let x: Vec<f32> = (0..rows * k).map(|_| random.normal()).collect();
                let mut packed = PackedF32::default();
                packed.pack(&Pool::inline(), kernel.tiling(), &x, rows, k, k);
                let mut work = Work::default();
                let got = kernel.multiply(w, &packed, &mut work).unwrap();
                for t in 0..rows {
                    for c in 0..layout.padded_out() {
                        let want: f64 = (0..k)
                            .map(|j| f64::from(w[layout.index(c, j)]) * f64::from(x[t * k + j]))
                            .sum();
                        let got = f64::from(got[t * layout.padded_out() + c]);
                        assert!(
                            (got - want).abs() < 1e-5 * k as f64,
                            "{} {n}x{k}x{rows}: {got} not {want}",
                            kernel.name()
                        );
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
}
