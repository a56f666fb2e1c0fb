//! The KServe v2 protocol over HTTP, as Triton's server speaks it: the endpoints under `/v2`.
//!
//! A request becomes the message that gRPC has for it, and is answered by the same [`Kserve`]; what is special to HTTP is
//! here: JSON, tensors as binary data behind it, compressed bodies.

mod body;
mod bounded;
mod calls;
mod elements;
mod infer;
mod json;
mod request;
mod response;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, Request, State};
use axum::http::{Extensions, HeaderMap, Method, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio_util::task::TaskTracker;
use tower_http::compression::predicate::{DefaultPredicate, Predicate as _};
use tower_http::compression::{CompressionLayer, CompressionLevel};
use tower_http::decompression::RequestDecompressionLayer;

use crate::budget::Budget;
use crate::config::ServerConfig;
use crate::error::Error;
use crate::kserve::Kserve;
use crate::lifecycle::Lifecycle;
use crate::rpc::status::to_response;
use body::{Tracked, discard};
use json::Messages;

/// JSON longer than this is read and written on the CPU pool: the async runtime must stay free for others.
const LONG_JSON: usize = 64 << 10;

/// What the endpoints answer from. Cheap to clone.
#[derive(Clone)]
pub struct Rest {
    kserve: Kserve,
    lifecycle: Arc<Lifecycle>,
    budget: Budget,
    calls: TaskTracker,
    messages: Arc<Messages>,
    limit: usize,
    max_message_bytes: usize,
    default_deadline: Option<Duration>,
}

impl Rest {
    /// Answers by `kserve`, within the limits of `config` and the `budget` that all transports share.
    ///
    /// # Errors
    /// The protocol's definitions cannot be read, which would be a mistake in the generated code.
    pub fn new(
        kserve: Kserve,
        lifecycle: Arc<Lifecycle>,
        budget: Budget,
        config: &ServerConfig,
    ) -> Result<Self, Error> {
        Ok(Self {
            kserve,
            lifecycle,
            budget,
            calls: TaskTracker::new(),
            messages: Arc::new(Messages::new()?),
            limit: config.max_concurrent_requests.get(),
            max_message_bytes: config.max_message_bytes,
            default_deadline: config.default_deadline,
        })
    }

    /// The calls that bring work and are not answered to the last byte. A shutdown waits for them.
    #[must_use]
    pub fn calls(&self) -> TaskTracker {
        self.calls.clone()
    }

    /// The endpoints, to be nested under `/v2`.
    pub fn router(self) -> Router {
        // The quickest level, as it compresses on the async runtime. Clients that take anything compressed send it with
        // every request, but decompress the answers of inference only, and no refusals.
        let compression = CompressionLayer::new()
            .quality(CompressionLevel::Fastest)
            .compress_when(DefaultPredicate::new().and(is_answer));
        // What is neither of its two encodings is refused in `body.rs`.
        let decompression = RequestDecompressionLayer::new().pass_through_unaccepted(true);
        let work = Router::new()
            .route("/models/{model}/infer", post(infer::infer))
            .route("/models/{model}/versions/{version}/infer", post(infer::infer))
            .layer(compression)
            .route("/repository/models/{model}/load", post(calls::load))
            .route("/repository/models/{model}/unload", post(calls::unload))
            // Inside, so that no refused body is decompressed.
            .layer(decompression.clone())
            .layer(middleware::from_fn_with_state(self.clone(), admit));
        let others = Router::new()
            .route("/", get(calls::server_metadata))
            .route("/health/live", get(calls::server_live))
            .route("/health/ready", get(calls::server_ready))
            .route("/models/stats", get(calls::statistics))
            .route("/models/{model}", get(calls::model_metadata))
            .route("/models/{model}/versions/{version}", get(calls::model_metadata))
            .route("/models/{model}/ready", get(calls::model_ready))
            .route("/models/{model}/versions/{version}/ready", get(calls::model_ready))
            .route("/models/{model}/config", get(calls::model_config))
            .route("/models/{model}/versions/{version}/config", get(calls::model_config))
            .route("/models/{model}/stats", get(calls::statistics))
            .route("/models/{model}/versions/{version}/stats", get(calls::statistics))
            .route("/models/{model}/trace/setting", get(calls::trace_setting).post(calls::change_trace_setting))
            .route("/trace/setting", get(calls::trace_setting).post(calls::change_trace_setting))
            .route("/logging", get(calls::log_settings).post(calls::change_log_settings))
            .route("/repository/index", post(calls::repository_index))
            .route("/systemsharedmemory/status", get(calls::shared_memory_status))
            .route("/systemsharedmemory/region/{name}/status", get(calls::shared_memory_status))
            .route("/systemsharedmemory/region/{name}/register", post(calls::register_shared_memory))
            .route("/systemsharedmemory/unregister", post(calls::unregister_shared_memory))
            .route("/systemsharedmemory/region/{name}/unregister", post(calls::unregister_shared_memory))
            .route("/cudasharedmemory/status", get(calls::cuda_status))
            .route("/cudasharedmemory/region/{name}/status", get(calls::cuda_status))
            .route("/cudasharedmemory/region/{name}/register", post(calls::register_cuda))
            .route("/cudasharedmemory/unregister", post(calls::unregister_cuda))
            .route("/cudasharedmemory/region/{name}/unregister", post(calls::unregister_cuda))
            .layer(decompression);
        work.merge(others).method_not_allowed_fallback(wrong_method).fallback(unknown).with_state(self)
    }

    fn deadline(&self) -> Option<Instant> {
        self.default_deadline.and_then(|timeout| Instant::now().checked_add(timeout))
    }
}

/// An error as an answer.
pub struct Refusal(Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        to_response(&self.0, "")
    }
}

/// The first thing that a call meets which brings work: the limit on calls at once, over all transports, before a body
/// is read. Refusals that no model version counts are counted here.
async fn admit(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    let entered = match rest.lifecycle.admit().and_then(|()| rest.lifecycle.enter(rest.limit)) {
        Ok(entered) => entered,
        Err(error) => {
            rest.kserve.metrics().rejected(error.code);
            discard(request, rest.max_message_bytes).await;
            return to_response(&error, "");
        }
    };
    let call = rest.calls.token();
    let response = next.run(request).await;
    drop(entered);
    if let Some(error) = response.extensions().get::<Error>() {
        rest.kserve.metrics().refused(error);
    }
    response.map(|body| Body::new(Tracked::new(body, call)))
}

fn is_answer(status: StatusCode, _: Version, _: &HeaderMap, _: &Extensions) -> bool {
    status.is_success()
}

async fn wrong_method(method: Method, OriginalUri(uri): OriginalUri) -> Response {
    let error = Error::invalid(format!("{}: expected another method than {method}", uri.path()));
    let mut response = to_response(&error, "");
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

async fn unknown(OriginalUri(uri): OriginalUri) -> Refusal {
    Refusal(Error::not_found(format!("there is no endpoint {}", uri.path())))
}
