//! A new version on trial beside the one that answers: a share of the requests, figures, and a verdict.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::ModelVersion;
use super::agreement::Agreement;
use super::manifest::{RolloutSettings, Strategy};

/// A trial. Requests report to it; the repository asks for its verdict.
pub struct Rollout {
    /// On trial.
    pub candidate: Arc<ModelVersion>,
    /// What it is compared with.
    pub baseline: Arc<ModelVersion>,
    /// What the manifest says.
    pub settings: RolloutSettings,
    started: Instant,
    /// Requests without a key so far.
    turns: AtomicU64,
    /// Requests so far that might be shown to the other version as well.
    comparisons: AtomicU64,
    figures: Mutex<Figures>,
    comparing: Arc<AtomicBool>,
}

/// Held while a picture is shown to the other version.
pub struct Comparison(Arc<AtomicBool>);

impl Drop for Comparison {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Which of the two a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The version that answered before.
    Baseline,
    /// The version on trial.
    Candidate,
}

/// What has been seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests to the version that answered before.
    pub baseline: Requests,
    /// Requests to the version on trial.
    pub candidate: Requests,
    /// Pictures that both have answered.
    pub compared: u64,
    /// The sum of [`Agreement::ratio`] over them.
    pub agreement_sum: f64,
    /// Boxes over all of them: of the baseline, of the candidate, matched, of another class, and the shift of scores.
    pub boxes: Agreement,
}

/// The requests to one version.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Requests {
    /// Answered.
    pub good: u64,
    /// Failed by the version's own fault.
    pub failed: u64,
    /// Seconds from arrival to answer, summed over those answered.
    pub seconds: f64,
    /// The squares of the same, summed.
    pub squared_seconds: f64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Wait for more.
    Undecided,
    /// The new version takes over.
    Promote(String),
    /// The new version is taken back.
    RollBack(String),
}

impl Rollout {
    /// Begins a trial.
    #[must_use]
    pub fn new(candidate: Arc<ModelVersion>, baseline: Arc<ModelVersion>, mut settings: RolloutSettings) -> Self {
        if candidate.spec().detector.is_none() {
            // Tensors are no boxes that could be compared.
            settings.compare_share = 0.0;
        }
        Self {
            candidate,
            baseline,
            settings,
            started: Instant::now(),
            turns: AtomicU64::new(0),
            comparisons: AtomicU64::new(0),
            figures: Mutex::default(),
            comparing: Arc::default(),
        }
    }

    /// Whose turn it is to answer. Requests with the same `key` always go to the same version.
    pub fn choose(&self, key: &str) -> Side {
        if self.settings.strategy != Strategy::Canary {
            return Side::Baseline;
        }
        let candidate = if key.is_empty() { takes(&self.turns, self.settings.share) } else { self.has_drawn(key) };
        if candidate { Side::Candidate } else { Side::Baseline }
    }

    /// Whether a request that `side` has answered is to be shown to the other version as well.
    pub fn compares(&self, side: Side) -> bool {
        match (self.settings.strategy, side) {
            (Strategy::Shadow, Side::Baseline) => takes(&self.comparisons, self.settings.share),
            (Strategy::Canary, Side::Candidate) => takes(&self.comparisons, self.settings.compare_share),
            _ => false,
        }
    }

    fn has_drawn(&self, key: &str) -> bool {
        let digest = Sha256::digest(key.as_bytes());
        let drawn = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
        f64::from(drawn) < self.settings.share * (f64::from(u32::MAX) + 1.0)
    }

    /// The turn to show a picture to the other version; there is one at a time.
    pub fn begin_comparison(&self) -> Option<Comparison> {
        let free = !self.comparing.swap(true, Ordering::AcqRel);
        free.then(|| Comparison(Arc::clone(&self.comparing)))
    }

    /// A request was answered.
    pub fn answered(&self, side: Side, latency: Duration) {
        self.figures.lock().of(side).answered(latency.as_secs_f64());
    }

    /// A request failed, and the version is to blame.
    pub fn failed(&self, side: Side) {
        self.figures.lock().of(side).failed += 1;
    }

