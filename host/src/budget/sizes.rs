//! How large files are: exactly, of any choice of formats, and the smallest. Node text is most of a small model's file and does
//! not add up over families, so sizes are those of the file laid out, and remembered.

use crate::budget::branch_and_bound::Limit;
use crate::budget::error::BudgetError;
use crate::budget::problem::{Choice, Family, Problem};
use crate::budget::question::Question;
use crate::quantize::shift::{Reach, shifted_config};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use thimble_shared::artifact;
use thimble_shared::dtype::Format;
use thimble_shared::model::{AttentionArithmetic, Config, ModelSpec};

/// Bytes by which what options add may miss: alignment and the length of numbers in the file's own text.
const SLACK: i64 = 256;

/// Exact file sizes, remembered.
pub struct Sizes<'a> {
    question: &'a Question<'a>,
    /// The network whose files are sized, and how far it is shifted.
    network: RefCell<(Config, Reach)>,
    attention: Cell<AttentionArithmetic>,
    known: RefCell<HashMap<Choice, u64>>,
}

impl<'a> Sizes<'a> {
    pub fn new(question: &'a Question<'a>) -> Sizes<'a> {
        Sizes {
            question,
            network: RefCell::new((question.source.config.clone(), Reach::Nowhere)),
            attention: Cell::new(question.attention),
            known: RefCell::default(),
        }
    }

    pub fn question(&self) -> &'a Question<'a> {
        self.question
    }

    /// Families and the formats on offer; an error where no format suits a family.
    pub fn unmeasured(&self) -> Result<Problem, BudgetError> {
        let problem = self.question.unmeasured(&self.network.borrow().0);
        match problem.homeless() {
            None => Ok(problem),
            Some(family) => {
                let offered: Vec<String> = self.question.formats.iter().map(Format::to_string).collect();
                Err(BudgetError::NoFormat {
                    offered: offered.join(","),
                    family: family.name,
                })
            }
        }
    }

    /// From here on sizes are those of a network that was prepared.
    pub fn become_of(&self, config: Config, reach: Reach) {
        self.known.borrow_mut().clear();
        self.network.replace((config, reach));
    }

    /// From here on sizes are those of files with attention in this arithmetic.
    pub fn attend_in(&self, arithmetic: AttentionArithmetic) {
        if self.attention.replace(arithmetic) != arithmetic {
            self.known.borrow_mut().clear();
        }
    }

    /// The arithmetic of attention in the files that are sized.
    pub fn attention(&self) -> AttentionArithmetic {
        self.attention.get()
    }

    /// The smallest file of another network, so shifted.
    pub fn floor_of(&self, config: &Config, reach: Reach) -> Result<u64, BudgetError> {
        let (own, own_reach) = self.network.borrow().clone();
        self.become_of(config.clone(), reach);
        let floor = self.floor().map(|floor| floor.bytes);
        self.become_of(own, own_reach);
        floor
    }

    /// A limit of the search that lets every choice pass whose file has at most `most` bytes, and few others. An option costs
    /// what it adds to the file at least, whatever format the other families share: nodes that families have in common are
    /// counted where they are cheapest, so that the sum is no more than the file.
    pub fn limit(&self, problem: &Problem, most: u64) -> Result<Limit, BudgetError> {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let first = vec![0; problem.families.len()];
        let mut left = signed(most).saturating_sub(signed(self.exact(problem, &first)?));
        let mut added: Vec<Vec<i64>> = problem.options.iter().map(|o| vec![i64::MAX; o.len()]).collect();
        for &format in self.question.formats {
            let shared = problem.mostly(format);
            for (family, added) in added.iter_mut().enumerate() {
                let mut choice = shared.clone();
                let mut with = |option: usize| -> Result<i64, BudgetError> {
                    choice[family] = option;
                    Ok(signed(self.exact(problem, &choice)?))
                };
                let before = with(0)?;
                for (option, least) in added.iter_mut().enumerate() {
                    *least = (with(option)? - before).min(*least);
                }
            }
        }
        // Costs are counted from each family's cheapest option on.
        let mut cost = Vec::with_capacity(added.len());
        for added in added {
            let least = added.iter().copied().min().unwrap_or(0);
            left = left.saturating_sub(least);
            cost.push(added.into_iter().map(|bytes| (bytes - least) as u64).collect());
        }
        Ok(Limit {
            cost,
            most: u64::try_from(left.saturating_add(SLACK)).unwrap_or(0),
        })
    }

    pub fn exact(&self, problem: &Problem, choice: &Choice) -> Result<u64, BudgetError> {
        if let Some(&bytes) = self.known.borrow().get(choice) {
            return Ok(bytes);
        }
        let bytes = self.of(&problem.formats_of(choice))?;
        self.known.borrow_mut().insert(choice.clone(), bytes);
        Ok(bytes)
    }

    /// The size of the source in these formats.
    pub fn of(&self, formats: &BTreeMap<String, Format>) -> Result<u64, BudgetError> {
        let (config, reach) = &*self.network.borrow();
        let graph = ModelSpec {
            config: Config {
                attention: self.attention.get(),
                ..shifted_config(config, formats, *reach)
            },
            formats: formats.clone(),
        };
        Ok(artifact::size(&graph, self.question.onnx, self.question.provenance)? as u64)
    }

    /// The choice whose whole file is smallest. The fewest payload bytes need not be it: in a small model the nodes that unpack
    /// a format weigh more than what the format saves. So families change one by one, from there and from each format
    /// throughout, for as long as the file shrinks.
    pub fn smallest(&self, problem: &Problem) -> Result<Choice, BudgetError> {
        let least = problem.floor();
        let mut starts = vec![least.clone()];
        for &format in self.question.formats {
            let of =
                |(options, least): (&Vec<Format>, &usize)| options.iter().position(|f| *f == format).unwrap_or(*least);
            starts.push(problem.options.iter().zip(&least).map(of).collect());
        }
        let mut best = (self.exact(problem, &least)?, least);
        for mut choice in starts {
            let mut bytes = self.exact(problem, &choice)?;
            loop {
                let before = bytes;
                for family in 0..choice.len() {
                    for option in 0..problem.options[family].len() {
                        let kept = std::mem::replace(&mut choice[family], option);
                        let other = self.exact(problem, &choice)?;
                        if other < bytes {
                            bytes = other;
                        } else {
                            choice[family] = kept;
                        }
                    }
                }
                if bytes == before {
                    break;
                }
            }
            if bytes < best.0 {
                best = (bytes, choice);
            }
        }
        Ok(best.1)
    }

    /// The smallest file, and the format of each family in it.
    pub fn floor(&self) -> Result<Floor, BudgetError> {
        let problem = self.unmeasured()?;
        let choice = self.smallest(&problem)?;
        let formats = (0..choice.len()).map(|i| problem.format(i, &choice));
        Ok(Floor {
            bytes: self.exact(&problem, &choice)?,
            formats: problem.families.iter().cloned().zip(formats).collect(),
        })
    }
}

