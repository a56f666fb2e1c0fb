//! Exported files give what the network gives.

use detectd_libtorch::network::{Architecture, Decoder, ModelYaml, Pass, Scale};
use rten_tensor::prelude::*;
use tch::{CModule, Device, Kind, Tensor};

use super::*;

const WIDTH: usize = 96;
const HEIGHT: usize = 64;

/// Numbers between -1 and 1. Not from libtorch's generator: all threads, and so all tests, share it.
fn waves(count: i64) -> Tensor {
    (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 1.7).sin()
}

/// A network whose normalisations do something.
fn network(architecture: Architecture, scale: Scale) -> Network {
    let model = ModelYaml::released(architecture, scale, 3).expect("a released model");
    let network = Network::new(&model, 2).expect("a network");
    for (name, weight) in network.weights() {
        if name.contains(".bn.") {
            let values = waves(weight.numel() as i64) * 0.4 + 1.0;
            tch::no_grad(|| weight.shallow_clone().copy_(&values));
        }
    }
    network
}

fn options(output: Output) -> Options<'static> {
    Options { width: WIDTH, height: HEIGHT, batch: None, output, labels: &["bolt", "nut", "gear"] }
}

fn pictures(count: i64) -> Tensor {
    let sides = [count, 3, HEIGHT as i64, WIDTH as i64];
    waves(sides.iter().product()).abs().view(sides)
}

fn expected(network: &Network, pictures: &Tensor, output: Output) -> Vec<Tensor> {
    tch::no_grad(|| {
        let levels = network.forward(pictures, Pass::INFERENCE).expect("levels");
        match output {
            Output::Raw => levels,
            Output::Decoded => {
                let decoder = Decoder::new(&network.plan().detect).expect("a decoder");
                vec![decoder.decode(&levels).expect("rows")]
            }
        }
    })
}

/// Runs an ONNX file with rten.
fn run_onnx(path: &Path, pictures: &Tensor) -> Vec<(Vec<usize>, Vec<f32>)> {
    let model = rten::Model::load_file(path).expect("rten loads the file");
    let shape: Vec<usize> = pictures.size().iter().map(|side| *side as usize).collect();
    let values = Vec::<f32>::try_from(pictures.contiguous().view([-1])).expect("values");
    let input = rten_tensor::NdTensor::<f32, 4>::from_data([shape[0], shape[1], shape[2], shape[3]], values);
    let outputs = model
        .run(vec![(model.input_ids()[0], input.view().into())], model.output_ids(), None)
        .expect("rten runs the file");
    let floats = |value: rten::Value| {
        let tensor: rten_tensor::Tensor<f32> = value.try_into().expect("floats");
        (tensor.shape().to_vec(), tensor.to_vec())
    };
    outputs.into_iter().map(floats).collect()
}

fn assert_close(found: &[f32], expected: &Tensor, what: &str) {
    let expected = Vec::<f32>::try_from(expected.contiguous().view([-1])).expect("values");
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let close = (found - expected).abs() < 1e-4 * expected.abs().max(1.0);
        assert!(close, "{what}: {found} is not {expected}");
    }
}

#[test]
fn onnx_files_compute_what_the_network_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    for architecture in [Architecture::V5, Architecture::V6] {
        let network = network(architecture, Scale::N);
        for output in [Output::Decoded, Output::Raw] {
            write_onnx(&network, &options(output), &path).expect("written");
            // The batch is open.
            for count in [1, 3] {
                let pictures = pictures(count);
                let found = run_onnx(&path, &pictures);
                let expected = expected(&network, &pictures, output);
                assert_eq!(found.len(), expected.len());
                for ((shape, values), expected) in found.iter().zip(&expected) {
                    let sides: Vec<i64> = shape.iter().map(|side| *side as i64).collect();
                    assert_eq!(sides, expected.size());
                    assert_close(values, expected, &format!("{architecture:?} {output:?} {count}"));
                }
            }
        }
    }
}

#[test]
fn torchscript_files_compute_what_the_network_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.pt");
    let network = network(Architecture::V6, Scale::N);
    write_torchscript(&network, &options(Output::Decoded), &path).expect("written");
    let module = CModule::load(&path).expect("loaded");
    for count in [1, 3] {
        let pictures = pictures(count);
        let found = module.forward_ts(&[&pictures]).expect("computed");
        let found = if found.dim() == 3 { found } else { found.squeeze() };
        let values = Vec::<f32>::try_from(found.contiguous().view([-1])).expect("values");
        assert_close(&values, &expected(&network, &pictures, Output::Decoded)[0], &format!("batch {count}"));
    }
}

#[test]
fn metadata_and_shapes_are_written() {
    let network = network(Architecture::V6, Scale::N).folded().expect("folded");
    let fixed = Options { batch: Some(2), ..options(Output::Decoded) };
    let model = onnx_model(&network, &fixed).expect("a model");
    let model = Model::decode(model.encode_to_vec().as_slice()).expect("a readable model");
    let text = |key: &str| model.metadata_props.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    assert_eq!(text("names"), Some(r#"{"0":"bolt","1":"nut","2":"gear"}"#));
    assert_eq!(text("stride"), Some("32"));
    assert!(text("anchors").is_some_and(|anchors| anchors.starts_with("[[[10.0,13.0]")));
    let graph = model.graph.expect("a graph");
    assert_eq!(graph.input[0], ValueInfo::floats("images", [2, 3, 64, 96].map(Side::Value).to_vec()));
    let rows = 3 * (8 * 12 + 4 * 6 + 2 * 3);
    assert_eq!(graph.output[0], ValueInfo::floats("output", [2, rows, 8].map(Side::Value).to_vec()));
    // The initialisers carry the network's state names.
    assert!(graph.initializer.iter().any(|tensor| tensor.name == "model.0.conv.weight"));
    assert!(graph.initializer.iter().any(|tensor| tensor.name == "model.24.m.2.bias"));
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let network = network(Architecture::V6, Scale::N);
    let path = Path::new("/nonexistent/model.onnx");
    let odd = Options { width: 100, ..options(Output::Raw) };
    let error = write_onnx(&network, &odd, path).expect_err("an odd size").to_string();
    assert!(error.contains("multiples of 32"), "{error}");
    let unnamed = Options { labels: &["bolt"], ..options(Output::Raw) };
    let error = write_onnx(&network, &unnamed, path).expect_err("too few labels").to_string();
    assert!(error.contains("1 labels for 3 classes"), "{error}");
    let error = write_onnx(&network, &options(Output::Raw), path).expect_err("no such folder").to_string();
    assert!(error.contains("/nonexistent/model.onnx"), "{error}");
    let unfolded = onnx_model(&network, &options(Output::Raw)).expect_err("not folded").to_string();
    assert!(unfolded.contains("fold the network"), "{unfolded}");
}
