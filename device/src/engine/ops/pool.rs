//! The tract ops that make one vector of a row's tokens, and give it the length 1. The formulas are those of
//! sentence-transformers' `Pooling` and `Normalize`.

use crate::engine::context::Context;
use std::sync::Arc;
use thimble_shared::model::sentence::{LEAST_COUNT, LEAST_LENGTH, LEAST_TOKEN, Pooling};
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

/// One row: `tokens` is `[seq, width]`, `keep` has 1 for each token that counts, `out` is `[width]`.
fn pool(pooling: Pooling, tokens: &[f32], keep: &[f32], out: &mut [f32]) {
    let mut rows = tokens.chunks_exact(out.len().max(1)).zip(keep);
    match pooling {
        Pooling::First => out.copy_from_slice(&tokens[..out.len()]),
        Pooling::Mean => {
            let count = weighed(rows, |_| 1.0, out);
            divide(out, count);
        }
        Pooling::MeanSqrtLen => {
            let count = weighed(rows, |_| 1.0, out);
            divide(out, count.sqrt());
        }
        Pooling::WeightedMean => {
            let weights = weighed(rows, |at| (at + 1) as f32, out);
            divide(out, weights);
        }
        Pooling::Last => match rows.rfind(|(_, keep)| **keep != 0.0) {
            Some((token, _)) => out.copy_from_slice(token),
            None => out.fill(0.0),
        },
        Pooling::Max => {
            out.fill(f32::NEG_INFINITY);
            for (token, keep) in rows {
                let counts = *keep != 0.0;
                let numbers = token.iter().map(|&x| if counts { x } else { LEAST_TOKEN });
                out.iter_mut().zip(numbers).for_each(|(out, x)| *out = larger(*out, x));
            }
        }
    }
}

/// Puts the sum of the tokens that count into `out`, each times its weight, by its place from 0; gives the sum of the weights,
/// which is at least [`LEAST_COUNT`].
fn weighed<'a>(
    rows: impl Iterator<Item = (&'a [f32], &'a f32)>,
    weight: impl Fn(usize) -> f32,
    out: &mut [f32],
) -> f32 {
    out.fill(0.0);
    let mut weights = 0.0;
    for (at, (token, _)) in rows.enumerate().filter(|(_, (_, keep))| **keep != 0.0) {
        let weight = weight(at);
        weights += weight;
        out.iter_mut().zip(token).for_each(|(out, x)| *out += x * weight);
    }
    weights.max(LEAST_COUNT)
}

fn divide(out: &mut [f32], divisor: f32) {
    out.iter_mut().for_each(|x| *x /= divisor);
}

/// The larger of two numbers; NaN where one is.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
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
        let cases: [(Pooling, [f32; 2]); 6] = [
            (Pooling::First, [1.0, -4.0]),
            (Pooling::Last, [3.0, -2.0]),
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
    fn only_tokens_whose_mask_is_1_count_wherever_they_stand() {
        let tokens = [100.0, 1.0, 100.0, 5.0, 100.0];
        let cases = [
            (Pooling::First, 100.0),
            (Pooling::Last, 5.0),
            (Pooling::Max, 5.0),
            (Pooling::Mean, 3.0),
            (Pooling::MeanSqrtLen, 6.0 / 2f32.sqrt()),
            (Pooling::WeightedMean, (2.0 + 20.0) / 6.0),
        ];
        for (pooling, want) in cases {
            let mut found = [f32::NAN];
            pool(pooling, &tokens, &[0.0, 1.0, 0.0, 1.0, 0.0], &mut found);
            assert_eq!(found, [want], "{pooling:?}");
        }
    }

    #[test]
    fn a_row_without_a_token_gives_a_number() {
        let cases = [
            (Pooling::First, 1.0),
            (Pooling::Last, 0.0),
            (Pooling::Max, LEAST_TOKEN),
            (Pooling::Mean, 0.0),
            (Pooling::MeanSqrtLen, 0.0),
            (Pooling::WeightedMean, 0.0),
        ];
        for (pooling, want) in cases {
            let mut found = [f32::NAN];
            pool(pooling, &[1.0, 2.0], &[0.0, 0.0], &mut found);
            assert_eq!(found, [want], "{pooling:?}");
        }
    }

    #[test]
    fn nan_is_not_pooled_away() {
        for pooling in Pooling::ALL {
            let mut found = [0.0];
            pool(pooling, &[f32::NAN, f32::NAN], &[1.0, 1.0], &mut found);
            assert!(found[0].is_nan(), "{pooling:?}");
        }
        assert!(larger(f32::NAN, 1.0).is_nan() && larger(1.0, f32::NAN).is_nan());
    }
}
