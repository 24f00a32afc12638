//! Activations as the kernels read them. Rows `x[token, k]` go in; tiles of a few tokens come out, the tokens of one
//! `k` (f32) or of one group of four `k` (int8) side by side: `[tile][k][token]` and `[tile][k/4][token][4]`.

#[cfg(target_arch = "aarch64")]
use super::aarch64::{interleave as interleave_fours, max_abs, range};
#[cfg(target_arch = "arm")]
use super::neon32::{max_abs, range, round as round_some};
use super::tiling::Tiling;
#[cfg(target_arch = "x86_64")]
use super::x86_64::interleave as interleave_fours;
#[cfg(not(any(target_arch = "aarch64", target_arch = "arm")))]
use crate::engine::elementwise::{max_abs, range};
use crate::engine::threads::Pool;
use crate::image::buffer::Buffer;
use bytemuck::Pod;
use std::ops::Range;
use thimble_shared::artifact::layout::{I8_DEPTH, I8_GROUP, PANEL_ROWS};
use thimble_shared::dtype::{ACTIVATION_FLOOR, I8_MAX, InputRange};

/// f32 activations in tiles.
#[derive(Debug, Default)]
pub struct PackedF32 {
    data: Buffer,
    pub rows: usize,
    pub k: usize,
}

impl PackedF32 {
    /// Packs `rows` rows of `k` values; row `t` starts at `x[t * stride]`.
    pub fn pack(&mut self, pool: &Pool, tiling: Tiling, x: &[f32], rows: usize, k: usize, stride: usize) {
        self.rows = rows;
        self.k = k;
        let room = tiling.tiles(rows) * tiling.tokens * k;
        let tiles = self.data.take::<f32>(room);
        pool.chunks(tiles, tiling.tokens * k, |i, tile| {
            let (real, width) = (tiling.real(rows, i), tiling.width(rows, i));
            let first = i * tiling.tokens;
            if width > real {
                tile.fill(0.0);
            }
            if real == width && width.is_multiple_of(PANEL_ROWS) {
                for at in (0..width).step_by(PANEL_ROWS) {
                    let rows = std::array::from_fn(|t| &x[(first + at + t) * stride..][..k]);
                    interleave(&rows, &mut tile[at..k * width], width);
                }
                return;
            }
            // Blocks of k keep the strided stores within a few cache lines per token.
            for from in (0..k).step_by(16) {
                let to = k.min(from + 16);
                for t in 0..real {
                    let row = &x[(first + t) * stride..][from..to];
                    for (slot, &value) in tile[from * width + t..].iter_mut().step_by(width).zip(row) {
                        *slot = value;
                    }
                }
            }
        });
    }

    /// All tiles, as kernels take them.
    pub fn tiles(&self, tiling: Tiling) -> TilesF32<'_> {
        let room = tiling.tiles(self.rows) * tiling.tokens * self.k;
        TilesF32 {
            data: self.data.view(room),
            rows: self.rows,
            k: self.k,
        }
    }
}

/// Tiles of f32 activations, one after another; the last has room for all the tokens of a tile only where tiles are padded.
#[derive(Clone, Copy, Debug)]
pub struct TilesF32<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub k: usize,
}

impl<'a> TilesF32<'a> {
    pub fn tile(&self, tiling: Tiling, i: usize) -> &'a [f32] {
        let start = i * tiling.tokens * self.k;
        &self.data[start..][..tiling.width(self.rows, i) * self.k]
    }

    /// The tiles of some rows. They begin with a tile.
    pub fn part(self, tiling: Tiling, rows: Range<usize>) -> TilesF32<'a> {
        debug_assert!(rows.start.is_multiple_of(tiling.tokens));
        TilesF32 {
            data: &self.data[rows.start * self.k..],
            rows: rows.len(),
            k: self.k,
        }
    }
}

/// `to[i * width + r] = rows[r][i]`.
pub fn interleave(rows: &[&[f32]; PANEL_ROWS], to: &mut [f32], width: usize) {
    let done = interleave_fours(rows, to, width);
    for (i, to) in to.chunks_mut(width).enumerate().skip(done) {
        for (slot, row) in to.iter_mut().zip(rows) {
            *slot = row[i];
        }
    }
}

