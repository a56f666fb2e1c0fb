//! A real tensor model, from its file to its answer: ONNX on the embedded engine.

use std::fs;
use std::path::Path;
use std::process::Command;

use detectd::batch::Priority;
use detectd::engines::Engines;
use detectd::pipeline::TensorJob;
use detectd_conformance::{Network, Operation, Port, Step, onnx};
use detectd_engine::{Batch, DataType, Tensor, TensorData};
use serde_json::{Value, json};

use crate::tensor_support::pipeline;

/// Two inputs, two outputs, one of each an integer: `y = sigmoid(x W + b)`, `copy = n` in another shape.
fn network() -> Network {
    let port = |name, data_type, dims: &[usize]| Port { name, data_type, dims: dims.to_vec() };
    let weight = (0..12).map(|index| 0.1 * (index as f32 - 5.0)).collect();
    let step = |operation, input, output| Step { operation, inputs: vec![input], output };
    Network {
        name: "scores",
        inputs: vec![port("x", DataType::Fp32, &[4]), port("n", DataType::Int64, &[2, 1])],
        steps: vec![
            step(Operation::Linear { weight, bias: vec![0.25, -0.5, 0.0] }, "x", "sum"),
            step(Operation::Sigmoid, "sum", "y"),
            step(Operation::Reshape { dims: vec![2] }, "n", "copy"),
        ],
        outputs: vec![port("y", DataType::Fp32, &[3]), port("copy", DataType::Int64, &[2])],
    }
}

fn inputs(rows: usize, seed: usize) -> Vec<Tensor> {
    let x = (0..rows * 4).map(|index| ((index * 7 + seed * 3) % 11) as f32 / 11.0 - 0.5).collect();
    let n = (0..rows * 2).map(|index| (index + 100 * seed) as i64).collect();
    vec![
        Tensor::new(vec![rows, 4], TensorData::Fp32(x)).unwrap(),
        Tensor::new(vec![rows, 2, 1], TensorData::Int64(n)).unwrap(),
    ]
}

fn file(batch: Option<usize>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    onnx::write(&network(), batch, &path).unwrap();
    fs::read(path).unwrap()
}

fn assert_close(got: &[Tensor], expected: &[Tensor]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!(got.shape(), expected.shape());
        match (got.data(), expected.data()) {
            (TensorData::Fp32(got), TensorData::Fp32(expected)) => {
                assert!(got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-5), "{got:?}");
            }
            (got, expected) => assert_eq!(got, expected),
        }
    }
}

#[tokio::test]
async fn requests_of_many_sizes_get_what_the_network_computes() {
    for batch in [None, Some(8)] {
        let file = file(batch);
        let manifest = "task = \"tensor\"\n[instances]\ncount = 1\n";
        let (pipeline, _) = pipeline(&[("scores", manifest, "model.onnx", &file)], &Engines::built_in());
        assert_eq!(pipeline.repository().failures(), Vec::<String>::new());
        let answers = (1..=8).map(|rows| {
            let inputs = inputs(rows, rows);
            let job = TensorJob {
                model: "scores".into(),
                version: 1,
                inputs: inputs.clone(),
                priority: Priority::Normal,
                deadline: None,
            };
            let pipeline = &pipeline;
            async move { (inputs, pipeline.infer(job).await.unwrap()) }
        });
        let mut largest = 0;
        for (inputs, answer) in futures_util::future::join_all(answers).await {
            assert_close(&answer.outputs, &network().evaluate(&Batch { inputs }));
            largest = largest.max(answer.batch_size);
        }
        assert!(largest <= 8, "{largest} rows in one execution");
    }
}

fn check(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_detectd"));
    let output = command.args(["check"]).args(arguments).current_dir(folder).output().expect("detectd runs");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn check_shows_tensor_models_and_says_what_is_wrong_with_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |model: &str, manifest: &str, batch| {
        let version = folder.path().join("models").join(model).join("1");
        fs::create_dir_all(&version).expect("created");
        fs::write(version.join("model.onnx"), file(batch)).expect("written");
        fs::write(version.join("../model.toml"), manifest).expect("written");
    };
    write("open", "task = \"tensor\"\n", None);
    write("alone", "task = \"tensor\"\n[batching]\nmax_batch_size = 0\n", Some(2));
    let shown = check(folder.path(), &[]);
    assert!(shown.contains("tensor") && shown.contains("x FP32 [?, 4], n INT64 [?, 2, 1]"), "{shown}");
    let status: Value = serde_json::from_str(&check(folder.path(), &["--json"])).expect("JSON");
    assert_eq!(status["ok"], true);
    let models = status["models"].as_array().expect("a list");
    let about = |index: usize| [&models[index]["model"], &models[index]["task"], &models[index]["max_batch_size"]];
    assert_eq!(about(0), [&json!("alone"), &json!("tensor"), &json!(1)]);
    assert_eq!(about(1), [&json!("open"), &json!("tensor"), &json!(8)]);
    assert_eq!(models[1]["outputs"], "y FP32 [?, 3], copy INT64 [?, 2]");

    write("detector", "family = \"yolov5\"\nlabels = [\"a\"]\n", None);
    write("labelled", "task = \"tensor\"\nlabels = [\"a\"]\n", None);
    let status: Value = serde_json::from_str(&check(folder.path(), &["--json"])).expect("JSON");
    let problems = status["problems"].to_string();
    assert!(problems.contains("input x") && problems.contains("labels is for detectors"), "{problems}");
    assert_eq!(status["problems"].as_array().map(Vec::len), Some(2), "{problems}");
}
