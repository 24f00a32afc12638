//! A list of pieces that is asked which of them a text begins with. In go pieces and their ids, out come prefixes; the memory is
//! that of the pieces themselves, in order.

use super::aligned::Char;

/// Pieces in order of their bytes.
#[derive(Debug, Default)]
pub struct Lexicon {
    pieces: Vec<(Box<str>, u32)>,
    /// Where the pieces of each first byte begin; 257 places.
    first: Vec<usize>,
    longest: usize,
}

impl Lexicon {
    pub fn new(pieces: Vec<(String, u32)>) -> Lexicon {
        let mut pieces: Vec<(Box<str>, u32)> = pieces
            .into_iter()
            .filter(|(piece, _)| !piece.is_empty())
            .map(|(piece, id)| (piece.into(), id))
            .collect();
        pieces.sort();
        let begin = |byte: usize| pieces.partition_point(|(piece, _)| usize::from(piece.as_bytes()[0]) < byte);
        Lexicon {
            first: (0..=256).map(begin).collect(),
            longest: pieces.iter().map(|(p, _)| p.chars().count()).max().unwrap_or(0),
            pieces,
        }
    }

    pub fn get(&self, piece: &str) -> Option<u32> {
        let at = self.pieces.binary_search_by(|(p, _)| (**p).cmp(piece)).ok()?;
        Some(self.pieces[at].1)
    }

    /// Characters of the longest piece.
    pub fn longest_piece(&self) -> usize {
        self.longest
    }

    /// Calls `each` with every piece the text begins with, shortest first: its characters, its id.
    pub fn prefixes(&self, text: &[Char], mut each: impl FnMut(usize, u32)) {
        let (mut low, mut high) = (0, self.pieces.len());
        let mut depth = 0;
        let mut buffer = [0; 4];
        for (count, c) in text.iter().enumerate() {
            for &byte in c.c.encode_utf8(&mut buffer).as_bytes() {
                if depth == 0 {
                    let byte = usize::from(byte);
                    (low, high) = (self.first[byte], self.first[byte + 1]);
                } else {
                    let range = &self.pieces[low..high];
                    // A piece that ends here comes before those that go on.
                    let at = |piece: &str| piece.as_bytes().get(depth).copied();
                    let from = range.partition_point(|(p, _)| at(p) < Some(byte));
                    let to = range.partition_point(|(p, _)| at(p) <= Some(byte));
                    (low, high) = (low + from, low + to);
                }
                depth += 1;
                if low == high {
                    return;
                }
            }
            if let Some((_, id)) = self.pieces.get(low).filter(|(piece, _)| piece.len() == depth) {
                each(count + 1, *id);
            }
        }
    }

    /// Characters of the longest piece the text begins with.
    pub fn longest(&self, text: &[Char]) -> Option<usize> {
        let mut found = None;
        if !self.pieces.is_empty() {
            self.prefixes(text, |count, _| found = Some(count));
        }
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
        let lexicon = Lexicon::new(pieces.iter().map(|p| p.to_string()).zip(0..).collect());
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
