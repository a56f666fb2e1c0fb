//! The models: what lies in the repository, what is loaded, and what answers a request.
//!
//! Read in this order: [`Index`] (what is known), [`Repository::pick`] (who answers), `swap.rs` and `leave.rs` (how a
//! version comes and goes), `by_name.rs` (because someone asks), `trial.rs` (canary, shadow, rollback), `watch.rs` (how
//! changes on the disk are noticed).

mod agreement;
mod aside;
mod by_name;
mod decisions;
mod events;
mod fingerprint;
mod golden;
mod index;
pub mod layout;
mod leave;
pub mod manifest;
mod overrides;
mod prepare;
mod rehearsal;
mod rollout;
mod slot;
mod swap;
mod trial;
mod triton_config;
mod version;
mod watch;

pub use agreement::Agreement;
pub use events::{Event, EventKind};
pub use index::{Entry, Index, State};
pub use overrides::LoadOverrides;
pub use rollout::{Figures, Requests, Rollout, Side};
pub use trial::TrialStatus;
pub use version::ModelVersion;
pub use watch::watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast};

use crate::config::{Control, RepositoryConfig};
use crate::engines::Engines;
use crate::error::Error;
use crate::metrics::Metrics;
use decisions::Decisions;
use events::Events;
use index::Published;
use manifest::Manifest;
use slot::Slot;

/// Loads by name that may run, or wait for another one of the same model, at once: each has a thread.
const MAX_LOADS: usize = 64;

/// All models of the daemon. Reading takes no lock.
pub struct Repository {
    config: RepositoryConfig,
    engines: Engines,
    metrics: Metrics,
    published: ArcSwap<Published>,
    /// Held while `published` is replaced.
    publishing: Mutex<()>,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    events: Events,
    decisions: Decisions,
    loads: Arc<Semaphore>,
}

/// Who answers a request, and whether that is a trial.
#[derive(Clone)]
pub struct Pick {
    /// The version that answers.
    pub version: Arc<ModelVersion>,
    /// The trial that the request is part of, and its side.
    pub trial: Option<(Arc<Rollout>, Side)>,
}

impl Repository {
    /// A repository with the models that `config` asks for at the start. A version that fails is listed as failed and
    /// does not keep the others from serving. Blocks for as long as loading takes.
    ///
    /// # Errors
    /// The folder cannot be read, a model that is asked for is not there, or there is none at all.
    pub fn load_all(config: RepositoryConfig, engines: &Engines, metrics: &Metrics) -> Result<Arc<Self>, String> {
        let present = layout::model_names(&config.path)?;
        if let Some(missing) = config.models.iter().find(|name| !present.contains(name)) {
            let path = config.path.display();
            return Err(format!("{path}: there is no model `{missing}` (a folder with a model.toml)"));
        }
        let wanted = match config.control {
            Control::Explicit => config.models.clone(),
            _ if config.models.is_empty() => present,
            _ => config.models.clone(),
        };
        if wanted.is_empty() && config.control == Control::None {
            return Err(format!("{}: there is no model (a folder with a model.toml)", config.path.display()));
        }
        let repository = Arc::new(Self {
            decisions: Decisions::read(&config.decisions_file())?,
            engines: engines.clone().within(config.load_timeout),
            config,
            metrics: metrics.clone(),
            published: ArcSwap::default(),
            publishing: Mutex::new(()),
            slots: Mutex::default(),
            events: Events::default(),
            loads: Arc::new(Semaphore::new(MAX_LOADS)),
        });
        for name in wanted {
            // The reason is in the index.
            let _ = repository.read_again(&name);
        }
        Ok(repository)
    }

