//! Models that come and go by name, because someone asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::index::State;
use super::layout::{ModelFolder, check_name, read_model, read_model_with};
use super::manifest::Manifest;
use super::slot::Slot;
use super::swap::{Cause, Stop};
use super::{LoadOverrides, ModelVersion, Repository};
use crate::error::Error;

impl Repository {
    /// Loads a model because someone asked for it. Blocks.
    pub(super) fn load_by_name(&self, name: &str, overrides: &LoadOverrides) -> Result<(), Error> {
        // A name that means nothing leaves no trace.
        check_name(name).map_err(Error::invalid)?;
        let manifest = self.config.path.join(name).join("model.toml");
        let is_known = manifest.is_file() || self.index().contains_key(name);
        if overrides.files.is_empty() && !is_known {
            return Err(Error::not_found(format!("there is no model `{name}`: no file {}", manifest.display())));
        }
        let slot = self.slot(name);
        let operation = slot.begin();
        let running = slot.running.lock();
        let result = if slot.is_newest(operation) {
            self.overridden(name, &slot, overrides).map_or_else(
                |reason| self.refuse_model(name, reason),
                |folder| self.bring_in(&slot, operation, &folder, Cause::Name),
            )
        } else {
            Err(Stop::Moot)
        };
        drop(running);
        match result {
            Ok(()) => Ok(()),
            Err(Stop::Failed(reason)) if !is_known => {
                self.leave_no_trace(name);
                Err(Error::invalid(format!("model `{name}`: {reason}")))
            }
            Err(Stop::Failed(reason)) => Err(Error::invalid(format!("model `{name}`: {reason}"))),
            Err(Stop::Moot) => {
                // The newer operation decides; its outcome is the answer.
                drop(slot.running.lock());
                self.get(name, 0).map(drop).map_err(|error| {
                    Error::unavailable(format!(
                        "a newer operation on model `{name}` took the place of this one: {}",
                        error.message
                    ))
                })
            }
        }
    }

    /// Forgets a name that came with files of its own and never served: callers must not fill the index.
    fn leave_no_trace(&self, name: &str) {
        self.publish(|published| {
            let index = Arc::make_mut(&mut published.index);
            if index.get(name).is_some_and(|versions| versions.values().all(|entry| entry.ready().is_none())) {
                index.remove(name);
            }
        });
        self.slots.lock().remove(name);
        self.metrics.forget_swaps(name);
    }

    /// Takes a model out of service.
    pub(super) fn take_out(&self, name: &str) -> Result<(), Error> {
        self.published.load().find(name)?;
        let slot = self.slot(name);
        slot.begin();
        let out = self.publish(|published| {
            published.find(name)?;
            let route = published.routes.remove(name);
            let versions = Arc::make_mut(&mut published.index).get_mut(name);
            let mut out: Vec<Arc<ModelVersion>> = Vec::new();
            for entry in versions.into_iter().flat_map(BTreeMap::values_mut) {
                if let State::Ready(version) = std::mem::replace(&mut entry.state, State::Failed("unloaded".into())) {
                    out.push(version);
                }
            }
            if let Some(route) = route {
                out.push(route.answering);
                out.extend(route.rollout.map(|rollout| Arc::clone(&rollout.candidate)));
            }
            Ok(out)
        })?;
        let mut kept = slot.kept.lock();
        kept.contents.clear();
        kept.files = None;
        let previous = kept.previous.take().map(|previous| previous.version);
        drop(kept);
        self.retire_all(out.into_iter().chain(previous));
        Ok(())
    }

    /// Takes a model out of service whose folder is gone.
    pub(super) fn forget(&self, name: &str) {
        // There is nothing to take out of a model that never came in.
        let _ = self.take_out(name);
        self.publish(|published| Arc::make_mut(&mut published.index).remove(name));
    }

    /// The folder to load from, with what the caller brought in place of what lies in the repository.
    fn overridden(&self, name: &str, slot: &Slot, overrides: &LoadOverrides) -> Result<ModelFolder, String> {
        if overrides.is_empty() {
            return read_model(&self.config.path, name);
        }
        let manifest = match &overrides.config {
            Some(config) => {
                Manifest::from_json(config, || read_model(&self.config.path, name).map(|folder| folder.manifest))
                    .map_err(|error| format!("config: {error}"))?
            }
            None => return Err("files: expected `config` beside them, the manifest as JSON".into()),
        };
        if overrides.files.is_empty() {
            return read_model_with(&self.config.path, name, manifest);
        }
        let files = overrides.write(name)?;
        let folder = read_model_with(files.path(), name, manifest)?;
        slot.kept.lock().files = Some(Arc::new(files));
        Ok(folder)
    }
}
