//! SentencePiece's precompiled character map: a double-array trie of what is replaced, then the replacements, each ended by a
//! zero byte. Layout: the trie's size in bytes as a little-endian u32, its units (u32), the replacements.
//! <https://github.com/google/sentencepiece/blob/v0.2.0/src/normalizer.cc>, units as in `third_party/darts_clone/darts.h`.

/// Longest replacement in bytes; those of SentencePiece's own rules have at most 33.
const LONGEST: usize = 256;
/// Prefixes of one text that SentencePiece looks at.
const MOST_MATCHES: usize = 32;

/// A precompiled character map.
#[derive(Debug)]
pub struct CharsMap {
    units: Vec<u32>,
    replacements: String,
}

impl CharsMap {
    /// Reads a map whose parts fit together. Memory: one copy of `blob`. A rule that leads nowhere replaces nothing;
    /// [`CharsMap::check`] finds those.
    pub fn new(blob: &[u8]) -> Result<CharsMap, String> {
        let (size, rest) = blob.split_first_chunk().ok_or("its character map is cut short")?;
        let size = u32::from_le_bytes(*size) as usize;
        let Some((trie, replacements)) = rest
            .split_at_checked(size)
            .filter(|_| size.is_multiple_of(4) && size > 0)
        else {
            return Err(format!(
                "its character map declares a trie of {size} bytes, {} follow",
                rest.len()
            ));
        };
        Ok(CharsMap {
            units: trie
                .chunks_exact(4)
                .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]))
                .collect(),
            replacements: std::str::from_utf8(replacements)
                .map_err(|_| "the replacements of its character map are not UTF-8")?
                .to_string(),
        })
    }

    /// Whether every replacement named is there. Walks to each unit that can be reached, once however often it is reached.
    pub fn check(&self) -> Result<(), String> {
        let mut seen = vec![false; self.units.len()];
        let mut open = vec![offset(self.units[0])];
        while let Some(base) = open.pop() {
            for byte in 0..=u8::MAX {
                let at = base ^ usize::from(byte);
                let Some(&unit) = self.units.get(at).filter(|u| label(**u) == u32::from(byte)) else {
                    continue;
                };
                if std::mem::replace(&mut seen[at], true) {
                    continue;
                }
                let next = at ^ offset(unit);
                if has_leaf(unit) {
                    let leaf = self.units.get(next).copied();
                    leaf.and_then(|leaf| self.replacement(leaf))
                        .ok_or("its character map names a replacement that is not there")?;
                }
                open.push(next);
            }
        }
        Ok(())
    }

    fn replacement(&self, leaf: u32) -> Option<&str> {
        let rest = self.replacements.get((leaf & 0x7fff_ffff) as usize..)?;
        let window = &rest.as_bytes()[..rest.len().min(LONGEST + 1)];
        rest.get(..window.iter().position(|&b| b == 0)?)
    }

    /// The longest beginning of `text` that is replaced: its length in bytes, and by what.
    pub fn longest(&self, text: impl Iterator<Item = u8>) -> Option<(usize, &str)> {
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        let mut matches = 0;
        for (i, byte) in text.enumerate() {
            at ^= usize::from(byte);
            let Some(&unit) = self.units.get(at).filter(|u| label(**u) == u32::from(byte)) else {
                break;
            };
            at ^= offset(unit);
            if has_leaf(unit) {
                found = Some((i + 1, *self.units.get(at)?));
                matches += 1;
                if matches == MOST_MATCHES {
                    break;
                }
            }
        }
        let (length, leaf) = found?;
        Some((length, self.replacement(leaf)?))
    }
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

fn label(unit: u32) -> u32 {
    unit & ((1 << 31) | 0xff)
}

fn has_leaf(unit: u32) -> bool {
    (unit >> 8) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of units and replacements.
    fn blob(units: &[u32], replacements: &[u8]) -> Vec<u8> {
        let trie: Vec<u8> = units.iter().flat_map(|u| u.to_le_bytes()).collect();
        [&(trie.len() as u32).to_le_bytes(), trie.as_slice(), replacements].concat()
    }

    /// "a" becomes what stands at `value`: the root leads to 1 ^ 'a' = 0x60, whose leaf is at 0x60 ^ 1.
    fn one_rule(value: u32) -> Vec<u32> {
        let mut units = vec![0; 0x100];
        units[0] = 1 << 10;
        units[0x60] = (1 << 10) | (1 << 8) | u32::from(b'a');
        units[0x61] = value | (1 << 31);
        units
    }

    #[test]
    fn a_map_is_read_or_refused() {
        let map = CharsMap::new(&blob(&one_rule(1), b"\0bc\0")).unwrap();
        assert_eq!(map.longest("ab".bytes()), Some((1, "bc")));
        assert_eq!(map.longest("b".bytes()), None);
        // Each unit leads back to itself.
        let mut circle = vec![(1 << 10) | u32::from(b'a'); 0x100];
        circle[0x61] = u32::from(b'a');
        let long = vec![b'x'; 4 * LONGEST];
        let cases: [(Vec<u8>, &str); 7] = [
            (vec![], "cut short"),
            (vec![8, 0, 0, 0, 1], "declares a trie of 8 bytes"),
            (vec![0xff; 64], "declares a trie of 4294967295 bytes"),
            (blob(&one_rule(9), b"\0bc\0"), "not there"),
            (blob(&one_rule(1), b"\0bc"), "not there"),
            (blob(&one_rule(0), &long), "not there"),
            (blob(&one_rule(1), b"\0\xff\0"), "not UTF-8"),
        ];
        for (bytes, wanted) in cases {
            let found = CharsMap::new(&bytes).and_then(|map| map.check());
            assert!(found.unwrap_err().contains(wanted), "{wanted}");
        }
        let circle = CharsMap::new(&blob(&circle, b"\0")).unwrap();
        assert_eq!(circle.longest(std::iter::repeat_n(b'a', 1000)), None);
    }
}
