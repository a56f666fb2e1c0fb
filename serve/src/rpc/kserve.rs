//! `inference.GRPCInferenceService`: the KServe v2 protocol over gRPC.

mod stream;

use std::sync::Arc;
use std::time::Instant;

use detectd_proto::inference as wire;
use detectd_proto::inference::grpc_inference_service_server::GrpcInferenceService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::RpcLimits;
use super::deadline::{StreamDeadline, deadline};
use super::status::{log_answer, to_status};
use super::stream::answer;
use crate::error::Error;
use crate::kserve::Kserve;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;

type Answer<T> = Result<Response<T>, Status>;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct KserveRpc {
    kserve: Kserve,
    lifecycle: Arc<Lifecycle>,
    limits: RpcLimits,
}

impl KserveRpc {
    /// A service that answers by `kserve`.
    #[must_use]
    pub fn new(kserve: Kserve, lifecycle: Arc<Lifecycle>, limits: RpcLimits) -> Self {
        Self { kserve, lifecycle, limits }
    }

    /// What the requests are counted by.
    pub(super) fn metrics(&self) -> &Metrics {
        self.kserve.metrics()
    }
}

fn respond<T>(answer: Result<T, Error>) -> Answer<T> {
    answer.map(Response::new).map_err(|error| to_status(&error, ""))
}

#[tonic::async_trait]
impl GrpcInferenceService for KserveRpc {
    async fn server_live(&self, _: Request<wire::ServerLiveRequest>) -> Answer<wire::ServerLiveResponse> {
        respond(Ok(self.kserve.server_live()))
    }

    async fn server_ready(&self, _: Request<wire::ServerReadyRequest>) -> Answer<wire::ServerReadyResponse> {
        respond(Ok(self.kserve.server_ready()))
    }

    async fn model_ready(&self, request: Request<wire::ModelReadyRequest>) -> Answer<wire::ModelReadyResponse> {
        respond(self.kserve.model_ready(request.get_ref()))
    }

    async fn server_metadata(&self, _: Request<wire::ServerMetadataRequest>) -> Answer<wire::ServerMetadataResponse> {
        respond(Ok(self.kserve.server_metadata()))
    }

    async fn model_metadata(
        &self,
        request: Request<wire::ModelMetadataRequest>,
    ) -> Answer<wire::ModelMetadataResponse> {
        respond(self.kserve.model_metadata(request.get_ref()))
    }

    async fn model_infer(&self, request: Request<wire::ModelInferRequest>) -> Answer<wire::ModelInferResponse> {
        let deadline = deadline(request.metadata(), Instant::now(), self.limits.default_deadline);
        let request = request.into_inner();
        let id = request.id.clone();
        let answer = self.kserve.model_infer(request, deadline).await;
        answer.inspect(|_| log_answer(&id)).map(Response::new).map_err(|error| to_status(&error, &id))
    }

    type ModelStreamInferStream = ReceiverStream<Result<wire::ModelStreamInferResponse, Status>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<wire::ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let deadline = StreamDeadline::new(request.metadata(), Instant::now(), self.limits.default_deadline);
        let kserve = self.kserve.clone();
        let pipeline = Arc::clone(self.kserve.pipeline());
        let answers = answer(
            Arc::clone(&self.lifecycle),
            request.into_inner(),
            self.limits.max_stream_requests,
            move |request: &wire::ModelInferRequest| pipeline.repository().preserves_order(&request.model_name),
            move |request| stream::infer(kserve.clone(), request, deadline),
        );
        Ok(Response::new(answers))
    }

    async fn model_config(&self, request: Request<wire::ModelConfigRequest>) -> Answer<wire::ModelConfigResponse> {
        respond(self.kserve.model_config(request.get_ref()))
    }

    async fn model_statistics(
        &self,
        request: Request<wire::ModelStatisticsRequest>,
    ) -> Answer<wire::ModelStatisticsResponse> {
        respond(self.kserve.model_statistics(request.get_ref()))
    }

    async fn repository_index(
        &self,
        request: Request<wire::RepositoryIndexRequest>,
    ) -> Answer<wire::RepositoryIndexResponse> {
        respond(self.kserve.repository_index(request.get_ref()).await)
    }

    async fn repository_model_load(
        &self,
        request: Request<wire::RepositoryModelLoadRequest>,
    ) -> Answer<wire::RepositoryModelLoadResponse> {
        respond(self.kserve.repository_model_load(request.into_inner()).await)
    }

    async fn repository_model_unload(
        &self,
        request: Request<wire::RepositoryModelUnloadRequest>,
    ) -> Answer<wire::RepositoryModelUnloadResponse> {
        respond(self.kserve.repository_model_unload(request.into_inner()).await)
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<wire::SystemSharedMemoryStatusRequest>,
    ) -> Answer<wire::SystemSharedMemoryStatusResponse> {
        respond(self.kserve.system_shared_memory_status(request.get_ref()))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<wire::SystemSharedMemoryRegisterRequest>,
    ) -> Answer<wire::SystemSharedMemoryRegisterResponse> {
        respond(self.kserve.system_shared_memory_register(request.get_ref()))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<wire::SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<wire::SystemSharedMemoryUnregisterResponse> {
        respond(self.kserve.system_shared_memory_unregister(request.get_ref()))
    }

    async fn cuda_shared_memory_status(
        &self,
        request: Request<wire::CudaSharedMemoryStatusRequest>,
    ) -> Answer<wire::CudaSharedMemoryStatusResponse> {
        respond(self.kserve.cuda_shared_memory_status(request.get_ref()))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<wire::CudaSharedMemoryRegisterRequest>,
    ) -> Answer<wire::CudaSharedMemoryRegisterResponse> {
        respond(self.kserve.cuda_shared_memory_register())
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<wire::CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<wire::CudaSharedMemoryUnregisterResponse> {
        respond(self.kserve.cuda_shared_memory_unregister())
    }

    async fn trace_setting(&self, request: Request<wire::TraceSettingRequest>) -> Answer<wire::TraceSettingResponse> {
        respond(self.kserve.trace_setting(request.get_ref()))
    }

    async fn log_settings(&self, request: Request<wire::LogSettingsRequest>) -> Answer<wire::LogSettingsResponse> {
        respond(self.kserve.log_settings(request.into_inner()))
    }
}
