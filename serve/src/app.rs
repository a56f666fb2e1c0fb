//! The composition root: every part is built here and nowhere else.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use detectd_vision::DecodeLimits;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::budget::Budget;
use crate::config::{Config, Control};
use crate::cpu_pool::CpuPool;
use crate::engines::Engines;
use crate::error::Error;
use crate::http::{self, HttpState};
use crate::kserve::{Inference, Kserve, SharedMemory};
use crate::lifecycle::Lifecycle;
use crate::logging::LogControl;
use crate::metrics::Metrics;
use crate::pipeline::{Limits, Pipeline};
use crate::repository::{self, Repository};
use crate::rest::Rest;
use crate::rpc::{self, AdminRpc, Admission, Connections, DetectRpc, KserveRpc, RpcLimits};
use crate::status_page;

/// How long what must not lose anything by it may still take when its time is over: refusals on their way to their
/// callers, an HTTP answer, a thread that ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// The daemon, built and bound but not serving yet.
pub struct App {
    config: Config,
    metrics: Metrics,
    lifecycle: Arc<Lifecycle>,
    repository: Arc<Repository>,
    service: Admission,
    rest: Rest,
    health: HealthReporter,
    log: Arc<OnceLock<LogControl>>,
    grpc: TcpListener,
    http: TcpListener,
}

impl App {
    /// Binds both ports and loads the models, on the engines of this build.
    ///
    /// # Errors
    /// A port that is taken, a repository that cannot be read; with `repository.strict`, a model that no version answers for.
    pub async fn start(config: Config) -> Result<Self, Error> {
        Self::start_with(config, Engines::built_in()).await
    }

    /// The same on `engines`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(config: Config, engines: Engines) -> Result<Self, Error> {
        let metrics = Metrics::new().map_err(|error| Error::internal(format!("metrics: {error}")))?;
        let lifecycle = Arc::new(Lifecycle::default());
        let grpc = bind("server.grpc_address", config.server.grpc_address).await?;
        let http = bind("server.http_address", config.server.http_address).await?;
        let repository = load(&config, engines, metrics.clone()).await?;
        let pipeline = Arc::new(Pipeline::new(
            Arc::clone(&repository),
            CpuPool::new(config.cpu.decode_threads.get())?,
            metrics.clone(),
            Arc::clone(&lifecycle),
            Limits {
                decode: DecodeLimits { max_pixels: config.limits.max_image_pixels },
                max_detections: config.limits.max_detections.get(),
            },
        ));
        let limits = RpcLimits {
            max_images: config.limits.max_images_per_request.get(),
            max_stream_requests: config.server.max_stream_requests.get(),
            max_message_bytes: config.server.max_message_bytes,
            default_deadline: config.server.default_deadline,
        };
        let detect = DetectRpc::new(Arc::clone(&pipeline), Arc::clone(&lifecycle), limits);
        let shared_memory = Arc::new(SharedMemory::new(config.server.shared_memory));
        let inference = Inference::new(pipeline, shared_memory, limits);
        let log = Arc::new(OnceLock::new());
        let kserve = Kserve::new(inference, Arc::clone(&lifecycle), Arc::clone(&log));
        let admin = AdminRpc::new(Arc::clone(&repository), Arc::clone(&lifecycle));
        let budget = Budget::new(config.server.max_bytes_in_flight);
        let held = budget.clone();
        metrics.show_bytes_in_flight(move || held.used());
        let shown = metrics.clone();
        // The driver may take its time; what it says has no bearing on what is served.
        let _ = tokio::task::spawn_blocking(move || shown.show_gpus()).await;
        let kserve_rpc = KserveRpc::new(kserve.clone(), Arc::clone(&lifecycle), limits);
        let (service, health) =
            rpc::services(&config.server, detect, kserve_rpc, admin, Arc::clone(&lifecycle), budget.clone())?;
        let rest = Rest::new(kserve, Arc::clone(&lifecycle), budget, &config.server)?;
        Ok(Self { config, metrics, lifecycle, repository, service, rest, health, log, grpc, http })
    }

    /// Where gRPC is served; the real port if the configuration asked for port 0.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc.local_addr().unwrap_or(self.config.server.grpc_address)
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http.local_addr().unwrap_or(self.config.server.http_address)
    }

    /// The models.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Lets clients of the KServe protocol change the level of this process's log. Only the first call counts.
    pub fn attach_log(&self, log: LogControl) {
        // A log that was attached before stays.
        let _ = self.log.set(log);
    }

    /// Serves until `shutdown` resolves, then drains: readiness turns false; after `shutdown_delay` new work is
    /// refused; work that was taken is answered, for at most `grace_period`; then everything ends.
    ///
    /// # Errors
    /// The HTTP port fails.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        info!(grpc = %self.grpc_address(), http = %self.http_address(), "serving");
        let connections = Connections::default();
        let (calls, http_closing) = (self.rest.calls(), CancellationToken::new());
        let rpc = tokio::spawn(rpc::serve(self.grpc, self.service, self.config.server.clone(), connections.clone()));
        let rest = self.config.server.rest.then_some(self.rest);
        let router = http_router(rest, &self.metrics, &self.repository, &self.lifecycle);
        let http = tokio::spawn(http::serve(self.http, router, self.config.server.clone(), http_closing.clone()));
        let health =
            tokio::spawn(rpc::watch_health(self.health, Arc::clone(&self.repository), Arc::clone(&self.lifecycle)));

        let attending = tokio::spawn(repository::attend(Arc::clone(&self.repository)));
        let watching = (self.config.repository.control == Control::Watch)
            .then(|| tokio::spawn(repository::watch(Arc::clone(&self.repository))));

        shutdown.await;
        let delay = self.config.server.shutdown_delay;
        info!(?delay, "shutting down: not ready any more");
        self.lifecycle.begin_shutdown();
        tokio::time::sleep(delay).await;
        self.lifecycle.refuse();
        connections.close();
        calls.close();
        let ended = async || tokio::join!(connections.ended(), calls.wait());
        let grace = self.config.server.grace_period;
        let begin = Instant::now();
        let drained = tokio::time::timeout(grace, ended()).await.is_ok();
        if !drained {
            warn!(?grace, "the grace period is over; what is still waiting is refused");
            self.repository.abandon("the server is shutting down");
            // The refusals still have to reach their callers.
            let _ = tokio::time::timeout(FAREWELL, ended()).await;
            connections.abort();
        }
        rpc.abort();
        let left = grace.saturating_sub(begin.elapsed()).max(FAREWELL);
        if tokio::time::timeout(left, drain(Arc::clone(&self.repository))).await.is_err() {
            warn!("an engine is still busy; it ends with the process");
        }
        health.abort();
        attending.abort();
        if let Some(watching) = watching {
            watching.abort();
        }
        http_closing.cancel();
        let result = end_http(http).await;
        info!("stopped");
        result.map_err(|error| Error::internal(format!("the HTTP port failed: {error}")))
    }
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Error::unavailable(format!("{key}: cannot listen on {address}: {error}")))
}

