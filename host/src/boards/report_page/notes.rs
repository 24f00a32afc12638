//! What reports say beside their figures, each once: a reason, a warning, what energy was read from. Warnings that differ in their numbers
//! alone are one, with the range of the numbers.

use crate::boards::reports::Entry;
use crate::render::text::printable;
use maud::{Markup, html};

/// A text, and the boards of the reports that say it: one for each report.
struct Note {
    text: Vec<Piece>,
    boards: Vec<String>,
}

/// Of a text: words, or a number with the greatest it is elsewhere.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Words(String),
    Number(String, String),
}

/// All notes as a list.
pub(super) fn list(entries: &[Entry]) -> Markup {
    let notes = gather(entries);
    html! {
        @if !notes.is_empty() {
            ul {
                @for note in &notes {
                    li { (written(&note.text)) " " small { "(" (whose(&note.boards, entries.len())) ")" } }
                }
            }
        }
    }
}

fn gather(entries: &[Entry]) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    let mut add = |text: Vec<Piece>, entry: &Entry| {
        let board = printable(&entry.board);
        match notes.iter_mut().find(|note| merges(&note.text, &text)) {
            Some(note) => {
                note.text = widened(&note.text, &text);
                note.boards.push(board);
            }
            None => notes.push(Note {
                text,
                boards: vec![board],
            }),
        }
    };
    for e in entries {
        for reason in &e.report.verdict.reasons {
            add(vec![Piece::Words(format!("no: {reason}"))], e);
        }
    }
    for e in entries {
        for warning in &e.report.warnings {
            add(pieces(&format!("warning: {warning}")), e);
        }
    }
    for e in entries {
        if let Some(energy) = &e.report.energy {
            let idle = energy.idle_watts.map_or(String::new(), |w| format!(", {w:.2} W idle"));
            let text = format!("{:.2} W while running{idle} ({})", energy.watts, energy.sensor);
            add(vec![Piece::Words(text)], e);
        }
    }
    notes
}

/// A text in words and numbers. A digit within a word is none: `int8`, `cpu0`.
fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut words = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let starts = c.is_ascii_digit() && !words.ends_with(|c: char| c.is_alphanumeric() || c == '-' || c == '.');
        if !starts {
            words.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number = rest[..end].trim_end_matches('.');
        rest = &rest[number.len()..];
        pieces.push(Piece::Words(std::mem::take(&mut words)));
        pieces.push(Piece::Number(number.into(), number.into()));
    }
    pieces.push(Piece::Words(words));
    pieces
}

/// Whether two texts have the same words.
fn merges(a: &[Piece], b: &[Piece]) -> bool {
    let same = |(a, b): (&Piece, &Piece)| match (a, b) {
        (Piece::Words(a), Piece::Words(b)) => a == b,
        (Piece::Number(..), Piece::Number(..)) => true,
        _ => false,
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// The first text with each number's range widened by the second's.
fn widened(a: &[Piece], b: &[Piece]) -> Vec<Piece> {
    let value = |text: &str| text.parse::<f64>().unwrap_or(0.0);
    let wider = |(a, b): (&Piece, &Piece)| match (a, b) {
        (Piece::Number(low, high), Piece::Number(least, most)) => Piece::Number(
            if value(least) < value(low) { least } else { low }.clone(),
            if value(most) > value(high) { most } else { high }.clone(),
        ),
        _ => a.clone(),
    };
    a.iter().zip(b).map(wider).collect()
}

fn written(text: &[Piece]) -> String {
    let each = text.iter().map(|piece| match piece {
        Piece::Words(words) => printable(words),
        Piece::Number(low, high) if low == high => low.clone(),
        Piece::Number(low, high) => format!("{low} to {high}"),
    });
    each.collect()
}

/// The boards of a note; how many reports of each, where several say it.
fn whose(boards: &[String], all: usize) -> String {
    if boards.len() == all && all > 1 {
        return format!("all {all} reports");
    }
    let mut counted: Vec<(&str, usize)> = Vec::new();
    for board in boards {
        match counted.iter_mut().find(|(name, _)| name == board) {
            Some((_, count)) => *count += 1,
            None => counted.push((board, 1)),
        }
    }
    let each = counted.into_iter().map(|(board, count)| match count {
        1 => board.to_string(),
        n => format!("{board}: {n} reports"),
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_that_differ_in_numbers_are_one() {
        let spread = |n: u32| {
            pieces(&format!(
                "warning: int8 on cpu0: the runs spread by {n} % of 2.5 ms. Look"
            ))
        };
        assert!(merges(&spread(79), &spread(9)));
        let both = widened(&widened(&spread(79), &spread(9)), &spread(66));
        assert_eq!(
            written(&both),
            "warning: int8 on cpu0: the runs spread by 9 to 79 % of 2.5 ms. Look"
        );
        assert!(!merges(&spread(1), &pieces("warning: the runs spread by 1 %")));
        assert_eq!(written(&pieces("ends with 1.")), "ends with 1.");
        assert_eq!(written(&pieces("")), "");
    }

    #[test]
    fn boards_are_counted() {
        let boards: Vec<String> = ["a", "b", "a"].map(String::from).into();
        assert_eq!(
            (whose(&boards, 4), whose(&boards, 3)),
            ("a: 2 reports, b".into(), "all 3 reports".into())
        );
        assert_eq!(whose(&boards[..1], 1), "a");
    }
}
