//! What is too much is refused at once, and harms nobody else.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use detectd::config::Control as RepositoryControl;
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::admin_service_client::AdminServiceClient;
use detectd_proto::detect::v1::detect_service_client::DetectServiceClient;
use detectd_proto::inference::ModelInferRequest;
use detectd_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use futures_util::future::join_all;
use hyper::body::{Body, Frame};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::task::{JoinHandle, JoinSet};
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::{self, HeaderMap};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::support::{Daemon, Setup, encoded, eventually, good, png, request, write_version};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_refused_and_the_rest_succeeds() {
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 1\nqueue_capacity = 3\n";
    let daemon = Daemon::start(Setup { manifest, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let mut calls = Vec::new();
    for sent in 0..4 {
        let mut client = daemon.client().await;
        calls.push(tokio::spawn(async move { client.detect(request(good(1))).await }));
        eventually("taken", || async {
            daemon.control.execution_count() == 1 && daemon.metric("detectd_queue_depth", &[]).await == f64::from(sent)
        })
        .await;
    }
    let mut client = daemon.client().await;
    for _ in 0..5 {
        let start = Instant::now();
        let status = client.detect(request(good(1))).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("parts"), "{}", status.message());
        assert!(status.metadata().contains_key("retry-after-ms"));
        assert!(start.elapsed() < Duration::from_secs(5), "refused at once, while the engine is held");
    }
    drop(hold);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(daemon.metric("nv_inference_request_failure", &["REJECTED"]).await, 5.0);
    assert_eq!(daemon.metric("nv_inference_request_success", &[]).await, 4.0);
    client.detect(request(good(1))).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_answered_in_time_and_frees_its_place() {
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 1\nqueue_capacity = 1\n";
    let daemon = Daemon::start(Setup { manifest, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let mut client = daemon.client().await;
    let busy = tokio::spawn(async move { client.detect(request(good(1))).await });
    eventually("busy", || async { daemon.control.execution_count() == 1 }).await;
    let mut client = daemon.client_without_timeouts();
    for _ in 0..3 {
        // The queue has one place: each call gets it because the one before gave it back.
        let mut late = Request::new(request(good(1)));
        late.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
        let status = client.detect(late).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{}", status.message());
    }
    assert_eq!(daemon.metric("nv_inference_request_failure", &["CANCELED"]).await, 3.0);
    drop(hold);
    busy.await.unwrap().unwrap();
    daemon.nothing_pending().await;
    assert_eq!(daemon.control.take_executions(), [1], "expired work was never run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_servers_limit_are_refused() {
    let configure = |config: &mut detectd::config::Config| {
        config.server.max_concurrent_requests = NonZeroUsize::new(2).unwrap();
    };
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let mut calls = Vec::new();
    for sent in 1..=2 {
        let mut client = daemon.client().await;
        calls.push(tokio::spawn(async move { client.detect(request(good(1))).await }));
        eventually("taken", || async {
            daemon.metric("nv_inference_pending_request_count", &[]).await == f64::from(sent)
        })
        .await;
    }
    let status = daemon.client().await.detect(request(good(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.metadata().contains_key("retry-after-ms"));
    assert_eq!(daemon.metric("detectd_rejected_requests_total", &["\"ResourceExhausted\""]).await, 1.0);
    drop(hold);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_that_cannot_be_used_are_named() {
    let configure = |config: &mut detectd::config::Config| config.limits.max_image_pixels = 199;
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let mut client = daemon.client().await;
    let raw = |width, height, length| wire::Image {
        source: Some(wire::image::Source::Raw(wire::RawImage {
            data: vec![0; length].into(),
            width,
            height,
            ..wire::RawImage::default()
        })),
    };
    let cases = [
        (Some(encoded(Vec::new())), "0 bytes"),
        (Some(encoded(b"GIF89a".to_vec())), "gif"),
        (Some(encoded(b"no picture at all".to_vec())), "JPEG, PNG, WebP, BMP"),
        (Some(encoded(png(good(1)))), "200 pixels, the limit is 199"),
        (Some(encoded(b"\x89PNG\r\n\x1a\n".to_vec())), "png"),
        (Some(raw(5, 5, 74)), "74"),
        (Some(raw(0, 5, 0)), "0x5"),
        (Some(raw(u32::MAX, u32::MAX, 10)), "4294967295"),
        (None, "image"),
    ];
    for (image, expected) in cases {
        let status = client.detect(wire::DetectRequest { image, ..wire::DetectRequest::default() }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{expected}: {}", status.message());
    }
    client
        .detect(wire::DetectRequest { image: Some(raw(5, 5, 75)), ..wire::DetectRequest::default() })
        .await
        .expect("raw pixels of the right length");
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_refused_and_the_limit_named() {
    let configure = |config: &mut detectd::config::Config| config.server.max_message_bytes = 10_000;
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let mut client = daemon.client().await;
    let large = wire::DetectRequest { image: Some(encoded(vec![0; 20_000])), ..wire::DetectRequest::default() };
    let plain = client.detect(large.clone()).await.unwrap_err();
    assert!(plain.message().contains("got 2000"), "{plain:?}");
    let compressed = client.clone().send_compressed(CompressionEncoding::Gzip).detect(large.clone()).await.unwrap_err();
    let element = wire::DetectStreamRequest { request: Some(large), ..wire::DetectStreamRequest::default() };
    let mut answers = client.detect_stream(tokio_stream::iter([element])).await.unwrap().into_inner();
    let in_stream = answers.message().await.unwrap_err();
    for status in [plain, compressed, in_stream] {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("at most 10000 bytes, server.max_message_bytes"), "{status:?}");
    }
    client.detect(request(good(1))).await.expect("others are served");
}

/// A body that gives its pieces and never ends.
struct Unfinished(VecDeque<Bytes>);

impl Body for Unfinished {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.pop_front().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
    }
}

/// Begins a Detect call and never ends it; gives the headers of the answer.
fn begin(daemon: &Daemon, timeout: Option<&str>, piece: &[u8]) -> JoinHandle<HeaderMap> {
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let mut call = http::Request::post(format!("http://{}/detect.v1.DetectService/Detect", daemon.grpc))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        call = call.header("grpc-timeout", timeout);
    }
    let call = call.body(Unfinished(VecDeque::from([Bytes::copy_from_slice(piece)]))).unwrap();
    tokio::spawn(async move { client.request(call).await.unwrap().headers().clone() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_never_send_their_message_lose_their_places_at_their_deadline() {
    let configure = |config: &mut detectd::config::Config| {
        config.server.max_concurrent_requests = NonZeroUsize::new(2).unwrap();
        config.server.default_deadline = Some(Duration::from_millis(300));
    };
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let calls = [begin(&daemon, Some("100m"), b""), begin(&daemon, None, b"\0\0")];
    for call in calls {
        let headers = call.await.unwrap();
        assert_eq!(headers["grpc-status"], "4", "DEADLINE_EXCEEDED: {headers:?}");
    }
    let mut patient = Request::new(request(good(1)));
    patient.set_timeout(Duration::from_secs(60));
    daemon.client().await.detect(patient).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_are_bounded_over_the_whole_server() {
    let configure = |config: &mut detectd::config::Config| config.server.max_bytes_in_flight = 10_000;
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let mut client = daemon.client().await;
    let raw = wire::RawImage { data: vec![0; 7500].into(), width: 50, height: 50, ..wire::RawImage::default() };
    let image = Some(wire::Image { source: Some(wire::image::Source::Raw(raw)) });
    let large = wire::DetectRequest { image, ..wire::DetectRequest::default() };
    client.detect(large.clone()).await.expect("alone, it has room");
    let prefix = [0, 0, 0, 100, 0];
    let unfinished = begin(&daemon, None, &[prefix.as_slice(), &[0; 5000]].concat());
    let held = async || daemon.metric("detectd_request_bytes_in_flight", &[]).await;
    eventually("the unfinished message is counted", || async { held().await == 5005.0 }).await;
    let status = client.detect(large.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("server.max_bytes_in_flight"), "{status:?}");
    assert!(status.metadata().contains_key("retry-after-ms"));
    client.detect(request(good(1))).await.expect("what is small has room");
    unfinished.abort();
    eventually("there is room again", || async { held().await == 0.0 }).await;
    client.detect(large).await.expect("it has room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reaches_no_version_is_counted_once() {
    let configure = |config: &mut detectd::config::Config| config.server.max_message_bytes = 10_000;
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let mut client = daemon.client().await;
    let unusable = [
        wire::DetectRequest { priority: 9, ..request(good(1)) },
        wire::DetectRequest { image: None, ..request(good(1)) },
        wire::DetectRequest { request_id: "x".repeat(200), ..request(good(1)) },
        wire::DetectRequest { image: Some(encoded(vec![0; 20_000])), ..request(good(1)) },
    ];
    for request in unusable {
        client.detect(request).await.unwrap_err();
    }
    let unknown = wire::DetectRequest { model: "nobody".into(), ..request(good(1)) };
    client.detect(unknown.clone()).await.unwrap_err();
    let element = wire::DetectStreamRequest { request: Some(unknown), ..wire::DetectStreamRequest::default() };
    let mut answers = client.detect_stream(tokio_stream::iter([element])).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    // This one reaches a version, which counts it.
    let undecodable = wire::DetectRequest { image: Some(encoded(vec![1; 9])), ..request(good(1)) };
    client.detect(undecodable).await.unwrap_err();
    let rejected = async |code: &str| daemon.metric("detectd_rejected_requests_total", &[code]).await;
    assert_eq!(rejected("\"InvalidArgument\"").await, 4.0);
    assert_eq!(rejected("\"NotFound\"").await, 2.0);
    assert_eq!(daemon.metric("nv_inference_request_failure", &["OTHER"]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_in_a_stream_or_a_batch_is_counted_once() {
    let daemon = Daemon::start(Setup::default()).await;
    let mut client = daemon.client().await;
    let undecodable = || Some(encoded(vec![1; 9]));
    let rejected = async || daemon.metric("detectd_rejected_requests_total", &["\"InvalidArgument\""]).await;

    let of = |image| wire::DetectStreamRequest {
        request: Some(wire::DetectRequest { image, ..wire::DetectRequest::default() }),
        ..wire::DetectStreamRequest::default()
    };
    let requests = [of(None), of(None), of(undecodable()), of(Some(encoded(png(good(1)))))];
    let mut answers = client.detect_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    assert_eq!(rejected().await, 2.0);

    let images = vec![wire::Image { source: None }, undecodable().unwrap(), encoded(png(good(1)))];
    let batch = wire::DetectBatchRequest { images, ..wire::DetectBatchRequest::default() };
    assert_eq!(client.detect_batch(batch).await.unwrap().into_inner().results.len(), 3);
    assert_eq!(rejected().await, 3.0);

    let mut kserve = GrpcInferenceServiceClient::new(daemon.channel().await);
    let nothing = ModelInferRequest { model_name: "parts".into(), ..ModelInferRequest::default() };
    let mut answers = kserve.model_stream_infer(tokio_stream::iter([nothing])).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    assert_eq!(rejected().await, 4.0);
    // These reached a version, which counts them.
    assert_eq!(daemon.metric("nv_inference_request_failure", &["OTHER"]).await, 2.0);
}

/// Refused as what they are, not by the client for the size of the refusal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_does_not_repeat_all_of_what_came() {
    let daemon = Daemon::start(Setup::default()).await;
    let mut client = daemon.client().await;
    let long = "ä".repeat(10_000);
    let unknown_model = wire::DetectRequest { model: long.clone(), ..request(good(1)) };
    let options = wire::DetectOptions { class_labels: vec![long.clone()], ..wire::DetectOptions::default() };
    let unknown_class = wire::DetectRequest { options: Some(options), ..request(good(1)) };
    for (request, code) in [(unknown_model, Code::NotFound), (unknown_class, Code::InvalidArgument)] {
        let status = client.detect(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains('ä') && status.message().len() < 1100, "{status:?}");
        let element = wire::DetectStreamRequest { request: Some(request), ..wire::DetectStreamRequest::default() };
        let mut answers = client.detect_stream(tokio_stream::iter([element])).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        let Some(wire::detect_stream_response::Result::Error(error)) = answer.result else { panic!("{answer:?}") };
        assert_eq!((Code::from(error.code), error.message.as_str()), (code, status.message()));
    }
    let (status, body) = daemon.get(&format!("/v2/models/{}", "x".repeat(20_000))).await;
    assert!(status >= 400 && body.contains("xxx") && body.len() < 1200, "{status} {body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_loads_takes_few_threads_and_nobody_elses_place() {
    let setup = Setup {
        configure: |config| {
            config.repository.control = RepositoryControl::Explicit;
            config.repository.models = vec!["parts".into()];
            config.server.max_concurrent_requests = NonZeroUsize::new(8).unwrap();
        },
        ..Setup::default()
    };
    let daemon = Daemon::start(setup).await;
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let hold = daemon.control.hold_loads();
    write_version(&daemon.repository.path().join("parts/2"), "parts", "load_waits");
    let (mut floods, answered) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..20 {
        let admin = AdminServiceClient::new(daemon.channel().await);
        let answered = Arc::clone(&answered);
        floods.spawn(async move {
            let loads = (0..250).map(|_| {
                let (mut admin, answered) = (admin.clone(), Arc::clone(&answered));
                async move {
                    let load = wire::LoadModelRequest { model: "parts".into(), ..Default::default() };
                    let answer = admin.load_model(load).await;
                    answered.fetch_add(1, Ordering::AcqRel);
                    answer.map(drop)
                }
            });
            join_all(loads).await
        });
    }
    // One loads, and 63 wait for it; all others are refused.
    eventually("all have come", async || answered.load(Ordering::Acquire) == 5000 - 64).await;
    assert!(threads() <= before + 100, "{before} threads before, {} now", threads());
    daemon.client().await.detect(request(good(1))).await.expect("requests are answered meanwhile");
    drop(hold);
    let mut codes = std::collections::BTreeMap::new();
    while let Some(answers) = floods.join_next().await {
        for answer in answers.unwrap() {
            let code = answer.map_or_else(|status| status.code(), |()| Code::Ok);
            *codes.entry(format!("{code:?}")).or_insert(0) += 1;
        }
    }
    // Of those that waited, the newest loads; the others are moot, and tell what it came to.
    assert_eq!(codes, [("Ok".to_owned(), 64), ("ResourceExhausted".to_owned(), 5000 - 64)].into());
    assert_eq!(daemon.client().await.detect(request(good(1))).await.unwrap().into_inner().version, 2);
    eventually("one is left", || async { daemon.control.alive() == 1 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_on_each_port() {
    let configure =
        |config: &mut detectd::config::Config| config.server.max_connections = NonZeroUsize::new(2).unwrap();
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(tokio::net::TcpStream::connect(daemon.http).await.unwrap());
    }
    let (status, body) = daemon.get("/livez").await;
    assert_eq!(status, 503);
    assert!(body.contains("server.max_connections: 2 connections are open"), "{body}");
    open.pop();
    eventually("there is room again", || async { daemon.get("/livez").await.0 == 200 }).await;

    let mut clients = vec![daemon.client().await, daemon.client().await];
    for client in &mut clients {
        client.detect(request(good(1))).await.unwrap();
    }
    let refused = async || match Endpoint::from_shared(format!("http://{}", daemon.grpc)).unwrap().connect().await {
        Ok(channel) => DetectServiceClient::new(channel).detect(request(good(1))).await.is_err(),
        Err(_) => true,
    };
    assert!(refused().await, "the third one is closed");
    clients[0].detect(request(good(1))).await.expect("those that are open stay so");
    clients.pop();
    eventually("there is room again", async || !refused().await).await;
}
