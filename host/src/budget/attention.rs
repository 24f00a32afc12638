//! In which arithmetic attention multiplies: int8 where what it loses is not worth the time of f32. In: an answer whose choices
//! were measured with attention in f32, and whose file has room for what int8 attention states; out: what the same formats lose
//! in either arithmetic on the tuning rows, and which is taken.

use crate::budget::answer::Answer;
use crate::budget::error::BudgetError;
use crate::budget::integer_arithmetic::{Prefer, WORTH};
use crate::budget::sensitivity::Search;
use crate::eval::metrics::{Score, Word};
use crate::render::progress::Watch;
use thimble_shared::model::{AttentionArithmetic, Kind, Role};

/// How attention came to its arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attention {
    /// Nothing was weighed: it was asked for, or this is why it is f32.
    Given(AttentionArithmetic, &'static str),
    /// What the file loses in either, on the tuning rows.
    Weighed {
        taken: AttentionArithmetic,
        f32: Score,
        int8: Score,
    },
}

impl Attention {
    pub fn arithmetic(&self) -> AttentionArithmetic {
        match *self {
            Attention::Given(arithmetic, _) => arithmetic,
            Attention::Weighed { taken, .. } => taken,
        }
    }
}

impl Search<'_> {
    /// What an answer loses with int8 attention on the tuning rows; none where its maps leave no integers to attention.
    ///
    /// # Errors
    /// What running the model may meet.
    pub fn with_int8_attention(&self, answer: &Answer, watch: &mut impl Watch) -> Result<Option<Score>, BudgetError> {
        if !self.attends_to_integers(answer) {
            return Ok(None);
        }
        watch.stage("running the choice with int8 attention", 1);
        let score = self.score_in(AttentionArithmetic::Int8, &answer.choice)?;
        Ok(Some(score).filter(Score::is_finite))
    }

    /// Whether int8 attention is taken whatever f32 would lose.
    pub fn is_settled(&self, prefer: Prefer, int8: &Score) -> bool {
        match prefer {
            Prefer::Speed => true,
            Prefer::Balance => int8.word() == Word::Good,
            Prefer::Loss => false,
        }
    }

    /// Which of two is taken.
    pub fn weigh_attention(&self, prefer: Prefer, f32: Score, int8: Score) -> Attention {
        let loss = |score: &Score| self.objective(score);
        let is_better = match prefer {
            Prefer::Speed => false,
            Prefer::Loss => loss(&f32) < loss(&int8),
            Prefer::Balance => worth((f32.word(), loss(&f32)), (int8.word(), loss(&int8))),
        };
        let taken = match is_better {
            true => AttentionArithmetic::F32,
            false => AttentionArithmetic::Int8,
        };
        Attention::Weighed { taken, f32, int8 }
    }

    /// The answer with what it measured in the arithmetic of attention that was taken.
    pub fn answer_in(&self, attention: Attention, answer: Answer) -> Answer {
        match attention {
            Attention::Weighed {
                taken: AttentionArithmetic::Int8,
                int8,
                ..
            } => Answer {
                measured: self.objective(&int8),
                score: int8,
                ..answer
            },
            Attention::Weighed { .. } | Attention::Given(..) => answer,
        }
    }

    /// Whether the maps that attention reads multiply integers.
    fn attends_to_integers(&self, answer: &Answer) -> bool {
        let formats = self.problem.formats_of(&answer.choice);
        let weights = self.question().source.config.weights().into_iter();
        let mut read =
            weights.filter(|w| w.kind == Kind::Linear && matches!(w.role, Role::Query | Role::Key | Role::Value));
        read.all(|w| formats.get(&w.name).is_some_and(|format| format.quantizes_input()))
    }
}

/// Whether f32 is worth its time: by the rule that gives linear maps w8, if int8 is not called good and f32 is called better or
/// saves a quarter of the loss.
fn worth((f32, least): (Word, f64), (int8, loss): (Word, f64)) -> bool {
    int8 != Word::Good && (f32 > int8 || least <= loss * (1.0 - WORTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_attention_is_taken_where_it_is_good_or_loses_little_more() {
        use Word::{Fair, Good, Poor};
        for (f32, int8, want) in [
            ((Good, 0.01), (Good, 0.5), false),
            ((Good, 0.5), (Fair, 0.51), true),
            ((Fair, 0.8), (Fair, 1.0), false),
            ((Fair, 0.75), (Fair, 1.0), true),
            ((Fair, 1.0), (Poor, 1.0), true),
            ((Poor, 1.0), (Poor, f64::INFINITY), true),
            ((Poor, 1.0), (Fair, 0.9), false),
        ] {
            assert_eq!(worth(f32, int8), want, "{f32:?} {int8:?}");
        }
    }
}
