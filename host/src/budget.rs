//! The budget solver: which number format each family of weights gets so that the file fits the budget with the least
//! loss. In: the loss of each family in each format (measured with the engine) and exact byte counts; out: the choices in
//! order of predicted loss, found by exhausting all combinations, and for the caller to verify by running them.

use std::collections::BTreeMap;
use thimble_shared::graph::{Config, Kind, WeightSpec};
use thimble_shared::number::Format;
use thimble_shared::stored::weight_bytes;

/// Weights that take the same format.
#[derive(Clone, Debug)]
pub struct Family {
    pub name: &'static str,
    pub weights: Vec<WeightSpec>,
}

/// The families of a model, in a fixed order. Weights of one role in all groups and inner layers go together; so do those
/// whose errors meet in one product (q with k, v with o).
pub fn families(config: &Config) -> Vec<Family> {
    let mut found: Vec<Family> = Vec::new();
    for spec in config.weights().into_iter().filter(|w| w.kind != Kind::Vector) {
        let role = spec.name.rsplit('.').next().unwrap_or_default();
        let name = match spec.name.as_str() {
            "word" => "word",
            "position" | "type" => "position+type",
            "map" => "map",
            "pooler" => "pooler+head",
            name if name.starts_with(|c: char| c.is_ascii_digit()) => match role {
                "q" | "k" => "q+k",
                "v" | "o" => "v+o",
                "up" => "up",
                _ => "down",
            },
            _ => "pooler+head",
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
    /// Payload and scale bytes in a format; alignment and node text come on top.
    pub fn bytes(&self, format: Format) -> usize {
        self.weights.iter().map(|w| weight_bytes(w, format)).sum()
    }
}

/// One format per family, as indices into [`Problem::formats`].
pub type Choice = Vec<usize>;

/// What the search needs to know.
#[derive(Clone, Debug)]
pub struct Problem {
    pub families: Vec<Family>,
    /// Formats on offer, the same for every family.
    pub formats: Vec<Format>,
    /// `loss[family][format]`: measured with that family alone in that format.
    pub loss: Vec<Vec<f64>>,
}

/// A choice with what is predicted of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub choice: Choice,
    /// Payload and scale bytes of all families.
    pub bytes: usize,
    /// Sum of the families' losses.
    pub loss: f64,
}

impl Problem {
    /// All combinations, least predicted loss first, fewer bytes first among equals.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut all = vec![Candidate {
            choice: vec![],
            bytes: 0,
            loss: 0.0,
        }];
        for (family, losses) in self.families.iter().zip(&self.loss) {
            let mut next = Vec::with_capacity(all.len() * self.formats.len());
            for partial in &all {
                for (i, (&format, loss)) in self.formats.iter().zip(losses).enumerate() {
                    let mut choice = partial.choice.clone();
                    choice.push(i);
                    next.push(Candidate {
                        choice,
                        bytes: partial.bytes + family.bytes(format),
                        loss: partial.loss + loss.max(0.0),
                    });
                }
            }
            all = next;
        }
        all.sort_by(|a, b| {
            a.loss
                .total_cmp(&b.loss)
                .then(a.bytes.cmp(&b.bytes))
                .then(a.choice.cmp(&b.choice))
        });
        all
    }

    /// The sum of the families' losses.
    pub fn predicted(&self, choice: &Choice) -> f64 {
        self.loss
            .iter()
            .zip(choice)
            .map(|(losses, &i)| losses[i].max(0.0))
            .sum::<f64>()
            + 0.0
    }

    /// The `count` best-predicted choices whose exact size (which `exact` computes) is within `budget`.
    pub fn best_within<E>(
        &self,
        budget: u64,
        count: usize,
        mut exact: impl FnMut(&Choice) -> Result<u64, E>,
    ) -> Result<Vec<(Candidate, u64)>, E> {
        let mut found = Vec::new();
        for candidate in self.candidates() {
            if found.len() == count {
                break;
            }
            if candidate.bytes as u64 <= budget && candidate.loss.is_finite() {
                let size = exact(&candidate.choice)?;
                if size <= budget {
                    found.push((candidate, size));
                }
            }
        }
        Ok(found)
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

    /// The choice that gives every weight the format `formats` has for it, if the families can express it.
    pub fn choice_of(&self, formats: &BTreeMap<String, Format>) -> Option<Choice> {
        let of = |family: &Family| {
            let format = formats.get(&family.weights.first()?.name)?;
            let same = family.weights.iter().all(|w| formats.get(&w.name) == Some(format));
            self.formats.iter().position(|f| same && f == format)
        };
        self.families.iter().map(of).collect()
    }

    /// The choice with the fewest bytes.
    pub fn floor(&self) -> Choice {
        self.families
            .iter()
            .map(|family| {
                (0..self.formats.len())
                    .min_by_key(|&i| family.bytes(self.formats[i]))
                    .unwrap_or(0)
            })
            .collect()
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
        self.families
            .iter()
            .zip(choice)
            .flat_map(|(family, &i)| family.weights.iter().map(move |w| (w.name.clone(), self.formats[i])))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_shared::graph::{Activation, Head};

    fn config() -> Config {
        Config {
            vocab_size: 100,
            embedding_size: 8,
            hidden_size: 16,
            num_hidden_layers: 2,
            num_hidden_groups: 1,
            inner_group_num: 1,
            num_attention_heads: 2,
            intermediate_size: 32,
            max_position_embeddings: 16,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            activation: Activation::Gelu,
            head: Head::None,
            tied_decoder: false,
            pooler: true,
            labels: vec![],
            multi_label: false,
        }
    }

    fn problem() -> Problem {
        let families = families(&config());
        let loss = (0..families.len())
            .map(|i| vec![0.0, 1e-4 * (i + 1) as f64, 0.01 * ((i * 5) % 7 + 1) as f64])
            .collect();
        Problem {
            families,
            formats: vec![Format::F32, Format::F16, Format::I8],
            loss,
        }
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
            problem
                .families
                .iter()
                .zip(choice)
                .map(|(f, &i)| f.bytes(problem.formats[i]) as u64)
                .sum::<u64>()
        };
        let (least, most) = (bytes(&problem.floor()), bytes(&vec![0; problem.families.len()]));
        let mut before = f64::INFINITY;
        for step in 0..=40 {
            let budget = least + (most - least) * step / 40;
            let best = problem.best_within(budget, 1, |c| Ok::<_, ()>(bytes(c))).unwrap();
            let (candidate, size) = best.first().expect("the floor fits");
            assert!(*size <= budget);
            assert!(
                candidate.loss <= before,
                "budget {budget}: {} after {before}",
                candidate.loss
            );
            before = candidate.loss;
        }
        assert!(
            problem
                .best_within(least - 1, 1, |c| Ok::<_, ()>(bytes(c)))
                .unwrap()
                .is_empty(),
            "nothing fits below the floor"
        );
        assert_eq!(before, 0.0, "the whole budget buys f32 throughout");
    }
}