async fn load(config: &Config, engines: Engines, metrics: Metrics) -> Result<Arc<Repository>, Error> {
    let settings = config.repository.clone();
    let loading = tokio::task::spawn_blocking(move || Repository::load_all(settings, &engines, &metrics));
    let repository = loading
        .await
        .map_err(|error| Error::internal(format!("loading the models: {error}")))?
        .map_err(|error| Error::unavailable(format!("repository: {error}")))?;
    let outages = repository.outages();
    if config.repository.strict && !outages.is_empty() {
        return Err(Error::unavailable(outages.join("\n")));
    }
    Ok(repository)
}

/// Waits for every instance's end, on a thread of its own: one that an engine holds up must not hold up the runtime.
async fn drain(repository: Arc<Repository>) {
    let (done, ended) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("drain".into()).spawn(move || {
        repository.drain();
        drop(done);
    });
    if thread.is_ok() {
        // Resolves when the sender is gone.
        let _ = ended.await;
    }
}

fn http_router(
    rest: Option<Rest>,
    metrics: &Metrics,
    repository: &Arc<Repository>,
    lifecycle: &Arc<Lifecycle>,
) -> axum::Router {
    let ready = {
        let (repository, lifecycle) = (Arc::clone(repository), Arc::clone(lifecycle));
        Arc::new(move || lifecycle.is_ready() && repository.is_ready())
    };
    let status = {
        let repository = Arc::clone(repository);
        Arc::new(move || status_page::status(&repository.index()))
    };
    http::router(HttpState { registry: metrics.registry().clone(), ready, status }, rest.map(Rest::router))
}

/// Waits for the answers that the HTTP port still gives. A request that its client never ends has none to wait for.
async fn end_http(mut http: JoinHandle<()>) -> Result<(), JoinError> {
    match tokio::time::timeout(FAREWELL, &mut http).await {
        Ok(ended) => ended,
        Err(_) => {
            warn!("the HTTP port has clients that do not end; they are left");
            http.abort();
            Ok(())
        }
    }
}
