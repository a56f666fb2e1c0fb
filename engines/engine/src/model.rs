//! What an engine is: a model that is shared, and execution contexts that are not.

use std::sync::Arc;

use detectd_vision::DetectOptions;

use crate::detect::{DetectScratch, Detected, detect_by_infer};
use crate::{Batch, EngineError, ModelSpec, Picture, Tensor};

/// One version's weights on one device. Opened once, shared by its instances.
pub trait Model: Send + Sync {
    /// What the model takes, gives and needs.
    fn spec(&self) -> &ModelSpec;

    /// Makes an execution context. Called on the thread that will run it, and every thread that it needs is started here:
    /// the model itself may have been loaded on a thread of low priority, which the threads started there inherit.
    ///
    /// # Errors
    /// No memory, or no device.
    fn open(&self) -> Result<Box<dyn Engine>, EngineError>;

    /// The same weights for batches up to `max_batch` and for instances with `threads` threads. `None`, the default: to
    /// change that, the model has to be loaded again.
    fn resized(&self, max_batch: usize, threads: usize) -> Option<Arc<dyn Model>> {
        let _ = (max_batch, threads);
        None
    }
}

/// One execution context. Opened, run and dropped on one thread; not `Send`.
pub trait Engine {
    /// The model that this context runs.
    fn spec(&self) -> &ModelSpec;

    /// Tensors in, tensors out, in the order of the spec.
    ///
    /// # Errors
    /// Tensors that do not fit the spec are refused with [`EngineError::Shape`]; everything else is a failure of the
    /// engine, after which it may be dropped.
    fn infer(&mut self, batch: &Batch) -> Result<Vec<Tensor>, EngineError>;

    /// Pictures in, boxes out, in the pictures' own pixels; `options` holds one entry a picture. By default the boxes
    /// are made on the CPU from what [`Engine::infer`] gives; an engine on another device may keep everything there.
    /// The answer must not differ, which the conformance suite checks.
    ///
    /// # Errors
    /// As [`Engine::infer`]; also for a model without a [`crate::Detector`], and for pictures that are not prepared
    /// as far as the spec asks.
    fn detect(
        &mut self,
        pictures: &[Picture],
        options: &[DetectOptions],
        scratch: &mut DetectScratch,
    ) -> Result<Detected, EngineError> {
        detect_by_infer(self, pictures, options, scratch)
    }
}
