//! `model.toml`: what a model is and how it is to be run.

mod execution;
mod input;
mod reference;
mod takeover;

pub use execution::{Batching, Instances};
pub use input::DeclaredInput;
pub use reference::{Key, keys, schema};
pub use takeover::{GoldenSettings, RolloutSettings, Strategy};

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use detectd_engine::{BatchSize, DetectorOptions, Device, LoadOptions, Precision};
use detectd_vision::{DetectOptions, Family, Head, Preprocess};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::triton_config;
use crate::batch::{BatchPolicy, QueueSettings};

/// A model's manifest, `<repository>/<model>/model.toml`. A detector must state its family; every other key is
/// optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What the model is for: `detect` (the default) for pictures in, boxes out; `tensor` for tensors in, tensors out.
    /// A tensor model has no `family`, `labels`, `input_size`, `options`, `preprocess` and `head`.
    #[serde(default)]
    pub task: Task,
    /// The detector family: `yolov3`, `yolov5`, `yolov7`, `yolov8`, `yolox`, `ppyolo`, `ppyolov2`, `ppyolo_tiny`. It
    /// decides how pictures are prepared and helps to recognise the outputs.
    pub family: Option<Family>,
    /// Which engine runs it: `onnx` (the default), `onnxruntime`, or `libtorch`.
    #[serde(default = "default_engine")]
    pub engine: String,
    /// The model's file in each version's folder: `model.onnx`, or for libtorch `model.pt`. libtorch also takes a yaml
    /// that describes a network, with its weights as safetensors under the same name beside it.
    pub file: Option<String>,
    /// `cpu`, or `cuda:N`.
    #[serde(default)]
    pub device: Device,
    /// `fp32`, `fp16`, `bf16` or `int8`. Absent: as the file says.
    pub precision: Option<Precision>,
    /// The class names in the order of their ids. Absent: the lines of `labels.txt` in the version's folder.
    pub labels: Option<Vec<String>>,
    /// Width and height of the network's input, for a file that leaves them open.
    pub input_size: Option<[u32; 2]>,
    /// The inputs in the model's order, for a file that does not declare them, as TorchScript does not: tables of
    /// `name`, `data_type` (such as `FP32`) and `dims`, the batch first, with -1 for what is open.
    #[serde(default)]
    pub inputs: Vec<DeclaredInput>,
    /// The outputs that are served, by name, for a TorchScript module that gives more.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// Which versions are served: `"all"`, `{ latest = 2 }`, or a list of numbers. The default is the latest one.
    #[serde(default)]
    pub versions: VersionPolicy,
    /// A version is refused unless it has a `SHA256SUMS` that lists the model's file. Whatever else it lists must be
    /// there too, so that no copy is served half done.
    #[serde(default)]
    pub require_digests: bool,
    /// How requests are gathered into executions.
    #[serde(default)]
    pub batching: Batching,
    /// How many engines run beside each other, and on how many threads each.
    #[serde(default)]
    pub instances: Instances,
    /// What a request gets that does not choose for itself.
    #[serde(default)]
    pub options: DetectOptions,
    /// How pictures are prepared, in place of the family's way.
    pub preprocess: Option<Preprocess>,
    /// The outputs' layout, in place of recognising it.
    pub head: Option<Head>,
    /// How a new version takes over from the one that answers.
    #[serde(default)]
    pub rollout: RolloutSettings,
    /// How closely a version must reproduce its golden pictures before it may serve.
    #[serde(default)]
    pub golden: GoldenSettings,
    /// Free notes, such as a description or an owner.
    #[serde(default)]
    pub notes: BTreeMap<String, String>,
}

/// The most boxes of one picture that a manifest may choose; `limits.max_detections` may be less.
const MAX_DETECTIONS: usize = 100_000;

/// What a model is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Pictures in, boxes out.
    #[default]
    Detect,
    /// Tensors in, tensors out.
    Tensor,
}

/// Which versions are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "`versions` must be \"all\", { latest = N } with N at least 1, or a list of version numbers"
)]
pub enum VersionPolicy {
    /// The highest numbers.
    Latest {
        /// How many.
        latest: std::num::NonZeroUsize,
    },
    /// Exactly these.
    Listed(Vec<u64>),
    /// All of them.
    All(AllVersions),
}

