//! Ticks of axes at round figures: from 0 up, of bytes and of losses on logarithmic axes, of shares below 100 %. Values in, the values
//! and labels of ticks out; where a tick lies is the drawing's own business.

/// Round steps from 0 to the first at or beyond `most`: at most `count` and at least one. Nothing rounds worse than 1, 2 or 5.
pub(crate) fn from_zero(most: f64, count: usize) -> Vec<f64> {
    let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
    let raw = most / count.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|m| m * power >= raw * (1.0 - 1e-9))
        .unwrap_or(10.0)
        * power;
    let last = (most / step * (1.0 - 1e-9)).ceil().max(1.0) as u32;
    // Rounded, so that 3 × 0.1 is written as people write it.
    let tick = |at: u32| (f64::from(at) * step / power * 10.0).round() / 10.0 * power;
    (0..=last).map(tick).collect()
}

/// A tick of [`from_zero`] in words: no more digits than it has.
pub(crate) fn plain(value: f64) -> String {
    let rounded = (value * 1e9).round() / 1e9;
    format!("{rounded}")
}

/// Sizes that are round in the unit people read them in, within `low..=high` bytes: as few as make `least` of them, in steps like
/// 1, 2, 5 before finer ones. With its label each.
pub(crate) fn bytes(low: f64, high: f64, least: usize) -> Vec<(f64, String)> {
    const FINER: [&[u32]; 5] = [
        &[10],
        &[10, 20, 50],
        &[10, 15, 20, 30, 40, 60, 80],
        &[10, 12, 14, 16, 18, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90],
        &[],
    ];
    let mut ticks = Vec::new();
    for steps in FINER {
        let found = match steps {
            // A narrow range: even steps of whatever size.
            [] => even(low, high, least),
            steps => round(low, high, steps),
        };
        ticks = found;
        if ticks.len() >= least {
            break;
        }
    }
    ticks
}

const UNITS: [(&str, f64); 4] = [("B", 1.0), ("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0)];

/// Tenths of 1, 10 and 100 in each unit up to the next.
fn round(low: f64, high: f64, tenths: &[u32]) -> Vec<(f64, String)> {
    let mut ticks = Vec::new();
    for (unit, factor) in UNITS {
        for power in [0.1, 1.0, 10.0, 100.0] {
            for figure in tenths
                .iter()
                .map(|t| f64::from(*t) * power)
                .filter(|f| *f >= 1.0 && *f < 1000.0)
            {
                let value = (figure * 10.0).round() / 10.0;
                if (low..=high).contains(&(value * factor)) && (unit != "B" || value.fract() == 0.0) {
                    ticks.push((value * factor, format!("{value} {unit}")));
                }
            }
        }
    }
    ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
    ticks.dedup_by(|a, b| a.0 == b.0);
    ticks
}

/// Multiples of one round step in the unit of `high`.
fn even(low: f64, high: f64, least: usize) -> Vec<(f64, String)> {
    let (unit, factor) = *UNITS.iter().rfind(|(_, factor)| *factor <= high).unwrap_or(&UNITS[0]);
    let raw = ((high - low) / factor / least.max(1) as f64).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let step = [5.0, 2.0, 1.0].into_iter().find(|m| m * power <= raw).unwrap_or(1.0) * power;
    let first = (low / factor / step).ceil();
    let ticks = (0..20u32).map(|at| (first + f64::from(at)) * step);
    let ticks = ticks.take_while(|tick| *tick * factor <= high);
    ticks
        .map(|tick| (tick * factor, format!("{} {unit}", plain(tick))))
        .collect()
}

/// Powers of ten around positive values, as exponents: the lowest, the highest, and those with a tick, seven at most.
pub(crate) fn decades(values: impl Iterator<Item = f64>) -> (i32, i32, Vec<i32>) {
    let logs = values.filter(|v| *v > 0.0 && v.is_finite()).map(f64::log10);
    let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    });
    let (low, high) = if low <= high {
        (low.floor() as i32, high.ceil() as i32)
    } else {
        (-1, 0)
    };
    let high = high.max(low + 1);
    let step = (high - low + 5) / 6;
    // From above: a loss of 1 has its tick.
    (
        low,
        high,
        (0..).map(|at| high - at * step).take_while(|e| *e >= low).collect(),
    )
}

/// A power of ten as people write it: 10⁻³, and 1 as 1.
pub(crate) fn power(exponent: i32) -> String {
    if exponent == 0 {
        return "1".into();
    }
    let digits = exponent.to_string();
    let raised = digits.chars().map(|c| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
    });
    format!("10{}", raised.collect::<String>())
}

