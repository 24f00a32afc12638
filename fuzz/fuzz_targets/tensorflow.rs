//! A checkpoint of TensorFlow: its index whole, or, where the first byte is odd, the block in a table whose footer, index and
//! checksums are good; beside it the data file and config of a sound one. Or an adapter's configuration, beside sound matrices.

#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble::models::checkpoint;
use thimble::models::read_options::ReadOptions;
use thimble_fuzz::{Allowance, bounded, fixture, one_line, put, scratch};

/// Keys may share what they begin with, and numbers become f32.
const ALLOWANCE: Allowance = Allowance {
    times: 192,
    bytes: 8 << 20,
};

const INDEX: &str = "model.ckpt-best.index";
const DATA: &str = "model.ckpt-best.data-00000-of-00001";

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let sound = |name: &str| std::fs::read(fixture(name)).expect("a fixture");
    if kind % 3 == 2 {
        put("adapter_config.json", rest);
        put(
            "adapter_model.safetensors",
            &sound("lora/sequence/adapter_model.safetensors"),
        );
        let options = ReadOptions {
            adapter: Some(scratch().to_path_buf()),
            ..ReadOptions::default()
        };
        let read = || checkpoint::read_with(&fixture("albert-seq-tiny"), &options);
        return bounded(data, ALLOWANCE, || {
            if let Err(e) = read() {
                one_line(e, "adapter");
            }
        });
    }
    let index = if kind % 3 == 0 { rest.to_vec() } else { table(rest) };
    let _ = std::fs::remove_file(scratch().join("adapter_config.json"));
    put("albert_config.json", &sound("wild/t01_google_tf1/albert_config.json"));
    put(DATA, &sound(&format!("wild/t01_google_tf1/{DATA}")));
    put(INDEX, &index);
    bounded(data, ALLOWANCE, || match checkpoint::read(scratch()) {
        Ok(source) => assert!(source.weights.values().all(|w| w.data.iter().all(|x| x.is_finite()))),
        Err(e) => one_line(e, &scratch().display().to_string()),
    });
});

/// CRC-32C a bit at a time, masked.
fn checksum(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| (c >> 1) ^ (0x82f6_3b78 * (c & 1)))
    });
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(mut n: usize, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A table whose only block has these contents.
fn table(contents: &[u8]) -> Vec<u8> {
    let sealed = |contents: &[u8]| {
        let whole = [contents, &[0]].concat();
        [&whole[..], &checksum(&whole).to_le_bytes()].concat()
    };
    let mut handle = vec![0];
    varint(contents.len(), &mut handle);
    let entry = [&[0, 4, handle.len() as u8][..], b"~~~~", &handle].concat();
    let index = [&entry[..], &[0, 0, 0, 0, 1, 0, 0, 0]].concat();
    let block = sealed(contents);
    let mut footer = vec![0, 0];
    varint(block.len(), &mut footer);
    varint(index.len(), &mut footer);
    footer.resize(40, 0);
    [
        &block[..],
        &sealed(&index),
        &footer,
        &0xdb47_7524_8b80_fb57u64.to_le_bytes(),
    ]
    .concat()
}
