//! What the commands do, without printing: open a model, make the input that was asked for, run it or bench it.
//! Times are milliseconds, sizes bytes; errors name the file they are about.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bench::{Limits, Runs, judge, summarise, time};
use crate::board::{self, Observed};
use crate::heat::{self, Throttle};
use crate::map::{self, MapError, ModelFile, ModelMap};
use crate::measure;
use crate::power::{self, Sampler, Sensor};
use crate::process::{self, Resident};
use crate::tensors::{Tensor, TensorError, TensorFile};
use crate::{Engine, EngineError, EngineOptions, Image, Input, InputError, Outputs, heap};
use thimble_shared::graph::{Config, Head};
use thimble_shared::memory::Need;
use thimble_shared::report::{self, EngineReport, Faults, Memory, ModelReport, OpTime, ProfileReport, Report, Thermal};

use crate::args::Options;

/// Version of tract in the workspace's Cargo.toml; a test holds them together.
pub const TRACT: &str = "0.23.9";

/// Tokens of a sequence nobody chose the length of.
pub const DEFAULT_SEQ: usize = 128;

/// Timed runs of a bench that ends by itself.
const UNTIL_ENOUGH: u32 = 100_000;

/// Runs a profile is taken of.
const PROFILED: u32 = 10;

/// Tokens computed in one pass of `run`: rows beyond it wait their turn, so that memory stays bounded.
const TOKENS_AT_ONCE: usize = 2048;

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("{output} is an input; name another output file")]
    OverInput { output: PathBuf },
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("{file}: {source}")]
    Model { file: PathBuf, source: EngineError },
    #[error(transparent)]
    Run(EngineError),
    #[error(transparent)]
    Tensors(#[from] TensorError),
    #[error("{file} has no input_ids; it has {found}")]
    NoIds { file: PathBuf, found: String },
    #[error("{file}: {tensor} has shape {found:?}, input_ids {wanted:?}")]
    Shape {
        file: PathBuf,
        tensor: &'static str,
        found: Vec<usize>,
        wanted: Vec<usize>,
    },
    #[error("bench times one sequence at a time, {file} has {rows}")]
    OneSequence { file: PathBuf, rows: usize },
    #[error("--pin: these cores cannot be had: {0}")]
    Pin(io::Error),
    #[error("{file}: its SHA-256 is {found}, not the {wanted} of --sha256")]
    Digest {
        file: PathBuf,
        found: String,
        wanted: String,
    },
}

/// Where the model's bytes are.
enum Held {
    /// Pages of a file, which others may write to.
    Mapped(Arc<ModelFile>),
    /// Memory of our own.
    Copied(Arc<Image>),
}

impl Held {
    /// Of the very bytes that are computed from, whatever their name leads to by now.
    fn sha256(&self) -> Result<String, MapError> {
        match self {
            Held::Mapped(file) => file.sha256(),
            Held::Copied(image) => Ok(map::sha256(image.bytes())),
        }
    }
}

pub struct Session {
    pub engine: Engine,
    pub file: PathBuf,
    pub bytes: u64,
    pub load_ms: f64,
    held: Held,
    locked: bool,
}

impl Session {
    /// Loads the model, which must have the digest `wanted`.
    pub fn open(file: ModelFile, options: &Options, wanted: Option<&str>) -> Result<Session, SessionError> {
        let start = Instant::now();
        heap::loading();
        let (path, bytes) = (file.path().to_path_buf(), file.bytes());
        let file = Arc::new(file);
        let (image, held) = match options.copy {
            true => {
                let image = file.copy()?;
                (image.clone(), Held::Copied(image))
            }
            false => (
                Image::new(ModelMap::of(&file, options.lock)?),
                Held::Mapped(file.clone()),
            ),
        };
        if let Some(wanted) = wanted {
            agree(&path, held.sha256()?, wanted)?;
        }
        let kernels = EngineOptions {
            threads: options.threads.unwrap_or_else(measure::default_threads),
            force_kernel: options.kernel.clone(),
        };
        let engine = Engine::new(image, kernels);
        // What was wrong with the file may be that somebody was writing it: then that is the thing to say.
        file.unchanged()?;
        let engine = engine.map_err(|source| SessionError::Model {
            file: path.clone(),
            source,
        })?;
        crate::HEAP.release();
        heap::repeating();
        process::forget_code();
        let load_ms = milliseconds(start);
        Ok(Session {
            engine,
            file: path,
            bytes,
            load_ms,
            held,
            locked: options.lock,
        })
    }

