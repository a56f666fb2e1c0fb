//! Several models, what is said of them, and how they are found.

use detectd_proto::detect::v1 as wire;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Daemon, Setup, encoded, eventually, good, png, request, write_version};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_never_served_keeps_nobody_from_the_others() {
    let repository = tempfile::tempdir().unwrap();
    let broken = repository.path().join("broken");
    write_version(&broken.join("1"), "broken", "load_fails");
    std::fs::write(broken.join("model.toml"), "engine = \"controlled\"\nfile = \"model.test\"\n").unwrap();
    let setup = Setup { configure: |config| config.repository.strict = false, ..Setup::default() };
    let daemon = Daemon::start_in(repository, setup).await;
    assert_eq!(daemon.get("/readyz").await.0, 200);
    let ask = |model: &str| wire::DetectRequest { model: model.into(), ..request(good(1)) };
    daemon.client().await.detect(ask("parts")).await.unwrap();
    let refused = daemon.client().await.detect(ask("broken")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("wants the loader to fail"), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_not_refused_for_its_own_number_of_images() {
    let setup = Setup { manifest: "[instances]\ncount = 1\n[batching]\nqueue_capacity = 6\n", ..Setup::default() };
    let daemon = Daemon::start(setup).await;
    let images: Vec<_> = (0..60).map(|_| encoded(png(good(1)))).collect();
    let batch = wire::DetectBatchRequest { images: images.clone(), ..wire::DetectBatchRequest::default() };
    let results = daemon.client().await.detect_batch(batch).await.unwrap().into_inner().results;
    let good = results.iter().filter(|it| matches!(it.result, Some(wire::image_result::Result::Response(_)))).count();
    assert_eq!(good, 60);
    let options = wire::DetectOptions { score_threshold: Some(f32::NAN), ..wire::DetectOptions::default() };
    let batch = wire::DetectBatchRequest { images, options: Some(options), ..wire::DetectBatchRequest::default() };
    let refused = daemon.client().await.detect_batch(batch).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("score_threshold"), "{}", refused.message());
}
