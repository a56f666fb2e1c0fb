//! A shutdown loses nothing that was taken.

use std::time::Duration;

use detectd::config::Config;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Daemon, Setup, eventually, good, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_work_is_finished_and_new_work_is_refused() {
    let configure = |config: &mut Config| {
        config.server.shutdown_delay = Duration::from_millis(300);
    };
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 2\n";
    let mut daemon = Daemon::start(Setup { manifest, configure, ..Setup::default() }).await;
    let mut health = HealthClient::new(daemon.channel().await);
    let mut status = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        health.check(request).await.map(|response| response.into_inner().status())
    };
    eventually("healthy", async || status("").await.is_ok_and(|status| status == ServingStatus::Serving)).await;
    let hold = daemon.control.hold();
    let mut calls = Vec::new();
    for _ in 0..7 {
        let mut client = daemon.client().await;
        calls.push(tokio::spawn(async move { client.detect(request(good(1))).await }));
    }
    eventually("all are queued", || async { daemon.metric("nv_inference_pending_request_count", &[]).await == 7.0 })
        .await;
    let mut late = daemon.client().await;
    daemon.begin_stop();
    eventually("readiness is gone first", || async { daemon.get("/readyz").await.0 == 503 }).await;
    for service in ["", "parts", "detect.v1.DetectService"] {
        assert_eq!(status(service).await.unwrap(), ServingStatus::NotServing, "{service}");
    }
    assert_eq!(daemon.get("/livez").await.0, 200);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let refused = late.detect(request(good(1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{}", refused.message());
    drop(hold);
    for call in calls {
        let response = call.await.unwrap().expect("what was taken is answered").into_inner();
        assert_eq!(response.detections[0].class_id, 1);
    }
    daemon.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grace_period_has_an_end() {
    let configure = |config: &mut Config| {
        config.server.grace_period = Duration::from_millis(200);
    };
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 1\n";
    let mut daemon = Daemon::start(Setup { manifest, configure, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let mut calls = Vec::new();
    for index in 0..3 {
        let mut client = daemon.client().await;
        calls.push(tokio::spawn(async move { client.detect(request(good(1))).await }));
        eventually("taken", || async {
            daemon.control.execution_count() == 1 && daemon.metric("detectd_queue_depth", &[]).await == f64::from(index)
        })
        .await;
    }
    daemon.begin_stop();
    daemon.ended().await.unwrap();
    let mut codes = Vec::new();
    for call in calls {
        codes.push(call.await.unwrap().unwrap_err().code());
    }
    assert_eq!(codes[1..], [Code::Unavailable, Code::Unavailable], "what waited is told why");
    drop(hold);
}

/// A grace period that no test outlasts: a shutdown that waits for it fails.
fn long_grace(config: &mut Config) {
    config.server.grace_period = Duration::from_secs(3600);
}

/// Stops a daemon that has nothing left to wait for.
async fn stops(mut daemon: Daemon) {
    daemon.begin_stop();
    let ended = tokio::time::timeout(Duration::from_secs(30), daemon.ended()).await;
    ended.expect("nothing is in work, and yet the daemon does not end").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_request_without_an_end_does_not_hold_up_the_end() {
    let daemon = Daemon::start(Setup { configure: long_grace, ..Setup::default() }).await;
    let mut half = TcpStream::connect(daemon.http).await.unwrap();
    half.write_all(b"GET /metr").await.unwrap();
    // Connections are accepted in their order, so that the one above is open by now.
    assert_eq!(daemon.get("/livez").await.0, 200);
    stops(daemon).await;
}
