//! The program's memory. Large blocks (tensors, packed inputs, scratch) are kept when they are freed and handed out again for
//! the same size: every layer asks for the same few, so after the first inference none is mapped, faulted in or fragmented
//! again, and what is held is what [`thimble_shared::board::memory`] states. Small blocks are the system allocator's, which on glibc
//! is told not to keep what loading a model freed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// Blocks from this size on are kept. glibc gives each a mapping of its own, so a freed one leaves no hole.
const LARGE: usize = 64 << 10;
/// What large blocks are rounded up to and aligned to, so that a tensor's and a vector's of one size are alike.
const PAGE: usize = 4096;
const ALIGNMENT: usize = 64;
/// Blocks kept at most; an inference holds about ten sizes per thread.
const MOST: usize = 128;
/// A block that so many large allocations did not want is of a size no longer used: some inferences of twelve layers.
const FORGOTTEN: u64 = 500;

/// A global allocator that keeps large blocks for their next use.
pub struct Reuse(Mutex<Kept>);

struct Kept {
    /// The oldest first.
    blocks: [Option<Block>; MOST],
    count: usize,
    /// Bytes of `blocks`, of the large blocks in use, and the most that were ever in use.
    idle: usize,
    used: usize,
    peak: usize,
    /// Large allocations so far.
    clock: u64,
}

#[derive(Clone, Copy)]
struct Block {
    start: *mut u8,
    layout: Layout,
    /// When it was freed.
    since: u64,
}

// SAFETY: a block is memory nobody uses; whoever takes it out owns it.
unsafe impl Send for Block {}

impl Reuse {
    /// An allocator that keeps nothing yet; const, so that it can be a `#[global_allocator]`.
    pub const fn new() -> Reuse {
        Reuse(Mutex::new(Kept {
            blocks: [None; MOST],
            count: 0,
            idle: 0,
            used: 0,
            peak: 0,
            clock: 0,
        }))
    }

    /// A large block the system would not give is not used.
    fn counted(&self, large: Option<Layout>, block: *mut u8) -> *mut u8 {
        if let Some(layout) = large.filter(|_| block.is_null()) {
            self.with(|kept| kept.used = kept.used.saturating_sub(layout.size()));
        }
        block
    }

    fn with<R>(&self, f: impl FnOnce(&mut Kept) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives back all that is kept: after loading, whose sizes inference does not ask for.
    pub fn release(&self) {
        self.with(|kept| {
            while let Some(block) = kept.remove(0) {
                // SAFETY: the block came from `System` with this layout, and nobody else has it any more.
                unsafe { System.dealloc(block.start, block.layout) };
            }
            kept.peak = kept.used;
        });
    }

    /// As if `allocations` had not wanted what is kept: for work that makes none, so that a spike before it is forgotten too.
    pub fn age(&self, allocations: u64) {
        self.with(|kept| {
            kept.clock += allocations;
            while let Some(oldest) = kept.blocks[0].filter(|oldest| kept.clock - oldest.since > FORGOTTEN) {
                kept.remove(0);
                // SAFETY: as in `release`.
                unsafe { System.dealloc(oldest.start, oldest.layout) };
            }
        });
    }

    /// Bytes of kept blocks that nobody uses.
    pub fn idle(&self) -> usize {
        self.with(|kept| kept.idle)
    }
}

impl Default for Reuse {
    fn default() -> Self {
        Reuse::new()
    }
}

impl Kept {
    /// A kept block of exactly this layout, the one freed last.
    fn take(&mut self, layout: Layout) -> Option<*mut u8> {
        self.clock += 1;
        self.used += layout.size();
        self.peak = self.peak.max(self.used);
        let at = (0..self.count).rfind(|&i| self.blocks[i].is_some_and(|b| b.layout == layout))?;
        self.remove(at).map(|block| block.start)
    }

    fn remove(&mut self, at: usize) -> Option<Block> {
        let block = self.blocks[at].take()?;
        self.blocks.copy_within(at + 1..self.count, at);
        self.count -= 1;
        self.blocks[self.count] = None;
        self.idle -= block.layout.size();
        Some(block)
    }

