//! The bench report: what one board measured running one model, as `thimble-device bench --json` writes it and the
//! host reads it. Bytes are integers, times are milliseconds; what a board does not offer is `null`, never a guess.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::board::memory::Need;

/// The `schema` number this build writes. A reader takes older numbers and refuses newer ones.
pub const SCHEMA: u32 = 1;

/// A month.
const MOST_MS: f64 = 31.0 * 86_400e3;
/// More than any rack of boards draws.
const MOST_WATTS: f64 = 1e5;
/// 1 PiB.
const MOST_BYTES: f64 = (1u64 << 50) as f64;
/// Of tokens, rows, threads and cores.
const MOST_COUNT: f64 = 1e8;

/// One run of the bench: the model, the board, the engine and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The [`SCHEMA`] the report was written with.
    pub schema: u32,
    /// The file that ran.
    pub model: ModelReport,
    /// What was known of the board while it ran.
    pub board: BoardReport,
    /// The program that ran it, and how.
    pub engine: EngineReport,
    /// From opening the file to the engine being ready to run.
    pub load_ms: Option<f64>,
    /// The first run after loading: page faults and cold caches included.
    pub first_inference_ms: Option<f64>,
    /// Whether the file's pages had been dropped from the page cache before it was opened (`--cold`).
    #[serde(default)]
    pub cold_start: Option<bool>,
    /// Time per pass, ms.
    pub latency_ms: Latency,
    /// Resident memory, bytes.
    pub memory: Memory,
    /// Page faults during the timed runs.
    pub faults: Faults,
    /// Temperature and throttling.
    pub thermal: Thermal,
    /// Where the board has a sensor that tells.
    #[serde(default)]
    pub energy: Option<Energy>,
    /// With `--profile`.
    #[serde(default)]
    pub profile: Option<ProfileReport>,
    /// Why the figures should be doubted, one line each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Whether the limits given to the bench hold.
    pub verdict: Verdict,
}

impl Report {
    /// Figures no board can have; empty when there are none. What reads a report asks first: one such figure would bend
    /// every table, drawing and comparison it comes into.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut within = |what: &str, value: Option<f64>, least: f64, most: f64| {
            if let Some(value) = value.filter(|v| !(least..=most).contains(v)) {
                found.push(format!("{what} is {value}, which is not from {least} to {most}"));
            }
        };
        let l = &self.latency_ms;
        let ranked = [l.min, l.p50, l.p90, l.p95, l.p99, l.max];
        let times = [
            ("load_ms", self.load_ms),
            ("first_inference_ms", self.first_inference_ms),
            ("latency_ms.mean", l.mean),
            ("latency_ms.sd", l.sd),
            ("latency_ms.min", l.min),
            ("latency_ms.p50", l.p50),
            ("latency_ms.p90", l.p90),
            ("latency_ms.p95", l.p95),
            ("latency_ms.p99", l.p99),
            ("latency_ms.max", l.max),
        ];
        times.into_iter().for_each(|(what, ms)| within(what, ms, 0.0, MOST_MS));
        l.samples
            .iter()
            .for_each(|ms| within("latency_ms.samples", Some(*ms), 0.0, MOST_MS));
        for (what, celsius) in [("start_c", self.thermal.start_c), ("end_c", self.thermal.end_c)] {
            within(&format!("thermal.{what}"), celsius, -100.0, 300.0);
        }
        if let Some(e) = &self.energy {
            within("energy.watts", Some(e.watts), 0.0, MOST_WATTS);
            within("energy.idle_watts", e.idle_watts, 0.0, MOST_WATTS);
            within(
                "energy.mj_per_inference",
                Some(e.mj_per_inference),
                0.0,
                MOST_WATTS * MOST_MS,
            );
        }
        let (m, b) = (&self.memory, &self.board);
        let bytes = [
            ("model.bytes", Some(self.model.bytes)),
            ("memory.baseline_rss", m.baseline_rss),
            ("memory.peak_rss", m.peak_rss),
            ("memory.anon", m.anon),
            ("memory.file", m.file),
            ("board.mem_total", b.mem_total),
            ("board.mem_available", b.mem_available),
            ("board.page_size", b.page_size),
        ];
        let weights = self.model.weights.values().map(|bytes| ("model.weights", Some(*bytes)));
        bytes
            .into_iter()
            .chain(weights)
            .for_each(|(what, n)| within(what, n.map(|n| n as f64), 0.0, MOST_BYTES));
        let counts = [
            ("latency_ms.seq", l.seq),
            ("latency_ms.batch", l.batch),
            ("engine.threads", self.engine.threads),
            ("board.cores", b.cores.unwrap_or(0)),
        ];
        counts
            .into_iter()
            .for_each(|(what, n)| within(what, Some(f64::from(n)), 0.0, MOST_COUNT));
        let told: Vec<f64> = ranked.into_iter().flatten().collect();
        if told.windows(2).any(|pair| pair[0] > pair[1]) {
            found.push("latency_ms contradicts itself: min, p50, p90, p95, p99 and max do not rise".into());
        }
        found
    }

    /// The same report from a board whose clock means nothing: what was counted stays, what was timed is `null`.
    pub fn without_times(mut self) -> Report {
        let l = &self.latency_ms;
        self.latency_ms = Latency {
            seq: l.seq,
            batch: l.batch,
            runs: l.runs,
            warmup: l.warmup,
            ..Latency::default()
        };
        (self.load_ms, self.first_inference_ms, self.board.mhz, self.energy) = (None, None, None, None);
        self.profile = None;
        self
    }
}

