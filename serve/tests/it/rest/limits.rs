//! HTTP keeps to the limits that gRPC keeps to, and leaves nothing behind.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use detectd::config::Config;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code;

use super::{Answer, Http, INFER, pictures};
use crate::support::{Daemon, Setup, eventually, good, png, request as detect_request};

fn one() -> serde_json::Value {
    pictures(&[png(good(1))])
}

/// Sends one request and waits until `pending` are in work.
async fn in_work(daemon: &Daemon, http: &Arc<Http>, pending: f64) -> tokio::task::JoinHandle<Answer> {
    let http = Arc::clone(http);
    let call = tokio::spawn(async move { http.post(INFER, &one()).await });
    eventually("in work", async || daemon.metric("nv_inference_pending_request_count", &[]).await == pending).await;
    call
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_refuses_inference_and_answers_probes() {
    let configure = |config: &mut Config| config.server.max_concurrent_requests = NonZeroUsize::new(2).unwrap();
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let http = Arc::new(Http::to(&daemon));
    let first = in_work(&daemon, &http, 1.0).await;
    let mut detect = daemon.client().await;
    let second = tokio::spawn(async move { detect.detect(detect_request(good(1))).await });
    eventually("both", async || daemon.metric("nv_inference_pending_request_count", &[]).await == 2.0).await;
    // The limit is one over both transports. What is refused is read to its end, be it large.
    let large = json!({ "inputs": [], "id": "x".repeat(1 << 20) });
    for body in [one(), large] {
        let answer = http.post(INFER, &body).await;
        assert_eq!((answer.status, &answer.headers["retry-after"]), (429, &"1".parse().unwrap()));
        assert_eq!(answer.headers["retry-after-ms"], "100");
        assert!(answer.error().1.contains("2 requests at once"));
    }
    let status = daemon.client().await.detect(detect_request(good(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    for path in ["/metrics", "/livez", "/readyz", "/v2/health/ready", "/v2/models/parts/ready", "/v2/models/stats"] {
        assert_eq!(http.get(path).await.status, 200, "{path}");
    }
    assert_eq!(daemon.metric("detectd_rejected_requests_total", &["\"ResourceExhausted\""]).await, 3.0);
    drop(hold);
    assert_eq!(first.await.unwrap().status, 200);
    second.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_share_the_budget_of_all_transports() {
    let configure = |config: &mut Config| {
        config.server.max_message_bytes = 10_000;
        config.server.max_bytes_in_flight = 10_000;
    };
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let http = Http::to(&daemon);
    let held = async || daemon.metric("detectd_request_bytes_in_flight", &[]).await;
    let mut unfinished = TcpStream::connect(daemon.http).await.unwrap();
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n");
    unfinished.write_all(&[head.as_bytes(), &[b' '; 8000]].concat()).await.unwrap();
    eventually("the unfinished body is counted", async || held().await == 8000.0).await;
    let mut large = one();
    large["id"] = json!("x".repeat(3000));
    let answer = http.post(INFER, &large).await;
    assert!(answer.status == 429 && answer.headers.contains_key("retry-after"), "{answer:?}");
    assert!(answer.error().1.contains("server.max_bytes_in_flight"), "{answer:?}");
    http.post(INFER, &one()).await.json();
    drop(unfinished);
    eventually("there is room again", async || held().await == 0.0).await;
    assert!(http.post(INFER, &large).await.error().1.contains("at most 128 bytes"), "it is read");

    let too_large = json!({ "inputs": [], "id": "x".repeat(10_000) });
    let (status, message) = http.post(INFER, &too_large).await.error();
    assert!(status == 400 && message.contains("at most 10000 bytes, server.max_message_bytes"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_only_controls_has_a_small_body() {
    let daemon = Daemon::start(Setup::default()).await;
    let http = Http::to(&daemon);
    let large = format!("{{\"x\": \"{}\"}}", "x".repeat(1 << 20));
    let paths = [
        "/v2/repository/index",
        "/v2/repository/models/parts/unload",
        "/v2/systemsharedmemory/region/r/register",
        "/v2/trace/setting",
        "/v2/models/parts/trace/setting",
        "/v2/logging",
    ];
    for path in paths {
        let (status, message) = http.send("POST", path, &[], large.clone()).await.error();
        assert!(status == 400 && message.contains("at most 1048576 bytes"), "{path}: {status} {message}");
        assert!(message.contains("neither infers nor loads"), "{path}: {message}");
    }
    let (_, message) = http.send("POST", "/v2/repository/models/parts/load", &[], large.clone()).await.error();
    assert!(!message.contains("at most"), "{message}");
    http.post(INFER, &one()).await.json();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_kept_whoever_states_it() {
    let configure = |config: &mut Config| config.server.default_deadline = Some(Duration::from_millis(300));
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let http = Http::to(&daemon);
    let hold = daemon.control.hold();
    let (status, message) = http.post(INFER, &one()).await.error();
    assert!(status == 504 && message.contains("deadline"), "{message}");
    let mut own = one();
    own["parameters"] = json!({ "timeout": 20_000 });
    assert_eq!(http.post(INFER, &own).await.error().0, 504);
    drop(hold);
    // A body that does not come loses its place.
    let mut unfinished = TcpStream::connect(daemon.http).await.unwrap();
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{{");
    unfinished.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut unfinished, &mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("before the request had arrived"), "{answer}");
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_leaves_nothing_behind() {
    let daemon = Daemon::start(Setup::default()).await;
    let hold = daemon.control.hold();
    let http = Arc::new(Http::to(&daemon));
    let call = in_work(&daemon, &http, 1.0).await;
    call.abort();
    daemon.nothing_pending().await;
    drop(hold);
    assert_eq!(daemon.metric("nv_inference_request_failure", &["CANCELED"]).await, 1.0);
    assert_eq!(daemon.metric("detectd_request_bytes_in_flight", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reaches_no_version_is_counted_once() {
    let daemon = Daemon::start(Setup::default()).await;
    let http = Http::to(&daemon);
    http.post("/v2/models/nobody/infer", &one()).await.error();
    http.post(INFER, &json!({})).await.error();
    // This one reaches a version, which counts it.
    http.post(INFER, &pictures(&[vec![1; 9]])).await.error();
    let rejected = async |code: &str| daemon.metric("detectd_rejected_requests_total", &[code]).await;
    assert_eq!((rejected("\"NotFound\"").await, rejected("\"InvalidArgument\"").await), (1.0, 1.0));
    assert_eq!(daemon.metric("nv_inference_request_failure", &["OTHER"]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_answers_what_was_taken_and_refuses_the_rest() {
    let configure = |config: &mut Config| {
        config.server.shutdown_delay = Duration::from_millis(300);
        // One that no test outlasts.
        config.server.grace_period = Duration::from_secs(3600);
    };
    let mut daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let http = Arc::new(Http::to(&daemon));
    let taken = in_work(&daemon, &http, 1.0).await;
    daemon.begin_stop();
    eventually("readiness is gone first", async || http.get("/v2/health/ready").await.status == 503).await;
    let mut late = one();
    // Until work is refused it is taken, and waits in vain: the engine is held.
    late["parameters"] = json!({ "timeout": 1000 });
    eventually("work is refused", async || {
        let (status, message) = http.post(INFER, &late).await.error();
        status == 503 && message.contains("shutting down")
    })
    .await;
    // Longer than an answer on its way is waited for.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!taken.is_finished(), "nothing has answered it, and nothing has ended its connection");
    assert_eq!(http.get("/livez").await.status, 200);
    drop(hold);
    taken.await.unwrap().json();
    let ended = tokio::time::timeout(Duration::from_secs(30), daemon.ended()).await;
    ended.expect("nothing is in work, and yet the daemon does not end").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grace_period_has_an_end() {
    let configure = |config: &mut Config| config.server.grace_period = Duration::from_millis(200);
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 1\n";
    let mut daemon = Daemon::start(Setup { manifest, configure, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let http = Arc::new(Http::to(&daemon));
    let _running = in_work(&daemon, &http, 1.0).await;
    eventually("it runs", async || daemon.control.execution_count() == 1).await;
    let waiting = in_work(&daemon, &http, 2.0).await;
    eventually("it waits", async || daemon.has_queued(1).await).await;
    daemon.begin_stop();
    let (status, message) = waiting.await.unwrap().error();
    assert!(status == 503 && message.contains("shutting down"), "{message}");
    daemon.ended().await.unwrap();
    drop(hold);
}
