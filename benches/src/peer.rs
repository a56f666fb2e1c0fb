//! The peer of the RPC benchmark: a bare tonic server whose handler reads the body and answers.

use anyhow::Result;
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::detect_service_server::{DetectService, DetectServiceServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Serves on `listener` until the process ends.
///
/// # Errors
/// The server fails.
pub async fn serve(listener: TcpListener) -> Result<()> {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .max_frame_size(128 << 10)
        .add_service(DetectServiceServer::new(Bare).max_decoding_message_size(64 << 20))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}

struct Bare;

#[tonic::async_trait]
impl DetectService for Bare {
    async fn detect(&self, request: Request<wire::DetectRequest>) -> Result<Response<wire::DetectResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(wire::DetectResponse { model: request.model, ..wire::DetectResponse::default() }))
    }

    async fn detect_batch(
        &self,
        _: Request<wire::DetectBatchRequest>,
    ) -> Result<Response<wire::DetectBatchResponse>, Status> {
        Err(Status::unimplemented("this peer answers Detect only"))
    }

    type DetectStreamStream = ReceiverStream<Result<wire::DetectStreamResponse, Status>>;

    async fn detect_stream(
        &self,
        _: Request<Streaming<wire::DetectStreamRequest>>,
    ) -> Result<Response<Self::DetectStreamStream>, Status> {
        Err(Status::unimplemented("this peer answers Detect only"))
    }

    async fn list_models(
        &self,
        _: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        Err(Status::unimplemented("this peer answers Detect only"))
    }

    async fn get_model(&self, _: Request<wire::GetModelRequest>) -> Result<Response<wire::GetModelResponse>, Status> {
        Err(Status::unimplemented("this peer answers Detect only"))
    }
}
