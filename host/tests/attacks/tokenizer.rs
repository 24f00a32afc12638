//! Attacks on what stands for a tokenizer.json: SentencePiece models, vocabularies, and the JSON files beside them.

use super::Expect::{Read, Refused};
use super::{Attack, Reader};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A field of a message: its number and its bytes.
fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(value);
    out
}

fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
    let score = [&[0x15], &score.to_le_bytes()[..]].concat();
    bytes(1, &[bytes(1, text.as_bytes()), score, vec![0x18, kind]].concat())
}

/// A good model, and more of it.
fn model(more: &[Vec<u8>]) -> Vec<u8> {
    let own = [
        piece("<pad>", 0.0, 3),
        piece("<unk>", 0.0, 2),
        piece("[CLS]", 0.0, 3),
        piece("[SEP]", 0.0, 3),
        piece("▁a", -1.0, 1),
    ];
    [own.concat(), more.concat()].concat()
}

fn spiece(folder: &Path, more: &[Vec<u8>]) -> PathBuf {
    std::fs::write(folder.join("spiece.model"), model(more)).unwrap();
    folder.to_path_buf()
}

/// A good model whose character map is `blob`.
fn mapped(folder: &Path, blob: &[u8]) -> PathBuf {
    spiece(folder, &[bytes(3, &bytes(2, blob))])
}

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n";

fn vocab(folder: &Path, text: &[u8]) -> PathBuf {
    std::fs::write(folder.join("vocab.txt"), text).unwrap();
    folder.to_path_buf()
}

/// A good vocabulary beside a file.
fn beside(folder: &Path, name: &str, json: &str) -> PathBuf {
    std::fs::write(folder.join(name), json).unwrap();
    vocab(folder, VOCAB.as_bytes())
}

/// Pieces of which each is a part of one text: BPE would merge every one of its cuts.
fn parts(letters: usize, longest: usize) -> Vec<Vec<u8>> {
    let text: String = (0..letters)
        .map(|i| char::from(b'a' + (i * i * 7 + i / 3) as u8 % 26))
        .collect();
    let all = (0..letters).flat_map(|from| (from + 1..=letters.min(from + longest)).map(move |to| (from, to)));
    let all: BTreeSet<&str> = all.map(|(from, to)| &text[from..to]).collect();
    all.into_iter().map(|part| piece(part, -2.0, 1)).collect()
}