    /// Loads a model by name, as it lies in the repository or with `overrides`, and whether or not it was rolled back.
    ///
    /// # Errors
    /// The repository's control mode does not allow it; RESOURCE_EXHAUSTED: too many loads at once; a version fails: what
    /// served before still does.
    pub async fn load(self: &Arc<Self>, model: &str, overrides: LoadOverrides) -> Result<(), Error> {
        self.check_explicit()?;
        let place = Arc::clone(&self.loads).try_acquire_owned().map_err(|_| {
            let message = format!("{MAX_LOADS} models are being loaded by name or wait for it, the most at once");
            Error::exhausted(message, Duration::from_secs(1))
        })?;
        let (repository, model) = (Arc::clone(self), model.to_owned());
        let loading = tokio::task::spawn_blocking(move || {
            let result = repository.load_by_name(&model, &overrides);
            // Not before: the thread is held also when the caller has gone away.
            drop(place);
            result
        });
        loading.await.unwrap_or_else(|error| Err(Error::internal(format!("loading ended early: {error}"))))
    }

    /// Takes a model out of service. Requests that it has taken are answered.
    ///
    /// # Errors
    /// The repository's control mode does not allow it; there is no such model.
    pub async fn unload(self: &Arc<Self>, model: &str) -> Result<(), Error> {
        self.check_explicit()?;
        self.take_out(model)
    }

    fn check_explicit(&self) -> Result<(), Error> {
        match self.config.control {
            Control::Explicit => Ok(()),
            control => Err(Error::invalid(format!(
                "models are loaded and unloaded by name only where repository.control is \"explicit\"; it is {control:?}"
            ))),
        }
    }

    /// The version that answers a request for `model`, which may be empty when there is only one, and `version`, of
    /// which 0 is the one that answers where none is named.
    ///
    /// # Errors
    /// NOT_FOUND for a name or number that is not there, UNAVAILABLE for one that does not serve.
    pub fn get(&self, model: &str, version: u64) -> Result<Arc<ModelVersion>, Error> {
        let published = self.published.load();
        let (name, versions) = published.find(model)?;
        if version == 0 {
            return published.answering(name, versions);
        }
        let Some(entry) = versions.get(&version) else {
            let known: Vec<_> = versions.keys().map(ToString::to_string).collect();
            let known = known.join(", ");
            return Err(Error::not_found(format!("model `{name}` has no version {version}; it has {known}")));
        };
        entry.ready().cloned().ok_or_else(|| {
            let reason = entry.reason().unwrap_or_default();
            Error::unavailable(format!("model `{name}` version {version} is not ready: {reason}"))
        })
    }

    /// Whether the answers of a stream's requests to `model` leave in the order of the requests.
    #[must_use]
    pub fn preserves_order(&self, model: &str) -> bool {
        self.get(model, 0).is_ok_and(|version| version.queue().settings().preserve_order)
    }

