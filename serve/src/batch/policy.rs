//! When a batch is closed. Pure: no clock, no lock, tested by a table.

use std::time::{Duration, Instant};

/// How long work may wait for company.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPolicy {
    /// The most rows in one execution. A picture is one row.
    pub max_batch: usize,
    /// Sizes that the engine runs best at, ascending, none above `max_batch`. A batch of one of these sizes goes at
    /// once; another waits for more until `max_delay` is over.
    pub preferred: Vec<usize>,
    /// The longest that the oldest work waits for others while an instance is idle. Zero: an idle instance takes
    /// what there is, and batches grow by themselves while instances are busy.
    pub max_delay: Duration,
}

/// One request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// How much of an execution it takes.
    pub rows: usize,
    /// When it came.
    pub since: Instant,
    /// Whether it can be in one execution with the first that waits.
    pub joins: bool,
}

/// What of the waiting work could be one execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The number of rows.
    pub rows: usize,
    /// The largest preferred size that can be taken.
    pub preferred: Option<usize>,
    /// When the oldest work came.
    pub oldest: Instant,
    /// It does not grow any more: it is full, or what comes next does not fit.
    pub closed: bool,
}

/// What an idle instance does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// Take the work of this many rows.
    Now(usize),
    /// Look again at this moment, or when more has come.
    WaitUntil(Instant),
}

impl BatchPolicy {
    /// Gathers one execution from the work that waits, first to last. `None` when nothing does.
    pub fn gather(&self, waiting: impl IntoIterator<Item = Waiting>) -> Option<Pending> {
        let mut waiting = waiting.into_iter();
        let Waiting { rows, since, .. } = waiting.next()?;
        let mut pending = Pending { rows, preferred: self.preferred(rows), oldest: since, closed: false };
        while pending.rows < self.max_batch {
            let Some(next) = waiting.next() else { return Some(pending) };
            let rows = pending.rows + next.rows;
            if !next.joins || rows > self.max_batch {
                break;
            }
            let preferred = self.preferred(rows).or(pending.preferred);
            pending = Pending { rows, preferred, oldest: pending.oldest.min(next.since), closed: false };
        }
        Some(Pending { closed: true, ..pending })
    }

    fn preferred(&self, rows: usize) -> Option<usize> {
        self.preferred.contains(&rows).then_some(rows)
    }

    /// What an idle instance does while `pending` waits.
    #[must_use]
    pub fn decide(&self, pending: Pending, now: Instant) -> Dispatch {
        let due = pending.oldest + self.max_delay;
        if pending.closed || now >= due {
            return Dispatch::Now(pending.rows);
        }
        pending.preferred.map_or(Dispatch::WaitUntil(due), Dispatch::Now)
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
        // Negative: of another shape.
        let cases = [
            ("no delay: what there is", policy(8, &[], 0), &[1; 3][..], 0, Dispatch::Now(3)),
            ("no delay, preferred sizes: still what there is", policy(8, &[4], 0), &[1; 3], 0, Dispatch::Now(3)),
            ("no more than the maximum", policy(8, &[], 0), &[1; 20], 0, Dispatch::Now(8)),
            ("a full batch waits for nobody", policy(8, &[], DELAY), &[1; 8], 0, Dispatch::Now(8)),
            ("a part waits for more", policy(8, &[], DELAY), &[1; 7], 0, wait),
            ("until its time is over", policy(8, &[], DELAY), &[1; 7], DELAY, Dispatch::Now(7)),
            ("below every preferred size", policy(8, &[4, 6], DELAY), &[1; 3], 5, wait),
            ("a preferred size goes at once", policy(8, &[4, 6], DELAY), &[1; 4], 0, Dispatch::Now(4)),
            ("the largest preferred size that is full", policy(8, &[4, 6], DELAY), &[1; 7], 0, Dispatch::Now(6)),
            ("time over: everything, not a preferred size", policy(8, &[4, 6], DELAY), &[1; 7], 11, Dispatch::Now(7)),
            ("batches of one", policy(1, &[], DELAY), &[1; 5], 0, Dispatch::Now(1)),
            ("rows count, not requests", policy(8, &[], DELAY), &[3, 2], 0, wait),
            ("rows fill a batch", policy(8, &[], DELAY), &[3, 5], 0, Dispatch::Now(8)),
            ("what does not fit closes the batch", policy(8, &[], DELAY), &[3, 4, 2], 0, Dispatch::Now(7)),
            ("a preferred size that no requests make", policy(8, &[4], DELAY), &[3, 2], 0, wait),
            ("a preferred size of two requests", policy(8, &[5], DELAY), &[3, 2, 1], 0, Dispatch::Now(5)),
            ("another shape closes the batch", policy(8, &[], DELAY), &[3, 1, -1, 1], 0, Dispatch::Now(4)),
        ];
        for (name, policy, rows, now, expected) in cases {
            let waiting =
                rows.iter().map(|&rows: &isize| Waiting { rows: rows.unsigned_abs(), since: start, joins: rows > 0 });
            let pending = policy.gather(waiting).unwrap();
            assert_eq!(policy.decide(pending, at(now)), expected, "{name}");
        }
        assert_eq!(policy(8, &[], 0).gather([]), None);
    }

    #[test]
    fn the_oldest_of_a_batch_decides_when_it_is_due() {
        let policy = BatchPolicy { max_batch: 8, preferred: Vec::new(), max_delay: Duration::from_millis(DELAY) };
        let (late, early) = (Instant::now() + Duration::from_millis(5), Instant::now());
        let waiting = [late, early].map(|since| Waiting { rows: 1, since, joins: true });
        let pending = policy.gather(waiting).unwrap();
        assert_eq!(policy.decide(pending, late), Dispatch::WaitUntil(early + policy.max_delay));
    }
}
