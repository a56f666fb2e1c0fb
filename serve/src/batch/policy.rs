//! When a batch is closed. Pure: no clock, no lock, tested by a table.

use std::time::{Duration, Instant};

/// How long work may wait for company.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPolicy {
    /// The most pictures in one execution.
    pub max_batch: usize,
    /// Sizes that the engine runs best at, ascending, none above `max_batch`. A batch of one of these sizes goes at
    /// once; another waits for more until `max_delay` is over.
    pub preferred: Vec<usize>,
    /// The longest that the oldest picture waits for others while an instance is idle. Zero: an idle instance takes
    /// what there is, and batches grow by themselves while instances are busy.
    pub max_delay: Duration,
}

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The number of pictures.
    pub count: usize,
    /// When the oldest one came.
    pub oldest: Instant,
}

/// What an idle instance does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// Take this many.
    Now(usize),
    /// Look again at this moment, or when more has come.
    WaitUntil(Instant),
}

impl BatchPolicy {
    /// What an idle instance does while `pending` waits. `pending.count` is at least 1.
    #[must_use]
    pub fn decide(&self, pending: Pending, now: Instant) -> Dispatch {
        let available = pending.count.min(self.max_batch);
        let due = pending.oldest + self.max_delay;
        if available == self.max_batch || now >= due {
            return Dispatch::Now(available);
        }
        match self.preferred.iter().rev().find(|&&size| size <= available) {
            Some(&size) => Dispatch::Now(size),
            None => Dispatch::WaitUntil(due),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: u64 = 10;

    #[test]
    fn decisions() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let policy = |max_batch, preferred: &[usize], delay| BatchPolicy {
            max_batch,
            preferred: preferred.to_vec(),
            max_delay: Duration::from_millis(delay),
        };
        let wait = Dispatch::WaitUntil(at(DELAY));
        let cases = [
            ("no delay: what there is", policy(8, &[], 0), 3, 0, Dispatch::Now(3)),
            ("no delay, preferred sizes: still what there is", policy(8, &[4], 0), 3, 0, Dispatch::Now(3)),
            ("no more than the maximum", policy(8, &[], 0), 20, 0, Dispatch::Now(8)),
            ("a full batch waits for nobody", policy(8, &[], DELAY), 8, 0, Dispatch::Now(8)),
            ("a part waits for more", policy(8, &[], DELAY), 7, 0, wait),
            ("until its time is over", policy(8, &[], DELAY), 7, DELAY, Dispatch::Now(7)),
            ("below every preferred size", policy(8, &[4, 6], DELAY), 3, 5, wait),
            ("a preferred size goes at once", policy(8, &[4, 6], DELAY), 4, 0, Dispatch::Now(4)),
            ("the largest preferred size that is full", policy(8, &[4, 6], DELAY), 7, 0, Dispatch::Now(6)),
            ("time over: everything, not a preferred size", policy(8, &[4, 6], DELAY), 7, 11, Dispatch::Now(7)),
            ("batches of one", policy(1, &[], DELAY), 5, 0, Dispatch::Now(1)),
        ];
        for (name, policy, count, now, expected) in cases {
            assert_eq!(policy.decide(Pending { count, oldest: start }, at(now)), expected, "{name}");
        }
    }
}
