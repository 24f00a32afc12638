//! What waits for the engine: a bounded queue that holds readers back when it is full, and the choice of which of the
//! waiting go through the network together. Lengths are tokens; nothing here knows a socket or a model.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Something that waits.
pub trait Work {
    /// Sequences it adds to a batch.
    fn rows(&self) -> usize;
    /// Tokens of its longest sequence.
    fn tokens(&self) -> usize;
    fn since(&self) -> Instant;
    /// Whether anyone still waits for the answer.
    fn wanted(&self) -> bool;
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that wait before readers do.
    pub queue: usize,
    /// Sequences computed together.
    pub rows: usize,
    /// Tokens computed together, padding included.
    pub tokens: usize,
    /// How long the oldest waits for company.
    pub linger: Duration,
}

/// What a pass costs whatever it computes, in tokens: a request joins a batch where the padding this adds is less.
const PASS: usize = 4;

pub struct Queue<T> {
    limits: Limits,
    inner: Mutex<Inner<T>>,
    /// Something waits, or nothing more will.
    filled: Condvar,
    /// There is room, or there never will be.
    room: Condvar,
}

struct Inner<T> {
    waiting: VecDeque<T>,
    open: bool,
}

impl<T: Work> Queue<T> {
    pub fn new(limits: Limits) -> Queue<T> {
        Queue {
            limits,
            inner: Mutex::new(Inner {
                waiting: VecDeque::with_capacity(limits.queue.min(1024)),
                open: true,
            }),
            filled: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// A panic elsewhere leaves the queue as whole as it was: every change to it is a single push or removal.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Waits for room; gives `item` back once the queue is closed.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut inner = self.lock();
        while inner.open && inner.waiting.len() >= self.limits.queue {
            inner = self.room.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if !inner.open {
            return Err(item);
        }
        inner.waiting.push_back(item);
        self.filled.notify_one();
        Ok(())
    }

    /// Moves what is to be computed next into `batch`, waiting for it; false when nothing will ever come.
    pub fn take(&self, batch: &mut Vec<T>) -> bool {
        let mut inner = self.lock();
        loop {
            inner.waiting.retain(Work::wanted);
            let Some(oldest) = inner.waiting.front() else {
                // Those whose clients left made room.
                self.room.notify_all();
                if !inner.open {
                    return false;
                }
                inner = self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = self.limits.linger.saturating_sub(oldest.since().elapsed());
            let rows: usize = inner.waiting.iter().map(Work::rows).sum();
            let full = rows >= self.limits.rows || inner.waiting.len() >= self.limits.queue;
            if left.is_zero() || full || !inner.open {
                break;
            }
            inner = self
                .filled
                .wait_timeout(inner, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let mut chosen = choose(&inner.waiting, self.limits);
        // From the back, so that the places of the others hold.
        chosen.sort_unstable_by(|a, b| b.cmp(a));
        batch.extend(chosen.into_iter().filter_map(|at| inner.waiting.remove(at)));
        self.room.notify_all();
        true
    }

    /// Nothing more comes in; what waits is still taken.
    pub fn close(&self) {
        self.lock().open = false;
        self.filled.notify_all();
        self.room.notify_all();
    }

    /// Closes, and takes out all that waits.
    pub fn abandon(&self) -> Vec<T> {
        let mut inner = self.lock();
        inner.open = false;
        let left = inner.waiting.drain(..).collect();
        self.filled.notify_all();
        self.room.notify_all();
        left
    }
}

/// Places of the items to compute together. The oldest is always among them, so nobody waits for ever; with it go those
/// nearest in length, as long as the padding they bring costs less than a pass of their own would.
fn choose<T: Work>(waiting: &VecDeque<T>, limits: Limits) -> Vec<usize> {
    let mut by_length: Vec<usize> = (0..waiting.len()).collect();
    // Stable: of equal lengths the older come first.
    by_length.sort_by_key(|&at| waiting[at].tokens());
    let Some(oldest) = by_length.iter().position(|&at| at == 0) else {
        return vec![];
    };
    let (mut low, mut high) = (oldest, oldest);
    let (mut rows, mut longest) = (waiting[0].rows(), waiting[0].tokens());
    loop {
        let shorter = low.checked_sub(1).map(|at| &waiting[by_length[at]]);
        let longer = by_length.get(high + 1).map(|&at| &waiting[at]);
        // Tokens of padding that taking it in adds.
        let below = shorter.map(|s| (s.rows() * (longest - s.tokens()), s));
        let above = longer.map(|l| (rows * (l.tokens() - longest), l));
        let pick = match (below, above) {
            (Some(b), Some(a)) if b.0 < a.0 => (b, true),
            (_, Some(a)) => (a, false),
            (Some(b), None) => (b, true),
            (None, None) => break,
        };
        let ((padding, item), down) = pick;
        let (more, length) = (rows + item.rows(), longest.max(item.tokens()));
        if padding > PASS || more > limits.rows || more * length > limits.tokens {
            break;
        }
        (rows, longest) = (more, length);
        if down {
            low -= 1;
        } else {
            high += 1;
        }
    }
    by_length[low..=high].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    struct Item {
        number: usize,
        rows: usize,
        tokens: usize,
        since: Instant,
        wanted: Arc<AtomicBool>,
    }

    impl Work for Item {
        fn rows(&self) -> usize {
            self.rows
        }
        fn tokens(&self) -> usize {
            self.tokens
        }
        fn since(&self) -> Instant {
            self.since
        }
        fn wanted(&self) -> bool {
            self.wanted.load(Ordering::Relaxed)
        }
    }

    fn item(number: usize, tokens: usize) -> Item {
        Item {
            number,
            rows: 1,
            tokens,
            since: Instant::now(),
            wanted: Arc::new(AtomicBool::new(true)),
        }
    }

    fn limits(queue: usize, rows: usize, tokens: usize) -> Limits {
        Limits {
            queue,
            rows,
            tokens,
            linger: Duration::ZERO,
        }
    }

    /// Lengths of what goes together, in the queue's order.
    fn chosen(lengths: &[usize], limits: Limits) -> Vec<usize> {
        let waiting: VecDeque<Item> = lengths.iter().enumerate().map(|(n, &t)| item(n, t)).collect();
        let mut places = choose(&waiting, limits);
        places.sort_unstable();
        places.iter().map(|&at| lengths[at]).collect()
    }

    #[test]
    fn the_oldest_goes_with_those_of_its_length() {
        let wide = limits(64, 8, 4096);
        let cases: [(&[usize], &[usize]); 6] = [
            (&[5], &[5]),
            (&[20, 128, 21, 19, 100], &[20, 21, 19]),
            // The oldest, though there are more of another length.
            (&[128, 5, 5, 5, 5], &[128]),
            (&[9, 9, 9, 9, 9, 9, 9, 9, 9, 9], &[9, 9, 9, 9, 9, 9, 9, 9]),
            (&[PASS, 1], &[PASS, 1]),
            (&[2 * PASS + 1, PASS], &[2 * PASS + 1]),
        ];
        for (lengths, expected) in cases {
            assert_eq!(chosen(lengths, wide), expected, "{lengths:?}");
        }
        assert_eq!(chosen(&[10, 10, 10], limits(64, 2, 4096)), [10, 10]);
        assert_eq!(chosen(&[10, 10, 10], limits(64, 8, 25)), [10, 10]);
        // A sequence over the bound goes alone; it was let in.
        assert_eq!(chosen(&[100, 100], limits(64, 8, 25)), [100]);
    }

    #[test]
    fn rows_of_a_question_are_counted_each() {
        let mut waiting: VecDeque<Item> = (0..3).map(|n| item(n, 10)).collect();
        waiting[1].rows = 4;
        assert_eq!(choose(&waiting, limits(64, 5, 4096)).len(), 2);
        assert_eq!(choose(&waiting, limits(64, 4, 4096)), [0]);
    }

    #[test]
    fn a_full_queue_holds_back_and_loses_nothing() {
        let queue = Arc::new(Queue::new(limits(4, 3, 4096)));
        let readers: Vec<_> = (0..5)
            .map(|reader| {
                let queue = queue.clone();
                thread::spawn(move || {
                    for n in 0..200 {
                        assert!(queue.push(item(reader * 200 + n, 1 + n % 40)).is_ok());
                    }
                })
            })
            .collect();
        let mut seen = vec![];
        let mut batch = vec![];
        while seen.len() < 1000 {
            assert!(queue.len() <= 4);
            assert!(queue.take(&mut batch));
            assert!((1..=3).contains(&batch.len()));
            seen.extend(batch.drain(..).map(|i| i.number));
        }
        readers.into_iter().for_each(|r| r.join().unwrap());
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn closing_lets_out_what_waits_and_nothing_in() {
        let queue = Arc::new(Queue::new(limits(2, 8, 4096)));
        assert!(queue.push(item(0, 5)).is_ok() && queue.push(item(1, 5)).is_ok());
        let blocked = {
            let queue = queue.clone();
            thread::spawn(move || queue.push(item(2, 5)).map_err(|i| i.number))
        };
        thread::sleep(Duration::from_millis(20));
        queue.close();
        assert_eq!(blocked.join().unwrap(), Err(2));
        let mut batch = vec![];
        assert!(queue.take(&mut batch));
        assert_eq!(batch.len(), 2);
        assert!(!queue.take(&mut batch));
        assert!(queue.abandon().is_empty());
    }

    #[test]
    fn what_nobody_wants_is_not_computed() {
        let queue = Queue::new(limits(8, 8, 4096));
        let left = item(0, 5);
        let wanted = left.wanted.clone();
        assert!(queue.push(left).is_ok() && queue.push(item(1, 5)).is_ok());
        wanted.store(false, Ordering::Relaxed);
        let mut batch = vec![];
        assert!(queue.take(&mut batch));
        assert_eq!(batch.iter().map(|i| i.number).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn lingering_waits_for_company_but_not_for_ever() {
        let queue = Arc::new(Queue::new(Limits {
            linger: Duration::from_millis(300),
            ..limits(8, 2, 4096)
        }));
        assert!(queue.push(item(0, 5)).is_ok());
        let late = {
            let queue = queue.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(30));
                queue.push(item(1, 5)).is_ok()
            })
        };
        let mut batch = vec![];
        assert!(queue.take(&mut batch));
        assert_eq!(batch.len(), 2);
        assert!(late.join().unwrap());
        batch.clear();
        let begin = Instant::now();
        assert!(queue.push(item(2, 5)).is_ok());
        assert!(queue.take(&mut batch));
        assert!(batch.len() == 1 && begin.elapsed() >= Duration::from_millis(290));
    }
}
