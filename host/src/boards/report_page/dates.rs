//! The time of a report as people write it.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// 2026-01-31T12:00:00Z as 31 January 2026, 12:00; a day without a time as a day, and what is no date as it is.
pub(super) fn in_words(stamp: &str) -> String {
    words(stamp).unwrap_or_else(|| stamp.to_string())
}

fn words(stamp: &str) -> Option<String> {
    let (day, time) = stamp
        .split_once('T')
        .map_or((stamp, None), |(day, time)| (day, Some(time)));
    let number = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse::<usize>().ok())?
    };
    let mut parts = day.split('-');
    let (year, month, date) = (parts.next()?, number(parts.next()?)?, number(parts.next()?)?);
    number(year).filter(|_| parts.next().is_none() && (1..=31).contains(&date))?;
    let month = MONTHS.get(month.checked_sub(1)?)?;
    let day = format!("{date} {month} {year}");
    let Some(time) = time else { return Some(day) };
    let (hour, minute) = (time.get(0..2)?, time.get(3..5)?);
    number(hour)
        .zip(number(minute))
        .filter(|_| time.get(2..3) == Some(":"))?;
    Some(format!("{day}, {hour}:{minute}"))
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn dates_are_words_and_anything_else_stays() {
        for (stamp, words) in [
            ("2026-01-31T12:05:00Z", "31 January 2026, 12:05"),
            ("2026-12-01", "1 December 2026"),
            ("2026-13-01", "2026-13-01"),
            ("2026-00-01T", "2026-00-01T"),
            ("2026-01-01Tübermorgen", "2026-01-01Tübermorgen"),
            ("yesterday", "yesterday"),
            ("", ""),
        ] {
            assert_eq!(in_words(stamp), words);
        }
    }
}
