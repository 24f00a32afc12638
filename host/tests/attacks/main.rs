//! Attacks on readers of model files, one row each, named after what it imitates: a published hole in another program, or a
//! thing such a hole would look like here. Every file is refused in one line that says why, or read for a stated reason;
//! soon, within a stated multiple of its bytes, and without touching or running anything else.

mod allocation;
mod artifact;
mod checkpoint;
mod onnx;
mod rows;
mod sentence;
#[path = "../../../tests/support/mod.rs"]
mod support;
mod tensorflow;
mod tokenizer;
mod torch;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use thimble::eval::dataset;
use thimble::inspect::explain;
use thimble::models::onnx_import::ImportOptions;
use thimble::models::read_options::ReadOptions;
use thimble::models::tokenizer_json::{Splitter, Tokenizer};
use thimble::models::{self, onnx_import};
use thimble::onnx::OnnxFile;
use thimble::render::text::one_line;
use thimble_device::engine::tensors::TensorFile;
use thimble_device::engine::{Engine, EngineOptions};
use thimble_device::image::Image;
use thimble_device::image::mmap::ModelMap;
use thimble_shared::artifact::verify;

/// Who is asked to read the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The engine, as the device program makes it from a map.
    Device,
    /// `verify` and every command of the host's that computes from an artifact's numbers.
    Audit,
    /// Whatever reads other tools' ONNX files, each tensor's bytes included.
    Onnx,
    /// The account of a file's bytes.
    Explain,
    /// ALBERT out of another tool's ONNX file.
    Import,
    /// The same with quantized weights taken as they are.
    Dequantize,
    /// A checkpoint's directory or weights file.
    Checkpoint,
    /// An adapter's directory, merged into a good checkpoint.
    Adapter,
    TokenizerJson,
    /// A folder with spiece.model or vocab.txt, and what is made of it.
    Tokenizer,
    /// The small safetensors files of the device's inputs.
    Inputs,
    /// Rows to calibrate or verify on, as people have them.
    Rows,
}

#[derive(Clone, Copy)]
pub enum Expect {
    /// With these words in the error.
    Refused(&'static str),
    /// Nothing is wrong with it, or nothing that could be told, for this reason.
    Read(&'static str),
}

#[derive(Clone, Copy)]
pub struct Attack {
    pub name: &'static str,
    /// The hole elsewhere, and what it did.
    pub imitates: &'static str,
    pub reader: Reader,
    /// Writes the attack's files below a folder and gives the path a user would name.
    pub build: fn(&Path) -> PathBuf,
    pub expect: Expect,
}

impl Reader {
    fn read(self, path: &Path) -> anyhow::Result<()> {
        match self {
            Reader::Device => {
                Engine::new(Image::new(ModelMap::open(path, false)?), EngineOptions::default())?;
            }
            Reader::Audit => {
                let differences = verify::differences(ModelMap::open(path, false)?.bytes())?;
                anyhow::ensure!(differences.is_empty(), "{}", differences.join("; "));
            }
            Reader::Onnx => {
                let file = OnnxFile::open(path)?;
                for held in file.tensors(&file.view()?)? {
                    file.payload(&held.view)?;
                }
            }
            Reader::Explain => drop(explain(path)?),
            Reader::Import => drop(onnx_import::open(path)?),
            Reader::Dequantize => {
                let options = ImportOptions {
                    dequantize: true,
                    ..ImportOptions::default()
                };
                onnx_import::open_with(path, &options)?;
            }
            Reader::Checkpoint => drop(models::checkpoint::read(path)?),
            Reader::Adapter => {
                let options = ReadOptions {
                    adapter: Some(path.to_path_buf()),
                    ..ReadOptions::default()
                };
                drop(models::checkpoint::read_with(
                    &checkpoint::fixture("albert-seq-tiny"),
                    &options,
                )?);
            }
            Reader::TokenizerJson => drop(Tokenizer::open(path, &artifact::config())?),
            Reader::Tokenizer => {
                let json = thimble::models::tokenizer::named(path)?.compact()?;
                let splitter = Splitter::new(json.as_bytes()).map_err(anyhow::Error::msg)?;
                for text in ["a", "b [MASK] 1,000 \u{e9}\u{301}"] {
                    splitter
                        .encode(text, Some(&text.repeat(40)))
                        .map_err(anyhow::Error::msg)?;
                }
            }
            Reader::Inputs => drop(TensorFile::read(path)?),
            Reader::Rows => {
                let model = checkpoint::fixture("albert-deb");
                let tokenizer = thimble::models::tokenizer::find(&model)?;
                drop(dataset::load(Some(path), &rows::config(), tokenizer.as_ref(), None)?);
            }
        }
        Ok(())
    }

    /// Heap bytes that reading `bytes` of files may take at most. Other tools' files cost more a byte: small parts become
    /// views of a hundred bytes in lists that double, and the import runs the model in two engines.
    fn most(self, bytes: usize) -> usize {
        let (times, more) = match self {
            Reader::Device | Reader::Audit => (128, 4 << 20),
            Reader::Onnx | Reader::Explain => (256, 4 << 20),
            Reader::Import | Reader::Dequantize => (256, 64 << 20),
            Reader::Checkpoint | Reader::Adapter => (128, 1 << 20),
            Reader::TokenizerJson | Reader::Inputs => (64, 1 << 20),
            Reader::Tokenizer => (128, 1 << 20),
            // The good tokenizer that texts are split with is 4000 pieces.
            Reader::Rows => (256, 16 << 20),
        };
        bytes * times + more
    }
}

/// Longest a reader may take on a busy machine; one that waits for a writer of a FIFO never ends.
const LONGEST: Duration = Duration::from_secs(60);

/// Bytes of all regular files below a folder.
fn bytes_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let sizes = entries.map(|entry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => bytes_below(&entry.path()),
        meta if meta.is_file() => meta.len() as usize,
        _ => 0,
    });
    sizes.sum()
}

