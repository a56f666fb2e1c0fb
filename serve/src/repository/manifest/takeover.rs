//! How a new version takes over from the one that answers: its trial, and what it must show before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a new version takes over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutSettings {
    /// `immediate`, `canary` or `shadow`. A tensor model has no boxes to compare: its canary is judged by errors and
    /// latency, and it has no shadow.
    pub strategy: Strategy,
    /// The share of requests that the new version answers (canary) or is shown (shadow), from 0 to 1.
    pub share: f64,
    /// How long the new version is on trial, in seconds. A shadow is on trial until it is told otherwise.
    pub window_s: f64,
    /// Requests to each version before anything is decided.
    pub min_requests: u64,
    /// The new version is taken back when its share of failed requests is higher by more than this.
    pub max_error_increase: f64,
    /// The new version is taken back when its mean latency is more than so many times the old one's, by more than
    /// chance explains.
    pub max_latency_ratio: f64,
    /// The new version is taken back when the mean agreement of its boxes with the old one's is lower, from 0 to 1.
    pub min_agreement: f64,
    /// The share of the new version's requests that the old one answers too, to compare the boxes.
    pub compare_share: f64,
    /// How long the old version is kept warm for a rollback, in seconds.
    pub keep_previous_s: f64,
}

/// The ways to take over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// At once.
    #[default]
    Immediate,
    /// The new version answers a share of the requests, and is judged by it.
    Canary,
    /// The new version is shown a share of the requests; its answers are compared and thrown away.
    Shadow,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            share: 0.1,
            window_s: 60.0,
            min_requests: 50,
            max_error_increase: 0.01,
            max_latency_ratio: 1.5,
            min_agreement: 0.9,
            compare_share: 0.2,
            keep_previous_s: 0.0,
        }
    }
}

impl RolloutSettings {
    pub(super) fn validate(&self) -> Result<(), String> {
        for (name, value, most) in [
            ("share", self.share, 1.0),
            ("max_error_increase", self.max_error_increase, 1.0),
            ("min_agreement", self.min_agreement, 1.0),
            ("compare_share", self.compare_share, 1.0),
            ("window_s", self.window_s, 30.0 * 86_400.0),
            ("keep_previous_s", self.keep_previous_s, 30.0 * 86_400.0),
            ("max_latency_ratio", self.max_latency_ratio, 1000.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return Err(format!("rollout.{name} must be from 0 to {most}, not {value}"));
            }
        }
        Ok(())
    }
}

/// How closely golden pictures must be reproduced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GoldenSettings {
    /// The least IoU of an expected box with one of its class that was found.
    pub min_iou: f32,
    /// How far the scores of the two may lie apart. A box that scores within this of the threshold may be missing.
    pub max_score_difference: f32,
}

impl Default for GoldenSettings {
    fn default() -> Self {
        Self { min_iou: 0.8, max_score_difference: 0.1 }
    }
}

impl GoldenSettings {
    pub(super) fn validate(&self) -> Result<(), String> {
        for (name, value) in [("min_iou", self.min_iou), ("max_score_difference", self.max_score_difference)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("golden.{name} must be from 0 to 1, not {value}"));
            }
        }
        Ok(())
    }
}
