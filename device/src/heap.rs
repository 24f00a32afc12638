//! Tells glibc's allocator what it cannot guess: while a model loads, freed memory goes back to the system at once (it
//! would otherwise keep tens of MiB as resident but unused); once inference repeats, buffers stay, so no run pays page
//! faults for memory the run before gave back. Elsewhere than on glibc the calls do nothing.

/// Before loading: large blocks come from maps of their own and free memory is trimmed early.
pub fn loading() {
    set(128 << 10, 128 << 10);
}

/// After loading: gives back what loading freed, then keeps what inference frees.
pub fn repeating() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes no pointer and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
    set(32 << 20, 64 << 20);
}

/// Before many threads come and go: all of them share few heaps, or what one frees is out of reach of the others.
pub fn shared() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: as in `set`.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
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
fn set(_: i32, _: i32) {}
