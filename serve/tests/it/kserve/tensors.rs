//! Plain tensor models over KServe v2.

use std::fs;
use std::sync::Arc;

use detectd::app::App;
use detectd::config::Config;
use detectd::engines::Engines;
use detectd_proto::inference as wire;
use detectd_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tonic::Code;
use tonic::transport::Endpoint;

use super::input;
use crate::tensor_engine::Control;

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_model_takes_and_gives_its_own_tensors() {
    let repository = tempfile::tempdir().unwrap();
    let model = repository.path().join("adder");
    fs::create_dir_all(model.join("1")).unwrap();
    fs::write(model.join("1/model.onnx"), "").unwrap();
    fs::write(model.join("model.toml"), "task = \"tensor\"\nengine = \"adder\"\n").unwrap();
    let control = Arc::new(Control::default());
    let engines = Engines::built_in().with("adder", control.loader(&[None, Some(3)]));
    let app = App::start_with(Config::embedded(repository.path()), engines).await.unwrap();
    let url = format!("http://{}", app.grpc_address());
    let running = tokio::spawn(app.run(std::future::pending()));
    let mut client = GrpcInferenceServiceClient::new(Endpoint::from_shared(url).unwrap().connect().await.unwrap());

    let about = wire::ModelMetadataRequest { name: "adder".into(), version: String::new() };
    let about = client.model_metadata(about).await.unwrap().into_inner();
    assert_eq!((about.inputs.len(), about.inputs[0].datatype.as_str()), (1, "FP32"));
    assert_eq!(about.inputs[0].shape, [-1, 3]);

    let values: Vec<f32> = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let request = wire::ModelInferRequest {
        model_name: "adder".into(),
        inputs: vec![input(&about.inputs[0].name, "FP32", &[2, 3])],
        raw_input_contents: vec![raw.into()],
        ..wire::ModelInferRequest::default()
    };
    let answer = client.model_infer(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.outputs[0].shape, [2, 3]);
    let added: Vec<f32> =
        answer.raw_output_contents[0].as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    assert_eq!(added, [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);

    let wrong = wire::ModelInferRequest { inputs: vec![input("image", "FP32", &[2, 3])], ..request };
    let refused = client.model_infer(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("no input `image`"), "{}", refused.message());
    running.abort();
}
