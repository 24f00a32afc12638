//! What a tokenizer.json holds, told before the tokenizers library builds it. In come the file's bytes, out comes what thimble
//! alone reads of it, or what is too large in it.

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Bytes of the longest piece of a vocabulary with scores: SentencePiece's trainer makes pieces of 512 characters at most. The
/// library nests one table per byte and takes them down by recursion.
pub const LONGEST_PIECE: usize = 2 << 10;
/// Bytes of all pieces of a vocabulary from which the library builds such tables, each of some 300 bytes.
const MOST_NESTED: usize = 4 << 20;

#[derive(Deserialize)]
struct File {
    decoder: Option<Decoder>,
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Decoder {
    slow: Option<IgnoredAny>,
    model_max_length: Option<usize>,
}

#[derive(Deserialize)]
struct Model {
    vocab: Option<Listed>,
}

/// The member of a tokenizer.json's `decoder` that holds `Outline::max_length`.
pub const MAX_LENGTH: &str = "model_max_length";

/// What the tokenizers library does not know of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outline {
    /// Whether the file holds the rules of a slow tokenizer.
    pub slow: bool,
    /// Most tokens of an input, as tokenizer_config.json says.
    pub max_length: Option<usize>,
}

/// What thimble alone reads of a tokenizer.json.
///
/// # Errors
/// Where it is no JSON object, or its vocabulary is larger than one that is read.
pub fn read(json: &[u8]) -> Result<Outline, String> {
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(
            "it is no tokenizer.json; thimble export makes one of spiece.model or vocab.txt, beside the model".into(),
        );
    }
    let file: File = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let slow = file.decoder.as_ref().is_some_and(|decoder| decoder.slow.is_some());
    let max_length = file.decoder.and_then(|decoder| decoder.model_max_length);
    let Listed { longest, all } = file.model.and_then(|model| model.vocab).unwrap_or_default();
    if longest > LONGEST_PIECE {
        return Err(format!(
            "a piece of its vocabulary has {longest} bytes, at most {LONGEST_PIECE} are read"
        ));
    }
    if !slow && all > MOST_NESTED {
        return Err(format!(
            "the pieces of its vocabulary have {all} bytes, at most {MOST_NESTED} are read"
        ));
    }
    Ok(Outline { slow, max_length })
}

/// Bytes of a vocabulary's pieces where it is a list of pieces and scores; nothing where it is a table of ids.
#[derive(Clone, Copy, Default)]
struct Listed {
    longest: usize,
    all: usize,
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Listed, D::Error> {
        struct Pieces;
        impl<'de> Visitor<'de> for Pieces {
            type Value = Listed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Listed, A::Error> {
                let mut found = Listed::default();
                while let Some((piece, _)) = list.next_element::<(String, IgnoredAny)>()? {
                    found.longest = found.longest.max(piece.len());
                    found.all += piece.len();
                }
                Ok(found)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Listed, A::Error> {
                while table.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Listed::default())
            }
        }
        from.deserialize_any(Pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_too_large_for_the_library_is_told_before_it_is_built() {
        let file = |slow: &str, pieces: &[String]| {
            let pieces: Vec<String> = pieces.iter().map(|p| format!(r#"["{p}",-1.0]"#)).collect();
            format!(
                r#"{{"decoder":{slow},"model":{{"type":"Unigram","vocab":[{}]}}}}"#,
                pieces.join(",")
            )
        };
        let own = r#"{"type":"Metaspace","slow":{}}"#;
        let (fits, long) = ("a".repeat(LONGEST_PIECE), "a".repeat(LONGEST_PIECE + 1));
        let many = vec![fits.clone(); MOST_NESTED / LONGEST_PIECE + 1];
        let too_long = Err("a piece of its vocabulary has 2049 bytes, at most 2048 are read".to_string());
        let too_many = Err("the pieces of its vocabulary have 4196352 bytes, at most 4194304 are read".to_string());
        let cases = [
            (file("null", std::slice::from_ref(&fits)), Ok(false)),
            (file(own, &[fits]), Ok(true)),
            (file("null", std::slice::from_ref(&long)), too_long.clone()),
            (file(own, std::slice::from_ref(&long)), too_long),
            (file("null", &many), too_many),
            (file(own, &many), Ok(true)),
            (
                format!(r#"{{"model":{{"type":"WordPiece","vocab":{{"{long}":0}}}}}}"#),
                Ok(false),
            ),
            (r#" {"model":{"vocab":null}}"#.into(), Ok(false)),
        ];
        for (json, wanted) in cases {
            assert_eq!(
                read(json.as_bytes()).map(|outline| outline.slow),
                wanted,
                "{}",
                &json[..60.min(json.len())]
            );
        }
    }
}
