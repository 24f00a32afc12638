//! The tract op of linear maps: `[.., in]` f32 in, one `[.., out]` f32 per weight out, with bias and activation done while
//! a group of channels is still in the cache. int8 weights quantize the input per token; it is packed once for all weights.

use crate::engine::context::{Context, LinearInput, Packed, Scratch};
use crate::engine::elementwise::{activate, multiversion};
use crate::engine::kernels::expand;
use crate::engine::kernels::pack::Token;
use crate::engine::profile::{Clock, Inside};
use crate::engine::threads::Pool;
use crate::engine::weight::LinearWeight;
use half::f16;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use thimble_shared::artifact::layout::{I8_DEPTH, PANEL_ROWS};
use thimble_shared::dtype::{InputRange, Inputs, Storage};
use thimble_shared::model::Activation;
use tract_core::internal::*;

/// Most panels multiplied in one call.
const MOST: usize = 16;
/// Channels of the largest group of panels.
const WIDTH: usize = MOST * PANEL_ROWS;
/// Numbers a group's result may have: 16 KiB, half of a small first cache.
const RESULT: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Maps of the same input, e.g. query, key and value.
    pub weights: Vec<LinearWeight>,
    pub activation: Option<Activation>,
    pub context: Arc<Context>,
}

impl Op for Linear {
    fn name(&self) -> StaticName {
        "thimble.Linear".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        let mut lines: Vec<String> = self
            .weights
            .iter()
            .map(|w| {
                let kernels = &self.context.kernels;
                let kernel = if w.format.quantizes_input() {
                    kernels.i8.name()
                } else {
                    kernels.f32.name()
                };
                format!("{w:?} by {kernel}")
            })
            .collect();
        lines.extend(self.activation.map(|a| format!("then {a:?}")));
        Ok(lines)
    }

    op_as_typed_op!();
}

impl EvalOp for Linear {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let shape: TVec<usize> = input.shape().into();
        let width = shape.last().copied().unwrap_or(0);
        for w in &self.weights {
            let inp = w.layout.inp;
            ensure!(inp == width && width > 0, "{} takes {inp} inputs, got {width}", w.name);
        }
        let rows = input.len() / width;
        let (profile, layer) = (&self.context.profile, self.context.layer());
        let outputs = self.context.with_packed(|packed| {
            let clock = profile.clock();
            self.pack(input.try_as_plain_ram()?.as_slice::<f32>()?, rows, width, packed);
            profile.op(clock, layer, || format!("{}: pack", self.label()));
            let clock = profile.clock();
            // Packing is the last that reads the input, so a square map can leave its result in the same memory.
            let square = self.weights.len() == 1 && self.weights[0].layout.out == width;
            let mut outputs = if square {
                vec![input.into_tensor()]
            } else {
                self.outputs(&shape)?
            };
            let columns: Vec<Columns> = outputs
                .iter_mut()
                .map(|t| Columns::of(t, rows))
                .collect::<TractResult<_>>()?;
            self.multiply(packed, &columns)?;
            profile.op(clock, layer, || self.label());
            TractResult::Ok(outputs)
        })?;
        Ok(outputs.into_iter().map(IntoTValue::into_tvalue).collect())
    }
}

impl TypedOp for Linear {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let facts = self.weights.iter().map(|w| {
            let mut shape = inputs[0].shape.to_tvec();
            shape.pop();
            shape.push(w.layout.out.to_dim());
            f32::fact(shape)
        });
        Ok(facts.collect())
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let rows: TDim = inputs[0].shape.iter().rev().skip(1).cloned().product();
        let macs: usize = self.weights.iter().map(|w| w.layout.out * w.layout.inp).sum();
        Ok(tvec!((Cost::FMA(f32::datum_type()), rows * macs)))
    }
}

impl Linear {
    /// What a profile calls it: the weights, without the group they belong to.
    fn label(&self) -> String {
        let names: Vec<&str> = self.weights.iter().map(|w| w.role.name()).collect();
        names.join("+")
    }

    /// One tensor per weight, of `shape` but for the last dimension, not yet written.
    fn outputs(&self, shape: &[usize]) -> TractResult<Vec<Tensor>> {
        let one = |w: &LinearWeight| {
            let mut shape: TVec<usize> = shape.into();
            shape.pop();
            shape.push(w.layout.out);
            // SAFETY: `multiply` writes every element: each task writes its channels of all rows, and the tasks cover all
            // channels. An error on the way drops the tensor unread.
            unsafe { Tensor::uninitialized::<f32>(&shape) }
        };
        self.weights.iter().map(one).collect()
    }

