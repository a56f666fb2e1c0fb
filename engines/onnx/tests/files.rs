//! ONNX files that are refused, and why; and weights in a file of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use detectd_conformance::{Network, Operation, Port, Step, onnx};
use detectd_engine::{
    Batch, BatchSize, DataType, DetectorOptions, Device, EngineError, LoadOptions, Precision, Tensor, TensorData,
};
use detectd_vision::Family;
use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataLocation, DataType as OnnxType, ModelProto, NodeProto, StringStringEntryProto,
};
use tempfile::TempDir;

/// A convolution, an activation, another convolution.
fn network() -> Network {
    let port = |name, dims: &[usize]| Port { name, data_type: DataType::Fp32, dims: dims.to_vec() };
    let convolution = |scale: f32| Operation::Convolution {
        weight: (0..16).map(|index| scale * (index as f32 - 7.5)).collect(),
        bias: vec![0.25, -0.5],
        kernel: 2,
        stride: 1,
        padding: 0,
    };
    let step = |operation, input, output| Step { operation, inputs: vec![input], output };
    Network {
        name: "small",
        inputs: vec![port("x", &[2, 4, 4])],
        steps: vec![
            step(convolution(0.1), "x", "first"),
            step(Operation::Sigmoid, "first", "active"),
            step(convolution(0.2), "active", "y"),
        ],
        outputs: vec![port("y", &[2, 2, 2])],
    }
}

fn options(path: PathBuf) -> LoadOptions {
    LoadOptions {
        path,
        device: Device::Cpu,
        precision: None,
        threads: 1,
        max_batch: 2,
        detector: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
    }
}

/// Writes the network, changed by `change`, and loads it.
fn load(folder: &TempDir, change: impl FnOnce(&mut ModelProto)) -> Result<(), String> {
    let path = folder.path().join("model.onnx");
    onnx::write(&network(), None, &path).unwrap();
    let mut model = ModelProto::parse_file(File::open(&path).unwrap()).unwrap();
    change(&mut model);
    fs::write(&path, model.write_buf().unwrap()).unwrap();
    loaded(&options(path))
}

fn loaded(options: &LoadOptions) -> Result<(), String> {
    match detectd_onnx::load(options) {
        Ok(_) => Ok(()),
        Err(EngineError::Load(message)) => Err(message),
        Err(other) => panic!("{other:?}, expected a Load error"),
    }
}

fn node<'a>(model: &'a mut ModelProto, name: &str) -> &'a mut NodeProto {
    let nodes = &mut model.graph.as_mut().unwrap().node;
    nodes.iter_mut().find(|node| node.name.as_deref() == Some(name)).unwrap()
}

#[test]
fn every_missing_operator_is_named_with_its_nodes() {
    let folder = TempDir::new().unwrap();
    let message = load(&folder, |model| {
        node(model, "node.first").op_type = Some("DeformConv".into());
        node(model, "node.y").op_type = Some("DeformConv".into());
        let active = node(model, "node.active");
        active.domain = Some("com.example".into());
        active.name = None;
    })
    .unwrap_err();
    assert!(message.contains("DeformConv at node.first, node.y: "), "{message}");
    assert!(message.contains("com.example.Sigmoid at active: "), "{message}");
}

#[test]
fn an_operator_that_is_computed_otherwise_is_refused() {
    let folder = TempDir::new().unwrap();
    let message =
        load(&folder, |model| node(model, "node.active").op_type = Some("NonMaxSuppression".into())).unwrap_err();
    assert!(message.contains("NonMaxSuppression at node.active: ") && message.contains("onnxruntime"), "{message}");
}

#[test]
fn an_attribute_that_is_not_supported_is_named_and_nothing_else_is() {
    let folder = TempDir::new().unwrap();
    let message = load(&folder, |model| {
        node(model, "node.y").attribute.push(AttributeProto {
            name: Some("auto_pad".into()),
            s: Some("SAME_SIDEWAYS".into()),
            r#type: Some(AttributeType::STRING),
            ..AttributeProto::default()
        });
    })
    .unwrap_err();
    assert!(message.contains("Conv at node.y: ") && message.contains("auto_pad"), "{message}");
    assert!(!message.contains("node.first"), "{message}");
}