/// As much of it as goes four by four in vector registers; returns how far it got.
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
fn interleave_fours(_: &[&[f32]; PANEL_ROWS], _: &mut [f32], _: usize) -> usize {
    0
}

/// What one token needs besides its quantized values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Token {
    /// What one step of the quantized values stands for: `a / 127`, `a` being the token's largest magnitude, or the largest
    /// distance from its center; one 255th of the tensor's range.
    pub scale: f32,
    /// What was taken off every value before it was quantized: the middle of the token's range, what int8 zero stands for where
    /// there is one range for the tensor, or 0.
    pub center: f32,
    /// Sum of the quantized values, which undoes the +128 of unsigned × signed kernels; they all read [`Order::Groups`], and
    /// in other orders it is 0.
    pub sum: i32,
}

/// How the int8 activations of one tile lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// `[k/4][token][4]`.
    #[default]
    Groups,
    /// The same in i16, for kernels that multiply so.
    WideGroups,
    /// `[k/16][token][16]`.
    Blocks,
    /// `[k/8][token][8]`.
    Halves,
}

impl Order {
    /// Puts one token's row into its tile, as the `t`-th of `width` tokens; returns [`Token::sum`].
    fn place(self, row: &[i8], tile: &mut [u8], t: usize, width: usize) -> i32 {
        match self {
            Order::Groups => scatter::<i8, I8_GROUP>(row, tile, t, width),
            Order::WideGroups => scatter::<i16, I8_GROUP>(row, tile, t, width),
            Order::Blocks => scatter::<i8, I8_DEPTH>(row, tile, t, width),
            Order::Halves => scatter::<i8, { I8_DEPTH / 2 }>(row, tile, t, width),
        }
        if self == Order::Groups {
            row.iter().map(|&v| i32::from(v)).sum()
        } else {
            0
        }
    }
}

/// int8 activations in tiles, with the scale each token was quantized by.
#[derive(Debug, Default)]
pub struct PackedI8 {
    data: Buffer,
    pub tokens: Vec<Token>,
    /// Input channels rounded up to the panel's depth.
    pub depth: usize,
    order: Order,
    pub range: InputRange,
    /// One row on its way into a tile.
    row: Vec<i8>,
}

impl PackedI8 {
    /// Quantizes each row of `k` values, over its own range or that of them all, and packs it.
    pub fn quantize(&mut self, pool: &Pool, tiling: Tiling, order: Order, range: InputRange, x: &[f32], k: usize) {
        let (depth, rows) = (k.next_multiple_of(I8_DEPTH), x.len() / k);
        (self.depth, self.order, self.range) = (depth, order, range);
        self.tokens.resize(rows, Token::default());
        let whole = (range == InputRange::Tensor).then(|| Uint8::of(x));
        let tile_bytes = tiling.tokens * depth * self.element();
        let data = self.data.take::<u8>(tiling.tiles(rows) * tile_bytes);
        pool.chunks2(data, tile_bytes, &mut self.tokens, tiling.tokens, |i, tile, tokens| {
            let width = tiling.width(rows, i);
            if width > tokens.len() {
                tile.fill(0);
            }
            let mut row = vec![0i8; depth];
            for (t, token) in tokens.iter_mut().enumerate() {
                let x = &x[(i * tiling.tokens + t) * k..][..k];
                (token.scale, token.center) = match range {
                    InputRange::Symmetric => (quantize_row(x, &mut row[..k]), 0.0),
                    InputRange::Centered => quantize_centered(x, &mut row[..k]),
                    InputRange::Tensor => whole.unwrap_or_default().quantize(x, &mut row[..k]),
                };
                token.sum = order.place(&row, tile, t, width);
            }
        });
    }

