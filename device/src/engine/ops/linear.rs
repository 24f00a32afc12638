//! The tract op of linear maps: `[.., in]` f32 in, one `[.., out]` f32 per weight out, with bias and activation done while
//! a group of channels is still in the cache. int8 weights quantize the input per token; it is packed once for all weights.

use crate::engine::context::{Context, LinearInput, Packed, Scratch};
use crate::engine::elementwise::{activate_tile, multiversion};
#[cfg(target_arch = "arm")]
use crate::engine::kernels::finish32::{self, Scales};
use crate::engine::kernels::pack::{PackedF32, PackedI8, Token};
use crate::engine::kernels::tiling::Tiling;
use crate::engine::kernels::{KernelWork, Kernels, expand, widen};
use crate::engine::profile::Inside;
use crate::engine::tile::{Columns, Fresh};
use crate::engine::weight::LinearWeight;
use crate::image::buffer::Buffer;
use half::f16;
use std::borrow::Cow;
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
/// Numbers of a group and a block of tokens: 16 KiB, half of a small first cache.
const RESULT: usize = 4096;
/// Bytes of a group's panels that pass again for each block of tokens: a part of a small second cache.
const PANELS: usize = 128 << 10;
/// Channels whose scales and biases stay in registers while the rows of a block pass.
const CHUNK: usize = 16;

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
        let rows = self.rows(&input)?;
        let shape: TVec<usize> = input.shape().into();
        let outputs = self.context.with_packed(|packed| {
            self.pack(input.try_as_plain_ram()?.as_slice::<f32>()?, packed);
            // Packing is the last that reads the input, so a square map can leave its result in the same memory.
            let square = self.weights.len() == 1 && self.weights[0].layout.out == self.input_width();
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

    /// Numbers of one input row.
    pub fn input_width(&self) -> usize {
        self.weights.first().map_or(0, |w| w.layout.inp)
    }

    /// Rows of an input, which every weight must take.
    pub fn rows(&self, input: &Tensor) -> TractResult<usize> {
        let width = input.shape().last().copied().unwrap_or(0);
        for w in &self.weights {
            let inp = w.layout.inp;
            ensure!(inp == width && width > 0, "{} takes {inp} inputs, got {width}", w.name);
        }
        Ok(input.len().checked_div(width).unwrap_or(0))
    }

    /// Computes all rows of `x` into the columns of one tensor per weight.
    pub fn run(&self, x: &[f32], packed: &mut Packed, columns: &[Columns]) -> TractResult<()> {
        self.pack(x, packed);
        self.multiply(packed, columns)
    }

    /// One tensor per weight, of `shape` but for the last dimension, not yet written.
    pub fn outputs(&self, shape: &[usize]) -> TractResult<Vec<Tensor>> {
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
    fn pack(&self, x: &[f32], packed: &mut Packed) {
        let Context {
            kernels, pool, profile, ..
        } = &*self.context;
        let clock = profile.clock();
        let width = self.input_width();
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
            let rows = x.len() / width;
            packed.f32.pack(pool, kernels.f32.tiling(), x, rows, width, width);
        }
        profile.op(clock, self.context.layer(), || format!("{}: pack", self.label()));
    }

    /// Panels of one weight that a task takes: many, to spread what a task costs, but so few that every thread gets some, and
    /// that they stay in the second cache where more than one block of tokens reads them.
    fn group_size(&self, weight: &LinearWeight, rows: usize) -> usize {
        let threads = self.context.pool.threads();
        let all: usize = self.weights.iter().map(|w| w.layout.panels()).sum();
        let shared = if threads > 1 { all / (4 * threads) } else { MOST };
        // What a kernel reads: some panels are expanded.
        let element = if weight.format.quantizes_input() { 1 } else { 4 };
        let panel = weight.layout.inp * PANEL_ROWS * element;
        let expanded = match (weight.layout.storage, weight.format.row().inputs) {
            (Storage::F32, _) | (Storage::I8, Inputs::Int8(_)) => false,
            (Storage::F16 | Storage::I4, _) | (Storage::I8, Inputs::Float) => true,
        };
        let most = if expanded || rows * WIDTH > RESULT {
            (PANELS / panel).min(MOST)
        } else {
            MOST
        };
        // Even, since kernels of ours take panels in pairs.
        (most.min(shared) & !1).max(2)
    }

    fn multiply(&self, packed: &Packed, columns: &[Columns]) -> TractResult<()> {
        let clock = self.context.profile.clock();
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
        failure.into_inner().ok().flatten().map_or(Ok(()), Err)?;
        self.context.profile.op(clock, self.context.layer(), || self.label());
        Ok(())
    }

    /// Computes the channels of up to [`MOST`] panels for all rows, a block of rows at a time.
    fn group(
        &self,
        weight: &LinearWeight,
        group: Range<usize>,
        packed: &Packed,
        out: &Columns,
        scratch: &mut Scratch,
    ) -> TractResult<()> {
        let Context { kernels, profile, .. } = &*self.context;
        let Scratch {
            work, panels, narrow, ..
        } = scratch;
        let mut clock = profile.clock();
        let (panels, expanded) = self.panels(weight, group.clone(), packed, panels, narrow)?;
        if expanded {
            profile.inside(&mut clock, Inside::Expand);
        }
        let width = group.len() * PANEL_ROWS;
        let first = group.start * PANEL_ROWS;
        let channels = first..weight.layout.out.min(group.end * PANEL_ROWS);
        let tokens = panels.tiling(kernels).tokens;
        let block = (RESULT / width / tokens * tokens).max(tokens);
        for start in (0..out.rows).step_by(block) {
            let rows = start..out.rows.min(start + block);
            let product = panels.multiply(kernels, rows.clone(), work)?;
            profile.inside(&mut clock, Inside::Multiply);
            for from in channels.clone().step_by(CHUNK) {
                let columns = from..channels.end.min(from + CHUNK);
                // SAFETY: a task has its group of channels to itself, in all rows.
                let mut to = unsafe { out.fresh(rows.clone(), columns.clone()) };
                product.finish(weight, from - first, width, columns, &mut to);
            }
            profile.inside(&mut clock, Inside::Rescale);
            if let Some(activation) = self.activation {
                for from in channels.clone().step_by(CHUNK) {
                    // SAFETY: as above, and the loop above has written them.
                    let mut tile = unsafe { out.fresh(rows.clone(), from..channels.end.min(from + CHUNK)).written() };
                    activate_tile(activation, &mut tile);
                }
                profile.inside(&mut clock, Inside::Activate);
            }
        }
        Ok(())
    }

    /// A group's panels as a kernel reads them, and whether they had to be expanded.
    fn panels<'a>(
        &self,
        weight: &'a LinearWeight,
        group: Range<usize>,
        packed: &'a Packed,
        room: &'a mut Buffer,
        narrow: &mut Buffer,
    ) -> TractResult<(Panels<'a>, bool)> {
        let layout = weight.layout;
        let width = group.len() * PANEL_ROWS;
        let kernels = &self.context.kernels;
        let x = &packed.f32;
        Ok(match (layout.storage, weight.format.row().inputs) {
            (Storage::F32, _) => (Panels::F32(weight.panels(group), x), false),
            (Storage::F16, _) => {
                let halves = weight.panels::<f16>(group);
                if kernels.f32.reads_f16() {
                    (Panels::F16(halves, x), false)
                } else {
                    let wide = room.take::<f32>(halves.len());
                    widen(halves, wide);
                    (Panels::F32(wide, x), true)
                }
            }
            (Storage::I8, Inputs::Float) => {
                let wide = room.take::<f32>(width * layout.inp);
                expand::int8(weight.panels(group), layout.padded_in(), layout.inp, wide);
                (Panels::F32(wide, x), true)
            }
            (Storage::I4, Inputs::Float) => {
                let depth = weight.expanded_depth();
                let int8s = narrow.take::<i8>(width * depth);
                weight.expand_int4(group, int8s);
                let wide = room.take::<f32>(width * layout.inp);
                expand::int8(int8s, depth, layout.inp, wide);
                (Panels::F32(wide, x), true)
            }
            (Storage::I8 | Storage::I4, Inputs::Int8(range)) => {
                let packed = packed
                    .int8(range)
                    .ok_or_else(|| format_err!("{} reads an input that was not packed", weight.name))?;
                let chains = match (kernels.i8.asks_for_chains(), range) {
                    (false, _) => Cow::Borrowed(&[][..]),
                    (true, InputRange::Symmetric | InputRange::Centered) => Cow::Borrowed(weight.chains(group.clone())),
                    // Inputs go down to -128 there: chains of four products could overflow, chains of two cannot.
                    (true, InputRange::Tensor) => Cow::Owned(vec![0; group.len() * (packed.depth / I8_DEPTH)]),
                };
                if layout.storage == Storage::I8 {
                    (Panels::I8(weight.panels(group), chains, packed), false)
                } else {
                    let wide = room.take(width * packed.depth);
                    weight.expand_int4(group, wide);
                    (Panels::I8(wide, chains, packed), true)
                }
            }
        })
    }
}

