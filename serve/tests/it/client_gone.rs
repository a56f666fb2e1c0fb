//! A caller that goes away leaves nothing behind.

use std::time::Duration;

use crate::support::{Daemon, Setup, eventually, good, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_work_frees_its_place_and_is_not_run() {
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 1\nqueue_capacity = 2\n";
    let daemon = Daemon::start(Setup { manifest, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let mut client = daemon.client().await;
    let busy = tokio::spawn(async move { client.detect(request(good(1))).await });
    eventually("busy", || async { daemon.control.execution_count() == 1 }).await;
    for _ in 0..4 {
        let mut client = daemon.client().await;
        let call = tokio::spawn(async move { client.detect(request(good(2))).await });
        eventually("queued", || async { daemon.metric("detectd_queue_depth", &[]).await == 1.0 }).await;
        // Dropping the call resets its HTTP/2 stream.
        call.abort();
        eventually("gone", || async { daemon.metric("detectd_queue_depth", &[]).await == 0.0 }).await;
    }
    drop(hold);
    busy.await.unwrap().unwrap();
    daemon.nothing_pending().await;
    assert_eq!(daemon.control.take_executions(), [1]);
    assert_eq!(daemon.metric("nv_inference_request_failure", &["CANCELED"]).await, 4.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_leaves_nothing_pending() {
    let daemon = Daemon::start(Setup::default()).await;
    let hold = daemon.control.hold();
    let mut calls = Vec::new();
    for _ in 0..5 {
        let mut client = daemon.client().await;
        calls.push(tokio::spawn(async move { client.detect(request(good(1))).await }));
    }
    eventually("all have arrived", || async { daemon.metric("nv_inference_pending_request_count", &[]).await == 5.0 })
        .await;
    for call in &calls {
        call.abort();
    }
    for call in calls {
        let _ = call.await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(hold);
    daemon.nothing_pending().await;
    daemon.client().await.detect(request(good(1))).await.unwrap();
}
