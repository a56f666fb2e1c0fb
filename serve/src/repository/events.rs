//! What happens to models, for those who watch.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::broadcast;
use tracing::{info, warn};

/// Something happened to a version of a model.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// The model's name.
    pub model: String,
    /// The version; 0 where the model as a whole is meant.
    pub version: u64,
    /// What.
    pub kind: EventKind,
    /// Why, or with which figures.
    pub detail: String,
}

/// What can happen to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Loading began.
    Loading,
    /// It answers.
    Serving,
    /// It did not come into service; what served before still does.
    Failed,
    /// It is on trial: a canary or a shadow.
    OnTrial,
    /// Its trial ended well: it answers.
    Promoted,
    /// It was taken back.
    RolledBack,
    /// It takes no more requests, and finishes those it has.
    Retiring,
    /// Its threads have ended and its memory is free.
    Unloaded,
    /// Its batching or number of instances changed while it served.
    Reconfigured,
}

impl EventKind {
    /// In lower case, as the log and the metric write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Serving => "serving",
            Self::Failed => "failed",
            Self::OnTrial => "on_trial",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Retiring => "retiring",
            Self::Unloaded => "unloaded",
            Self::Reconfigured => "reconfigured",
        }
    }
}

/// Events that a slow watcher may be behind.
const BACKLOG: usize = 256;

/// Sends events to everyone who watches. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<broadcast::Sender<Event>>);

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(broadcast::Sender::new(BACKLOG)))
    }
}

impl Events {
    /// Logs the event and sends it.
    pub fn send(&self, model: &str, version: u64, kind: EventKind, detail: impl Into<String>) {
        let detail = detail.into();
        let event = kind.name();
        match kind {
            EventKind::Failed | EventKind::RolledBack => warn!(model, version, event, detail),
            _ => info!(model, version, event, detail),
        }
        // Nobody may be watching.
        let _ = self.0.send(Event { at: SystemTime::now(), model: model.to_owned(), version, kind, detail });
    }

    /// Everything from now on. Who falls far behind misses the oldest.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
