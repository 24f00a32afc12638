//! The budget problem: families of weights, the formats on offer to each, and what each costs in bytes and in loss. In: a
//! model's shape and the losses measured with the engine; out: choices, one format per family, in order of predicted loss
//! (`search` ranks them exactly), for the caller to verify by running them.

use crate::budget::branch_and_bound::{Limit, Ranked};
use std::collections::BTreeMap;
use thimble_shared::artifact::tensors::{fits, weight_bytes};
use thimble_shared::dtype::Format;
use thimble_shared::model::{Config, Kind, Role, WeightSpec};

/// Weights that take the same format.
#[derive(Clone, Debug)]
pub struct Family {
    /// As reports and flags call it.
    pub name: &'static str,
    /// One weight of each role in the family for every group and inner layer.
    pub weights: Vec<WeightSpec>,
}

/// The families of a model, in a fixed order. Weights of one role in all groups and inner layers go together; so do those
/// whose errors meet in one product (q with k, v with o).
pub fn families(config: &Config) -> Vec<Family> {
    let mut found: Vec<Family> = Vec::new();
    for spec in config.weights().into_iter().filter(|w| w.kind != Kind::Vector) {
        let name = match spec.role {
            Role::Word => "word",
            Role::Position | Role::TokenType => "position+type",
            Role::Map => "map",
            Role::Query | Role::Key => "q+k",
            Role::Value | Role::AttentionOutput => "v+o",
            Role::Up => "up",
            Role::Down => "down",
            Role::Pooler | Role::Head(_) => "pooler+head",
            // Vectors, every one.
            Role::EmbeddingNorm | Role::AttentionNorm | Role::FeedForwardNorm | Role::HiddenShift => continue,
        };
        match found.iter_mut().find(|f| f.name == name) {
            Some(family) => family.weights.push(spec),
            None => found.push(Family {
                name,
                weights: vec![spec],
            }),
        }
    }
    found
}

impl Family {
    /// The formats of `formats` that are worth trying. Tables are only looked up: formats with the same numbers (i8, w8 and i8a)
    /// are the same to them, and the one whose numbers they are, or else the first that is offered, stands for all.
    pub fn options(&self, formats: &[Format]) -> Vec<Format> {
        let looked_up = self.weights.iter().all(|w| w.kind == Kind::Table);
        let stands_for = |f: &Format| {
            let same = Format::ALL.into_iter().filter(|other| other.shares_numbers(*f));
            let mut same = std::iter::once(f.row().numbers).chain(same);
            same.find(|other| formats.contains(other))
        };
        let twin = |f: &Format| looked_up && stands_for(f) != Some(*f);
        let fits = |f: &Format| self.weights.iter().all(|w| fits(w, *f));
        formats.iter().copied().filter(|f| !twin(f) && fits(f)).collect()
    }

    /// Payload and scale bytes in a format; alignment and node text come on top.
    pub fn bytes(&self, format: Format) -> usize {
        self.weights.iter().map(|w| weight_bytes(w, format)).sum()
    }
}

/// One format per family, as indices into [`Problem::options`].
pub type Choice = Vec<usize>;

/// What the search needs to know.
#[derive(Clone, Debug)]
pub struct Problem {
    /// In a fixed order; choices and losses go by it.
    pub families: Vec<Family>,
    /// Formats on offer to each family.
    pub options: Vec<Vec<Format>>,
    /// `loss[family][option]`: measured with that family alone in that format.
    pub loss: Vec<Vec<f64>>,
}

/// A choice with what is predicted of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// One format per family.
    pub choice: Choice,
    /// The first of the costs that are limited.
    pub cost: u64,
    /// Sum of the families' losses.
    pub loss: f64,
}

impl Problem {
    /// The families of a model with the formats that suit them; nothing is measured yet.
    pub fn unmeasured(config: &Config, formats: &[Format]) -> Problem {
        let families = families(config);
        let options: Vec<Vec<Format>> = families.iter().map(|f| f.options(formats)).collect();
        Problem {
            loss: options.iter().map(|o| vec![0.0; o.len()]).collect(),
            families,
            options,
        }
    }

    /// Leaves linear weights the formats whose arithmetic is in integers, where any of them suits.
    pub fn keep_to_integers(&mut self) {
        for (i, family) in self.families.iter().enumerate() {
            let linear = family.weights.iter().any(|w| w.kind == Kind::Linear);
            if linear && self.options[i].iter().any(|f| f.quantizes_input()) {
                self.options[i].retain(|f| f.quantizes_input());
                self.loss[i] = vec![0.0; self.options[i].len()];
            }
        }
    }

