//! The bounded queue of one model version: many callers, several instances.
//!
//! A caller takes a [`Place`] before it does any work; when there is none, it is refused at once. The place turns into
//! a queued [`Work`], and is free again when an execution takes the work, when the work has waited for too long, or
//! when the caller drops its [`Ticket`] first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prometheus::IntGauge;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::{BatchPolicy, Completed, Dispatch, Order, Pending, Priority, Turn, Waiting, Work};
use crate::error::Error;

/// The bounded queue of one model version.
pub struct BatchQueue {
    settings: QueueSettings,
    policy: BatchPolicy,
    order: Arc<Order>,
    /// Shows the places taken.
    depth: IntGauge,
    state: Mutex<State>,
    /// A condition variable that makes no system call where nobody waits: most pushes meet busy instances.
    changed: Condvar,
}

/// What may wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Requests that may wait.
    pub capacity: usize,
    /// After which a request that still waits is refused.
    pub timeout: Option<Duration>,
    /// Whether answers leave in the order in which their work was taken, also from several instances.
    pub preserve_order: bool,
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

/// What an instance has taken for one execution.
pub struct Taken {
    /// Each work with the moment it was queued.
    pub work: Vec<(Instant, Work)>,
    /// When the answers may leave; `None` for at once.
    pub turn: Option<Turn>,
}

/// A right to queue one request.
pub struct Place {
    queue: Arc<BatchQueue>,
    used: bool,
}

/// A request in the queue, seen from its caller. When it is dropped before the answer came, the request leaves the
/// queue.
pub struct Ticket {
    queue: Arc<BatchQueue>,
    id: u64,
    since: Instant,
    priority: Priority,
    answer: oneshot::Receiver<Result<Completed, Error>>,
    answered: bool,
}

impl BatchQueue {
    /// An empty queue; `depth` shows how many places are taken.
    #[must_use]
    pub fn new(settings: QueueSettings, policy: BatchPolicy, depth: IntGauge) -> Arc<Self> {
        let (order, state, changed) = (Arc::default(), Mutex::default(), Condvar::new());
        Arc::new(Self { settings, policy, order, depth, state, changed })
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
        if state.places >= self.settings.capacity {
            return Err(Refused::Full);
        }
        state.places += 1;
        self.depth.inc();
        Ok(Place { queue: Arc::clone(self), used: false })
    }

    /// What may wait, and for how long.
    #[must_use]
    pub fn settings(&self) -> &QueueSettings {
        &self.settings
    }

    /// When a batch is closed.
    #[must_use]
    pub fn policy(&self) -> &BatchPolicy {
        &self.policy
    }

    /// Requests that wait for an execution.
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

    /// Waits until the policy closes a batch and takes it. Work that nobody waits for any more, and work that is too
    /// late, is left out; the latter is answered. `None` when the queue is closed and empty.
    pub fn next_batch(&self) -> Option<Taken> {
        let mut state = self.state.lock();
        loop {
            let (dead, late) = state.remove_dead(Instant::now());
            self.leave(&mut state, dead);
            if !late.is_empty() {
                drop(state);
                for queued in late {
                    let _ = queued.work.reply.send(Err(Error::deadline("while the request waited in the queue")));
                }
                state = self.state.lock();
                continue;
            }
            let Some(pending) = state.gather(&self.policy) else {
                if state.closed {
                    return None;
                }
                self.changed.wait(&mut state);
                continue;
            };
            let now = Instant::now();
            match self.policy.decide(pending, now) {
                Dispatch::Now(rows) => return Some(self.take(&mut state, rows)),
                // A closed queue gets no company to wait for.
                Dispatch::WaitUntil(_) if state.closed => return Some(self.take(&mut state, pending.rows)),
                Dispatch::WaitUntil(moment) => {
                    let wait = moment.saturating_duration_since(now);
                    self.changed.wait_for(&mut state, wait);
                }
            }
        }
    }

    fn take(&self, state: &mut State, rows: usize) -> Taken {
        let work = state.take(rows);
        self.leave(state, work.len());
        if state.count() > 0 {
            // Another instance may have looked while this batch was not closed yet.
            self.changed.notify_one();
        }
        // Given under the queue's lock: the order of the turns is that of the batches.
        Taken { work, turn: self.settings.preserve_order.then(|| self.order.take()) }
    }

    /// Takes one request out, if no execution has taken it. True when it was there.
    fn remove(&self, id: u64, priority: Priority) -> bool {
        let mut state = self.state.lock();
        let waiting = &mut state.waiting[slot(priority)];
        let Ok(index) = waiting.binary_search_by_key(&id, |queued| queued.id) else { return false };
        let removed = waiting.remove(index);
        self.leave(&mut state, 1);
        // What it holds is freed without the lock.
        drop(state);
        drop(removed);
        true
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

    /// What can be one execution, in the order in which it would be taken.
    fn gather(&self, policy: &BatchPolicy) -> Option<Pending> {
        let all = || self.waiting.iter().flatten();
        let first = &all().next()?.work.payload;
        policy.gather(all().map(|Queued { since, work, .. }| {
            let joins = work.payload.joins(first);
            Waiting { rows: work.payload.rows(), since: *since, joins }
        }))
    }

    /// Takes the work that makes up `rows`, which [`State::gather`] has found at the front.
    fn take(&mut self, rows: usize) -> Vec<(Instant, Work)> {
        let mut taken = Vec::with_capacity(rows);
        let mut left = rows;
        for waiting in &mut self.waiting {
            while let Some(queued) = waiting.pop_front_if(|queued| queued.work.payload.rows() <= left) {
                left -= queued.work.payload.rows();
                taken.push((queued.since, queued.work));
            }
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
        let since = Instant::now();
        state.waiting[slot(priority)].push_back(Queued { id, since, work });
        drop(state);
        self.queue.changed.notify_one();
        self.used = true;
        Ok(Ticket { queue: Arc::clone(&self.queue), id, since, priority, answer, answered: false })
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
    /// What the instance answered; [`crate::error::ErrorCode::Unavailable`] when no instance took the request within
    /// the queue's timeout; [`crate::error::ErrorCode::Internal`] when the instance died without an answer.
    pub async fn answer(mut self) -> Result<Completed, Error> {
        let answer = match self.queue.settings.timeout {
            None => (&mut self.answer).await,
            Some(limit) => match timeout_at((self.since + limit).into(), &mut self.answer).await {
                Ok(answer) => answer,
                Err(_) if self.queue.remove(self.id, self.priority) => return Err(waited_too_long(limit)),
                // An instance has taken it: its answer is on the way.
                Err(_) => (&mut self.answer).await,
            },
        };
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

/// UNAVAILABLE, as other inference servers answer it: not the caller's deadline has passed but the server's own limit,
/// and the same request may pass elsewhere or later.
fn waited_too_long(timeout: Duration) -> Error {
    let timeout = timeout.as_millis();
    Error::unavailable(format!("the request waited in the queue for the model's batching.queue_timeout_ms, {timeout}"))
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.queue.remove(self.id, self.priority);
        }
    }
}

#[cfg(test)]
mod tests;
