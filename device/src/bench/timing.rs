//! Times a repeated piece of work honestly: the first run apart, then warm-up, then measured runs whose mean, spread
//! and percentiles are kept. Milliseconds; nothing here knows what is being run.

use std::time::Instant;

use thimble_shared::board::report::{Latency, MOST_SAMPLES, Verdict};

/// Fewer runs than this say nothing of their spread.
const FEWEST: usize = 10;

/// How many runs there are, and what ends them early.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Runs {
    /// Runs before the timed ones, the very first run not counted.
    pub warmup: u32,
    /// The most timed runs.
    pub timed: u32,
    /// Stop earlier when the mean is known this well: the half width of its 95 % interval, in percent of it.
    pub spread_percent: Option<f64>,
    /// Stop earlier when the timed runs have taken this long.
    pub seconds: Option<f64>,
}

impl Runs {
    /// Whether the samples so far are enough.
    fn enough(self, timed_ms: &[f64]) -> bool {
        let n = timed_ms.len();
        if n == 0 {
            return false;
        }
        if self.seconds.is_some_and(|s| timed_ms.iter().sum::<f64>() >= s * 1e3) {
            return true;
        }
        let Some(percent) = self.spread_percent.filter(|_| n >= FEWEST) else {
            return false;
        };
        let (mean, sd) = mean_and_deviation(timed_ms);
        1.96 * sd / (n as f64).sqrt() <= percent / 100.0 * mean
    }
}

/// What the runs took, warm-up left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Timings {
    /// The very first run: cold caches and page faults included.
    pub first_ms: f64,
    /// In the order they were taken.
    pub timed_ms: Vec<f64>,
}

/// Runs `work` once, then `warmup` times, calls `warm` (where counters are reset), then times it `timed` times.
///
/// # Errors
/// The first error of `work`; nothing is timed after it.
pub fn time<E>(runs: Runs, mut work: impl FnMut() -> Result<(), E>, warm: impl FnOnce()) -> Result<Timings, E> {
    let mut once = || {
        let start = Instant::now();
        work().map(|()| start.elapsed().as_secs_f64() * 1e3)
    };
    let first_ms = once()?;
    for _ in 0..runs.warmup {
        once()?;
    }
    // The timed runs must not pay for growing their own list.
    let mut timed_ms = Vec::with_capacity((runs.timed as usize).min(1 << 16));
    warm();
    for _ in 0..runs.timed {
        timed_ms.push(once()?);
        if runs.enough(&timed_ms) {
            break;
        }
    }
    Ok(Timings { first_ms, timed_ms })
}

/// The value at or below which `percent` of the sorted samples lie (nearest rank): always a sample that was measured.
fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n.max(1.0);
    let square: f64 = samples.iter().map(|ms| (ms - mean).powi(2)).sum();
    (mean, (square / (n - 1.0).max(1.0)).sqrt())
}

/// Mean, deviation and percentiles of the timed runs, each of `batch` sequences of `seq` tokens; `None` in each where there
/// were
/// no runs.
pub fn summarize(timed_ms: &[f64], (batch, seq): (usize, usize), warmup: u32) -> Latency {
    let mut sorted = timed_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (mean, sd) = Some(mean_and_deviation(timed_ms))
        .filter(|_| !timed_ms.is_empty())
        .unzip();
    let step = timed_ms.len().div_ceil(MOST_SAMPLES).max(1);
    Latency {
        seq: u32::try_from(seq).unwrap_or(u32::MAX),
        batch: u32::try_from(batch).unwrap_or(u32::MAX),
        runs: u32::try_from(sorted.len()).unwrap_or(u32::MAX),
        warmup,
        mean,
        sd,
        min: percentile(&sorted, 0.0),
        p50: percentile(&sorted, 50.0),
        p90: percentile(&sorted, 90.0),
        p95: percentile(&sorted, 95.0),
        p99: percentile(&sorted, 99.0),
        max: percentile(&sorted, 100.0),
        samples: timed_ms.iter().step_by(step).copied().collect(),
    }
}

/// What the user asked of the board.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Most bytes of peak resident memory.
    pub max_ram: Option<u64>,
    /// Most milliseconds of the 95th percentile.
    pub max_p95_ms: Option<f64>,
    /// The limit of the control groups the process is in, a unit's MemoryMax= among them.
    pub cgroup: Option<u64>,
}

