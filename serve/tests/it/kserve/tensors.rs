//! Plain tensor models over KServe v2.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use detectd::app::App;
use detectd::config::{Config, Control as RepositoryControl};
use detectd::engines::Engines;
use detectd_conformance::onnx;
use detectd_engine::{Batch, Engine, EngineError, Model, ModelSpec, Tensor, TensorData};
use detectd_proto::inference as wire;
use detectd_proto::inference::model_infer_request::InferInputTensor;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Endpoint;

use super::{Client, client, floats, input, number, parameters, text};
use crate::rest::tensor_model;
use crate::support::{Daemon, Setup, eventually};
use crate::tensor_engine::Control;

/// A daemon with the tensor model `adder`, whose versions from 2 on fail where their file says `fails`.
struct Served {
    repository: tempfile::TempDir,
    client: Client,
    running: JoinHandle<Result<(), detectd::error::Error>>,
}

impl Served {
    async fn start(manifest: &str) -> Self {
        let repository = tempfile::tempdir().unwrap();
        put(&repository, 1, "");
        let manifest = format!("task = \"tensor\"\nengine = \"adder\"\n{manifest}");
        fs::write(repository.path().join("adder/model.toml"), manifest).unwrap();
        let load = Arc::new(Control::default()).loader(&[None, Some(3)]);
        let engines = Engines::built_in().with("adder", move |options| {
            let model = load(options)?;
            let fails = fs::read_to_string(&options.path).is_ok_and(|file| file == "fails");
            Ok(if fails { Arc::new(Failing(model)) } else { model })
        });
        let mut config = Config::embedded(repository.path());
        config.repository.control = RepositoryControl::Watch;
        config.repository.settle = Duration::from_millis(40);
        let app = App::start_with(config, engines).await.unwrap();
        let url = format!("http://{}", app.grpc_address());
        let running = tokio::spawn(app.run(std::future::pending()));
        let client = Client::new(Endpoint::from_shared(url).unwrap().connect().await.unwrap());
        Self { repository, client, running }
    }

