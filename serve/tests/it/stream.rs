//! Many requests on one stream.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use detectd::config::Config;
use detectd_proto::detect::v1 as wire;
use detectd_proto::inference::ModelInferRequest;
use detectd_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::kserve;
use crate::support::{Daemon, Setup, eventually, good, png, request};

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

/// Of four requests, those with even numbers wait for the engine; the others are refused at once.
fn every_other_one_waits() -> [wire::DetectStreamRequest; 4] {
    let refused = |id| wire::DetectStreamRequest { id, ..Default::default() };
    [numbered(0, good(1)), refused(1), numbered(2, good(1)), refused(3)]
}

const IN_ORDER: Setup = Setup {
    models: Vec::new(),
    manifest: "[instances]\ncount = 2\n[batching]\nmax_batch_size = 1\npreserve_order = true\n",
    configure: |_| {},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_in_the_order_of_the_requests_where_that_is_asked_for() {
    let daemon = Daemon::start(Setup { models: vec!["parts"], ..IN_ORDER }).await;
    let hold = daemon.control.hold();
    let requests = tokio_stream::iter(every_other_one_waits());
    let mut answers = daemon.client().await.detect_stream(requests).await.unwrap().into_inner();
    let early = tokio::time::timeout(Duration::from_millis(200), answers.next()).await;
    assert!(early.is_err(), "the first one has no answer yet: {early:?}");
    drop(hold);
    let mut seen = Vec::new();
    while let Some(answer) = answers.next().await {
        seen.push(answer.unwrap().id);
    }
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answers_of_model_stream_infer_come_in_order_too() {
    let daemon = Daemon::start(Setup { models: vec!["parts"], ..IN_ORDER }).await;
    let hold = daemon.control.hold();
    let requests = (0..40).map(|id| {
        let picture = if id % 2 == 0 { png(good(1)) } else { b"no picture".to_vec() };
        ModelInferRequest { id: id.to_string(), ..kserve::request(&[picture]) }
    });
    let requests: Vec<_> = requests.collect();
    let mut client = GrpcInferenceServiceClient::new(daemon.channel().await);
    let mut answers = client.model_stream_infer(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let early = tokio::time::timeout(Duration::from_millis(200), answers.next()).await;
    assert!(early.is_err(), "the first one has no answer yet: {early:?}");
    drop(hold);
    let mut seen = Vec::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap();
        let id: u32 = answer.infer_response.unwrap().id.parse().unwrap();
        assert_eq!(answer.error_message.is_empty(), id.is_multiple_of(2), "{}", answer.error_message);
        seen.push(id);
    }
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elsewhere_answers_come_as_they_are_ready() {
    let daemon = Daemon::start(Setup::default()).await;
    let hold = daemon.control.hold();
    let requests = tokio_stream::iter(every_other_one_waits());
    let mut answers = daemon.client().await.detect_stream(requests).await.unwrap().into_inner();
    let mut two: Vec<_> = Vec::new();
    for _ in 0..2 {
        two.push(answers.next().await.unwrap().unwrap().id);
    }
    two.sort_unstable();
    assert_eq!(two, [1, 3], "refused while the others wait");
    drop(hold);
}
