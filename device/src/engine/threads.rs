//! The threads an engine computes with. Work goes in as a number of independent tasks or as chunks of a slice; with one
//! thread everything runs inline on the caller.
//!
//! A layer is a dozen such pieces of some ten microseconds each, and waking a sleeping thread takes as long as one of them. So
//! the caller works too, and the others look for the next piece a while before they sleep; one that wakes late misses a piece
//! and delays nobody. Nothing is allocated for a piece.

use std::cell::UnsafeCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long an idle thread looks for work before it sleeps: the gaps between a layer's pieces are shorter.
const LOOK: Duration = Duration::from_micros(100);
/// Looks between two looks at the clock, and before the core is offered to somebody else.
const LOOKS: usize = 128;
/// Of a worker only the engine's loops run there, and none keeps much on the stack.
const STACK: usize = 256 << 10;

pub struct Pool {
    shared: Option<Arc<Shared>>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads: {source}")]
pub struct PoolError {
    threads: usize,
    source: io::Error,
}

/// One piece of work at a time.
struct Shared {
    /// [`OPEN`] while tasks are handed out, the piece's number above, and below how many workers are in it.
    state: AtomicU64,
    /// The next task that nobody has.
    next: AtomicUsize,
    /// Written only while the piece is closed and no worker is in it, read only by those in it.
    job: UnsafeCell<Option<Job>>,
    /// Whether a caller has the workers; another computes alone.
    taken: AtomicBool,
    panicked: AtomicBool,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    asleep: Mutex<()>,
    wake: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: `job` is written and read as its field says, which `state` orders; its closure may be called from any thread.
unsafe impl Sync for Shared {}
// SAFETY: a pointer to something that is `Sync`, used only while its owner waits.
unsafe impl Send for Shared {}

const OPEN: u64 = 1 << 16;
const WORKERS: u64 = OPEN - 1;
const PIECE: u64 = OPEN << 1;

impl Shared {
    /// Takes tasks until none is left.
    fn work(&self, job: Job) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return;
            }
            // SAFETY: the caller of `Pool::run` keeps the closure until no worker is in the piece.
            unsafe { (*job.run)(task) };
        }
    }

    /// A worker's life.
    fn serve(&self) {
        while !self.stop.load(Ordering::Acquire) {
            let state = self.state.load(Ordering::SeqCst);
            if state & OPEN == 0 {
                self.look(state);
            } else if self
                .state
                .compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                // SAFETY: this worker is in the piece, so the job is not written.
                let job = unsafe { *self.job.get() };
                if catch_unwind(AssertUnwindSafe(|| job.map(|job| self.work(job)))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
                self.state.fetch_sub(1, Ordering::Release);
                // The same piece again would find nothing left.
                self.look(state);
            }
        }
    }

    /// Waits until another piece than that of `seen` is open.
    fn look(&self, seen: u64) {
        let fresh = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && state / PIECE != seen / PIECE) || self.stop.load(Ordering::SeqCst)
        };
        // A closed piece's number is the last one's; the next has another.
        let begin = Instant::now();
        while begin.elapsed() < LOOK {
            for _ in 0..LOOKS {
                if fresh() {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut guard = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        // Whoever opens a piece after this sees a sleeper and takes the lock, which this thread gives up only by sleeping.
        while !fresh() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes so many sleepers.
    fn rouse(&self, most: usize) {
        let sleepers = self.sleepers.load(Ordering::SeqCst);
        if sleepers > 0 {
            drop(self.asleep.lock().unwrap_or_else(PoisonError::into_inner));
            (0..sleepers.min(most)).for_each(|_| self.wake.notify_one());
        }
    }

    /// Closes the piece and waits for those in it; whether one of them panicked.
    fn close(&self) -> bool {
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0;
        while self.state.load(Ordering::Acquire) & WORKERS != 0 {
            looks += 1;
            if looks % LOOKS == 0 {
                // There may be fewer cores than threads, and the last task's thread may not have one.
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
        // SAFETY: closed, and nobody is in it.
        unsafe { *self.job.get() = None };
        let panicked = self.panicked.swap(false, Ordering::Relaxed);
        // Last: another caller may take over at once.
        self.taken.store(false, Ordering::Release);
        panicked
    }
}

/// Closes a piece when the caller's own task panics: those in it use what is on its stack.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Where a slice begins, for tasks that each take another part of it.
struct Start<T>(*mut T);
// SAFETY: the parts do not overlap, and `T` may be used on another thread.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    /// The `i`-th chunk of `size` of `len` elements.
    ///
    /// # Safety
    ///
    /// There are so many chunks, `len` elements are borrowed for as long as this one is used, and nobody else has it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn chunk(&self, i: usize, size: usize, len: usize) -> &mut [T] {
        let first = i * size;
        // SAFETY: within the slice, since `i` is below the number of chunks.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), size.min(len - first)) }
    }
}

impl Pool {
    /// So many threads, of which one is whoever calls.
    pub fn new(threads: usize) -> Result<Pool, PoolError> {
        let mut pool = Pool::inline();
        if threads <= 1 {
            return Ok(pool);
        }
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            taken: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            asleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        pool.shared = Some(shared.clone());
        for i in 1..threads {
            let shared = shared.clone();
            let worker = thread::Builder::new()
                .name(format!("thimble-{i}"))
                .stack_size(STACK)
                .spawn(move || shared.serve())
                .map_err(|source| PoolError { threads, source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// One thread: the caller's.
    pub fn inline() -> Pool {
        Pool {
            shared: None,
            workers: vec![],
        }
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(0..tasks)`, each number once, in any order and at the same time.
    pub fn each(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        let free = |shared: &&Arc<Shared>| tasks > 1 && !shared.taken.swap(true, Ordering::Acquire);
        // Called by a task of its own, or by two threads at once: the workers are busy as it is.
        let Some(shared) = self.shared.as_ref().filter(free) else {
            return (0..tasks).for_each(f);
        };
        let closing = Closing(shared);
        let run: &(dyn Fn(usize) + Sync) = &f;
        // SAFETY: only the lifetime changes, and `closing` waits for everyone who uses it before `f` is dropped.
        let run: *const (dyn Fn(usize) + Sync + 'static) = unsafe { std::mem::transmute(run) };
        let job = Job { run, tasks };
        // SAFETY: this caller alone has the workers, the piece is closed and nobody is in it.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Ordering::Relaxed);
        shared.state.fetch_add(PIECE | OPEN, Ordering::SeqCst);
        shared.rouse(tasks - 1);
        shared.work(job);
        std::mem::forget(closing);
        assert!(!shared.close(), "a task panicked on a thread of the pool");
    }

    /// Calls `f(i, chunk)` for each chunk of `size` elements; the last may be shorter.
    pub fn chunks<T: Send>(&self, data: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let size = size.max(1);
        let (len, start) = (data.len(), Start(data.as_mut_ptr()));
        // SAFETY: `data` is borrowed meanwhile, and each task has the chunk of its number.
        self.each(len.div_ceil(size), |i| f(i, unsafe { start.chunk(i, size, len) }));
    }

    /// Calls `f(i, a, b)` for the `i`-th chunks of two slices that are cut alike.
    pub fn chunks2<A: Send, B: Send>(
        &self,
        a: &mut [A],
        size_a: usize,
        b: &mut [B],
        size_b: usize,
        f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
    ) {
        let (size_a, size_b) = (size_a.max(1), size_b.max(1));
        let tasks = a.len().div_ceil(size_a).min(b.len().div_ceil(size_b));
        let (len_a, start_a) = (a.len(), Start(a.as_mut_ptr()));
        let (len_b, start_b) = (b.len(), Start(b.as_mut_ptr()));
        self.each(tasks, |i| {
            // SAFETY: as in `chunks`.
            let (a, b) = unsafe { (start_a.chunk(i, size_a, len_a), start_b.chunk(i, size_b, len_b)) };
            f(i, a, b);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        shared.stop.store(true, Ordering::SeqCst);
        shared.rouse(usize::MAX);
        for worker in self.workers.drain(..) {
            // Panics of tasks were caught and reported.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> impl Iterator<Item = Pool> {
        [1, 2, 3, 8].into_iter().map(|threads| Pool::new(threads).unwrap())
    }

    #[test]
    fn every_task_is_done_once() {
        for pool in pools() {
            for tasks in [0, 1, 2, 3, 7, 100, 1000].into_iter().cycle().take(700) {
                let done: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.each(tasks, |task| {
                    done[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|d| d.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn threads_that_sleep_are_woken() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            thread::sleep(LOOK * 5);
            let (first, second) = (AtomicBool::new(false), AtomicBool::new(false));
            // Each of the two waits for the other: one thread could not do both.
            let meet = |mine: &AtomicBool, other: &AtomicBool| {
                mine.store(true, Ordering::SeqCst);
                while !other.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            };
            pool.each(2, |task| match task {
                0 => meet(&first, &second),
                _ => meet(&second, &first),
            });
        }
    }

    #[test]
    fn chunks_cover_their_slices() {
        for pool in pools() {
            for (len, size) in [(0, 3), (1, 3), (10, 3), (9, 3), (5, 0), (4, 100)] {
                let mut data = vec![0; len];
                pool.chunks(&mut data, size, |i, chunk| chunk.fill(i + 1));
                let expected: Vec<usize> = (0..len).map(|at| at / size.max(1) + 1).collect();
                assert_eq!(data, expected);
            }
            let (mut a, mut b) = (vec![0u8; 10], vec![0u32; 4]);
            pool.chunks2(&mut a, 3, &mut b, 1, |i, a, b| {
                a.fill(i as u8);
                b[0] = a.len() as u32;
            });
            assert_eq!((a, b), (vec![0, 0, 0, 1, 1, 1, 2, 2, 2, 3], vec![3, 3, 3, 1]));
        }
    }

    #[test]
    fn a_piece_within_a_piece_and_two_callers_at_once() {
        let pool = Pool::new(3).unwrap();
        let count = AtomicUsize::new(0);
        let add = |_| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..200).for_each(|_| pool.each(5, |_| pool.each(5, add))));
            }
        });
        assert_eq!(count.into_inner(), 2 * 200 * 25);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        for pool in pools() {
            for bad in 0..9 {
                let result = catch_unwind(AssertUnwindSafe(|| pool.each(9, |task| assert!(task != bad))));
                assert!(result.is_err());
                let count = AtomicUsize::new(0);
                pool.each(9, |_| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(count.into_inner(), 9);
            }
        }
    }
}
