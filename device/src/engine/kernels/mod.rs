//! Which matrix kernels this CPU gets, and the proof that they compute what they should. A kernel multiplies whole weight
//! panels by packed activations into rows of `[token][channel]`; int8 results are exact, whichever kernel ran.

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub(crate) mod expand;
pub(crate) mod pack;
mod portable;
mod selftest;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tract;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::image::buffer::Buffer;
use half::f16;
use pack::{Order, PackedF32, PackedI8, Tiling};
use thimble_shared::artifact::layout::{I8_DEPTH, PANEL_ROWS};
use thimble_shared::dtype::I8_MAX;
use tract::{Operands, TractKernel, Workspace};
use tract_core::internal::TractResult;

/// A matrix kernel for f32 sums: it computes weights in f32, f16 and w8.
#[derive(Clone, Debug)]
pub enum F32Kernel {
    /// thimble's own, on AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// One of tract's, for 8 × 8 tiles.
    Tract(TractKernel),
    /// Plain Rust, on any CPU.
    Portable,
}

/// A matrix kernel for int8 products and int32 sums: it computes weights in i8, i8a and i4.
#[derive(Clone, Debug)]
pub enum I8Kernel {
    /// thimble's own, on AVX-512 VNNI.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// thimble's own, on AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// thimble's own, on the dot-product instructions SDOT or SMMLA.
    #[cfg(target_arch = "aarch64")]
    Dot(aarch64::Dot),
    /// thimble's own, on SMULL and SMLAL, for CPUs without dot products.
    #[cfg(target_arch = "aarch64")]
    Smull,
    /// One of tract's, for 8 × 8 tiles.
    Tract(TractKernel),
    /// Plain Rust, on any CPU.
    Portable,
}

/// The kernels an engine computes with.
#[derive(Clone, Debug)]
pub struct Kernels {
    /// For weights in f32, f16 and w8.
    pub f32: F32Kernel,
    /// For weights in i8, i8a and i4.
    pub i8: I8Kernel,
}

/// Why a kernel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A kernel was asked for that this CPU does not have.
    #[error("no kernel '{name}' on this CPU; it has {known}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Names of the kernels it has.
        known: String,
    },
    /// A kernel computes something else than it should.
    #[error("kernel '{kernel}' fails its self-test: token {token}, channel {channel} is {found}, must be {wanted}")]
    SelfTest {
        /// Name of the kernel.
        kernel: String,
        /// Token of the first wrong result.
        token: usize,
        /// Output channel of the first wrong result.
        channel: usize,
        /// What the kernel gave.
        found: f64,
        /// What it must give.
        wanted: f64,
    },
    /// A kernel could not run.
    #[error("kernel '{kernel}': {problem}")]
    Failed {
        /// Name of the kernel.
        kernel: String,
        /// What it said.
        problem: String,
    },
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
    pub(crate) fn available() -> Vec<F32Kernel> {
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(x86_64::has_avx512().then_some(F32Kernel::Avx512));
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

    /// As `--kernel` and reports spell it.
    pub fn name(&self) -> &str {
        match self {
            #[cfg(target_arch = "x86_64")]
            F32Kernel::Avx512 => "avx512",
            F32Kernel::Tract(kernel) => kernel.name(),
            F32Kernel::Portable => "portable",
        }
    }

    /// How it wants activations packed.
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
        match self {
            F32Kernel::Tract(kernel) => {
                let work = work.tract_f32.get_or_insert_with(|| kernel.workspace());
                let (w, x) = (bytemuck::cast_slice(w), bytemuck::cast_slice(x.all(tiling)));
                let operands = Operands {
                    w,
                    channels,
                    x,
                    tokens: rows,
                    k,
                    element: 4,
                };
                kernel.multiply(operands, work)
            }
            #[cfg(target_arch = "x86_64")]
            F32Kernel::Avx512 => {
                let out = room(&mut work.f32, rows * channels);
                let w: &[u8] = bytemuck::cast_slice(w);
                by_pairs(w, 4 * k, tiling, rows, |w, tile, tokens, at| {
                    x86_64::f32_avx512::<false>(w, x.tile(tiling, tile), k, tokens, &mut out[at..], channels);
                });
                Ok(out)
            }
            F32Kernel::Portable => {
                let out = room(&mut work.f32, rows * channels);
                by_pairs(w, k, tiling, rows, |w, tile, tokens, at| {
                    portable::f32_tile(w, x.tile(tiling, tile), k, tokens, &mut out[at..], channels);
                });
                Ok(out)
            }
        }
    }

    /// The same over f16 panels, widened to f32: by the kernel as it reads them, or beforehand into `wide`.
    pub fn multiply_f16<'w>(
        &self,
        w: &[f16],
        x: &PackedF32,
        wide: &mut Buffer,
        work: &'w mut Work,
    ) -> TractResult<&'w mut [f32]> {
        #[cfg(target_arch = "x86_64")]
        if matches!(self, F32Kernel::Avx512) {
            let (rows, k, tiling) = (x.rows, x.k, self.tiling());
            let channels = w.len() / k;
            let out = room(&mut work.f32, rows * channels);
            let w: &[u8] = bytemuck::cast_slice(w);
            by_pairs(w, 2 * k, tiling, rows, |w, tile, tokens, at| {
                x86_64::f32_avx512::<true>(w, x.tile(tiling, tile), k, tokens, &mut out[at..], channels);
            });
            return Ok(out);
        }
        let wide = wide.take(w.len());
        widen(w, wide);
        self.multiply(wide, x, work)
    }
}

