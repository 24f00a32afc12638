//! Runs the device's engine on many inputs, on all cores, and measures how far one model's outputs are from another's.
//! Inputs run one row at a time without padding, so a row's outputs do not depend on its neighbors; losses are added up in
//! the rows' order, so they do not depend on the number of cores.

use crate::eval::comparison::{LossTally, Scale};
use crate::eval::dataset::Row;
use crate::eval::error::EvalError;
use crate::eval::kept_outputs::Kept;
use crate::eval::metrics::{Loss, NamedOutputs, decides};
use crate::models::image::image_of;
use crate::render::listener::listener;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use thimble_device::engine::{Engine, EngineOptions};
use thimble_device::image::Image;
use thimble_shared::model::network::{self, Extent, Network};
use thimble_shared::model::{Config, Model};

/// `work` on each of `count` rows, on all cores, the results in order. `start` makes what a worker needs.
fn on_all_cores<W, T: Send>(
    count: usize,
    start: impl Fn() -> Result<W, EvalError> + Sync,
    work: impl Fn(&W, usize) -> Result<T, EvalError> + Sync,
) -> Result<Vec<T>, EvalError> {
    let workers = std::thread::available_parallelism()
        .map_or(1, |n| n.get())
        .clamp(1, count.max(1));
    let next = AtomicUsize::new(0);
    let listener = listener();
    let run = || -> Result<Vec<(usize, T)>, EvalError> {
        let worker = start()?;
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return Ok(done);
            }
            if listener.as_ref().is_some_and(|listener| listener.stopped()) {
                return Err(EvalError::Interrupted);
            }
            done.push((i, work(&worker, i).map_err(|e| e.at_row(i))?));
        }
    };
    let mut all = std::thread::scope(|scope| -> Result<Vec<(usize, T)>, EvalError> {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(run)).collect();
        let mut all = Vec::with_capacity(count);
        for thread in threads {
            let done = thread.join();
            all.extend(done.map_err(|_| EvalError::Thread)??);
        }
        Ok(all)
    })?;
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

fn engine(image: &Arc<Image>) -> Result<Engine, EvalError> {
    Ok(Engine::new(image.clone(), EngineOptions::default())?)
}

/// Outputs of every row, in order.
pub fn outputs(image: &Arc<Image>, rows: &[Row]) -> Result<Vec<NamedOutputs>, EvalError> {
    on_all_cores(rows.len(), || engine(image), |engine, i| run(engine, &rows[i]))
}

/// One row through the engine.
pub fn run(engine: &Engine, row: &Row) -> Result<NamedOutputs, EvalError> {
    Ok(engine.run(&row.input())?.0.into_iter().collect())
}

/// How far `candidate`'s outputs are from `reference`'s.
pub fn compare(
    config: &Config,
    rows: &[Row],
    reference: &[NamedOutputs],
    candidate: &[NamedOutputs],
) -> Result<Loss, EvalError> {
    let scale = Scale {
        config,
        at_blanks: rows.iter().any(|row| !row.blanks.is_empty()),
        kept: None,
        fewer: false,
    };
    let mut tally = LossTally::new(scale);
    for (i, ((row, a), b)) in rows.iter().zip(reference).zip(candidate).enumerate() {
        tally.add(row, a, b).map_err(|e| EvalError::from(e).at_row(i))?;
    }
    Ok(tally.finish())
}

/// What candidates are held against: inputs and what the original answers to them.
pub struct Judge<'a> {
    config: &'a Config,
    rows: Vec<Row>,
    /// Where the rows stand among those of `answers`.
    places: Vec<usize>,
    answers: Arc<Answers<'a>>,
    /// The original's id of each token of a candidate whose vocabulary was cut, and the id of each of the original's tokens
    /// in it (that of the unknown token where it was lost).
    kept: Option<&'a [usize]>,
    ids: Option<&'a [i64]>,
}

/// What candidates are compared with: ready to run, or made ready when it has to run.
pub enum Original<'a> {
    /// Bytes the engine maps.
    Image(Arc<Image>),
    /// A model to be written first, where its outputs are needed.
    Model(&'a Model),
}

impl From<&Arc<Image>> for Original<'_> {
    fn from(image: &Arc<Image>) -> Self {
        Original::Image(image.clone())
    }
}

impl<'a> From<&'a Model> for Original<'a> {
    fn from(model: &'a Model) -> Self {
        Original::Model(model)
    }
}

impl Original<'_> {
    fn image(&self) -> Result<Arc<Image>, EvalError> {
        match self {
            Original::Image(image) => Ok(image.clone()),
            Original::Model(model) => Ok(image_of(model)?),
        }
    }
}

/// The original's outputs, run when they are first needed: a judge whose every verdict is remembered needs none.
struct Answers<'a> {
    original: Original<'a>,
    rows: Vec<Row>,
    /// f32 numbers of all outputs, about.
    numbers: usize,
    /// None where they could not be kept.
    outputs: OnceLock<Option<Kept>>,
}

