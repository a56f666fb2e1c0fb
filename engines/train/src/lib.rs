//! The offline tool: renders data, trains, evaluates, exports and publishes detectors.

pub mod augment;
pub mod dataset;
pub mod evaluation;
pub mod report;
pub mod sample;
pub mod scenes;
#[cfg(feature = "libtorch")]
pub mod training;
