//! What the outputs of a head say: how they are read, compared and answered. Heads of one kind share all of that.

use crate::model::config::Config;

/// The kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// Hidden states.
    Hidden,
    /// A score for each token of the vocabulary, at every token.
    Vocabulary,
    /// The same, and whether two segments are in order.
    VocabularyAndOrder,
    /// A score or a value for each label.
    Labels,
    /// A score for each label, at every token.
    TokenLabels,
    /// Scores for the first and the last token of an answer.
    Span,
    /// A score for each choice.
    Choice,
    /// A vector, near to those of texts that mean the same.
    Embedding,
}

impl AnswerKind {
    /// Whether two models can agree on what the outputs say: on labels, tags, tokens, spans or choices.
    pub fn decides(self, config: &Config) -> bool {
        match self {
            AnswerKind::Hidden | AnswerKind::Embedding => false,
            AnswerKind::Labels => !config.predicts_values(),
            AnswerKind::TokenLabels => config.labels.len() > 1,
            AnswerKind::Vocabulary | AnswerKind::VocabularyAndOrder | AnswerKind::Span | AnswerKind::Choice => true,
        }
    }

    /// How many labels say what is right for an input of `[.., choices, seq]`, and of how many classes each is one. None where
    /// nothing is compared with labels: hidden states and embeddings decide nothing, and pre-training has two kinds of labels.
    pub fn labels(self, config: &Config, shape: &[usize]) -> Option<(usize, usize)> {
        let dim = |back: usize| shape.iter().rev().nth(back).copied().unwrap_or(0);
        let (seq, choices) = (dim(0), dim(1));
        match self {
            AnswerKind::TokenLabels => Some((seq, config.labels.len())),
            AnswerKind::Vocabulary => Some((seq, config.vocab_size)),
            AnswerKind::Labels if config.multi_label => Some((config.labels.len(), 2)),
            AnswerKind::Labels => Some((1, config.labels.len())),
            AnswerKind::Choice => Some((1, choices)),
            AnswerKind::Span => Some((2, seq)),
            AnswerKind::VocabularyAndOrder | AnswerKind::Hidden | AnswerKind::Embedding => None,
        }
    }
}
