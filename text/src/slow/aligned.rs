//! Text whose characters know which bytes of the original they stand for, and the string operations of Python that the slow
//! tokenizers use on it: `strip`, `split`, `lower`, and Unicode's normal forms.

use super::tables;
use unicode_normalization::char::{canonical_combining_class, compose, decompose_canonical, decompose_compatible};

/// A character and the bytes of the original text it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Char {
    pub c: char,
    pub start: usize,
    pub end: usize,
}

/// The characters of `text`, each standing for itself.
pub fn aligned(text: &str) -> Vec<Char> {
    let one = |(start, c): (usize, char)| Char {
        c,
        start,
        end: start + c.len_utf8(),
    };
    text.char_indices().map(one).collect()
}

pub fn string(chars: &[Char]) -> String {
    chars.iter().map(|c| c.c).collect()
}

/// Whether a table of ranges holds a character.
pub fn within(table: &[(u32, u32)], c: char) -> bool {
    let code = u32::from(c);
    let after = table.partition_point(|&(_, last)| last < code);
    table.get(after).is_some_and(|&(first, _)| first <= code)
}

/// `str.isdigit` of one character.
pub fn is_digit(c: char) -> bool {
    within(&tables::DIGITS, c)
}

/// `str.isspace` of one character: more than Unicode's White_Space by the four separators of ASCII.
pub fn is_space(c: char) -> bool {
    matches!(c, '\u{1c}'..='\u{1f}') || c.is_whitespace()
}

pub fn trim_start(chars: &[Char]) -> &[Char] {
    let first = chars.iter().position(|c| !is_space(c.c)).unwrap_or(chars.len());
    &chars[first..]
}

pub fn trim_end(chars: &[Char]) -> &[Char] {
    let end = chars.iter().rposition(|c| !is_space(c.c)).map_or(0, |last| last + 1);
    &chars[..end]
}

/// `str.split()`: the runs without white space.
pub fn words(chars: &[Char]) -> impl Iterator<Item = &[Char]> {
    chars.split(|c| is_space(c.c)).filter(|word| !word.is_empty())
}

/// `str.lower` of the whole: a capital sigma at the end of a word becomes the final one.
pub fn lower(chars: &[Char]) -> Vec<Char> {
    let whole = string(chars).to_lowercase();
    let mut lowered = whole.chars();
    let mut out = Vec::with_capacity(chars.len());
    for from in chars {
        let count = from.c.to_lowercase().count();
        let to = lowered.by_ref().take(count).map(|c| Char { c, ..*from });
        if is_assigned(from.c) {
            out.extend(to);
        } else {
            to.for_each(drop);
            out.push(*from);
        }
    }
    out
}

/// Every character in lower case by itself.
pub fn lower_one(from: Char) -> impl Iterator<Item = Char> {
    let known = is_assigned(from.c);
    let lowered = known.then(|| from.c.to_lowercase()).into_iter().flatten();
    let same = (!known).then_some(from.c);
    lowered.chain(same).map(move |c| Char { c, ..from })
}

/// Whether the tables' version of Unicode gives a character forms of its own: newer ones have more characters, and Python
/// knows nothing of those.
fn is_assigned(c: char) -> bool {
    c.is_ascii() || !within(&tables::OTHER, c)
}

/// Replaces every `from` by one character.
pub fn replace(chars: &[Char], from: [char; 2], to: char) -> Vec<Char> {
    let mut out = Vec::with_capacity(chars.len());
    let mut at = 0;
    while let Some(&first) = chars.get(at) {
        match chars.get(at + 1) {
            Some(second) if [first.c, second.c] == from => {
                out.push(Char {
                    c: to,
                    start: first.start,
                    end: second.end,
                });
                at += 2;
            }
            _ => {
                out.push(first);
                at += 1;
            }
        }
    }
    out
}

/// NFKD where `compatible`, otherwise NFD.
pub fn decompose(chars: &[Char], compatible: bool) -> Vec<Char> {
    let mut out: Vec<Char> = Vec::with_capacity(chars.len());
    for from in chars {
        let each = |c| out.push(Char { c, ..*from });
        if !is_assigned(from.c) {
            out.push(*from);
        } else if compatible {
            decompose_compatible(from.c, each);
        } else {
            decompose_canonical(from.c, each);
        }
    }
    // Marks stand in the order of their classes.
    out.chunk_by_mut(|a, b| is_mark(a.c) == is_mark(b.c))
        .filter(|run| is_mark(run[0].c))
        .for_each(|marks| marks.sort_by_key(|m| class(m.c)));
    out
}

/// NFC.
pub fn normal_form_c(chars: &[Char]) -> Vec<Char> {
    let mut out: Vec<Char> = Vec::with_capacity(chars.len());
    let mut starter = None;
    let mut last = 0;
    for next in decompose(chars, false) {
        let class = class(next.c);
        if let Some(at) = starter {
            let base: Char = out[at];
            let free = out.len() == at + 1 || last < class;
            if let Some(c) = free.then(|| compose(base.c, next.c)).flatten() {
                out[at] = Char {
                    c,
                    start: base.start,
                    end: base.end.max(next.end),
                };
                continue;
            }
        }
        if class == 0 {
            starter = Some(out.len());
        }
        last = class;
        out.push(next);
    }
    out
}

/// `unicodedata.combining`: whether a character's combining class is not 0.
pub fn is_mark(c: char) -> bool {
    class(c) != 0
}

fn class(c: char) -> u8 {
    if is_assigned(c) {
        canonical_combining_class(c)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_those_of_python() {
        let cases: [(&str, fn(&[Char]) -> Vec<Char>, &str); 9] = [
            ("ΟΔΟΣ ΣΑΣ", lower, "οδος σας"),
            ("İI", lower, "i\u{307}i"),
            ("a\u{301}\u{323}e", |c| decompose(c, false), "a\u{323}\u{301}e"),
            (
                "ﬁ½Ⅳ한",
                |c| decompose(c, true),
                "fi1\u{2044}2IV\u{1112}\u{1161}\u{11ab}",
            ),
            ("\u{209e}\u{a7cb}", |c| lower(&decompose(c, true)), "\u{209e}\u{a7cb}"),
            ("a\u{323}\u{302}", normal_form_c, "\u{1ead}"),
            ("\u{1112}\u{1161}\u{11ab}e\u{301}", normal_form_c, "한é"),
            (
                "\u{1c} a\u{a0}b\u{85}",
                |c| trim_end(trim_start(c)).to_vec(),
                "a\u{a0}b",
            ),
            ("a'''b''", |c| replace(c, ['\'', '\''], '"'), "a\"'b\""),
        ];
        for (text, work, wanted) in cases {
            assert_eq!(string(&work(&aligned(text))), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_composed_stands_for_all_it_came_from() {
        let found = normal_form_c(&aligned("xe\u{301}y"));
        assert_eq!(
            found[1],
            Char {
                c: 'é',
                start: 1,
                end: 4
            }
        );
    }
}
