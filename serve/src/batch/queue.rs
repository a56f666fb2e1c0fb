//! The bounded queue of one model version: many callers, several instances.
//!
//! A caller takes a [`Place`] before it does any work; when there is none, it is refused at once. The place turns into
//! a queued [`Work`] with its picture, and is free again when an execution takes the work or when the caller drops its
//! [`Ticket`] first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use prometheus::IntGauge;
use tokio::sync::oneshot;

use super::{BatchPolicy, Completed, Dispatch, Pending, Priority, Work};
use crate::error::Error;

/// The bounded queue of one model version.
pub struct BatchQueue {
    capacity: usize,
    policy: BatchPolicy,
    /// Shows the places taken.
    depth: IntGauge,
    state: Mutex<State>,
    /// A condition variable that makes no system call where nobody waits: most pushes meet busy instances.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Places taken, queued work included.
    places: usize,
    /// By [`Priority::ORDER`]; in each the identifiers ascend.
    waiting: [VecDeque<Queued>; 3],
    next_id: u64,
    closed: bool,
}

struct Queued {
    id: u64,
    since: Instant,
    work: Work,
}

/// A right to queue one picture.
pub struct Place {
    queue: Arc<BatchQueue>,
    used: bool,
}

/// A picture in the queue, seen from its caller. When it is dropped before the answer came, the picture leaves the
/// queue.
pub struct Ticket {
    queue: Arc<BatchQueue>,
    id: u64,
    priority: Priority,
    answer: oneshot::Receiver<Result<Completed, Error>>,
    answered: bool,
}