impl I8Kernel {
    /// Best first.
    pub(crate) fn available() -> Vec<I8Kernel> {
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(x86_64::has_vnni().then_some(I8Kernel::Vnni));
            all.extend(is_x86_feature_detected!("avx2").then_some(I8Kernel::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        {
            let own = [aarch64::Dot::Smmla, aarch64::Dot::Sdot];
            all.extend(own.into_iter().filter(|dot| dot.available()).map(I8Kernel::Dot));
            all.extend(TractKernel::find("arm64simd_mmm_i32_8x8_dot", 1).map(I8Kernel::Tract));
            all.push(I8Kernel::Smull);
        }
        all.push(I8Kernel::Portable);
        all
    }

    /// As `--kernel` and reports spell it.
    pub fn name(&self) -> &str {
        match self {
            #[cfg(target_arch = "x86_64")]
            I8Kernel::Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            I8Kernel::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            I8Kernel::Dot(aarch64::Dot::Sdot) => "sdot",
            #[cfg(target_arch = "aarch64")]
            I8Kernel::Dot(aarch64::Dot::Smmla) => "smmla",
            #[cfg(target_arch = "aarch64")]
            I8Kernel::Smull => "smull",
            I8Kernel::Tract(kernel) => kernel.name(),
            I8Kernel::Portable => "portable",
        }
    }

    /// How it wants activations packed.
    pub fn tiling(&self) -> Tiling {
        match self {
            #[cfg(target_arch = "x86_64")]
            I8Kernel::Vnni => OWN_16,
            #[cfg(target_arch = "x86_64")]
            I8Kernel::Avx2 => OWN_4,
            #[cfg(target_arch = "aarch64")]
            I8Kernel::Dot(_) => Tiling {
                tokens: aarch64::DOT_TOKENS,
                padded: true,
            },
            #[cfg(target_arch = "aarch64")]
            I8Kernel::Smull => Tiling {
                tokens: aarch64::SMULL_TOKENS,
                padded: true,
            },
            I8Kernel::Tract(kernel) => Tiling {
                tokens: kernel.tokens(),
                padded: true,
            },
            I8Kernel::Portable => OWN_4,
        }
    }

    /// How it reads activations.
    pub fn order(&self) -> Order {
        match self {
            #[cfg(target_arch = "x86_64")]
            I8Kernel::Avx2 => Order::WideGroups,
            #[cfg(target_arch = "aarch64")]
            I8Kernel::Smull | I8Kernel::Dot(aarch64::Dot::Sdot) => Order::Blocks,
            #[cfg(target_arch = "aarch64")]
            I8Kernel::Dot(aarch64::Dot::Smmla) => Order::Halves,
            _ => Order::Groups,
        }
    }

    /// Whether it wants to be told what [`fits_four`].
    pub fn asks_for_chains(&self) -> bool {
        match self {
            #[cfg(target_arch = "aarch64")]
            I8Kernel::Smull => true,
            _ => false,
        }
    }

    /// `w` is whole panels `[x.depth/4][8][4]`; returns one row of their channels per token. `chains` is
    /// what [`fits_four`] says of them, where the kernel [asks](Self::asks_for_chains).
    pub fn multiply<'w>(
        &self,
        w: &[i8],
        #[cfg_attr(not(target_arch = "aarch64"), allow(unused_variables))] chains: &[u8],
        x: &PackedI8,
        work: &'w mut Work,
    ) -> TractResult<&'w mut [i32]> {
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
        by_pairs(w, depth, tiling, rows, |w, tile, count, at| {
            let tokens = &x.tokens[tile * tiling.tokens..][..count];
            let (tile, out) = (x.tile(tiling, tile), &mut out[at..]);
            match self {
                #[cfg(target_arch = "x86_64")]
                I8Kernel::Vnni => x86_64::i8_vnni(w, bytemuck::cast_slice(tile), tokens, depth, out, channels),
                #[cfg(target_arch = "x86_64")]
                I8Kernel::Avx2 => x86_64::i8_avx2(w, bytemuck::cast_slice(tile), depth, tokens.len(), out, channels),
                #[cfg(target_arch = "aarch64")]
                I8Kernel::Dot(dot) => {
                    aarch64::i8_dot(*dot, w, bytemuck::cast_slice(tile), depth, tokens.len(), out, channels);
                }
                #[cfg(target_arch = "aarch64")]
                I8Kernel::Smull => {
                    let chains = &chains[at % channels / PANEL_ROWS * (depth / I8_DEPTH)..];
                    aarch64::i8_smull(
                        w,
                        chains,
                        bytemuck::cast_slice(tile),
                        depth,
                        tokens.len(),
                        out,
                        channels,
                    );
                }
                _ => portable::i8_tile(w, bytemuck::cast_slice(tile), depth, tokens.len(), out, channels),
            }
        });
        Ok(out)
    }
}