    /// Both versions have answered one picture.
    pub fn compared(&self, agreement: &Agreement) {
        let mut figures = self.figures.lock();
        figures.compared += 1;
        figures.agreement_sum += agreement.ratio();
        let boxes = &mut figures.boxes;
        boxes.first += agreement.first;
        boxes.second += agreement.second;
        boxes.matched += agreement.matched;
        boxes.class_changes += agreement.class_changes;
        boxes.score_shift += agreement.score_shift;
    }

    /// What has been seen so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        *self.figures.lock()
    }

    /// How long the trial has lasted.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the figures say now.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        judge(&self.settings, &self.figures(), self.elapsed())
    }
}

/// Evenly spread: of n calls, n times `share` are true.
fn takes(turns: &AtomicU64, share: f64) -> bool {
    let turn = turns.fetch_add(1, Ordering::Relaxed) as f64;
    ((turn + 1.0) * share).floor() > (turn * share).floor()
}

/// A trial is over as soon as the new version is worse by enough requests, or when its window has passed without that.
/// A shadow is only ever judged by people.
fn judge(settings: &RolloutSettings, figures: &Figures, elapsed: Duration) -> Verdict {
    if settings.strategy == Strategy::Shadow {
        return Verdict::Undecided;
    }
    let (candidate, baseline) = (&figures.candidate, &figures.baseline);
    let errors = candidate.error_rate() - baseline.error_rate();
    if candidate.total() >= settings.min_requests && errors > settings.max_error_increase {
        return Verdict::RollBack(format!("more requests fail: {figures}"));
    }
    if candidate.good.min(baseline.good) >= settings.min_requests
        && is_slower(candidate, baseline, settings.max_latency_ratio)
    {
        return Verdict::RollBack(format!("it is slower: {figures}"));
    }
    // Few comparisons say much already: each is over all boxes of a picture.
    let enough = figures.compared >= settings.min_requests.div_ceil(5).max(1);
    if enough && figures.agreement() < settings.min_agreement {
        return Verdict::RollBack(format!("it finds other boxes: {figures}"));
    }
    let seen = candidate.total() >= settings.min_requests && (enough || settings.compare_share == 0.0);
    if seen && elapsed.as_secs_f64() >= settings.window_s {
        return Verdict::Promote(figures.to_string());
    }
    Verdict::Undecided
}

/// Whether the candidate's mean latency is beyond `ratio` times the baseline's by more than chance explains: by three
/// standard errors of that difference, as in Welch's test. A single slow request raises the mean and its error alike.
fn is_slower(candidate: &Requests, baseline: &Requests, ratio: f64) -> bool {
    let excess = candidate.mean_seconds() - baseline.mean_seconds() * ratio;
    let variance = candidate.variance_of_mean() + baseline.variance_of_mean() * ratio * ratio;
    excess > 0.0 && excess * excess > 9.0 * variance
}

impl Figures {
    fn of(&mut self, side: Side) -> &mut Requests {
        match side {
            Side::Baseline => &mut self.baseline,
            Side::Candidate => &mut self.candidate,
        }
    }

    /// The mean agreement over the pictures that both have answered; 1 before the first.
    #[must_use]
    pub fn agreement(&self) -> f64 {
        if self.compared == 0 { 1.0 } else { self.agreement_sum / self.compared as f64 }
    }
}

impl Requests {
    fn answered(&mut self, seconds: f64) {
        self.good += 1;
        self.seconds += seconds;
        self.squared_seconds += seconds * seconds;
    }

    /// Answered or failed.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.good + self.failed
    }

    /// The share that failed.
    #[must_use]
    pub fn error_rate(&self) -> f64 {
        if self.total() == 0 { 0.0 } else { self.failed as f64 / self.total() as f64 }
    }

    /// Mean seconds to an answer.
    #[must_use]
    pub fn mean_seconds(&self) -> f64 {
        if self.good == 0 { 0.0 } else { self.seconds / self.good as f64 }
    }

    fn variance_of_mean(&self) -> f64 {
        if self.good < 2 {
            return f64::INFINITY;
        }
        let (count, mean) = (self.good as f64, self.mean_seconds());
        ((self.squared_seconds / count - mean * mean) / (count - 1.0)).max(0.0)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = (&self.baseline, &self.candidate);
        let failed = |side: &Requests| measured(side.total(), side.error_rate() * 100.0, "%");
        let latency = |side: &Requests| measured(side.good, side.mean_seconds() * 1000.0, "ms");
        write!(
            formatter,
            "{} requests to the new version, {} to the old one; failed {} against {}; mean latency {} against {}; ",
            new.total(),
            old.total(),
            failed(new),
            failed(old),
            latency(new),
            latency(old),
        )?;
        match self.compared {
            0 => formatter.write_str("no picture compared"),
            compared => write!(formatter, "agreement {:.3} over {compared} pictures", self.agreement()),
        }
    }
}

