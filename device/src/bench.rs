//! Times a repeated piece of work honestly: the first run apart, then warm-up, then measured runs whose mean, spread
//! and percentiles are kept. Milliseconds; nothing here knows what is being run.

use std::time::Instant;

use thimble_shared::report::{Latency, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    pub warmup: u32,
    pub timed: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Timings {
    pub first_ms: f64,
    /// In the order they were taken.
    pub timed_ms: Vec<f64>,
}

/// Runs `work` once, then `warmup` times, calls `warm` (where counters are reset), then times it `timed` times.
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
    let mut timed_ms = Vec::with_capacity(runs.timed as usize);
    warm();
    for _ in 0..runs.timed {
        timed_ms.push(once()?);
    }
    Ok(Timings { first_ms, timed_ms })
}

/// The value at or below which `percent` of the sorted samples lie (nearest rank): always a sample that was measured.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.clamp(1, sorted.len().max(1)) - 1)
        .copied()
        .unwrap_or(0.0)
}

pub fn summarise(timed_ms: &[f64], seq: u32, warmup: u32) -> Latency {
    let mut sorted = timed_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let mean = if sorted.is_empty() {
        0.0
    } else {
        sorted.iter().sum::<f64>() / n
    };
    let sd = if sorted.len() < 2 {
        0.0
    } else {
        (sorted.iter().map(|ms| (ms - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
    };
    Latency {
        seq,
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
    }
}

/// What the user asked of the board.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    pub max_ram: Option<u64>,
    pub max_p95_ms: Option<f64>,
}

pub fn judge(limits: Limits, peak_rss: Option<u64>, latency: &Latency) -> Verdict {
    let mut reasons = Vec::new();
    if let Some(limit) = limits.max_ram {
        let show = |bytes| bytesize::ByteSize::b(bytes).display().iec();
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
        && latency.p95 > limit
    {
        reasons.push(format!(
            "p95 latency {:.2} ms is over the {limit} ms of --max-p95",
            latency.p95
        ));
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
        let cases: [(&[f64], [f64; 6]); 4] = [
            (&hundred, [1.0, 50.0, 90.0, 95.0, 99.0, 100.0]),
            (&[5.0], [5.0; 6]),
            (&[2.0, 1.0], [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]),
            (&[], [0.0; 6]),
        ];
        for (samples, expected) in cases {
            let l = summarise(samples, 16, 3);
            assert_eq!([l.min, l.p50, l.p90, l.p95, l.p99, l.max], expected, "{samples:?}");
            assert_eq!((l.runs as usize, l.warmup, l.seq), (samples.len(), 3, 16));
        }
    }

    #[test]
    fn mean_and_sample_deviation() {
        let l = summarise(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], 1, 0);
        assert_eq!(l.mean, 5.0);
        assert!((l.sd - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(summarise(&[3.0], 1, 0).sd, 0.0);
    }

    #[test]
    fn first_warmup_and_timed_runs_are_apart() {
        let calls = std::cell::Cell::new(0);
        let mut at_warm = 0;
        let timings = time::<Infallible>(
            Runs { warmup: 2, timed: 3 },
            || {
                calls.set(calls.get() + 1);
                Ok(())
            },
            || at_warm = calls.get(),
        )
        .unwrap();
        assert_eq!((calls.get(), at_warm, timings.timed_ms.len()), (6, 3, 3));
        assert_eq!(time(Runs { warmup: 0, timed: 1 }, || Err("stop"), || ()), Err("stop"));
    }

    #[test]
    fn limits_are_judged_with_reasons() {
        let slow = summarise(&[10.0], 16, 0);
        let cases = [
            (Limits::default(), None, true, ""),
            (
                Limits {
                    max_ram: Some(100),
                    max_p95_ms: None,
                },
                Some(100),
                true,
                "",
            ),
            (
                Limits {
                    max_ram: Some(99),
                    max_p95_ms: None,
                },
                Some(100),
                false,
                "--max-ram",
            ),
            (
                Limits {
                    max_ram: Some(99),
                    max_p95_ms: None,
                },
                None,
                false,
                "cannot be read",
            ),
            (
                Limits {
                    max_ram: None,
                    max_p95_ms: Some(10.0),
                },
                None,
                true,
                "",
            ),
            (
                Limits {
                    max_ram: None,
                    max_p95_ms: Some(9.9),
                },
                None,
                false,
                "--max-p95",
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
