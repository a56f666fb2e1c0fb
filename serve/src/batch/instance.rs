//! The thread that owns an engine: it forms batches, runs them, and answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use detectd_engine::{DetectScratch, Detected, Engine, EngineError, Model, Picture, Stage};
use detectd_vision::{DetectOptions, Image, Letterbox};
use tracing::{debug, error, info, warn};

use super::{BatchQueue, Completed, Work};
use crate::buffers::BufferPool;
use crate::error::Error;
use crate::metrics::{ExecutionTimes, VersionMetrics};

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
    /// Opens an engine on a new thread, runs it once at each of `warm_up`'s batch sizes, and lets it take work. Returns
    /// when it is ready.
    ///
    /// # Errors
    /// The engine cannot be opened or does not survive the warm-up; the thread has ended then.
    pub fn start(index: usize, shared: Arc<Shared>, warm_up: &[usize]) -> Result<Self, EngineError> {
        let (report, ready) = std::sync::mpsc::sync_channel(1);
        let warm_up = warm_up.to_vec();
        let thread = thread::Builder::new()
            .name(format!("instance-{index}"))
            .spawn(move || {
                let engine = open(&shared).and_then(|mut engine| {
                    for &size in &warm_up {
                        run_warm_up(&shared, engine.as_mut(), size)?;
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

    /// Runs a batch, and if that fails, each of its pictures alone: one bad picture must not fail its neighbours.
    fn execute(&mut self, batch: Vec<(Instant, Work)>) {
        let started = Instant::now();
        let mut pictures = Vec::with_capacity(batch.len());
        let mut options = Vec::with_capacity(batch.len());
        let mut callers = Vec::with_capacity(batch.len());
        for (since, work) in batch {
            pictures.push(work.picture);
            options.push(work.options);
            callers.push((started - since, work.deadline, work.reply));
        }
        let size = pictures.len();
        match self.attempt(&pictures, &options) {
            Ok(detected) => {
                let compute = detected.assemble + detected.compute;
                for ((queue, _, reply), detections) in callers.into_iter().zip(detected.detections) {
                    let postprocess = detected.postprocess;
                    let answer = Completed { detections, queue, compute, postprocess, batch_size: size };
                    let _ = reply.send(Ok(answer));
                }
            }
            Err(failure) if size == 1 => {
                for (_, _, reply) in callers {
                    let _ = reply.send(Err(self.answer(&failure)));
                }
            }
            Err(failure) => {
                warn!(model = self.shared.name, size, %failure, "a batch failed: its pictures are run one by one");
                for ((queue, deadline, reply), (picture, options)) in
                    callers.into_iter().zip(pictures.iter().zip(&options))
                {
                    if reply.is_closed() {
                        continue;
                    }
                    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        let _ = reply.send(Err(Error::deadline("before the image could be run again")));
                        continue;
                    }
                    let alone = self.attempt(std::slice::from_ref(picture), std::slice::from_ref(options));
                    let answer = alone.map_err(|failure| self.answer(&failure)).map(|mut detected| Completed {
                        detections: detected.detections.pop().unwrap_or_default(),
                        queue,
                        compute: detected.assemble + detected.compute,
                        postprocess: detected.postprocess,
                        batch_size: 1,
                    });
                    let _ = reply.send(answer);
                }
            }
        }
        self.shared.buffers.give_back(pictures);
    }

    /// One execution. After a failure that may have left the engine in a bad state, the engine is opened anew.
    fn attempt(&mut self, pictures: &[Picture], options: &[DetectOptions]) -> Result<Detected, EngineError> {
        let Some(engine) = &mut self.engine else {
            return Err(EngineError::Backend("the engine failed and cannot be opened".into()));
        };
        let scratch = &mut self.scratch;
        let result = guarded(|| engine.detect(pictures, options, scratch));
        match result {
            Ok(detected) if detected.detections.len() == pictures.len() => {
                let Detected { assemble, compute, postprocess, .. } = detected;
                let times = ExecutionTimes { assemble, compute, postprocess };
                self.shared.metrics.executed(pictures.len(), &times);
                Ok(detected)
            }
            Ok(detected) => {
                let got = detected.detections.len();
                Err(EngineError::Backend(format!("{got} answers for {} pictures", pictures.len())))
            }
            Err(failure) => {
                if !matches!(failure, EngineError::Shape(_) | EngineError::OutOfMemory(_)) {
                    error!(model = self.shared.name, size = pictures.len(), %failure, "the engine failed");
                    self.reopen(&failure);
                }
                Err(failure)
            }
        }
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

    fn answer(&self, failure: &EngineError) -> Error {
        match failure {
            EngineError::Shape(message) => Error::invalid(message.clone()),
            EngineError::OutOfMemory(_) => {
                Error::exhausted(format!("{}: {failure}", self.shared.name), std::time::Duration::from_secs(1))
            }
            _ => Error::internal(format!("{}: {failure}", self.shared.name)),
        }
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

fn run_warm_up(shared: &Shared, engine: &mut dyn Engine, size: usize) -> Result<(), EngineError> {
    let spec = shared.model.spec();
    let Some(detector) = &spec.detector else { return Ok(()) };
    let (width, height) = (detector.preprocess.width, detector.preprocess.height);
    let picture = match spec.takes {
        Stage::Letterboxed => {
            let letterbox = Letterbox::new((width, height), &detector.preprocess);
            Picture::Letterboxed { input: vec![0.0; detector.preprocess.input_len()], letterbox }
        }
        Stage::Decoded => Picture::Decoded(Image::filled(width, height, [114; 3])),
        // There is no file that every engine would take; the first request warms it.
        Stage::Encoded => return Ok(()),
    };
    let pictures = vec![picture; size];
    let options = vec![DetectOptions::default(); size];
    let started = Instant::now();
    guarded(|| engine.detect(&pictures, &options, &mut DetectScratch::default()))?;
    debug!(model = shared.name, size, elapsed = ?started.elapsed(), "warm-up");
    Ok(())
}