/// Shares from 100 % down to what holds the least value, in at most six steps: the lowest, and the ticks from it to 1.
pub(crate) fn shares(values: impl Iterator<Item = f64>) -> (f64, Vec<(f64, String)>) {
    let least = values.filter(|v| v.is_finite()).fold(1.0, f64::min).max(0.0);
    let steps = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2];
    let step = steps
        .into_iter()
        .find(|step| (1.0 - least) / step <= 6.0)
        .unwrap_or(0.2);
    let count = ((1.0 - least) / step * (1.0 - 1e-9)).ceil().max(1.0);
    let low = 1.0 - count * step;
    let ticks = (0..=count as usize).map(|i| low + i as f64 * step);
    let label = |v: f64| match step < 0.01 {
        true => format!("{:.1} %", v * 100.0),
        false => format!("{:.0} %", v * 100.0),
    };
    (low, ticks.map(|v| (v, label(v))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_from_zero_are_round_and_reach_beyond_the_most() {
        for (most, ticks) in [
            (47.7, &[0.0, 10.0, 20.0, 30.0, 40.0, 50.0][..]),
            (40.0, &[0.0, 10.0, 20.0, 30.0, 40.0]),
            (0.25, &[0.0, 0.05, 0.1, 0.15, 0.2, 0.25]),
            (6.25, &[0.0, 2.0, 4.0, 6.0, 8.0]),
            (0.0, &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (f64::NAN, &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ] {
            let found = from_zero(most, 5);
            assert!(
                found.iter().zip(ticks).all(|(a, b)| (a - b).abs() < 1e-9) && found.len() == ticks.len(),
                "{most}: {found:?}"
            );
        }
        assert_eq!(
            from_zero(0.25, 5).into_iter().map(plain).collect::<Vec<_>>(),
            ["0", "0.05", "0.1", "0.15", "0.2", "0.25"]
        );
        assert!(from_zero(f64::MAX, 5).len() < 8);
    }

    #[test]
    fn sizes_are_round_in_their_own_unit() {
        let labels = |low: f64, high: f64| {
            bytes(low, high, 4)
                .into_iter()
                .map(|(_, label)| label)
                .collect::<Vec<_>>()
                .join(", ")
        };
        // The frontiers of the two trained models, one of albert-base, and ranges that no step of 1, 2, 5 divides.
        assert_eq!(
            labels(335_619.0, 1_976_067.0),
            "400 KiB, 600 KiB, 800 KiB, 1 MiB, 1.5 MiB"
        );
        assert_eq!(
            labels(179_011.0, 876_483.0),
            "200 KiB, 300 KiB, 400 KiB, 600 KiB, 800 KiB"
        );
        assert_eq!(
            labels(6.1e6, 46.8e6),
            "6 MiB, 8 MiB, 10 MiB, 15 MiB, 20 MiB, 30 MiB, 40 MiB"
        );
        assert_eq!(labels(1e3, 1e9), "1 KiB, 10 KiB, 100 KiB, 1 MiB, 10 MiB, 100 MiB");
        assert_eq!(
            labels(50_000.0, 50_400.0),
            "48.85 KiB, 48.9 KiB, 48.95 KiB, 49 KiB, 49.05 KiB, 49.1 KiB, 49.15 KiB, 49.2 KiB"
        );
        assert!(bytes(7.0, 7.0, 4).len() <= 1);
    }

    #[test]
    fn powers_of_ten_hold_every_positive_value() {
        assert_eq!(
            decades([3e-7, 0.02, 0.0, f64::INFINITY].into_iter()),
            (-7, -1, vec![-1, -2, -3, -4, -5, -6, -7])
        );
        assert_eq!(
            decades([1e-12, 1.0].into_iter()),
            (-12, 0, vec![0, -2, -4, -6, -8, -10, -12])
        );
        assert_eq!(decades(std::iter::empty()), (-1, 0, vec![0, -1]));
        assert_eq!([power(-10), power(0), power(3)], ["10⁻¹⁰", "1", "10³"]);
    }

    #[test]
    fn shares_hold_every_value_and_end_at_all() {
        let (low, ticks) = shares([0.93, 1.0].into_iter());
        assert!(low <= 0.93 && ticks.len() <= 8 && (ticks.last().unwrap().0 - 1.0).abs() < 1e-12);
        assert_eq!(ticks.last().unwrap().1, "100 %");
        assert!(shares([0.0].into_iter()).0.abs() < 1e-9 && shares(std::iter::empty()).0 < 1.0);
    }
}
