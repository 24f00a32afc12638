//! A checkpoint of torch.save before 1.6: the whole stream, or, where the first byte is odd, what follows a sound beginning
//! (magic number, version, facts about the machine): the pickled object, its keys and the storages.

#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble::models::checkpoint;
use thimble_fuzz::{Allowance, bounded, fixture, one_line, put, scratch};

/// An opcode of one byte may stand for an object, and a tensor's numbers become f32.
const ALLOWANCE: Allowance = Allowance {
    times: 512,
    bytes: 8 << 20,
};

const START: &[u8] =
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.";

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let file = match kind % 2 {
        0 => rest.to_vec(),
        _ => [START, rest].concat(),
    };
    let config = std::fs::read(fixture("albert-seq-tiny/config.json")).expect("a fixture");
    put("config.json", &config);
    put("pytorch_model.bin", &file);
    bounded(&file, ALLOWANCE, || match checkpoint::read(scratch()) {
        Ok(source) => assert!(source.weights.values().all(|w| w.data.iter().all(|x| x.is_finite()))),
        Err(e) => one_line(e, &scratch().display().to_string()),
    });
});
