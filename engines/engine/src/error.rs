//! What can go wrong in an engine.

/// A failure of an engine, by what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The model cannot be loaded: a file, an operator, a missing library. Nothing else is harmed.
    #[error("cannot load: {0}")]
    Load(String),
    /// The caller's tensors or pictures do not fit the model.
    #[error("{0}")]
    Shape(String),
    /// The device has no memory for it. A smaller batch may pass.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The device does not answer any more; all of its instances are gone.
    #[error("device lost: {0}")]
    DeviceLost(String),
    /// Any other failure inside the engine.
    #[error("engine failed: {0}")]
    Backend(String),
}