/// Every path below a folder, links not followed.
fn paths_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(paths_below(&entry.path()));
        }
    }
    found.sort();
    found
}

/// What is wrong with how a row went, and the heap it took.
fn judge(attack: &Attack, folder: &Path) -> (Vec<String>, usize) {
    let mut wrong = Vec::new();
    let inside = folder.join("inside");
    std::fs::create_dir_all(&inside).unwrap();
    let victim = folder.join("victim");
    std::fs::write(&victim, VICTIM).unwrap();
    let path = (attack.build)(&inside);
    let (before, bytes) = (paths_below(folder), bytes_below(&inside));
    let (send, receive) = mpsc::channel();
    let (reader, asked) = (attack.reader, path.clone());
    let (answer, heap) = allocation::peak(|| {
        std::thread::spawn(move || {
            let answer = std::panic::catch_unwind(|| reader.read(&asked).map_err(|e| one_line(e.as_ref())));
            send.send(answer.unwrap_or_else(|_| Err("panicked".into()))).unwrap();
        });
        receive.recv_timeout(LONGEST)
    });
    match (answer, &attack.expect) {
        (Err(_), _) => wrong.push("gives no answer".into()),
        (Ok(Err(line)), Expect::Refused(words)) if line.contains(words) && !line.contains('\n') => {}
        (Ok(Err(line)), Expect::Refused(words)) => wrong.push(format!("says '{line}', not '{words}'")),
        (Ok(Ok(())), Expect::Refused(words)) => wrong.push(format!("is read, '{words}' was expected")),
        (Ok(Err(line)), Expect::Read(why)) => wrong.push(format!("is refused ({line}), though {why}")),
        (Ok(Ok(())), Expect::Read(_)) => {}
    }
    if heap > reader.most(bytes) {
        let most = reader.most(bytes);
        wrong.push(format!(
            "takes {heap} bytes of heap for {bytes} of files, at most {most} are meant"
        ));
    }
    if paths_below(folder) != before || std::fs::read(&victim).unwrap() != VICTIM {
        wrong.push("changes files".into());
    }
    (wrong, heap)
}

/// What lies outside the model's folder: as long as a tensor of theirs, and never to be read or written.
const VICTIM: [u8; 64] = *b"a private key, or whatever a user would not want sent or changed";

#[test]
fn every_attack_is_refused_by_its_name_or_read_for_a_reason() {
    let rows = [
        artifact::ROWS,
        onnx::ROWS,
        checkpoint::ROWS,
        torch::ROWS,
        tokenizer::ROWS,
        tensorflow::ROWS,
        rows::ROWS,
        sentence::ROWS,
    ]
    .concat();
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for (n, attack) in rows.iter().enumerate() {
        let own = folder.path().join(n.to_string());
        std::fs::create_dir(&own).unwrap();
        let (wrong, heap) = judge(attack, &own);
        println!(
            "{:?} {} ({}): {heap} bytes of heap",
            attack.reader, attack.name, attack.imitates
        );
        failures.extend(
            wrong
                .iter()
                .map(|w| format!("{:?}, {}: {w}", attack.reader, attack.name)),
        );
    }
    assert!(
        failures.is_empty(),
        "of {} attacks:\n{}",
        rows.len(),
        failures.join("\n")
    );
    assert!(!Path::new("executed").exists(), "a pickle was executed");
}
