//! One binary against a real daemon on port 0, through a real gRPC client. Where a test needs an engine that blocks,
//! fails or counts, it registers one beside the real ones; everything else is what users run.

mod batching;
mod client_gone;
mod command_line;
mod drain;
mod engine;
mod failures;
mod handover;
mod kserve;
#[cfg(feature = "libtorch")]
mod libtorch;
mod limits;
mod models;
mod options;
mod queueing;
mod rest;
mod rollout;
mod stream;
mod support;
mod swap;
mod takeover;
mod tensor_engine;
mod tensor_onnx;
mod tensor_support;
mod tensors;
mod watching;
