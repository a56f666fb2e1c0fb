//! What is kept of one model between operations, and which operation is the newest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::ModelVersion;
use super::fingerprint::Fingerprint;
use super::layout::ModelFolder;

/// One model's operations.
#[derive(Default)]
pub(super) struct Slot {
    newest: AtomicU64,
    /// Held by the operation that loads.
    pub running: Mutex<()>,
    pub kept: Mutex<Kept>,
}

/// What is kept from one operation to the next.
#[derive(Default)]
pub(super) struct Kept {
    /// The folder as it was read last.
    pub folder: Option<ModelFolder>,
    /// The versions that the manifest chooses.
    pub chosen: Vec<u64>,
    /// What is loaded under each number, or was tried last.
    pub contents: BTreeMap<u64, Fingerprint>,
    /// The version that answered before, still warm.
    pub previous: Option<Previous>,
    /// The files that a load by name brought with it.
    pub files: Option<Arc<tempfile::TempDir>>,
}

pub(super) struct Previous {
    pub version: Arc<ModelVersion>,
    pub until: Instant,
}

impl Slot {
    /// Begins an operation: every older one is moot from here on.
    pub fn begin(&self) -> u64 {
        self.newest.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// No newer operation has begun.
    pub fn is_newest(&self, operation: u64) -> bool {
        self.newest.load(Ordering::Acquire) == operation
    }
}
