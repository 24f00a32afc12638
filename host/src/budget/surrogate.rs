//! Learns from choices that were run how far the sum of the families' losses is off for choices like them. In: predictions
//! and measurements; out: a factor for any other choice. Kernel ridge regression of the log ratio; the kernel, the squared
//! share of families in the same format, spans effects of single families and of pairs.

use crate::budget::problem::Choice;

/// What a choice was predicted and measured to lose.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    pub choice: &'a Choice,
    pub predicted: f64,
    pub measured: f64,
}

/// Samples the fit is made on at most, the latest ones: its cost grows with their cube.
const MOST: usize = 256;
/// Ridge: how much of a ratio is taken to be noise.
const RIDGE: f64 = 0.01;

pub struct Refit {
    choices: Vec<Choice>,
    weights: Vec<f64>,
    mean: f64,
}

impl Refit {
    pub fn of(samples: &[Sample]) -> Refit {
        let usable = |s: &&Sample| s.predicted > 0.0 && s.measured > 0.0 && (s.measured / s.predicted).is_finite();
        let samples: Vec<&Sample> = samples.iter().filter(usable).collect();
        let samples = &samples[samples.len().saturating_sub(MOST)..];
        let logs: Vec<f64> = samples.iter().map(|s| (s.measured / s.predicted).ln()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len().max(1) as f64;
        let choices: Vec<Choice> = samples.iter().map(|s| s.choice.clone()).collect();
        let mut matrix: Vec<Vec<f64>> = choices
            .iter()
            .map(|a| choices.iter().map(|b| kernel(a, b)).collect())
            .collect();
        for (i, row) in matrix.iter_mut().enumerate() {
            row[i] += RIDGE;
        }
        let weights = solve(matrix, logs.iter().map(|y| y - mean).collect());
        Refit { choices, weights, mean }
    }

    /// What the predicted loss of a choice is to be multiplied with.
    pub fn factor(&self, choice: &Choice) -> f64 {
        let each = self.choices.iter().zip(&self.weights);
        (self.mean + each.map(|(c, w)| w * kernel(c, choice)).sum::<f64>()).exp()
    }
}

fn kernel(a: &Choice, b: &Choice) -> f64 {
    let same = a.iter().zip(b).filter(|(x, y)| x == y).count();
    (same as f64 / a.len().max(1) as f64).powi(2)
}

/// Solves `matrix · x = y` for a symmetric positive definite matrix, by Cholesky's factors.
fn solve(mut matrix: Vec<Vec<f64>>, mut y: Vec<f64>) -> Vec<f64> {
    let n = y.len();
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| matrix[i][k] * matrix[j][k]).sum();
            let rest = matrix[i][j] - sum;
            matrix[i][j] = if i == j {
                rest.max(1e-12).sqrt()
            } else {
                rest / matrix[j][j]
            };
        }
    }
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| matrix[i][k] * y[k]).sum();
        y[i] = (y[i] - sum) / matrix[i][i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| matrix[k][i] * y[k]).sum();
        y[i] = (y[i] - sum) / matrix[i][i];
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_solved() {
        let x = solve(
            vec![vec![4.0, 2.0, 0.0], vec![2.0, 5.0, 1.0], vec![0.0, 1.0, 3.0]],
            vec![8.0, 15.0, 11.0],
        );
        for (found, want) in x.iter().zip([1.0, 2.0, 3.0]) {
            assert!((found - want).abs() < 1e-12, "{x:?}");
        }
    }

    /// Two families whose errors add up to more than their sum, and nothing else that interacts.
    #[test]
    fn a_pair_that_hurts_together_is_learnt_from_a_few_runs() {
        let all: Vec<Choice> = (0..64usize).map(|i| (0..6).map(|bit| i >> bit & 1).collect()).collect();
        let truth = |c: &Choice| if c[0] == 1 && c[1] == 1 { 3.0 } else { 1.0 };
        // Every third choice was run.
        let samples: Vec<Sample> = all
            .iter()
            .step_by(3)
            .map(|choice| Sample {
                choice,
                predicted: 2.0,
                measured: 2.0 * truth(choice),
            })
            .collect();
        let refit = Refit::of(&samples);
        let (mut learnt, mut ignored) = (0.0, 0.0);
        for choice in all.iter().enumerate().filter(|(i, _)| i % 3 != 0).map(|(_, c)| c) {
            learnt += (refit.factor(choice).ln() - f64::ln(truth(choice))).abs();
            ignored += f64::ln(truth(choice)).abs();
        }
        assert!(learnt < 0.7 * ignored, "{learnt} against {ignored}");
        let quiet = Refit::of(&[]);
        assert_eq!(quiet.factor(&all[0]), 1.0);
    }
}
