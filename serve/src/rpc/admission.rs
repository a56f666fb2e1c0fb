//! The first thing that a call meets: the limit on calls at once, before any of its body is read.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use detectd_proto::detect::v1::detect_service_server::DetectServiceServer;
use detectd_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tower::Service;

use super::detect::DetectRpc;
use super::kserve::KserveRpc;
use super::status::to_status;
use crate::lifecycle::Lifecycle;

type Future = Pin<Box<dyn std::future::Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// The calls of the KServe service that bring work. Its others say how the server is, and always answer.
const LIMITED: [&str; 4] = ["ModelInfer", "ModelStreamInfer", "RepositoryModelLoad", "RepositoryModelUnload"];

/// Sends a call to its service. Calls of the detection service, and those of the KServe service that bring work, are
/// limited; health and reflection always answer.
#[derive(Clone)]
pub struct Admission {
    detect: DetectServiceServer<DetectRpc>,
    kserve: GrpcInferenceServiceServer<KserveRpc>,
    others: Routes,
    lifecycle: Arc<Lifecycle>,
    limit: usize,
}

impl Admission {
    pub(super) fn new(
        detect: DetectServiceServer<DetectRpc>,
        kserve: GrpcInferenceServiceServer<KserveRpc>,
        others: Routes,
        lifecycle: Arc<Lifecycle>,
        limit: usize,
    ) -> Self {
        Self { detect, kserve, others, lifecycle, limit }
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
        if is_kserve && !LIMITED.contains(&method) {
            return self.kserve.call(request);
        }
        if !is_kserve && service != DetectServiceServer::<DetectRpc>::NAME {
            return Box::pin(self.others.call(request));
        }
        match self.lifecycle.enter(self.limit) {
            Ok(entered) => {
                let answer = if is_kserve { self.kserve.call(request) } else { self.detect.call(request) };
                Box::pin(async move {
                    let answer = answer.await;
                    drop(entered);
                    answer
                })
            }
            Err(error) => {
                let response = to_status(&error, "").into_http();
                Box::pin(std::future::ready(Ok(response)))
            }
        }
    }
}