/// What ran.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// File name without its folder.
    pub file: String,
    /// Of the whole file, lower-case hexadecimal; read after measuring. `None` where it was not computed.
    pub sha256: Option<String>,
    /// Size of the whole file.
    pub bytes: u64,
    /// Weight name to number format, as in the file.
    pub formats: BTreeMap<String, String>,
    /// Weight name to the bytes it takes in the file, scales included.
    #[serde(default)]
    pub weights: BTreeMap<String, u64>,
}

/// What the operating system says of the board; sizes are bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BoardReport {
    /// What the device tree calls the board, e.g. "Raspberry Pi 5 Model B Rev 1.0".
    pub model: Option<String>,
    /// Implementer's part number of the CPU, e.g. "0xd0b"; on big.LITTLE the distinct ones, joined by "+".
    pub cpu_part: Option<String>,
    /// CPU features: on ARM those of the kernel's hwcap ("asimddp", "i8mm"), on x86 the flags kernels are chosen by.
    pub features: Vec<String>,
    /// Logical CPUs.
    pub cores: Option<u32>,
    /// `MemTotal` of /proc/meminfo, bytes.
    pub mem_total: Option<u64>,
    /// `MemAvailable` of /proc/meminfo when the bench ended, bytes.
    pub mem_available: Option<u64>,
    /// The tightest memory limit of the control groups the process is in.
    pub cgroup_limit: Option<u64>,
    /// Bytes.
    pub page_size: Option<u64>,
    /// Release of the kernel, as `uname -r` prints it.
    pub kernel: Option<String>,
    /// Frequency governor of the first core, e.g. "ondemand".
    pub governor: Option<String>,
    /// Frequency of the first core when the bench ended.
    pub mhz: Option<u32>,
    /// The highest that core offers.
    #[serde(default)]
    pub mhz_max: Option<u32>,
    /// Set where the board is software ("qemu-user", "qemu-system"): then memory is real and time is not.
    pub emulated: Option<String>,
}

/// The program that measured, and the options that bear on its figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineReport {
    /// Version of thimble-device.
    pub version: String,
    /// Version of tract it was built with.
    pub tract: String,
    /// Names of the matmul kernels chosen on this CPU.
    pub kernels: Vec<String>,
    /// Threads the engine computes with.
    pub threads: u32,
    /// Whether the model's pages are locked in RAM (`--lock`).
    pub locked: bool,
    /// Whether the model was read into memory of the process's own instead of mapped (`--copy`).
    #[serde(default)]
    pub copied: bool,
    /// Cores the process was held to (`--pin`); empty when the scheduler chose.
    #[serde(default)]
    pub pinned: Vec<u32>,
}

