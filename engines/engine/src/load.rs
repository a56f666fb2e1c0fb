//! What an engine is told when it loads a model.

use std::path::PathBuf;

use crate::{DetectorOptions, Device, Precision, TensorSpec};

/// One model file, and how it is to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadOptions {
    /// The model file.
    pub path: PathBuf,
    /// Where to run it.
    pub device: Device,
    /// The numerics to run it in; `None` leaves it as the file says.
    pub precision: Option<Precision>,
    /// Threads for each instance; 0 leaves it to the engine.
    pub threads: usize,
    /// The largest batch to prepare for; a graph with a fixed batch keeps its own. 0: the first dimension of the inputs
    /// is no batch, which a model that is no detector may ask for.
    pub max_batch: usize,
    /// What the manifest says of the detector; `None` for a model that is none.
    pub detector: Option<DetectorOptions>,
    /// The inputs as the manifest declares them, in the model's order, for a file that does not. Empty: the engine finds
    /// them.
    pub inputs: Vec<TensorSpec>,
    /// The outputs to serve, by name. Empty: all, or for a detector those that it is recognised by.
    pub outputs: Vec<String>,
}
