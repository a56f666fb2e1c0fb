//! An engine that fails takes its own request with it, and nothing else.

use tonic::Code;

use crate::engine::{FAIL, PANIC};
use crate::support::{Daemon, Setup, eventually, good, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_survived_and_its_neighbours_are_answered() {
    let daemon = Daemon::start(Setup::default()).await;
    let opened = daemon.control.opened();
    let hold = daemon.control.hold();
    let mut calls = Vec::new();
    for (index, rgb) in [good(0), good(1), PANIC, good(2), FAIL, good(3)].into_iter().enumerate() {
        let mut client = daemon.client().await;
        calls.push(tokio::spawn(async move { client.detect(request(rgb)).await }));
        eventually("taken", || async { daemon.control.execution_count() == 1 && daemon.has_queued(index).await }).await;
    }
    drop(hold);
    let mut codes = Vec::new();
    for call in calls {
        codes.push(call.await.unwrap().map_or_else(|status| status.code(), |_| Code::Ok));
    }
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::Internal, Code::Ok, Code::Internal, Code::Ok]);
    // One batch of five that fails, then each picture alone.
    assert_eq!(daemon.control.take_executions(), [1, 5, 1, 1, 1, 1, 1]);
    assert!(daemon.control.opened() > opened, "the engine was opened anew");
    assert_eq!(daemon.metric("nv_inference_request_failure", &["BACKEND"]).await, 2.0);
    daemon.client().await.detect(request(good(1))).await.expect("serving goes on");
    assert_eq!(daemon.get("/readyz").await.0, 200);
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_engine_the_model_is_not_ready() {
    let daemon = Daemon::start(Setup::default()).await;
    daemon.control.break_opening();
    let mut client = daemon.client().await;
    let status = client.detect(request(PANIC)).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    eventually("not ready", || async { daemon.get("/readyz").await.0 == 503 }).await;
    let status = client.detect(request(good(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{}", status.message());
    assert_eq!(daemon.get("/livez").await.0, 200);
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_without_memory_is_halved_until_it_fits() {
    let daemon = Daemon::start(Setup::default()).await;
    let opened = daemon.control.opened();
    let hold = daemon.control.hold();
    let mut calls = Vec::new();
    for index in 0..6 {
        let mut client = daemon.client().await;
        calls.push(tokio::spawn(async move { client.detect(request(good(index % 4))).await }));
        let queued = usize::from(index);
        eventually("taken", || async { daemon.control.execution_count() == 1 && daemon.has_queued(queued).await })
            .await;
    }
    daemon.control.leave_room_for(2);
    drop(hold);
    for call in calls {
        call.await.unwrap().expect("each picture fits");
    }
    assert_eq!(daemon.control.take_executions(), [1, 5, 2, 3, 1, 2]);
    assert_eq!(daemon.control.opened(), opened, "the engine is as it was");

    daemon.control.leave_room_for(0);
    let status = daemon.client().await.detect(request(good(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{}", status.message());
    daemon.nothing_pending().await;
}