/// A figure over `count` requests.
fn measured(count: u64, figure: f64, unit: &str) -> String {
    if count == 0 { "(not measured)".into() } else { format!("{figure:.2} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> RolloutSettings {
        RolloutSettings { strategy: Strategy::Canary, window_s: 10.0, ..RolloutSettings::default() }
    }

    /// Latencies of `milliseconds`, half of them a tenth below and half a tenth above.
    fn requests(good: u64, failed: u64, milliseconds: f64) -> Requests {
        let (count, seconds) = (good as f64, milliseconds / 1000.0);
        Requests { good, failed, seconds: count * seconds, squared_seconds: count * seconds * seconds * 1.01 }
    }

    fn figures(baseline: Requests, candidate: Requests, agreement: f64) -> Figures {
        Figures { baseline, candidate, compared: 20, agreement_sum: 20.0 * agreement, ..Figures::default() }
    }

    #[test]
    fn verdicts() {
        let old = requests(500, 0, 10.0);
        let word = |figures: Figures, seconds| match judge(&settings(), &figures, Duration::from_secs(seconds)) {
            Verdict::Undecided => "undecided".to_owned(),
            Verdict::Promote(_) => "promote".to_owned(),
            Verdict::RollBack(reason) => reason.split(':').next().unwrap().to_owned(),
        };
        assert_eq!(word(figures(old, requests(100, 0, 11.0), 0.97), 5), "undecided");
        assert_eq!(word(figures(old, requests(100, 0, 11.0), 0.97), 10), "promote");
        assert_eq!(word(figures(old, requests(10, 0, 11.0), 0.97), 60), "undecided", "too few requests");
        assert_eq!(word(figures(old, requests(95, 5, 11.0), 0.97), 1), "more requests fail");
        assert_eq!(word(figures(old, requests(0, 60, 0.0), 1.0), 1), "more requests fail");
        assert_eq!(word(figures(requests(475, 25, 10.0), requests(95, 5, 11.0), 0.97), 10), "promote");
        assert_eq!(word(figures(old, requests(100, 0, 16.0), 0.97), 1), "it is slower");
        assert_eq!(word(figures(old, requests(100, 0, 11.0), 0.5), 1), "it finds other boxes");
        let mut one_stalled = requests(99, 0, 10.0);
        one_stalled.answered(1.0);
        assert!(one_stalled.mean_seconds() > 1.5 * old.mean_seconds());
        assert_eq!(word(figures(old, one_stalled, 0.97), 1), "undecided");
    }

    #[test]
    fn what_was_not_measured_has_no_figure() {
        let measured = figures(requests(500, 0, 10.0), requests(75, 25, 12.0), 0.97);
        let text = "100 requests to the new version, 500 to the old one; failed 25.00 % against 0.00 %; \
                    mean latency 12.00 ms against 10.00 ms; agreement 0.970 over 20 pictures";
        assert_eq!(measured.to_string(), text);
        let failed = Figures { candidate: requests(0, 60, 0.0), ..Figures::default() };
        let text = "60 requests to the new version, 0 to the old one; failed 100.00 % against (not measured); \
                    mean latency (not measured) against (not measured); no picture compared";
        assert_eq!(failed.to_string(), text);
    }

    #[test]
    fn a_shadow_is_never_judged() {
        let settings = RolloutSettings { strategy: Strategy::Shadow, ..settings() };
        let worst = figures(requests(500, 0, 10.0), requests(0, 100, 0.0), 0.0);
        assert_eq!(judge(&settings, &worst, Duration::from_secs(1000)), Verdict::Undecided);
    }
}
