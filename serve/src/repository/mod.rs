//! The models: what lies in the repository, what is loaded, and what answers a request.

pub mod layout;
pub mod manifest;
mod version;

pub use version::ModelVersion;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::error;

use crate::engines::Engines;
use crate::error::Error;
use crate::metrics::Metrics;

/// All models of the daemon. Reading takes no lock.
pub struct Repository {
    index: ArcSwap<Index>,
}

/// By model, then by version.
pub type Index = BTreeMap<String, BTreeMap<u64, Entry>>;

/// One version in the index.
#[derive(Clone)]
pub struct Entry {
    /// Whether it serves, and if not, why.
    pub state: State,
}

/// The life of a version.
#[derive(Clone)]
pub enum State {
    /// It serves.
    Ready(Arc<ModelVersion>),
    /// It could not be loaded.
    Failed(String),
}

impl Repository {
    /// Loads the models called `names`, or all when there are none, from the folder `path`. A version that fails is
    /// listed as failed and does not keep the others from serving. Blocks for as long as loading takes.
    ///
    /// # Errors
    /// The folder cannot be read, or a name in `names` is not there.
    pub fn load(path: &Path, names: &[String], engines: &Engines, metrics: &Metrics) -> Result<Self, String> {
        let present = layout::model_names(path)?;
        if let Some(missing) = names.iter().find(|name| !present.contains(name)) {
            return Err(format!("{}: there is no model `{missing}` (a folder with a model.toml)", path.display()));
        }
        let wanted = if names.is_empty() { &present[..] } else { names };
        if wanted.is_empty() {
            return Err(format!("{}: there is no model (a folder with a model.toml)", path.display()));
        }
        let mut index = Index::new();
        for name in wanted {
            index.insert(name.clone(), load_model(path, name, engines, metrics));
        }
        Ok(Self { index: ArcSwap::from_pointee(index) })
    }

    /// The version that answers a request for `model`, which may be empty when there is only one, and `version`, of
    /// which 0 is the newest one that is ready.
    ///
    /// # Errors
    /// NOT_FOUND for a name or number that is not there, UNAVAILABLE for one that does not serve.
    pub fn get(&self, model: &str, version: u64) -> Result<Arc<ModelVersion>, Error> {
        let index = self.index.load();
        let (name, versions) = find_model(&index, model)?;
        if version == 0 {
            let ready = versions.values().rev().find_map(|entry| match &entry.state {
                State::Ready(version) if version.is_live() => Some(Arc::clone(version)),
                _ => None,
            });
            return ready.ok_or_else(|| {
                let reasons: Vec<_> = versions
                    .iter()
                    .map(|(version, entry)| format!("version {version}: {}", entry.reason().unwrap_or_default()))
                    .collect();
                Error::unavailable(format!("model `{name}` has no version that is ready; {}", reasons.join("; ")))
            });
        }
        match versions.get(&version).map(|entry| &entry.state) {
            Some(State::Ready(version)) if version.is_live() => Ok(Arc::clone(version)),
            Some(_) => {
                let reason = versions[&version].reason().unwrap_or_default();
                Err(Error::unavailable(format!("model `{name}` version {version} is not ready: {reason}")))
            }
            None => {
                let known: Vec<_> = versions.keys().map(ToString::to_string).collect();
                let known = known.join(", ");
                Err(Error::not_found(format!("model `{name}` has no version {version}; it has {known}")))
            }
        }
    }

    /// Everything that is known, as it is now.
    #[must_use]
    pub fn index(&self) -> Arc<Index> {
        self.index.load_full()
    }

    /// Every model has a version that serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.index.load().keys().all(|model| self.get(model, 0).is_ok())
    }

    /// The failed versions, each with its reason.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let index = self.index.load();
        let entries = index.iter().flat_map(|(name, versions)| {
            versions.iter().filter_map(move |(version, entry)| match &entry.state {
                State::Failed(reason) if *version == 0 => Some(format!("model `{name}`: {reason}")),
                State::Failed(reason) => Some(format!("model `{name}` version {version}: {reason}")),
                State::Ready(_) => None,
            })
        });
        entries.collect()
    }

    /// Takes no more work, runs what waits, and returns when every instance has ended. Blocks.
    pub fn drain(&self) {
        for version in self.ready() {
            version.drain();
        }
    }

    /// Answers everything that waits with UNAVAILABLE.
    pub fn abandon(&self, reason: &str) {
        for version in self.ready() {
            version.abandon(reason);
        }
    }

    fn ready(&self) -> Vec<Arc<ModelVersion>> {
        let index = self.index.load();
        let entries = index.values().flat_map(BTreeMap::values);
        entries
            .filter_map(|entry| match &entry.state {
                State::Ready(version) => Some(Arc::clone(version)),
                State::Failed(_) => None,
            })
            .collect()
    }
}

impl Entry {
    /// Why it does not serve.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            State::Ready(version) if version.is_live() => None,
            State::Ready(_) => Some("its engine failed and cannot be opened"),
            State::Failed(reason) => Some(reason),
        }
    }
}

fn find_model<'a>(index: &'a Index, model: &str) -> Result<(&'a String, &'a BTreeMap<u64, Entry>), Error> {
    if !model.is_empty() {
        return index
            .get_key_value(model)
            .ok_or_else(|| Error::not_found(format!("there is no model `{model}`; this server has {}", names(index))));
    }
    let mut models = index.iter();
    match (models.next(), models.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(Error::invalid(format!("name a model: this server has {}", names(index)))),
    }
}

fn names(index: &Index) -> String {
    index.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn load_model(path: &Path, name: &str, engines: &Engines, metrics: &Metrics) -> BTreeMap<u64, Entry> {
    let failed = |version: u64, reason: String| {
        error!(model = name, version, reason, "not loaded");
        (version, Entry { state: State::Failed(reason) })
    };
    let folder = match layout::read_model(path, name) {
        Ok(folder) => folder,
        // Without a readable manifest no version is known; 0 stands for the model itself.
        Err(reason) => return BTreeMap::from([failed(0, reason)]),
    };
    let (chosen, missing) = folder.manifest.versions.choose(&folder.versions);
    let mut entries = BTreeMap::new();
    for version in missing {
        entries.extend([failed(version, "the manifest lists it, but its folder is not there".into())]);
    }
    for version in chosen {
        match ModelVersion::load(&folder, version, engines, metrics) {
            Ok(loaded) => {
                entries.insert(version, Entry { state: State::Ready(Arc::new(loaded)) });
            }
            Err(reason) => entries.extend([failed(version, reason)]),
        }
    }
    entries
}
