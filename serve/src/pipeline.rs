//! The life of one request, told once, top to bottom.
//!
//! An image takes two hand-offs and no more: to the CPU pool, which decodes and resizes it, and to the instance, which
//! runs it in a batch. Dropping the future at any moment frees whatever the request holds. Tensors need the second
//! hand-off only.

mod infer;
pub(crate) mod prepare;
mod trial;

pub use infer::{TensorAnswer, TensorJob};

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use detectd_engine::Stage;
use detectd_vision::{DecodeLimits, Detection, RawLayout};

use crate::batch::{Completed, Output, Payload, Place, Priority, Refused, Work};
use crate::cpu_pool::CpuPool;
use crate::error::Error;
use crate::lifecycle::Lifecycle;
use crate::metrics::{InFlight, Metrics, StageTimes};
use crate::options::RequestedOptions;
use crate::repository::{ModelVersion, Pick, Repository, Side};

use prepare::Prepared;

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct DetectJob {
    /// The model's name; may be empty where there is only one.
    pub model: String,
    /// The version's number; 0 for the one that answers where none is named.
    pub version: u64,
    /// Requests with the same key go to the same version while a new one is on trial; may be empty.
    pub rollout_key: String,
    /// The image.
    pub image: ImageSource,
    /// What the caller chose.
    pub options: Arc<RequestedOptions>,
    /// When it goes.
    pub priority: Priority,
    /// After which the answer is of no use.
    pub deadline: Option<Instant>,
}

/// An image as it came.
#[derive(Clone, Debug)]
pub enum ImageSource {
    /// The bytes of a picture file.
    Encoded(Bytes),
    /// Pixels.
    Raw {
        /// The pixels' bytes.
        data: Bytes,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// How the bytes are to be read.
        layout: RawLayout,
        /// Bytes from one row to the next; `None` where rows follow each other.
        stride: Option<usize>,
    },
    /// The network's own input, prepared by the caller: `3 * height * width` values, FP32, little-endian. Boxes are in
    /// its pixels.
    Prepared(Bytes),
}

/// The answer.
#[derive(Clone)]
pub struct Answer {
    /// Who answered.
    pub version: Arc<ModelVersion>,
    /// Best first, in the image's own pixels.
    pub detections: Vec<Detection>,
    /// The image's width and height.
    pub image_size: (u32, u32),
    /// Where the time went.
    pub times: StageTimes,
    /// From arrival to answer.
    pub total: Duration,
    /// How many images the execution held.
    pub batch_size: usize,
}

/// Everything that a request passes.
pub struct Pipeline {
    repository: Arc<Repository>,
    cpu: CpuPool,
    metrics: Metrics,
    lifecycle: Arc<Lifecycle>,
    limits: Limits,
}

/// What a request may not exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the decoder.
    pub decode: DecodeLimits,
    /// Boxes in one answer.
    pub max_detections: usize,
}

impl Pipeline {
    /// A pipeline over the models of `repository`.
    #[must_use]
    pub fn new(
        repository: Arc<Repository>,
        cpu: CpuPool,
        metrics: Metrics,
        lifecycle: Arc<Lifecycle>,
        limits: Limits,
    ) -> Self {
        Self { repository, cpu, metrics, lifecycle, limits }
    }

    /// The models.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The threads for work that would hold up the async runtime.
    #[must_use]
    pub fn cpu(&self) -> &CpuPool {
        &self.cpu
    }

    /// What a request may not exceed.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the requests are counted by.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether new work is taken.
    ///
    /// # Errors
    /// UNAVAILABLE: the server is shutting down.
    pub fn admit(&self) -> Result<(), Error> {
        self.lifecycle.admit().map_err(|error| self.reject(error))
    }

    /// Counts a request that reaches no model version.
    fn reject(&self, error: Error) -> Error {
        self.metrics.rejected(error.code);
        error.counted()
    }

    /// Finds the objects in one image.
    ///
    /// # Errors
    /// See [`crate::error::ErrorCode`]; the message names what was wrong.
    pub async fn detect(self: &Arc<Self>, job: DetectJob) -> Result<Answer, Error> {
        let pick = || self.repository.pick(&job.model, job.version, &job.rollout_key);
        let pick = self.lifecycle.admit().and_then(|()| pick()).map_err(|error| self.reject(error))?;
        self.detect_on(pick, job).await
    }

