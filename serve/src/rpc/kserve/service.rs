//! The service: each call, and the part that answers it.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use detectd_proto::inference as wire;
use detectd_proto::inference::grpc_inference_service_server::GrpcInferenceService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::infer::{Inference, version_number};
use super::{load, metadata, repository, settings, statistics, stream};
use crate::error::Error;
use crate::lifecycle::Lifecycle;
use crate::logging::LogControl;
use crate::metrics::Metrics;
use crate::repository::{ModelVersion, Repository};
use crate::rpc::RpcLimits;
use crate::rpc::deadline::{StreamDeadline, deadline};
use crate::rpc::status::{log_answer, to_status};
use crate::rpc::stream::answer;

type Answer<T> = Result<Response<T>, Status>;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct KserveRpc {
    inference: Inference,
    lifecycle: Arc<Lifecycle>,
    limits: RpcLimits,
    log: Arc<OnceLock<LogControl>>,
}

impl KserveRpc {
    /// A service that answers inference by `inference`. `log` is filled when the process has a log that the server may
    /// change.
    #[must_use]
    pub fn new(
        inference: Inference,
        lifecycle: Arc<Lifecycle>,
        limits: RpcLimits,
        log: Arc<OnceLock<LogControl>>,
    ) -> Self {
        Self { inference, lifecycle, limits, log }
    }

    /// What the requests are counted by.
    pub(in crate::rpc) fn metrics(&self) -> &Metrics {
        self.inference.pipeline().metrics()
    }

    fn repository(&self) -> &Arc<Repository> {
        self.inference.pipeline().repository()
    }

    fn version(&self, name: &str, version: &str) -> Result<Arc<ModelVersion>, Error> {
        self.repository().get(name, version_number(version)?)
    }

    fn deadline<T>(&self, request: &Request<T>) -> Option<Instant> {
        deadline(request.metadata(), Instant::now(), self.limits.default_deadline)
    }
}

fn respond<T>(answer: Result<T, Error>) -> Answer<T> {
    answer.map(Response::new).map_err(|error| to_status(&error, ""))
}

