//! New versions on trial: canaries and shadows, and the way back.

use std::time::Duration;

use detectd::config::Control;
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::EventKind::{Loading, OnTrial, Retiring, RolledBack, Unloaded};
use detectd_proto::detect::v1::admin_service_client::AdminServiceClient;
use detectd_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use detectd_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use detectd_proto::inference::{InferTensorContents, ModelInferRequest};
use tonic::Code;

use crate::support::{Daemon, Setup, eventually, good, png, request, write_version};
use crate::swap::{Traffic, publish};

fn canary() -> Setup {
    Setup {
        manifest: "[instances]\ncount = 1\n[rollout]\nstrategy = \"canary\"\nshare = 0.5\nwindow_s = 1.0\n\
                   min_requests = 20\ncompare_share = 0.5\nkeep_previous_s = 600\n",
        configure: watching,
        ..Setup::default()
    }
}

/// For versions that are judged by anything but their speed.
fn canary_of_any_speed() -> Setup {
    Setup {
        manifest: "[instances]\ncount = 1\n[rollout]\nstrategy = \"canary\"\nshare = 0.5\nwindow_s = 1.0\n\
                   min_requests = 20\nmax_latency_ratio = 1000\ncompare_share = 0.5\nkeep_previous_s = 600\n",
        ..canary()
    }
}

fn watching(config: &mut detectd::config::Config) {
    config.repository.control = Control::Watch;
    config.repository.settle = Duration::from_millis(40);
}

async fn put(daemon: &Daemon, version: u64, behaviour: &str) {
    let model = daemon.repository.path().join("parts");
    write_version(&model.join(".incoming"), "parts", behaviour);
    std::fs::rename(model.join(".incoming"), model.join(version.to_string())).unwrap();
    eventually("it is on trial", || async { rollout(daemon).await.trial.is_some() }).await;
}

async fn rollout(daemon: &Daemon) -> wire::GetRolloutResponse {
    let mut admin = AdminServiceClient::new(daemon.channel().await);
    admin.get_rollout(wire::GetRolloutRequest::default()).await.unwrap().into_inner()
}

async fn reason(daemon: &Daemon, version: u64) -> String {
    let models = daemon.client().await.list_models(wire::ListModelsRequest {}).await.unwrap().into_inner().models;
    models[0].versions.iter().find(|status| status.version == version).map(|it| it.reason.clone()).unwrap_or_default()
}

/// Sends requests until the trial is over. Returns the versions that answered.
async fn until_over(daemon: &Daemon) -> Vec<u64> {
    let mut versions = Vec::new();
    let mut client = daemon.client().await;
    let mut turn = 0u32;
    while !turn.is_multiple_of(10) || turn == 0 || rollout(daemon).await.trial.is_some() {
        assert!(turn < 50_000, "the trial never ends");
        turn += 1;
        versions.push(client.detect(request(good(1))).await.unwrap().into_inner().version);
    }
    versions
}

/// A window that no test outlasts: what is taken back at all is taken back within it.
const WORSE_IN_SPEED: &str = "[instances]\ncount = 1\n[rollout]\nstrategy = \"canary\"\nshare = 0.5\nwindow_s = 86400\n\
    min_requests = 20\ncompare_share = 0.5\n";
const WORSE_IN_ELSE: &str = "[instances]\ncount = 1\n[rollout]\nstrategy = \"canary\"\nshare = 0.5\nwindow_s = 86400\n\
    min_requests = 20\ncompare_share = 0.5\nmax_latency_ratio = 1000\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_worse_is_taken_back_by_itself_under_load() {
    // What the version does, what it is taken back for, and the figure that decided it, which has to be above a bound.
    type Case = (&'static str, &'static str, &'static str, fn(&str) -> bool);
    let cases: [Case; 3] = [
        ("fails 3", WORSE_IN_ELSE, "more requests fail", |said| figure(said, "; failed ") > 1.0),
        ("takes 100", WORSE_IN_SPEED, "it is slower", |said| figure(said, "mean latency ") > 100.0),
        ("moves_boxes", WORSE_IN_ELSE, "it finds other boxes", |said| figure(said, "agreement ") < 0.9),
    ];
    for (behaviour, manifest, why, decided) in cases {
        let daemon = Daemon::start(Setup { manifest, ..canary() }).await;
        let mut admin = AdminServiceClient::new(daemon.channel().await);
        let mut events = admin.watch_events(wire::WatchEventsRequest::default()).await.unwrap().into_inner();
        let traffic = Traffic::start(&daemon).await;
        traffic.more(20).await;
        publish(&daemon, 2, behaviour);
        let said = loop {
            let event = events.message().await.unwrap().unwrap();
            if event.kind() == RolledBack {
                break event.detail;
            }
        };
        assert!(said.starts_with(why) && decided(&said), "{behaviour}: {said}");
        traffic.more(20).await;
        let versions: Vec<_> = traffic.stop().await.concat();
        assert!(versions.contains(&1) && versions.contains(&2), "{behaviour}: both answer while the trial lasts");
        let status = rollout(&daemon).await;
        assert!(status.answering == 1 && status.trial.is_none(), "{status:?}");
        assert_eq!(reason(&daemon, 2).await, format!("rolled back: {said}"));
        let after = daemon.client().await.detect(request(good(1))).await.unwrap().into_inner();
        assert_eq!(after.version, 1);
        assert_eq!(daemon.metric("detectd_model_swaps_total", &["outcome=\"rolled_back\""]).await, 1.0);
        daemon.nothing_pending().await;
    }
}