#[test]
fn another_device_or_precision_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    onnx::write(&network(), None, &path).unwrap();
    let message = loaded(&LoadOptions { device: Device::Cuda(1), ..options(path.clone()) }).unwrap_err();
    assert!(message.contains("cuda:1"), "{message}");
    for (precision, fits) in [(Precision::Fp32, true), (Precision::Int8, false), (Precision::Fp16, false)] {
        let result = loaded(&LoadOptions { precision: Some(precision), ..options(path.clone()) });
        assert_eq!(result.is_ok(), fits, "{precision}: {result:?}");
        if let Err(message) = result {
            assert!(message.contains(&precision.to_string()) && message.contains("fp32"), "{message}");
        }
    }
}

#[test]
fn inputs_and_outputs_that_cannot_be_served_are_named() {
    let folder = TempDir::new().unwrap();
    let tensor = |model: &mut ModelProto, change: &dyn Fn(&mut rten_onnx::onnx::TypeProtoTensor)| {
        let input = &mut model.graph.as_mut().unwrap().input[0];
        change(input.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap());
    };
    let half = load(&folder, |model| tensor(model, &|tensor| tensor.elem_type = Some(OnnxType::FLOAT16)));
    let message = half.unwrap_err();
    assert!(message.contains("input x is FLOAT16"), "{message}");
    let message = load(&folder, |model| tensor(model, &|tensor| tensor.shape = None)).unwrap_err();
    assert!(message.contains("input x has no shape"), "{message}");
    let nothing = |tensor: &mut rten_onnx::onnx::TypeProtoTensor| {
        tensor.shape.as_mut().unwrap().dim[1].dim_value = Some(0);
    };
    let message = load(&folder, |model| tensor(model, &nothing)).unwrap_err();
    assert!(message.contains("input x can hold nothing"), "{message}");
    let message = load(&folder, |model| model.graph.as_mut().unwrap().output.clear()).unwrap_err();
    assert!(message.contains("no output"), "{message}");
    let message = load(&folder, |model| model.graph.as_mut().unwrap().input.clear()).unwrap_err();
    assert!(message.contains("no input"), "{message}");
}

#[test]
fn a_model_without_a_batch_is_loaded_where_that_is_asked_for() {
    let folder = TempDir::new().unwrap();
    let scalar = |model: &mut ModelProto| {
        let input = &mut model.graph.as_mut().unwrap().input[0];
        let tensor = input.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
        tensor.shape.as_mut().unwrap().dim.clear();
    };
    let message = load(&folder, scalar).unwrap_err();
    assert!(message.contains("input x is a scalar") && message.contains("max_batch_size = 0"), "{message}");

    let path = folder.path().join("fixed.onnx");
    onnx::write(&network(), Some(2), &path).unwrap();
    let without = LoadOptions { max_batch: 0, ..options(path) };
    let model = detectd_onnx::load(&without).unwrap();
    assert_eq!(model.spec().batch, BatchSize::Absent);
    let mut engine = model.open().unwrap();
    let batch = |first: usize| Batch {
        inputs: vec![Tensor::new(vec![first, 2, 4, 4], TensorData::Fp32(vec![0.5; first * 32])).unwrap()],
    };
    assert_eq!(engine.infer(&batch(2)).unwrap()[0].shape(), [2, 2, 2, 2]);
    let refused = engine.infer(&batch(1)).unwrap_err().to_string();
    assert_eq!(refused, "input x: expected FP32 [2, 2, 4, 4], got FP32 [1, 2, 4, 4]");
    let detector = Some(DetectorOptions { family: Some(Family::Yolov5), classes: 1, ..DetectorOptions::default() });
    assert!(loaded(&LoadOptions { detector, ..without }).is_err(), "a detector needs a batch");
}