/// Of each 16 inputs of int8 panels whether the four products that share an i16 lane fit it whatever the activations are:
/// 127 × the sum of the four weights' magnitudes stays below 2^15. One byte each, 1 or 0, panel by panel.
pub fn fits_four(panels: &[i8]) -> impl Iterator<Item = u8> + '_ {
    const GROUP: usize = I8_DEPTH / 4 * PANEL_ROWS;
    let most = i16::MAX / I8_MAX as i16;
    panels.as_chunks::<{ 4 * GROUP }>().0.iter().map(move |block| {
        let (groups, _) = block.as_chunks::<GROUP>();
        let sum = |lane: usize| groups.iter().map(|g| i16::from(g[lane].unsigned_abs())).sum::<i16>();
        u8::from((0..GROUP).all(|lane| sum(lane) <= most))
    })
}

/// Calls `f(panels, tile, tokens, offset)` for two panels at a time and every tile of tokens; the pair is outermost, so it
/// stays in the first cache while all tiles pass. `row` is elements of one channel, `offset` where the result starts.
fn by_pairs<T>(w: &[T], row: usize, tiling: Tiling, rows: usize, mut f: impl FnMut(&[T], usize, usize, usize)) {
    let channels = w.len() / row;
    for (pair, w) in w.chunks(2 * PANEL_ROWS * row).enumerate() {
        for tile in 0..tiling.tiles(rows) {
            let at = tile * tiling.tokens * channels + pair * 2 * PANEL_ROWS;
            f(w, tile, tiling.real(rows, tile), at);
        }
    }
}

fn room<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
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
    aarch64::widen_f16(bytemuck::cast_slice(from), to);
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
