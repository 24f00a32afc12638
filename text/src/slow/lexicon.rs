//! A list of pieces that is asked which of them a text begins with. In go pieces and their ids, which ascend, out come prefixes; the
//! memory is that of the pieces themselves and some numbers.

use super::aligned::Char;
use crate::pieces::Pieces;

/// Pieces in order of their bytes.
#[derive(Debug, Default)]
pub struct Lexicon {
    pieces: Pieces,
    longest: usize,
}

impl Lexicon {
    /// # Errors
    /// Where the pieces are more text than numbers of 32 bits can tell.
    pub fn new<'a>(all: impl Iterator<Item = (&'a str, u32)>) -> Result<Lexicon, String> {
        let (mut pieces, mut longest) = (Pieces::default(), 0);
        for (piece, id) in all.filter(|(piece, _)| !piece.is_empty()) {
            pieces.push(piece, id)?;
            longest = longest.max(piece.chars().count());
        }
        Ok(Lexicon {
            pieces: pieces.finished_first(),
            longest,
        })
    }

    pub fn get(&self, piece: &str) -> Option<u32> {
        self.pieces.id(piece)
    }

    /// Characters of the longest piece.
    pub fn longest_piece(&self) -> usize {
        self.longest
    }

    /// Calls `each` with every piece the text begins with, shortest first: its characters, its id.
    pub fn prefixes(&self, text: &[Char], mut each: impl FnMut(usize, u32)) {
        let bytes = text.iter().flat_map(|c| {
            let mut buffer = [0; 4];
            let length = c.c.encode_utf8(&mut buffer).len();
            buffer.into_iter().take(length)
        });
        let (mut chars, mut passed) = (0, 0);
        self.pieces.prefixes(bytes, |length, id| {
            while let Some(c) = text.get(chars).filter(|_| passed < length) {
                passed += c.c.len_utf8();
                chars += 1;
            }
            each(chars, id);
        });
    }

    /// Characters of the longest piece the text begins with.
    pub fn longest(&self, text: &[Char]) -> Option<usize> {
        let mut found = None;
        self.prefixes(text, |count, _| found = Some(count));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::aligned::aligned;
    use super::*;

    #[test]
    fn prefixes_come_shortest_first() {
        let pieces = ["a", "ab", "abcd", "b", "é", "éa", "", "abc\u{301}"];
        let lexicon = Lexicon::new(pieces.into_iter().zip(0..)).unwrap();
        let cases: [(&str, &[(usize, u32)]); 6] = [
            ("abcde", &[(1, 0), (2, 1), (4, 2)]),
            ("éab", &[(1, 4), (2, 5)]),
            ("xab", &[]),
            ("", &[]),
            ("abc", &[(1, 0), (2, 1)]),
            ("abc\u{301}", &[(1, 0), (2, 1), (4, 7)]),
        ];
        for (text, wanted) in cases {
            let mut found = Vec::new();
            lexicon.prefixes(&aligned(text), |chars, id| found.push((chars, id)));
            assert_eq!(found, wanted, "{text}");
        }
        assert_eq!(lexicon.get("abcd"), Some(2));
        assert_eq!(lexicon.get("abc"), None);
        assert_eq!(Lexicon::default().longest(&aligned("a")), None);
    }
}
