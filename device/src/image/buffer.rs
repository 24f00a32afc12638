//! Heap memory aligned to 64 bytes, for what kernels read with vector loads: packed activations, expanded panels and
//! model images built in memory. Sizes are in elements of the viewed type; fresh memory is zero.

use std::collections::TryReserveError;

use bytemuck::{Pod, Zeroable};

/// Bytes that every buffer's start is a multiple of: one cache line, and what payloads in a file start at.
pub use thimble_shared::artifact::layout::ALIGNMENT;

/// One cache line; a `Vec` of these is aligned without an allocator of our own.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; ALIGNMENT]);

const _: () = assert!(align_of::<Line>() == ALIGNMENT);

/// A growable, 64-byte aligned buffer that is reused between calls.
#[derive(Default)]
pub struct Buffer(Vec<Line>);

impl Buffer {
    /// A copy of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.take::<u8>(bytes.len()).copy_from_slice(bytes);
        buffer
    }

    /// Room for so many bytes, where there is memory for them.
    ///
    /// # Errors
    /// Where there is no memory for them.
    pub fn with_room(bytes: usize) -> Result<Buffer, TryReserveError> {
        let (lines, mut memory) = (bytes.div_ceil(ALIGNMENT), Vec::new());
        memory.try_reserve_exact(lines)?;
        memory.resize(lines, Line::zeroed());
        Ok(Buffer(memory))
    }

    /// `len` elements whose content is whatever the last user left; grows when needed.
    pub fn take<T: Pod>(&mut self, len: usize) -> &mut [T] {
        let lines = (len * size_of::<T>()).div_ceil(ALIGNMENT);
        if self.0.len() < lines {
            // The old memory goes first, and nothing of it is copied.
            self.0 = Vec::new();
            self.0 = vec![Line::zeroed(); lines];
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }

    /// The first `len` elements as they are. Panics when [`Buffer::take`] did not provide as many.
    pub fn view<T: Pod>(&self, len: usize) -> &[T] {
        &bytemuck::cast_slice(&self.0)[..len]
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.0.len() * ALIGNMENT)
    }
}
