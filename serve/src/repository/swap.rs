//! How a version comes into service while another one serves.
//!
//! Read the folder and its digests; see that the memory suffices; load, open and warm up beside the old version; let the
//! golden pictures agree; then, if no newer operation has begun, replace what requests read in one step; `leave.rs` lets
//! the old version go. Whatever fails on the way leaves the old version as it was.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::events::EventKind;
use super::fingerprint::{Fingerprint, digest};
use super::index::{Entry, Route, State};
use super::layout::{ModelFolder, read_model};
use super::manifest::Strategy;
use super::rollout::Rollout;
use super::slot::Slot;
use super::{ModelVersion, Repository};

/// Why an operation ended.
pub(super) enum Stop {
    /// A newer operation on the same model has begun.
    Moot,
    /// Something could not be done; nothing that served has changed.
    Failed(String),
}

/// How an operation came about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The folder changed.
    Folder,
    /// Someone asked for the model by name.
    Name,
}

impl Repository {
    /// Brings a model up to what lies in its folder: loads what is new, keeps what has not changed, lets go of what the
    /// manifest does not choose any more. Blocks.
    pub(super) fn read_again(&self, name: &str) -> Result<(), Stop> {
        let slot = self.slot(name);
        let operation = slot.begin();
        let _running = slot.running.lock();
        if !slot.is_newest(operation) {
            return Err(Stop::Moot);
        }
        match read_model(&self.config.path, name) {
            Ok(folder) => self.bring_in(&slot, operation, &folder, Cause::Folder),
            Err(reason) => self.refuse_model(name, reason),
        }
    }

    /// A model whose manifest or folder cannot be used.
    pub(super) fn refuse_model(&self, name: &str, reason: String) -> Result<(), Stop> {
        self.publish(|published| {
            let versions = Arc::make_mut(&mut published.index).entry(name.to_owned()).or_default();
            if versions.values().any(|entry| entry.ready().is_some()) {
                for entry in versions.values_mut() {
                    entry.failure = Some(reason.clone());
                }
            } else {
                // No version is known; 0 stands for the model itself.
                *versions = BTreeMap::from([(0, Entry::new(State::Failed(reason.clone())))]);
            }
        });
        self.metrics.swap(name, "failed");
        self.events.send(name, 0, EventKind::Failed, reason.clone());
        Err(Stop::Failed(reason))
    }

    /// Brings in what the manifest chooses. Where that is the latest versions, one that was rolled back or fails leaves its
    /// place to an older one: a restart must not end what served before it.
    pub(super) fn bring_in(&self, slot: &Slot, operation: u64, folder: &ModelFolder, cause: Cause) -> Result<(), Stop> {
        let name = &folder.name;
        let (mut chosen, missing) = folder.manifest.versions.choose(&folder.versions);
        {
            let mut kept = slot.kept.lock();
            kept.folder = Some(folder.clone());
            kept.chosen = chosen.clone();
        }
        let mut failures = Vec::new();
        for version in missing {
            let reason = "the manifest lists it, but its folder is not there".to_owned();
            self.refuse(name, version, &reason);
            failures.push(format!("version {version}: {reason}"));
        }
        let mut left = folder.versions.clone();
        while !chosen.is_empty() {
            for &version in &chosen {
                match self.bring_in_version(slot, operation, folder, version, cause) {
                    Ok(()) => {}
                    Err(Stop::Moot) => return Err(Stop::Moot),
                    Err(Stop::Failed(reason)) => {
                        self.refuse(name, version, &reason);
                        failures.push(format!("version {version}: {reason}"));
                        left.retain(|&other| other != version);
                    }
                }
            }
            chosen = self.in_their_place(slot, folder, &left);
        }
        if failures.is_empty() {
            self.let_go(name, slot);
            Ok(())
        } else {
            Err(Stop::Failed(failures.join("; ")))
        }
    }

