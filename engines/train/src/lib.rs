//! The offline tool: renders data, trains, evaluates, exports and publishes detectors.

pub mod sample;
pub mod scenes;
