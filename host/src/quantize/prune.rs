//! What can be left out of a model before any number is rounded: a pooler no head uses, positions beyond the longest input,
//! vocabulary rows a corpus never produces. In: a model and what to leave out; out: a smaller model that computes the same
//! for the inputs that are left. Each lever is pulled only when asked for.

use crate::eval::runner::Vocabulary;
use thimble_shared::dtype::Format;
use thimble_shared::model::head::masked_lm;
use thimble_shared::model::weights::Weights;
use thimble_shared::model::{Config, Head, Model, Role, Slot};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeverError {
    #[error("--drop-pooler: the {head} head reads the pooler")]
    PoolerInUse { head: &'static str },
    #[error("--drop-pooler: the model has no pooler")]
    NoPooler,
    #[error("--max-seq {asked}: the model has {has} positions; name 2 to {has}")]
    MaxSeq { asked: usize, has: usize },
    #[error("{lever}: weight '{weight}' is in {format}, and rows are cut from f32 only; start from the checkpoint")]
    Encoded {
        lever: &'static str,
        weight: String,
        format: Format,
    },
    #[error("{lever}: weight '{weight}' is missing or has another shape than the config says")]
    Shape { lever: &'static str, weight: String },
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Levers {
    pub drop_pooler: bool,
    pub max_seq: Option<usize>,
    pub vocabulary: Option<Vocabulary>,
}

impl Levers {
    pub fn any(&self) -> bool {
        *self != Levers::default()
    }

    /// One by one, with what each is called.
    pub fn each(&self) -> Vec<(&'static str, Levers)> {
        let none = Levers::default();
        let mut found = Vec::new();
        if self.drop_pooler {
            found.push((
                "drop-pooler",
                Levers {
                    drop_pooler: true,
                    ..none.clone()
                },
            ));
        }
        if self.max_seq.is_some() {
            found.push((
                "max-seq",
                Levers {
                    max_seq: self.max_seq,
                    ..none.clone()
                },
            ));
        }
        if self.vocabulary.is_some() {
            let vocabulary = self.vocabulary.clone();
            found.push(("vocab-from", Levers { vocabulary, ..none }));
        }
        found
    }

    /// All levers but those of `other`.
    pub fn but(&self, other: &Levers) -> Levers {
        Levers {
            drop_pooler: self.drop_pooler && !other.drop_pooler,
            max_seq: self.max_seq.filter(|_| other.max_seq.is_none()),
            vocabulary: self.vocabulary.clone().filter(|_| other.vocabulary.is_none()),
        }
    }

    /// The network that is left.
    pub fn config(&self, config: &Config) -> Result<Config, LeverError> {
        let mut left = config.clone();
        if self.drop_pooler {
            if config.head != Head::None {
                return Err(LeverError::PoolerInUse {
                    head: config.head.name(),
                });
            }
            if !config.pooler {
                return Err(LeverError::NoPooler);
            }
            left.pooler = false;
        }
        if let Some(asked) = self.max_seq {
            let has = config.max_position_embeddings;
            if !(2..=has).contains(&asked) {
                return Err(LeverError::MaxSeq { asked, has });
            }
            left.max_position_embeddings = asked;
        }
        if let Some(vocabulary) = &self.vocabulary {
            left.vocab_size = vocabulary.kept.len();
        }
        Ok(left)
    }

    /// The model that is left.
    pub fn apply(&self, model: &Model) -> Result<Model, LeverError> {
        let config = self.config(&model.config)?;
        let mut weights = model.weights.clone();
        if self.drop_pooler {
            for slot in [Slot::Whole, Slot::Bias] {
                weights.remove(&Role::Pooler.tensor(slot, None));
            }
        }
        if self.max_seq.is_some() {
            let kept: Vec<usize> = (0..config.max_position_embeddings).collect();
            let rows = model.config.max_position_embeddings;
            cut("--max-seq", &mut weights, Role::Position, Slot::Whole, rows, &kept)?;
        }
        if let Some(vocabulary) = &self.vocabulary {
            let rows = model.config.vocab_size;
            let mut over = vec![(Role::Word, Slot::Whole)];
            if config.head.has_decoder() {
                over.push((masked_lm::DECODER, Slot::Bias));
                over.extend((!config.tied_decoder).then_some((masked_lm::DECODER, Slot::Whole)));
            }
            for (role, slot) in over {
                cut("--vocab-from", &mut weights, role, slot, rows, &vocabulary.kept)?;
            }
        }
        Ok(Model { config, weights })
    }
}

/// Keeps the rows `kept` of a weight with `rows` rows.
fn cut(
    lever: &'static str,
    weights: &mut Weights,
    role: Role,
    slot: Slot,
    rows: usize,
    kept: &[usize],
) -> Result<(), LeverError> {
    let weight = role.tensor(slot, None);
    let Some(values) = weights.get_mut(&weight) else {
        return Err(LeverError::Shape { lever, weight });
    };
    let format = values.format();
    let Some(numbers) = values.f32s_mut() else {
        return Err(LeverError::Encoded { lever, weight, format });
    };
    let shape = LeverError::Shape { lever, weight };
    let width = numbers.len().checked_div(rows).unwrap_or(0);
    let row = |&i: &usize| numbers.get(i * width..(i + 1) * width);
    if width == 0 || width * rows != numbers.len() {
        return Err(shape);
    }
    *numbers = kept.iter().map(row).collect::<Option<Vec<_>>>().ok_or(shape)?.concat();
    Ok(())
}
