//! The tract op of a layer's feed-forward part: two linear maps with an activation between, `[.., hidden]` f32 in and out. Long
//! inputs pass a block of tokens at a time, so that what lies between the maps, the widest tensor of a layer, stays small.

use crate::engine::context::Context;
use crate::engine::ops::linear::Linear;
use crate::engine::tile::Columns;
use std::sync::Arc;
use thimble_shared::board::memory;
use thimble_shared::dtype::InputRange;
use tract_core::internal::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedForward {
    pub up: Linear,
    pub down: Linear,
    pub context: Arc<Context>,
}

impl Op for FeedForward {
    fn name(&self) -> StaticName {
        "thimble.FeedForward".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok([self.up.info()?, self.down.info()?].concat())
    }

    op_as_typed_op!();
}

impl EvalOp for FeedForward {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let rows = self.up.rows(&input)?;
        let block = self.block(rows);
        let mut outputs = self.down.outputs(input.shape())?;
        let mut inner = self.up.outputs(&[block, input.shape().last().copied().unwrap_or(0)])?;
        let (width, inner_width) = (self.up.input_width(), self.down.input_width());
        let x = input.try_as_plain_ram()?;
        let x = x.as_slice::<f32>()?;
        self.context.with_packed(|packed| {
            let outputs = outputs.iter_mut().map(|t| Columns::of(t, rows));
            let outputs: Vec<Columns> = outputs.collect::<TractResult<_>>()?;
            for start in (0..rows).step_by(block) {
                let part = start..rows.min(start + block);
                let x = &x[part.start * width..part.end * width];
                let columns = inner.iter_mut().map(|t| Ok(Columns::of(t, block)?.part(0..part.len())));
                let columns: Vec<Columns> = columns.collect::<TractResult<_>>()?;
                self.up.run(x, packed, &columns)?;
                let plain = inner[0].try_as_plain_ram()?;
                let between = &plain.as_slice::<f32>()?[..part.len() * inner_width];
                let outputs: Vec<Columns> = outputs.iter().map(|columns| columns.part(part.clone())).collect();
                self.down.run(between, packed, &outputs)?;
            }
            TractResult::Ok(())
        })?;
        Ok(outputs.into_iter().map(IntoTValue::into_tvalue).collect())
    }
}

impl TypedOp for FeedForward {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let inner = self.up.output_facts(inputs)?;
        self.down.output_facts(&inner.iter().collect::<Vec<_>>())
    }
}

impl FeedForward {
    /// Tokens that pass at a time. All of them where the whole tensor has one range, or where somebody observes what enters the
    /// maps.
    fn block(&self, rows: usize) -> usize {
        let weights = self.up.weights.iter().chain(&self.down.weights);
        let mut ranges = weights.filter_map(|w| w.format.input_range());
        if ranges.any(|range| range == InputRange::Tensor) || self.context.observer().is_some() {
            return rows;
        }
        memory::block(rows)
    }
}
