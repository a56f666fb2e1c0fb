//! The traits that every inference engine implements; no vendor, no runtime.
//!
//! Read in this order: [`Model`] and [`Engine`] (what an engine is), [`ModelSpec`] (what it says of itself),
//! [`Detector`] (how a network's tensors become boxes), [`Engine::detect`] (pictures in, boxes out).

mod detect;
mod detector;
mod error;
mod load;
mod model;
mod picture;
mod rows;
mod spec;
mod tensor;

pub use detect::{DetectScratch, Detected, boxes_on_cpu, check_pictures, detect_by_infer};
pub use detector::{Auxiliary, Detector, DetectorOptions};
pub use error::EngineError;
pub use load::LoadOptions;
pub use model::{Engine, Model};
pub use picture::{Picture, Stage};
pub use spec::{BatchSize, Device, ModelSpec, Precision};
pub use tensor::{Batch, DataType, Tensor, TensorData, TensorSpec};
