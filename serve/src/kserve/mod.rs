//! The KServe v2 / Open Inference Protocol with Triton's extensions, whatever it is carried by: `rpc/kserve.rs` carries
//! it over gRPC, `rest/` over HTTP. Requests and answers are the messages of `proto/inference/grpc_service.proto`, which
//! tells what they mean for a detection model.

mod detection;
mod infer;
mod load;
mod metadata;
mod parameters;
mod raw_binary;
mod repository;
mod service;
mod settings;
mod shared_memory;
mod statistics;
mod tensor_model;
mod tensors;

pub use infer::Inference;
pub use service::Kserve;
pub use shared_memory::SharedMemory;
pub(crate) use tensors::{Datatype, dimensions};
