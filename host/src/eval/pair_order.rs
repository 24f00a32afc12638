//! Whether a candidate's embeddings put pairs of inputs in the reference's order of likeness. In come both models' embeddings
//! of each input; out comes Spearman's rank correlation of the cosines of all pairs, which sentence-transformers' evaluators
//! take as well. Two inputs make one pair.

use serde::Serialize;
use thimble_shared::decode::cosine;

/// Most inputs whose pairs are ranked: those of more make millions of pairs.
const MOST: usize = 512;

/// How the orders of pairs agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairOrder {
    /// Spearman's rank correlation: 1 where the order is the same, -1 where it is the other way round or a cosine is no number.
    pub spearman: f64,
    /// Pairs ranked.
    pub pairs: u64,
    /// Largest difference between the two models' cosines of a pair.
    pub max_cosine_difference: f64,
}

/// The embeddings of the first inputs, by the reference and by the candidate.
#[derive(Default)]
pub struct Embeddings {
    all: Vec<[Vec<f32>; 2]>,
}

impl Embeddings {
    /// Adds those of one input.
    pub fn add(&mut self, reference: &[f32], candidate: &[f32]) {
        if self.all.len() < MOST {
            self.all.push([reference.to_vec(), candidate.to_vec()]);
        }
    }

    /// Adds those of the inputs that come after.
    pub fn absorb(&mut self, other: Embeddings) {
        let room = MOST - self.all.len().min(MOST);
        self.all.extend(other.all.into_iter().take(room));
    }

    /// How the orders agree; none where there are less than two pairs.
    pub fn order(&self) -> Option<PairOrder> {
        let pairs = (1..self.all.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        let cosines = |model: usize| -> Vec<f64> {
            let cosine = |(i, j): (usize, usize)| cosine(&self.all[i][model], &self.all[j][model]);
            pairs.clone().map(cosine).collect()
        };
        let (reference, candidate) = (cosines(0), cosines(1));
        if reference.len() < 2 {
            return None;
        }
        let difference = |(a, b): (&f64, &f64)| (a - b).abs();
        let finite = candidate.iter().all(|cosine| cosine.is_finite());
        Some(PairOrder {
            spearman: if finite { spearman(&reference, &candidate) } else { -1.0 },
            pairs: reference.len() as u64,
            max_cosine_difference: if finite {
                reference.iter().zip(&candidate).map(difference).fold(0.0, f64::max)
            } else {
                2.0
            },
        })
    }
}

/// The correlation of the ranks of two lists of one length. A list whose numbers are all the same has no order: it agrees with
/// another such list alone.
fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let sum = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(x, y)| (x - mean) * (y - mean)).sum() };
    let (xx, yy) = (sum(&a, &a), sum(&b, &b));
    match (xx > 0.0, yy > 0.0) {
        (true, true) => (sum(&a, &b) / (xx * yy).sqrt()).clamp(-1.0, 1.0),
        (false, false) => 1.0,
        _ => 0.0,
    }
}

/// The rank of each number, from 0; equal ones share the mean of theirs.
fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&i, &j| numbers[i].total_cmp(&numbers[j]));
    let mut ranks = vec![0.0; numbers.len()];
    let mut first = 0;
    for equal in order.chunk_by(|&i, &j| numbers[i] == numbers[j]) {
        let mean = first as f64 + (equal.len() as f64 - 1.0) / 2.0;
        equal.iter().for_each(|&i| ranks[i] = mean);
        first += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_correlations_are_those_of_scipy() {
        // scipy.stats.spearmanr of the two lists.
        let cases: [(&[f64], &[f64], f64); 6] = [
            (
                &[1.0, 2.0, 3.0, 4.0, 5.0],
                &[5.0, 6.0, 7.0, 8.0, 7.0],
                0.820_782_681_668_123,
            ),
            (&[0.1, 0.4, 0.2], &[0.1, 0.4, 0.2], 1.0),
            (&[0.1, 0.4, 0.2], &[0.4, 0.1, 0.2], -1.0),
            (&[3.0, 1.0, 2.0, 4.0], &[1.0, 2.0, 3.0, 4.0], 0.4),
            (&[1.0, 1.0], &[2.0, 2.0], 1.0),
            (&[1.0, 1.0], &[2.0, 3.0], 0.0),
        ];
        for (a, b, want) in cases {
            let found = spearman(a, b);
            assert!((found - want).abs() < 1e-12, "{a:?} {b:?}: {found}");
        }
    }

    #[test]
    fn pairs_are_those_of_all_inputs_in_any_number_of_parts() {
        let vectors: [[f32; 2]; 4] = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]];
        let (mut whole, mut first, mut second) = (Embeddings::default(), Embeddings::default(), Embeddings::default());
        for (i, vector) in vectors.iter().enumerate() {
            let longer = vector.map(|x| 3.0 * x);
            whole.add(vector, &longer);
            if i < 2 { &mut first } else { &mut second }.add(vector, &longer);
        }
        first.absorb(second);
        let order = whole.order().unwrap();
        assert_eq!(first.order(), Some(order));
        assert_eq!(order.pairs, 6);
        // A length changes no cosine.
        assert!((order.spearman - 1.0).abs() < 1e-12 && order.max_cosine_difference < 1e-6);
        let mut two = Embeddings::default();
        two.add(&[1.0], &[1.0]);
        two.add(&[2.0], &[1.0]);
        assert_eq!(two.order(), None);
        two.add(&[1.0], &[f32::NAN]);
        assert_eq!(two.order().unwrap().spearman, -1.0);
    }
}
