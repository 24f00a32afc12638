//! A checkpoint of torch.save: the whole .bin, or, where the first byte is odd, the pickle inside an archive that is otherwise
//! sound and holds three storages.

#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble::models::checkpoint;
use thimble_fuzz::{Allowance, bounded, fixture, one_line, put, scratch};

/// An opcode of one byte may stand for an object, and a tensor's numbers become f32.
const ALLOWANCE: Allowance = Allowance {
    times: 512,
    bytes: 8 << 20,
};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let file = match kind % 2 {
        0 => rest.to_vec(),
        _ => archive(&[
            ("archive/data.pkl", rest),
            ("archive/version", b"3\n"),
            ("archive/data/0", &[0; 4096]),
            ("archive/data/1", &[0; 1024]),
            ("archive/data/2", &[0; 64]),
        ]),
    };
    let config = std::fs::read(fixture("albert-seq-tiny/config.json")).expect("a fixture");
    put("config.json", &config);
    put("pytorch_model.bin", &file);
    bounded(&file, ALLOWANCE, || {
        if let Err(e) = checkpoint::read(scratch()) {
            one_line(e, &scratch().display().to_string());
        }
    });
});

/// A zip of stored entries, as torch writes it; nobody here looks at checksums.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let at = out.len() as u32;
        let (name_len, len) = (name.len() as u16, bytes.len() as u32);
        let common = |out: &mut Vec<u8>| {
            // Version, flags, method, time, date and checksum.
            out.extend([20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            out.extend(len.to_le_bytes());
            out.extend(len.to_le_bytes());
            out.extend(name_len.to_le_bytes());
            out.extend([0, 0]);
        };
        out.extend(b"PK\x03\x04");
        common(&mut out);
        out.extend(name.as_bytes());
        out.extend(*bytes);
        directory.extend(b"PK\x01\x02\x14\x00");
        common(&mut directory);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (at, len, count) = (out.len() as u32, directory.len() as u32, entries.len() as u16);
    out.extend(&directory);
    out.extend(b"PK\x05\x06\x00\x00\x00\x00");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(len.to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    out
}
