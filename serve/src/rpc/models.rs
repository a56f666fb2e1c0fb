//! What the daemon says of its models.

use detectd_engine::{ModelSpec, TensorSpec};
use detectd_proto::detect::v1 as wire;

use super::convert::default_options;
use crate::repository::{ModelVersion, Repository, State};

/// Every model with the state of each version.
pub fn list(repository: &Repository) -> wire::ListModelsResponse {
    let index = repository.index();
    let models = index.iter().map(|(name, versions)| {
        let default = repository.get(name, 0).ok().map(|version| version.version());
        let versions = versions.iter().map(|(version, entry)| wire::VersionStatus {
            version: *version,
            state: match (&entry.state, entry.reason()) {
                (State::Ready(_), None) => wire::ModelState::Ready.into(),
                (State::Loading, _) => wire::ModelState::Loading.into(),
                _ => wire::ModelState::Failed.into(),
            },
            // What serves may have a newer content that does not.
            reason: entry.reason().or(entry.failure.as_deref()).unwrap_or_default().to_owned(),
            is_default: default == Some(*version),
        });
        wire::ModelStatus { name: name.clone(), versions: versions.collect() }
    });
    wire::ListModelsResponse { models: models.collect() }
}

/// One version in detail.
pub fn describe(version: &ModelVersion) -> wire::GetModelResponse {
    let spec = version.spec();
    wire::GetModelResponse {
        name: version.name().to_owned(),
        version: version.version(),
        state: wire::ModelState::Ready.into(),
        family: family_name(spec),
        engine: spec.engine.clone(),
        precision: spec.precision.to_string(),
        device: spec.device.to_string(),
        inputs: spec.inputs.iter().map(tensor).collect(),
        outputs: spec.outputs.iter().map(tensor).collect(),
        labels: version.labels().to_vec(),
        max_batch_size: u32::try_from(version.max_batch()).unwrap_or(u32::MAX),
        instances: u32::try_from(version.instance_count()).unwrap_or(u32::MAX),
        default_options: Some(default_options(version.defaults())),
    }
}

/// The family as a manifest writes it; empty where it is not known.
#[must_use]
pub fn family_name(spec: &ModelSpec) -> String {
    let family = spec.detector.as_ref().and_then(|detector| detector.family);
    let name = family.and_then(|family| serde_json::to_value(family).ok());
    name.as_ref().and_then(|name| name.as_str()).unwrap_or_default().to_owned()
}

fn tensor(spec: &TensorSpec) -> wire::TensorSpec {
    let dimension = |dim: &Option<usize>| dim.and_then(|dim| i64::try_from(dim).ok()).unwrap_or(-1);
    wire::TensorSpec {
        name: spec.name.clone(),
        datatype: spec.data_type.to_string(),
        shape: spec.dims.iter().map(dimension).collect(),
    }
}
