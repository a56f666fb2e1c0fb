//! Every call of the protocol, and the part that answers it.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use detectd_proto::inference as wire;
use detectd_proto::inference::model_infer_request::InferInputTensor;

use super::infer::{Inference, version_number};
use super::{load, metadata, raw_binary, repository, settings, statistics};
use crate::error::Error;
use crate::lifecycle::Lifecycle;
use crate::logging::LogControl;
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;
use crate::repository::{ModelVersion, Repository};

/// The protocol's calls. Cheap to clone.
///
/// What each answers with an error is told in [`crate::error::ErrorCode`]; the message names what was wrong.
#[derive(Clone)]
pub struct Kserve {
    inference: Inference,
    lifecycle: Arc<Lifecycle>,
    log: Arc<OnceLock<LogControl>>,
}

#[allow(clippy::missing_errors_doc)]
impl Kserve {
    /// Answers inference by `inference`. `log` is filled when the process has a log that the server may change.
    #[must_use]
    pub fn new(inference: Inference, lifecycle: Arc<Lifecycle>, log: Arc<OnceLock<LogControl>>) -> Self {
        Self { inference, lifecycle, log }
    }

    /// What requests are run through.
    #[must_use]
    pub fn pipeline(&self) -> &Arc<Pipeline> {
        self.inference.pipeline()
    }