    /// The first family none of the formats suits.
    pub fn homeless(&self) -> Option<&Family> {
        self.families
            .iter()
            .zip(&self.options)
            .find(|(_, o)| o.is_empty())
            .map(|(f, _)| f)
    }

    /// The format that a choice gives the family of that index.
    ///
    /// # Panics
    /// Where the index or the choice is another problem's.
    pub fn format(&self, family: usize, choice: &Choice) -> Format {
        self.options[family][choice[family]]
    }

    /// All combinations within the limits: least predicted loss first, the least of the first cost first among equals.
    pub fn ranked(&self, limits: Vec<Limit>) -> impl Iterator<Item = Candidate> + '_ {
        Ranked::new(&self.loss, limits).map(|(choice, cost)| Candidate {
            loss: self.predicted(&choice),
            choice,
            cost,
        })
    }

    /// The sum of the families' losses.
    pub fn predicted(&self, choice: &Choice) -> f64 {
        let each = self.loss.iter().zip(choice).map(|(losses, &i)| losses[i].max(0.0));
        each.sum::<f64>() + 0.0
    }

    /// Changes of one family that predict less loss, the most helpful first.
    pub fn upgrades(&self, choice: &Choice) -> Vec<(usize, usize)> {
        let mut found: Vec<(f64, usize, usize)> = Vec::new();
        for (family, losses) in self.loss.iter().enumerate() {
            let now = losses[choice[family]];
            let better = (0..losses.len()).filter(|&format| losses[format] < now);
            found.extend(better.map(|format| (losses[format] - now, family, format)));
        }
        found.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        found.into_iter().map(|(_, family, format)| (family, format)).collect()
    }

    /// Every choice that differs in one family, or in two of which one loses bytes and the other gains them.
    pub fn neighbors(&self, choice: &Choice) -> Vec<Choice> {
        let size = |family: usize, option: usize| self.families[family].bytes(self.options[family][option]);
        let grows = |family: usize, option: usize| size(family, option) > size(family, choice[family]);
        let changes: Vec<(usize, usize)> = (0..choice.len())
            .flat_map(|f| (0..self.options[f].len()).map(move |o| (f, o)))
            .filter(|&(f, o)| o != choice[f])
            .collect();
        let with = |base: &Choice, (family, option): (usize, usize)| {
            let mut next = base.clone();
            next[family] = option;
            next
        };
        let mut found: Vec<Choice> = changes.iter().map(|&c| with(choice, c)).collect();
        for (i, &a) in changes.iter().enumerate() {
            let swaps = changes[i + 1..]
                .iter()
                .filter(|b| b.0 != a.0 && grows(a.0, a.1) != grows(b.0, b.1));
            found.extend(swaps.map(|&b| with(&with(choice, a), b)));
        }
        found
    }

    /// The choice that gives every weight the format `formats` has for it, if the families can express it.
    pub fn choice_of(&self, formats: &BTreeMap<String, Format>) -> Option<Choice> {
        let of = |(family, options): (&Family, &Vec<Format>)| {
            let format = formats.get(&family.weights.first()?.name)?;
            let same = family.weights.iter().all(|w| formats.get(&w.name) == Some(format));
            options.iter().position(|f| same && f == format)
        };
        self.families.iter().zip(&self.options).map(of).collect()
    }

    /// The choice that gives every family `format`, or its smallest where that is not on offer.
    pub fn mostly(&self, format: Format) -> Choice {
        let floor = self.floor();
        let of = |(options, least): (&Vec<Format>, &usize)| {
            let place = |is: &dyn Fn(&Format) -> bool| options.iter().position(is);
            // Tables have another format with the same numbers in place of it.
            place(&|f| *f == format)
                .or_else(|| place(&|f| f.shares_numbers(format)))
                .unwrap_or(*least)
        };
        self.options.iter().zip(&floor).map(of).collect()
    }

    /// The choice with the fewest bytes.
    pub fn floor(&self) -> Choice {
        let least = |(family, options): (&Family, &Vec<Format>)| {
            (0..options.len())
                .min_by_key(|&i| family.bytes(options[i]))
                .unwrap_or(0)
        };
        self.families.iter().zip(&self.options).map(least).collect()
    }

    /// The cheapest change of one family that predicts less loss and does not fit `budget`: what a larger one would buy.
    pub fn next_step<E>(
        &self,
        choice: &Choice,
        budget: u64,
        mut exact: impl FnMut(&Choice) -> Result<u64, E>,
    ) -> Result<Option<(usize, usize, u64)>, E> {
        let mut next: Option<(usize, usize, u64)> = None;
        for (family, format) in self.upgrades(choice) {
            let mut larger = choice.clone();
            larger[family] = format;
            let size = exact(&larger)?;
            if size > budget && next.is_none_or(|(_, _, least)| size < least) {
                next = Some((family, format, size));
            }
        }
        Ok(next)
    }

    /// The format of each weight under a choice.
    pub fn formats_of(&self, choice: &Choice) -> BTreeMap<String, Format> {
        let each = self.families.iter().enumerate();
        each.flat_map(|(i, family)| {
            let format = self.format(i, choice);
            family.weights.iter().map(move |w| (w.name.clone(), format))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::tiny;
    use thimble_shared::model::Head;

    fn config() -> Config {
        Config {
            num_hidden_layers: 2,
            pooler: true,
            ..tiny(Head::None)
        }
    }

    fn problem() -> Problem {
        let mut problem = Problem::unmeasured(&config(), &[Format::F32, Format::F16, Format::I8]);
        for (i, loss) in problem.loss.iter_mut().enumerate() {
            *loss = vec![0.0, 1e-4 * (i + 1) as f64, 0.01 * ((i * 5) % 7 + 1) as f64];
        }
        problem
    }

    #[test]
    fn families_hold_every_table_and_linear_weight_once() {
        let families = families(&config());
        let mut names: Vec<String> = families
            .iter()
            .flat_map(|f| f.weights.iter().map(|w| w.name.clone()))
            .collect();
        names.sort();
        let mut want: Vec<String> = config()
            .weights()
            .into_iter()
            .filter(|w| w.kind != Kind::Vector)
            .map(|w| w.name)
            .collect();
        want.sort();
        assert_eq!(names, want);
    }

    #[test]
    fn a_smaller_budget_never_predicts_less_loss() {
        let problem = problem();
        let bytes = |choice: &Choice| {
            let each = problem.families.iter().enumerate();
            each.map(|(i, f)| f.bytes(problem.format(i, choice)) as u64)
                .sum::<u64>()
        };
        let within = |most: u64| {
            let each = problem.families.iter().zip(&problem.options);
            let cost = each.map(|(family, options)| options.iter().map(|&f| family.bytes(f) as u64).collect());
            vec![Limit {
                cost: cost.collect(),
                most,
            }]
        };
        let (least, most) = (bytes(&problem.floor()), bytes(&vec![0; problem.families.len()]));
        let mut before = f64::INFINITY;
        for step in 0..=40 {
            let budget = least + (most - least) * step / 40;
            let best = problem.ranked(within(budget)).next().expect("the floor fits");
            assert!(best.cost <= budget && best.cost == bytes(&best.choice));
            assert!(best.loss <= before, "budget {budget}: {} after {before}", best.loss);
            before = best.loss;
        }
        assert!(
            problem.ranked(within(least - 1)).next().is_none(),
            "nothing fits below the floor"
        );
        assert_eq!(before, 0.0, "the whole budget buys f32 throughout");
    }

    #[test]
    fn linear_maps_keep_to_integers_and_tables_keep_every_format() {
        for (tied, head) in [(false, Head::None), (true, Head::MaskedLm)] {
            let config = Config {
                tied_decoder: tied,
                head,
                pooler: !tied,
                ..config()
            };
            let mut problem = Problem::unmeasured(&config, &Format::ALL);
            problem.keep_to_integers();
            for (i, family) in problem.families.iter().enumerate() {
                let linear = family.weights.iter().any(|w| w.kind == Kind::Linear);
                let integers = problem.options[i].iter().all(|f| f.quantizes_input());
                assert_eq!(linear, integers, "{}: {:?}", family.name, problem.options[i]);
                assert_eq!(problem.options[i].len(), problem.loss[i].len());
            }
        }
    }

    #[test]
    fn neighbors_change_one_family_or_swap_bytes_between_two() {
        let problem = problem();
        let choice = vec![1; problem.families.len()];
        let neighbors = problem.neighbors(&choice);
        let changed = |n: &Choice| n.iter().zip(&choice).filter(|(a, b)| a != b).count();
        assert_eq!(neighbors.iter().filter(|n| changed(n) == 1).count(), 2 * choice.len());
        // Of two families one goes to f32 and the other to i8, either way.
        let pairs = choice.len() * (choice.len() - 1);
        assert_eq!(neighbors.iter().filter(|n| changed(n) == 2).count(), pairs);
        assert_eq!(neighbors.len(), 2 * choice.len() + pairs);
    }
}
