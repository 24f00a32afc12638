//! Exact search over one option per family. In: the loss of every option and limits on costs that add up (bytes, time);
//! out: all combinations within the limits, one after another, least summed loss first, found by branch and bound. The
//! bound is exact for the first limit: Pareto sets of (cost, loss) over the families still open, in whole numbers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A cost that adds up over the families, and the most it may come to.
#[derive(Clone, Debug)]
pub struct Limit {
    /// `cost[family][option]`.
    pub cost: Vec<Vec<u64>>,
    pub most: u64,
}

/// Losses are summed in whole units of 2⁻⁸⁰, so that sums do not depend on their order and equals are equal.
const UNIT: f64 = (1u128 << 80) as f64;
/// No loss measured is anywhere near; what is at or above it cannot be chosen.
const MOST: f64 = (1u64 << 40) as f64;

/// None for an option that cannot be chosen.
fn units(loss: f64) -> Option<u128> {
    // Negative losses are noise around none; NaN is no number to rank by.
    (loss < MOST).then(|| (loss.max(0.0) * UNIT) as u128)
}

/// For the families from some place on: least loss by cost, costs rising and losses falling.
type Pareto = Vec<(u64, u128)>;

/// A choice for the first families, in the order the search takes them: bound on loss, bound on the first cost, whether it
/// is complete, the choice.
type Node = Reverse<(u128, u64, bool, Vec<usize>)>;

/// The combinations in order of (loss, first cost, choice).
pub struct Ranked {
    loss: Vec<Vec<Option<u128>>>,
    limits: Vec<Limit>,
    /// `rest[limit][family]`: of the families from that one on.
    rest: Vec<Vec<Pareto>>,
    open: BinaryHeap<Node>,
}

impl Ranked {
    /// `loss[family][option]`; there is at least one limit.
    pub fn new(loss: &[Vec<f64>], limits: Vec<Limit>) -> Ranked {
        let loss: Vec<Vec<Option<u128>>> = loss.iter().map(|l| l.iter().map(|&x| units(x)).collect()).collect();
        let rest = limits.iter().map(|limit| suffixes(&loss, limit)).collect();
        let mut ranked = Ranked {
            loss,
            limits,
            rest,
            open: BinaryHeap::new(),
        };
        ranked.push(vec![]);
        ranked
    }

    fn cost(&self, limit: usize, choice: &[usize]) -> u64 {
        let cost = &self.limits[limit].cost;
        choice.iter().enumerate().map(|(family, &o)| cost[family][o]).sum()
    }

    /// Opens a node unless no completion of it keeps within the limits.
    fn push(&mut self, choice: Vec<usize>) {
        let each = choice.iter().enumerate().map(|(family, &o)| self.loss[family][o]);
        let Some(loss) = each.sum::<Option<u128>>() else { return };
        let mut bound = (0u128, 0u64);
        for (i, limit) in self.limits.iter().enumerate() {
            let spent = self.cost(i, &choice);
            let Some(left) = limit.most.checked_sub(spent) else {
                return;
            };
            let rest = &self.rest[i][choice.len()];
            let Some(&(cost, least)) = rest[..rest.partition_point(|p| p.0 <= left)].last() else {
                return;
            };
            if i == 0 {
                bound = (loss + least, spent + cost);
            } else if loss + least > bound.0 {
                // Another limit costs more loss; of the first cost only its least is then known.
                let least_cost = self.rest[0][choice.len()].first().map_or(0, |p| p.0);
                bound = (loss + least, self.cost(0, &choice) + least_cost);
            }
        }
        let complete = choice.len() == self.loss.len();
        self.open.push(Reverse((bound.0, bound.1, complete, choice)));
    }
}

impl Iterator for Ranked {
    type Item = (Vec<usize>, u64);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Reverse((_, cost, complete, choice)) = self.open.pop()?;
            if complete {
                return Some((choice, cost));
            }
            for option in 0..self.loss[choice.len()].len() {
                let mut next = choice.clone();
                next.push(option);
                self.push(next);
            }
        }
    }
}

