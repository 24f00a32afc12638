//! The tract op of masked self-attention: query, key and value `[batch, seq, hidden]` and `keep` `[batch, seq]` (1 = real
//! token) in, `[batch, seq, hidden]` out, all f32. In f32 each head packs its keys as tiles and its values as panels. Then a few
//! queries at a time pass, as panels: their scores come out as the tile that the values are multiplied by, and stay in the first
//! cache. [`super::attention_int8`] multiplies int8 numbers instead.

use crate::engine::context::{Context, Scratch};
use crate::engine::elementwise::{SCORE_UNIT, weigh};
use crate::engine::kernels::pack::{TilesF32, interleave};
use crate::engine::threads::Pool;
use crate::engine::tile::{Tile, each_tile};
use std::sync::{Arc, Mutex};
use thimble_shared::artifact::layout::PANEL_ROWS;
use thimble_shared::board::memory::QUERIES;
use thimble_shared::model::AttentionArithmetic;
use tract_core::internal::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    pub heads: usize,
    pub arithmetic: AttentionArithmetic,
    pub context: Arc<Context>,
}

impl Op for Attention {
    fn name(&self) -> StaticName {
        "thimble.Attention".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        let kernels = &self.context.kernels;
        let kernel = match self.arithmetic {
            AttentionArithmetic::F32 => kernels.f32.name(),
            AttentionArithmetic::Int8 => kernels.i8.name(),
        };
        Ok(vec![format!("{} heads, {} by {kernel}", self.heads, self.arithmetic)])
    }

    op_as_typed_op!();
}

impl EvalOp for Attention {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let clock = self.context.profile.clock();
        let (query, key, value, keep) = args_4!(inputs);
        let &[batch, seq, hidden] = query.shape() else {
            bail!("queries are {:?}", query.shape())
        };
        ensure!(key.shape() == query.shape() && value.shape() == query.shape() && keep.shape() == [batch, seq]);
        ensure!(hidden % self.heads == 0, "{} heads do not divide {hidden}", self.heads);
        let (key, value, keep) = (
            key.try_as_plain_ram()?,
            value.try_as_plain_ram()?,
            keep.try_as_plain_ram()?,
        );
        let (key, value, keep) = (
            key.as_slice::<f32>()?,
            value.as_slice::<f32>()?,
            keep.as_slice::<f32>()?,
        );
        // A head reads its columns of the queries block by block and nobody else does: the result takes their place.
        let mut queries = query.into_tensor();
        let size = hidden / self.heads;
        let failure = Mutex::new(None);
        each_tile(&self.context.pool, &mut queries, [seq, size], |task, queries| {
            let (sequence, head) = (task / self.heads, task % self.heads);
            let from = sequence * seq * hidden + head * size;
            let one = Head {
                key: &key[from..],
                value: &value[from..],
                keep: &keep[sequence * seq..][..seq],
                seq,
                size,
                stride: hidden,
            };
            let context = &self.context;
            let done = context.with_scratch(|scratch| match self.arithmetic {
                AttentionArithmetic::F32 => one.attend(queries, context, scratch),
                AttentionArithmetic::Int8 => one.attend_int8(queries, context, scratch),
            });
            if let (Err(e), Ok(mut failure)) = (done, failure.lock()) {
                *failure = Some(e);
            }
        })?;
        failure.into_inner().ok().flatten().map_or(Ok(()), Err)?;
        let layer = self.context.layer();
        self.context.profile.op(clock, layer, || "attention".to_string());
        Ok(tvec!(queries.into_tvalue()))
    }
}

impl TypedOp for Attention {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }
}

/// What one head of one sequence attends to. Rows of keys and values are `stride` apart.
pub(super) struct Head<'a> {
    pub key: &'a [f32],
    pub value: &'a [f32],
    pub keep: &'a [f32],
    pub seq: usize,
    pub size: usize,
    pub stride: usize,
}

impl Head<'_> {
    /// The keys up to the last one that counts, as those behind it weigh nothing, and their mask where it has holes. A row that
    /// keeps none weighs all alike.
    pub(super) fn counted(&self) -> (usize, Option<&[f32]>) {
        let last = self.keep.iter().rposition(|&keep| keep != 0.0);
        let keys = last.map_or(self.seq, |last| last + 1);
        let mask = &self.keep[..keys];
        (keys, mask.contains(&0.0).then_some(mask))
    }

    /// Puts the result where the head's queries are.
    fn attend(&self, mut queries: Tile<'_>, context: &Context, scratch: &mut Scratch) -> TractResult<()> {
        let &Head { seq, size, stride, .. } = self;
        let kernel = &context.kernels.f32;
        let tiling = kernel.tiling();
        let Scratch {
            work,
            second,
            panels,
            tile,
            x,
            ..
        } = scratch;
        let (keys, holes) = self.counted();
        x.pack(&Pool::inline(), tiling, self.key, keys, size, stride);
        let keys_packed = x.tiles(tiling);
        let padded_size = size.next_multiple_of(PANEL_ROWS);
        let (values, packed) = panels
            .take::<f32>(padded_size * keys + QUERIES * size)
            .split_at_mut(padded_size * keys);
        pack_values(self.value, keys, size, stride, values);
        let scale = SCORE_UNIT / (size as f32).sqrt();
        let most = tiling.tokens.min(QUERIES);
        for first in (0..seq).step_by(most) {
            let real = most.min(seq - first);
            let side = real.next_multiple_of(PANEL_ROWS);
            tile.clear();
            tile.resize(side * size, 0.0);
            for (row, to) in tile.chunks_exact_mut(size).take(real).enumerate() {
                for (to, query) in to.iter_mut().zip(queries.row(first + row)) {
                    *to = *query * scale;
                }
            }
            let packed = &mut packed[..side * size];
            let eights = tile.chunks_exact(PANEL_ROWS * size);
            for (eight, panel) in eights.zip(packed.chunks_exact_mut(PANEL_ROWS * size)) {
                let rows = std::array::from_fn(|row| &eight[row * size..][..size]);
                interleave(&rows, panel, PANEL_ROWS);
            }
            let scores = kernel.multiply(packed, keys_packed, work)?;
            let inverse = weigh(scores, side, holes);
            let weights = TilesF32 {
                data: scores,
                rows: side,
                k: keys,
            };
            let result = kernel.multiply(values, weights, second)?;
            for (row, values) in result.chunks_exact(padded_size).take(real).enumerate() {
                for (to, value) in queries.row(first + row).iter_mut().zip(values) {
                    *to = value * inverse[row];
                }
            }
        }
        Ok(())
    }
}

/// `[size/8][seq][8]`: eight dimensions side by side.
fn pack_values(value: &[f32], seq: usize, size: usize, stride: usize, panels: &mut [f32]) {
    for (p, panel) in panels.chunks_exact_mut(seq * PANEL_ROWS).enumerate() {
        let from = p * PANEL_ROWS;
        let lanes = PANEL_ROWS.min(size - from);
        for (row, slot) in panel.as_chunks_mut::<PANEL_ROWS>().0.iter_mut().enumerate() {
            let value = &value[row * stride + from..];
            if lanes == PANEL_ROWS
                && let Some(value) = value.first_chunk()
            {
                *slot = *value;
                continue;
            }
            slot[..lanes].copy_from_slice(&value[..lanes]);
            slot[lanes..].fill(0.0);
        }
    }
}
