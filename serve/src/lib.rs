//! The daemon: batching, model repository, gRPC and HTTP.

/// The allocator of every program that runs the daemon. Versions come and go with threads of their own, and the system's
/// allocator keeps the memory of each thread that ended.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod app;
pub mod batch;
pub mod budget;
pub mod buffers;
pub mod cli;
pub mod client;
pub mod config;
pub mod cpu_pool;
pub mod engines;
pub mod error;
pub mod http;
pub mod kserve;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod options;
pub mod pipeline;
pub mod repository;
pub mod rest;
pub mod rpc;
pub mod status_page;
