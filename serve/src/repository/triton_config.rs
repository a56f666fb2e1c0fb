//! The keys of Triton's model configuration that a manifest has too, for clients that load models with it.

use serde_json::{Map, Value};

use super::manifest::{AllVersions, Manifest, VersionPolicy};

/// Keys that change the manifest.
const KEYS: [&str; 5] =
    ["max_batch_size", "instance_group", "dynamic_batching", "version_policy", "default_model_filename"];
/// Keys that say what the model's file says by itself.
const KNOWN: [&str; 6] = ["name", "platform", "backend", "input", "output", "parameters"];

/// Whether `object` is written in Triton's keys.
pub fn is_one(object: &Map<String, Value>) -> bool {
    !object.is_empty() && object.keys().all(|key| KEYS.contains(&key.as_str()) || KNOWN.contains(&key.as_str()))
}

/// `manifest` with what `object` says.
///
/// # Errors
/// A key's value is not what Triton has there.
pub fn lay_over(mut manifest: Manifest, object: &Map<String, Value>) -> Result<Manifest, String> {
    if let Some(value) = object.get("max_batch_size") {
        // 0 is a model without a batch dimension there; the file says that by itself.
        match number("max_batch_size", value)? {
            0 => {}
            size => manifest.batching.max_batch_size = size,
        }
    }
    if let Some(value) = object.get("instance_group") {
        let groups = value.as_array().ok_or("instance_group: expected a list")?;
        let counts = groups.iter().map(|group| number("instance_group.count", group.get("count").unwrap_or(&1.into())));
        manifest.instances.count = counts.sum::<Result<usize, String>>()?;
    }
    if let Some(value) = object.get("dynamic_batching") {
        if let Some(sizes) = value.get("preferred_batch_size") {
            let sizes = sizes.as_array().ok_or("dynamic_batching.preferred_batch_size: expected a list")?;
            let sizes = sizes.iter().map(|size| number("dynamic_batching.preferred_batch_size", size));
            manifest.batching.preferred_batch_sizes = sizes.collect::<Result<_, _>>()?;
        }
        if let Some(delay) = value.get("max_queue_delay_microseconds") {
            manifest.batching.max_delay_us = number("dynamic_batching.max_queue_delay_microseconds", delay)? as u64;
        }
    }
    if let Some(value) = object.get("version_policy") {
        manifest.versions = versions(value)?;
    }
    if let Some(value) = object.get("default_model_filename") {
        manifest.file = Some(value.as_str().ok_or("default_model_filename: expected a string")?.to_owned());
    }
    Ok(manifest)
}

fn versions(value: &Value) -> Result<VersionPolicy, String> {
    if let Some(latest) = value.get("latest") {
        let count = number("version_policy.latest.num_versions", latest.get("num_versions").unwrap_or(&1.into()))?;
        let latest =
            std::num::NonZeroUsize::new(count).ok_or("version_policy.latest.num_versions: expected 1 or more")?;
        return Ok(VersionPolicy::Latest { latest });
    }
    if value.get("all").is_some() {
        return Ok(VersionPolicy::All(AllVersions::All));
    }
    let listed = value.get("specific").and_then(|specific| specific.get("versions")).and_then(Value::as_array);
    let listed = listed.ok_or("version_policy: expected `latest`, `all` or `specific`")?;
    let numbers = listed.iter().map(|version| number("version_policy.specific.versions", version).map(|it| it as u64));
    Ok(VersionPolicy::Listed(numbers.collect::<Result<_, _>>()?))
}

/// JSON made from protobuf writes 64-bit numbers as strings.
fn number(key: &str, value: &Value) -> Result<usize, String> {
    let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    let number = number.and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| format!("{key}: expected a whole number, at least 0, got {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tritons_keys_are_laid_over_the_manifest() {
        let text = r#"{
            "name": "parts", "max_batch_size": 4, "instance_group": [{"count": 2}, {"kind": "KIND_CPU"}],
            "dynamic_batching": {"preferred_batch_size": [2, 4], "max_queue_delay_microseconds": "500"},
            "version_policy": {"specific": {"versions": ["1", 3]}}
        }"#;
        let manifest = Manifest::from_json(text, || Manifest::parse("family = \"yolov5\"")).unwrap();
        assert_eq!(manifest.family, Some(detectd_vision::Family::Yolov5));
        assert_eq!((manifest.batching.max_batch_size, manifest.instances.count), (4, 3));
        assert_eq!((&manifest.batching.preferred_batch_sizes[..], manifest.batching.max_delay_us), (&[2, 4][..], 500));
        assert_eq!(manifest.versions, VersionPolicy::Listed(vec![1, 3]));
    }

    #[test]
    fn our_own_keys_are_a_whole_manifest() {
        let manifest =
            Manifest::from_json(r#"{"family": "yolox", "versions": "all"}"#, || Manifest::parse("")).unwrap();
        assert_eq!(manifest.family, Some(detectd_vision::Family::Yolox));
        let wrong = |text| Manifest::from_json(text, || Manifest::parse("")).unwrap_err();
        assert!(wrong(r#"{"famly": "yolox"}"#).contains("famly"));
        assert!(wrong(r#"{"max_batch_size": -1}"#).contains("max_batch_size"));
        assert!(wrong("[]").contains("object"));
    }
}
