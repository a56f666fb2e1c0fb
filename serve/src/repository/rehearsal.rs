//! The first run of a version, before it has instances: every batch size that it prepares for, and its golden pictures.
//!
//! On the CPU a rehearsal takes time from the requests that another version answers meanwhile. It runs on a thread of
//! low priority, which the threads of its engine inherit; all of them end with it, as an ordinary user cannot raise a
//! priority again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;

use detectd_engine::Model;
use detectd_vision::DetectOptions;

use super::golden;
use super::manifest::GoldenSettings;
use crate::batch::warm_up;
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
    /// Runs it and returns how many golden pictures agreed. With `aside`, requests go first. Blocks.
    ///
    /// # Errors
    /// What failed: opening the engine, an execution, or a golden picture, by name.
    pub fn run(&self, aside: bool) -> Result<usize, String> {
        thread::scope(|scope| {
            let rehearse = || {
                if aside {
                    step_aside();
                }
                // The engine may panic when it is dropped, too.
                catch_unwind(AssertUnwindSafe(|| self.run_here())).unwrap_or_else(|_| Err("the engine panicked".into()))
            };
            let thread = thread::Builder::new()
                .name("rehearsal".into())
                .spawn_scoped(scope, rehearse)
                .map_err(|error| format!("no thread for the rehearsal: {error}"))?;
            thread.join().unwrap_or_else(|_| Err("the rehearsal's thread ended".into()))
        })
    }

    fn run_here(&self) -> Result<usize, String> {
        let mut engine = self.model.open().map_err(|error| error.to_string())?;
        for &size in self.sizes {
            warm_up(engine.as_mut(), size).map_err(|error| format!("warm-up with a batch of {size}: {error}"))?;
        }
        golden::verify(self.folder, engine.as_mut(), self.options, self.buffers, self.golden)
    }
}

/// Lowers this thread's priority: where requests want the processors, it gets about a tenth of one.
fn step_aside() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!(%error, "the rehearsal keeps its priority");
    }
}
