//! Answers as a person reads them.

use super::{Answer, Blank, Entity, Fill, SHOWN, Scored, Span, Tag};
use std::fmt;
use thimble_shared::terminal::printable;

/// Rows of a label list printed before the rest becomes a count.
const PRINTED: usize = 10;

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Labels { labels } => scores(f, labels, None),
            Answer::Value { name, value } => writeln!(f, "{} = {value}", printable(name)),
            Answer::Values { labels } => labels
                .iter()
                .try_for_each(|l| writeln!(f, "{} = {}", printable(&l.label), l.score as f32)),
            Answer::Tags { spans, .. } if spans.is_empty() => writeln!(f, "no entity: every token is outside (O)"),
            Answer::Tags { spans, .. } => {
                let text = |e: &Entity| {
                    let tokens = || format!("tokens {} to {}", e.first, e.last);
                    e.text.clone().unwrap_or_else(tokens)
                };
                let rows = spans.iter().map(|e| (text(e), e.label.as_str(), e.score));
                tagged(f, &rows.collect::<Vec<_>>())
            }
            Answer::Fills { blanks } => print_blanks(f, blanks),
            Answer::PreTraining {
                blanks,
                in_order,
                swapped,
            } => {
                print_blanks(f, blanks)?;
                writeln!(
                    f,
                    "order: in order {:.2} %, swapped {:.2} %",
                    in_order * 100.0,
                    swapped * 100.0
                )
            }
            Answer::Span(span) => print_span(f, span),
            Answer::Choice { chosen, choices } => scores(f, choices, Some(*chosen)),
            Answer::Hidden {
                shape,
                mean,
                std,
                min,
                max,
                first_token,
                pooled,
            } => {
                writeln!(
                    f,
                    "last_hidden_state {shape:?}: mean {mean:.6}, std {std:.6}, {min:.6} to {max:.6}"
                )?;
                writeln!(f, "first token: {}", first_numbers(first_token))?;
                match pooled {
                    Some(pooled) => writeln!(f, "pooler_output: {}", first_numbers(pooled)),
                    None => Ok(()),
                }
            }
            Answer::Embedding { embedding } => print_embedding(f, "sentence_embedding", embedding),
            Answer::Embeddings {
                embeddings,
                cosine,
                cosines,
            } => {
                for (number, embedding) in (1..).zip(embeddings) {
                    print_embedding(f, &format!("text {number}"), embedding)?;
                }
                if let Some(cosine) = cosine {
                    return writeln!(f, "cosine {cosine:.6}");
                }
                writeln!(f, "cosines")?;
                cosines.iter().try_for_each(|row| {
                    let row: Vec<String> = row.iter().map(|cosine| format!("{cosine:9.6}")).collect();
                    writeln!(f, "{}", row.join(" "))
                })
            }
        }
    }
}

/// Every token with its tag, as `--per-token` prints it; other answers as they are.
pub fn per_token(answer: &Answer) -> String {
    struct Tokens<'a>(&'a [Tag]);
    impl fmt::Display for Tokens<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let rows = self.0.iter().map(|t| (t.text.clone(), t.label.as_str(), t.score));
            tagged(f, &rows.collect::<Vec<_>>())
        }
    }
    match answer {
        Answer::Tags { tokens, .. } => Tokens(tokens).to_string(),
        other => other.to_string(),
    }
}

/// Texts with a label and its score, one a line.
fn tagged(f: &mut fmt::Formatter<'_>, rows: &[(String, &str, f64)]) -> fmt::Result {
    let texts: Vec<_> = rows.iter().map(|(text, ..)| printable(text)).collect();
    let width = texts.iter().map(|t| t.chars().count()).max().unwrap_or(0);
    texts.iter().zip(rows).try_for_each(|(text, (_, label, score))| {
        writeln!(f, "{text:width$}  {}  {:.2} %", printable(label), score * 100.0)
    })
}

fn print_span(f: &mut fmt::Formatter<'_>, span: &Span) -> fmt::Result {
    match (&span.text, span.first, span.last) {
        (_, Some(first), Some(last)) => {
            if let Some(text) = &span.text {
                writeln!(f, "{}", printable(text))?;
            }
            write!(f, "tokens {first} to {last}")?;
            if let (Some(window), true) = (span.window, span.windows > 1) {
                write!(f, " of window {} of {}", window + 1, span.windows)?;
            }
        }
        _ => write!(f, "no answer")?,
    }
    writeln!(f, ", {:.2} %", span.score * 100.0)
}

fn print_embedding(f: &mut fmt::Formatter<'_>, name: &str, embedding: &[f32]) -> fmt::Result {
    let shown = &embedding[..embedding.len().min(SHOWN)];
    writeln!(f, "{name} [{}]: {}", embedding.len(), first_numbers(shown))
}

fn first_numbers(numbers: &[f32]) -> String {
    numbers.iter().map(|x| format!("{x:.6}")).collect::<Vec<_>>().join(" ") + " ..."
}

fn scores(f: &mut fmt::Formatter<'_>, all: &[Scored], chosen: Option<usize>) -> fmt::Result {
    let shown = if chosen.is_some() {
        all.len()
    } else {
        all.len().min(PRINTED)
    };
    let width = all[..shown]
        .iter()
        .map(|s| printable(&s.label).chars().count())
        .max()
        .unwrap_or(0);
    for (i, one) in all[..shown].iter().enumerate() {
        let mark = match chosen {
            Some(chosen) if chosen == i => "> ",
            Some(_) => "  ",
            None => "",
        };
        writeln!(f, "{mark}{:width$}  {:6.2} %", printable(&one.label), one.score * 100.0)?;
    }
    if shown < all.len() {
        writeln!(f, "... and {} more", all.len() - shown)?;
    }
    Ok(())
}

fn print_blanks(f: &mut fmt::Formatter<'_>, blanks: &[Blank]) -> fmt::Result {
    for blank in blanks {
        let fill = |c: &Fill| {
            // `▁` is the vocabulary's leading space.
            let token = c
                .token
                .as_ref()
                .map_or(c.id.to_string(), |t| printable(t.trim_start_matches('▁')));
            format!("{token} {:.2} %", c.score * 100.0)
        };
        let fills: Vec<String> = blank.fills.iter().map(fill).collect();
        writeln!(f, "[MASK] at token {}: {}", blank.position, fills.join(", "))?;
    }
    Ok(())
}