/// What no budget goes below.
pub struct Floor {
    pub bytes: u64,
    pub formats: Vec<(Family, Format)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::metrics::Objective;
    use crate::test_support::tiny;
    use thimble_shared::artifact::Provenance;
    use thimble_shared::artifact::emit::LowerOptions;
    use thimble_shared::model::{Head, Model};

    /// The search leaves out what cannot fit by what options add; it must never leave out what does fit.
    #[test]
    fn what_options_add_is_never_more_than_the_file_has() {
        for (head, tied_decoder) in [
            (Head::None, false),
            (Head::MaskedLm, true),
            (Head::QuestionAnswering, false),
        ] {
            let config = Config {
                num_hidden_groups: 2,
                tied_decoder,
                ..tiny(head)
            };
            let weights = config.weights().into_iter();
            let source = Model {
                weights: weights
                    .map(|w| {
                        (
                            w.name.clone(),
                            thimble_shared::dtype::Values::f32(vec![0.0; w.elements()]),
                        )
                    })
                    .collect(),
                config,
            };
            let question = Question {
                original: &source,
                source: &source,
                vocabulary: None,
                tune: &[],
                report: &[],
                formats: &Format::ALL,
                integers_only: false,
                attention: AttentionArithmetic::F32,
                objective: Objective::Error,
                onnx: LowerOptions::default(),
                provenance: &Provenance::default(),
            };
            let sizes = Sizes::new(&question);
            let problem = sizes.unmeasured().unwrap();
            let limit = sizes.limit(&problem, u64::MAX / 4).unwrap();
            let everything = vec![limit.clone()];
            let (mut most_short, mut most_text) = (0, 0);
            for candidate in problem.ranked(everything).step_by(1009) {
                let choice = &candidate.choice;
                let exact = sizes.exact(&problem, choice).unwrap();
                // What would be left of a budget of just this file.
                let left = limit.most - (u64::MAX / 4 - exact);
                assert!(candidate.cost <= left, "{choice:?}: {} of {left}", candidate.cost);
                most_short = most_short.max(left - candidate.cost);
                let payload = problem
                    .families
                    .iter()
                    .enumerate()
                    .map(|(i, f)| f.bytes(problem.format(i, choice)) as u64);
                most_text = most_text.max(exact - payload.sum::<u64>());
            }
            assert!(
                most_short < most_text / 4,
                "the bound is worth something: {most_short} of {most_text}"
            );
        }
    }
}
