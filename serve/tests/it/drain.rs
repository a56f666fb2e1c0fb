//! A shutdown loses nothing that was taken.

use std::num::NonZeroUsize;
use std::time::Duration;

use detectd::config::Config;
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::detect_service_client::DetectServiceClient;
use detectd_proto::inference::ModelInferRequest;
use detectd_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
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

fn numbered(id: u64) -> wire::DetectStreamRequest {
    wire::DetectStreamRequest { id, request: Some(request(good(1))), timeout_ms: 0 }
}

/// Begins to stop a daemon and waits until it refuses work, which it does before it closes its port.
async fn refuses(daemon: &mut Daemon) {
    daemon.begin_stop();
    eventually("the port is closed", || async { TcpStream::connect(daemon.grpc).await.is_err() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_told_what_was_not_run() {
    let configure = |config: &mut Config| {
        long_grace(config);
        config.server.max_stream_requests = NonZeroUsize::new(4).unwrap();
    };
    let mut daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let (sender, requests) = mpsc::channel(100);
    for id in 0..20 {
        sender.try_send(numbered(id)).unwrap();
    }
    let mut client = daemon.client().await;
    let mut answers = client.detect_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    eventually("four are read", || async { daemon.metric("nv_inference_pending_request_count", &[]).await == 4.0 })
        .await;
    refuses(&mut daemon).await;
    drop(hold);
    let mut ids = Vec::new();
    let status = loop {
        match answers.next().await.expect("a status that is not OK") {
            Ok(answer) => {
                assert!(matches!(answer.result, Some(wire::detect_stream_response::Result::Response(_))), "{answer:?}");
                ids.push(answer.id);
            }
            Err(status) => break status,
        }
    };
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3]);
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "the server is shutting down; requests without an answer were not run");
    daemon.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_answered_in_full_ends_well() {
    let mut daemon = Daemon::start(Setup { configure: long_grace, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let requests = tokio_stream::iter((0..3).map(numbered));
    let mut answers = daemon.client().await.detect_stream(requests).await.unwrap().into_inner();
    eventually("all are read", || async { daemon.metric("nv_inference_pending_request_count", &[]).await == 3.0 })
        .await;
    refuses(&mut daemon).await;
    drop(hold);
    let mut count = 0;
    while let Some(answer) = answers.next().await {
        answer.expect("the client has closed its side, and all is answered");
        count += 1;
    }
    assert_eq!(count, 3);
    daemon.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_without_requests_does_not_hold_up_the_end() {
    let daemon = Daemon::start(Setup { configure: long_grace, ..Setup::default() }).await;
    let (_sender, requests) = mpsc::channel::<ModelInferRequest>(1);
    let mut client = GrpcInferenceServiceClient::new(daemon.channel().await);
    let mut answers = client.model_stream_infer(ReceiverStream::new(requests)).await.unwrap().into_inner();
    stops(daemon).await;
    assert_eq!(answers.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_peers_do_not_hold_up_the_end() {
    let daemon = Daemon::start(Setup { configure: long_grace, ..Setup::default() }).await;
    let _silent = TcpStream::connect(daemon.grpc).await.unwrap();
    let mut mute = TcpStream::connect(daemon.grpc).await.unwrap();
    // From here on a client would send its settings, and acknowledge the end of the connection.
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut health = HealthClient::new(daemon.channel().await);
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watched.next().await.unwrap().unwrap();
    stops(daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_beside_an_idle_call_is_waited_for() {
    let mut daemon = Daemon::start(Setup { configure: long_grace, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let channel = daemon.channel().await;
    let mut watched = HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.unwrap();
    watched.get_mut().next().await.unwrap().unwrap();
    let call = tokio::spawn(async move { DetectServiceClient::new(channel).detect(request(good(1))).await });
    eventually("in work", async || daemon.control.execution_count() == 1).await;
    refuses(&mut daemon).await;
    // Longer than a connection without work is waited for.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(hold);
    call.await.unwrap().expect("what was taken is answered");
    stops(daemon).await;
}
