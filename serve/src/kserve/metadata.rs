//! What the server and its models say of themselves: ServerMetadata, ModelMetadata, ModelConfig.

use std::collections::HashMap;
use std::time::Duration;

use detectd_engine::{BatchSize, Device, TensorSpec};
use detectd_proto::inference as wire;
use detectd_proto::inference::model_config::SchedulingChoice;
use detectd_proto::inference::model_instance_group::Kind;
use detectd_proto::inference::model_metadata_response::TensorMetadata;
use detectd_proto::inference::model_version_policy::{All, Latest, PolicyChoice, Specific};

use super::detection::{IMAGE, IMAGES, OUTPUTS};
use super::tensor_model::datatype;
use super::tensors::Datatype;
use crate::repository::manifest::{Manifest, VersionPolicy};
use crate::repository::{Index, ModelVersion};

/// Any size.
const ANY: i64 = -1;

/// The server; `extensions` depend on its settings.
pub fn server(shared_memory: bool, log: bool) -> wire::ServerMetadataResponse {
    let always = [
        "binary_tensor_data",
        "statistics",
        "model_repository",
        "model_configuration",
        "schedule_policy",
        "parameters",
    ];
    let always = always.map(|name| (name, true));
    let some = [("system_shared_memory", shared_memory), ("logging", log)];
    let extensions = always.into_iter().chain(some).filter(|(_, is_there)| *is_there);
    wire::ServerMetadataResponse {
        name: "detectd".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: extensions.map(|(name, _)| name.to_owned()).collect(),
    }
}

/// A model, by one of its versions. An answer has at most `most` boxes of a picture.
pub fn model(version: &ModelVersion, index: &Index, most: usize) -> wire::ModelMetadataResponse {
    let serving = index.get(version.name()).into_iter().flatten().filter(|(_, entry)| entry.reason().is_none());
    let batch: &[i64] = if version.spec().batch == BatchSize::Absent { &[] } else { &[ANY] };
    let tensor = |tensor: &Tensor| TensorMetadata {
        name: tensor.name.clone(),
        datatype: tensor.datatype.name().to_owned(),
        shape: batch.iter().chain(&tensor.dims).copied().collect(),
    };
    wire::ModelMetadataResponse {
        name: version.name().to_owned(),
        versions: serving.map(|(version, _)| version.to_string()).collect(),
        platform: platform(version),
        inputs: inputs(version).iter().map(tensor).collect(),
        outputs: outputs(version, most).iter().map(tensor).collect(),
        properties: facts(version),
    }
}

/// How a version of a model with this manifest is served.
pub fn config(version: &ModelVersion, manifest: Option<&Manifest>, most: usize) -> wire::ModelConfig {
    let (policy, queue) = (version.queue().policy(), version.queue().settings());
    let (kind, gpus) = match version.spec().device {
        Device::Cpu => (Kind::Cpu, Vec::new()),
        Device::Cuda(index) => (Kind::Gpu, vec![i32::try_from(index).unwrap_or(i32::MAX)]),
    };
    let input = |tensor: &Tensor| wire::ModelInput {
        name: tensor.name.clone(),
        data_type: data_type(tensor.datatype).into(),
        format: wire::model_input::Format::None.into(),
        dims: tensor.dims.clone(),
        // Of a detector's inputs, a request brings one.
        optional: version.spec().detector.is_some(),
    };
    let output = |tensor: &Tensor| wire::ModelOutput {
        name: tensor.name.clone(),
        data_type: data_type(tensor.datatype).into(),
        dims: tensor.dims.clone(),
    };
    let batching = wire::ModelDynamicBatching {
        preferred_batch_size: policy.preferred.iter().map(|&size| count(size)).collect(),
        max_queue_delay_microseconds: microseconds(policy.max_delay),
        preserve_ordering: queue.preserve_order,
        priority_levels: 3,
        default_priority_level: 2,
        default_queue_policy: Some(wire::ModelQueuePolicy {
            timeout_action: wire::model_queue_policy::TimeoutAction::Reject.into(),
            default_timeout_microseconds: queue.timeout.map_or(0, microseconds),
            allow_timeout_override: true,
            max_queue_size: u32::try_from(queue.capacity).unwrap_or(u32::MAX),
        }),
    };
    wire::ModelConfig {
        name: version.name().to_owned(),
        platform: platform(version),
        version_policy: manifest.map(|manifest| version_policy(&manifest.versions)),
        max_batch_size: if version.spec().batch == BatchSize::Absent { 0 } else { count(version.max_batch()) },
        input: inputs(version).iter().map(input).collect(),
        output: outputs(version, most).iter().map(output).collect(),
        instance_group: vec![wire::ModelInstanceGroup {
            name: format!("{}_0", version.name()),
            count: count(version.instance_count()),
            gpus,
            kind: kind.into(),
        }],
        default_model_filename: manifest.map_or(String::new(), |manifest| manifest.file().to_owned()),
        parameters: facts(version)
            .into_iter()
            .map(|(name, value)| (name, wire::ModelParameter { string_value: value }))
            .collect(),
        backend: version.spec().engine.clone(),
        scheduling_choice: Some(SchedulingChoice::DynamicBatching(batching)),
    }
}