    /// The version that has answered.
    async fn ask(&mut self) -> String {
        let answer = self.client.model_infer(rows()).await.unwrap().into_inner();
        let added: Vec<f32> =
            answer.raw_output_contents[0].as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        assert_eq!(added, [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        answer.model_version
    }

    async fn reason(&mut self, version: u64) -> Option<String> {
        let index = self.client.repository_index(wire::RepositoryIndexRequest::default()).await.unwrap().into_inner();
        let entry = index.models.into_iter().find(|entry| entry.version == version.to_string())?;
        Some(entry.reason)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn put(repository: &tempfile::TempDir, version: u64, content: &str) {
    let model = repository.path().join("adder");
    fs::create_dir_all(model.join(".incoming")).unwrap();
    fs::write(model.join(".incoming/model.onnx"), content).unwrap();
    fs::rename(model.join(".incoming"), model.join(version.to_string())).unwrap();
}

/// A request with the values 1 to 6.
fn rows() -> wire::ModelInferRequest {
    let raw = [1f32, 2.0, 3.0, 4.0, 5.0, 6.0].map(f32::to_le_bytes).concat();
    wire::ModelInferRequest {
        model_name: "adder".into(),
        inputs: vec![input("x", "FP32", &[2, 3])],
        raw_input_contents: vec![raw.into()],
        ..wire::ModelInferRequest::default()
    }
}

/// Fails on everything but zeros, which is what a warm-up sends.
struct Failing<T>(T);

impl Model for Failing<Arc<dyn Model>> {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(Failing(self.0.open()?)))
    }
}

impl Engine for Failing<Box<dyn Engine>> {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Tensor>, EngineError> {
        let TensorData::Fp32(values) = batch.inputs[0].data() else { panic!("the spec has floats") };
        if values.iter().any(|value| *value != 0.0) {
            return Err(EngineError::Backend("the file wants executions to fail".into()));
        }
        self.0.infer(batch)
    }
}

const CANARY: &str = "[instances]\ncount = 1\n[rollout]\nstrategy = \"canary\"\nshare = 0.5\nmin_requests = 10\n\
    max_latency_ratio = 1000\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_models_canary_that_fails_is_taken_back_and_costs_nobody_an_answer() {
    let mut served = Served::start(&format!("{CANARY}window_s = 86400\n")).await;
    put(&served.repository, 2, "fails");
    let mut reason = String::new();
    eventually("it is taken back", async || {
        assert_eq!(served.ask().await, "1", "who fails has not answered");
        reason = served.reason(2).await.unwrap_or_default();
        reason.contains("rolled back")
    })
    .await;
    assert!(reason.contains("more requests fail") && reason.contains("failed 100.00 % against 0.00 %"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_models_canary_that_is_fine_is_promoted_without_boxes_to_compare() {
    let mut served = Served::start(&format!("{CANARY}window_s = 0\n")).await;
    put(&served.repository, 2, "");
    let mut last = Vec::new();
    eventually("version 2 answers everybody", async || {
        last.push(served.ask().await);
        last.iter().rev().take(10).all(|version| version == "2")
    })
    .await;
    assert!(last.contains(&"1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_model_takes_and_gives_its_own_tensors() {
    let mut served = Served::start("").await;
    let mut client = served.client.clone();

    let about = wire::ModelMetadataRequest { name: "adder".into(), version: String::new() };
    let about = client.model_metadata(about).await.unwrap().into_inner();
    assert_eq!((about.inputs.len(), about.inputs[0].datatype.as_str()), (1, "FP32"));
    assert_eq!((about.inputs[0].name.as_str(), &about.inputs[0].shape[..]), ("x", &[-1, 3][..]));

    assert_eq!(served.ask().await, "1");
    let answer = client.model_infer(rows()).await.unwrap().into_inner();
    assert_eq!(answer.outputs[0].shape, [2, 3]);

    let wrong = wire::ModelInferRequest { inputs: vec![input("image", "FP32", &[2, 3])], ..rows() };
    let refused = client.model_infer(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("no input `image`"), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_contents_skip_the_inputs_that_lie_in_shared_memory() {
    let repository = tempfile::tempdir().unwrap();
    let folder = repository.path().join("two/1");
    fs::create_dir_all(&folder).unwrap();
    onnx::write(&tensor_model("two", true), None, &folder.join("model.onnx")).unwrap();
    fs::write(folder.join("../model.toml"), "task = \"tensor\"\n[instances]\ncount = 1\n").unwrap();
    let configure = |config: &mut Config| config.server.shared_memory = true;
    let setup = Setup { models: Vec::new(), configure, ..Setup::default() };
    let daemon = Daemon::start_in(repository, setup).await;
    let mut client = client(&daemon).await;
    let memory = tempfile::Builder::new().prefix("detectd-it-two-").tempfile_in("/dev/shm").unwrap();
    memory.as_file().write_all_at(&[0f32, 0.0].map(f32::to_le_bytes).concat(), 0).unwrap();
    let key = memory.path().file_name().unwrap().to_string_lossy().into_owned();
    let register = wire::SystemSharedMemoryRegisterRequest { name: "x".into(), key, offset: 0, byte_size: 8 };
    client.system_shared_memory_register(register).await.unwrap();

    let place = [("shared_memory_region", text("x")), ("shared_memory_byte_size", number(8))];
    let x = InferInputTensor { parameters: parameters(&place), ..input("x", "FP32", &[1, 2]) };
    let n = input("n", "FP32", &[1, 2, 1]);
    let raw = [7f32, 9.0].map(f32::to_le_bytes).concat();
    for inputs in [vec![x.clone(), n.clone()], vec![n, x]] {
        let raw_input_contents = vec![raw.clone().into()];
        let request = wire::ModelInferRequest { inputs, raw_input_contents, ..Default::default() };
        let answer = client.model_infer(request.clone()).await.unwrap().into_inner();
        assert_eq!((floats(&answer, "y"), floats(&answer, "copy")), (vec![0.5, 0.5], vec![7.0, 9.0]));
        let both = vec![raw.clone().into(); 2];
        let refused =
            client.model_infer(wire::ModelInferRequest { raw_input_contents: both, ..request }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("expected 1, one for each input that is not in shared memory"), "{refused}");
    }
}
