//! What is too much is refused at once, and harms nobody else.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use detectd_proto::detect::v1 as wire;
use tonic::{Code, Request};

use crate::support::{Daemon, Setup, encoded, eventually, good, png, request};

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
async fn a_message_that_is_too_large_is_refused() {
    let configure = |config: &mut detectd::config::Config| config.server.max_message_bytes = 10_000;
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let mut client = daemon.client().await;
    let large = wire::DetectRequest { image: Some(encoded(vec![0; 20_000])), ..wire::DetectRequest::default() };
    let status = client.detect(large).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    client.detect(request(good(1))).await.expect("others are served");
}
