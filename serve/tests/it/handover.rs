//! What a version has taken it answers, also when another one answers meanwhile, or none.

use std::time::Duration;

use detectd::config::Control;
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::EventKind;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::support::{Daemon, Setup, eventually, good, request, write_version};
use crate::swap::{Traffic, admin, answering, explicit, publish, rollout, watching};

type Answers = Vec<JoinHandle<Result<wire::DetectResponse, Status>>>;

/// Requests that the engine holds: one is executed, the others wait behind it.
async fn ask(daemon: &Daemon, count: usize) -> Answers {
    let mut answers = Vec::new();
    for sent in 1..=count {
        let mut client = daemon.client().await;
        answers.push(tokio::spawn(async move { Ok(client.detect(request(good(1))).await?.into_inner()) }));
        eventually("taken", || async {
            daemon.metric("nv_inference_pending_request_count", &["version=\"2\""]).await == sent as f64
        })
        .await;
    }
    answers
}

async fn all_by(version: u64, answers: Answers) {
    for answer in answers {
        let answer = answer.await.unwrap().expect("what was taken is answered");
        assert_eq!((answer.version, answer.detections.len()), (version, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_replaced_answers_what_it_has_taken() {
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 1\n";
    let daemon = Daemon::start(Setup { manifest, ..watching() }).await;
    publish(&daemon, 2, "waits");
    eventually("version 2 answers", || async { answering(&daemon).await == 2 }).await;
    let mut events = admin(&daemon).await.watch_events(wire::WatchEventsRequest::default()).await.unwrap().into_inner();
    let hold = daemon.control.hold_waiting();
    let taken = ask(&daemon, 4).await;
    publish(&daemon, 3, "");
    eventually("version 3 answers", || async { answering(&daemon).await == 3 }).await;
    let answer = daemon.client().await.detect(request(good(1))).await.unwrap().into_inner();
    assert_eq!(answer.version, 3, "while the old one is still busy");
    let mut kinds = Vec::new();
    while kinds.last() != Some(&(2, EventKind::Retiring)) {
        let event = events.message().await.unwrap().unwrap();
        kinds.push((event.version, event.kind()));
    }
    assert!(taken.iter().all(|answer| !answer.is_finished()));
    drop(hold);
    all_by(2, taken).await;
    let event = events.message().await.unwrap().unwrap();
    assert_eq!((event.version, event.kind()), (2, EventKind::Unloaded), "not before it was done");
    eventually("it is free", || async { daemon.control.alive() == 1 }).await;
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_unloaded_answers_what_it_has_taken() {
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 1\n";
    let daemon = Daemon::start(Setup { manifest, ..explicit() }).await;
    write_version(&daemon.repository.path().join("parts/2"), "parts", "waits");
    let load = || wire::LoadModelRequest { model: "parts".into(), ..Default::default() };
    admin(&daemon).await.load_model(load()).await.unwrap();
    let hold = daemon.control.hold_waiting();
    let taken = ask(&daemon, 4).await;
    admin(&daemon).await.unload_model(wire::UnloadModelRequest { model: "parts".into() }).await.unwrap();
    let refused = daemon.client().await.detect(request(good(1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(taken.iter().all(|answer| !answer.is_finished()));
    drop(hold);
    all_by(2, taken).await;
    eventually("it is free", || async { daemon.control.alive() == 0 }).await;
    daemon.nothing_pending().await;
    admin(&daemon).await.load_model(load()).await.unwrap();
    daemon.client().await.detect(request(good(1))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_and_rollbacks_under_load_fail_nobody() {
    let manifest = "[instances]\ncount = 1\n[rollout]\nkeep_previous_s = 600\n";
    let daemon = Daemon::start(Setup { manifest, ..watching() }).await;
    let traffic = Traffic::start(&daemon).await;
    for version in 2..8 {
        publish(&daemon, version, "");
        eventually("the new version answers", || async { answering(&daemon).await == version }).await;
        traffic.more(10).await;
        admin(&daemon).await.rollback(wire::RollbackRequest::default()).await.unwrap();
        assert_eq!(answering(&daemon).await, 1, "at once");
        traffic.more(10).await;
        assert_eq!(rollout(&daemon).await.previous, 0, "there is nothing more to go back to");
    }
    let versions = traffic.stop().await.concat();
    assert!((1..8).all(|version| versions.contains(&version)));
    eventually("one is left", || async { daemon.control.alive() == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_kept_warm_for_long_enough_is_freed() {
    let setup = Setup {
        manifest: "[instances]\ncount = 1\n[rollout]\nkeep_previous_s = 0.5\n",
        configure: |config| {
            config.repository.control = Control::Watch;
            config.repository.settle = Duration::from_millis(40);
        },
        ..Setup::default()
    };
    let daemon = Daemon::start(setup).await;
    publish(&daemon, 2, "");
    eventually("version 2 answers", || async { answering(&daemon).await == 2 }).await;
    eventually("version 1 is free", || async { daemon.control.alive() == 1 }).await;
    let refused = admin(&daemon).await.rollback(wire::RollbackRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("no earlier version is kept warm"), "{}", refused.message());
}
