//! How a version leaves: it may be kept warm for a while; then it runs what it has, and is freed.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::events::EventKind;
use super::index::State;
use super::slot::{Previous, Slot};
use super::{ModelVersion, Repository};

impl Repository {
    /// Takes versions that the manifest does not choose out of service. If the one that answers is among them, the newest
    /// chosen one answers instead; the old side of a trial stays until the trial is over.
    pub(super) fn let_go(&self, name: &str, slot: &Slot) {
        let chosen = slot.kept.lock().chosen.clone();
        let left = self.publish(|published| {
            let Some(versions) = Arc::make_mut(&mut published.index).get_mut(name) else { return Vec::new() };
            let mut on_trial = None;
            if let Some(route) = published.routes.get_mut(name) {
                if route.rollout.is_some() {
                    on_trial = Some(route.answering.version());
                } else if !chosen.contains(&route.answering.version()) {
                    let newest = chosen.iter().rev().find_map(|version| versions.get(version)?.ready());
                    if let Some(newest) = newest {
                        route.answering = Arc::clone(newest);
                    }
                }
            }
            let stays = |version: &u64| chosen.contains(version) || on_trial == Some(*version);
            let gone: Vec<u64> = versions.keys().copied().filter(|version| !stays(version)).collect();
            gone.into_iter().filter_map(|version| versions.remove(&version)).collect()
        });
        for entry in left {
            if let State::Ready(version) = entry.state {
                slot.kept.lock().contents.remove(&version.version());
                self.keep_or_retire(slot, version);
            }
        }
    }

    /// A version that answered until now is kept warm for a while, where the manifest says so.
    pub(super) fn keep_or_retire(&self, slot: &Slot, version: Arc<ModelVersion>) {
        let mut kept = slot.kept.lock();
        let keep = kept.folder.as_ref().map_or(0.0, |folder| folder.manifest.rollout.keep_previous_s);
        if keep <= 0.0 {
            drop(kept);
            return self.retire(version);
        }
        let until = Instant::now() + Duration::from_secs_f64(keep);
        let older = kept.previous.replace(Previous { version, until });
        drop(kept);
        if let Some(older) = older {
            self.retire(older.version);
        }
    }

    pub(super) fn retire_all(&self, versions: impl Iterator<Item = Arc<ModelVersion>>) {
        let mut retired: Vec<Arc<ModelVersion>> = Vec::new();
        for version in versions {
            if !retired.iter().any(|known| Arc::ptr_eq(known, &version)) {
                retired.push(version);
            }
        }
        for version in retired {
            self.retire(version);
        }
    }

    /// Waits, on a thread of its own, until no request holds the version, lets it finish, and frees it.
    pub(super) fn retire(&self, version: Arc<ModelVersion>) {
        let events = self.events.clone();
        events.send(version.name(), version.version(), EventKind::Retiring, "");
        let end = move || {
            while Arc::strong_count(&version) > 1 {
                thread::sleep(Duration::from_millis(2));
            }
            version.drain();
            let (name, number) = (version.name().to_owned(), version.version());
            drop(version);
            events.send(&name, number, EventKind::Unloaded, "");
        };
        if let Err(error) = thread::Builder::new().name("retire".into()).spawn(end) {
            // Without the thread it is freed when its last request lets go of it.
            tracing::warn!(%error, "no thread to wait for a version's end");
        }
    }
}
