//! The bytes of one model file, shared by every op that computes from them: a memory map on a board, or an aligned heap
//! copy for candidates a host builds in memory. Offsets are bytes from the start of the file.

pub mod buffer;
pub mod digest;
pub mod mmap;
pub mod pages;
pub mod sigbus;

use crate::image::buffer::{ALIGNMENT, Buffer};
use std::sync::Arc;

/// Anything that holds the bytes at a fixed address for as long as it lives.
pub trait Bytes: Send + Sync + 'static {
    /// The whole file. Every call gives the same slice.
    fn bytes(&self) -> &[u8];
}

impl<T: AsRef<[u8]> + Send + Sync + 'static> Bytes for T {
    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }
}

/// A model file's bytes. Payload alignment is relative to the file's start, so the start must be aligned as well.
pub struct Image {
    bytes: Box<dyn Bytes>,
}

struct Heap {
    buffer: Buffer,
    len: usize,
}

impl AsRef<[u8]> for Heap {
    fn as_ref(&self) -> &[u8] {
        self.buffer.view(self.len)
    }
}

impl Image {
    /// Takes a memory map (or anything alike). Bytes that do not start on a 64-byte boundary are copied to ones that do.
    pub fn new(bytes: impl Bytes) -> Arc<Image> {
        if !bytes.bytes().as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Image::copy(bytes.bytes());
        }
        Arc::new(Image { bytes: Box::new(bytes) })
    }

    /// An aligned copy on the heap.
    pub fn copy(bytes: &[u8]) -> Arc<Image> {
        Image::of(Buffer::from_bytes(bytes), bytes.len())
    }

    /// The first `len` bytes of what a buffer holds.
    pub fn of(buffer: Buffer, len: usize) -> Arc<Image> {
        Arc::new(Image {
            bytes: Box::new(Heap { buffer, len }),
        })
    }

    /// The whole file; the first byte is on a 64-byte boundary.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.bytes()
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} bytes)", self.bytes().len())
    }
}
