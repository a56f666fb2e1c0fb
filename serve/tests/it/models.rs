//! Several models, what is said of them, and how they are found.

use detectd_proto::detect::v1 as wire;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Daemon, Setup, eventually, good, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_models_answer_for_themselves() {
    let daemon = Daemon::start(Setup { models: vec!["bolts", "gears"], ..Setup::default() }).await;
    let mut client = daemon.client().await;
    for model in ["bolts", "gears"] {
        for version in [0, 1] {
            let request = wire::DetectRequest { model: model.into(), version, ..request(good(2)) };
            let response = client.detect(request).await.unwrap().into_inner();
            assert_eq!((response.model.as_str(), response.version), (model, 1));
            assert_eq!(response.detections[0].label, format!("{model}-2"));
        }
    }
    let cases = [
        (String::new(), 0, Code::InvalidArgument, "bolts, gears"),
        ("screws".into(), 0, Code::NotFound, "bolts, gears"),
        ("bolts".into(), 9, Code::NotFound, "it has 1"),
    ];
    for (model, version, code, expected) in cases {
        let status = client.detect(wire::DetectRequest { model, version, ..request(good(2)) }).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(expected), "{}", status.message());
    }
    assert_eq!(daemon.metric("nv_inference_count", &["bolts"]).await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_listed_and_described() {
    let daemon = Daemon::start(Setup { models: vec!["bolts", "gears"], ..Setup::default() }).await;
    let mut client = daemon.client().await;
    let list = client.list_models(wire::ListModelsRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = list.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["bolts", "gears"]);
    let version = &list.models[0].versions[0];
    assert_eq!((version.version, version.state(), version.is_default), (1, wire::ModelState::Ready, true));
    let request = wire::GetModelRequest { model: "gears".into(), version: 0 };
    let model = client.get_model(request).await.unwrap().into_inner();
    assert_eq!((model.engine.as_str(), model.device.as_str(), model.precision.as_str()), ("controlled", "cpu", "fp32"));
    assert_eq!(model.labels[3], "gears-3");
    assert_eq!(model.max_batch_size, 8);
    assert_eq!(model.default_options.unwrap().score_threshold, Some(0.25));
    let missing = wire::GetModelRequest { model: "screws".into(), version: 0 };
    assert_eq!(client.get_model(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_knows_every_model() {
    let daemon = Daemon::start(Setup { models: vec!["bolts", "gears"], ..Setup::default() }).await;
    let mut health = HealthClient::new(daemon.channel().await);
    let mut check = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        health.check(request).await.map(|response| response.into_inner().status)
    };
    eventually("reported", async || check("gears").await.is_ok()).await;
    for service in ["", "bolts", "gears", "detect.v1.DetectService"] {
        assert_eq!(check(service).await.unwrap(), 1, "{service} is serving");
    }
    assert_eq!(check("screws").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_calls_are_understood() {
    let daemon = Daemon::start(Setup::default()).await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = daemon.client().await.send_compressed(encoding).accept_compressed(encoding);
        let response = client.detect(request(good(1))).await.unwrap();
        assert_eq!(response.into_inner().detections.len(), 1);
    }
}
