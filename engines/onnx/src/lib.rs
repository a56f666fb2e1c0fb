//! ONNX on the CPU: the embedded default engine, and ONNX Runtime behind a feature.
//!
//! [`load`] runs a model with `rten`, which is pure Rust and needs nothing installed. With the feature `onnxruntime`
//! the module of that name runs the same files with ONNX Runtime, whose library is loaded at run time.
//!
//! Both read the graph's declaration themselves (`file`, `graph`), so that they agree on what a model is.

mod embedded;
mod file;
mod graph;
#[cfg(feature = "onnxruntime")]
pub mod onnxruntime;
mod operators;
mod precision;
mod proto;

pub use embedded::load;
