//! The configuration beside sound weights: JSON as Python writes it, YAML of a training run, or fields inside either. The first
//! byte says which.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use thimble::models::checkpoint;
use thimble_fuzz::{Allowance, bounded, fixture, one_line, put, scratch};

/// A value of two bytes of text may stand for one of some hundred in memory; the weights are read as well.
const ALLOWANCE: Allowance = Allowance {
    times: 512,
    bytes: 8 << 20,
};

fn weights() -> &'static [u8] {
    static WEIGHTS: OnceLock<Vec<u8>> = OnceLock::new();
    WEIGHTS.get_or_init(|| std::fs::read(fixture("albert-seq-tiny/model.safetensors")).expect("a fixture"))
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let (name, text) = match kind % 4 {
        0 => ("config.json", rest.to_vec()),
        1 => ("config.yml", rest.to_vec()),
        2 => (
            "config.json",
            [
                &b"{\"n_token\": 97, \"plbert\": {\"hidden_size\": 24, "[..],
                rest,
                b"}}",
            ]
            .concat(),
        ),
        _ => (
            "config.yml",
            [&b"model_params:\n  hidden_size: 24\n"[..], rest].concat(),
        ),
    };
    for old in ["config.json", "config.yml"] {
        let _ = std::fs::remove_file(scratch().join(old));
    }
    put(name, &text);
    put("model.safetensors", weights());
    bounded(data, ALLOWANCE, || match checkpoint::read(scratch()) {
        Ok(source) => assert!(source.config.check().is_ok()),
        Err(e) => one_line(e, &scratch().display().to_string()),
    });
});
