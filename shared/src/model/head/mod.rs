//! The heads: what comes behind the last layer. Each is a file with one row; the row says everything the rest of the program
//! asks of a head.

mod answer;
pub mod choice;
pub mod masked_lm;
mod none;
pub mod pretraining;
pub mod question;
pub mod sentence;
pub mod sequence;
pub mod token;

pub use answer::AnswerKind;

use super::config::{Config, Head};
use super::network::HeadSteps;
use super::weight::{Role, WeightList};

/// The name of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassName {
    /// What follows the family's name in a class of transformers.
    OfFamily(&'static str),
    /// A class of another library, the same for all families.
    Own(&'static str),
}

impl ClassName {
    /// The whole name, in the family whose classes begin with `family`.
    pub fn of(self, family: &str) -> String {
        match self {
            ClassName::OfFamily(end) => format!("{family}{end}"),
            ClassName::Own(name) => name.to_string(),
        }
    }
}

/// All there is to say of a head.
pub struct HeadRow {
    /// For a person.
    pub name: &'static str,
    /// Its name on the command line, and what is said of it there.
    pub flag: (&'static str, &'static str),
    /// Hugging Face's class.
    pub class: ClassName,
    /// What its outputs say.
    pub answer: AnswerKind,
    /// The output that says it, the first of two.
    pub answered_by: &'static str,
    /// Whether it reads the pooled first token.
    pub needs_pooler: bool,
    /// Whether it has a decoder over the vocabulary.
    pub has_decoder: bool,
    /// Whether [`Config::labels`] name its outputs.
    pub has_labels: bool,
    /// Whether inputs are `[batch, choices, seq]`.
    pub takes_choices: bool,
    /// Whether hidden states leave it as they are or pooled, so that [`Config::hidden_shift`] is added to them.
    pub gives_hidden: bool,
    /// The weights that tell it where a configuration names no class; none where no tensor does. Where labels name its outputs, the
    /// first has a row for each.
    pub told_by: &'static [Role],
    /// Hugging Face's modules of the weights that it brings, where they are called otherwise here and alike in all families.
    pub modules: &'static [(Role, &'static str)],
    /// Its weights, behind those of the encoder and the pooler.
    pub weights: fn(&Config, &mut WeightList),
    /// Its steps and outputs.
    pub steps: fn(&Config, &mut HeadSteps),
}

impl Head {
    /// All of them.
    pub const ALL: [Head; 8] = [
        Head::None,
        Head::MaskedLm,
        Head::PreTraining,
        Head::SequenceClassification,
        Head::TokenClassification,
        Head::QuestionAnswering,
        Head::MultipleChoice,
        Head::SentenceEmbedding,
    ];

    /// Those that tensors tell, the surest first: a checkpoint is for the first of which it has all of [`HeadRow::told_by`].
    pub const TOLD: [Head; 6] = [
        Head::QuestionAnswering,
        Head::PreTraining,
        Head::MaskedLm,
        Head::SequenceClassification,
        Head::TokenClassification,
        Head::None,
    ];

    /// What is to be said of it.
    pub fn row(self) -> &'static HeadRow {
        match self {
            Head::None => &none::ROW,
            Head::MaskedLm => &masked_lm::ROW,
            Head::PreTraining => &pretraining::ROW,
            Head::SequenceClassification => &sequence::ROW,
            Head::TokenClassification => &token::ROW,
            Head::QuestionAnswering => &question::ROW,
            Head::MultipleChoice => &choice::ROW,
            Head::SentenceEmbedding => &sentence::ROW,
        }
    }

    /// Whether the head itself reads the pooled first token.
    pub fn needs_pooler(self) -> bool {
        self.row().needs_pooler
    }

    /// What its outputs say.
    pub fn answer(self) -> AnswerKind {
        self.row().answer
    }

    /// Whether it has a decoder over the vocabulary.
    pub fn has_decoder(self) -> bool {
        self.row().has_decoder
    }

    /// Whether inputs are `[batch, choices, seq]`.
    pub fn takes_choices(self) -> bool {
        self.row().takes_choices
    }

    /// The name for a person.
    pub fn name(self) -> &'static str {
        self.row().name
    }
}