/// Milliseconds per pass over the timed runs. Percentiles are nearest rank: each is a sample that was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Tokens per sequence.
    pub seq: u32,
    /// Sequences in one pass; absent in older reports, which timed one.
    #[serde(default = "one")]
    pub batch: u32,
    /// Timed runs.
    pub runs: u32,
    /// Runs between the first one and the timed ones; not in the figures.
    pub warmup: u32,
    /// Arithmetic mean, ms; `None` where nothing was timed or the board's clock means nothing.
    pub mean: Option<f64>,
    /// Sample standard deviation; 0 for a single run.
    pub sd: Option<f64>,
    /// Fastest timed run, ms.
    pub min: Option<f64>,
    /// Median, ms.
    pub p50: Option<f64>,
    /// 90th percentile, ms.
    pub p90: Option<f64>,
    /// 95th percentile, ms; `--max-p95` is held against it.
    pub p95: Option<f64>,
    /// 99th percentile, ms.
    pub p99: Option<f64>,
    /// Slowest timed run, ms.
    pub max: Option<f64>,
    /// The runs in the order they were taken, thinned evenly to at most [`MOST_SAMPLES`].
    #[serde(default)]
    pub samples: Vec<f64>,
}

fn one() -> u32 {
    1
}

/// Most samples a report keeps.
pub const MOST_SAMPLES: usize = 500;

/// Resident bytes of the process. `anon` and `file` are those at the end of the bench.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Before the model is opened: the program itself.
    pub baseline_rss: Option<u64>,
    /// Highest resident memory since the process started; `--max-ram` is held against it.
    pub peak_rss: Option<u64>,
    /// Memory only this process holds (heap, stacks): cannot be dropped by the kernel.
    pub anon: Option<u64>,
    /// Pages of mapped files: the kernel can drop and reread them unless they are locked.
    pub file: Option<u64>,
    /// What was expected of `peak_rss`.
    #[serde(default)]
    pub predicted: Option<Need>,
}

/// Where the time of an inference goes, in runs apart from the timed ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProfileReport {
    /// Runs the profile is a mean of.
    pub runs: u32,
    /// Mean of one run. The ops and `rest_ms` sum to it.
    pub ms: f64,
    /// One entry per op and layer.
    pub ops: Vec<OpTime>,
    /// What no op accounts for: checking inputs, tract's plan, copying outputs.
    pub rest_ms: f64,
    /// Kinds of work inside the linear maps, ms per run of all threads together.
    pub linear_ms: BTreeMap<String, f64>,
}

/// Time of one op in one layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OpTime {
    /// Name of the op, as the engine's plans call it.
    pub op: String,
    /// Layer of the network from 0; `null` in the embedding and the head.
    pub layer: Option<u32>,
    /// Per run.
    pub ms: f64,
    /// Times it is called per run.
    pub calls: u32,
}

/// Page faults between the end of warm-up and the end of the timed runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Faults {
    /// Faults that waited for storage.
    pub major: Option<u64>,
    /// Faults that memory alone answered.
    pub minor: Option<u64>,
}

/// Heat and its consequences; °C.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Thermal {
    /// Before the model was opened, °C.
    pub start_c: Option<f64>,
    /// After the timed runs, °C.
    pub end_c: Option<f64>,
    /// Whether the clock was held down in between; `None` where nothing on the board tells.
    pub throttled: Option<bool>,
}

/// What the board drew during the timed runs, all of it: what it draws idle is not taken off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// The chip and the rail, e.g. "ina3221 VDD_IN".
    pub sensor: String,
    /// Mean of the readings.
    pub watts: f64,
    /// Before the model was loaded.
    pub idle_watts: Option<f64>,
    /// `watts` times the mean latency.
    pub mj_per_inference: f64,
    /// Readings that `watts` is the mean of.
    pub readings: u32,
}

/// Whether the run met the limits it was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// True where no limit was broken, so also where none was given.
    pub fits: bool,
    /// One line per limit that was asked for and not met.
    pub reasons: Vec<String>,
}

impl Default for Verdict {
    fn default() -> Self {
        Verdict {
            fits: true,
            reasons: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        Report {
            schema: SCHEMA,
            model: ModelReport {
                file: "model.onnx".into(),
                sha256: None,
                bytes: 12_000_000,
                formats: [("word".to_string(), "i8".to_string())].into(),
                weights: BTreeMap::new(),
            },
            board: BoardReport::default(),
            engine: EngineReport {
                threads: 1,
                ..Default::default()
            },
            load_ms: Some(1.5),
            first_inference_ms: Some(20.0),
            cold_start: None,
            latency_ms: Latency {
                seq: 16,
                batch: 1,
                runs: 3,
                ..Default::default()
            },
            memory: Memory::default(),
            faults: Faults::default(),
            thermal: Thermal::default(),
            energy: None,
            profile: None,
            warnings: Vec::new(),
            verdict: Verdict::default(),
        }
    }

    #[test]
    fn what_a_board_does_not_offer_is_null_and_reads_back() {
        let text = serde_json::to_string(&sample()).unwrap();
        for field in [
            "\"cgroup_limit\":null",
            "\"throttled\":null",
            "\"energy\":null",
            "\"sha256\":null",
            "\"major\":null",
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), sample());
    }

