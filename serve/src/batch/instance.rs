//! The thread that owns an engine: it forms batches, runs them, and answers.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use detectd_engine::{DetectScratch, Engine, EngineError, Model};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::execution::{Executed, Payloads};
use super::{BatchQueue, Completed, Taken, warm_up};
use crate::buffers::BufferPool;
use crate::error::Error;
use crate::metrics::VersionMetrics;

/// What the instances of one version have in common.
pub struct Shared {
    /// The model's name and version, for messages.
    pub name: String,
    /// The weights.
    pub model: Arc<dyn Model>,
    /// Where work comes from.
    pub queue: Arc<BatchQueue>,
    /// Where the buffers of finished pictures go.
    pub buffers: Arc<BufferPool>,
    /// What is counted.
    pub metrics: Arc<VersionMetrics>,
    /// Instances that can run work.
    pub live: AtomicUsize,
}

/// One engine on its own thread.
pub struct Instance {
    thread: JoinHandle<()>,
}

impl Instance {
    /// Opens an engine on a new thread, runs it once at each of `sizes`, and lets it take work. Returns
    /// when it is ready.
    ///
    /// # Errors
    /// The engine cannot be opened or does not survive the warm-up; the thread has ended then.
    pub fn start(index: usize, shared: Arc<Shared>, sizes: &[usize]) -> Result<Self, EngineError> {
        let (report, ready) = std::sync::mpsc::sync_channel(1);
        let sizes = sizes.to_vec();
        let thread = thread::Builder::new()
            .name(format!("instance-{index}"))
            .spawn(move || {
                let engine = open(&shared).and_then(|mut engine| {
                    for &size in &sizes {
                        guarded(|| warm_up(engine.as_mut(), size))?;
                    }
                    Ok(engine)
                });
                match engine {
                    Ok(engine) => {
                        shared.live.fetch_add(1, Ordering::AcqRel);
                        let _ = report.send(Ok(()));
                        Runner { shared, engine: Some(engine), scratch: DetectScratch::default() }.run();
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                    }
                }
            })
            .map_err(|error| EngineError::Load(format!("no thread for the instance: {error}")))?;
        match ready.recv() {
            Ok(Ok(())) => Ok(Self { thread }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EngineError::Backend("the instance's thread ended while it was opened".into())),
        }
    }

    /// Waits for the thread's end, which comes when the queue is closed and empty.
    pub fn join(self) {
        // A thread that panicked has answered through its dropped senders already.
        let _ = self.thread.join();
    }
}

struct Runner {
    shared: Arc<Shared>,
    /// `None` only when it failed and could not be opened anew.
    engine: Option<Box<dyn Engine>>,
    scratch: DetectScratch,
}

impl Runner {
    fn run(mut self) {
        while self.engine.is_some()
            && let Some(batch) = self.shared.queue.next_batch()
        {
            self.execute(batch);
        }
        let left = self.shared.live.fetch_sub(1, Ordering::AcqRel) - 1;
        if self.engine.is_none() {
            error!(model = self.shared.name, instances_left = left, "an instance ended: its engine cannot be opened");
            if left == 0 {
                let message = format!("{}: the last instance's engine failed and cannot be opened", self.shared.name);
                self.shared.queue.fail(&Error::unavailable(message));
            }
        }
        self.drop_engine();
    }

    /// Runs a batch, and if that fails, smaller parts of it: one bad request must not fail its neighbours.
    fn execute(&mut self, Taken { work, mut turn }: Taken) {
        let started = Instant::now();
        let mut payloads = Payloads::default();
        let mut callers = Vec::with_capacity(work.len());
        for (since, work) in work {
            payloads.push(work.payload);
            callers.push(Caller { queued: started - since, deadline: work.deadline, reply: work.reply });
        }
        let mut callers = callers.into_iter();
        let mut left = VecDeque::from_iter(std::iter::once(0..payloads.len()));
        while let Some(part) = left.pop_front() {
            let retried = part.len() < payloads.len();
            if retried && part.len() == 1 && callers.as_slice().first().is_some_and(Caller::is_late) {
                let late = Error::deadline("before the request could be run again");
                callers.by_ref().take(1).for_each(|caller| caller.answer(Err(late.clone())));
                continue;
            }
            let result = self.attempt(&payloads, part.clone());
            if let Some(turn) = turn.take() {
                turn.wait();
            }
            match result {
                Ok(executed) => answer(callers.by_ref().take(part.len()).collect(), executed),
                Err(failure) if part.len() == 1 => {
                    if let Some(caller) = callers.next() {
                        caller.answer(Err(self.refusal(&failure)));
                    }
                }
                Err(failure) => {
                    let smaller = smaller(part.clone(), &failure);
                    let (model, parts) = (&self.shared.name, smaller.len());
                    warn!(model, count = part.len(), parts, %failure, "a batch failed: it is run again in parts");
                    smaller.into_iter().rev().for_each(|part| left.push_front(part));
                }
            }
        }
        self.shared.buffers.give_back(payloads.into_pictures());
    }

