//! The tract ops that make one vector of a row's tokens, and give it the length 1. The formulas are those of
//! sentence-transformers' `Pooling` and `Normalize`.

use crate::engine::context::Context;
use std::sync::Arc;
use thimble_shared::model::network::Pooling;
use tract_core::internal::*;

/// Hidden states `[batch, seq, width]` and `keep` `[batch, seq]` (1 = real token) in, `[batch, width]` out, all f32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub pooling: Pooling,
    pub context: Arc<Context>,
}

impl Op for Pool {
    fn name(&self) -> StaticName {
        "thimble.Pool".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.pooling)])
    }

    op_as_typed_op!();
}

impl EvalOp for Pool {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let clock = self.context.profile.clock();
        let (hidden, keep) = args_2!(inputs);
        let &[batch, seq, width] = hidden.shape() else {
            bail!("hidden states are {:?}", hidden.shape())
        };
        ensure!(keep.shape() == [batch, seq] && seq > 0);
        let (states, keep) = (hidden.try_as_plain_ram()?, keep.try_as_plain_ram()?);
        let (states, keep) = (states.as_slice::<f32>()?, keep.as_slice::<f32>()?);
        let mut pooled = vec![0f32; batch * width];
        let rows = pooled.chunks_exact_mut(width);
        for (out, (tokens, keep)) in rows.zip(states.chunks_exact(seq * width).zip(keep.chunks_exact(seq))) {
            pool(self.pooling, tokens, keep, out);
        }
        self.context
            .profile
            .op(clock, self.context.layer(), || "pool".to_string());
        Ok(tvec!(Tensor::from_shape(&[batch, width], &pooled)?.into_tvalue()))
    }
}

impl TypedOp for Pool {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = &inputs[0].shape;
        Ok(tvec!(f32::fact(&[shape[0].clone(), shape[2].clone()])))
    }
}

/// What sentence-transformers raises a divisor to at least.
const LEAST_COUNT: f32 = 1e-9;
/// What it puts in place of a token that does not count, before the largest is taken.
const LEAST_TOKEN: f32 = -1e9;
/// What PyTorch raises a length to at least before it divides by it.
const LEAST_LENGTH: f32 = 1e-12;

/// One row: `tokens` is `[seq, width]`, `keep` has 1 for each real token, `out` is `[width]`.
fn pool(pooling: Pooling, tokens: &[f32], keep: &[f32], out: &mut [f32]) {
    let rows = || tokens.chunks_exact(out.len()).zip(keep);
    let mut sum = |weight: &dyn Fn(usize) -> f32, divisor: &dyn Fn(f32) -> f32| {
        let weights: Vec<f32> = keep.iter().enumerate().map(|(at, keep)| keep * weight(at)).collect();
        let divisor = divisor(weights.iter().sum::<f32>().max(LEAST_COUNT));
        out.fill(0.0);
        for (token, weight) in tokens.chunks_exact(out.len()).zip(&weights) {
            out.iter_mut().zip(token).for_each(|(out, x)| *out += x * weight);
        }
        out.iter_mut().for_each(|out| *out /= divisor);
    };
    match pooling {
        Pooling::First => out.copy_from_slice(&tokens[..out.len()]),
        Pooling::Mean => sum(&|_| 1.0, &|count| count),
        Pooling::MeanSqrtLen => sum(&|_| 1.0, &f32::sqrt),
        Pooling::WeightedMean => sum(&|at| (at + 1) as f32, &|count| count),
        Pooling::Max => {
            let shown = rows()
                .map(|(token, &keep)| (keep != 0.0).then_some(token))
                .collect::<Vec<_>>();
            out.fill(f32::NEG_INFINITY);
            for token in shown {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = out.max(token.map_or(LEAST_TOKEN, |token| token[i]));
                }
            }
        }
    }
}

/// Vectors `[batch, width]` over their lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalize {
    pub context: Arc<Context>,
}

impl Op for Normalize {
    fn name(&self) -> StaticName {
        "thimble.Normalize".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Normalize {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut x = args_1!(inputs).into_tensor();
        let width = x.shape().last().copied().unwrap_or(1).max(1);
        let mut plain = x.try_as_plain_ram_mut()?;
        for row in plain.as_slice_mut::<f32>()?.chunks_exact_mut(width) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(LEAST_LENGTH);
            row.iter_mut().for_each(|x| *x /= length);
        }
        Ok(tvec!(x.into_tvalue()))
    }
}

impl TypedOp for Normalize {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_pooled_by_their_real_tokens() {
        let tokens = [1.0, -4.0, 3.0, -2.0, 100.0, 100.0];
        let cases: [(Pooling, [f32; 2]); 5] = [
            (Pooling::First, [1.0, -4.0]),
            (Pooling::Max, [3.0, -2.0]),
            (Pooling::Mean, [2.0, -3.0]),
            (Pooling::MeanSqrtLen, [4.0 / 2f32.sqrt(), -6.0 / 2f32.sqrt()]),
            (Pooling::WeightedMean, [7.0 / 3.0, -8.0 / 3.0]),
        ];
        for (pooling, want) in cases {
            let mut found = [f32::NAN; 2];
            pool(pooling, &tokens, &[1.0, 1.0, 0.0], &mut found);
            assert_eq!(found, want, "{pooling:?}");
        }
    }

    #[test]
    fn a_row_without_a_token_gives_what_sentence_transformers_gives() {
        let mut found = [f32::NAN; 2];
        pool(Pooling::Mean, &[1.0, 2.0], &[0.0], &mut found);
        assert_eq!(found, [0.0, 0.0]);
        pool(Pooling::Max, &[1.0, 2.0], &[0.0], &mut found);
        assert_eq!(found, [LEAST_TOKEN; 2]);
    }
}
