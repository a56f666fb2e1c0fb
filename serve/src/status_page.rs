//! What the daemon serves, as the status page and `detectd check` show it.

use detectd_engine::TensorSpec;
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
    let mut about = json!({
        "model": version.name(),
        "version": version.version(),
        "state": "ready",
        // Why a newer content of its folder does not serve.
        "failure": failure,
        "engine": spec.engine,
        "device": spec.device.to_string(),
        "precision": spec.precision.to_string(),
        "max_batch_size": version.max_batch(),
        "instances": version.instance_count(),
        "queue": version.queue().len(),
    });
    let task = match &spec.detector {
        Some(detector) => json!({
            "task": "detect",
            "family": family_name(spec),
            "input_size": [detector.preprocess.width, detector.preprocess.height],
            "classes": version.labels().len(),
        }),
        None => json!({ "task": "tensor", "inputs": tensors(&spec.inputs), "outputs": tensors(&spec.outputs) }),
    };
    if let (Value::Object(about), Value::Object(task)) = (&mut about, task) {
        about.extend(task);
    }
    about
}

/// Such as `x FP32 [?, 4], y INT64 [?, 1]`.
fn tensors(specs: &[TensorSpec]) -> String {
    specs.iter().map(|spec| format!("{} {spec}", spec.name)).collect::<Vec<_>>().join(", ")
}