    /// The versions that are chosen of those that are `left` and have not been brought in yet. Beside a version that
    /// answers only those that serve already: what fails must not bring an older one back.
    fn in_their_place(&self, slot: &Slot, folder: &ModelFolder, left: &[u64]) -> Vec<u64> {
        let index = self.index();
        let serving: Vec<u64> = index
            .get(&folder.name)
            .into_iter()
            .flatten()
            .filter(|(_, entry)| entry.ready().is_some())
            .map(|(version, _)| *version)
            .collect();
        let (mut others, _) = folder.manifest.versions.choose(left);
        let mut kept = slot.kept.lock();
        others.retain(|version| !kept.chosen.contains(version) && (serving.is_empty() || serving.contains(version)));
        kept.chosen.extend(&others);
        others
    }

    fn bring_in_version(
        &self,
        slot: &Slot,
        operation: u64,
        folder: &ModelFolder,
        version: u64,
        cause: Cause,
    ) -> Result<(), Stop> {
        let name = &folder.name;
        let files = folder.path.join(version.to_string());
        let content = Fingerprint::of(folder, version);
        if self.is_loaded(slot, name, version, &content) {
            return Ok(());
        }
        if cause == Cause::Name {
            self.decisions.forget(name, version);
        } else if let Some(reason) = self.decisions.refusal(name, version, || digest(&files)) {
            return Err(Stop::Failed(reason));
        }
        self.events.send(name, version, EventKind::Loading, "");
        self.publish(|published| {
            let versions = Arc::make_mut(&mut published.index).entry(name.clone()).or_default();
            versions.remove(&0);
            versions.entry(version).and_modify(|entry| entry.show_loading()).or_insert(Entry::new(State::Loading));
        });
        let started = Instant::now();
        let loaded = self.load_beside(slot, operation, folder, version)?;
        // What was written while it was read is another content.
        if Fingerprint::of(folder, version) != content {
            return Err(Stop::Failed("its files changed while it was loaded".into()));
        }
        let detail = format!("after {:.3} s", started.elapsed().as_secs_f64());
        self.install(slot, operation, folder, version, Arc::new(loaded), detail)?;
        slot.kept.lock().contents.insert(version, content);
        Ok(())
    }

    /// Serves, or is on trial, with this very content.
    fn is_loaded(&self, slot: &Slot, name: &str, version: u64, content: &Fingerprint) -> bool {
        if slot.kept.lock().contents.get(&version) != Some(content) {
            return false;
        }
        self.publish(|published| {
            let on_trial = published.routes.get(name).and_then(|route| route.rollout.as_ref());
            if on_trial.is_some_and(|rollout| rollout.candidate.version() == version && rollout.candidate.is_live()) {
                return true;
            }
            let entry =
                Arc::make_mut(&mut published.index).get_mut(name).and_then(|versions| versions.get_mut(&version));
            let Some(entry) = entry else { return false };
            let live = entry.ready().is_some();
            if live {
                entry.failure = None;
            }
            live
        })
    }

    /// Loads a version, without anyone being able to reach it yet.
    fn load_beside(
        &self,
        slot: &Slot,
        operation: u64,
        folder: &ModelFolder,
        version: u64,
    ) -> Result<ModelVersion, Stop> {
        let goes_on = || if slot.is_newest(operation) { Ok(()) } else { Err(Stop::Moot) };
        let files = folder.path.join(version.to_string());
        check_memory(&files.join(folder.manifest.file())).map_err(Stop::Failed)?;
        goes_on()?;
        let index = self.index();
        let present = index.get(&folder.name).and_then(|versions| versions.get(&version)?.ready().cloned());
        let others_serve = index.values().flat_map(BTreeMap::values).any(|entry| entry.ready().is_some());
        let present = present.as_deref();
        let loaded = ModelVersion::load(folder, version, present, others_serve, &self.engines, &self.metrics)
            .map_err(Stop::Failed)?;
        goes_on()?;
        Ok(loaded)
    }