    /// One execution. After a failure that may have left the engine in a bad state, the engine is opened anew.
    fn attempt(&mut self, payloads: &Payloads, range: Range<usize>) -> Result<Executed, EngineError> {
        let Some(engine) = &mut self.engine else {
            return Err(EngineError::Backend("the engine failed and cannot be opened".into()));
        };
        let scratch = &mut self.scratch;
        let count = range.len();
        let result = guarded(|| payloads.run(range, engine.as_mut(), scratch));
        match &result {
            Ok(executed) => self.shared.metrics.executed(executed.rows, &executed.times),
            Err(EngineError::Shape(_) | EngineError::OutOfMemory(_)) => {}
            Err(failure) => {
                error!(model = self.shared.name, count, %failure, "the engine failed");
                self.reopen(failure);
            }
        }
        result
    }

    fn reopen(&mut self, failure: &EngineError) {
        self.drop_engine();
        self.scratch = DetectScratch::default();
        if matches!(failure, EngineError::DeviceLost(_)) {
            return;
        }
        match open(&self.shared) {
            Ok(engine) => {
                info!(model = self.shared.name, "the engine was opened anew");
                self.engine = Some(engine);
            }
            Err(failure) => error!(model = self.shared.name, %failure, "the engine cannot be opened anew"),
        }
    }

    fn drop_engine(&mut self) {
        if let Some(engine) = self.engine.take() {
            // An engine in a bad state may panic once more.
            let _ = guarded(|| {
                drop(engine);
                Ok(())
            });
        }
    }

    fn refusal(&self, failure: &EngineError) -> Error {
        match failure {
            EngineError::Shape(message) => Error::invalid(message.clone()),
            EngineError::OutOfMemory(_) => {
                Error::exhausted(format!("{}: {failure}", self.shared.name), Duration::from_secs(1))
            }
            _ => Error::internal(format!("{}: {failure}", self.shared.name)),
        }
    }
}

/// Who waits for an answer.
struct Caller {
    queued: Duration,
    deadline: Option<Instant>,
    reply: oneshot::Sender<Result<Completed, Error>>,
}

impl Caller {
    /// Nobody waits any more, or no longer than until now.
    fn is_late(&self) -> bool {
        self.reply.is_closed() || self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    fn answer(self, answer: Result<Completed, Error>) {
        // Whoever has left needs none.
        let _ = self.reply.send(answer);
    }
}

/// Gives each caller its output.
fn answer(callers: Vec<Caller>, executed: Executed) {
    let Executed { outputs, times, rows: batch_size } = executed;
    let (compute, postprocess) = (times.assemble + times.compute, times.postprocess);
    for (caller, output) in callers.into_iter().zip(outputs) {
        let queue = caller.queued;
        caller.answer(Ok(Completed { output, queue, compute, postprocess, batch_size }));
    }
}

/// The parts in which a failed batch is run again: halves where there was no memory for the whole, single requests
/// where one of them may be bad.
fn smaller(part: Range<usize>, failure: &EngineError) -> Vec<Range<usize>> {
    match failure {
        EngineError::OutOfMemory(_) => {
            let middle = part.start + part.len() / 2;
            vec![part.start..middle, middle..part.end]
        }
        _ => part.map(|index| index..index + 1).collect(),
    }
}

/// Opens the engine; a panic is an error.
fn open(shared: &Shared) -> Result<Box<dyn Engine>, EngineError> {
    guarded(|| shared.model.open())
}

fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    // What the closure touches is dropped or replaced after a panic.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into());
        Err(EngineError::Backend(format!("panic: {message}")))
    })
}