/// The Pareto sets of the families from each one on; the last is that of none.
fn suffixes(loss: &[Vec<Option<u128>>], limit: &Limit) -> Vec<Pareto> {
    let mut sets = vec![vec![(0, 0)]];
    for (losses, costs) in loss.iter().zip(&limit.cost).rev() {
        let rest: &[(u64, u128)] = sets.last().map_or(&[], Vec::as_slice);
        let mut all: Pareto = Vec::with_capacity(rest.len() * costs.len());
        for (&loss, &cost) in losses.iter().zip(costs) {
            let Some(loss) = loss else { continue };
            let within = rest.iter().map(|&(c, l)| (c.saturating_add(cost), l + loss));
            all.extend(within.filter(|&(c, _)| c <= limit.most));
        }
        all.sort_unstable();
        let mut set: Pareto = Vec::new();
        for point in all {
            if set.last().is_none_or(|last| point.1 < last.1) {
                set.push(point);
            }
        }
        sets.push(set);
    }
    sets.reverse();
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::random::Random;

    fn below(random: &mut Random, n: u64) -> u64 {
        random.next() % n
    }

    /// Every combination within the limits, by exhausting them all.
    fn exhausted(loss: &[Vec<f64>], limits: &[Limit]) -> Vec<(Vec<usize>, u64)> {
        let mut all: Vec<Vec<usize>> = vec![vec![]];
        for losses in loss {
            all = all
                .iter()
                .flat_map(|c| (0..losses.len()).map(move |o| [&c[..], &[o]].concat()))
                .collect();
        }
        let sum = |costs: &[Vec<u64>], c: &[usize]| -> u64 { c.iter().enumerate().map(|(f, &o)| costs[f][o]).sum() };
        let mut found: Vec<(u128, u64, Vec<usize>)> = all
            .into_iter()
            .filter(|c| limits.iter().all(|l| sum(&l.cost, c) <= l.most))
            .filter_map(|c| {
                let loss: Option<u128> = c.iter().enumerate().map(|(f, &o)| units(loss[f][o])).sum();
                Some((loss?, sum(&limits[0].cost, &c), c))
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, cost, choice)| (choice, cost)).collect()
    }

    #[test]
    fn the_order_is_that_of_exhausting_all_combinations() {
        let mut random = Random(0x5eed);
        let (mut kept, mut all) = (0, 0);
        for case in 0..400 {
            let families = 1 + below(&mut random, 5) as usize;
            let options: Vec<usize> = (0..families).map(|_| 1 + below(&mut random, 5) as usize).collect();
            // Few different numbers make ties; some options cannot be chosen.
            let few = case % 2 == 0;
            let number = |random: &mut Random| match below(random, 20) {
                0 => f64::INFINITY,
                1 => f64::NAN,
                2 => -1e-9,
                _ if few => below(random, 3) as f64 * 0.1,
                _ => (below(random, 1 << 40) as f64 / (1u64 << 40) as f64).powi(8),
            };
            let loss: Vec<Vec<f64>> = options
                .iter()
                .map(|&n| (0..n).map(|_| number(&mut random)).collect())
                .collect();
            let limits: Vec<Limit> = (0..1 + case % 3)
                .map(|_| {
                    let size = if few { 4 } else { 1000 };
                    let costs = |n: usize, random: &mut Random| (0..n).map(|_| below(random, size)).collect();
                    let cost: Vec<Vec<u64>> = options.iter().map(|&n| costs(n, &mut random)).collect();
                    let most = below(&mut random, size * families as u64 + 1);
                    Limit { cost, most }
                })
                .collect();
            let want = exhausted(&loss, &limits);
            let found: Vec<_> = Ranked::new(&loss, limits).collect();
            assert_eq!(found, want, "case {case}");
            kept += want.len();
            all += options.iter().product::<usize>();
        }
        assert!(kept > 1000 && all > 2 * kept, "the limits matter: {kept} of {all}");
    }

    #[test]
    fn seven_formats_for_ten_families_are_answered_at_once() {
        let mut random = Random(7);
        let sizes = [4u64, 2, 1, 1, 3, 2, 1];
        let cost: Vec<Vec<u64>> = (0..10)
            .map(|_| {
                let weights = 1 << (10 + below(&mut random, 12));
                sizes.iter().map(|s| s * weights + below(&mut random, 4096)).collect()
            })
            .collect();
        let loss: Vec<Vec<f64>> = (0..10)
            .map(|_| {
                (0..7)
                    .map(|o| o as f64 * below(&mut random, 1 << 30) as f64 * 1e-12)
                    .collect()
            })
            .collect();
        let most = cost.iter().map(|c| c[1]).sum();
        let mut before = 0;
        let limit = Limit { cost, most };
        let start = std::time::Instant::now();
        let total = |choice: &[usize]| -> u128 { (0..10).filter_map(|f| units(loss[f][choice[f]])).sum() };
        for (choice, bytes) in Ranked::new(&loss, vec![limit]).take(500) {
            assert!(bytes <= most && total(&choice) >= before);
            before = total(&choice);
        }
        assert!(before > 0);
        // Of 282 million combinations; generous, for a busy machine.
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