    /// Makes a loaded version answer, or puts it on trial.
    fn install(
        &self,
        slot: &Slot,
        operation: u64,
        folder: &ModelFolder,
        version: u64,
        loaded: Arc<ModelVersion>,
        detail: String,
    ) -> Result<(), Stop> {
        let name = &folder.name;
        let settings = &folder.manifest.rollout;
        let (kind, displaced) = self.publish(|published| {
            // Checked here, where no newer operation can come between.
            if !slot.is_newest(operation) {
                return Err(Stop::Moot);
            }
            let mut displaced = Vec::new();
            let versions = Arc::make_mut(&mut published.index).entry(name.clone()).or_default();
            let route = published.routes.get_mut(name).filter(|route| route.answering.is_live());
            let kind = match route {
                // An older number beside the one that answers.
                Some(route) if version < route.answering.version() => {
                    displaced.extend(replace(versions, version, loaded));
                    EventKind::Serving
                }
                Some(route) if settings.strategy != Strategy::Immediate => {
                    if let Some(rollout) = route.rollout.take() {
                        displaced.extend(drop_candidate(versions, &rollout));
                    }
                    if version == route.answering.version() {
                        versions.entry(version).and_modify(|entry| entry.failure = None);
                    } else {
                        displaced.extend(replace(versions, version, Arc::clone(&loaded)));
                    }
                    let baseline = Arc::clone(&route.answering);
                    route.rollout = Some(Arc::new(Rollout::new(loaded, baseline, settings.clone())));
                    EventKind::OnTrial
                }
                _ => {
                    displaced.extend(replace(versions, version, Arc::clone(&loaded)));
                    let old = published.routes.insert(name.clone(), Route { answering: loaded, rollout: None });
                    if let Some(old) = old {
                        let rollout = old.rollout.as_ref();
                        displaced.extend(rollout.and_then(|rollout| drop_candidate(versions, rollout)));
                    }
                    EventKind::Serving
                }
            };
            Ok((kind, displaced))
        })?;
        self.metrics.swap(name, if kind == EventKind::OnTrial { "on_trial" } else { "serving" });
        self.events.send(name, version, kind, detail);
        for old in displaced {
            self.keep_or_retire(slot, old);
        }
        Ok(())
    }

    /// Writes down why a version does not come into service. What serves under its number goes on.
    fn refuse(&self, name: &str, version: u64, reason: &str) {
        self.publish(|published| {
            let versions = Arc::make_mut(&mut published.index).entry(name.to_owned()).or_default();
            match versions.get_mut(&version) {
                Some(entry) if matches!(entry.state, State::Ready(_)) => entry.failure = Some(reason.to_owned()),
                _ => {
                    versions.insert(version, Entry::new(State::Failed(reason.to_owned())));
                }
            }
        });
        self.metrics.swap(name, "failed");
        self.events.send(name, version, EventKind::Failed, reason);
    }
}

/// Puts a version into the index; what was there under its number is returned.
pub(super) fn replace(
    versions: &mut BTreeMap<u64, Entry>,
    version: u64,
    loaded: Arc<ModelVersion>,
) -> Option<Arc<ModelVersion>> {
    match versions.insert(version, Entry::new(State::Ready(loaded)))?.state {
        State::Ready(old) => Some(old),
        _ => None,
    }
}

/// Takes a trial's version out of the index, unless the number is the other one's too.
fn drop_candidate(versions: &mut BTreeMap<u64, Entry>, rollout: &Rollout) -> Option<Arc<ModelVersion>> {
    let (number, candidate) = (rollout.candidate.version(), &rollout.candidate);
    let listed = matches!(versions.get(&number).map(|entry| &entry.state),
        Some(State::Ready(version)) if Arc::ptr_eq(version, candidate));
    if listed {
        versions.remove(&number);
    }
    Some(Arc::clone(candidate))
}

/// Refuses what would clearly not fit beside what serves: weights take at least their file's size, once as they are read
/// and once as the engine keeps them.
fn check_memory(file: &Path) -> Result<(), String> {
    let Ok(metadata) = std::fs::metadata(file) else { return Ok(()) };
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let free = system.cgroup_limits().map_or(system.available_memory(), |limits| limits.free_memory);
    let needed = metadata.len().saturating_mul(2);
    if needed <= free {
        return Ok(());
    }
    Err(format!("{}: needs about {needed} bytes of memory beside what serves, {free} are free", file.display()))
}
