//! Where the time of an inference goes: wall time per op and layer, and per kind of work inside the linear maps. Costs one
//! load and one branch per op while nobody asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Kinds of work inside a linear map; what all threads took together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inside {
    /// Panels made into ones a kernel reads.
    Expand,
    Multiply,
    /// Scales and bias, stored where they belong.
    Rescale,
    Activate,
}

impl Inside {
    pub fn name(self) -> &'static str {
        match self {
            Inside::Expand => "expand",
            Inside::Multiply => "multiply",
            Inside::Rescale => "rescale",
            Inside::Activate => "activate",
        }
    }
}

/// One op in one layer (or outside of them), or a kind of work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub time: Duration,
    pub calls: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Times {
    /// By layer, then op.
    pub ops: BTreeMap<(Option<usize>, String), Taken>,
    pub inside: BTreeMap<Inside, Taken>,
}

#[derive(Debug, Default)]
pub struct Profile {
    on: AtomicBool,
    times: Mutex<Times>,
}

/// A clock that runs only while a profile is taken.
#[derive(Clone, Copy)]
pub struct Clock(Option<Instant>);

impl Profile {
    pub fn clock(&self) -> Clock {
        Clock(self.on.load(Ordering::Relaxed).then(Instant::now))
    }

    /// Books what `clock` ran since it was started.
    pub fn op(&self, clock: Clock, layer: Option<usize>, name: impl FnOnce() -> String) {
        if let Some(start) = clock.0 {
            let time = start.elapsed();
            let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            add(times.ops.entry((layer, name())).or_default(), time);
        }
    }

    /// Books the same as work of one kind, and starts the clock again.
    pub fn inside(&self, clock: &mut Clock, kind: Inside) {
        if let Some(start) = clock.0 {
            let now = Instant::now();
            let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            add(times.inside.entry(kind).or_default(), now - start);
            clock.0 = Some(now);
        }
    }

    pub fn start(&self) {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner) = Times::default();
        self.on.store(true, Ordering::Relaxed);
    }

    pub fn stop(&self) -> Times {
        self.on.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn add(taken: &mut Taken, time: Duration) {
    taken.time += time;
    taken.calls += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happens_while_a_profile_is_taken_counts() {
        let profile = Profile::default();
        let one = |layer| profile.op(profile.clock(), layer, || "norm".to_string());
        one(None);
        profile.start();
        one(Some(0));
        one(Some(0));
        one(Some(1));
        let mut clock = profile.clock();
        profile.inside(&mut clock, Inside::Multiply);
        let times = profile.stop();
        one(None);
        let calls: Vec<_> = times
            .ops
            .iter()
            .map(|((layer, name), t)| (*layer, name.as_str(), t.calls))
            .collect();
        assert_eq!(calls, [(Some(0), "norm", 2), (Some(1), "norm", 1)]);
        assert_eq!(times.inside[&Inside::Multiply].calls, 1);
        assert!(profile.stop().ops.is_empty());
    }
}
