//! The gRPC port: its services, its connections, its limits.

mod admin;
mod admission;
pub(crate) mod body;
mod connection;
pub mod convert;
mod deadline;
mod detect;
mod health;
mod kserve;
mod models;
pub(crate) mod status;
mod stream;

pub use admin::AdminRpc;
pub use connection::{Connections, serve};
pub use detect::{DetectRpc, RpcLimits};
pub use health::watch as watch_health;
pub use kserve::KserveRpc;
pub use models::family_name;

use std::sync::Arc;

use detectd_proto::FILE_DESCRIPTOR_SET;
use detectd_proto::detect::v1::admin_service_server::AdminServiceServer;
use detectd_proto::detect::v1::detect_service_server::DetectServiceServer;
use detectd_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::budget::Budget;
use crate::config::{Compression, ServerConfig};
use crate::error::Error;
use crate::lifecycle::Lifecycle;

pub use admission::Admission;

/// Builds the services of the gRPC port. The reporter is what health answers from.
///
/// # Errors
/// The reflection service cannot be built, which would be a mistake in the generated code.
pub fn services(
    config: &ServerConfig,
    detect: DetectRpc,
    kserve: KserveRpc,
    admin: AdminRpc,
    lifecycle: Arc<Lifecycle>,
    budget: Budget,
) -> Result<(Admission, HealthReporter), Error> {
    let mut detect = DetectServiceServer::new(detect)
        .max_decoding_message_size(config.max_message_bytes)
        .max_encoding_message_size(config.max_message_bytes);
    let metrics = kserve.metrics().clone();
    let mut kserve = GrpcInferenceServiceServer::new(kserve)
        .max_decoding_message_size(config.max_message_bytes)
        .max_encoding_message_size(config.max_message_bytes);
    for compression in &config.compression {
        let encoding = match compression {
            Compression::Gzip => CompressionEncoding::Gzip,
            Compression::Zstd => CompressionEncoding::Zstd,
        };
        detect = detect.accept_compressed(encoding).send_compressed(encoding);
        kserve = kserve.accept_compressed(encoding).send_compressed(encoding);
    }
    let (reporter, health) = tonic_health::server::health_reporter();
    let admin = AdminServiceServer::new(admin).max_decoding_message_size(config.max_message_bytes);
    let mut others = Routes::new(health).add_service(admin);
    if config.reflection {
        let reflection = |error: tonic_reflection::server::Error| Error::internal(format!("reflection: {error}"));
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        others = others
            .add_service(builder().build_v1().map_err(reflection)?)
            .add_service(builder().build_v1alpha().map_err(reflection)?);
    }
    Ok((Admission::new(detect, kserve, others.prepare(), lifecycle, config, metrics, budget), reporter))
}
