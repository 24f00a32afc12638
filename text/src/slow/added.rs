//! Added tokens inside a text: in goes a text, out come its stretches, each an added token or text between them. The search is
//! that of `transformers.tokenization_utils.Trie.split`, the stripping that of `PreTrainedTokenizer.tokenize`.

use super::aligned::{Char, string, trim_end, trim_start};
use serde::Deserialize;
use std::collections::HashMap;

/// One entry of `added_tokens` in tokenizer.json; the names are Hugging Face's.
#[derive(Clone, Debug, Deserialize)]
pub struct AddedToken {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
}

/// A stretch of a text.
pub struct Stretch {
    pub chars: Vec<Char>,
    /// The id, where the stretch is an added token.
    pub added: Option<u32>,
}

/// All added tokens of a tokenizer.
pub struct AddedTokens {
    tokens: HashMap<String, AddedToken>,
    /// A trie over characters, the root being 0: the node each leads to from another.
    next: HashMap<(u32, char), u32>,
    /// Of each node whether a token ends there.
    ends: Vec<bool>,
}

/// The node a trie begins with.
const ROOT: u32 = 0;

impl AddedTokens {
    pub fn new(tokens: Vec<AddedToken>) -> AddedTokens {
        let (mut next, mut ends) = (HashMap::new(), vec![false]);
        for token in tokens.iter().filter(|t| !t.content.is_empty()) {
            let mut at = ROOT;
            for c in token.content.chars() {
                let fresh = u32::try_from(ends.len()).unwrap_or(u32::MAX);
                at = *next.entry((at, c)).or_insert(fresh);
                if at == fresh {
                    ends.push(false);
                }
            }
            ends[at as usize] = true;
        }
        let tokens = tokens.into_iter().map(|t| (t.content.clone(), t)).collect();
        AddedTokens { tokens, next, ends }
    }

    fn next(&self, node: u32, c: char) -> Option<u32> {
        self.next.get(&(node, c)).copied()
    }

    fn ends(&self, node: u32) -> bool {
        self.ends[node as usize]
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokens.get(token).map(|t| t.id)
    }

    /// The stretches of a text, white space beside a token stripped where the token asks for it; none is empty.
    pub fn split(&self, text: &[Char]) -> Vec<Stretch> {
        let mut parts: Vec<Vec<Char>> = Vec::new();
        let mut start = 0;
        for end in self.cuts(text) {
            if start < end {
                parts.push(text[start..end].to_vec());
                start = end;
            }
        }
        for i in 0..parts.len() {
            let Some(token) = self.tokens.get(&string(&parts[i])) else {
                continue;
            };
            let right = parts.get(i + 1).and_then(|p| p.first()).map(|c| c.c);
            let left = i.checked_sub(1).and_then(|i| parts[i].last()).map(|c| c.c);
            if token.rstrip && right.is_some() {
                parts[i + 1] = trim_start(&parts[i + 1]).to_vec();
            }
            if token.lstrip && left.is_some() {
                let end = trim_end(&parts[i - 1]).len();
                parts[i - 1].truncate(end);
            }
            if token.single_word && left.is_some_and(|c| c != ' ') {
                let own = std::mem::take(&mut parts[i]);
                parts[i - 1].extend(own);
            } else if token.single_word && right.is_some_and(|c| c != ' ') {
                let own = std::mem::take(&mut parts[i]);
                parts[i + 1].splice(0..0, own);
            }
        }
        let stretch = |chars: Vec<Char>| Stretch {
            added: self.id(&string(&chars)),
            chars,
        };
        parts.into_iter().filter(|p| !p.is_empty()).map(stretch).collect()
    }

    /// Where a text is cut, in the order found. A match begins as early as possible and is as long as possible.
    fn cuts(&self, text: &[Char]) -> Vec<usize> {
        let mut cuts = vec![0];
        // Where a token may have begun, and the node reached.
        let mut open: Vec<(usize, u32)> = Vec::new();
        let mut skip = 0;
        for (current, c) in text.iter().enumerate() {
            if current < skip {
                continue;
            }
            let mut lost = Vec::new();
            let mut matched = false;
            for i in 0..open.len() {
                let (start, node) = open[i];
                if self.ends(node) {
                    let (start, end) = self.longest(text, &open, start, current, &mut skip);
                    cuts.extend([start, end]);
                    matched = true;
                    break;
                }
                match self.next(node, c.c) {
                    Some(next) => open[i].1 = next,
                    None => lost.push(start),
                }
            }
            if matched {
                open.clear();
            } else {
                open.retain(|(start, _)| !lost.contains(start));
            }
            if current >= skip
                && let Some(node) = self.next(ROOT, c.c)
            {
                open.push((current, node));
            }
        }
        if let Some(&(start, _)) = open.iter().find(|(_, node)| self.ends(*node)) {
            cuts.extend([start, text.len()]);
        }
        cuts.push(text.len());
        cuts
    }

    /// Of the tokens begun no later than `start`, the longest: where it begins and ends.
    fn longest(
        &self,
        text: &[Char],
        open: &[(usize, u32)],
        mut start: usize,
        current: usize,
        skip: &mut usize,
    ) -> (usize, usize) {
        let mut end = current;
        for &(begun, mut node) in open {
            if begun > start {
                break;
            }
            // The earlier ones have been moved past the current character already.
            let mut ahead = if begun < start { current + 1 } else { current };
            end = ahead;
            if self.ends(node) {
                (start, end, *skip) = (begun, ahead, ahead);
            }
            while let Some(next) = text.get(ahead).and_then(|c| self.next(node, c.c)) {
                node = next;
                ahead += 1;
                if self.ends(node) {
                    (start, end, *skip) = (begun, ahead, ahead);
                }
            }
        }
        (start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::aligned::aligned;
    use super::*;

    fn tokens(list: &[(&str, bool)]) -> AddedTokens {
        let token = |(id, (content, strips)): (usize, &(&str, bool))| AddedToken {
            id: id as u32,
            content: content.to_string(),
            single_word: false,
            lstrip: *strips,
            rstrip: false,
        };
        AddedTokens::new(list.iter().enumerate().map(token).collect())
    }

    #[test]
    fn a_text_is_split_at_the_longest_tokens() {
        let cases: [(&[(&str, bool)], &str, &[&str]); 7] = [
            (&[("[CLS]", false), ("L", false)], "a[CLS]Lb", &["a", "[CLS]", "L", "b"]),
            (&[("x1", false), ("x100", false)], "x100x10", &["x100", "x1", "0"]),
            (&[("blowing", false), ("lower", false)], "blower", &["b", "lower"]),
            (&[("[MASK]", true)], "a  [MASK] b", &["a", "[MASK]", " b"]),
            (&[("[MASK]", true)], "[MASK][MASK]", &["[MASK]", "[MASK]"]),
            (&[("ab", false)], "aab", &["a", "ab"]),
            (&[("a", false)], "", &[]),
        ];
        for (list, text, wanted) in cases {
            let found: Vec<String> = tokens(list)
                .split(&aligned(text))
                .iter()
                .map(|s| string(&s.chars))
                .collect();
            assert_eq!(found, wanted, "{text}");
        }
    }
}
