//! The first thing that a call meets: the limit on calls at once, before any of its body is read, and the terms on which
//! its body is read.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use detectd_proto::detect::v1::detect_service_server::DetectServiceServer;
use detectd_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;
use tracing::debug;

use super::body::{Arriving, MAX_PAUSE, Terms, too_large};
use super::deadline::deadline_in;
use super::detect::DetectRpc;
use super::kserve::KserveRpc;
use super::status::{cause, to_status};
use crate::budget::Budget;
use crate::config::ServerConfig;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;

type Future = Pin<Box<dyn std::future::Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// The calls of the KServe service that bring work. Its others say how the server is, and always answer.
const LIMITED: [&str; 4] = ["ModelInfer", "ModelStreamInfer", "RepositoryModelLoad", "RepositoryModelUnload"];

/// The calls whose requests are streams: they may pause for as long as they like.
const STREAMS: [&str; 3] = ["DetectStream", "ModelStreamInfer", "ServerReflectionInfo"];

/// Sends a call to its service. Calls of the detection service, and those of the KServe service that bring work, are
/// limited in number; health and reflection always answer. The bodies of all are bounded in time and bytes.
#[derive(Clone)]
pub struct Admission {
    detect: DetectServiceServer<DetectRpc>,
    kserve: GrpcInferenceServiceServer<KserveRpc>,
    others: Routes,
    lifecycle: Arc<Lifecycle>,
    metrics: Metrics,
    budget: Budget,
    limit: usize,
    max_message_bytes: usize,
    default_deadline: Option<Duration>,
}

impl Admission {
    pub(super) fn new(
        detect: DetectServiceServer<DetectRpc>,
        kserve: GrpcInferenceServiceServer<KserveRpc>,
        others: Routes,
        lifecycle: Arc<Lifecycle>,
        config: &ServerConfig,
        metrics: Metrics,
        budget: Budget,
    ) -> Self {
        Self {
            detect,
            kserve,
            others,
            lifecycle,
            metrics,
            budget,
            limit: config.max_concurrent_requests.get(),
            max_message_bytes: config.max_message_bytes,
            default_deadline: config.default_deadline,
        }
    }
}

impl Service<Request<Incoming>> for Admission {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // None of the services behind it makes its callers wait here.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Future {
        let (service, method) = request.uri().path().trim_start_matches('/').split_once('/').unwrap_or_default();
        let is_kserve = service == GrpcInferenceServiceServer::<KserveRpc>::NAME;
        let is_detect = service == DetectServiceServer::<DetectRpc>::NAME;
        let brings_work = is_detect || (is_kserve && LIMITED.contains(&method));
        let entered = match brings_work.then(|| self.lifecycle.enter(self.limit)).transpose() {
            Ok(entered) => entered,
            Err(error) => {
                self.metrics.rejected(error.code);
                let response = to_status(&error, "").into_http();
                return Box::pin(std::future::ready(Ok(response)));
            }
        };
        let is_stream = STREAMS.contains(&method);
        // For a stream it counts from each of its requests, which is not known here.
        let default_deadline = self.default_deadline.filter(|_| brings_work && !is_stream);
        let terms = Terms {
            deadline: deadline_in(request.headers(), Instant::now(), default_deadline),
            max_pause: (!is_stream).then_some(MAX_PAUSE),
            max_message_bytes: self.max_message_bytes,
            budget: self.budget.clone(),
        };
        let request = request.map(|body| Arriving::framed(body, terms));
        let held = request.body().held();
        let answer: Future = if is_kserve {
            self.kserve.call(request)
        } else if is_detect {
            self.detect.call(request)
        } else {
            Box::pin(self.others.call(request))
        };
        let (metrics, max_message_bytes) = (self.metrics.clone(), self.max_message_bytes);
        Box::pin(async move {
            let answer = answer.await?;
            drop((entered, held));
            Ok(if brings_work { settled(answer, &metrics, max_message_bytes) } else { answer })
        })
    }
}

/// An answer whose refusals are counted once, and name the limit where tonic's own do not.
fn settled(answer: Response<Body>, metrics: &Metrics, max_message_bytes: usize) -> Response<Body> {
    let Some(status) = answer.extensions().get::<Status>() else { return answer };
    match cause(status) {
        Some(error) => {
            metrics.refused(error);
            answer
        }
        // The only limit that tonic finds exceeded by itself: that of a message once it is decompressed.
        None if matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange) => {
            let error = too_large(max_message_bytes, "more when it is decompressed");
            metrics.rejected(error.code);
            to_status(&error, "").into_http()
        }
        None => {
            debug!(code = ?status.code(), reason = status.message(), "a request was refused");
            metrics.rejected(status.code());
            answer
        }
    }
}