    /// An error where somebody wrote to what is computed from: nothing that came of it can be trusted.
    pub fn unchanged(&self) -> Result<(), SessionError> {
        match &self.held {
            Held::Mapped(file) => Ok(file.unchanged()?),
            Held::Copied(_) => Ok(()),
        }
    }

    fn copied(&self) -> bool {
        matches!(self.held, Held::Copied(_))
    }

    /// What one pass is expected to need.
    fn predicted(&self, rows: usize, seq: usize) -> Need {
        let need = self.engine.need(rows, seq, self.bytes);
        if self.copied() { need.copied() } else { need }
    }

    /// The input the options ask for: a file's, the given ids, or a made-up sequence.
    pub fn input(&self, options: &Options) -> Result<Input, SessionError> {
        match &options.input {
            Some(path) => read_input(path),
            None => Ok(ids_input(self.engine.config(), options)),
        }
    }

    /// Runs all rows, a bounded number of tokens at a time.
    pub fn run(&self, input: &Input) -> Result<Outputs, SessionError> {
        let row = input
            .shape
            .iter()
            .skip(1)
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .unwrap_or(usize::MAX);
        let rows = input.shape.first().copied().unwrap_or(0);
        let at_once = (TOKENS_AT_ONCE / row.max(1)).max(1);
        if rows <= at_once {
            return self.engine.run(input).map_err(SessionError::Run);
        }
        let mut all = Outputs::default();
        for first in (0..rows).step_by(at_once) {
            let part = slice(input, first, at_once.min(rows - first), row);
            let outputs = self.engine.run(&part).map_err(SessionError::Run)?;
            append(&mut all, outputs);
        }
        Ok(all)
    }

    /// Times one input and says everything of the board. `baseline` and `start` were taken before the model was opened.
    pub fn bench(&self, options: &Options, start: &Start) -> Result<Report, SessionError> {
        let input = self.input(options)?;
        let rows = input.shape.first().copied().unwrap_or(0);
        if let (Some(file), true) = (&options.input, rows > 1) {
            return Err(SessionError::OneSequence {
                file: file.clone(),
                rows,
            });
        }
        let runs = Runs {
            warmup: options.warmup.unwrap_or(5),
            timed: options.runs.unwrap_or(match (options.spread_percent, options.seconds) {
                (None, None) => 50,
                _ => UNTIL_ENOUGH,
            }),
            spread_percent: options.spread_percent,
            // Without a limit of time a restless board would never be done.
            seconds: options.seconds.or(options.spread_percent.map(|_| 60.0)),
        };
        let (mut before, mut sampler) = (None, None);
        let timings = time(
            runs,
            || self.engine.run(&input).map(drop).map_err(SessionError::Run),
            || {
                sampler = start.sensor.as_ref().and_then(Sampler::start);
                before = process::faults();
            },
        );
        let readings = sampler.map(Sampler::stop).unwrap_or_default();
        let timings = timings?;
        let during = |pick: fn((u64, u64)) -> u64| Some(pick(process::faults()?).saturating_sub(pick(before?)));
        let faults = Faults {
            major: during(|f| f.0),
            minor: during(|f| f.1),
        };
        let seq = input.shape.last().copied().unwrap_or(0);
        let sequences = input.shape.iter().rev().skip(1).product::<usize>();
        let memory = Memory {
            predicted: Some(self.predicted(sequences, seq)),
            ..Resident::now().since(start.resident)
        };
        let profile = options.profile.then(|| self.profile(&input)).transpose()?;
        let thermal = Thermal {
            start_c: start.celsius,
            end_c: heat::celsius(),
            throttled: Throttle::now().since(start.throttle),
        };
        let board = measure::board();
        let latency_ms = summarise(&timings.timed_ms, (sequences, seq), runs.warmup);
        let sensor = start.sensor.as_ref();
        let energy = sensor.and_then(|s| power::energy(s, start.idle_watts, &readings, &latency_ms));
        let limits = Limits {
            max_ram: options.max_ram,
            max_p95_ms: options.max_p95_ms,
            cgroup: board.cgroup_limit,
        };
        let verdict = judge(limits, memory.peak_rss, &latency_ms);
        let mut warnings = board::warnings(&Observed {
            board: &board,
            latency: &latency_ms,
            faults: &faults,
            thermal: &thermal,
            energy: energy.as_ref(),
            load: start.load,
            threads: self.engine.threads(),
        });
        // Last of all: reading the whole file warms the page cache and would change what was measured. There is no report of
        // a file that somebody wrote to before this was done.
        let sha256 = self.held.sha256()?;
        self.unchanged()?;
        if let Some(wanted) = &options.sha256 {
            agree(&self.file, sha256.clone(), wanted)?;
        }
        if let Held::Mapped(file) = &self.held
            && !file.in_place()
        {
            warnings.push(format!(
                "{} is another file by now, or gone: figures and SHA-256 are those of the one that was opened",
                self.file.display()
            ));
        }
        Ok(Report {
            schema: report::SCHEMA,
            model: ModelReport {
                sha256: Some(sha256),
                ..self.model()
            },
            board,
            engine: EngineReport {
                pinned: options.pin.clone().unwrap_or_default(),
                ..self.engine_report()
            },
            load_ms: Some(self.load_ms),
            first_inference_ms: Some(timings.first_ms),
            cold_start: start.cold,
            latency_ms,
            memory,
            faults,
            thermal,
            profile,
            energy,
            warnings,
            verdict,
        })
    }

