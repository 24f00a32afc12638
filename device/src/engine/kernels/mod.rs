//! The matrix kernels. A kernel is a file with a row, and the tables below have the rows of all: what this CPU gets is chosen from
//! them, and proves by its self-test that it computes what it should. A kernel multiplies whole weight panels by packed activations
//! into rows of `[token][channel]`; int8 results are exact, whichever kernel ran.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "arm")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
pub(crate) mod expand;
#[cfg(target_arch = "arm")]
pub(crate) mod finish32;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "arm")]
mod neon32;
pub(crate) mod pack;
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
mod panels;
mod portable;
#[cfg(target_arch = "aarch64")]
mod sdot;
mod selftest;
#[cfg(target_arch = "aarch64")]
mod smmla;
#[cfg(target_arch = "aarch64")]
mod smull;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tiling;
pub(crate) mod tract;
#[cfg(target_arch = "arm")]
mod vmla;
#[cfg(target_arch = "arm")]
mod vmull;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::image::buffer::Buffer;
use half::f16;
use pack::{Order, PackedI8, TilesF32, Token};
use std::cmp::Reverse;
use std::fmt;
use std::ops::Range;
use thimble_shared::artifact::layout::{I8_DEPTH, PANEL_ROWS};
use thimble_shared::dtype::I8_MAX;
use tiling::Tiling;
use tract::{Operands, TractKernel, Workspace};
use tract_core::internal::TractResult;

/// The kernels of f32 panels, best first.
static F32: &[&Row<F32Product>] = &[
    #[cfg(target_arch = "x86_64")]
    &avx512::ROW,
    #[cfg(target_arch = "x86_64")]
    &tract::FMA_F32,
    #[cfg(target_arch = "x86_64")]
    &tract::AVX_F32,
    #[cfg(target_arch = "aarch64")]
    &neon::ROW,
    #[cfg(target_arch = "aarch64")]
    &tract::ARM_F32,
    #[cfg(target_arch = "aarch64")]
    &tract::A53_F32,
    #[cfg(target_arch = "aarch64")]
    &tract::A55_F32,
    #[cfg(target_arch = "arm")]
    &vmla::ROW,
    &portable::F32,
];

/// The kernels of int8 panels, best first.
static I8: &[&Row<I8Product>] = &[
    #[cfg(target_arch = "x86_64")]
    &avx512vnni::ROW,
    #[cfg(target_arch = "x86_64")]
    &avx2::ROW,
    #[cfg(target_arch = "aarch64")]
    &smmla::ROW,
    #[cfg(target_arch = "aarch64")]
    &sdot::ROW,
    #[cfg(target_arch = "aarch64")]
    &tract::DOT_I8,
    #[cfg(target_arch = "aarch64")]
    &smull::ROW,
    #[cfg(target_arch = "arm")]
    &vmull::ROW,
    &portable::I8,
];

/// All there is to say of a kernel.
pub(crate) struct Row<P: 'static> {
    /// What `--kernel` and reports call it.
    pub name: &'static str,
    /// Whether this CPU has what it needs.
    pub runs: fn() -> Fit,
    /// The tokens it takes at a time.
    pub tiling: Tiling,
    /// What it computes, and how.
    pub product: P,
}

/// How a kernel suits this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// An instruction is missing.
    No,
    Runs,
    /// It was made for this very core, and goes before all that only run.
    #[cfg_attr(
        not(target_arch = "aarch64"),
        allow(dead_code, reason = "only aarch64 has such a kernel")
    )]
    Tuned,
}

impl Fit {
    /// [`Fit::Runs`] where the instructions are there.
    pub fn where_there(instructions: bool) -> Fit {
        if instructions { Fit::Runs } else { Fit::No }
    }
}

