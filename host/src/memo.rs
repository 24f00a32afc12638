//! Losses measured before, kept between runs: one JSON file per question (model, inputs, program) in the user's cache
//! folder, from the formats tried to the loss found. A cache that cannot be read or written costs time, nothing else.

use crate::inputs::Row;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use thimble_shared::graph::Model;
use thimble_shared::number::Format;
use thimble_shared::stored::{Part, payload};

pub struct Memo {
    /// None when there is nowhere to keep it.
    path: Option<PathBuf>,
    losses: Mutex<BTreeMap<String, f64>>,
}

impl Memo {
    /// What is known of `model` on `rows`.
    pub fn open(model: &Model, rows: &[Row]) -> Memo {
        let path = folder().and_then(|dir| Some(dir.join(format!("{}.json", question(model, rows)?))));
        let losses = path
            .as_ref()
            .and_then(|p| std::fs::read(p).ok())
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Memo {
            path,
            losses: Mutex::new(losses),
        }
    }

    /// The loss of these formats, measured now unless it was before.
    pub fn loss<E>(
        &self,
        formats: &BTreeMap<String, Format>,
        measure: impl FnOnce() -> Result<f64, E>,
    ) -> Result<f64, E> {
        let key: Vec<String> = formats
            .iter()
            .filter(|(_, f)| **f != Format::F32)
            .map(|(name, f)| format!("{name}:{f}"))
            .collect();
        let key = key.join(" ");
        if let Some(&loss) = self.lock().get(&key) {
            return Ok(loss);
        }
        let loss = measure()?;
        // JSON has no infinity, and an impossible format is found out again at once.
        if loss.is_finite() {
            self.lock().insert(key, loss);
        }
        Ok(loss)
    }

    /// Keeps what was learnt.
    pub fn save(&self) {
        let Some(path) = &self.path else { return };
        let losses = self.lock();
        if let (Some(dir), Ok(text)) = (path.parent(), serde_json::to_vec(&*losses))
            && std::fs::create_dir_all(dir).is_ok()
        {
            // Losing the cache is no failure.
            let _ = crate::store::write_whole(path, &text);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, f64>> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `$THIMBLE_CACHE`, or `thimble` in the user's cache folder. An empty `THIMBLE_CACHE` turns the cache off.
fn folder() -> Option<PathBuf> {
    match std::env::var_os("THIMBLE_CACHE") {
        Some(dir) if dir.is_empty() => None,
        Some(dir) => Some(dir.into()),
        None => match std::env::var_os("XDG_CACHE_HOME") {
            Some(dir) if !dir.is_empty() => Some(PathBuf::from(dir).join("thimble")),
            _ => Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/thimble")),
        },
    }
}

/// Digest of everything a loss depends on: the numbers, the network, the inputs and this very program, whose kernels and
/// quantiser another build may have changed.
fn question(model: &Model, rows: &[Row]) -> Option<String> {
    let program = std::env::current_exe().ok()?.metadata().ok()?;
    let mut hash = Sha256::new();
    for spec in model.config.weights() {
        hash.update(&spec.name);
        let values = model.weights.get(&spec.name)?;
        hash.update(values.format().name());
        Part::ALL
            .iter()
            .for_each(|&part| hash.update(payload(&spec, values, part)));
    }
    hash.update(serde_json::to_vec(&model.config).ok()?);
    hash.update(format!("{} {:?}", program.len(), program.modified().ok()?));
    for row in rows {
        for values in [&row.input_ids, &row.attention_mask, &row.token_type_ids] {
            hash.update((values.len() as u64).to_le_bytes());
            values.iter().for_each(|v| hash.update(v.to_le_bytes()));
        }
        hash.update(format!("{:?}", row.shape));
    }
    Some(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_measured_once() {
        let memo = Memo {
            path: None,
            losses: Mutex::default(),
        };
        let formats: BTreeMap<String, Format> = [("word".into(), Format::I8), ("map".into(), Format::F32)].into();
        let mut measured = 0;
        for _ in 0..3 {
            let loss: Result<f64, ()> = memo.loss(&formats, || {
                measured += 1;
                Ok(0.5)
            });
            assert_eq!(loss, Ok(0.5));
        }
        assert_eq!(measured, 1);
        assert_eq!(memo.lock().keys().collect::<Vec<_>>(), ["word:i8"]);
    }
}
