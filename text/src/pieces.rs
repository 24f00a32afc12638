//! A vocabulary's pieces in little memory: one string of all of them and three tables of numbers, where a map of strings takes
//! an allocation a piece and a tree of bytes some hundred bytes a node. In go pieces by id, out come ids, texts and the pieces a
//! text begins with.

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// A string, of the file's own bytes where it has no escapes.
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Pieces by id, found by their text.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pieces {
    text: String,
    /// Where each piece ends in `text`, in the order of `ids`.
    ends: Vec<u32>,
    /// Ids in ascending order.
    ids: Vec<u32>,
    /// Places in `ids`, in the order of the pieces' bytes; of equal pieces one.
    sorted: Vec<u32>,
    /// Where the pieces of each first byte begin in `sorted`; 257 places.
    first: Vec<u32>,
}

impl Pieces {
    /// Takes the next piece, whose id is above those before it.
    pub fn push(&mut self, piece: &str, id: u32) -> Result<(), String> {
        self.text.push_str(piece);
        let end = u32::try_from(self.text.len()).map_err(|_| "its vocabulary has more than 4 GiB of text")?;
        self.ends.push(end);
        self.ids.push(id);
        Ok(())
    }

    /// Puts what was pushed in order; of equal pieces the last is found by its text, as in the library's tables.
    pub fn finished(self) -> Pieces {
        self.sorted(|a, b| b.cmp(&a))
    }

    /// The same where of equal pieces the first is found.
    pub fn finished_first(self) -> Pieces {
        self.sorted(|a, b| a.cmp(&b))
    }

    fn sorted(mut self, equal: impl Fn(u32, u32) -> Ordering) -> Pieces {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.ids.shrink_to_fit();
        let mut sorted: Vec<u32> = (0..).take(self.ids.len()).collect();
        // Of equal pieces the one that comes first stays.
        sorted.sort_unstable_by(|&a, &b| self.at(a).cmp(self.at(b)).then_with(|| equal(a, b)));
        sorted.dedup_by(|a, b| self.at(*a) == self.at(*b));
        sorted.shrink_to_fit();
        let begin = |byte: u16| {
            let before = |&place: &u32| self.at(place).bytes().next().is_none_or(|b| u16::from(b) < byte);
            sorted.partition_point(before) as u32
        };
        self.first = (0..=256).map(begin).collect();
        self.sorted = sorted;
        self
    }

    /// How many were pushed.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// All pieces with their ids, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.ids.iter().zip(0..).map(|(&id, place)| (self.at(place), id))
    }

    /// The text of an id.
    pub fn piece(&self, id: u32) -> Option<&str> {
        let place = self.ids.binary_search(&id).ok()?;
        Some(self.at(u32::try_from(place).ok()?))
    }

    /// The id of a text.
    pub fn id(&self, piece: &str) -> Option<u32> {
        let at = self.sorted.binary_search_by(|&place| self.at(place).cmp(piece)).ok()?;
        self.ids.get(self.sorted[at] as usize).copied()
    }

    /// Calls `each` with every piece that `text` begins with, shortest first: its bytes, its id.
    pub fn prefixes(&self, text: impl IntoIterator<Item = u8>, mut each: impl FnMut(usize, u32)) {
        let mut text = text.into_iter().peekable();
        let Some(&byte) = text.peek() else { return };
        let (first, byte) = (&self.first, usize::from(byte));
        let (Some(&low), Some(&high)) = (first.get(byte), first.get(byte + 1)) else {
            return;
        };
        let mut range = &self.sorted[low as usize..high as usize];
        let byte_at = |place: &u32, depth: usize| self.at(*place).as_bytes().get(depth).copied();
        for (depth, byte) in text.enumerate() {
            // Pieces of one beginning mostly agree on the next byte, too: then none is left out.
            let ends = range.first().zip(range.last());
            if !ends.is_some_and(|(a, b)| [a, b].iter().all(|place| byte_at(place, depth) == Some(byte))) {
                let low = range.partition_point(|place| byte_at(place, depth) < Some(byte));
                let high = range.partition_point(|place| byte_at(place, depth) <= Some(byte));
                range = &range[low..high];
            }
            let Some(&shortest) = range.first() else { return };
            if self.at(shortest).len() == depth + 1 {
                each(depth + 1, self.ids[shortest as usize]);
            }
        }
    }

    fn at(&self, place: u32) -> &str {
        let place = place as usize;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.text[start..self.ends[place] as usize]
    }
}

/// Reads a table of pieces and ids; no piece has an allocation of its own meanwhile.
impl<'de> Deserialize<'de> for Pieces {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pieces, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Pieces;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of pieces and ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Pieces, A::Error> {
                let (mut text, mut places) = (String::new(), Vec::new());
                while let Some((Text(piece), id)) = table.next_entry::<Text<'de>, u32>()? {
                    places.push((id, text.len(), piece.len()));
                    text.push_str(&piece);
                }
                places.sort_unstable();
                let mut pieces = Pieces::default();
                for (id, start, length) in places {
                    pieces
                        .push(&text[start..start + length], id)
                        .map_err(A::Error::custom)?;
                }
                Ok(pieces.finished())
            }
        }
        from.deserialize_map(Table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_by_text_by_id_and_at_the_beginning_of_a_text() {
        let mut pieces = Pieces::default();
        let list = ["a", "ab", "", "abc", "b", "é", "ab", "éa", "abd"];
        for (id, piece) in list.iter().enumerate() {
            pieces.push(piece, 2 * id as u32).unwrap();
        }
        let pieces = pieces.finished();
        assert_eq!((pieces.len(), pieces.id("ab"), pieces.id("abcd")), (9, Some(12), None));
        assert_eq!(
            (pieces.piece(2), pieces.piece(3), pieces.piece(10)),
            (Some("ab"), None, Some("é"))
        );
        assert!(pieces.iter().map(|(piece, _)| piece).eq(list));
        let begins = |text: &str| {
            let mut found = Vec::new();
            pieces.prefixes(text.bytes(), |bytes, id| found.push((bytes, id)));
            found
        };
        assert_eq!(begins("abcx"), [(1, 0), (2, 12), (3, 6)]);
        assert_eq!(begins("éab"), [(2, 10), (3, 14)]);
        assert_eq!(begins("è"), []);
        assert_eq!(begins(""), []);
    }
}