/// How a kernel multiplies f32 panels.
#[derive(Clone, Copy)]
pub(crate) enum F32Product {
    /// Tile by tile, in this crate.
    Tiles(F32Tiles),
    /// As a whole, by the kernel of tract's that has the row's name.
    #[cfg_attr(
        not(any(target_arch = "aarch64", target_arch = "x86_64")),
        allow(dead_code, reason = "only aarch64 and x86_64 have such a kernel")
    )]
    Tract { packing: usize },
}

/// A kernel of this crate's for f32 activations.
#[derive(Clone, Copy)]
pub(crate) struct F32Tiles {
    pub f32: fn(F32Tile<'_, f32>),
    /// The same over f16 panels, where it widens them as it reads.
    pub f16: Option<fn(F32Tile<'_, f16>)>,
}

/// How a kernel multiplies int8 panels.
#[derive(Clone, Copy)]
pub(crate) enum I8Product {
    /// Tile by tile, in this crate.
    Tiles(I8Tiles),
    /// As a whole, by the kernel of tract's that has the row's name.
    #[cfg_attr(
        not(target_arch = "aarch64"),
        allow(dead_code, reason = "only aarch64 has such a kernel")
    )]
    Tract { packing: usize },
}

/// A kernel of this crate's for int8 activations.
#[derive(Clone, Copy)]
pub(crate) struct I8Tiles {
    /// How it reads activations.
    pub order: Order,
    /// Whether it wants to be told what [`fits_four`].
    pub asks_for_chains: bool,
    pub multiply: fn(I8Tile<'_>),
}

/// Up to two panels `[k][8]` of `W` and one tile `[k][token]`.
pub(crate) struct F32Tile<'a, W> {
    pub w: &'a [W],
    pub x: &'a [f32],
    pub k: usize,
    pub tokens: usize,
    /// Where the first token's first channel goes; the next token's lies `stride` on.
    pub out: &'a mut [f32],
    pub stride: usize,
}

/// Up to two panels `[depth/4][8][4]` and one tile in the kernel's order.
pub(crate) struct I8Tile<'a> {
    pub w: &'a [i8],
    /// What [`fits_four`] says of the panels; empty where the kernel does not ask.
    #[cfg_attr(
        not(any(target_arch = "aarch64", target_arch = "arm")),
        allow(dead_code, reason = "only kernels for Arm ask")
    )]
    pub chains: &'a [u8],
    pub x: &'a [u8],
    pub tokens: &'a [Token],
    pub depth: usize,
    /// Where the first token's first channel goes; the next token's lies `stride` on.
    pub out: &'a mut [i32],
    pub stride: usize,
}

/// A kernel this CPU runs on f32 panels.
#[derive(Clone)]
pub struct F32Kernel {
    row: &'static Row<F32Product>,
    run: F32Run,
}

#[derive(Clone)]
enum F32Run {
    Tiles(F32Tiles),
    Tract(TractKernel),
}

/// A kernel this CPU runs on int8 panels.
#[derive(Clone)]
pub struct I8Kernel {
    row: &'static Row<I8Product>,
    run: I8Run,
}

#[derive(Clone)]
enum I8Run {
    Tiles(I8Tiles),
    Tract(TractKernel),
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
pub struct KernelWork {
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
/// What any CPU multiplies at a time in f32.
const OWN_8: Tiling = Tiling {
    tokens: 8,
    padded: false,
};
/// Two accumulators per token leave room in 16 registers.
const OWN_4: Tiling = Tiling {
    tokens: 4,
    padded: false,
};

/// The kernels of a table that this CPU has, best first.
fn available<P, K>(table: &[&'static Row<P>], found: impl Fn(&'static Row<P>) -> Option<K>) -> Vec<K> {
    let mut rows: Vec<(Fit, &Row<P>)> = table.iter().map(|row| ((row.runs)(), *row)).collect();
    rows.retain(|(fit, _)| *fit != Fit::No);
    rows.sort_by_key(|(fit, _)| Reverse(*fit));
    rows.into_iter().filter_map(|(_, row)| found(row)).collect()
}

impl F32Kernel {
    /// Best first.
    pub(crate) fn available() -> Vec<F32Kernel> {
        available(F32, |row| {
            let run = match row.product {
                F32Product::Tiles(tiles) => F32Run::Tiles(tiles),
                F32Product::Tract { packing } => F32Run::Tract(TractKernel::find(row, packing)?),
            };
            Some(F32Kernel { row, run })
        })
    }

