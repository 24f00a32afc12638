//! The tract op of LayerNorm over the last axis: `[.., width]` f32 in and out, optionally the sum of two inputs (a layer's
//! result and its residual). Works in the first input's memory when nobody else holds it.

use crate::engine::context::Context;
use crate::engine::elementwise::layer_norm;
use crate::engine::weight::Vector;
use std::sync::Arc;
use tract_core::internal::*;

/// Rows one task takes.
const ROWS: usize = 8;

#[derive(Clone, Debug)]
pub struct Norm {
    pub weight: Vector,
    pub bias: Vector,
    pub eps: f32,
    pub context: Arc<Context>,
}

impl PartialEq for Norm {
    fn eq(&self, other: &Self) -> bool {
        self.weight == other.weight
            && self.bias == other.bias
            && self.eps.to_bits() == other.eps.to_bits()
            && self.context == other.context
    }
}

impl Eq for Norm {}

impl Op for Norm {
    fn name(&self) -> StaticName {
        "thimble.Norm".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}, {:?}, eps {:e}", self.weight, self.bias, self.eps)])
    }

    op_as_typed_op!();
}

impl EvalOp for Norm {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let clock = self.context.profile.clock();
        let mut x = inputs.remove(0).into_tensor();
        let residual = inputs.pop();
        let (weight, bias) = (self.weight.values(), self.bias.values());
        let width = weight.len();
        ensure!(
            x.shape().last() == Some(&width),
            "normalizes {width} values, got {:?}",
            x.shape()
        );
        let residual = match &residual {
            Some(r) => {
                ensure!(r.shape() == x.shape(), "cannot add {:?} to {:?}", r.shape(), x.shape());
                Some(r.try_as_plain_ram()?)
            }
            None => None,
        };
        let residual = residual.as_ref().map(|r| r.as_slice::<f32>()).transpose()?;
        let mut plain = x.try_as_plain_ram_mut()?;
        self.context
            .pool
            .chunks(plain.as_slice_mut::<f32>()?, ROWS * width, |i, rows| {
                for (j, row) in rows.chunks_exact_mut(width).enumerate() {
                    let residual = residual.map(|residual| &residual[(i * ROWS + j) * width..][..width]);
                    layer_norm(row, residual, weight, bias, self.eps);
                }
            });
        let layer = self.context.layer();
        self.context.profile.op(clock, layer, || "norm".to_string());
        Ok(tvec!(x.into_tvalue()))
    }
}

impl TypedOp for Norm {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }
}