    /// Tokens the options ask for, and the RAM one sequence of them is expected to need.
    pub fn need(&self, options: &Options) -> Result<(usize, Need), SessionError> {
        let max = self.engine.config().max_position_embeddings;
        let seq = options.seq.unwrap_or(DEFAULT_SEQ.min(max));
        if seq > max {
            return Err(SessionError::Run(InputError::TooLong { seq, max }.into()));
        }
        Ok((seq, self.predicted(1, seq)))
    }

    /// Where the time goes, over as many runs as make some steady means.
    fn profile(&self, input: &Input) -> Result<ProfileReport, SessionError> {
        self.engine.profile().start();
        let mut whole = Duration::ZERO;
        for _ in 0..PROFILED {
            let begin = Instant::now();
            self.engine.run(input).map_err(SessionError::Run)?;
            whole += begin.elapsed();
        }
        let times = self.engine.profile().stop();
        let per_run = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(PROFILED);
        let ops: Vec<OpTime> = times
            .ops
            .into_iter()
            .map(|((layer, op), taken)| OpTime {
                op,
                layer: layer.and_then(|l| u32::try_from(l).ok()),
                ms: per_run(taken.time),
                calls: taken.calls / PROFILED,
            })
            .collect();
        let ms = per_run(whole);
        Ok(ProfileReport {
            runs: PROFILED,
            ms,
            rest_ms: ms - ops.iter().map(|o| o.ms).sum::<f64>(),
            ops,
            linear_ms: times
                .inside
                .into_iter()
                .map(|(kind, taken)| (kind.name().to_string(), per_run(taken.time)))
                .collect(),
        })
    }

    pub fn model(&self) -> ModelReport {
        let formats = &self.engine.artifact().graph.formats;
        ModelReport {
            file: self.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            sha256: None,
            bytes: self.bytes,
            formats: formats
                .iter()
                .map(|(name, format)| (name.clone(), format.name().to_string()))
                .collect(),
            weights: self.weights(),
        }
    }

    /// Bytes of every weight in the file; scales and the like count to the weight they are named after.
    fn weights(&self) -> BTreeMap<String, u64> {
        let artifact = self.engine.artifact();
        let formats = &artifact.graph.formats;
        let mut bytes = BTreeMap::new();
        for (name, stored) in &artifact.tensors {
            let owner = name
                .rsplit_once('.')
                .map(|(owner, _)| owner)
                .filter(|owner| !formats.contains_key(name) && formats.contains_key(*owner))
                .unwrap_or(name);
            *bytes.entry(owner.to_string()).or_default() += stored.range.len() as u64;
        }
        bytes
    }

    pub fn engine_report(&self) -> EngineReport {
        let kernels = self.engine.kernels();
        EngineReport {
            version: env!("CARGO_PKG_VERSION").to_string(),
            tract: TRACT.to_string(),
            kernels: vec![
                format!("f32 {}", kernels.f32.name()),
                format!("i8 {}", kernels.i8.name()),
            ],
            threads: u32::try_from(self.engine.threads()).unwrap_or(u32::MAX),
            locked: self.locked,
            copied: self.copied(),
            pinned: Vec::new(),
        }
    }
}

/// The state of process and board before anything is loaded.
pub struct Start {
    resident: Resident,
    celsius: Option<f64>,
    throttle: Throttle,
    load: Option<f64>,
    sensor: Option<Sensor>,
    idle_watts: Option<f64>,
    /// Whether the model had been put out of the page cache; `None` when nobody asked.
    cold: Option<bool>,
}