impl Answers<'_> {
    /// None where the original has to run again.
    fn outputs(&self) -> Result<Option<&Kept>, EvalError> {
        if self.numbers > KEPT {
            return Ok(None);
        }
        if self.outputs.get().is_none() {
            // Whoever comes second finds the same outputs.
            let _ = self.outputs.set(self.collect()?);
        }
        Ok(self.outputs.get().and_then(Option::as_ref))
    }

    fn collect(&self) -> Result<Option<Kept>, EvalError> {
        let (image, rows) = (self.original.image()?, &self.rows);
        let Ok(kept) = Kept::new(rows.len(), self.numbers <= IN_MEMORY) else {
            return Ok(None);
        };
        let put = |engine: &Engine, i: usize| Ok(kept.put(i, run(engine, &rows[i])?).is_ok());
        let done = on_all_cores(rows.len(), || engine(&image), put)?;
        Ok(done.iter().all(|kept| *kept).then_some(kept))
    }
}

/// f32 numbers of outputs that are kept: 512 MiB. Beyond that the original runs again each time.
const KEPT: usize = 1 << 27;
/// The same of outputs that are kept in memory: 16 MiB.
const IN_MEMORY: usize = 1 << 22;

/// f32 numbers that a model gives for each token, about; where it gives some for each input, as many as for a token.
fn numbers_per_token(config: &Config) -> usize {
    let width = |output: &network::Output| match output.extent {
        Extent::Tokens(width) | Extent::Row(width) => width,
        Extent::Token | Extent::Choice => 1,
    };
    Network::of(config).outputs.iter().map(width).sum()
}

/// How a candidate's vocabulary differs from the original's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    /// The original's id of each token that is left, in order.
    pub kept: Vec<usize>,
    /// The new id of each of the original's tokens; that of the unknown token where it was dropped.
    pub ids: Vec<i64>,
}

impl<'a> Judge<'a> {
    /// Candidates are held against the original, of `config`, on `rows`. `vocabulary` is that of the candidates, where it was cut.
    pub fn new(
        config: &'a Config,
        original: impl Into<Original<'a>>,
        rows: Vec<Row>,
        vocabulary: Option<&'a Vocabulary>,
    ) -> Judge<'a> {
        let tokens: usize = rows.iter().map(|row| row.input_ids.len()).sum();
        Judge {
            config,
            places: (0..rows.len()).collect(),
            answers: Arc::new(Answers {
                original: original.into(),
                rows: rows.clone(),
                numbers: tokens.saturating_mul(numbers_per_token(config)),
                outputs: OnceLock::new(),
            }),
            rows,
            kept: vocabulary.map(|v| v.kept.as_slice()),
            ids: vocabulary.map(|v| v.ids.as_slice()),
        }
    }

    /// The rows candidates run on, in order.
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
    pub fn loss(&self, candidate: &Arc<Image>) -> Result<Loss, EvalError> {
        self.loss_told(candidate, &|| ())
    }

    /// The same; `row_done` hears of every row.
    pub fn loss_told(&self, candidate: &Arc<Image>, row_done: &(dyn Fn() + Sync)) -> Result<Loss, EvalError> {
        let scale = Scale {
            config: self.config,
            at_blanks: self.rows.iter().any(|row| !row.blanks.is_empty()),
            kept: self.kept,
            fewer: true,
        };
        let known = self.answers.outputs()?;
        let again = match known {
            Some(_) => None,
            None => Some(self.answers.original.image()?),
        };
        let start = || Ok((again.as_ref().map(engine).transpose()?, engine(candidate)?));
        // A row's sums go as soon as its turn has come: those over a vocabulary are long.
        let sums = Mutex::new(InOrder::new(LossTally::new(scale)));
        on_all_cores(self.rows.len(), start, |(original, engine), i| {
            let row = &self.rows[i];
            let reference = match (original, known) {
                (Some(original), _) => Cow::Owned(run(original, row)?),
                (None, Some(known)) => known.get(self.places[i])?,
                (None, None) => Cow::default(),
            };
            let mut tally = LossTally::new(scale);
            tally.add(row, &reference, &run(engine, &self.seen_by_candidate(row))?)?;
            sums.lock().unwrap_or_else(PoisonError::into_inner).put(i, tally);
            row_done();
            Ok(())
        })?;
        let loss = sums.into_inner().unwrap_or_else(PoisonError::into_inner).sum.finish();
        if decides(self.config) && loss.decisions == 0 {
            return Err(EvalError::NothingDecided { rows: self.rows.len() });
        }
        Ok(loss)
    }

    fn seen_by_candidate<'r>(&self, row: &'r Row) -> Cow<'r, Row> {
        self.ids.map_or(Cow::Borrowed(row), |ids| Cow::Owned(renamed(row, ids)))
    }
}

/// Meters of rows added up in the rows' order, whichever is done first.
struct InOrder<'a> {
    sum: LossTally<'a>,
    next: usize,
    waiting: BTreeMap<usize, LossTally<'a>>,
}

impl<'a> InOrder<'a> {
    fn new(sum: LossTally<'a>) -> Self {
        InOrder {
            sum,
            next: 0,
            waiting: BTreeMap::new(),
        }
    }

    fn put(&mut self, row: usize, tally: LossTally<'a>) {
        self.waiting.insert(row, tally);
        while let Some(tally) = self.waiting.remove(&self.next) {
            self.sum.absorb(tally);
            self.next += 1;
        }
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
