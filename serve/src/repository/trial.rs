//! How a trial ends, and how the version that answered before comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::decisions::RolledBack;
use super::events::EventKind;
use super::index::{Entry, Route, State};
use super::manifest::Strategy;
use super::rollout::{Figures, Rollout, Verdict};
use super::swap::replace;
use super::{ModelVersion, Repository};
use crate::error::Error;

/// What is going on with a model's versions.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialStatus {
    /// The version that answers.
    pub answering: u64,
    /// The version on trial, how, for how long, and what was seen.
    pub trial: Option<(u64, Strategy, Duration, Figures)>,
    /// The version that is kept warm for a rollback, and for how much longer.
    pub previous: Option<(u64, Duration)>,
}

impl Repository {
    /// What is going on with `model`.
    ///
    /// # Errors
    /// There is no such model, or it does not serve.
    pub fn trial_status(&self, model: &str) -> Result<TrialStatus, Error> {
        let published = self.published.load();
        let (name, versions) = published.find(model)?;
        let answering = published.answering(name, versions)?.version();
        let trial = published.routes.get(name).and_then(|route| route.rollout.as_ref()).map(|rollout| {
            (rollout.candidate.version(), rollout.settings.strategy, rollout.elapsed(), rollout.figures())
        });
        let slot = self.slot(name);
        let kept = slot.kept.lock();
        let previous = kept
            .previous
            .as_ref()
            .map(|previous| (previous.version.version(), previous.until.saturating_duration_since(Instant::now())));
        Ok(TrialStatus { answering, trial, previous })
    }

    /// Ends the trial of `model`'s new version: it answers from now on.
    ///
    /// # Errors
    /// There is no such model, or no trial.
    pub fn promote(&self, model: &str) -> Result<(), Error> {
        let rollout = self.rollout(model)?;
        self.end_well(&rollout, "by request");
        Ok(())
    }

    /// Takes `model`'s new version back: the one on trial, or else the one that answers, if the one before is still
    /// warm. The version taken back is not served again by itself. Takes effect at once; then blocks while that is
    /// written down.
    ///
    /// # Errors
    /// There is no such model, or nothing to go back to.
    pub fn roll_back(&self, model: &str, reason: &str) -> Result<(), Error> {
        if let Ok(rollout) = self.rollout(model) {
            self.end_badly(&rollout, reason);
            return Ok(());
        }
        let name = self.published.load().find(model)?.0.clone();
        let slot = self.slot(&name);
        // A load that is under way must not take over what is decided here.
        slot.begin();
        let previous = slot.kept.lock().previous.take().map(|previous| previous.version);
        let Some(previous) = previous.filter(|previous| previous.is_live()) else {
            return Err(Error::unavailable(format!("model `{name}`: no earlier version is kept warm to go back to")));
        };
        let taken_back = self.publish(|published| {
            let route = Route { answering: Arc::clone(&previous), rollout: None };
            let old = published.routes.insert(name.clone(), route).map(|route| route.answering);
            let versions = Arc::make_mut(&mut published.index).entry(name.clone()).or_default();
            if let Some(old) = &old {
                self.decide_against(old, reason);
                let reason = format!("rolled back: {reason}");
                if old.version() == previous.version() {
                    versions.entry(old.version()).and_modify(|entry| entry.failure = Some(reason));
                } else {
                    versions.insert(old.version(), Entry::new(State::Failed(reason)));
                }
            }
            for entry in versions.values_mut().filter(|entry| matches!(entry.state, State::Loading)) {
                entry.state = State::Failed("a rollback came between; it is loaded when its files change".into());
            }
            let failure = versions.get(&previous.version()).and_then(|entry| entry.failure.clone());
            versions.insert(previous.version(), Entry { state: State::Ready(previous), failure });
            old
        });
        if let Some(version) = taken_back {
            self.taken_back(&version, reason);
            self.retire(version);
        }
        Ok(())
    }

