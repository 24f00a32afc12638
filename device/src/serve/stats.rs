//! What a server has done so far, in memory that does not grow.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::platform::process::Resident;

use crate::answers::lines::Object;
use crate::answers::request::Id;

/// Latest answers that percentiles are taken of.
const LATEST: usize = 1024;

pub struct Stats {
    started: Instant,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    served: u64,
    errors: u64,
    dropped: u64,
    batches: u64,
    sequences: u64,
    tokens: u64,
    padding: u64,
    /// Milliseconds of the latest answers, as a ring.
    latest: Vec<f32>,
}

impl Stats {
    pub fn new() -> Stats {
        Stats {
            started: Instant::now(),
            counts: Mutex::default(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// An inference was answered, `ms` after its line had come.
    pub fn served(&self, ms: f64) {
        self.change(|c| {
            let at = (c.served % LATEST as u64) as usize;
            match c.latest.get_mut(at) {
                Some(slot) => *slot = ms as f32,
                None => c.latest.push(ms as f32),
            }
            c.served += 1;
        });
    }

    pub fn error(&self) {
        self.change(|c| c.errors += 1);
    }

    pub fn dropped(&self) {
        self.change(|c| c.dropped += 1);
    }

    /// A batch was computed: so many sequences, with so many tokens of their own and of padding.
    pub fn batch(&self, sequences: usize, tokens: usize, padding: usize) {
        self.change(|c| {
            c.batches += 1;
            c.sequences += sequences as u64;
            c.tokens += tokens as u64;
            c.padding += padding as u64;
        });
    }

    pub fn write(&self, line: &mut Vec<u8>, id: &Id, queue: usize, clients: usize) {
        let rss = Resident::now().total;
        let mut json = Object::begin(line, id);
        let mut put = |name: &str, value: serde_json::Value| {
            json.key("", name);
            json.value(&value);
        };
        self.change(|c| {
            let mut sorted = c.latest.clone();
            sorted.sort_unstable_by(f32::total_cmp);
            // The smallest value that this share of the answers did not exceed.
            let percentile = |share: f64| {
                let rank = (share * sorted.len() as f64).ceil() as usize;
                sorted
                    .get(rank.max(1) - 1)
                    .map(|&ms| (f64::from(ms) * 1e3).round() / 1e3)
            };
            put("op", "stats".into());
            put("served", c.served.into());
            put("errors", c.errors.into());
            put("queue", queue.into());
            put("p50_ms", percentile(0.5).into());
            put("p95_ms", percentile(0.95).into());
            put("rss_bytes", rss.into());
            put("clients", clients.into());
            put("dropped", c.dropped.into());
            put("batches", c.batches.into());
            put("sequences", c.sequences.into());
            put("tokens", c.tokens.into());
            put("padding", c.padding.into());
            put("uptime_s", self.started.elapsed().as_secs().into());
        });
        json.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_latest_answers() {
        let stats = Stats::new();
        let read = || {
            let mut line = vec![];
            stats.write(&mut line, &Id::Null, 3, 2);
            serde_json::from_slice::<serde_json::Value>(&line).unwrap()
        };
        assert_eq!(
            (&read()["p50_ms"], &read()["queue"]),
            (&serde_json::Value::Null, &3.into())
        );
        for ms in 1..=100 {
            stats.served(f64::from(ms));
        }
        let value = read();
        assert_eq!(
            (value["p50_ms"].as_f64(), value["p95_ms"].as_f64()),
            (Some(50.0), Some(95.0))
        );
        for _ in 0..LATEST {
            stats.served(7.0);
        }
        assert_eq!(
            (read()["p95_ms"].as_f64(), read()["served"].as_u64()),
            (Some(7.0), Some(1124))
        );
        assert_eq!(stats.counts.lock().unwrap().latest.len(), LATEST);
    }
}
