//! The tract op of the embedding: token ids and token types `[batch, seq]` i64 in, the sum of word, type and position rows
//! `[batch, seq, embedding]` f32 out. Rows are read from the image one by one, so only the pages they lie on are touched.

use crate::engine::context::Context;
use crate::engine::weight::TableWeight;
use std::sync::Arc;
use tract_core::internal::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embed {
    pub word: TableWeight,
    pub kind: TableWeight,
    pub position: TableWeight,
    pub context: Arc<Context>,
}

impl Op for Embed {
    fn name(&self) -> StaticName {
        "thimble.Embed".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![
            format!("{:?}", self.word),
            format!("{:?}", self.kind),
            format!("{:?}", self.position),
        ])
    }

    op_as_typed_op!();
}

impl EvalOp for Embed {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let clock = self.context.profile.clock();
        let (ids, types) = args_2!(inputs);
        let &[batch, seq] = ids.shape() else {
            bail!("ids are [batch, seq], got {:?}", ids.shape())
        };
        ensure!(
            types.shape() == ids.shape(),
            "token types are {:?}, ids {:?}",
            types.shape(),
            ids.shape()
        );
        ensure!(
            seq <= self.position.rows(),
            "{seq} tokens, the model has {} positions",
            self.position.rows()
        );
        let width = self.word.cols();
        let mut out = Tensor::zero::<f32>(&[batch, seq, width])?;
        let (ids, types) = (ids.try_as_plain_ram()?, types.try_as_plain_ram()?);
        let (ids, types) = (ids.as_slice::<i64>()?, types.as_slice::<i64>()?);
        let mut plain = out.try_as_plain_ram_mut()?;
        for (i, row) in plain.as_slice_mut::<f32>()?.chunks_exact_mut(width).enumerate() {
            self.word.add_row(index(ids[i], &self.word)?, row);
            self.kind.add_row(index(types[i], &self.kind)?, row);
            self.position.add_row(i % seq, row);
        }
        self.context.profile.op(clock, None, || "embed".to_string());
        Ok(tvec!(out.into_tvalue()))
    }
}

fn index(value: i64, table: &TableWeight) -> TractResult<usize> {
    match usize::try_from(value) {
        Ok(row) if row < table.rows() => Ok(row),
        _ => bail!("{value} is no row of {table:?}"),
    }
}

impl TypedOp for Embed {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        shape.push(self.word.cols().to_dim());
        Ok(tvec!(f32::fact(shape)))
    }
}
