//! What is known of every model: the versions, their states, and which one answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ModelVersion;
use super::rollout::Rollout;
use crate::error::Error;

/// By model, then by version.
pub type Index = BTreeMap<String, BTreeMap<u64, Entry>>;

/// One version in the index.
#[derive(Clone)]
pub struct Entry {
    /// Whether it serves, and if not, why.
    pub state: State,
    /// Why the newest content of this version's folder does not serve, while an older one still does.
    pub failure: Option<String>,
}

/// The life of a version.
#[derive(Clone)]
pub enum State {
    /// It is being loaded, and nothing serves under its number yet.
    Loading,
    /// It serves.
    Ready(Arc<ModelVersion>),
    /// It could not be loaded, or was taken out of service.
    Failed(String),
}

impl Entry {
    /// An entry with nothing to complain of.
    pub(super) fn new(state: State) -> Self {
        Self { state, failure: None }
    }

    /// Why it does not serve.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            State::Ready(version) if version.is_live() => None,
            State::Ready(_) => Some("its engine failed and cannot be opened"),
            State::Loading => Some("it is being loaded"),
            State::Failed(reason) => Some(reason),
        }
    }

    /// It is being loaded anew; what serves under its number goes on.
    pub(super) fn show_loading(&mut self) {
        if !matches!(self.state, State::Ready(_)) {
            self.state = State::Loading;
        }
    }

    /// The version, if it serves.
    #[must_use]
    pub fn ready(&self) -> Option<&Arc<ModelVersion>> {
        match &self.state {
            State::Ready(version) if version.is_live() => Some(version),
            _ => None,
        }
    }
}

/// Everything that requests read, replaced as a whole.
#[derive(Clone, Default)]
pub(super) struct Published {
    pub index: Arc<Index>,
    pub routes: BTreeMap<String, Route>,
}

/// Who answers requests that name no version.
#[derive(Clone)]
pub(super) struct Route {
    pub answering: Arc<ModelVersion>,
    pub rollout: Option<Arc<Rollout>>,
}

impl Published {
    /// The model that `name` means; an empty name means the only one.
    pub fn find<'a>(&'a self, name: &str) -> Result<(&'a String, &'a BTreeMap<u64, Entry>), Error> {
        let index = &*self.index;
        if !name.is_empty() {
            let known = index.get_key_value(name);
            return known.ok_or_else(|| {
                Error::not_found(format!("there is no model `{name}`; this server has {}", names(index)))
            });
        }
        let mut models = index.iter();
        match (models.next(), models.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(Error::invalid(format!("name a model: this server has {}", names(index)))),
        }
    }

    /// The version that answers for `model` where none is named.
    pub fn answering(&self, model: &str, versions: &BTreeMap<u64, Entry>) -> Result<Arc<ModelVersion>, Error> {
        if let Some(route) = self.routes.get(model)
            && route.answering.is_live()
        {
            return Ok(Arc::clone(&route.answering));
        }
        let ready = versions.values().rev().find_map(|entry| entry.ready().cloned());
        ready.ok_or_else(|| {
            let reasons: Vec<_> = versions
                .iter()
                .map(|(version, entry)| format!("version {version}: {}", entry.reason().unwrap_or_default()))
                .collect();
            Error::unavailable(format!("model `{model}` has no version that is ready; {}", reasons.join("; ")))
        })
    }
}

fn names(index: &Index) -> String {
    if index.is_empty() {
        return "none".into();
    }
    index.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}
