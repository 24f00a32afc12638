//! Runs the device's engine on many inputs, on all cores, and measures how far one model's outputs are from another's.
//! Inputs run one row at a time without padding, so a row's outputs do not depend on its neighbours; losses are added up in
//! the rows' order, so they do not depend on the number of cores.

use crate::inputs::Row;
use crate::loss::{Loss, Outputs};
use crate::meter::{Meter, Scale};
use anyhow::{Context, Result};
use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use thimble_device::engine::{Engine, EngineOptions};
use thimble_device::image::Image;
use thimble_shared::graph::Config;

/// `work` on each of `count` rows, on all cores, the results in order. `start` makes what a worker needs.
fn on_all_cores<W, T: Send>(
    count: usize,
    start: impl Fn() -> Result<W> + Sync,
    work: impl Fn(&W, usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let workers = std::thread::available_parallelism()
        .map_or(1, |n| n.get())
        .clamp(1, count.max(1));
    let next = AtomicUsize::new(0);
    let run = || -> Result<Vec<(usize, T)>> {
        let worker = start()?;
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return Ok(done);
            }
            done.push((i, work(&worker, i).with_context(|| format!("input row {}", i + 1))?));
        }
    };
    let mut all = std::thread::scope(|scope| -> Result<Vec<(usize, T)>> {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(run)).collect();
        let mut all = Vec::with_capacity(count);
        for thread in threads {
            let done = thread.join();
            all.extend(done.map_err(|_| anyhow::anyhow!("an evaluation thread panicked"))??);
        }
        Ok(all)
    })?;
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

fn engine(image: &Arc<Image>) -> Result<Engine> {
    Ok(Engine::new(image.clone(), EngineOptions::default())?)
}

/// Outputs of every row, in order.
pub fn outputs(image: &Arc<Image>, rows: &[Row]) -> Result<Vec<Outputs>> {
    on_all_cores(rows.len(), || engine(image), |engine, i| run(engine, &rows[i]))
}

/// One row through the engine.
pub fn run(engine: &Engine, row: &Row) -> Result<Outputs> {
    Ok(engine.run(&row.input())?.0.into_iter().collect())
}

/// How far `candidate`'s outputs are from `reference`'s.
pub fn compare(config: &Config, rows: &[Row], reference: &[Outputs], candidate: &[Outputs]) -> Result<Loss> {
    let scale = Scale {
        config,
        at_blanks: rows.iter().any(|row| !row.blanks.is_empty()),
        kept: None,
        fewer: false,
    };
    let mut meter = Meter::new(scale);
    for (i, ((row, a), b)) in rows.iter().zip(reference).zip(candidate).enumerate() {
        meter.add(row, a, b).with_context(|| format!("input row {}", i + 1))?;
    }
    Ok(meter.finish())
}

/// What candidates are held against: inputs and what the original answers to them.
pub struct Judge<'a> {
    config: &'a Config,
    rows: Vec<Row>,
    /// Where the rows stand among those of `answers`.
    places: Vec<usize>,
    answers: Arc<Answers>,
    /// The original's id of each token of a candidate whose vocabulary was cut, and the id of each of the original's tokens
    /// in it (that of the unknown token where it was lost).
    kept: Option<&'a [usize]>,
    ids: Option<&'a [i64]>,
}

/// The original's outputs, run when they are first needed: a judge whose every verdict is remembered needs none.
struct Answers {
    image: Arc<Image>,
    rows: Vec<Row>,
    /// Outputs over a large vocabulary fill gigabytes; the original runs again each time instead.
    run_again: bool,
    outputs: OnceLock<Vec<Outputs>>,
}

impl Answers {
    fn outputs(&self) -> Result<&[Outputs]> {
        if self.run_again {
            return Ok(&[]);
        }
        if self.outputs.get().is_none() {
            // Whoever comes second finds the same outputs.
            let _ = self.outputs.set(outputs(&self.image, &self.rows)?);
        }
        Ok(self.outputs.get().map_or(&[], Vec::as_slice))
    }
}

/// f32 numbers of outputs that are kept: 512 MiB.
const KEPT: usize = 1 << 27;

/// How a candidate's vocabulary differs from the original's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    /// The original's id of each token that is left, in order.
    pub kept: Vec<usize>,
    /// The new id of each of the original's tokens; that of the unknown token where it was dropped.
    pub ids: Vec<i64>,
}

impl<'a> Judge<'a> {
    /// Candidates are held against the original, `image` of `config`, on `rows`. `vocabulary` is that of the candidates, where it was cut.
    pub fn new(
        config: &'a Config,
        image: &Arc<Image>,
        rows: Vec<Row>,
        vocabulary: Option<&'a Vocabulary>,
    ) -> Judge<'a> {
        let tokens: usize = rows.iter().map(|row| row.input_ids.len()).sum();
        let width = if config.head.has_decoder() {
            config.vocab_size
        } else {
            config.hidden_size
        };
        Judge {
            config,
            places: (0..rows.len()).collect(),
            answers: Arc::new(Answers {
                image: image.clone(),
                rows: rows.clone(),
                run_again: tokens.saturating_mul(width) > KEPT,
                outputs: OnceLock::new(),
            }),
            rows,
            kept: vocabulary.map(|v| v.kept.as_slice()),
            ids: vocabulary.map(|v| v.ids.as_slice()),
        }
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The same for some of the rows.
    pub fn some(&self, indices: &[usize]) -> Judge<'a> {
        Judge {
            config: self.config,
            rows: indices.iter().map(|&i| self.rows[i].clone()).collect(),
            places: indices.iter().map(|&i| self.places[i]).collect(),
            answers: self.answers.clone(),
            kept: self.kept,
            ids: self.ids,
        }
    }

    /// How far a candidate is from the original. An output the candidate does not give is not compared.
    pub fn loss(&self, candidate: &Arc<Image>) -> Result<Loss> {
        let scale = Scale {
            config: self.config,
            at_blanks: self.rows.iter().any(|row| !row.blanks.is_empty()),
            kept: self.kept,
            fewer: true,
        };
        let known = self.answers.outputs()?;
        let start = || {
            let original = self.answers.run_again.then(|| engine(&self.answers.image));
            Ok((original.transpose()?, engine(candidate)?))
        };
        let rows = on_all_cores(self.rows.len(), start, |(original, engine), i| {
            let row = &self.rows[i];
            let reference = match original {
                Some(original) => Cow::Owned(run(original, row)?),
                None => Cow::Borrowed(&known[self.places[i]]),
            };
            let mut meter = Meter::new(scale);
            meter.add(row, &reference, &run(engine, &self.seen_by_candidate(row))?)?;
            Ok(meter)
        })?;
        let mut all = Meter::new(scale);
        rows.into_iter().for_each(|row| all.absorb(row));
        Ok(all.finish())
    }

    fn seen_by_candidate<'r>(&self, row: &'r Row) -> Cow<'r, Row> {
        self.ids.map_or(Cow::Borrowed(row), |ids| Cow::Owned(renamed(row, ids)))
    }
}

/// A row in other ids.
fn renamed(row: &Row, ids: &[i64]) -> Row {
    let new = |&id: &i64| {
        let found = usize::try_from(id).ok().and_then(|id| ids.get(id));
        found.copied().unwrap_or(id)
    };
    Row {
        input_ids: row.input_ids.iter().map(new).collect(),
        ..row.clone()
    }
}

impl Vocabulary {
    /// A row of the original's ids in those that are left.
    pub fn row(&self, row: &Row) -> Row {
        renamed(row, &self.ids)
    }
}
