//! What a client sends to `serve`: the first byte picks the head, the rest goes over a socket of a server that runs in this
//! process, in pieces of the size the second byte says. Each line gets one answer, and each answer is a line of JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};
use thimble_device::cli::args::{self, Invocation};
use thimble_device::image::mmap::ModelFile;
use thimble_device::serve;
use thimble_device::session::Session;
use thimble_fuzz::{TINY, put, scratch, sound};

/// A server for each head; they live as long as the process.
fn servers() -> &'static [PathBuf] {
    static SERVERS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    SERVERS.get_or_init(|| TINY.iter().map(|name| server(name)).collect())
}

fn server(name: &str) -> PathBuf {
    let model = put(&format!("{name}.onnx"), &sound(name));
    let socket = scratch().join(format!("{name}.sock"));
    let words = ["serve", "--threads", "1", "--max-line", "65536", "--socket"].map(OsString::from);
    let asked = args::parse(words.into_iter().chain([socket.clone().into(), model.clone().into()]));
    let Ok(Invocation::Do(_, options)) = asked else {
        panic!("the server's own options")
    };
    let file = ModelFile::open(&model).expect("a file");
    let session = Session::open(file, &options.session, None).expect("a sound model");
    thread::spawn(move || serve::run(session, &options.serve).expect("a server that runs"));
    let start = Instant::now();
    while !socket.exists() {
        assert!(start.elapsed() < Duration::from_secs(30), "no socket");
        thread::sleep(Duration::from_millis(1));
    }
    socket
}

fuzz_target!(|data: &[u8]| {
    let [head, piece, rest @ ..] = data else { return };
    let servers = servers();
    let socket = &servers[usize::from(*head) % servers.len()];
    let mut client = UnixStream::connect(socket).expect("a server that listens");
    let mut answers = client.try_clone().expect("a second descriptor");
    let answers = thread::spawn(move || {
        let mut bytes = Vec::new();
        answers.read_to_end(&mut bytes).map(|_| bytes)
    });
    for piece in rest.chunks(usize::from(*piece).max(1) * 16) {
        client.write_all(piece).expect("a server that reads");
    }
    client.shutdown(Shutdown::Write).expect("an end");
    let answers = answers.join().expect("no panic").expect("a server that answers");
    let asked = rest
        .split(|&b| b == b'\n')
        .filter(|line| !line.trim_ascii().is_empty() || line.len() > 65536);
    let lines: Vec<&[u8]> = answers.split_inclusive(|&b| b == b'\n').collect();
    for line in &lines {
        let answer: serde_json::Value = serde_json::from_slice(line).expect("JSON");
        assert!(line.ends_with(b"\n") && answer.get("id").is_some(), "{answer}");
    }
    assert_eq!(lines.len(), asked.count(), "{}", String::from_utf8_lossy(&answers));
});