/// A tokenizer.json of one Unigram piece.
fn unigram(folder: &Path, piece: &str) -> PathBuf {
    let path = folder.join("tokenizer.json");
    let json = format!(r#"{{"model":{{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["{piece}",-1.0]]}}}}"#);
    std::fs::write(&path, json).unwrap();
    path
}

const fn row(name: &'static str, imitates: &'static str, build: fn(&Path) -> PathBuf, expect: super::Expect) -> Attack {
    Attack {
        name,
        imitates,
        reader: Reader::Tokenizer,
        build,
        expect,
    }
}

pub const ROWS: &[Attack] = &[
    row(
        "a piece that declares four gigabytes",
        "a length that is believed and allocated",
        |f| spiece(f, &[vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]]),
        Refused("does not hold together"),
    ),
    row(
        "a piece twice",
        "two ids for one text, one reader taking the first and another the last",
        |f| spiece(f, &[piece("▁a", -2.0, 1)]),
        Refused("is piece 4 as well"),
    ),
    row(
        "a control symbol that is a piece as well",
        "text that becomes a control symbol",
        |f| spiece(f, &[piece("[CLS]", -2.0, 1)]),
        Refused("is piece 2 as well"),
    ),
    row(
        "a piece of a million letters",
        "tables of the tokenizers library, one inside the other, whose end overflows the stack",
        |f| spiece(f, &[piece(&"a".repeat(1_000_000), -1.0, 1)]),
        Refused("piece 5 has 1000000 bytes"),
    ),
    row(
        "a symbol of the user of a million letters",
        "the same by another kind of piece",
        |f| spiece(f, &[piece(&"a".repeat(1_000_000), 0.0, 4)]),
        Refused("piece 5 has 1000000 bytes"),
    ),
    Attack {
        reader: Reader::TokenizerJson,
        ..row(
            "a tokenizer.json with a piece of a million letters",
            "the same, on its way to a board",
            |f| unigram(f, &"a".repeat(1_000_000)),
            Refused("has 1000000 bytes, at most 2048"),
        )
    },
    row(
        "pieces of a thousand letters",
        "a table of the tokenizers library for each of their bytes",
        |f| {
            let letter = |i: usize| char::from(b'a' + (i % 26) as u8);
            let text = |n: usize| {
                (0..1000)
                    .map(|i| letter((n * n + n * i * i + i / 7) / 3))
                    .collect::<String>()
            };
            let pieces = (0..500).map(|n| piece(&format!("{n}{}", text(n)), -1.0, 1));
            spiece(f, &pieces.collect::<Vec<_>>())
        },
        Read("they are kept as a list"),
    ),
    row(
        "pieces of BPE that are made of each other in every way",
        "a list of merges with a hundred times the bytes of the pieces",
        |f| spiece(f, &[parts(200, 250), vec![bytes(2, &[0x18, 2])]].concat()),
        Refused("in more than 16 ways each"),
    ),
    row(
        "a score that is no number",
        "comparisons that never hold",
        |f| spiece(f, &[piece("b", f32::NAN, 1)]),
        Refused("has the score NaN"),
    ),
    row(
        "an infinite score",
        "sums that are no numbers",
        |f| spiece(f, &[piece("b", f32::NEG_INFINITY, 1)]),
        Refused("has the score -inf"),
    ),
    row(
        "two unknown pieces",
        "an unknown id of the attacker's choice",
        |f| spiece(f, &[piece("b", 0.0, 2)]),
        Refused("2 of its pieces are the unknown one"),
    ),
    row(
        "a piece of a type that does not exist",
        "an index beyond a table",
        |f| spiece(f, &[piece("b", 0.0, 77)]),
        Refused("of type 77"),
    ),
    row(
        "a piece with a zero byte",
        "C strings that end earlier than their length says",
        |f| spiece(f, &[piece("a\0b", 0.0, 1)]),
        Refused("holds a zero byte"),
    ),
    row(
        "byte fallback with one byte",
        "the byte's piece that is not there",
        |f| spiece(f, &[piece("<0x00>", 0.0, 6), bytes(2, &[0x98, 0x02, 1])]),
        Refused("1 of its pieces are bytes"),
    ),
    row(
        "a character map of two bytes",
        "spm_precompiled, which reads the size without looking",
        |f| mapped(f, &[1, 2]),
        Refused("cut short"),
    ),
    row(
        "a trie longer than the map",
        "a slice beyond the end",
        |f| mapped(f, &[0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]),
        Refused("declares a trie of 2147483647 bytes"),
    ),
    row(
        "a trie whose units lead to each other for ever",
        "a walk that does not end",
        |f| {
            let units: Vec<u8> = (0..0x100u32).flat_map(|i| (i | 1 << 10).to_le_bytes()).collect();
            mapped(
                f,
                &[&(units.len() as u32).to_le_bytes(), units.as_slice(), b"\0"].concat(),
            )
        },
        Read("a walk is as long as the text, and the check visits each unit once"),
    ),
    row(
        "a replacement beyond the map",
        "an index that panics, with panics that abort",
        |f| {
            let mut units = vec![0u32; 0x100];
            (units[0], units[0x60], units[0x61]) = (1 << 10, 1 << 10 | 1 << 8 | 0x61, 0x7fff_ffff | 1 << 31);
            let units: Vec<u8> = units.iter().flat_map(|u| u.to_le_bytes()).collect();
            mapped(f, &[&1024u32.to_le_bytes(), units.as_slice(), b"\0"].concat())
        },
        Refused("a replacement that is not there"),
    ),
    row(
        "a model type that does not exist",
        "the wrong way to split a text",
        |f| spiece(f, &[bytes(2, &[0x18, 9])]),
        Refused("its model is of type 9"),
    ),
    row(
        "a hundred thousand one-byte pieces' worth of zeros",
        "a list that grows by the input's zeros",
        |f| {
            std::fs::write(f.join("spiece.model"), [0x0a, 0].repeat(100_000)).unwrap();
            f.to_path_buf()
        },
        Refused("piece 0 is empty"),
    ),
    row(
        "a vocabulary of empty lines",
        "one entry a byte",
        |f| vocab(f, &[b'\n'; 100_000]),
        Refused("has no [UNK]"),
    ),
    row(
        "a vocabulary of a million lines and more",
        "hundreds of bytes for a line of one",
        |f| {
            vocab(
                f,
                [VOCAB.as_bytes(), "b\n".repeat(1 << 20).as_bytes()].concat().as_slice(),
            )
        },
        Refused("more than the 1048576 lines"),
    ),
    row(
        "sixty thousand special tokens in two files",
        "lists that are searched for each of their entries",
        |f| {
            let list = |mark: &str| {
                (0..30_000)
                    .map(|i| format!("\"{mark}{i}\""))
                    .collect::<Vec<_>>()
                    .join(",")
            };
            let json = |mark: &str| format!(r#"{{"additional_special_tokens": [{}]}}"#, list(mark));
            std::fs::write(f.join("special_tokens_map.json"), json("<")).unwrap();
            beside(f, "tokenizer_config.json", &json("["))
        },
        Read("each is looked up"),
    ),
    row(
        "a vocabulary that is one long line",
        "a token as long as the file",
        |f| vocab(f, [VOCAB.as_bytes(), &[b'a'; 1 << 20]].concat().as_slice()),
        Read("it is a token no text has"),
    ),
    row(
        "a vocabulary with zero bytes",
        "a binary file taken for text",
        |f| vocab(f, b"[PAD]\n[UNK]\n\0\n"),
        Refused("holds zero bytes"),
    ),
    row(
        "an added token with the largest id",
        "a table as long as the id says",
        |f| {
            beside(
                f,
                "tokenizer_config.json",
                r#"{"added_tokens_decoder": {"4294967295": {"content": "x"}}}"#,
            )
        },
        Refused("is beyond 16777216"),
    ),
    row(
        "an added token that is a number",
        "a type that is not checked",
        |f| beside(f, "added_tokens.json", r#"{"x": "y"}"#),
        Refused("is no id"),
    ),
    row(
        "special tokens that are lists",
        "a type that is not checked",
        |f| beside(f, "special_tokens_map.json", r#"{"cls_token": ["[CLS]"]}"#),
        Refused("is no token"),
    ),
    row(
        "a configuration that nests a hundred thousand lists",
        "a stack that overflows",
        |f| {
            let json = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
            beside(f, "tokenizer_config.json", &json)
        },
        Refused("invalid JSON"),
    ),
    row(
        "no separator",
        "an input made of ids that are not there",
        |f| beside(f, "tokenizer_config.json", r#"{"sep_token": null}"#),
        Refused("sep_token"),
    ),
];