impl BatchQueue {
    /// An empty queue with `capacity` places; `depth` shows how many are taken.
    #[must_use]
    pub fn new(capacity: usize, policy: BatchPolicy, depth: IntGauge) -> Arc<Self> {
        Arc::new(Self { capacity, policy, depth, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// None is free, or the queue is closed.
    pub fn reserve(self: &Arc<Self>) -> Result<Place, Refused> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.places >= self.capacity {
            return Err(Refused::Full);
        }
        state.places += 1;
        self.depth.inc();
        Ok(Place { queue: Arc::clone(self), used: false })
    }

    /// The number of places.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// When a batch is closed.
    #[must_use]
    pub fn policy(&self) -> &BatchPolicy {
        &self.policy
    }

    /// Pictures that wait for an execution.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().count()
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes no more work. What waits is still run.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Takes no more work and answers what waits with `error`.
    pub fn fail(&self, error: &Error) {
        let failed: Vec<Queued> = {
            let mut state = self.state.lock();
            state.closed = true;
            let failed: Vec<_> = state.waiting.iter_mut().flat_map(|waiting| waiting.drain(..)).collect();
            self.leave(&mut state, failed.len());
            failed
        };
        self.changed.notify_all();
        for queued in failed {
            // The caller may be gone.
            let _ = queued.work.reply.send(Err(error.clone()));
        }
    }

    /// Waits until the policy closes a batch and takes it, each work with the moment it was queued. Work that nobody
    /// waits for any more, and work that is too late, is left out; the latter is answered. `None` when the queue is
    /// closed and empty.
    pub fn next_batch(&self) -> Option<Vec<(Instant, Work)>> {
        let mut state = self.state.lock();
        loop {
            let (dead, late) = state.remove_dead(Instant::now());
            self.leave(&mut state, dead);
            if !late.is_empty() {
                drop(state);
                for queued in late {
                    let _ = queued.work.reply.send(Err(Error::deadline("while the image waited in the queue")));
                }
                state = self.state.lock();
                continue;
            }
            let Some(pending) = state.pending() else {
                if state.closed {
                    return None;
                }
                self.changed.wait(&mut state);
                continue;
            };
            let now = Instant::now();
            match self.policy.decide(pending, now) {
                Dispatch::Now(count) => return Some(self.take(&mut state, count)),
                // A closed queue gets no company to wait for.
                Dispatch::WaitUntil(_) if state.closed => return Some(self.take(&mut state, pending.count)),
                Dispatch::WaitUntil(moment) => {
                    let wait = moment.saturating_duration_since(now);
                    self.changed.wait_for(&mut state, wait);
                }
            }
        }
    }

    fn take(&self, state: &mut State, count: usize) -> Vec<(Instant, Work)> {
        let taken = state.take(count);
        self.leave(state, taken.len());
        taken
    }

    /// Gives places back.
    fn leave(&self, state: &mut State, places: usize) {
        state.places -= places;
        self.depth.sub(places as i64);
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// All places are taken.
    Full,
    /// The version takes no more work.
    Closed,
}

impl State {
    fn count(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    fn pending(&self) -> Option<Pending> {
        let oldest = self.waiting.iter().filter_map(|waiting| waiting.front()).map(|queued| queued.since).min()?;
        Some(Pending { count: self.count(), oldest })
    }

    fn take(&mut self, count: usize) -> Vec<(Instant, Work)> {
        let mut taken = Vec::with_capacity(count);
        for waiting in &mut self.waiting {
            let some = waiting.len().min(count - taken.len());
            taken.extend(waiting.drain(..some).map(|queued| (queued.since, queued.work)));
        }
        taken
    }

    /// Takes out what nobody waits for and what is too late. Returns how many that are, and the latter.
    fn remove_dead(&mut self, now: Instant) -> (usize, Vec<Queued>) {
        let mut late = Vec::new();
        let before = self.count();
        for waiting in &mut self.waiting {
            if !waiting.iter().any(|queued| queued.work.is_abandoned() || queued.work.is_expired(now)) {
                continue;
            }
            for queued in std::mem::take(waiting) {
                if queued.work.is_abandoned() {
                    continue;
                }
                if queued.work.is_expired(now) { late.push(queued) } else { waiting.push_back(queued) }
            }
        }
        (before - self.count(), late)
    }
}

fn slot(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

impl Place {
    /// Queues the work that `make` makes of the sender for its answer.
    ///
    /// # Errors
    /// The queue was closed in the meantime.
    pub fn push(
        mut self,
        priority: Priority,
        make: impl FnOnce(oneshot::Sender<Result<Completed, Error>>) -> Work,
    ) -> Result<Ticket, Refused> {
        let (sender, answer) = oneshot::channel();
        let work = make(sender);
        let mut state = self.queue.state.lock();
        if state.closed {
            // The guard must be gone before this place's own drop locks again.
            drop(state);
            return Err(Refused::Closed);
        }
        let id = state.next_id;
        state.next_id += 1;
        state.waiting[slot(priority)].push_back(Queued { id, since: Instant::now(), work });
        drop(state);
        self.queue.changed.notify_one();
        self.used = true;
        Ok(Ticket { queue: Arc::clone(&self.queue), id, priority, answer, answered: false })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.used {
            let mut state = self.queue.state.lock();
            self.queue.leave(&mut state, 1);
        }
    }
}

impl Ticket {
    /// Waits for the answer.
    ///
    /// # Errors
    /// What the instance answered; [`crate::error::ErrorCode::Internal`] when it died without an answer.
    pub async fn answer(mut self) -> Result<Completed, Error> {
        let answer = (&mut self.answer).await;
        self.answered = true;
        answer.unwrap_or_else(|_| Err(ended()))
    }

    /// The same on a thread that may block.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn wait(mut self) -> Result<Completed, Error> {
        self.answered = true;
        // Taken out, because a ticket that is dropped looks at its queue.
        let (_, nothing) = oneshot::channel();
        std::mem::replace(&mut self.answer, nothing).blocking_recv().unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> Error {
    Error::internal("the engine's instance ended before it answered")
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let mut state = self.queue.state.lock();
        let waiting = &mut state.waiting[slot(self.priority)];
        if let Ok(index) = waiting.binary_search_by_key(&self.id, |queued| queued.id) {
            let removed = waiting.remove(index);
            self.queue.leave(&mut state, 1);
            // Its picture is freed without the lock.
            drop(state);
            drop(removed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use detectd_engine::Picture;
    use detectd_vision::{DetectOptions, Image};

    use super::*;

    fn queue(capacity: usize, max_batch: usize) -> (Arc<BatchQueue>, IntGauge) {
        let depth = IntGauge::new("depth", "of the test's queue").unwrap();
        let policy = BatchPolicy { max_batch, preferred: Vec::new(), max_delay: Duration::ZERO };
        (BatchQueue::new(capacity, policy, depth.clone()), depth)
    }

    /// Queues a picture `mark` pixels wide, by which it is known again.
    fn push(queue: &Arc<BatchQueue>, mark: u32, priority: Priority, deadline: Option<Instant>) -> Ticket {
        let picture = Picture::Decoded(Image::filled(mark, 1, [0; 3]));
        let options = DetectOptions::default();
        queue.reserve().unwrap().push(priority, |reply| Work { picture, options, deadline, reply }).unwrap()
    }

    fn marks(batch: &[(Instant, Work)]) -> Vec<u32> {
        let mark = |(_, work): &(Instant, Work)| match &work.picture {
            Picture::Decoded(image) => image.width(),
            other => panic!("{other:?}"),
        };
        batch.iter().map(mark).collect()
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let (queue, depth) = queue(2, 8);
        let first = queue.reserve().unwrap();
        let ticket = push(&queue, 1, Priority::Normal, None);
        assert_eq!(queue.reserve().err(), Some(Refused::Full));
        assert_eq!(depth.get(), 2);
        drop(first);
        drop(ticket);
        assert_eq!((depth.get(), queue.len()), (0, 0));
        assert!(queue.reserve().is_ok());
    }

    #[test]
    fn batches_follow_priority_and_then_arrival() {
        let (queue, depth) = queue(10, 3);
        let _tickets: Vec<_> = [(1, Priority::Low), (2, Priority::Normal), (3, Priority::High), (4, Priority::Normal)]
            .map(|(mark, priority)| push(&queue, mark, priority, None))
            .into();
        assert_eq!(marks(&queue.next_batch().unwrap()), [3, 2, 4]);
        assert_eq!(depth.get(), 1);
        assert_eq!(marks(&queue.next_batch().unwrap()), [1]);
    }

    #[tokio::test]
    async fn dead_work_is_left_out() {
        let (queue, depth) = queue(10, 8);
        let late = push(&queue, 1, Priority::Normal, Some(Instant::now()));
        let gone = push(&queue, 2, Priority::Normal, None);
        let _alive = push(&queue, 3, Priority::Normal, None);
        drop(gone);
        assert_eq!(marks(&queue.next_batch().unwrap()), [3]);
        assert_eq!(late.answer().await.unwrap_err().code, crate::error::ErrorCode::DeadlineExceeded);
        assert_eq!(depth.get(), 0);
    }

    #[tokio::test]
    async fn a_closed_queue_runs_what_it_has_and_a_failed_one_answers_it() {
        let (queue, _) = queue(10, 8);
        let _ticket = push(&queue, 1, Priority::Normal, None);
        let place = queue.reserve().unwrap();
        queue.close();
        assert_eq!(queue.reserve().err(), Some(Refused::Closed));
        let picture = Picture::Decoded(Image::filled(1, 1, [0; 3]));
        let work = |reply| Work { picture, options: DetectOptions::default(), deadline: None, reply };
        assert!(place.push(Priority::Normal, work).is_err(), "closed while the picture was prepared");
        assert_eq!(marks(&queue.next_batch().unwrap()), [1]);
        assert!(queue.next_batch().is_none());

        let (queue, depth) = self::queue(10, 8);
        let ticket = push(&queue, 1, Priority::Normal, None);
        queue.fail(&Error::unavailable("gone"));
        assert_eq!(ticket.answer().await.unwrap_err().message, "gone");
        assert!(queue.next_batch().is_none());
        assert_eq!(depth.get(), 0);
    }
}
