//! The threads an engine computes with. Work goes in as a number of independent tasks or as chunks of a slice; with one
//! thread everything runs inline on the caller.

use rayon::prelude::*;

#[derive(Debug)]
pub struct Pool(Option<rayon::ThreadPool>);

#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads: {source}")]
pub struct PoolError {
    threads: usize,
    source: rayon::ThreadPoolBuildError,
}

impl Pool {
    pub fn new(threads: usize) -> Result<Pool, PoolError> {
        if threads <= 1 {
            return Ok(Pool(None));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("thimble-{i}"))
            .build()
            .map_err(|source| PoolError { threads, source })?;
        Ok(Pool(Some(pool)))
    }

    /// One thread: the caller's.
    pub fn inline() -> Pool {
        Pool(None)
    }

    pub fn threads(&self) -> usize {
        self.0.as_ref().map_or(1, rayon::ThreadPool::current_num_threads)
    }

    /// Calls `f(0..tasks)`, in any order and at the same time.
    pub fn each(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        match &self.0 {
            Some(pool) if tasks > 1 => pool.install(|| (0..tasks).into_par_iter().for_each(&f)),
            _ => (0..tasks).for_each(f),
        }
    }

    /// Calls `f(i, chunk)` for each chunk of `size` elements; the last may be shorter.
    pub fn chunks<T: Send>(&self, data: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let size = size.max(1);
        match &self.0 {
            Some(pool) if data.len() > size => {
                pool.install(|| data.par_chunks_mut(size).enumerate().for_each(|(i, chunk)| f(i, chunk)));
            }
            _ => data.chunks_mut(size).enumerate().for_each(|(i, chunk)| f(i, chunk)),
        }
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
        match &self.0 {
            Some(pool) if a.len() > size_a => pool.install(|| {
                a.par_chunks_mut(size_a)
                    .zip(b.par_chunks_mut(size_b))
                    .enumerate()
                    .for_each(|(i, (a, b))| f(i, a, b));
            }),
            _ => a
                .chunks_mut(size_a)
                .zip(b.chunks_mut(size_b))
                .enumerate()
                .for_each(|(i, (a, b))| f(i, a, b)),
        }
    }
}