    /// What the requests are counted by.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.pipeline().metrics()
    }

    fn repository(&self) -> &Arc<Repository> {
        self.pipeline().repository()
    }

    fn version(&self, name: &str, version: &str) -> Result<Arc<ModelVersion>, Error> {
        self.repository().get(name, version_number(version)?)
    }

    /// ServerLive.
    #[must_use]
    pub fn server_live(&self) -> wire::ServerLiveResponse {
        wire::ServerLiveResponse { live: true }
    }

    /// ServerReady.
    #[must_use]
    pub fn server_ready(&self) -> wire::ServerReadyResponse {
        wire::ServerReadyResponse { ready: self.lifecycle.is_ready() && self.repository().is_ready() }
    }

    /// ModelReady: for an unknown model the answer is no.
    pub fn model_ready(&self, request: &wire::ModelReadyRequest) -> Result<wire::ModelReadyResponse, Error> {
        let version = version_number(&request.version)?;
        let ready = self.lifecycle.is_ready() && self.repository().get(&request.name, version).is_ok();
        Ok(wire::ModelReadyResponse { ready })
    }

    /// ServerMetadata.
    #[must_use]
    pub fn server_metadata(&self) -> wire::ServerMetadataResponse {
        metadata::server(self.inference.shared_memory().is_enabled(), self.log.get().is_some())
    }

    /// ModelMetadata.
    pub fn model_metadata(&self, request: &wire::ModelMetadataRequest) -> Result<wire::ModelMetadataResponse, Error> {
        let version = self.version(&request.name, &request.version)?;
        Ok(metadata::model(&version, &self.repository().index(), self.inference.max_detections()))
    }

    /// The only input of a model from a request that says nothing of it: its contents alone.
    pub fn raw_binary_input(
        &self,
        model: &str,
        version: &str,
        contents: Bytes,
    ) -> Result<(InferInputTensor, Vec<Bytes>), Error> {
        raw_binary::input(&*self.version(model, version)?, contents)
    }

    /// ModelInfer. After `deadline`, or after the request's own timeout, its answer is of no use.
    pub async fn model_infer(
        &self,
        request: wire::ModelInferRequest,
        deadline: Option<Instant>,
    ) -> Result<wire::ModelInferResponse, Error> {
        self.inference.infer(request, deadline).await
    }

    /// ModelConfig.
    pub fn model_config(&self, request: &wire::ModelConfigRequest) -> Result<wire::ModelConfigResponse, Error> {
        let version = self.version(&request.name, &request.version)?;
        let (manifest, most) = (self.repository().manifest(version.name()), self.inference.max_detections());
        Ok(wire::ModelConfigResponse { config: Some(metadata::config(&version, manifest.as_ref(), most)) })
    }

    /// ModelStatistics.
    pub fn model_statistics(
        &self,
        request: &wire::ModelStatisticsRequest,
    ) -> Result<wire::ModelStatisticsResponse, Error> {
        let version = version_number(&request.version)?;
        let model_stats = statistics::of(self.repository(), &request.name, version)?;
        Ok(wire::ModelStatisticsResponse { model_stats })
    }

    /// RepositoryIndex.
    pub async fn repository_index(
        &self,
        request: &wire::RepositoryIndexRequest,
    ) -> Result<wire::RepositoryIndexResponse, Error> {
        repository::list(self.repository(), request).await
    }

    /// RepositoryModelLoad.
    pub async fn repository_model_load(
        &self,
        request: wire::RepositoryModelLoadRequest,
    ) -> Result<wire::RepositoryModelLoadResponse, Error> {
        load::load(self.repository(), request).await?;
        Ok(wire::RepositoryModelLoadResponse {})
    }

    /// RepositoryModelUnload.
    pub async fn repository_model_unload(
        &self,
        request: wire::RepositoryModelUnloadRequest,
    ) -> Result<wire::RepositoryModelUnloadResponse, Error> {
        load::unload(self.repository(), request).await?;
        Ok(wire::RepositoryModelUnloadResponse {})
    }

    /// SystemSharedMemoryStatus.
    pub fn system_shared_memory_status(
        &self,
        request: &wire::SystemSharedMemoryStatusRequest,
    ) -> Result<wire::SystemSharedMemoryStatusResponse, Error> {
        let regions = self.inference.shared_memory().status(&request.name)?;
        Ok(wire::SystemSharedMemoryStatusResponse { regions })
    }

    /// SystemSharedMemoryRegister.
    pub fn system_shared_memory_register(
        &self,
        request: &wire::SystemSharedMemoryRegisterRequest,
    ) -> Result<wire::SystemSharedMemoryRegisterResponse, Error> {
        self.inference.shared_memory().register(request)?;
        Ok(wire::SystemSharedMemoryRegisterResponse {})
    }

    /// SystemSharedMemoryUnregister.
    pub fn system_shared_memory_unregister(
        &self,
        request: &wire::SystemSharedMemoryUnregisterRequest,
    ) -> Result<wire::SystemSharedMemoryUnregisterResponse, Error> {
        self.inference.shared_memory().unregister(&request.name);
        Ok(wire::SystemSharedMemoryUnregisterResponse {})
    }

    /// CudaSharedMemoryStatus: there is none.
    pub fn cuda_shared_memory_status(
        &self,
        request: &wire::CudaSharedMemoryStatusRequest,
    ) -> Result<wire::CudaSharedMemoryStatusResponse, Error> {
        match request.name.as_str() {
            "" => Ok(wire::CudaSharedMemoryStatusResponse::default()),
            name => Err(Error::not_found(format!("there is no CUDA shared memory region `{name}`"))),
        }
    }

    /// CudaSharedMemoryRegister: refused.
    pub fn cuda_shared_memory_register(&self) -> Result<wire::CudaSharedMemoryRegisterResponse, Error> {
        Err(Error::unimplemented("CUDA shared memory: this server has no engine on a GPU"))
    }

    /// CudaSharedMemoryUnregister: there is none, so that there is nothing to do. Clients begin with it.
    pub fn cuda_shared_memory_unregister(&self) -> Result<wire::CudaSharedMemoryUnregisterResponse, Error> {
        Ok(wire::CudaSharedMemoryUnregisterResponse {})
    }

    /// TraceSetting.
    pub fn trace_setting(&self, request: &wire::TraceSettingRequest) -> Result<wire::TraceSettingResponse, Error> {
        if !request.model_name.is_empty() {
            self.repository().get(&request.model_name, 0)?;
        }
        settings::trace(request)
    }

    /// LogSettings.
    pub fn log_settings(&self, request: wire::LogSettingsRequest) -> Result<wire::LogSettingsResponse, Error> {
        settings::log(request, self.log.get())
    }
}
