//! The tract op of masked self-attention: query, key and value `[batch, seq, hidden]` and `keep` `[batch, seq]` (1 = real
//! token) in, `[batch, seq, hidden]` out, all f32. Each head packs its keys and values as panels and multiplies with the
//! linear maps' f32 kernel, so no transposed or masked copy of a whole tensor is made.

use crate::engine::context::{Context, Scratch};
use crate::engine::elementwise::masked_softmax;
use crate::engine::kernels::pack::interleave;
use crate::engine::ops::linear::{Tile, each_tile};
use crate::engine::threads::Pool;
use std::sync::{Arc, Mutex};
use thimble_shared::artifact::layout::PANEL_ROWS;
use thimble_shared::board::memory::QUERIES;
use tract_core::internal::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    pub heads: usize,
    pub context: Arc<Context>,
}

impl Op for Attention {
    fn name(&self) -> StaticName {
        "thimble.Attention".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!(
            "{} heads, f32 by {}",
            self.heads,
            self.context.kernels.f32.name()
        )])
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
            let done = self
                .context
                .with_scratch(|scratch| one.attend(queries, &self.context, scratch));
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
struct Head<'a> {
    key: &'a [f32],
    value: &'a [f32],
    keep: &'a [f32],
    seq: usize,
    size: usize,
    stride: usize,
}

impl Head<'_> {
    /// Puts the result where the head's queries are.
    fn attend(&self, mut queries: Tile<'_>, context: &Context, scratch: &mut Scratch) -> TractResult<()> {
        let &Head { seq, size, stride, .. } = self;
        let kernel = &context.kernels.f32;
        let Scratch {
            work,
            panels,
            tile,
            x,
            y,
            ..
        } = scratch;
        let scale = 1.0 / (size as f32).sqrt();
        // Keys are the output channels of the scores, the head's dimensions those of the result.
        let (padded_seq, padded_size) = (seq.next_multiple_of(PANEL_ROWS), size.next_multiple_of(PANEL_ROWS));
        let (keys, values) = panels
            .take::<f32>(padded_seq * size + padded_size * seq)
            .split_at_mut(padded_seq * size);
        pack_keys(self.key, seq, size, stride, keys);
        pack_values(self.value, seq, size, stride, values);
        for first in (0..seq).step_by(QUERIES) {
            let rows = QUERIES.min(seq - first);
            tile.resize(rows * size, 0.0);
            for (row, query) in tile.chunks_exact_mut(size).enumerate() {
                query.copy_from_slice(queries.row(first + row));
            }
            x.pack(&Pool::inline(), kernel.tiling(), tile, rows, size, size);
            let scores = kernel.multiply(keys, x, work)?;
            for row in scores.chunks_exact_mut(padded_seq) {
                masked_softmax(&mut row[..seq], self.keep, scale);
            }
            y.pack(&Pool::inline(), kernel.tiling(), scores, rows, seq, padded_seq);
            let result = kernel.multiply(values, y, work)?;
            for (row, values) in result.chunks_exact(padded_size).enumerate() {
                queries.row(first + row).copy_from_slice(&values[..size]);
            }
        }
        Ok(())
    }
}

/// `[seq/8][size][8]`: eight keys side by side.
fn pack_keys(key: &[f32], seq: usize, size: usize, stride: usize, panels: &mut [f32]) {
    for (p, panel) in panels.chunks_exact_mut(size * PANEL_ROWS).enumerate() {
        if p * PANEL_ROWS + PANEL_ROWS <= seq {
            let rows = std::array::from_fn(|lane| &key[(p * PANEL_ROWS + lane) * stride..][..size]);
            interleave(&rows, panel);
            continue;
        }
        for lane in 0..PANEL_ROWS {
            let slots = panel[lane..].iter_mut().step_by(PANEL_ROWS);
            let row = p * PANEL_ROWS + lane;
            if row < seq {
                slots.zip(&key[row * stride..][..size]).for_each(|(slot, &k)| *slot = k);
            } else {
                slots.for_each(|slot| *slot = 0.0);
            }
        }
    }
}

/// `[size/8][seq][8]`: eight dimensions side by side.
fn pack_values(value: &[f32], seq: usize, size: usize, stride: usize, panels: &mut [f32]) {
    for (p, panel) in panels.chunks_exact_mut(seq * PANEL_ROWS).enumerate() {
        let from = p * PANEL_ROWS;
        let lanes = PANEL_ROWS.min(size - from);
        for (row, slot) in panel.chunks_exact_mut(PANEL_ROWS).enumerate() {
            slot[..lanes].copy_from_slice(&value[row * stride + from..][..lanes]);
            slot[lanes..].fill(0.0);
        }
    }
}