    /// Packs the input for the kernels of the weights' formats, and shows it to whoever observes.
    fn pack(&self, x: &[f32], rows: usize, width: usize, packed: &mut Packed) {
        let Context { kernels, pool, .. } = &*self.context;
        if let Some(observer) = self.context.observer() {
            let layer = self.context.layer();
            for w in &self.weights {
                observer(&LinearInput {
                    role: w.role,
                    site: w.site,
                    layer,
                    x,
                    width,
                });
            }
        }
        let ranges = self.weights.iter().filter_map(|w| w.format.input_range());
        packed.quantize(ranges, |to, range| {
            to.quantize(pool, kernels.i8.tiling(), kernels.i8.order(), range, x, width);
        });
        if self.weights.iter().any(|w| !w.format.quantizes_input()) {
            packed.f32.pack(pool, kernels.f32.tiling(), x, rows, width, width);
        }
    }

    /// Panels of one weight multiplied in one call: many, to spread what a call costs, but so few that the result stays in
    /// the first cache and that every thread gets some.
    fn group_size(&self, weight: &LinearWeight, rows: usize) -> usize {
        let threads = self.context.pool.threads();
        let all: usize = self.weights.iter().map(|w| w.layout.panels()).sum();
        let shared = if threads > 1 { all / (4 * threads) } else { MOST };
        // Some panels are expanded a group at a time, into memory that should stay in the second cache.
        let most = match (weight.layout.storage, weight.format.row().inputs) {
            (Storage::F32, _) | (Storage::I8, Inputs::Int8(_)) => MOST,
            (Storage::F16 | Storage::I4, _) | (Storage::I8, Inputs::Float) => 4,
        };
        // Even, since kernels of ours take panels in pairs.
        let size = (RESULT / (rows * PANEL_ROWS).max(1)).min(shared).min(most);
        (size & !1).max(2)
    }

    fn multiply(&self, packed: &Packed, columns: &[Columns]) -> TractResult<()> {
        let mut groups = vec![];
        for (i, (w, columns)) in self.weights.iter().zip(columns).enumerate() {
            let (panels, size) = (w.layout.panels(), self.group_size(w, columns.rows));
            groups.extend((0..panels).step_by(size).map(|p| (i, p..panels.min(p + size))));
        }
        let failure = Mutex::new(None);
        self.context.pool.each(groups.len(), |task| {
            let (i, panels) = groups[task].clone();
            let done = self
                .context
                .with_scratch(|s| self.group(&self.weights[i], panels, packed, &columns[i], s));
            if let (Err(e), Ok(mut failure)) = (done, failure.lock()) {
                *failure = Some(e);
            }
        });
        failure.into_inner().ok().flatten().map_or(Ok(()), Err)
    }

    /// Computes the channels of up to [`MOST`] panels for all rows.
    fn group(
        &self,
        weight: &LinearWeight,
        group: Range<usize>,
        packed: &Packed,
        out: &Columns,
        scratch: &mut Scratch,
    ) -> TractResult<()> {
        let layout = weight.layout;
        let width = group.len() * PANEL_ROWS;
        let channels = group.start * PANEL_ROWS..layout.out.min(group.end * PANEL_ROWS);
        let profile = &self.context.profile;
        let bias = &padded(&weight.bias()[channels.clone()])[..width];
        let mut clock = profile.clock();
        let product = self.product(weight, group, packed, scratch, &mut clock)?;
        profile.inside(&mut clock, Inside::Multiply);
        let scaled = weight.format.has_scales();
        let scales = &match scaled {
            true => padded(&weight.scales()[channels.clone()]),
            false => [0.0; WIDTH],
        }[..width];
        let moved = weight.format.input_range().is_some_and(InputRange::is_moved);
        let row_sums = moved.then(|| padded(&weight.row_sums()[channels.clone()]));
        let row_sums = row_sums.as_ref().map(|sums| &sums[..width]);
        for row in 0..out.rows {
            let from = row * width..(row + 1) * width;
            // SAFETY: a task has its group of channels to itself, in all rows.
            let to = unsafe { out.fill(row, channels.clone()) };
            match &product {
                Product::I32(sums, tokens) => match row_sums {
                    Some(row_sums) => rescale_centered(&sums[from], tokens[row], scales, row_sums, bias, to),
                    None => rescale(&sums[from], tokens[row].scale, scales, bias, to),
                },
                Product::F32(sums) if scaled => scale_channels(&sums[from], scales, bias, to),
                Product::F32(sums) => add_bias(&sums[from], bias, to),
            }
        }
        profile.inside(&mut clock, Inside::Rescale);
        if let Some(activation) = self.activation {
            for row in 0..out.rows {
                // SAFETY: as above, and the loop above has written them.
                activate(activation, unsafe { out.change(row, channels.clone()) });
            }
            profile.inside(&mut clock, Inside::Activate);
        }
        Ok(())
    }

