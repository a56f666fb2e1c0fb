//! Many requests on one stream.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use detectd::config::Config;
use detectd_proto::detect::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::{Daemon, Setup, eventually, good, request};

fn numbered(id: u64, rgb: [u8; 3]) -> wire::DetectStreamRequest {
    wire::DetectStreamRequest { id, request: Some(request(rgb)), timeout_ms: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered_under_its_id_and_errors_do_not_end_the_stream() {
    let daemon = Daemon::start(Setup::default()).await;
    let requests: Vec<_> = (0..50)
        .map(|id| {
            if id % 7 == 3 {
                wire::DetectStreamRequest { id, request: None, timeout_ms: 0 }
            } else {
                numbered(id, good((id % 4) as u8))
            }
        })
        .collect();
    let mut answers = daemon.client().await.detect_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut seen = BTreeMap::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap();
        let found = match answer.result.unwrap() {
            wire::detect_stream_response::Result::Response(response) => Ok(response.detections[0].class_id),
            wire::detect_stream_response::Result::Error(error) => Err(Code::from(error.code)),
        };
        assert!(seen.insert(answer.id, found).is_none(), "answered twice");
    }
    for id in 0..50 {
        let expected = if id % 7 == 3 { Err(Code::InvalidArgument) } else { Ok((id % 4) as u32) };
        assert_eq!(seen[&id], expected, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_read_while_too_many_are_unanswered() {
    let configure = |config: &mut Config| {
        config.server.max_stream_requests = NonZeroUsize::new(3).unwrap();
    };
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let (sender, requests) = mpsc::channel(100);
    for id in 0..20 {
        sender.try_send(numbered(id, good(1))).unwrap();
    }
    let mut client = daemon.client().await;
    let mut answers = client.detect_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let pending = || daemon.metric("nv_inference_pending_request_count", &[]);
    eventually("three are under way", || async { pending().await == 3.0 }).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(pending().await, 3.0, "the fourth is not read");
    drop(hold);
    drop(sender);
    let mut count = 0;
    while let Some(answer) = answers.next().await {
        answer.unwrap();
        count += 1;
    }
    assert_eq!(count, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_a_stream_has_its_own_timeout() {
    let daemon = Daemon::start(Setup::default()).await;
    let hold = daemon.control.hold();
    let late = wire::DetectStreamRequest { timeout_ms: 50, ..numbered(1, good(1)) };
    let mut answers = daemon.client().await.detect_stream(tokio_stream::iter([late])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap();
    let Some(wire::detect_stream_response::Result::Error(error)) = answer.result else { panic!("{answer:?}") };
    assert_eq!(Code::from(error.code), Code::DeadlineExceeded);
    drop(hold);
    daemon.nothing_pending().await;
}

fn ten_at_once(config: &mut Config) {
    config.server.max_stream_requests = NonZeroUsize::new(10).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_caller_is_gone_leaves_nothing_behind() {
    leaves_nothing_behind(Setup::default()).await;
    // No place for another request: the stream is not being read.
    leaves_nothing_behind(Setup { configure: ten_at_once, ..Setup::default() }).await;
}

async fn leaves_nothing_behind(setup: Setup) {
    let daemon = Daemon::start(setup).await;
    let hold = daemon.control.hold();
    let (sender, requests) = mpsc::channel(100);
    for id in 0..10 {
        sender.try_send(numbered(id, good(1))).unwrap();
    }
    let mut client = daemon.client().await;
    let answers = client.detect_stream(ReceiverStream::new(requests)).await.unwrap();
    eventually("under way", || async { daemon.metric("nv_inference_pending_request_count", &[]).await == 10.0 }).await;
    drop(answers);
    drop(client);
    drop(sender);
    daemon.nothing_pending().await;
    drop(hold);
}

/// Sends a request, waits for its answer, and after longer than the default deadline does so again. The engine is held
/// for the third, which has to be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_deadline_counts_for_each_request() {
    let configure = |config: &mut Config| config.server.default_deadline = Some(Duration::from_secs(1));
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let (sender, requests) = mpsc::channel(1);
    let mut client = daemon.client().await;
    let mut answers = client.detect_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let mut ask = async |id| {
        sender.send(numbered(id, good(1))).await.unwrap();
        answers.next().await.unwrap().unwrap().result.unwrap()
    };
    for id in [1, 2] {
        let answer = ask(id).await;
        assert!(matches!(answer, wire::detect_stream_response::Result::Response(_)), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let hold = daemon.control.hold();
    let answer = ask(3).await;
    let wire::detect_stream_response::Result::Error(error) = answer else { panic!("{answer:?}") };
    assert_eq!(Code::from(error.code), Code::DeadlineExceeded);
    drop(hold);
}
