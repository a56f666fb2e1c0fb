//! `detect.v1.DetectService`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::detect_service_server::DetectService;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::deadline::{StreamDeadline, deadline};
use super::status::{to_message, to_status};
use super::stream as answers;
use super::{convert, models};
use crate::error::Error;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::pipeline::{DetectJob, Pipeline};

/// What a caller may not exceed.
#[derive(Clone, Copy, Debug)]
pub struct RpcLimits {
    /// Images in one request.
    pub max_images: usize,
    /// Unanswered requests of one stream.
    pub max_stream_requests: usize,
    /// Bytes of the tensors of one request that come by shared memory.
    pub max_message_bytes: usize,
    /// For callers that state no deadline.
    pub default_deadline: Option<Duration>,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct DetectRpc {
    pipeline: Arc<Pipeline>,
    lifecycle: Arc<Lifecycle>,
    limits: RpcLimits,
}

impl DetectRpc {
    /// A service over `pipeline`.
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>, lifecycle: Arc<Lifecycle>, limits: RpcLimits) -> Self {
        Self { pipeline, lifecycle, limits }
    }

    /// Answers one request for one image, and gives its identifier back with the error.
    pub(super) async fn one(
        &self,
        request: wire::DetectRequest,
        deadline: Option<Instant>,
    ) -> Result<wire::DetectResponse, (Error, String)> {
        let id = identify(&request.request_id);
        let answer = match convert::job(request, deadline) {
            Ok(job) => self.pipeline.detect(job).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => Ok(convert::response(&answer, id)),
            Err(error) => Err((error, id)),
        }
    }

    /// What the requests are counted by.
    pub(super) fn metrics(&self) -> &Metrics {
        self.pipeline.metrics()
    }

    fn deadline<T>(&self, request: &Request<T>) -> Option<Instant> {
        deadline(request.metadata(), Instant::now(), self.limits.default_deadline)
    }
}

/// The caller's identifier, or a new one.
fn identify(id: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    if id.is_empty() { format!("{:08x}", NEXT.fetch_add(1, Ordering::Relaxed)) } else { id.to_owned() }
}

#[tonic::async_trait]
impl DetectService for DetectRpc {
    async fn detect(&self, request: Request<wire::DetectRequest>) -> Result<Response<wire::DetectResponse>, Status> {
        let deadline = self.deadline(&request);
        match self.one(request.into_inner(), deadline).await {
            Ok(response) => Ok(Response::new(response)),
            Err((error, id)) => Err(to_status(&error, &id)),
        }
    }

    async fn detect_batch(
        &self,
        request: Request<wire::DetectBatchRequest>,
    ) -> Result<Response<wire::DetectBatchResponse>, Status> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let id = identify(&request.request_id);
        let (options, priority) =
            convert::batch_job(&request, self.limits.max_images).map_err(|error| to_status(&error, &id))?;
        // A model that cannot answer any image fails the call, not each image.
        let pick = self.pipeline.repository().pick(&request.model, request.version, &request.rollout_key);
        // One version answers all images, whatever is swapped meanwhile.
        let pick = pick.map_err(|error| to_status(&error, &id))?;
        pick.version.detector().map_err(|error| to_status(&error, &id))?;
        self.lifecycle.admit().map_err(|error| to_status(&error, &id))?;
        let (version, most) = (&pick.version, self.pipeline.limits().max_detections);
        let checked = options.resolve(version.defaults(), version.labels(), most);
        checked.map_err(|error| to_status(&error, &id))?;
        let results = stream::iter(request.images.into_iter().map(|image| async {
            let job = convert::image(Some(image)).map(|image| DetectJob {
                model: String::new(),
                version: 0,
                rollout_key: String::new(),
                image,
                options: Arc::clone(&options),
                priority,
                deadline,
            });
            let answer = match job {
                Ok(job) => self.pipeline.detect_on(pick.clone(), job).await,
                Err(error) => Err(error),
            };
            let result = match answer {
                Ok(answer) => wire::image_result::Result::Response(convert::response(&answer, id.clone())),
                Err(error) => {
                    self.metrics().refused(&error);
                    wire::image_result::Result::Error(to_message(&error, &id))
                }
            };
            wire::ImageResult { result: Some(result) }
        }))
        .buffered(pick.version.at_once())
        .collect()
        .await;
        Ok(Response::new(wire::DetectBatchResponse { results, request_id: id }))
    }

    type DetectStreamStream = ReceiverStream<Result<wire::DetectStreamResponse, Status>>;

    async fn detect_stream(
        &self,
        request: Request<Streaming<wire::DetectStreamRequest>>,
    ) -> Result<Response<Self::DetectStreamStream>, Status> {
        let deadline = StreamDeadline::new(request.metadata(), Instant::now(), self.limits.default_deadline);
        let rpc = self.clone();
        let pipeline = Arc::clone(&self.pipeline);
        let answers = answers::answer(
            Arc::clone(&self.lifecycle),
            request.into_inner(),
            self.limits.max_stream_requests,
            move |request: &wire::DetectStreamRequest| {
                let model = request.request.as_ref().map_or("", |request| &request.model);
                pipeline.repository().preserves_order(model)
            },
            move |request| answers::detect(rpc.clone(), request, deadline),
        );
        Ok(Response::new(answers))
    }

    async fn list_models(
        &self,
        _: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        Ok(Response::new(models::list(self.pipeline.repository())))
    }

    async fn get_model(
        &self,
        request: Request<wire::GetModelRequest>,
    ) -> Result<Response<wire::GetModelResponse>, Status> {
        let wire::GetModelRequest { model, version } = request.into_inner();
        let version = self.pipeline.repository().get(&model, version).map_err(|error| to_status(&error, ""))?;
        Ok(Response::new(models::describe(&version)))
    }
}