    /// What every CPU runs.
    fn portable() -> F32Kernel {
        F32Kernel {
            row: &portable::F32,
            run: F32Run::Tiles(portable::F32_TILES),
        }
    }

    /// As `--kernel` and reports spell it.
    pub fn name(&self) -> &'static str {
        self.row.name
    }

    pub(crate) fn tiling(&self) -> Tiling {
        self.row.tiling
    }

    /// Whether it reads f16 panels as they are.
    pub fn reads_f16(&self) -> bool {
        matches!(self.run, F32Run::Tiles(F32Tiles { f16: Some(_), .. }))
    }

    /// `w` is whole panels `[x.k][8]`; returns one row of their channels per token.
    pub fn multiply<'w>(&self, w: &[f32], x: TilesF32<'_>, work: &'w mut KernelWork) -> TractResult<&'w mut [f32]> {
        match &self.run {
            F32Run::Tiles(tiles) => Ok(self.tiles(w, x, work, tiles.f32)),
            F32Run::Tract(kernel) => {
                let work = work.tract_f32.get_or_insert_with(|| kernel.workspace());
                let channels = w.len() / x.k;
                let operands = Operands {
                    w: bytemuck::cast_slice(w),
                    channels,
                    x: bytemuck::cast_slice(x.data),
                    tokens: x.rows,
                    k: x.k,
                    element: 4,
                };
                kernel.multiply(operands, work)
            }
        }
    }

    /// The same over f16 panels, widened to f32: by the kernel as it reads them, or beforehand into `wide`.
    pub fn multiply_f16<'w>(
        &self,
        w: &[f16],
        x: TilesF32<'_>,
        wide: &mut Buffer,
        work: &'w mut KernelWork,
    ) -> TractResult<&'w mut [f32]> {
        match self.run {
            F32Run::Tiles(F32Tiles { f16: Some(tile), .. }) => Ok(self.tiles(w, x, work, tile)),
            F32Run::Tiles(F32Tiles { f16: None, .. }) | F32Run::Tract(_) => {
                let wide = wide.take(w.len());
                widen(w, wide);
                self.multiply(wide, x, work)
            }
        }
    }

    fn tiles<'w, W>(
        &self,
        w: &[W],
        x: TilesF32<'_>,
        work: &'w mut KernelWork,
        one: fn(F32Tile<'_, W>),
    ) -> &'w mut [f32] {
        let (tiling, k, stride) = (self.tiling(), x.k, w.len() / x.k);
        let out = room(&mut work.f32, x.rows * stride);
        by_pairs(w, k, tiling, 0..x.rows, |w, tile, tokens, at| {
            let (x, out) = (x.tile(tiling, tile), &mut out[at..]);
            one(F32Tile {
                w,
                x,
                k,
                tokens,
                out,
                stride,
            });
        });
        out
    }
}

impl I8Kernel {
    /// Best first.
    pub(crate) fn available() -> Vec<I8Kernel> {
        available(I8, |row| {
            let run = match row.product {
                I8Product::Tiles(tiles) => I8Run::Tiles(tiles),
                I8Product::Tract { packing } => I8Run::Tract(TractKernel::find(row, packing)?),
            };
            Some(I8Kernel { row, run })
        })
    }

    /// What every CPU runs.
    fn portable() -> I8Kernel {
        I8Kernel {
            row: &portable::I8,
            run: I8Run::Tiles(portable::I8_TILES),
        }
    }