    /// The same on a version that was picked before; the job's own choice is not looked at.
    ///
    /// # Errors
    /// As [`Self::detect`].
    pub async fn detect_on(self: &Arc<Self>, pick: Pick, job: DetectJob) -> Result<Answer, Error> {
        let Some((rollout, side)) = pick.trial else { return self.answer(&pick.version, job).await };
        let started = Instant::now();
        match self.answer(&pick.version, job.clone()).await {
            Ok(answer) => {
                rollout.answered(side, started.elapsed());
                if rollout.compares(side) {
                    trial::compare(Arc::clone(self), rollout, side, job, answer.detections.clone());
                }
                Ok(answer)
            }
            Err(error) if trial::is_to_blame(&error) => {
                rollout.failed(side);
                match side {
                    // Nobody pays for a trial: the version that answered before answers this one too.
                    Side::Candidate => self.answer(&rollout.baseline, job).await,
                    Side::Baseline => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn answer(&self, version: &Arc<ModelVersion>, job: DetectJob) -> Result<Answer, Error> {
        let request = version.metrics().arrived();
        let deadline = job.deadline;
        let result = before(deadline, self.run(version, job, request.since())).await;
        match result {
            Ok(done) => Ok(done.finish(Arc::clone(version), request)),
            Err(error) => {
                request.failed(&error);
                Err(error.counted())
            }
        }
    }

    async fn run(&self, version: &Arc<ModelVersion>, job: DetectJob, arrived: Instant) -> Result<Done, Error> {
        version.detector()?;
        let options = job.options.resolve(version.defaults(), version.labels(), self.limits.max_detections)?;
        let place = reserve(version)?;
        let prepared = self.prepare(version, job.image).await?;
        let decode = arrived.elapsed();
        let payload = Payload::Picture { picture: prepared.picture, options };
        let completed = execute(version, place, payload, job.priority, job.deadline).await?;
        let Completed { output, queue, compute, postprocess, batch_size } = completed;
        let Output::Detections(detections) = output else {
            return Err(Error::internal("tensors came for a picture"));
        };
        let times = StageTimes { decode, queue, compute, postprocess };
        Ok(Done { detections, image_size: prepared.size, times, batch_size })
    }

    /// Hand-off 1: decodes and resizes, as far as the model's engine asks. What needs no pixels stays on this thread.
    async fn prepare(&self, version: &Arc<ModelVersion>, image: ImageSource) -> Result<Prepared, Error> {
        let limits = self.limits.decode;
        let prepared = match image {
            ImageSource::Encoded(bytes) if version.spec().takes == Stage::Encoded => prepare::probe(bytes, &limits),
            image => {
                let version = Arc::clone(version);
                self.cpu
                    .run(move || {
                        thread_local! {
                            static SCRATCH: RefCell<prepare::Scratch> = RefCell::default();
                        }
                        let (spec, buffers) = (version.spec(), version.buffers());
                        SCRATCH.with_borrow_mut(|scratch| Ok(prepare::prepare(&image, spec, buffers, &limits, scratch)))
                    })
                    .await?
            }
        };
        prepared.map_err(|failure| {
            if let Some(format) = failure.decode_format {
                self.metrics.decode_error(format);
            }
            failure.error
        })
    }
}

/// A place in the version's queue, or RESOURCE_EXHAUSTED at once.
fn reserve(version: &ModelVersion) -> Result<Place, Error> {
    let queue = version.queue();
    queue.reserve().map_err(|refused| match refused {
        Refused::Full => {
            let (name, number, capacity) = (version.name(), version.version(), queue.settings().capacity);
            let message = format!("the queue of model `{name}` version {number} is full: {capacity} requests wait");
            Error::exhausted(message, Duration::from_millis(100))
        }
        Refused::Closed => closed(version),
    })
}

fn closed(version: &ModelVersion) -> Error {
    Error::unavailable(format!("model `{}` version {} takes no more work", version.name(), version.version()))
}

/// Hand-off 2: waits in the queue for an instance and for its answer.
async fn execute(
    version: &ModelVersion,
    place: Place,
    payload: Payload,
    priority: Priority,
    deadline: Option<Instant>,
) -> Result<Completed, Error> {
    let ticket = place.push(priority, |reply| Work { payload, deadline, reply }).map_err(|_| closed(version))?;
    ticket.answer().await
}

/// Waits no longer than until `deadline`; what is dropped then frees its place by itself.
async fn before<T>(deadline: Option<Instant>, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work)
            .await
            .unwrap_or_else(|_| Err(Error::deadline("before the answer was ready"))),
    }
}

struct Done {
    detections: Vec<Detection>,
    image_size: (u32, u32),
    times: StageTimes,
    batch_size: usize,
}

impl Done {
    fn finish(self, version: Arc<ModelVersion>, request: InFlight<'_>) -> Answer {
        let Self { detections, image_size, times, batch_size } = self;
        let total = request.succeeded(&times, &detections, image_size);
        Answer { version, detections, image_size, times, total, batch_size }
    }
}