/// The word `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AllVersions {
    /// All versions.
    All,
}

impl Default for VersionPolicy {
    fn default() -> Self {
        Self::Latest { latest: std::num::NonZeroUsize::MIN }
    }
}

impl VersionPolicy {
    /// The versions to serve of those that are there, ascending, and those that are asked for but not there.
    #[must_use]
    pub fn choose(&self, present: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let mut present = present.to_vec();
        present.sort_unstable();
        match self {
            Self::All(_) => (present, Vec::new()),
            Self::Latest { latest } => {
                let first = present.len().saturating_sub(latest.get());
                (present.split_off(first), Vec::new())
            }
            Self::Listed(listed) => listed.iter().partition(|version| present.contains(version)),
        }
    }
}

fn default_engine() -> String {
    "onnx".into()
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// What is wrong, with its line and key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Reads a manifest that a load by name brings: a JSON object with the keys of `model.toml`, or, laid over the
    /// manifest that `present` reads, with the keys of Triton's model configuration.
    ///
    /// # Errors
    /// What is wrong, with its key.
    pub fn from_json(text: &str, present: impl FnOnce() -> Result<Self, String>) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let object = value.as_object().ok_or("expected a JSON object")?;
        let manifest = if triton_config::is_one(object) {
            triton_config::lay_over(present().unwrap_or_else(|_| Self::parse("").unwrap_or_default()), object)?
        } else {
            serde_json::from_value(value).map_err(|error| error.to_string())?
        };
        manifest.validate()?;
        Ok(manifest)
    }

    fn validate(&self) -> Result<(), String> {
        if matches!(&self.versions, VersionPolicy::Listed(listed) if listed.is_empty()) {
            return Err("versions must list at least one; a model is taken out by removing its folder".into());
        }
        self.batching.validate(self.task)?;
        self.instances.validate()?;
        if let Some(labels) = &self.labels {
            check_labels(labels).map_err(|error| format!("labels: {error}"))?;
        }
        if let Some(size) = self.input_size
            && size.iter().any(|&side| side == 0 || side > 16_384)
        {
            return Err(format!("input_size must be two numbers from 1 to 16384, width and height, not {size:?}"));
        }
        let file = self.file();
        if file.is_empty() || file.contains(['/', '\\']) || file == ".." {
            return Err(format!("file must be the name of a file in the version's folder, not `{file}`"));
        }
        self.inputs.iter().try_for_each(|input| input.spec().map(drop))?;
        self.rollout.validate()?;
        self.golden.validate()?;
        self.options.validate().map_err(|error| format!("options.{error}"))?;
        if self.options.max_detections > MAX_DETECTIONS {
            let max = self.options.max_detections;
            return Err(format!("options.max_detections must be at most {MAX_DETECTIONS}, not {max}"));
        }
        if let Some(preprocess) = &self.preprocess {
            preprocess.validate().map_err(|error| error.to_string())?;
        }
        match self.task {
            Task::Detect => Ok(()),
            Task::Tensor => self.validate_tensor_model(),
        }
    }

    fn validate_tensor_model(&self) -> Result<(), String> {
        let keys = [
            ("family", self.family.is_some()),
            ("labels", self.labels.is_some()),
            ("input_size", self.input_size.is_some()),
            ("options", self.options != DetectOptions::default()),
            ("preprocess", self.preprocess.is_some()),
            ("head", self.head.is_some()),
        ];
        if let Some((key, _)) = keys.into_iter().find(|(_, stated)| *stated) {
            return Err(format!("{key} is for detectors, but the model has task = \"tensor\""));
        }
        if self.rollout.strategy == Strategy::Shadow {
            return Err("rollout.strategy = \"shadow\" compares boxes, but the model has task = \"tensor\"".into());
        }
        Ok(())
    }

    /// The name of the model's file in each version's folder.
    #[must_use]
    pub fn file(&self) -> &str {
        let usual = if self.engine == "libtorch" { "model.pt" } else { "model.onnx" };
        self.file.as_deref().unwrap_or(usual)
    }

    /// What an engine is told to load `file`, a model of so many classes.
    ///
    /// # Errors
    /// A declared input that is none.
    pub fn load_options(&self, file: &Path, classes: usize, threads: usize) -> Result<LoadOptions, String> {
        Ok(LoadOptions {
            path: file.to_path_buf(),
            device: self.device,
            precision: self.precision,
            threads,
            max_batch: self.batching.max_batch_size,
            detector: (self.task == Task::Detect).then(|| DetectorOptions {
                family: self.family,
                classes,
                input_size: self.input_size.map(|[width, height]| (width, height)),
                preprocess: self.preprocess.clone(),
                head: self.head.clone(),
            }),
            inputs: self.inputs.iter().map(DeclaredInput::spec).collect::<Result<_, _>>()?,
            outputs: self.outputs.clone(),
        })
    }

    /// The keys that a loaded version cannot take over: when one of them changes, the version is loaded anew.
    #[must_use]
    pub fn what_needs_loading(&self) -> String {
        let loading = Self {
            versions: VersionPolicy::default(),
            notes: BTreeMap::new(),
            rollout: RolloutSettings::default(),
            golden: GoldenSettings::default(),
            ..self.clone()
        };
        format!("{loading:?}")
    }

    /// The batching policy for a model whose file allows `batch`.
    #[must_use]
    pub fn policy(&self, batch: BatchSize) -> BatchPolicy {
        let max_batch = match batch {
            BatchSize::UpTo(max) => self.batching.max_batch_size.min(max).max(1),
            BatchSize::Fixed(size) => size.max(1),
            BatchSize::Absent => 1,
        };
        let mut preferred: Vec<_> =
            self.batching.preferred_batch_sizes.iter().copied().filter(|&size| size <= max_batch).collect();
        preferred.sort_unstable();
        preferred.dedup();
        BatchPolicy { max_batch, preferred, max_delay: Duration::from_micros(self.batching.max_delay_us) }
    }

    /// What may wait for the model, and for how long.
    #[must_use]
    pub fn queue(&self) -> QueueSettings {
        let Batching { queue_capacity: capacity, queue_timeout_ms, preserve_order, .. } = self.batching;
        let timeout = (queue_timeout_ms > 0).then(|| Duration::from_millis(queue_timeout_ms));
        QueueSettings { capacity, timeout, preserve_order }
    }
}

