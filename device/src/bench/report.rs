//! A bench: what is looked at before a model is loaded, the timed runs, and the report of both.

use std::path::Path;
use std::time::{Duration, Instant};

use thimble_shared::board::report::{
    self, EngineReport, Faults, Memory, ModelReport, OpTime, ProfileReport, Report, Thermal,
};

use super::timing::{Limits, Runs, Timings, judge, summarize, time};
use super::warnings::{Observed, warnings};
use crate::Input;
use crate::image::mmap::ModelFile;
use crate::image::pages;
use crate::platform::power::{self, Sampler, Sensor};
use crate::platform::process::{self, Resident};
use crate::platform::thermal::{self, Throttle};
use crate::platform::{board, control};
use crate::session::{Held, InputSource, Session, SessionError, agree};

/// Timed runs of a bench that ends by itself.
const UNTIL_ENOUGH: u32 = 100_000;

/// Runs that are timed where nothing else ends the bench.
pub const DEFAULT_RUNS: u32 = 50;
/// Runs before them.
pub const DEFAULT_WARMUP: u32 = 5;
/// Seconds of timed runs where only their spread ends the bench.
pub const DEFAULT_SECONDS: f64 = 60.0;

/// Runs a profile is taken of.
const PROFILED: u32 = 10;

/// How long to measure, and what a figure is held against.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BenchOptions {
    /// Timed runs; [`DEFAULT_RUNS`] where nothing else ends the bench.
    pub runs: Option<u32>,
    /// Runs before them; [`DEFAULT_WARMUP`] where left out.
    pub warmup: Option<u32>,
    /// Half width of the mean's 95 % interval at which the bench ends, in percent of the mean.
    pub spread_percent: Option<f64>,
    /// Seconds of timed runs at which the bench ends.
    pub seconds: Option<f64>,
    /// Whether a profile per op and layer follows.
    pub profile: bool,
    /// Most bytes of peak memory.
    pub max_ram: Option<u64>,
    /// Most milliseconds of the 95th percentile.
    pub max_p95_ms: Option<f64>,
    /// Cores the process was held to, for the report.
    pub pinned: Vec<u32>,
    /// SHA-256 that the file must have, checked after measuring; lower-case hexadecimal.
    pub sha256: Option<String>,
}

/// Times one input and reports everything of the board. `start` was taken before the model was opened.
///
/// # Errors
/// Where the input cannot be read or run, and where the file changed underneath or has another digest.
pub fn measure(
    session: &Session,
    source: &InputSource,
    options: &BenchOptions,
    start: &Start,
) -> Result<Report, SessionError> {
    let input = session.input(source)?;
    let rows = input.shape.first().copied().unwrap_or(0);
    if let (Some(file), true) = (&source.file, rows > 1) {
        return Err(SessionError::OneSequence {
            file: file.clone(),
            rows,
        });
    }
    let runs = runs(options);
    let (timings, faults, readings) = timed(session, &input, runs, start.sensor.as_ref())?;
    let seq = input.shape.last().copied().unwrap_or(0);
    let sequences = input.shape.iter().rev().skip(1).product::<usize>();
    let memory = Memory {
        predicted: Some(session.predicted(sequences, seq)),
        ..Resident::now().since(start.resident)
    };
    let profile = options.profile.then(|| profile(session, &input)).transpose()?;
    let thermal = Thermal {
        start_c: start.celsius,
        end_c: thermal::celsius(),
        throttled: Throttle::now().since(start.throttle),
    };
    let board = board::board();
    let latency_ms = summarize(&timings.timed_ms, (sequences, seq), runs.warmup);
    let sensor = start.sensor.as_ref();
    let energy = sensor.and_then(|s| power::energy(s, start.idle_watts, &readings, &latency_ms));
    let limits = Limits {
        max_ram: options.max_ram,
        max_p95_ms: options.max_p95_ms,
        cgroup: board.cgroup_limit,
    };
    let verdict = judge(limits, memory.peak_rss, &latency_ms);
    let mut warnings = warnings(&Observed {
        board: &board,
        latency: &latency_ms,
        faults: &faults,
        thermal: &thermal,
        energy: energy.as_ref(),
        load: start.load,
        threads: session.engine.threads(),
    });
    // Last of all: reading the whole file warms the page cache and would change what was measured.
    let sha256 = digest(session, options, &mut warnings)?;
    Ok(Report {
        schema: report::SCHEMA,
        model: ModelReport {
            sha256: Some(sha256),
            ..session.model()
        },
        board,
        engine: EngineReport {
            pinned: options.pinned.clone(),
            ..session.engine_report()
        },
        load_ms: Some(session.load_ms),
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

/// How many runs the options ask for, and what ends them.
fn runs(options: &BenchOptions) -> Runs {
    Runs {
        warmup: options.warmup.unwrap_or(DEFAULT_WARMUP),
        timed: options.runs.unwrap_or(match (options.spread_percent, options.seconds) {
            (None, None) => DEFAULT_RUNS,
            _ => UNTIL_ENOUGH,
        }),
        spread_percent: options.spread_percent,
        // Without a limit of time a restless board would never be done.
        seconds: options.seconds.or(options.spread_percent.map(|_| DEFAULT_SECONDS)),
    }
}

/// The runs' times; of the timed ones also the page faults and the power in watts.
fn timed(
    session: &Session,
    input: &Input,
    runs: Runs,
    sensor: Option<&Sensor>,
) -> Result<(Timings, Faults, Vec<f64>), SessionError> {
    let (mut before, mut sampler) = (None, None);
    let timings = time(
        runs,
        || session.engine.run(input).map(drop).map_err(SessionError::Run),
        || {
            sampler = sensor.and_then(Sampler::start);
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
    Ok((timings, faults, readings))
}

/// The file's SHA-256. There is no report of a file that somebody wrote to before this was done.
fn digest(session: &Session, options: &BenchOptions, warnings: &mut Vec<String>) -> Result<String, SessionError> {
    let sha256 = session.held.sha256()?;
    session.unchanged()?;
    if let Some(wanted) = &options.sha256 {
        agree(&session.file, sha256.clone(), wanted)?;
    }
    if let Held::Mapped(file) = &session.held
        && !file.in_place()
    {
        warnings.push(format!(
            "{} is another file by now, or gone: figures and SHA-256 are those of the one that was opened",
            session.file.display()
        ));
    }
    Ok(sha256)
}

/// Where the time goes, over as many runs as make some steady means.
fn profile(session: &Session, input: &Input) -> Result<ProfileReport, SessionError> {
    session.engine.profile().start();
    let mut whole = Duration::ZERO;
    for _ in 0..PROFILED {
        let begin = Instant::now();
        session.engine.run(input).map_err(SessionError::Run)?;
        whole += begin.elapsed();
    }
    let times = session.engine.profile().stop();
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
        let cold = drop.map(|model| pages::drop_from_cache(model.file()));
        Start {
            load: control::load_average(),
            cold,
            resident: Resident::now(),
            celsius: thermal::celsius(),
            throttle: Throttle::now(),
            sensor,
            idle_watts,
        }
    }
}