    /// Judges every trial, and lets go of what was kept long enough.
    pub(super) fn attend_once(&self) {
        let trials: Vec<Arc<Rollout>> =
            self.published.load().routes.values().filter_map(|route| route.rollout.clone()).collect();
        for rollout in trials {
            self.metrics.trial(rollout.candidate.name(), rollout.candidate.version(), &rollout.figures());
            match rollout.verdict() {
                Verdict::Undecided if rollout.candidate.is_live() => {}
                Verdict::Undecided => self.end_badly(&rollout, "its engine failed and cannot be opened"),
                Verdict::Promote(figures) => self.end_well(&rollout, &figures),
                Verdict::RollBack(reason) => self.end_badly(&rollout, &reason),
            }
        }
        let slots: Vec<_> = self.slots.lock().values().cloned().collect();
        for slot in slots {
            let mut kept = slot.kept.lock();
            let over = kept.previous.as_ref().is_some_and(|previous| previous.until <= Instant::now());
            let expired = if over { kept.previous.take() } else { None };
            drop(kept);
            if let Some(previous) = expired {
                self.retire(previous.version);
            }
        }
    }

    fn rollout(&self, model: &str) -> Result<Arc<Rollout>, Error> {
        let published = self.published.load();
        let (name, _) = published.find(model)?;
        let rollout = published.routes.get(name).and_then(|route| route.rollout.clone());
        rollout.ok_or_else(|| Error::unavailable(format!("model `{name}`: no version is on trial")))
    }

    fn end_well(&self, rollout: &Arc<Rollout>, detail: &str) {
        let (candidate, name) = (&rollout.candidate, rollout.candidate.name());
        let displaced = self.publish(|published| {
            let route = published.routes.get_mut(name).filter(|route| is_of(route, rollout))?;
            *route = Route { answering: Arc::clone(candidate), rollout: None };
            let versions = Arc::make_mut(&mut published.index).entry(name.to_owned()).or_default();
            Some(replace(versions, candidate.version(), Arc::clone(candidate)))
        });
        // Another end of the trial came first.
        let Some(displaced) = displaced else { return };
        self.metrics.swap(name, "promoted");
        self.events.send(name, candidate.version(), EventKind::Promoted, detail);
        let slot = self.slot(name);
        if let Some(old) = displaced.filter(|old| !Arc::ptr_eq(old, candidate)) {
            self.keep_or_retire(&slot, old);
        }
        self.let_go(name, &slot);
    }

    fn end_badly(&self, rollout: &Arc<Rollout>, reason: &str) {
        let (candidate, name) = (&rollout.candidate, rollout.candidate.name());
        let ended = self.publish(|published| {
            let Some(route) = published.routes.get_mut(name).filter(|route| is_of(route, rollout)) else {
                return false;
            };
            route.rollout = None;
            self.decide_against(candidate, reason);
            let (number, reason) = (candidate.version(), format!("rolled back: {reason}"));
            let versions = Arc::make_mut(&mut published.index).entry(name.to_owned()).or_default();
            if number == route.answering.version() {
                versions.entry(number).and_modify(|entry| entry.failure = Some(reason));
            } else {
                versions.insert(number, Entry::new(State::Failed(reason)));
            }
            true
        });
        if ended {
            self.taken_back(candidate, reason);
            self.retire(Arc::clone(candidate));
        }
    }

    /// Called where the version stops answering, so that no look at the folder comes between and loads it again.
    fn decide_against(&self, version: &ModelVersion, reason: &str) {
        let (number, digest) = (version.version(), version.digest().to_owned());
        let decision = RolledBack { version: number, digest, reason: reason.to_owned() };
        self.decisions.record(version.name(), decision);
    }

    /// Counts and reports that a version was taken back.
    fn taken_back(&self, version: &ModelVersion, reason: &str) {
        let (name, number) = (version.name(), version.version());
        self.metrics.swap(name, "rolled_back");
        self.events.send(name, number, EventKind::RolledBack, reason);
        self.decisions.save();
    }
}

fn is_of(route: &Route, rollout: &Arc<Rollout>) -> bool {
    route.rollout.as_ref().is_some_and(|of_route| Arc::ptr_eq(of_route, rollout))
}