    /// What the kernels leave: sums of products, for all rows.
    fn product<'s>(
        &self,
        weight: &LinearWeight,
        group: Range<usize>,
        packed: &'s Packed,
        scratch: &'s mut Scratch,
        clock: &mut Clock,
    ) -> TractResult<Product<'s>> {
        let layout = weight.layout;
        let width = group.len() * PANEL_ROWS;
        let Scratch {
            work, panels, narrow, ..
        } = scratch;
        let Context { kernels, profile, .. } = &*self.context;
        Ok(match (layout.storage, weight.format.row().inputs) {
            (Storage::F32, _) => Product::F32(kernels.f32.multiply(weight.panels(group), &packed.f32, work)?),
            (Storage::F16, _) => {
                let halves = weight.panels::<f16>(group);
                Product::F32(kernels.f32.multiply_f16(halves, &packed.f32, panels, work)?)
            }
            (Storage::I8, Inputs::Float) => {
                let wide = panels.take::<f32>(width * layout.inp);
                expand::int8(weight.panels(group), layout.padded_in(), layout.inp, wide);
                profile.inside(clock, Inside::Expand);
                Product::F32(kernels.f32.multiply(wide, &packed.f32, work)?)
            }
            (Storage::I4, Inputs::Float) => {
                let depth = weight.expanded_depth();
                let int8s = narrow.take::<i8>(width * depth);
                weight.expand_int4(group, int8s);
                let wide = panels.take::<f32>(width * layout.inp);
                expand::int8(int8s, depth, layout.inp, wide);
                profile.inside(clock, Inside::Expand);
                Product::F32(kernels.f32.multiply(wide, &packed.f32, work)?)
            }
            (Storage::I8 | Storage::I4, Inputs::Int8(range)) => {
                let packed = packed
                    .int8(range)
                    .ok_or_else(|| format_err!("{} reads an input that was not packed", weight.name))?;
                let in_twos: Vec<u8>;
                let chains: &[u8] = match (kernels.i8.asks_for_chains(), range) {
                    (false, _) => &[],
                    (true, InputRange::Symmetric | InputRange::Centered) => weight.chains(group.clone()),
                    // Inputs go down to -128 there: chains of four products could overflow, chains of two cannot.
                    (true, InputRange::Tensor) => {
                        in_twos = vec![0; group.len() * (packed.depth / I8_DEPTH)];
                        &in_twos
                    }
                };
                let panels: &[i8] = if layout.storage == Storage::I8 {
                    weight.panels(group)
                } else {
                    let wide = panels.take(width * packed.depth);
                    weight.expand_int4(group, wide);
                    profile.inside(clock, Inside::Expand);
                    wide
                };
                Product::I32(kernels.i8.multiply(panels, chains, packed, work)?, &packed.tokens)
            }
        })
    }
}

/// One row per token; sums of int8 products with what each token was quantized by.
enum Product<'a> {
    F32(&'a [f32]),
    I32(&'a [i32], &'a [Token]),
}

/// Per-channel values of one group; channels that only pad the last panel get zeros.
fn padded(values: &[f32]) -> [f32; WIDTH] {
    let mut all = [0.0; WIDTH];
    all[..values.len()].copy_from_slice(values);
    all
}

multiversion! {
    fn add_bias(product: &[f32], bias: &[f32], to: &mut [MaybeUninit<f32>]) {
        for ((to, p), b) in to.iter_mut().zip(product).zip(bias) {
            to.write(p + b);
        }
    }
}

multiversion! {
    fn scale_channels(product: &[f32], scales: &[f32], bias: &[f32], to: &mut [MaybeUninit<f32>]) {
        for (((to, p), scale), bias) in to.iter_mut().zip(product).zip(scales).zip(bias) {
            to.write(p * scale + bias);
        }
    }
}

multiversion! {
    // In the order the ONNX states: by the token's step, by the channel's scale, plus bias.
    fn rescale(sums: &[i32], token: f32, scales: &[f32], bias: &[f32], to: &mut [MaybeUninit<f32>]) {
        for (((to, &sum), scale), bias) in to.iter_mut().zip(sums).zip(scales).zip(bias) {
            to.write(sum as f32 * token * scale + bias);
        }
    }
}

multiversion! {
    // The same, plus what the token's center adds to each channel.
    fn rescale_centered(
        sums: &[i32],
        token: Token,
        scales: &[f32],
        row_sums: &[f32],
        bias: &[f32],
        to: &mut [MaybeUninit<f32>]
    ) {
        let channels = scales.iter().zip(row_sums).zip(bias);
        for ((to, &sum), ((scale, row_sum), bias)) in to.iter_mut().zip(sums).zip(channels) {
            to.write(sum as f32 * token.scale * scale + token.center * row_sum + bias);
        }
    }
}

/// A tensor `[rows, stride]`, borrowed, that several tasks read and fill at the same time, each its own columns.
struct Columns<'a> {
    start: *mut f32,
    rows: usize,
    stride: usize,
    tensor: PhantomData<&'a mut [f32]>,
}