/// Panels as a kernel reads them, with the input they are multiplied by and what the kernel wants to know of them.
enum Panels<'a> {
    F32(&'a [f32], &'a PackedF32),
    F16(&'a [f16], &'a PackedF32),
    I8(&'a [i8], Cow<'a, [u8]>, &'a PackedI8),
}

impl Panels<'_> {
    fn tiling(&self, kernels: &Kernels) -> Tiling {
        match self {
            Panels::F32(..) | Panels::F16(..) => kernels.f32.tiling(),
            Panels::I8(..) => kernels.i8.tiling(),
        }
    }

    /// What the kernel leaves: sums of products, for some rows.
    fn multiply<'s>(
        &'s self,
        kernels: &Kernels,
        rows: Range<usize>,
        work: &'s mut KernelWork,
    ) -> TractResult<Product<'s>> {
        let tiles = |x: &'s PackedF32| {
            let tiling = kernels.f32.tiling();
            x.tiles(tiling).part(tiling, rows.clone())
        };
        Ok(match self {
            Panels::F32(w, x) => Product::F32(kernels.f32.multiply(w, tiles(x), work)?),
            Panels::F16(w, x) => Product::F32(kernels.f32.multiply_f16(w, tiles(x), &mut Buffer::default(), work)?),
            Panels::I8(w, chains, x) => {
                let tokens = &x.tokens[rows.clone()];
                Product::I32(kernels.i8.multiply(w, chains, x, rows, work)?, tokens)
            }
        })
    }
}

