//! A checkpoint of safetensors: its config.json, the weights' header, or both are the input. The first byte says which; where
//! both are, two zero bytes part them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use thimble::models::checkpoint;
use thimble_fuzz::{Allowance, bounded, fixture, one_line, put, scratch};

/// Weights become f32 whatever they were; the JSON of a config is small.
const ALLOWANCE: Allowance = Allowance {
    times: 64,
    bytes: 8 << 20,
};

fn sound() -> &'static (Vec<u8>, Vec<u8>) {
    static SOUND: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    SOUND.get_or_init(|| {
        let read = |name| std::fs::read(fixture("albert-seq-tiny").join(name)).expect("a fixture");
        (read("config.json"), read("model.safetensors"))
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let (config, weights) = sound();
    match kind % 3 {
        0 => {
            put("config.json", rest);
            put("model.safetensors", weights);
        }
        1 => {
            // The header with a length that fits, and the numbers that belong to the sound one.
            let header = u64::from_le_bytes(weights[..8].try_into().expect("a header")) as usize;
            let file = [&(rest.len() as u64).to_le_bytes()[..], rest, &weights[8 + header..]].concat();
            put("config.json", config);
            put("model.safetensors", &file);
        }
        _ => {
            let at = rest.windows(2).position(|w| w == [0, 0]).unwrap_or(0);
            put("config.json", if at == 0 { config } else { &rest[..at] });
            put("model.safetensors", &rest[(at + 2).min(rest.len())..]);
        }
    }
    bounded(data, ALLOWANCE, || match checkpoint::read(scratch()) {
        Ok(source) => assert!(source.weights.values().all(|w| w.data.iter().all(|x| x.is_finite()))),
        Err(e) => one_line(e, &scratch().display().to_string()),
    });
});