fn version_policy(versions: &VersionPolicy) -> wire::ModelVersionPolicy {
    let choice = match versions {
        VersionPolicy::Latest { latest } => {
            PolicyChoice::Latest(Latest { num_versions: u32::try_from(latest.get()).unwrap_or(u32::MAX) })
        }
        VersionPolicy::All(_) => PolicyChoice::All(All {}),
        VersionPolicy::Listed(listed) => {
            let versions = listed.iter().filter_map(|&version| i64::try_from(version).ok()).collect();
            PolicyChoice::Specific(Specific { versions })
        }
    };
    wire::ModelVersionPolicy { policy_choice: Some(choice) }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A tensor of one image or row: what a batch of them has after its first dimension.
struct Tensor {
    name: String,
    datatype: Datatype,
    dims: Vec<i64>,
}

impl Tensor {
    fn new(name: &str, datatype: Datatype, dims: Vec<i64>) -> Self {
        Self { name: name.to_owned(), datatype, dims }
    }

    fn of(spec: &TensorSpec, batch: BatchSize) -> Self {
        let dims = if batch == BatchSize::Absent { &spec.dims[..] } else { spec.dims.get(1..).unwrap_or_default() };
        let dims = dims.iter().map(|dim| dim.and_then(|dim| i64::try_from(dim).ok()).unwrap_or(ANY));
        Self { name: spec.name.clone(), datatype: datatype(spec.data_type), dims: dims.collect() }
    }
}

/// `images` is taken as FP32 too; the protocol has one datatype for a name. `image` is taken without its last dimension
/// too; Triton's load generator cannot send an input that has none beside the batch.
fn inputs(version: &ModelVersion) -> Vec<Tensor> {
    let spec = version.spec();
    if spec.detector.is_none() {
        return spec.inputs.iter().map(|input| Tensor::of(input, spec.batch)).collect();
    }
    vec![Tensor::new(IMAGE, Datatype::Bytes, vec![1]), Tensor::new(IMAGES, Datatype::Uint8, vec![ANY, ANY, 3])]
}

fn outputs(version: &ModelVersion, most: usize) -> Vec<Tensor> {
    let spec = version.spec();
    if spec.detector.is_none() {
        return spec.outputs.iter().map(|output| Tensor::of(output, spec.batch)).collect();
    }
    // What a request gets that does not ask for another number.
    let places = i64::try_from(version.defaults().max_detections.min(most)).unwrap_or(ANY);
    let [numbers, boxes, scores, classes] = OUTPUTS;
    vec![
        Tensor::new(numbers, Datatype::Int32, vec![1]),
        Tensor::new(boxes, Datatype::Fp32, vec![places, 4]),
        Tensor::new(scores, Datatype::Fp32, vec![places]),
        Tensor::new(classes, Datatype::Int32, vec![places]),
    ]
}

fn facts(version: &ModelVersion) -> HashMap<String, String> {
    let labels = serde_json::Value::from(version.labels()).to_string();
    let mut facts =
        HashMap::from([("labels".to_owned(), labels), ("version".to_owned(), version.version().to_string())]);
    if let Some(detector) = &version.spec().detector {
        let size = format!("{}x{}", detector.preprocess.width, detector.preprocess.height);
        facts.insert("input_size".to_owned(), size);
    }
    facts
}

fn platform(version: &ModelVersion) -> String {
    format!("detectd_{}", version.spec().engine)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn data_type(datatype: Datatype) -> wire::DataType {
    match datatype {
        Datatype::Bool => wire::DataType::TypeBool,
        Datatype::Uint8 => wire::DataType::TypeUint8,
        Datatype::Uint16 => wire::DataType::TypeUint16,
        Datatype::Uint32 => wire::DataType::TypeUint32,
        Datatype::Uint64 => wire::DataType::TypeUint64,
        Datatype::Int8 => wire::DataType::TypeInt8,
        Datatype::Int16 => wire::DataType::TypeInt16,
        Datatype::Int32 => wire::DataType::TypeInt32,
        Datatype::Int64 => wire::DataType::TypeInt64,
        Datatype::Fp16 => wire::DataType::TypeFp16,
        Datatype::Bf16 => wire::DataType::TypeBf16,
        Datatype::Fp32 => wire::DataType::TypeFp32,
        Datatype::Fp64 => wire::DataType::TypeFp64,
        Datatype::Bytes => wire::DataType::TypeString,
    }
}