/// Whether the limits hold, with a reason for each that does not. A `max_ram` that nothing can show to hold does not hold.
pub fn judge(limits: Limits, peak_rss: Option<u64>, latency: &Latency) -> Verdict {
    let mut reasons = Vec::new();
    let show = |bytes| bytesize::ByteSize::b(bytes).display().iec();
    // Pages of files may be charged to another group, so a process can be larger than its own group allows.
    if let (Some(limit), Some(peak)) = (limits.cgroup, peak_rss)
        && peak > limit
    {
        reasons.push(format!(
            "peak memory {} is over the {} the control group allows: pages of the model will be read again and again",
            show(peak),
            show(limit)
        ));
    }
    if let Some(limit) = limits.max_ram {
        match peak_rss {
            None => {
                reasons.push("peak memory cannot be read on this system, so --max-ram is not shown to hold".to_string())
            }
            Some(peak) if peak > limit => reasons.push(format!(
                "peak memory {} is over the {} of --max-ram by {}",
                show(peak),
                show(limit),
                show(peak - limit)
            )),
            Some(_) => {}
        }
    }
    if let Some(limit) = limits.max_p95_ms
        && let Some(p95) = latency.p95
        && p95 > limit
    {
        reasons.push(format!("p95 latency {p95:.2} ms is over the {limit} ms of --max-p95"));
    }
    Verdict {
        fits: reasons.is_empty(),
        reasons,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn percentiles_are_samples() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let cases: [(&[f64], [f64; 6]); 3] = [
            (&hundred, [1.0, 50.0, 90.0, 95.0, 99.0, 100.0]),
            (&[5.0], [5.0; 6]),
            (&[2.0, 1.0], [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]),
        ];
        for (samples, expected) in cases {
            let l = summarize(samples, (2, 16), 3);
            let found = [l.min, l.p50, l.p90, l.p95, l.p99, l.max];
            assert_eq!(found, expected.map(Some), "{samples:?}");
            assert_eq!((l.runs as usize, l.warmup, l.batch, l.seq), (samples.len(), 3, 2, 16));
            assert_eq!(l.samples, samples);
        }
        assert_eq!(summarize(&[], (1, 1), 0).p95, None);
        let many: Vec<f64> = (0..1200).map(f64::from).collect();
        let thinned = summarize(&many, (1, 1), 0).samples;
        assert_eq!((thinned.len(), thinned[1]), (400, 3.0));
    }

    #[test]
    fn mean_and_sample_deviation() {
        let l = summarize(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], (1, 1), 0);
        assert_eq!(l.mean, Some(5.0));
        assert!((l.sd.unwrap() - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(summarize(&[3.0], (1, 1), 0).sd, Some(0.0));
    }

    #[test]
    fn first_warmup_and_timed_runs_are_apart() {
        let calls = std::cell::Cell::new(0);
        let mut at_warm = 0;
        let timings = time::<Infallible>(
            Runs {
                warmup: 2,
                timed: 3,
                ..Runs::default()
            },
            || {
                calls.set(calls.get() + 1);
                Ok(())
            },
            || at_warm = calls.get(),
        )
        .unwrap();
        assert_eq!((calls.get(), at_warm, timings.timed_ms.len()), (6, 3, 3));
        let one = Runs {
            timed: 1,
            ..Runs::default()
        };
        assert_eq!(time(one, || Err("stop"), || ()), Err("stop"));
    }

    #[test]
    fn runs_end_when_the_mean_is_known_or_the_time_is_up() {
        let steady = Runs {
            timed: 100,
            spread_percent: Some(5.0),
            ..Runs::default()
        };
        let cases = [
            (steady, vec![10.0; 9], false),
            (steady, vec![10.0; 10], true),
            (steady, [5.0, 15.0].repeat(10), false),
            (steady, [5.0, 15.0].repeat(250), true),
            (
                Runs {
                    seconds: Some(0.1),
                    ..steady
                },
                [5.0, 15.0].repeat(5),
                true,
            ),
            (Runs::default(), vec![10.0; 50], false),
            (
                Runs {
                    seconds: Some(0.0),
                    ..steady
                },
                vec![],
                false,
            ),
        ];
        for (runs, samples, enough) in cases {
            assert_eq!(runs.enough(&samples), enough, "{runs:?} {}", samples.len());
        }
    }

    #[test]
    fn limits_are_judged_with_reasons() {
        let slow = summarize(&[10.0], (1, 16), 0);
        let cases = [
            (Limits::default(), None, true, ""),
            (
                Limits {
                    max_ram: Some(100),
                    max_p95_ms: None,
                    cgroup: None,
                },
                Some(100),
                true,
                "",
            ),
            (
                Limits {
                    max_ram: Some(99),
                    max_p95_ms: None,
                    cgroup: None,
                },
                Some(100),
                false,
                "--max-ram",
            ),
            (
                Limits {
                    max_ram: Some(99),
                    max_p95_ms: None,
                    cgroup: None,
                },
                None,
                false,
                "cannot be read",
            ),
            (
                Limits {
                    max_ram: None,
                    max_p95_ms: Some(10.0),
                    cgroup: None,
                },
                None,
                true,
                "",
            ),
            (
                Limits {
                    max_ram: None,
                    max_p95_ms: Some(9.9),
                    cgroup: None,
                },
                None,
                false,
                "--max-p95",
            ),
            (
                Limits {
                    cgroup: Some(99),
                    ..Limits::default()
                },
                Some(100),
                false,
                "control group",
            ),
        ];
        for (limits, peak, fits, reason) in cases {
            let verdict = judge(limits, peak, &slow);
            assert_eq!(verdict.fits, fits, "{limits:?}");
            assert!(
                fits == verdict.reasons.is_empty() && (fits || verdict.reasons[0].contains(reason)),
                "{verdict:?}"
            );
        }
    }
}