/// Labels must be there, and different from each other.
///
/// # Errors
/// The first that is not.
pub fn check_labels(labels: &[String]) -> Result<(), String> {
    if labels.is_empty() {
        return Err("there are none".into());
    }
    let mut seen = BTreeMap::new();
    for (index, label) in labels.iter().enumerate() {
        if label.trim().is_empty() {
            return Err(format!("the label of class {index} is empty"));
        }
        if let Some(first) = seen.insert(label.as_str(), index) {
            return Err(format!("classes {first} and {index} are both called `{label}`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use detectd_vision::Nms;

    use super::*;

    #[test]
    fn a_short_manifest_gets_the_defaults() {
        let manifest = Manifest::parse("family = \"yolov5\"").unwrap();
        assert_eq!(manifest.engine, "onnx");
        assert_eq!(manifest.file(), "model.onnx");
        assert_eq!(Manifest::parse("engine = \"libtorch\"").unwrap().file(), "model.pt");
        assert_eq!(manifest.batching, Batching::default());
        assert_eq!(manifest.options, DetectOptions::default());
    }

    #[test]
    fn a_long_manifest_is_read() {
        let manifest = Manifest::parse(
            r#"
            family = "yolox"
            device = "cuda:1"
            precision = "fp16"
            labels = ["bolt", "nut"]
            input_size = [640, 384]
            versions = [1, 3]

            [batching]
            max_batch_size = 16
            preferred_batch_sizes = [8, 4]
            max_delay_us = 2000

            [instances]
            count = 2

            [options]
            score_threshold = 0.4
            nms = { method = "greedy", iou_threshold = 0.6 }
            "#,
        )
        .unwrap();
        assert_eq!(manifest.family, Some(Family::Yolox));
        assert_eq!(manifest.device, Device::Cuda(1));
        assert!(matches!(&manifest.options.nms, Nms::Greedy(greedy) if greedy.iou_threshold == 0.6));
        let policy = |batch| manifest.policy(batch);
        let wide = policy(BatchSize::UpTo(64));
        assert_eq!((wide.max_batch, &wide.preferred[..]), (16, &[4, 8][..]));
        assert_eq!(policy(BatchSize::UpTo(6)), BatchPolicy { preferred: vec![4], max_batch: 6, ..wide });
        assert_eq!(policy(BatchSize::Fixed(32)).max_batch, 32, "a fixed batch is the file's");
        assert_eq!(policy(BatchSize::Absent).max_batch, 1);
    }

    #[test]
    fn inputs_are_declared_with_their_open_sides() {
        let text = "inputs = [{ name = \"x\", data_type = \"UINT8\", dims = [-1, 3, 640, 640] }]";
        let spec = Manifest::parse(text).unwrap().inputs[0].spec().unwrap();
        assert_eq!(spec.to_string(), "UINT8 [?, 3, 640, 640]");
    }

    #[test]
    fn a_tensor_model_needs_nothing_of_a_detector() {
        let manifest = Manifest::parse(
            "task = \"tensor\"\n[batching]\nmax_batch_size = 0\nqueue_timeout_ms = 20\npreserve_order = true",
        )
        .unwrap();
        assert_eq!((manifest.task, manifest.batching.max_batch_size), (Task::Tensor, 0));
        let timeout = Some(Duration::from_millis(20));
        assert_eq!(manifest.queue(), QueueSettings { capacity: 128, timeout, preserve_order: true });
        assert_eq!(Manifest::parse("").unwrap().queue().timeout, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("famly = \"yolov5\"", "famly"),
            ("family = \"yolov99\"", "yolov99"),
            ("device = \"gpu\"", "gpu"),
            ("file = \"../secret\"", "../secret"),
            ("labels = [\"a\", \"a\"]", "both called `a`"),
            ("labels = []", "labels"),
            ("input_size = [0, 4]", "input_size"),
            ("inputs = [{ name = \"x\", data_type = \"FP32\", dims = [-1, 0] }]", "inputs.x"),
            ("inputs = [{ name = \"x\", data_type = \"FP64\", dims = [-1] }]", "FP64"),
            ("versions = \"some\"", "versions"),
            ("versions = { latest = 0 }", "versions"),
            ("[batching]\nmax_batch_size = 0", "batching.max_batch_size"),
            ("[batching]\npreferred_batch_sizes = [9]", "preferred_batch_sizes"),
            ("[batching]\nqueue_capacity = 0", "queue_capacity"),
            ("[batching]\nqueue_timeout_ms = 3600001", "queue_timeout_ms"),
            ("task = \"classify\"", "classify"),
            ("versions = []", "versions must list at least one"),
            ("task = \"tensor\"\nfamily = \"yolov5\"", "family is for detectors"),
            ("task = \"tensor\"\nlabels = [\"a\"]", "labels is for detectors"),
            ("task = \"tensor\"\n[options]\nscore_threshold = 0.5", "options is for detectors"),
            ("task = \"tensor\"\n[rollout]\nstrategy = \"shadow\"", "compares boxes"),
            ("[options]\nscore_threshold = 2.0", "options.score_threshold"),
            ("[options]\nscore_treshold = 0.2", "score_treshold"),
            ("[options]\nmax_detections = 100001", "options.max_detections"),
            ("[preprocess]\nwidth = 0\nheight = 8", "width"),
            ("[preprocess]\nwidth = 16000\nheight = 16000", "67108864 pixels"),
            ("[preprocess]\nwidth = 8\nheight = 8\nstd = [0.0, 1.0, 1.0]", "std"),
        ];
        for (text, expected) in cases {
            let error = Manifest::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn version_policies() {
        let present = [3, 1, 12];
        let chosen = |text: &str| Manifest::parse(text).unwrap().versions.choose(&present);
        assert_eq!(chosen(""), (vec![12], vec![]));
        assert_eq!(chosen("versions = { latest = 2 }"), (vec![3, 12], vec![]));
        assert_eq!(chosen("versions = { latest = 9 }"), (vec![1, 3, 12], vec![]));
        assert_eq!(chosen("versions = \"all\""), (vec![1, 3, 12], vec![]));
        assert_eq!(chosen("versions = [1, 4]"), (vec![1], vec![4]));
    }
}
