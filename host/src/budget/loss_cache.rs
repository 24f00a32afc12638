//! Losses measured before, kept between runs: one JSON file per question (model, inputs, program) in the user's cache
//! folder, from the formats tried to the loss found. A cache that cannot be read or written costs time, nothing else.

use crate::eval::dataset::Row;
use crate::eval::digest::{Digest, hash_rows};
use crate::eval::metrics::Score;
use crate::fs::own_file::own_file;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use thimble_device::engine::kernels::Kernels;
use thimble_device::image::digest::hex;
use thimble_shared::dtype::Format;
use thimble_shared::files;

pub struct LossCache {
    /// None when there is nowhere to keep it.
    path: Option<PathBuf>,
    scores: Mutex<BTreeMap<String, Score>>,
}

impl LossCache {
    /// What is known of a model on `rows`; `models` are the digests of it and of what it is compared with.
    pub fn open(models: &[&Digest], rows: &[Row]) -> LossCache {
        let path = folder().and_then(|dir| Some(dir.join(format!("{}.json", question(models, rows)?))));
        let scores = path
            .as_ref()
            .and_then(|p| files::read(p).ok())
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        LossCache {
            path,
            scores: Mutex::new(scores),
        }
    }

    /// The score of these formats, measured now unless it was before.
    pub fn score<E>(
        &self,
        formats: &BTreeMap<String, Format>,
        measure: impl FnOnce() -> Result<Score, E>,
    ) -> Result<Score, E> {
        let key: Vec<String> = formats
            .iter()
            .filter(|(_, f)| **f != Format::F32)
            .map(|(name, f)| format!("{name}:{f}"))
            .collect();
        let key = key.join(" ");
        if let Some(&score) = self.lock().get(&key) {
            return Ok(score);
        }
        let score = measure()?;
        // JSON has no infinity, and an impossible format is found out again at once.
        if score.is_finite() {
            self.lock().insert(key, score);
        }
        Ok(score)
    }

    /// Keeps what was learnt.
    pub fn save(&self) {
        let Some(path) = &self.path else { return };
        let scores = self.lock();
        if let (Some(dir), Ok(text)) = (path.parent(), serde_json::to_vec(&*scores))
            && std::fs::create_dir_all(dir).is_ok()
        {
            // Losing the cache is no failure.
            let _ = crate::fs::atomic::write_whole(path, &text);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Score>> {
        self.scores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether losses are kept between runs.
pub fn is_kept() -> bool {
    folder().is_some()
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

/// Digest of everything a loss depends on: the numbers, the network, the inputs and this very program (or library), whose kernels and
/// quantizer another build may have changed.
fn question(models: &[&Digest], rows: &[Row]) -> Option<String> {
    let program = own_file()?.metadata().ok()?;
    let mut hash = Sha256::new();
    models.iter().for_each(|digest| hash.update(digest.bytes()));
    hash.update(format!("{} {:?}", program.len(), program.modified().ok()?));
    // Another CPU's kernels round elsewhere.
    hash.update(format!("{:?}", Kernels::available()));
    hash_rows(&mut hash, rows);
    Some(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::metrics::Loss;

    #[test]
    fn a_loss_is_measured_once() {
        let cache = LossCache {
            path: None,
            scores: Mutex::default(),
        };
        let formats: BTreeMap<String, Format> = [("word".into(), Format::I8), ("map".into(), Format::F32)].into();
        let mut measured = 0;
        let score = Loss::default().score();
        for _ in 0..3 {
            let found: Result<Score, ()> = cache.score(&formats, || {
                measured += 1;
                Ok(score)
            });
            assert_eq!(found, Ok(score));
        }
        assert_eq!(measured, 1);
        assert_eq!(cache.lock().keys().collect::<Vec<_>>(), ["word:i8"]);
    }
}