/// Moves the weights into `location`, whose content is returned.
fn externalise(model: &mut ModelProto, location: &str) -> Vec<u8> {
    let mut data = Vec::new();
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        let bytes = tensor.raw_data.take().unwrap().into_inner();
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        tensor.external_data = vec![
            entry("location", location.into()),
            entry("offset", data.len().to_string()),
            entry("length", bytes.len().to_string()),
        ];
        tensor.data_location = Some(DataLocation::EXTERNAL);
        data.extend(bytes);
    }
    data
}

#[test]
fn weights_may_be_in_a_file_beside_the_model() {
    let folder = TempDir::new().unwrap();
    let data_path = folder.path().join("model.onnx.data");
    load(&folder, |model| {
        let data = externalise(model, "model.onnx.data");
        fs::write(&data_path, data).unwrap();
    })
    .unwrap();
    let model = detectd_onnx::load(&options(folder.path().join("model.onnx"))).unwrap();
    let input = TensorData::Fp32((0..32).map(|index| index as f32 / 32.0).collect());
    let batch = Batch { inputs: vec![Tensor::new(vec![1, 2, 4, 4], input).unwrap()] };
    let got = model.open().unwrap().infer(&batch).unwrap();
    let expected = network().evaluate(&batch);
    let (TensorData::Fp32(got), TensorData::Fp32(expected)) = (got[0].data(), expected[0].data()) else {
        panic!("no floats");
    };
    assert!(got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-5), "{got:?} {expected:?}");

    let content = fs::read(&data_path).unwrap();
    fs::write(&data_path, &content[..content.len() - 1]).unwrap();
    assert!(loaded(&options(folder.path().join("model.onnx"))).is_err(), "weights cut short");
    fs::remove_file(&data_path).unwrap();
    let message = loaded(&options(folder.path().join("model.onnx"))).unwrap_err();
    assert!(message.contains("model.onnx.data") && message.contains("weight"), "{message}");
}

#[test]
fn weights_elsewhere_are_refused() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("outside.data"), [0; 4096]).unwrap();
    let inner = TempDir::new_in(folder.path()).unwrap();
    for location in ["../outside.data", "/etc/hostname", "", ".", "inner/../model.onnx.data"] {
        let message = load(&inner, |model| drop(externalise(model, location))).unwrap_err();
        assert!(message.contains(&format!("{location:?}")), "{location}: {message}");
    }
}

#[test]
fn lengths_beyond_the_file_and_deep_nesting_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    let refused = |what: &str, bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        assert!(loaded(&options(path.clone())).is_err(), "{what} was loaded");
    };
    // The tags of producer_name and graph, with lengths of 2^40.
    for tag in [0x12, 0x3a] {
        refused("a length of a tebibyte", &[8, 8, tag, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 1, 2, 3]);
    }
    // A type whose elements are sequences of sequences of …
    let mut nested = Vec::new();
    for _ in 0..2000 {
        for tag in [0x0a, 0x22] {
            nested = field(tag, &nested);
        }
    }
    let value = [field(0x0a, b"x"), field(0x12, &nested)].concat();
    refused("a deeply nested type", &[&[8, 8][..], &field(0x3a, &field(0x5a, &value))].concat());
    // A node with a graph with a node with …
    let mut graph = Vec::new();
    for _ in 0..2000 {
        graph = field(0x0a, &field(0x2a, &field(0x32, &graph)));
    }
    refused("a deeply nested graph", &[&[8, 8][..], &field(0x3a, &graph)].concat());
}

/// A field of protobuf that holds bytes.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let mut len = content.len();
    while len >= 0x80 {
        bytes.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend(content);
    bytes
}

#[test]
fn a_path_without_the_usual_ending_is_read_all_the_same() {
    let folder = TempDir::new().unwrap();
    let path = Path::new(folder.path()).join("weights.bin");
    onnx::write(&network(), Some(2), &path).unwrap();
    assert_eq!(loaded(&options(path)), Ok(()));
}