/// One row per token; sums of int8 products with what each token was quantized by.
enum Product<'a> {
    F32(&'a [f32]),
    I32(&'a [i32], &'a [Token]),
}

impl Product<'_> {
    /// Scales, biases and stores `columns` of the weight's output, which begin `at` in rows of `width` sums.
    fn finish(&self, weight: &LinearWeight, at: usize, width: usize, columns: Range<usize>, to: &mut Fresh<'_>) {
        let bias = padded(&weight.bias()[columns.clone()]);
        let scales = || padded(&weight.scales()[columns.clone()]);
        match self {
            Product::I32(sums, tokens) => {
                let sums = &sums[at..];
                if weight.format.input_range().is_some_and(InputRange::is_moved) {
                    let row_sums = padded(&weight.row_sums()[columns.clone()]);
                    rescale_centered(sums, width, tokens, &scales(), &row_sums, &bias, to);
                } else {
                    rescale(sums, width, tokens, &scales(), &bias, to);
                }
            }
            Product::F32(sums) if weight.format.has_scales() => {
                scale_channels(&sums[at..], width, &scales(), &bias, to)
            }
            Product::F32(sums) => add_bias(&sums[at..], width, &bias, to),
        }
    }
}

/// Per-channel values of one chunk; zeros behind the last channel.
fn padded(values: &[f32]) -> [f32; CHUNK] {
    let mut all = [0.0; CHUNK];
    all[..values.len()].copy_from_slice(values);
    all
}

/// Writes each row of `to`, whose sums begin `width` apart: the `i`-th number of row `t` is `f(t, i, sum)`.
#[inline(always)]
fn each_row<T: Copy>(sums: &[T], width: usize, to: &mut Fresh<'_>, f: impl Fn(usize, usize, T) -> f32) {
    for row in 0..to.rows() {
        let (sums, to) = (&sums[row * width..], to.row(row));
        // The usual width as a constant, and by way of a copy that nothing else points to: the loop becomes a few vectors.
        if let (Some(&sums), Ok(to)) = (sums.first_chunk::<CHUNK>(), <&mut [_; CHUNK]>::try_from(&mut *to)) {
            let mut values = [0.0; CHUNK];
            for i in 0..CHUNK {
                values[i] = f(row, i, sums[i]);
            }
            for i in 0..CHUNK {
                to[i].write(values[i]);
            }
            continue;
        }
        for (i, (to, &sum)) in to.iter_mut().zip(sums).enumerate() {
            to.write(f(row, i, sum));
        }
    }
}

multiversion! {
    fn add_bias(product: &[f32], width: usize, bias: &[f32; CHUNK], to: &mut Fresh<'_>) {
        each_row(product, width, to, |_, i, sum| sum + bias[i]);
    }
}

multiversion! {
    fn scale_channels(product: &[f32], width: usize, scales: &[f32; CHUNK], bias: &[f32; CHUNK], to: &mut Fresh<'_>) {
        each_row(product, width, to, |_, i, sum| sum * scales[i] + bias[i]);
    }
}

multiversion! {
    // In the order the ONNX states: by the token's step, by the channel's scale, plus bias.
    fn rescale(
        sums: &[i32],
        width: usize,
        tokens: &[Token],
        scales: &[f32; CHUNK],
        bias: &[f32; CHUNK],
        to: &mut Fresh<'_>
    ) {
        #[cfg(target_arch = "arm")]
        if finish32::rescale(sums, width, |row| (tokens[row].scale, 0.0), Scales { scales, row_sums: None, bias }, to) {
            return;
        }
        each_row(sums, width, to, |row, i, sum| sum as f32 * tokens[row].scale * scales[i] + bias[i]);
    }
}

multiversion! {
    // The same, plus what the token's center adds to each channel.
    fn rescale_centered(
        sums: &[i32],
        width: usize,
        tokens: &[Token],
        scales: &[f32; CHUNK],
        row_sums: &[f32; CHUNK],
        bias: &[f32; CHUNK],
        to: &mut Fresh<'_>
    ) {
        #[cfg(target_arch = "arm")]
        {
            let by = Scales { scales, row_sums: Some(row_sums), bias };
            if finish32::rescale(sums, width, |row| (tokens[row].scale, tokens[row].center), by, to) {
                return;
            }
        }
        each_row(sums, width, to, |row, i, sum| {
            let token = tokens[row];
            sum as f32 * token.scale * scales[i] + token.center * row_sums[i] + bias[i]
        });
    }
}
