//! What the daemon serves, as the status page and `detectd check` show it.

use serde_json::{Value, json};

use crate::repository::{Index, ModelVersion, State};
use crate::rpc::family_name;

/// Every version with its state.
#[must_use]
pub fn status(index: &Index) -> Value {
    let models = index.iter().flat_map(|(name, versions)| {
        versions.iter().map(move |(version, entry)| match (&entry.state, entry.reason()) {
            (State::Ready(loaded), None) => ready(loaded, entry.failure.as_deref()),
            (State::Loading, reason) => {
                json!({ "model": name, "version": version, "state": "loading", "reason": reason })
            }
            (_, reason) => json!({ "model": name, "version": version, "state": "failed", "reason": reason }),
        })
    });
    json!({ "models": models.collect::<Vec<_>>() })
}

fn ready(version: &ModelVersion, failure: Option<&str>) -> Value {
    let spec = version.spec();
    let input = spec.detector.as_ref().map(|detector| [detector.preprocess.width, detector.preprocess.height]);
    json!({
        "model": version.name(),
        "version": version.version(),
        "state": "ready",
        // Why a newer content of its folder does not serve.
        "failure": failure,
        "family": family_name(spec),
        "engine": spec.engine,
        "device": spec.device.to_string(),
        "precision": spec.precision.to_string(),
        "input_size": input,
        "classes": version.labels().len(),
        "max_batch_size": version.max_batch(),
        "instances": version.instance_count(),
        "queue": version.queue().len(),
    })
}
