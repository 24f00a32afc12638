//! What the fuzz targets share: an allocator that counts, so that no input makes a reader take more than a stated multiple of
//! its size; a folder in RAM for readers that take paths; and what an error has to look like.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
pub use support::fixture;
use thimble::models::checkpoint;
use thimble::models::model_file::Checkpoint;
use thimble::quantize::quantizer::{Quantizer, uniform};
use thimble_shared::artifact::emit::LowerOptions;
use thimble_shared::artifact::{self, Provenance};
use thimble_shared::dtype::Format;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static HEAP: Counting = Counting;

// SAFETY: every call is the system allocator's; only sizes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on, here and below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there while it moves.
        count(size);
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

fn count(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

/// How much a reader may hold at once.
#[derive(Clone, Copy)]
pub struct Allowance {
    /// Bytes per byte of input.
    pub times: usize,
    /// And besides.
    pub bytes: usize,
}

/// Reads, and panics where that took more memory than allowed, whether or not it was touched.
pub fn bounded<R>(input: &[u8], allowance: Allowance, read: impl FnOnce() -> R) -> R {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = read();
    let taken = PEAK.load(Relaxed).saturating_sub(before);
    let most = input.len() * allowance.times + allowance.bytes;
    assert!(
        taken <= most,
        "{taken} bytes of memory for an input of {}, allowed are {most}",
        input.len()
    );
    result
}

/// A folder of this process, in RAM where the system has such a place.
pub fn scratch() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let ram = Path::new("/dev/shm");
        let root = if ram.is_dir() {
            ram.to_path_buf()
        } else {
            std::env::temp_dir()
        };
        let dir = root.join(format!("thimble-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder for inputs");
        dir
    })
}

/// Writes `bytes` as `name` into the folder of this process.
pub fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = scratch().join(name);
    std::fs::write(&path, bytes).expect("room for an input");
    path
}

/// The fixtures small enough to try thousands of inputs on, one for each head.
pub const TINY: [&str; 6] = [
    "albert-choice-tiny",
    "albert-mlm-tiny",
    "albert-pretraining-tiny",
    "albert-qa-tiny",
    "albert-seq-tiny",
    "albert-tok-tiny",
];

/// A fixture as a file of thimble's, in int8.
pub fn sound(name: &str) -> Vec<u8> {
    let model = Checkpoint::from(checkpoint::read(&fixture(name)).expect("a fixture")).model;
    let formats = uniform(&model.config, Format::I8);
    let model = Quantizer::new(&model).model(&formats).expect("int8");
    artifact::write(&model, LowerOptions::default(), &Provenance::default()).expect("a file")
}

/// Holds an error to what users are promised: one line, not endless, that names the file and has nothing that acts on a
/// terminal.
pub fn one_line(error: impl Into<anyhow::Error>, file: &str) {
    let line = thimble::render::text::one_line(error.into().as_ref());
    assert!(line.contains(file), "does not name {file}: {line}");
    plain(&line);
}

/// The same for what is said without a file.
pub fn plain(line: &str) {
    assert!(line.len() <= 8000, "{} bytes of text", line.len());
    assert!(!line.chars().any(thimble_shared::terminal::acts), "{line:?}");
}
