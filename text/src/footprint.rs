//! RAM of a tokenizer, told by its tokenizer.json without building it: in come the file's bytes, out come the bytes that a server
//! of texts needs more than whoever computes token ids. The constants are fitted to the peaks that the kernel counted of a server,
//! over tokenizers of both kinds and several sizes (docs/serve.md).

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use thimble_shared::board::memory::SERVER;

/// The program's own pages that only texts touch, and what one text takes beside its tokens.
const CODE: u64 = 2304 << 10;
/// Tables of numbers beside a piece's text: where it ends, its id, its place in order, its score.
const BESIDE_PIECE: u64 = 20;
/// A character map is held as it was, its replacements apart, and its units as words of the machine; normalizing by it touches code
/// that nothing else does. In units of its base64 text.
const CHARSMAP: u64 = 5;
/// What the library's own tables take beside a piece's text, of models that are kept there: two tables of strings, and the merges.
const OF_LIBRARY: u64 = 400;
/// What the rules of a slow tokenizer hold beside the library's list of its tokens.
const OF_SLOW: u64 = 72;

/// The same of the tokenizer of albert-base-v2: 30000 pieces of 223 KB with scores, and a character map.
pub const ALBERT_RAM: u64 = SERVER + CODE + 30_000 * BESIDE_PIECE + 223_000 + 320_256 * CHARSMAP;

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    normalizer: Option<Normalizer>,
    model: Option<Model>,
    decoder: Option<Decoder>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Normalizer {
    precompiled_charsmap: Option<Length>,
    normalizers: Vec<Normalizer>,
}

impl Normalizer {
    fn charsmap(&self) -> u64 {
        let own = self.precompiled_charsmap.as_ref().map_or(0, |length| length.0);
        own + self.normalizers.iter().map(Normalizer::charsmap).sum::<u64>()
    }
}

#[derive(Deserialize)]
struct Decoder {
    slow: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Model {
    r#type: Option<String>,
    vocab: Vocabulary,
    merges: Option<Listed>,
}

/// Bytes a string has.
struct Length(u64);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Length, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Length, E> {
                Ok(Length(text.len() as u64))
            }
        }
        from.deserialize_str(Text)
    }
}

/// Elements a list has.
struct Listed(u64);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Listed, D::Error> {
        Ok(Listed(Vec::<IgnoredAny>::deserialize(from)?.len() as u64))
    }
}

/// Pieces of a vocabulary, and the bytes of their texts.
#[derive(Clone, Copy, Default)]
struct Vocabulary {
    pieces: u64,
    bytes: u64,
}

impl Vocabulary {
    fn add(&mut self, piece: &Length) {
        self.pieces += 1;
        self.bytes += piece.0;
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Vocabulary, D::Error> {
        struct Pieces;
        impl<'de> Visitor<'de> for Pieces {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_unit<E: Error>(self) -> Result<Vocabulary, E> {
                Ok(Vocabulary::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut found = Vocabulary::default();
                while let Some((piece, _)) = list.next_element::<(Length, IgnoredAny)>()? {
                    found.add(&piece);
                }
                Ok(found)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Vocabulary, A::Error> {
                let mut found = Vocabulary::default();
                while let Some((piece, _)) = table.next_entry::<Length, IgnoredAny>()? {
                    found.add(&piece);
                }
                Ok(found)
            }
        }
        from.deserialize_any(Pieces)
    }
}

/// RAM that serving texts takes beside computing token ids with the tokenizer of this tokenizer.json, bytes; 0 of what is none.
pub fn ram(json: &[u8]) -> u64 {
    let Ok(file) = serde_json::from_slice::<File>(json) else {
        return 0;
    };
    let charsmap = file.normalizer.as_ref().map_or(0, Normalizer::charsmap);
    let Model { r#type, vocab, merges } = file.model.unwrap_or_default();
    let own = matches!(r#type.as_deref(), None | Some("Unigram" | "WordPiece" | "WordLevel"));
    let beside = match own {
        true => BESIDE_PIECE,
        false => OF_LIBRARY,
    };
    let merges = merges.map_or(0, |merges| merges.0) * OF_LIBRARY / 4;
    let slow = match file.decoder.is_some_and(|decoder| decoder.slow.is_some()) {
        true => vocab.pieces * OF_SLOW + vocab.bytes,
        false => 0,
    };
    SERVER + CODE + vocab.bytes + vocab.pieces * beside + merges + slow + charsmap * CHARSMAP
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(kind: &str, vocab: &str, more: &str) -> Vec<u8> {
        format!(r#"{{"model":{{"type":"{kind}","vocab":{vocab}}}{more}}}"#).into_bytes()
    }

    #[test]
    fn it_grows_with_pieces_and_character_maps() {
        let list = |n: usize| format!("[{}]", vec![r#"["ab",-1.0]"#; n].join(","));
        let table = |n: usize| {
            let pieces: Vec<String> = (0..n).map(|id| format!(r#""{id:04}":{id}"#)).collect();
            format!("{{{}}}", pieces.join(","))
        };
        let least = SERVER + CODE;
        let charsmap =
            r#","normalizer":{"type":"Sequence","normalizers":[{"type":"Precompiled","precompiled_charsmap":"AAAA"}]}"#;
        let slow = r#","decoder":{"type":"Metaspace","slow":{}}"#;
        let cases = [
            (json("Unigram", &list(10), ""), least + 10 * (2 + BESIDE_PIECE)),
            (json("WordPiece", &table(10), ""), least + 10 * (4 + BESIDE_PIECE)),
            (
                json("Unigram", &list(1), charsmap),
                least + 2 + BESIDE_PIECE + 4 * CHARSMAP,
            ),
            (json("Unigram", &list(1), slow), least + 4 + BESIDE_PIECE + OF_SLOW),
            (json("BPE", &table(1), ""), least + 4 + OF_LIBRARY),
            (b"no json".to_vec(), 0),
        ];
        for (json, want) in cases {
            assert_eq!(ram(&json), want, "{}", String::from_utf8_lossy(&json));
        }
    }
}
