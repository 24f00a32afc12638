//! Why figures of a bench should be doubted: governor, clock, heat, load and page faults.

use thimble_shared::board::report::{BoardReport, Energy, Faults, Latency, Thermal};

/// What a bench saw, as far as it bears on whether its figures can be trusted.
pub struct Observed<'a> {
    pub board: &'a BoardReport,
    pub latency: &'a Latency,
    pub faults: &'a Faults,
    pub thermal: &'a Thermal,
    pub energy: Option<&'a Energy>,
    /// Before the bench began.
    pub load: Option<f64>,
    pub threads: usize,
}

/// Why the figures should be doubted, one line each.
pub fn warnings(seen: &Observed) -> Vec<String> {
    let mut found = Vec::new();
    let mut warn = |holds: bool, text: String| {
        if holds {
            found.push(text);
        }
    };
    let board = seen.board;
    if let Some(emulator) = &board.emulated {
        warn(true, format!("this board is {emulator}: its times mean nothing"));
    }
    if let Some(governor) = &board.governor {
        warn(
            governor != "performance",
            format!("governor is {governor}: the clock follows the load; set performance for figures to compare"),
        );
    }
    if let (Some(now), Some(most)) = (board.mhz, board.mhz_max) {
        warn(
            u64::from(now) * 100 < u64::from(most) * 95,
            format!("the clock ended at {now} of {most} MHz"),
        );
    }
    warn(
        seen.thermal.throttled == Some(true),
        "the board was throttled: cool it, or give it a better power supply".into(),
    );
    warn(
        seen.thermal.end_c.is_some_and(|c| c >= 80.0),
        format!(
            "{:.0} °C at the end: close to where boards slow down",
            seen.thermal.end_c.unwrap_or(0.0)
        ),
    );
    if let (Some(mean), Some(sd)) = (seen.latency.mean, seen.latency.sd) {
        warn(
            sd > 0.1 * mean,
            format!(
                "the runs spread by {:.0} % of their mean: something else runs here",
                sd / mean * 100.0
            ),
        );
    }
    warn(
        seen.latency.runs < 10,
        format!("{} runs are too few for percentiles", seen.latency.runs),
    );
    if let Some(major) = seen.faults.major {
        warn(
            major > 0,
            format!(
                "{major} pages were read from storage during the timed runs: RAM is short (--lock keeps the model)"
            ),
        );
    }
    if let Some(energy) = seen.energy {
        warn(
            energy.readings < 10,
            format!(
                "power was read {} times during the timed runs: bench longer (--time 10) for a mean to trust",
                energy.readings
            ),
        );
    }
    if let (Some(load), Some(cores)) = (seen.load, board.cores) {
        let free = f64::from(cores) - seen.threads as f64;
        warn(
            load > free.max(0.0) + 0.5,
            format!("load average was {load:.1} before the bench: other programs compete for the {cores} cores"),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_are_named_and_a_calm_board_has_none() {
        let calm_board = BoardReport {
            governor: Some("performance".into()),
            mhz: Some(1500),
            mhz_max: Some(1500),
            cores: Some(4),
            ..BoardReport::default()
        };
        let calm_latency = Latency {
            runs: 50,
            mean: Some(10.0),
            sd: Some(0.2),
            ..Latency::default()
        };
        let few = Energy {
            sensor: "ina219".into(),
            watts: 3.0,
            idle_watts: None,
            mj_per_inference: 9.0,
            readings: 4,
        };
        let told = |board: &BoardReport, latency: &Latency, major, end_c, throttled, load| {
            let (faults, thermal) = (
                Faults { major, minor: None },
                Thermal {
                    start_c: None,
                    end_c,
                    throttled,
                },
            );
            warnings(&Observed {
                board,
                latency,
                faults: &faults,
                thermal: &thermal,
                energy: (end_c == Some(81.0)).then_some(&few),
                load,
                threads: 4,
            })
        };
        let calm = told(&calm_board, &calm_latency, Some(0), Some(50.0), Some(false), Some(0.1));
        assert_eq!(calm, Vec::<String>::new());
        let board = BoardReport {
            governor: Some("ondemand".into()),
            mhz: Some(600),
            emulated: Some("qemu-system".into()),
            ..calm_board
        };
        let latency = Latency {
            runs: 3,
            sd: Some(2.0),
            ..calm_latency
        };
        let all = told(&board, &latency, Some(7), Some(81.0), Some(true), Some(3.0)).join("\n");
        for part in [
            "qemu-system",
            "ondemand",
            "600 of 1500",
            "throttled",
            "81 °C",
            "20 %",
            "3 runs",
            "7 pages",
            "read 4 times",
            "load average",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
    }
}