impl Start {
    /// Puts the file `drop` out of the page cache, then looks. `power` asks for the board's sensor, which takes half a second where
    /// there is one.
    pub fn now(drop: Option<&ModelFile>, power: bool) -> Start {
        let sensor = Some(Path::new("/")).filter(|_| power).and_then(Sensor::find);
        let idle_watts = sensor.as_ref().and_then(Sensor::idle);
        let cold = drop.map(|model| board::drop_from_cache(model.file()));
        Start {
            load: board::load_average(),
            cold,
            resident: Resident::now(),
            celsius: heat::celsius(),
            throttle: Throttle::now(),
            sensor,
            idle_watts,
        }
    }
}

pub fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn ids_input(config: &Config, options: &Options) -> Input {
    let seq = options.seq.unwrap_or(DEFAULT_SEQ.min(config.max_position_embeddings));
    let batch = options.batch.unwrap_or(1);
    let (mut ids, real) = match &options.ids {
        Some(ids) => (ids.clone(), ids.len()),
        None => (made_up(config.vocab_size, seq), seq),
    };
    if options.seq.is_some() {
        ids.resize(seq.max(real), 0);
    }
    let full = ids.len();
    let mask: Vec<i64> = (0..full).map(|at| i64::from(at < real)).collect();
    let shape = if config.head == Head::MultipleChoice {
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

/// ALBERT's [CLS] 2 and [SEP] 3 around ids spread over the vocabulary: the same on every board.
fn made_up(vocab: usize, seq: usize) -> Vec<i64> {
    let id = |at: usize| match at {
        0 => 2,
        _ if at + 1 == seq => 3,
        _ => 5 + at.wrapping_mul(7919),
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

/// `count` rows of `row` tokens each, from row `first`.
fn slice(input: &Input, first: usize, count: usize, row: usize) -> Input {
    let cut = |values: &[i64]| values.get(first * row..(first + count) * row).unwrap_or(&[]).to_vec();
    let mut shape = input.shape.clone();
    shape[0] = count;
    Input {
        shape,
        input_ids: cut(&input.input_ids),
        attention_mask: input.attention_mask.as_deref().map(cut),
        token_type_ids: input.token_type_ids.as_deref().map(cut),
    }
}

fn append(all: &mut Outputs, part: Outputs) {
    if all.0.is_empty() {
        *all = part;
        return;
    }
    for ((_, to), (_, from)) in all.0.iter_mut().zip(part.0) {
        to.shape[0] += from.shape[0];
        to.data.extend(from.data);
    }
}

fn agree(file: &Path, found: String, wanted: &str) -> Result<(), SessionError> {
    if found == wanted {
        return Ok(());
    }
    Err(SessionError::Digest {
        file: file.to_path_buf(),
        found,
        wanted: wanted.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tract_named_is_the_tract_pinned() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(&format!("tract-core = \"={TRACT}\"")));
    }

    #[test]
    fn made_up_ids_stay_in_the_vocabulary() {
        for (vocab, seq) in [(30_000, 128), (97, 300), (1, 4), (3, 1)] {
            let ids = made_up(vocab, seq);
            assert_eq!(ids.len(), seq);
            assert!(ids.iter().all(|&id| (id as usize) < vocab), "{vocab}");
        }
        assert_eq!(made_up(30_000, 4), [2, 7924, 15_843, 3]);
    }

    #[test]
    fn rows_cut_apart_and_put_together() {
        let input = Input {
            shape: vec![3, 2],
            input_ids: vec![1, 2, 3, 4, 5, 6],
            attention_mask: Some(vec![1, 1, 1, 0, 1, 1]),
            token_type_ids: None,
        };
        let part = slice(&input, 1, 2, 2);
        assert_eq!(
            (part.shape, part.input_ids, part.attention_mask),
            (vec![2, 2], vec![3, 4, 5, 6], Some(vec![1, 0, 1, 1]))
        );
        let logits = |rows: usize, data: &[f32]| {
            Outputs(vec![(
                "logits".to_string(),
                Tensor {
                    shape: vec![rows, 1],
                    data: data.to_vec(),
                },
            )])
        };
        let mut all = Outputs::default();
        append(&mut all, logits(2, &[1.0, 2.0]));
        append(&mut all, logits(1, &[3.0]));
        assert_eq!(all, logits(3, &[1.0, 2.0, 3.0]));
    }
}