/// The number behind `name`.
fn figure(said: &str, name: &str) -> f64 {
    let number = said.split_once(name).and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name}in {said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_fine_is_promoted_and_can_be_rolled_back() {
    let daemon = Daemon::start(canary_of_any_speed()).await;
    put(&daemon, 2, "").await;
    let versions = until_over(&daemon).await;
    assert!(versions.contains(&1) && versions.contains(&2), "both answer while the trial lasts");
    let status = rollout(&daemon).await;
    assert_eq!((status.answering, status.previous), (2, 1));
    let mut admin = AdminServiceClient::new(daemon.channel().await);
    let opened = daemon.control.opened();
    admin.rollback(wire::RollbackRequest { reason: "for the test".into(), ..Default::default() }).await.unwrap();
    let answer = daemon.client().await.detect(request(good(1))).await.unwrap().into_inner();
    assert_eq!(answer.version, 1);
    assert_eq!(daemon.control.opened(), opened, "the version was kept warm");
    assert!(reason(&daemon, 2).await.contains("for the test"));
    let nothing = admin.rollback(wire::RollbackRequest::default()).await.unwrap_err();
    assert_eq!(nothing.code(), Code::Unavailable);

    // What was rolled back stays so over a restart, until its files change; the version before answers on.
    let Daemon { repository, .. } = daemon;
    let again = Daemon::start_in(repository, canary_of_any_speed()).await;
    assert!(reason(&again, 2).await.contains("for the test"));
    let answer = again.client().await.detect(request(good(1))).await.unwrap().into_inner();
    assert_eq!(answer.version, 1);
    // What the manifest changes reaches the version that serves.
    let manifest = again.repository.path().join("parts/model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, format!("{text}[batching]\nmax_batch_size = 3\n")).unwrap();
    eventually("it is on trial", || async { rollout(&again).await.trial.is_some() }).await;
    until_over(&again).await;
    eventually("the batch is smaller", || async {
        let request = wire::GetModelRequest { model: "parts".into(), version: 1 };
        again.client().await.get_model(request).await.is_ok_and(|model| model.into_inner().max_batch_size == 3)
    })
    .await;
    assert!(reason(&again, 2).await.contains("for the test"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_version_answers_all_images_of_a_request_also_where_the_canary_fails_some() {
    let manifest = "[instances]\ncount = 1\n[rollout]\nstrategy = \"canary\"\nshare = 1.0\nwindow_s = 86400\n\
                    min_requests = 1000000\n";
    let daemon = Daemon::start(Setup { manifest, ..canary() }).await;
    put(&daemon, 2, "fails_at 2\nmoves_boxes").await;
    let mut client = GrpcInferenceServiceClient::new(daemon.channel().await);
    let pictures = [1, 2, 1, 3].map(|class| png(good(class)).into()).to_vec();
    let contents = InferTensorContents { bytes_contents: pictures, ..Default::default() };
    let (name, datatype) = ("image".to_owned(), "BYTES".to_owned());
    let images = InferInputTensor { name, datatype, shape: vec![4], contents: Some(contents), ..Default::default() };
    let boxes = InferRequestedOutputTensor { name: "boxes".into(), ..Default::default() };
    let request = ModelInferRequest { inputs: vec![images], outputs: vec![boxes], ..Default::default() };
    let answer = client.model_infer(request).await.unwrap().into_inner();
    let (sides, _) = answer.raw_output_contents[0].as_chunks::<4>();
    let places = usize::try_from(answer.outputs[0].shape[1]).unwrap();
    let left: Vec<f32> = sides.chunks(4 * places).map(|image| f32::from_le_bytes(image[0])).collect();
    assert_eq!((answer.model_version.as_str(), left), ("1", vec![0.0; 4]), "the one on trial moves its boxes");
    let failed = rollout(&daemon).await.trial.unwrap().candidate.unwrap().failed;
    assert_eq!(failed, 1);
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_a_key_stay_with_their_version() {
    let setup = Setup {
        manifest: "[instances]\ncount = 1\n[rollout]\nstrategy = \"canary\"\nshare = 0.5\nwindow_s = 600\n",
        ..canary()
    };
    let daemon = Daemon::start(setup).await;
    put(&daemon, 2, "").await;
    let mut client = daemon.client().await;
    let mut seen = [0; 3];
    for key in 0..20 {
        let mut versions = Vec::new();
        for _ in 0..4 {
            let request = wire::DetectRequest { rollout_key: format!("user-{key}"), ..request(good(1)) };
            versions.push(client.detect(request).await.unwrap().into_inner().version);
        }
        assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
        seen[versions[0] as usize] += 1;
    }
    assert!(seen[1] > 2 && seen[2] > 2, "{seen:?}");
    let mut admin = AdminServiceClient::new(daemon.channel().await);
    admin.promote(wire::PromoteRequest::default()).await.unwrap();
    assert_eq!(client.detect(request(good(1))).await.unwrap().into_inner().version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_answers_nobody_and_is_compared() {
    let setup =
        Setup { manifest: "[instances]\ncount = 1\n[rollout]\nstrategy = \"shadow\"\nshare = 1.0\n", ..canary() };
    let daemon = Daemon::start(setup).await;
    put(&daemon, 2, "moves_boxes").await;
    let mut client = daemon.client().await;
    for _ in 0..50 {
        assert_eq!(client.detect(request(good(1))).await.unwrap().into_inner().version, 1);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    eventually("pictures are compared", || async {
        rollout(&daemon).await.trial.is_some_and(|trial| trial.compared >= 10 && trial.agreement == 0.0)
    })
    .await;
    eventually("the metrics tell it", || async {
        daemon.metric("detectd_trial_compared_pictures", &["version=\"2\""]).await >= 10.0
    })
    .await;
    let mut admin = AdminServiceClient::new(daemon.channel().await);
    admin.rollback(wire::RollbackRequest::default()).await.unwrap();
    assert!(rollout(&daemon).await.trial.is_none());
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_hangs_or_fails_delays_nobody() {
    let manifest = "[instances]\ncount = 1\n[rollout]\nstrategy = \"shadow\"\nshare = 1.0\n";
    let daemon = Daemon::start(Setup { manifest, ..canary() }).await;
    put(&daemon, 2, "waits\nfails 2").await;
    let hold = daemon.control.hold_waiting();
    let mut client = daemon.client().await;
    for _ in 0..50 {
        assert_eq!(client.detect(request(good(1))).await.unwrap().into_inner().version, 1);
    }
    let trial = async || rollout(&daemon).await.trial.unwrap();
    let seen = trial().await;
    assert_eq!((seen.baseline.unwrap().good, seen.compared), (50, 0), "all are answered, the shadow has answered none");
    drop(hold);
    eventually("it fails for itself alone", async || {
        let answer = client.detect(request(good(1))).await.unwrap().into_inner();
        assert_eq!((answer.version, answer.detections.len()), (1, 1));
        let shadow = trial().await.candidate.unwrap();
        shadow.failed > 0 && shadow.good > 0
    })
    .await;
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_told() {
    let daemon = Daemon::start(canary()).await;
    let mut admin = AdminServiceClient::new(daemon.channel().await);
    let mut events = admin.watch_events(wire::WatchEventsRequest::default()).await.unwrap().into_inner();
    put(&daemon, 2, "").await;
    admin.rollback(wire::RollbackRequest { reason: "enough".into(), ..Default::default() }).await.unwrap();
    let mut kinds = Vec::new();
    while kinds.last() != Some(&Unloaded) {
        let event = events.message().await.unwrap().unwrap();
        assert_eq!((event.model.as_str(), event.version), ("parts", 2));
        kinds.push(event.kind());
    }
    assert_eq!(kinds, [Loading, OnTrial, RolledBack, Retiring, Unloaded]);
}