#[tonic::async_trait]
impl GrpcInferenceService for KserveRpc {
    async fn server_live(&self, _: Request<wire::ServerLiveRequest>) -> Answer<wire::ServerLiveResponse> {
        respond(Ok(wire::ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<wire::ServerReadyRequest>) -> Answer<wire::ServerReadyResponse> {
        let ready = self.lifecycle.is_ready() && self.repository().is_ready();
        respond(Ok(wire::ServerReadyResponse { ready }))
    }

    async fn model_ready(&self, request: Request<wire::ModelReadyRequest>) -> Answer<wire::ModelReadyResponse> {
        let wire::ModelReadyRequest { name, version } = request.into_inner();
        let ready = version_number(&version)
            .map(|version| self.lifecycle.is_ready() && self.repository().get(&name, version).is_ok());
        respond(ready.map(|ready| wire::ModelReadyResponse { ready }))
    }

    async fn server_metadata(&self, _: Request<wire::ServerMetadataRequest>) -> Answer<wire::ServerMetadataResponse> {
        let shared_memory = self.inference.shared_memory().is_enabled();
        respond(Ok(metadata::server(shared_memory, self.log.get().is_some())))
    }

    async fn model_metadata(
        &self,
        request: Request<wire::ModelMetadataRequest>,
    ) -> Answer<wire::ModelMetadataResponse> {
        let wire::ModelMetadataRequest { name, version } = request.into_inner();
        respond(self.version(&name, &version).map(|version| metadata::model(&version, &self.repository().index())))
    }

    async fn model_infer(&self, request: Request<wire::ModelInferRequest>) -> Answer<wire::ModelInferResponse> {
        let deadline = self.deadline(&request);
        let request = request.into_inner();
        let id = request.id.clone();
        let answer = self.inference.infer(request, deadline).await;
        answer.inspect(|_| log_answer(&id)).map(Response::new).map_err(|error| to_status(&error, &id))
    }

    type ModelStreamInferStream = ReceiverStream<Result<wire::ModelStreamInferResponse, Status>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<wire::ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let deadline = StreamDeadline::new(request.metadata(), Instant::now(), self.limits.default_deadline);
        let inference = self.inference.clone();
        let answers = answer(
            Arc::clone(&self.lifecycle),
            request.into_inner(),
            self.limits.max_stream_requests,
            move |request| stream::infer(inference.clone(), request, deadline),
        );
        Ok(Response::new(answers))
    }

    async fn model_config(&self, request: Request<wire::ModelConfigRequest>) -> Answer<wire::ModelConfigResponse> {
        let wire::ModelConfigRequest { name, version } = request.into_inner();
        let config = self.version(&name, &version).map(|version| metadata::config(&version));
        respond(config.map(|config| wire::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<wire::ModelStatisticsRequest>,
    ) -> Answer<wire::ModelStatisticsResponse> {
        let wire::ModelStatisticsRequest { name, version } = request.into_inner();
        let statistics = version_number(&version).and_then(|version| statistics::of(self.repository(), &name, version));
        respond(statistics.map(|model_stats| wire::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<wire::RepositoryIndexRequest>,
    ) -> Answer<wire::RepositoryIndexResponse> {
        respond(repository::list(&self.repository().index(), request.get_ref()))
    }

    async fn repository_model_load(
        &self,
        request: Request<wire::RepositoryModelLoadRequest>,
    ) -> Answer<wire::RepositoryModelLoadResponse> {
        let loaded = load::load(self.repository(), request.into_inner()).await;
        respond(loaded.map(|()| wire::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<wire::RepositoryModelUnloadRequest>,
    ) -> Answer<wire::RepositoryModelUnloadResponse> {
        let unloaded = load::unload(self.repository(), request.into_inner()).await;
        respond(unloaded.map(|()| wire::RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<wire::SystemSharedMemoryStatusRequest>,
    ) -> Answer<wire::SystemSharedMemoryStatusResponse> {
        let regions = self.inference.shared_memory().status(&request.get_ref().name);
        respond(regions.map(|regions| wire::SystemSharedMemoryStatusResponse { regions }))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<wire::SystemSharedMemoryRegisterRequest>,
    ) -> Answer<wire::SystemSharedMemoryRegisterResponse> {
        let registered = self.inference.shared_memory().register(request.get_ref());
        respond(registered.map(|()| wire::SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<wire::SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<wire::SystemSharedMemoryUnregisterResponse> {
        self.inference.shared_memory().unregister(&request.get_ref().name);
        respond(Ok(wire::SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        request: Request<wire::CudaSharedMemoryStatusRequest>,
    ) -> Answer<wire::CudaSharedMemoryStatusResponse> {
        match request.get_ref().name.as_str() {
            "" => respond(Ok(wire::CudaSharedMemoryStatusResponse::default())),
            name => respond(Err(Error::not_found(format!("there is no CUDA shared memory region `{name}`")))),
        }
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<wire::CudaSharedMemoryRegisterRequest>,
    ) -> Answer<wire::CudaSharedMemoryRegisterResponse> {
        respond(Err(Error::unimplemented("CUDA shared memory: this server has no engine on a GPU")))
    }

    /// There is none, so that there is nothing to do: clients begin with it.
    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<wire::CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<wire::CudaSharedMemoryUnregisterResponse> {
        respond(Ok(wire::CudaSharedMemoryUnregisterResponse {}))
    }

    async fn trace_setting(&self, request: Request<wire::TraceSettingRequest>) -> Answer<wire::TraceSettingResponse> {
        let request = request.get_ref();
        if !request.model_name.is_empty()
            && let Err(error) = self.repository().get(&request.model_name, 0)
        {
            return respond(Err(error));
        }
        respond(settings::trace(request))
    }

    async fn log_settings(&self, request: Request<wire::LogSettingsRequest>) -> Answer<wire::LogSettingsResponse> {
        respond(settings::log(request.into_inner(), self.log.get()))
    }
}
