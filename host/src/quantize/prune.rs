//! What can be left out of a model before any number is rounded: a pooler no head uses, positions beyond the longest input,
//! vocabulary rows a corpus never produces. In: a model and what to leave out; out: a smaller model that computes the same
//! for the inputs that are left. Each lever is pulled only when asked for.

use crate::eval::runner::Vocabulary;
use thimble_shared::dtype::Format;
use thimble_shared::model::head::masked_lm;
use thimble_shared::model::weights::Weights;
use thimble_shared::model::{Config, Head, Model, Role, Slot};

/// Why a lever cannot be pulled. Every text names the flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeverError {
    /// `--drop-pooler` with a head that reads the pooled vector.
    #[error("--drop-pooler: the {head} head reads the pooler")]
    PoolerInUse {
        /// Name of the head.
        head: &'static str,
    },
    /// `--drop-pooler` where nothing can be dropped.
    #[error("--drop-pooler: the model has no pooler")]
    NoPooler,
    /// `--max-seq` outside of what the model has.
    #[error("--max-seq {asked}: the model has {has} positions; name 2 to {has}")]
    MaxSeq {
        /// Positions asked for.
        asked: usize,
        /// Positions of the model.
        has: usize,
    },
    /// Rows of a weight that is not f32: a model to prune must come from a checkpoint.
    #[error("{lever}: weight '{weight}' is in {format}, and rows are cut from f32 only; start from the checkpoint")]
    Encoded {
        /// The flag.
        lever: &'static str,
        /// The weight.
        weight: String,
        /// The format it is in.
        format: Format,
    },
    /// A weight is missing, or its rows do not divide its numbers.
    #[error("{lever}: weight '{weight}' is missing or has another shape than the config says")]
    Shape {
        /// The flag.
        lever: &'static str,
        /// The weight.
        weight: String,
    },
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Levers {
    /// Leave out the pooler, which only a head that reads it needs.
    pub drop_pooler: bool,
    /// Positions to keep, from the first; at least 2.
    pub max_seq: Option<usize>,
    /// Tokens to keep.
    pub vocabulary: Option<Vocabulary>,
}

impl Levers {
    /// Whether anything is asked for.
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
    ///
    /// # Errors
    /// [`LeverError::PoolerInUse`], [`LeverError::NoPooler`] and [`LeverError::MaxSeq`].
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
    ///
    /// # Errors
    /// Any [`LeverError`].
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