    /// The same as [`Self::get`], with a share of the requests that name no version going to the version on trial. Requests with the same
    /// `key` go to the same one, as long as the trial lasts.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn pick(&self, model: &str, version: u64, key: &str) -> Result<Pick, Error> {
        if version == 0 {
            let published = self.published.load();
            let (name, versions) = published.find(model)?;
            let answering = published.answering(name, versions)?;
            let rollout = published.routes.get(name).and_then(|route| route.rollout.as_ref());
            return Ok(match rollout.filter(|rollout| rollout.candidate.is_live()) {
                None => Pick { version: answering, trial: None },
                Some(rollout) => {
                    let side = rollout.choose(key);
                    let version = if side == Side::Candidate { Arc::clone(&rollout.candidate) } else { answering };
                    Pick { version, trial: Some((Arc::clone(rollout), side)) }
                }
            });
        }
        Ok(Pick { version: self.get(model, version)?, trial: None })
    }

    /// Everything that is known, as it is now.
    #[must_use]
    pub fn index(&self) -> Arc<Index> {
        Arc::clone(&self.published.load().index)
    }

    /// The manifest of `model`, as it was read last.
    #[must_use]
    pub fn manifest(&self, model: &str) -> Option<Manifest> {
        let slot = self.slots.lock().get(model).cloned()?;
        let kept = slot.kept.lock();
        kept.folder.as_ref().map(|folder| folder.manifest.clone())
    }

    /// The size of the files that a version's weights were loaded from; `None` where it is not known.
    #[must_use]
    pub fn weight_bytes(&self, model: &str, version: u64) -> Option<u64> {
        let slot = self.slots.lock().get(model).cloned()?;
        let kept = slot.kept.lock();
        let file = kept.folder.as_ref()?.manifest.file();
        kept.contents.get(&version).map(|content| content.bytes_of(file)).filter(|&bytes| bytes > 0)
    }

    /// The models that lie in the repository and could be loaded by name, but are not known yet. Blocks.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn not_loaded(&self) -> Result<Vec<String>, String> {
        if self.config.control != Control::Explicit {
            return Ok(Vec::new());
        }
        let index = self.index();
        let names = layout::model_names(&self.config.path)?;
        Ok(names.into_iter().filter(|name| !index.contains_key(name)).collect())
    }

    /// Every model that has come into service answers. A model that never did keeps nobody from the others; but where
    /// none did at all, there is nothing to serve, unless models come by name only.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let published = self.published.load();
        let all = published.routes.keys().all(|model| self.get(model, 0).is_ok());
        all && (!published.routes.is_empty() || self.config.control == Control::Explicit)
    }

    /// What happens to models from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.watch()
    }

    /// The failed versions, each with its reason.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.failures_of(|_| true)
    }

    /// The same of those models that no version answers for.
    #[must_use]
    pub fn outages(&self) -> Vec<String> {
        let published = self.published.load();
        self.failures_of(|model| !published.routes.contains_key(model))
    }

    fn failures_of(&self, model: impl Fn(&str) -> bool) -> Vec<String> {
        let index = self.index();
        let entries = index.iter().filter(|(name, _)| model(name)).flat_map(|(name, versions)| {
            versions.iter().filter_map(move |(version, entry)| match &entry.state {
                State::Failed(reason) if *version == 0 => Some(format!("model `{name}`: {reason}")),
                State::Failed(reason) => Some(format!("model `{name}` version {version}: {reason}")),
                _ => None,
            })
        });
        entries.collect()
    }

    /// Takes no more work, runs what waits, and returns when every instance has ended. Blocks.
    pub fn drain(&self) {
        for version in self.loaded() {
            version.drain();
        }
    }

    /// Answers everything that waits with UNAVAILABLE.
    pub fn abandon(&self, reason: &str) {
        for version in self.loaded() {
            version.abandon(reason);
        }
    }

    /// Every version that takes requests.
    fn loaded(&self) -> Vec<Arc<ModelVersion>> {
        let published = self.published.load();
        let mut loaded: Vec<_> =
            published.index.values().flat_map(BTreeMap::values).filter_map(|entry| entry.ready().cloned()).collect();
        for route in published.routes.values() {
            loaded.push(Arc::clone(&route.answering));
            loaded.extend(route.rollout.iter().map(|rollout| Arc::clone(&rollout.candidate)));
        }
        loaded
    }

    /// Replaces what requests read.
    fn publish<T>(&self, change: impl FnOnce(&mut Published) -> T) -> T {
        let _publishing = self.publishing.lock();
        let mut published = Published::clone(&self.published.load());
        let result = change(&mut published);
        self.published.store(Arc::new(published));
        result
    }

    fn slot(&self, model: &str) -> Arc<Slot> {
        Arc::clone(self.slots.lock().entry(model.to_owned()).or_default())
    }
}

/// How often trials are judged and kept versions are looked through.
const TICK: Duration = Duration::from_millis(100);

/// Judges trials and lets versions go that were kept long enough. Never returns.
pub async fn attend(repository: Arc<Repository>) {
    loop {
        tokio::time::sleep(TICK).await;
        let repository = Arc::clone(&repository);
        // A verdict is written to the disk.
        let _ = tokio::task::spawn_blocking(move || repository.attend_once()).await;
    }
}
