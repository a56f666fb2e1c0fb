//! The offline tool: renders data, trains, evaluates, exports and publishes detectors.

pub mod augment;
pub mod dataset;
pub mod evaluation;
#[cfg(feature = "libtorch")]
pub mod export;
#[cfg(feature = "libtorch")]
pub mod publish;
pub mod report;
pub mod sample;
pub mod scenes;
#[cfg(feature = "libtorch")]
pub mod training;
