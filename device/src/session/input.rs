//! What a pass is run on: the tensors of a file, given token ids, or a made-up sequence.

use std::path::{Path, PathBuf};

use super::{DEFAULT_BATCH, DEFAULT_SEQ, SessionError};
use crate::Input;
use crate::engine::tensors::{Tensor, TensorFile};
use thimble_shared::model::Config;
use thimble_shared::model::family::SpecialIds;

/// Where an input comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputSource {
    /// A safetensors file of `input_ids`, and perhaps `attention_mask` and `token_type_ids`.
    pub file: Option<PathBuf>,
    /// One sequence.
    pub ids: Option<Vec<i64>>,
    /// Tokens `ids` are padded to, or of the sequence made up without them.
    pub seq: Option<usize>,
    /// How many times the sequence is repeated.
    pub batch: Option<usize>,
}

impl InputSource {
    /// Whether neither a file nor ids are named: then the sequence is made up.
    pub fn made_up(&self) -> bool {
        self.file.is_none() && self.ids.is_none()
    }

    /// The input for a model of this configuration.
    ///
    /// # Errors
    /// Where the file cannot be read, or its tensors do not go together.
    pub fn read(&self, config: &Config) -> Result<Input, SessionError> {
        match &self.file {
            Some(path) => read_input(path),
            None => Ok(ids_input(config, self)),
        }
    }
}

fn ids_input(config: &Config, source: &InputSource) -> Input {
    let seq = source.seq.unwrap_or(DEFAULT_SEQ.min(config.max_position_embeddings));
    let batch = source.batch.unwrap_or(DEFAULT_BATCH);
    let (mut ids, real) = match &source.ids {
        Some(ids) => (ids.clone(), ids.len()),
        None => (made_up(config.family.row().ids, config.vocab_size, seq), seq),
    };
    if source.seq.is_some() {
        ids.resize(seq.max(real), 0);
    }
    let full = ids.len();
    let mask: Vec<i64> = (0..full).map(|at| i64::from(at < real)).collect();
    let shape = if config.head.takes_choices() {
        vec![batch, 1, full]
    } else {
        vec![batch, full]
    };
    let ids = ids.repeat(batch);
    Input {
        shape,
        attention_mask: (real < full).then(|| mask.repeat(batch)),
        input_ids: ids,
        token_type_ids: None,
    }
}

/// `[CLS]` and `[SEP]` around ids spread over the vocabulary: the same on every board.
fn made_up(ids: SpecialIds, vocab: usize, seq: usize) -> Vec<i64> {
    let id = |at: usize| match at {
        0 => ids.cls as usize,
        _ if at + 1 == seq => ids.sep as usize,
        _ => at.wrapping_mul(7919) + ids.words as usize,
    };
    (0..seq).map(|at| (id(at) % vocab.max(1)) as i64).collect()
}

fn read_input(path: &Path) -> Result<Input, SessionError> {
    let file = TensorFile::read(path)?;
    let Some(ids) = file.integers("input_ids")? else {
        let found = file.names().collect::<Vec<_>>().join(", ");
        return Err(SessionError::NoIds {
            file: path.to_path_buf(),
            found,
        });
    };
    let like_ids = |tensor: &'static str| -> Result<Option<Vec<i64>>, SessionError> {
        match file.integers(tensor)? {
            Some(Tensor { shape, .. }) if shape != ids.shape => Err(SessionError::Shape {
                file: path.to_path_buf(),
                tensor,
                found: shape,
                wanted: ids.shape.clone(),
            }),
            found => Ok(found.map(|t| t.data)),
        }
    };
    let (attention_mask, token_type_ids) = (like_ids("attention_mask")?, like_ids("token_type_ids")?);
    Ok(Input {
        shape: ids.shape,
        input_ids: ids.data,
        attention_mask,
        token_type_ids,
    })
}

#[cfg(test)]
mod tests {
    use thimble_shared::model::ModelFamily;

    #[test]
    fn made_up_ids_stay_in_the_vocabulary() {
        let made_up = |vocab, seq| super::made_up(ModelFamily::Albert.row().ids, vocab, seq);
        for (vocab, seq) in [(30_000, 128), (97, 300), (1, 4), (3, 1)] {
            let ids = made_up(vocab, seq);
            assert_eq!(ids.len(), seq);
            assert!(ids.iter().all(|&id| (id as usize) < vocab), "{vocab}");
        }
        assert_eq!(made_up(30_000, 4), [2, 7924, 15_843, 3]);
    }
}
