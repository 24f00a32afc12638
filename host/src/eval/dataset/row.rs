//! One inference's input: ids, masks and what is right, and what must hold before a model runs it.

use crate::models::tokenizer_json::Encoded;
use thimble_device::engine::Input;
use thimble_shared::decode::context_of_ids;
use thimble_shared::model::Config;

/// One inference's input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// `[1, seq]`, or `[1, choices, seq]` for multiple choice.
    pub shape: Vec<usize>,
    /// Flat, as many as `shape` says.
    pub input_ids: Vec<i64>,
    /// 1 for real tokens, 0 for padding; as many as `input_ids`.
    pub attention_mask: Vec<i64>,
    /// As many as `input_ids`.
    pub token_type_ids: Vec<i64>,
    /// What is right: one class or choice, or one tag per token with -100 where nothing is asked.
    pub labels: Option<Vec<i64>>,
    /// What is right where the model gives values: one for each of its labels.
    pub targets: Option<Vec<f32>>,
    /// Positions of the mask token, where the model fills blanks.
    pub blanks: Vec<usize>,
}

impl Row {
    /// The row of a text (one encoding) or of a question's choices (several, padded to the longest).
    pub fn of(encoded: &[Encoded], pad: i64, choices: bool) -> Row {
        let seq = encoded.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        let mut row = Row {
            shape: if choices {
                vec![1, encoded.len(), seq]
            } else {
                vec![1, seq]
            },
            ..Row::default()
        };
        for one in encoded {
            let padding = seq - one.ids.len();
            row.input_ids
                .extend(one.ids.iter().copied().chain(std::iter::repeat_n(pad, padding)));
            row.token_type_ids
                .extend(one.types.iter().copied().chain(std::iter::repeat_n(0, padding)));
            row.attention_mask
                .extend(std::iter::repeat_n(1, one.ids.len()).chain(std::iter::repeat_n(0, padding)));
        }
        row
    }

    /// A row of token ids, all real and of type 0.
    pub fn sequence(ids: &[i64]) -> Row {
        Row {
            shape: vec![1, ids.len()],
            input_ids: ids.to_vec(),
            attention_mask: vec![1; ids.len()],
            token_type_ids: vec![0; ids.len()],
            ..Row::default()
        }
    }

    /// Which tokens may be part of an answer to a question.
    pub fn context(&self) -> Vec<bool> {
        context_of_ids(&self.input_ids, Some(&self.token_type_ids), Some(&self.attention_mask))
    }

    /// Tokens per sequence.
    pub fn seq(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    /// What the engine takes.
    pub fn input(&self) -> Input {
        Input {
            shape: self.shape.clone(),
            input_ids: self.input_ids.clone(),
            attention_mask: Some(self.attention_mask.clone()),
            token_type_ids: Some(self.token_type_ids.clone()),
        }
    }

    /// Everything that must hold before a model of `config` runs it.
    ///
    /// # Errors
    /// What is wrong with the row, for people.
    pub fn check(&self, config: &Config) -> Result<(), String> {
        let wanted = if config.head.takes_choices() { 3 } else { 2 };
        if self.shape.len() != wanted || self.shape.first() != Some(&1) {
            return Err(format!(
                "its shape is {:?}, one input of this model has {wanted} dimensions",
                self.shape
            ));
        }
        let count = self
            .shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .unwrap_or(usize::MAX);
        if count == 0 {
            return Err("it has no tokens".into());
        }
        if self.seq() > config.max_position_embeddings {
            return Err(format!(
                "{} tokens, the model's positions end at {}",
                self.seq(),
                config.max_position_embeddings
            ));
        }
        for (name, values, limit) in [
            ("input_ids", &self.input_ids, config.vocab_size),
            ("attention_mask", &self.attention_mask, 2),
            ("token_type_ids", &self.token_type_ids, config.type_vocab_size),
        ] {
            if values.len() != count {
                return Err(format!("{name} has {} values, input_ids {count}", values.len()));
            }
            if let Some((at, value)) = values.iter().enumerate().find(|(_, v)| !(0..limit as i64).contains(*v)) {
                return Err(format!("{name}[{at}] is {value}, must be 0 to {}", limit - 1));
            }
        }
        if let Some(targets) = &self.targets {
            check_targets(targets, config)?;
        }
        self.labels
            .as_deref()
            .map_or(Ok(()), |labels| self.check_labels(labels, config))
    }

    fn check_labels(&self, labels: &[i64], config: &Config) -> Result<(), String> {
        let Some((wanted, classes)) = config.head.answer().labels(config, &self.shape) else {
            return Err(format!("labels are given, a {} head compares none", config.head.name()));
        };
        if labels.len() != wanted {
            return Err(format!(
                "{} labels, the {} head takes {wanted}",
                labels.len(),
                config.head.name()
            ));
        }
        match labels
            .iter()
            .find(|&&l| l != IGNORED && !(0..classes as i64).contains(&l))
        {
            Some(label) => Err(format!("label {label} is not one of 0 to {}", classes as i64 - 1)),
            None => Ok(()),
        }
    }
}

fn check_targets(targets: &[f32], config: &Config) -> Result<(), String> {
    if targets.len() != config.labels.len() {
        return Err(format!(
            "{} values are given as labels, the model has {}",
            targets.len(),
            config.labels.len()
        ));
    }
    match targets.iter().find(|t| !t.is_finite()) {
        Some(target) => Err(format!("label {target} is beyond f32")),
        None => Ok(()),
    }
}

/// Whether a model's answers can be held against classes: values, and what no label is compared with, cannot.
pub(super) fn compares_labels(config: &Config) -> bool {
    !config.predicts_values() && config.head.answer().labels(config, &[]).is_some()
}

/// Hugging Face's label of a token that is not asked.
pub const IGNORED: i64 = -100;
