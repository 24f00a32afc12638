//! A file of thimble's own, as a board gets it: opened, audited, and, where it opens, computed with. Even inputs are the whole
//! file; odd ones the ModelSpec's text inside a file that is otherwise sound, which a mutation of bytes would hardly reach.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use thimble_device::{Engine, EngineOptions, Image, Input};
use thimble_fuzz::{Allowance, bounded, plain, sound};
use thimble_shared::artifact::verify;
use thimble_shared::artifact::{self, KEY_GRAPH};
use thimble_shared::onnx::protobuf::Message;

/// The plans of a model this small, its threads and scratch.
const ALLOWANCE: Allowance = Allowance {
    times: 64,
    bytes: 24 << 20,
};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let built;
    let file = match kind % 2 {
        0 => rest,
        _ => {
            built = with_graph(rest);
            &built
        }
    };
    bounded(file, ALLOWANCE, || read(file));
});

fn read(file: &[u8]) {
    match verify::differences(file) {
        Ok(differences) => differences
            .iter()
            .for_each(|line| plain(&thimble::render::text::printable(line))),
        Err(e) => thimble_fuzz::one_line(e, ""),
    }
    if let Err(e) = artifact::open_resaved(file) {
        thimble_fuzz::one_line(e, "");
    }
    let options = EngineOptions {
        threads: 1,
        force_kernel: None,
    };
    let engine = match Engine::new(Image::copy(file), options) {
        Ok(engine) => engine,
        Err(e) => return thimble_fuzz::one_line(e, ""),
    };
    // A file may ask for many layers, and gets the time that takes.
    if engine.config().num_hidden_layers > 24 {
        return;
    }
    for ids in [&[0i64, 1, 2][..], &[i64::MAX], &[3; 17], &[]] {
        if let Err(e) = engine.run(&Input::sequence(ids)) {
            thimble_fuzz::one_line(e, "");
        }
    }
}

/// A sound file whose ModelSpec is `text`.
fn with_graph(text: &[u8]) -> Vec<u8> {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let sound = SOUND.get_or_init(|| {
        let mut bytes = sound("albert-seq-tiny");
        // Under a name nobody asks for, and as long: what lies behind it stays aligned.
        let at = bytes
            .windows(KEY_GRAPH.len())
            .position(|w| w == KEY_GRAPH.as_bytes())
            .expect("its metadata");
        bytes[at] = b'x';
        bytes
    });
    let mut entry = Message::default();
    entry.text(1, KEY_GRAPH);
    entry.bytes(2, text);
    let mut model = Message(sound.clone());
    model.message(14, &entry);
    model.0
}