    /// As `--kernel` and reports spell it.
    pub fn name(&self) -> &'static str {
        self.row.name
    }

    pub(crate) fn tiling(&self) -> Tiling {
        self.row.tiling
    }

    /// How it reads activations.
    pub fn order(&self) -> Order {
        match &self.run {
            I8Run::Tiles(tiles) => tiles.order,
            I8Run::Tract(_) => Order::Groups,
        }
    }

    /// Whether it wants to be told what [`fits_four`].
    pub fn asks_for_chains(&self) -> bool {
        match &self.run {
            I8Run::Tiles(tiles) => tiles.asks_for_chains,
            I8Run::Tract(_) => false,
        }
    }

    /// `w` is whole panels `[x.depth/4][8][4]`; returns one row of their channels per token of `rows`, which begin with a tile.
    /// `chains` is what [`fits_four`] says of the panels, where the kernel [asks](Self::asks_for_chains).
    pub fn multiply<'w>(
        &self,
        w: &[i8],
        chains: &[u8],
        x: &PackedI8,
        rows: Range<usize>,
        work: &'w mut KernelWork,
    ) -> TractResult<&'w mut [i32]> {
        let (depth, tiling) = (x.depth, self.tiling());
        let stride = w.len() / depth;
        let tiles = match &self.run {
            I8Run::Tiles(tiles) => tiles,
            I8Run::Tract(kernel) => {
                let work = work.tract_i32.get_or_insert_with(|| kernel.workspace());
                let operands = Operands {
                    w: bytemuck::cast_slice(w),
                    channels: stride,
                    x: x.from(tiling, rows.start),
                    tokens: rows.len(),
                    k: depth,
                    element: 1,
                };
                return kernel.multiply(operands, work);
            }
        };
        let out = room(&mut work.i32, rows.len() * stride);
        by_pairs(w, depth, tiling, rows, |w, tile, count, at| {
            let chains = match tiles.asks_for_chains {
                true => &chains[at % stride / PANEL_ROWS * (depth / I8_DEPTH)..],
                false => &[],
            };
            let tokens = &x.tokens[tile * tiling.tokens..][..count];
            let (x, out) = (x.tile(tiling, tile), &mut out[at..]);
            (tiles.multiply)(I8Tile {
                w,
                chains,
                x,
                tokens,
                depth,
                out,
                stride,
            });
        });
        Ok(out)
    }
}

impl fmt::Debug for F32Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for I8Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
/// stays in the first cache while all tiles pass. `row` is elements of one channel, `rows` begin with a tile, `offset` is where the
/// result starts.
fn by_pairs<T>(w: &[T], row: usize, tiling: Tiling, rows: Range<usize>, mut f: impl FnMut(&[T], usize, usize, usize)) {
    let channels = w.len() / row;
    debug_assert!(rows.start.is_multiple_of(tiling.tokens));
    let first = rows.start / tiling.tokens;
    for (pair, w) in w.chunks(2 * PANEL_ROWS * row).enumerate() {
        for tile in first..tiling.tiles(rows.end) {
            let at = (tile - first) * tiling.tokens * channels + pair * 2 * PANEL_ROWS;
            f(w, tile, tiling.real(rows.end, tile), at);
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
        let f32_names = f32s.iter().map(F32Kernel::name);
        let mut known: Vec<&str> = f32_names.chain(i8s.iter().map(I8Kernel::name)).collect();
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
        let f32 = f32s.iter().find(|k| is(k.name())).or(f32s.first()).cloned();
        let i8 = i8s.iter().find(|k| is(k.name())).or(i8s.first()).cloned();
        // Both tables end with the portable kernel, so there is a first.
        let (f32, i8) = (
            f32.unwrap_or_else(F32Kernel::portable),
            i8.unwrap_or_else(I8Kernel::portable),
        );
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
    #[cfg(target_arch = "arm")]
    neon32::widen_f16(from, to);
    #[cfg(not(any(target_arch = "aarch64", target_arch = "arm")))]
    half::slice::HalfFloatSliceExt::convert_to_f32_slice(from, to);
}