// SAFETY: a borrow of f32 numbers, which may be used on any thread; the memory is reached only through the methods below, whose
// callers promise that no two tasks share columns.
unsafe impl Send for Columns<'_> {}
// SAFETY: as above.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// The columns of a tensor whose leading dimensions make `rows`.
    fn of(tensor: &'a mut Tensor, rows: usize) -> TractResult<Columns<'a>> {
        let stride = tensor.shape().last().copied().unwrap_or(0);
        ensure!(
            tensor.len() == rows * stride,
            "{:?} has not {rows} rows",
            tensor.shape()
        );
        Ok(Columns {
            start: tensor.as_ptr_mut::<f32>()?,
            rows,
            stride,
            tensor: PhantomData,
        })
    }

    /// Where a part of a row starts.
    ///
    /// # Panics
    ///
    /// Where the tensor has no such part.
    fn at(&self, row: usize, columns: &Range<usize>) -> *mut f32 {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.stride);
        // `of` found so many numbers in one allocation.
        self.start.wrapping_add(row * self.stride + columns.start)
    }

    /// Part of one row, to be written whole.
    ///
    /// # Safety
    ///
    /// While the result lives, nobody else reads or writes these columns of the row.
    #[allow(clippy::mut_from_ref)] // as the contract says
    unsafe fn fill(&self, row: usize, columns: Range<usize>) -> &mut [MaybeUninit<f32>] {
        // SAFETY: `at` stays inside the borrowed tensor, the caller keeps others away, and whatever the numbers are, they are
        // `MaybeUninit`.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, &columns).cast(), columns.len()) }
    }

    /// Part of one row, to be read and changed.
    ///
    /// # Safety
    ///
    /// While the result lives, nobody else reads or writes these columns of the row, and they have been written.
    #[allow(clippy::mut_from_ref)] // as the contract says
    unsafe fn change(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        // SAFETY: `at` stays inside the borrowed tensor, the numbers are there, and the caller keeps others away.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, &columns), columns.len()) }
    }
}

/// Part of a tensor that one task has for itself.
pub(crate) struct Tile<'a> {
    columns: &'a Columns<'a>,
    row: usize,
    column: usize,
    shape: [usize; 2],
}

impl Tile<'_> {
    /// One row of the tile.
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        let [rows, width] = self.shape;
        assert!(row < rows);
        // SAFETY: `each_tile` makes one tile of these columns and these rows, of a tensor that was written, and this one is
        // borrowed alone.
        unsafe { self.columns.change(self.row + row, self.column..self.column + width) }
    }
}

/// Cuts a tensor, its leading dimensions taken for rows, into tiles of `shape` rows and columns, and hands each to a task: row
/// by row of tiles, each from left to right.
pub(crate) fn each_tile(
    pool: &Pool,
    tensor: &mut Tensor,
    shape: [usize; 2],
    f: impl Fn(usize, Tile<'_>) + Sync,
) -> TractResult<()> {
    let [height, width] = shape;
    let stride = tensor.shape().last().copied().unwrap_or(0);
    let rows = tensor.len().checked_div(stride).unwrap_or(0);
    ensure!(
        height > 0 && width > 0 && rows.is_multiple_of(height) && stride.is_multiple_of(width),
        "{:?} is no grid of {height} by {width}",
        tensor.shape()
    );
    let columns = &Columns::of(tensor, rows)?;
    let across = stride / width;
    // The pool gives every task once, and tiles do not overlap.
    pool.each(rows / height * across, |task| {
        let (row, column) = (task / across * height, task % across * width);
        f(
            task,
            Tile {
                columns,
                row,
                column,
                shape,
            },
        );
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_a_grid_and_each_has_its_own_numbers() {
        let mut tensor = Tensor::zero::<f32>(&[2, 3, 4]).unwrap();
        for pool in [Pool::inline(), Pool::new(2).unwrap()] {
            each_tile(&pool, &mut tensor, [3, 2], |task, mut tile| {
                for row in 0..3 {
                    let numbers = tile.row(row);
                    assert_eq!(numbers.len(), 2);
                    numbers.fill(task as f32);
                }
            })
            .unwrap();
            let tensor = tensor.try_as_plain_ram().unwrap();
            let found: Vec<f32> = tensor.as_slice::<f32>().unwrap().to_vec();
            let want = |i: usize| (i / 12 * 2 + i % 4 / 2) as f32;
            assert!(found.iter().enumerate().all(|(i, &x)| x == want(i)), "{found:?}");
        }
        for shape in [[4, 2], [3, 3], [0, 2]] {
            let error = each_tile(&Pool::inline(), &mut tensor, shape, |_, _| {}).unwrap_err();
            assert!(error.to_string().contains("is no grid"), "{error}");
        }
    }
}
