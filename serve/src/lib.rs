//! The daemon: batching, model repository, gRPC and HTTP.

pub mod config;