    #[test]
    fn every_field_of_the_contract_is_there() {
        let value = serde_json::to_value(sample()).unwrap();
        let contract: [(&str, &[&str]); 9] = [
            ("model", &["file", "sha256", "bytes", "formats"]),
            (
                "board",
                &[
                    "cpu_part",
                    "features",
                    "cores",
                    "mem_total",
                    "mem_available",
                    "cgroup_limit",
                    "page_size",
                    "kernel",
                    "governor",
                    "mhz",
                ],
            ),
            ("engine", &["tract", "kernels", "threads", "locked"]),
            (
                "latency_ms",
                &[
                    "seq", "runs", "warmup", "mean", "sd", "min", "p50", "p90", "p95", "p99", "max",
                ],
            ),
            ("memory", &["baseline_rss", "peak_rss", "anon", "file"]),
            ("faults", &["major", "minor"]),
            ("thermal", &["start_c", "end_c", "throttled"]),
            ("verdict", &["fits", "reasons"]),
            ("", &["schema", "load_ms", "first_inference_ms", "energy"]),
        ];
        for (section, fields) in contract {
            let object = if section.is_empty() { &value } else { &value[section] };
            for field in fields {
                assert!(object.get(field).is_some(), "{section}.{field}");
            }
        }
    }

    #[test]
    fn figures_no_board_can_have_are_named() {
        assert_eq!(sample().problems(), Vec::<String>::new());
        type Spoil = fn(&mut Report);
        let cases: [(Spoil, &str); 9] = [
            (|r| r.latency_ms.p50 = Some(1e300), "latency_ms.p50"),
            (|r| r.latency_ms.samples = vec![1.0, -1.0], "latency_ms.samples"),
            (|r| r.load_ms = Some(f64::NAN), "load_ms is NaN"),
            (|r| r.thermal.end_c = Some(-300.0), "thermal.end_c"),
            (|r| r.memory.peak_rss = Some(u64::MAX), "memory.peak_rss"),
            (|r| r.board.cores = Some(u32::MAX), "board.cores"),
            (
                |r| {
                    r.model.weights.insert("w".into(), 1 << 60);
                },
                "model.weights",
            ),
            (
                |r| (r.latency_ms.p50, r.latency_ms.p95) = (Some(3.0), Some(2.0)),
                "contradicts itself",
            ),
            (
                |r| {
                    r.energy = Some(Energy {
                        sensor: String::new(),
                        watts: 1.0,
                        idle_watts: Some(f64::INFINITY),
                        mj_per_inference: 1.0,
                        readings: 1,
                    })
                },
                "energy.idle_watts is inf",
            ),
        ];
        for (spoil, part) in cases {
            let mut report = sample();
            spoil(&mut report);
            let told = report.problems().join("; ");
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn without_times_keeps_what_was_counted() {
        let mut report = sample();
        report.latency_ms.mean = Some(3.0);
        report.latency_ms.samples = vec![3.0];
        report.memory.peak_rss = Some(7);
        report.energy = Some(Energy {
            sensor: "ina219".into(),
            watts: 2.0,
            idle_watts: None,
            mj_per_inference: 6.0,
            readings: 9,
        });
        let told = report.without_times();
        assert_eq!((told.load_ms, told.latency_ms.mean, &told.energy), (None, None, &None));
        assert!(told.latency_ms.samples.is_empty());
        assert_eq!((told.latency_ms.runs, told.memory.peak_rss), (3, Some(7)));
    }

    #[test]
    fn an_older_report_without_the_added_fields_still_reads() {
        let mut value = serde_json::to_value(sample()).unwrap();
        value["board"].as_object_mut().unwrap().remove("emulated");
        value["board"].as_object_mut().unwrap().remove("model");
        value["board"].as_object_mut().unwrap().remove("mhz_max");
        value["latency_ms"].as_object_mut().unwrap().remove("samples");
        value["latency_ms"].as_object_mut().unwrap().remove("batch");
        value["memory"].as_object_mut().unwrap().remove("predicted");
        for field in ["warnings", "cold_start", "profile", "energy"] {
            value.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(serde_json::from_value::<Report>(value).unwrap(), sample());
    }
}
