//! `inference.GRPCInferenceService`: the KServe v2 / Open Inference Protocol with Triton's extensions. What it means
//! for a detection model is told in `proto/inference/grpc_service.proto`.

mod detection;
mod infer;
mod load;
mod metadata;
mod parameters;
mod repository;
mod service;
mod settings;
mod shared_memory;
mod statistics;
mod stream;
mod tensor_model;
mod tensors;

pub use infer::Inference;
pub use service::KserveRpc;
pub use shared_memory::SharedMemory;
