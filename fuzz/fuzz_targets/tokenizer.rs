//! What stands for a tokenizer.json: spiece.model, vocab.txt, or a JSON file beside a good vocabulary. The first byte says which;
//! what is read splits texts.

#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble::models::tokenizer;
use thimble::models::tokenizer_json::Splitter;
use thimble_fuzz::{Allowance, bounded, one_line, put, scratch};

/// A piece of two bytes becomes an entry of three tables.
const ALLOWANCE: Allowance = Allowance {
    times: 512,
    bytes: 8 << 20,
};

const FILES: [&str; 5] = [
    "spiece.model",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];
const VOCAB: &[u8] = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n";

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    for name in FILES {
        // Not there is as good.
        let _ = std::fs::remove_file(scratch().join(name));
    }
    let file = FILES[usize::from(*kind) % FILES.len()];
    if file.ends_with(".json") {
        put("vocab.txt", VOCAB);
    }
    put(file, rest);
    bounded(data, ALLOWANCE, || {
        let made = match tokenizer::named(scratch()) {
            Ok(source) => source.compact().expect("what was made here"),
            Err(e) => return one_line(e, &scratch().display().to_string()),
        };
        // A file the library refuses is one it would refuse at the first text: it says so.
        let Ok(splitter) = Splitter::new(made.as_bytes()) else {
            return;
        };
        for text in ["", "ab a b 1,000 [MASK] <unk>", "É e\u{301} \u{4e2d} \u{2581}"] {
            let _ = splitter.encode(text, Some("a"));
        }
    });
});
