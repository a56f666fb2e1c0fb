//! The first run of a version, before it has instances: every batch size that it prepares for,
//! a look at its outputs, and its golden pictures.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use detectd_engine::Model;
use detectd_vision::DetectOptions;

use super::golden;
use super::manifest::GoldenSettings;
use crate::batch::{refuse_nan, warm_up};
use crate::buffers::BufferPool;

/// What a version has to show.
pub struct Rehearsal<'a> {
    /// Its weights.
    pub model: &'a dyn Model,
    /// The sizes to run.
    pub sizes: &'a [usize],
    /// The version's folder, with its golden pictures.
    pub folder: &'a Path,
    /// The options that they are run with.
    pub options: &'a DetectOptions,
    /// How closely they must be reproduced.
    pub golden: &'a GoldenSettings,
    /// Where the inputs of pictures come from.
    pub buffers: &'a BufferPool,
}

impl Rehearsal<'_> {
    /// Runs it on an engine of its own and returns how many golden pictures agreed. Blocks.
    ///
    /// # Errors
    /// What failed: opening the engine, an execution, an output that is NaN, or a golden picture, by name.
    pub fn run(&self) -> Result<usize, String> {
        // The engine may panic when it is dropped, too.
        catch_unwind(AssertUnwindSafe(|| {
            let mut engine = self.model.open().map_err(|error| error.to_string())?;
            for &size in self.sizes {
                warm_up(engine.as_mut(), size).map_err(|error| format!("warm-up with a batch of {size}: {error}"))?;
            }
            refuse_nan(engine.as_mut()).map_err(|error| error.to_string())?;
            golden::verify(self.folder, engine.as_mut(), self.options, self.buffers, self.golden)
        }))
        .unwrap_or_else(|_| Err("the engine panicked".into()))
    }
}