    /// Packs `rows` rows of `k` int8 values, which `write` writes one after another: given the row's number, it returns what one
    /// step of its values stands for.
    pub fn fill(
        &mut self,
        tiling: Tiling,
        order: Order,
        rows: usize,
        k: usize,
        mut write: impl FnMut(usize, &mut [i8]) -> f32,
    ) {
        let depth = k.next_multiple_of(I8_DEPTH);
        (self.depth, self.order, self.range) = (depth, order, InputRange::Symmetric);
        self.tokens.clear();
        let tile_bytes = tiling.tokens * depth * self.element();
        let data = self.data.take::<u8>(tiling.tiles(rows) * tile_bytes);
        self.row.clear();
        self.row.resize(depth, 0);
        for (i, tile) in data.chunks_exact_mut(tile_bytes).enumerate() {
            let (real, width) = (tiling.real(rows, i), tiling.width(rows, i));
            if width > real {
                tile.fill(0);
            }
            for t in 0..real {
                let scale = write(i * tiling.tokens + t, &mut self.row[..k]);
                self.tokens.push(Token {
                    scale,
                    center: 0.0,
                    sum: order.place(&self.row, tile, t, width),
                });
            }
        }
    }

    fn element(&self) -> usize {
        if self.order == Order::WideGroups { 2 } else { 1 }
    }

    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Tile `i` as bytes: int8, or i16 when packed wide.
    pub fn tile(&self, tiling: Tiling, i: usize) -> &[u8] {
        let start = i * tiling.tokens * self.depth * self.element();
        let len = tiling.width(self.rows(), i) * self.depth * self.element();
        &self.data.view::<u8>(start + len)[start..]
    }

    /// The tiles from row `first` on, one after another, for kernels that take a whole padded operand.
    pub fn from(&self, tiling: Tiling, first: usize) -> &[u8] {
        let token = self.depth * self.element();
        &self.data.view(tiling.tiles(self.rows()) * tiling.tokens * token)[first * token..]
    }
}

/// Spreads one token's row over its tile, `N` values at a time, as the `t`-th of `width` tokens.
fn scatter<T: Pod + From<i8>, const N: usize>(row: &[i8], tile: &mut [u8], t: usize, width: usize) {
    let slots = bytemuck::cast_slice_mut::<u8, T>(tile).as_chunks_mut::<N>().0;
    let slots = slots[t..].iter_mut().step_by(width);
    for (slot, group) in slots.zip(row.as_chunks::<N>().0) {
        *slot = group.map(T::from);
    }
}

crate::engine::elementwise::multiversion! {
    /// Quantizes one row to [-127, 127] and returns its scale. Ties go to even, as ONNX's Round.
    pub fn quantize_row(x: &[f32], q: &mut [i8]) -> f32 {
        let a = max_abs(x).max(ACTIVATION_FLOOR);
        let inverse = I8_MAX / a;
        let done = round_some(x, 0.0, inverse, q);
        for (q, &x) in q.iter_mut().zip(x).skip(done) {
            *q = round(x * inverse);
        }
        a / I8_MAX
    }
}

crate::engine::elementwise::multiversion! {
    /// Quantizes one row to [-127, 127] around the middle of its range and returns its scale and that middle. Rounding keeps
    /// the order of `x - center`, so the ends of the range are the farthest off, however the center was rounded.
    pub fn quantize_centered(x: &[f32], q: &mut [i8]) -> (f32, f32) {
        let (least, most) = range(x);
        let center = (most + least) * 0.5;
        let a = (most - center).max(center - least).max(ACTIVATION_FLOOR);
        let inverse = I8_MAX / a;
        let done = round_some(x, center, inverse, q);
        for (q, &x) in q.iter_mut().zip(x).skip(done) {
            *q = round((x - center) * inverse);
        }
        (a / I8_MAX, center)
    }
}

/// How a whole tensor becomes uint8, by the formulas of ONNX's DynamicQuantizeLinear as ONNX Runtime computes them: the range takes
/// in 0, which is then a value of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Uint8 {
    /// One step; 1 where all values are 0.
    pub scale: f32,
    /// The uint8 of 0.
    pub zero: u8,
}

