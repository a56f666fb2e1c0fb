//! Networks that are described by a yaml file of rows, as YOLOv5 describes its own.
//!
//! [`ModelYaml`] is the file, [`Plan`] the layers that it stands for. A plan is walked by anything that implements
//! [`Operations`]: [`Network`] computes with it, [`Cost`] counts with it, an exporter writes it down as a graph.

mod cost;
mod decode;
mod error;
mod fold;
mod initialise;
mod modules;
mod operations;
mod plan;
mod tensors;
#[cfg(test)]
mod tests;
mod weights;
mod yaml;

pub use cost::{Cost, Shape};
pub use decode::Decoder;
pub use error::NetworkError;
pub use operations::{Activation, Convolution, ConvolutionKind, Operations};
pub use plan::{Detect, Layer, Module, Plan};
pub use tensors::{Network, Pass};
pub use weights::{LoadReport, Weights, is_trainable, load_weights, read_safetensors, write_safetensors};
pub use yaml::{Anchors, Architecture, ModelYaml, Scale};

/// Added to the variance by every batch normalisation.
pub const NORM_EPSILON: f64 = 1e-3;
/// Share of the new batch in the running statistics.
pub const NORM_MOMENTUM: f64 = 0.03;