    /// Keeps a block that is no longer used. Blocks nobody wanted for long go, and, the oldest first, as many as keep what is
    /// kept and used together below one and a half times the most ever used; they are handed to `free`.
    fn give(&mut self, start: *mut u8, layout: Layout, mut free: impl FnMut(Block)) {
        let size = layout.size();
        self.used = self.used.saturating_sub(size);
        // A spike is forgotten after some inferences that did not need it.
        self.peak = self.used.max(self.peak - self.peak / 1024).max(size);
        while let Some(oldest) = self.blocks[0] {
            let over = self.used + self.idle + size > self.peak / 2 * 3;
            if self.count < MOST && !over && self.clock - oldest.since <= FORGOTTEN {
                break;
            }
            self.remove(0);
            free(oldest);
        }
        self.blocks[self.count] = Some(Block {
            start,
            layout,
            since: self.clock,
        });
        self.count += 1;
        self.idle += size;
    }
}

/// The layout that stands for all that a large block of this one may be; none for small blocks and impossible sizes.
fn large(layout: Layout) -> Option<Layout> {
    let size = layout
        .size()
        .checked_next_multiple_of(PAGE)
        .filter(|_| layout.size() >= LARGE)?;
    Layout::from_size_align(size, layout.align().max(ALIGNMENT)).ok()
}

// SAFETY: every block comes from `System`, a large one with the layout that `large` makes of the caller's, which is the same when
// it is given back; it is in one hand at a time: the caller's or, under the lock, the list's.
unsafe impl GlobalAlloc for Reuse {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let large = large(layout);
        let kept = large.and_then(|layout| self.with(|kept| kept.take(layout)));
        // SAFETY: the caller's layout, or one a little larger.
        kept.unwrap_or_else(|| self.counted(large, unsafe { System.alloc(large.unwrap_or(layout)) }))
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let large = large(layout);
        match large.and_then(|layout| self.with(|kept| kept.take(layout))) {
            Some(start) => {
                // SAFETY: a kept block of at least this size.
                unsafe { ptr::write_bytes(start, 0, layout.size()) };
                start
            }
            // SAFETY: the caller's layout, or one a little larger.
            None => self.counted(large, unsafe { System.alloc_zeroed(large.unwrap_or(layout)) }),
        }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's `size` makes a layout of its alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (large(layout), large(new)) {
            // SAFETY: `System`'s block, of this layout.
            (None, None) => unsafe { System.realloc(start, layout, size) },
            (Some(old), Some(new)) if old == new => start,
            _ => {
                // SAFETY: two blocks of at least the bytes copied, of which the caller gives up the first.
                unsafe {
                    let to = self.alloc(new);
                    if !to.is_null() {
                        ptr::copy_nonoverlapping(start, to, layout.size().min(size));
                        self.dealloc(start, layout);
                    }
                    to
                }
            }
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: every block came from `System` with the layout it has here.
        let free = |start, layout| unsafe { System.dealloc(start, layout) };
        match large(layout) {
            Some(layout) => self.with(|kept| kept.give(start, layout, |b| free(b.start, b.layout))),
            None => free(start, layout),
        }
    }
}

/// The library's [`Reuse`], for the program's `#[global_allocator]`: whoever uses the library keeps an allocator of his own.
pub struct Global;

// SAFETY: every call goes to one `Reuse`.
unsafe impl GlobalAlloc for Global {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on, here and below.
        unsafe { crate::HEAP.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { crate::HEAP.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { crate::HEAP.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { crate::HEAP.dealloc(start, layout) }
    }
}

/// Before loading: large blocks come from maps of their own and free memory is trimmed early. All threads share one heap:
/// what they ask of it is little, and heaps of their own would each keep a megabyte.
pub fn loading() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes integers only, is thread-safe, and reports a value it does not like without acting on it.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    set(LARGE as libc::c_int, 128 << 10);
    // Where the kernel backs memory by pages of 2 MiB unasked, a few blocks side by side take that much more than they are.
    #[cfg(target_os = "linux")]
    // SAFETY: takes integers only; a kernel that does not know it refuses, and nothing changes.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

/// For programs that hold whole models and make many: weights come from maps of their own and go back to the system when they
/// are freed, instead of leaving holes that the next model does not fit.
pub fn models() {
    set(1 << 20, 2 << 20);
}

/// After loading: gives back what loading freed; from here on the small blocks of one inference stay for the next.
pub fn repeating() {
    trim();
    set(LARGE as libc::c_int, 2 << 20);
}

/// Gives back what small blocks no longer use.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes no pointer and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set(map_threshold: libc::c_int, trim_threshold: libc::c_int) {
    // SAFETY: mallopt takes integers only, is thread-safe, and reports a value it does not like without acting on it.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, map_threshold);
        libc::mallopt(libc::M_TRIM_THRESHOLD, trim_threshold);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn set(_: libc::c_int, _: libc::c_int) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).unwrap()
    }

    #[test]
    fn a_freed_block_serves_the_next_of_its_size() {
        let heap = Reuse::new();
        let (big, other) = (layout(LARGE), layout(2 * LARGE));
        // SAFETY: blocks are used within their layouts and freed once.
        unsafe {
            let first = heap.alloc(big);
            first.write_bytes(7, LARGE);
            heap.dealloc(first, big);
            assert_eq!(heap.idle(), LARGE);
            let second = heap.alloc_zeroed(big);
            assert_eq!((second, heap.idle()), (first, 0));
            assert!((0..LARGE).all(|i| second.add(i).read() == 0));
            let third = heap.alloc(other);
            assert_ne!(third, first);
            heap.dealloc(second, big);
            heap.dealloc(third, other);
            let small = heap.alloc(layout(100));
            heap.dealloc(small, layout(100));
        }
        assert_eq!(heap.idle(), 3 * LARGE);
    }

    #[test]
    fn sizes_no_longer_asked_for_are_freed() {
        let heap = Reuse::new();
        // Sequences get longer and shorter: what is kept follows the most that was ever in use at once.
        for round in 0..300 {
            let size = LARGE * (1 + round * 7919 % 40);
            // SAFETY: blocks are freed once, with their layouts.
            unsafe {
                for block in [heap.alloc(layout(size)), heap.alloc(layout(size))] {
                    heap.dealloc(block, layout(size));
                }
            }
            assert!(heap.idle() <= 3 * 40 * LARGE, "{round}: {}", heap.idle());
        }
        // Then one length, for long: only its blocks are left.
        for _ in 0..600 {
            // SAFETY: as above.
            unsafe {
                let block = heap.alloc(layout(LARGE));
                heap.dealloc(block, layout(LARGE));
            }
        }
        assert_eq!(heap.idle(), LARGE);
        heap.age(FORGOTTEN);
        assert_eq!(heap.idle(), LARGE);
        heap.age(1);
        assert_eq!(heap.idle(), 0);
        // SAFETY: as above.
        unsafe { heap.dealloc(heap.alloc(layout(LARGE)), layout(LARGE)) };
        heap.release();
        assert_eq!(heap.idle(), 0);
    }
}