impl Uint8 {
    /// That of the values `x`.
    pub fn of(x: &[f32]) -> Uint8 {
        let (least, most) = if x.is_empty() { (0.0, 0.0) } else { range(x) };
        let (least, most) = (least.min(0.0), most.max(0.0));
        let scale = if least == most { 1.0 } else { (most - least) / 255.0 };
        let zero = (-least / scale).clamp(0.0, 255.0).round_ties_even();
        Uint8 {
            scale,
            zero: zero as u8,
        }
    }

    /// The values of one row as int8, 128 less than their uint8, with the step and what int8 zero stands for.
    pub fn quantize(self, x: &[f32], q: &mut [i8]) -> (f32, f32) {
        quantize_uint8(x, self.scale, f32::from(self.zero), q);
        (self.scale, self.scale * (128.0 - f32::from(self.zero)))
    }
}

crate::engine::elementwise::multiversion! {
    fn quantize_uint8(x: &[f32], scale: f32, zero: f32, q: &mut [i8]) {
        for (q, &x) in q.iter_mut().zip(x) {
            let u8 = ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0);
            *q = (u8 as i32 - 128) as i8;
        }
    }
}

/// As much of a row as assembly rounds; returns how far it got. Compilers make vectors of the loops that do the rest, but for
/// 32-bit Arm.
#[cfg(not(target_arch = "arm"))]
#[inline(always)]
fn round_some(_: &[f32], _: f32, _: f32, _: &mut [i8]) -> usize {
    0
}

/// Puts the int8 row of one channel into its panel `[depth/4][8][4]`, as the `channel`-th of eight.
pub fn place_channel(row: &[i8], panel: &mut [i8], channel: usize) {
    scatter::<i8, I8_GROUP>(row, bytemuck::cast_slice_mut(panel), channel, PANEL_ROWS);
}

/// The nearest integer, ties to even. Adding 1.5 * 2^23 leaves it in the low mantissa bits: the addition itself rounds to
/// even, and unlike a call to rint it vectorizes on every target.
#[inline(always)]
pub fn round(x: f32) -> i8 {
    const MAGIC: f32 = 12_582_912.0;
    ((x + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even_and_the_scale_is_the_maximum_over_127() {
        let x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 126.49, -127.0, 0.0];
        let mut q = [0i8; 10];
        assert_eq!(quantize_row(&x, &mut q), 1.0);
        assert_eq!(q, [127, 0, 2, 2, 0, -2, -126, 126, -127, 0]);
        let mut rng = crate::engine::kernels::tests::Random(9);
        for _ in 0..200 {
            let x: Vec<f32> = (0..100).map(|_| rng.normal() * 3.7).collect();
            let mut q = vec![0; 100];
            let scale = quantize_row(&x, &mut q);
            let a = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            let inverse = 127.0 / a;
            assert_eq!(scale, a / 127.0);
            for (q, x) in q.iter().zip(&x) {
                assert_eq!(*q as f32, (x * inverse).round_ties_even());
            }
        }
        let mut zeros = [1i8; 5];
        quantize_row(&[0.0; 5], &mut zeros);
        assert_eq!(zeros, [0; 5]);
    }

    /// Values of onnx.reference.ReferenceEvaluator and ONNX Runtime 1.32, which agree on them.
    #[test]
    fn a_tensor_is_quantized_as_dynamic_quantize_linear_does() {
        for (x, scale, zero, u8s) in [
            (
                &[0.0, 2.0, -3.0, -2.5, 1.34, 0.5][..],
                0.019_607_844,
                153,
                &[153u8, 255, 0, 26, 221, 179][..],
            ),
            (
                &[-1.0, -2.1, -1.3, -2.5, -3.34, -4.0],
                0.015_686_275,
                255,
                &[191, 121, 172, 96, 42, 0],
            ),
            (
                &[1.0, 2.1, 1.3, 2.5, 3.34, 4.0],
                0.015_686_275,
                0,
                &[64, 134, 83, 159, 213, 255],
            ),
            (&[0.0, 0.0], 1.0, 0, &[0, 0]),
        ] {
            let whole = Uint8::of(x);
            assert_eq!((whole.scale, whole.zero), (scale, zero));
            let mut q = vec![0; x.len()];
            let (step, center) = whole.quantize(x, &mut q);
            assert_eq!((step, center), (scale, scale * (128.0 - f32::from(zero))));
            let found: Vec<u8> = q.iter().map(|&q| (i32::from(q) + 128) as u8).collect();
            assert_eq!(found, u8s);
        }
    }

    #[test]
    fn a_centered_row_uses_all_steps_and_never_leaves_them() {
        // What gelu makes of a token: little below zero, much above.
        let x = [-0.1875, 7.75, 0.0, 3.78125, -0.1875];
        let mut q = [0i8; 5];
        let (scale, center) = quantize_centered(&x, &mut q);
        assert_eq!((scale, center), (1.0 / 32.0, 3.78125));
        assert_eq!(q, [-127, 127, -121, 0, -127]);

        let mut rng = crate::engine::kernels::tests::Random(10);
        for i in 0..2000 {
            // Rows far from zero, whose center rounds by as much as the whole range.
            let (base, spread) = (rng.normal() * 10f32.powi(i % 9 - 2), 10f32.powi(i % 13 - 9));
            let len = 1 + i as usize % 70;
            let x: Vec<f32> = (0..len).map(|_| base + rng.normal() * spread).collect();
            let mut q = vec![0; len];
            let (scale, center) = quantize_centered(&x, &mut q);
            let most = x.iter().copied().fold(f32::MIN, f32::max);
            let least = x.iter().copied().fold(f32::MAX, f32::min);
            assert_eq!(center, (most + least) * 0.5);
            let a = x
                .iter()
                .fold(0f32, |a, v| a.max((v - center).abs()))
                .max(ACTIVATION_FLOOR);
            assert_eq!(scale, a / 127.0);
            for (q, x) in q.iter().zip(&x) {
                let wide = (x - center) * (127.0 / a);
                assert!(wide.abs() < 127.5, "{x} of {base} ± {spread}");
                assert_eq!(f32::from(*q), wide.round_ties_even());
            }
        }
        // No range at all: nothing but the center.
        let mut q = [1i8; 3];
        assert_eq!(quantize_centered(&[-2.5; 3], &mut q), (ACTIVATION_FLOOR / 127.0, -2.5));
        assert_eq!(q, [0; 3]);
    }

    #[test]
    fn tiles_hold_the_tokens_of_one_group_side_by_side() {
        let pool = Pool::inline();
        let k = 18;
        // Full tiles, the last one with fewer tokens, and eight of them in a tile of more.
        let cases = [4, 8, 16]
            .map(|tokens| [5, 8, 13].map(|rows| [false, true].map(|padded| (Tiling { tokens, padded }, rows))));
        for (tiling, rows) in cases.into_iter().flatten().flatten() {
            let x: Vec<f32> = (0..rows * k)
                .map(|i| if i % k == 0 { 127.0 } else { (i % 100) as f32 })
                .collect();
            let mut f = PackedF32::default();
            f.pack(&pool, tiling, &x, rows, k, k);
            let mut q = PackedI8::default();
            q.quantize(&pool, tiling, Order::Groups, InputRange::Symmetric, &x, k);
            let mut wide = PackedI8::default();
            wide.quantize(&pool, tiling, Order::WideGroups, InputRange::Symmetric, &x, k);
            for t in 0..rows {
                let (tile, at) = (t / tiling.tokens, t % tiling.tokens);
                let width = tiling.width(rows, tile);
                for j in 0..k {
                    assert_eq!(f.tiles(tiling).tile(tiling, tile)[j * width + at], x[t * k + j]);
                    let index = (j / 4 * width + at) * 4 + j % 4;
                    assert_eq!(q.tile(tiling, tile)[index] as i8 as f32, x[t * k + j]);
                    assert_eq!(
                        bytemuck::cast_slice::<u8, i16>(wide.tile(tiling, tile))[index] as f32,
                        x[t * k + j]
                    );
                }
            }
        }
    }
}
