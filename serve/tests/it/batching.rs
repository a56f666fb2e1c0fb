//! Requests that wait together leave together.

use detectd_proto::detect::v1 as wire;
use tonic::Code;

use crate::engine::{FAIL, PANIC};
use crate::support::{Daemon, Setup, encoded, eventually, good, png, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_requests_leave_in_one_execution() {
    let daemon = Daemon::start(Setup::default()).await;
    let hold = daemon.control.hold();
    let mut calls = Vec::new();
    let mut send = async |class| {
        let mut client = daemon.client().await;
        calls.push(tokio::spawn(async move { client.detect(request(good(class))).await }));
    };
    send(0).await;
    eventually("the first one occupies the instance", || async { daemon.control.execution_count() == 1 }).await;
    for class in [1, 2, 3, 1, 2] {
        send(class).await;
    }
    eventually("five wait", || async { daemon.metric("nv_inference_pending_request_count", &[]).await == 6.0 }).await;
    eventually("five are prepared", || async { daemon.has_queued(5).await }).await;
    drop(hold);
    for (call, class) in calls.into_iter().zip([0, 1, 2, 3, 1, 2]) {
        let response = call.await.unwrap().unwrap().into_inner();
        assert_eq!(response.detections[0].class_id, class, "everybody gets the answer to their own picture");
        assert_eq!(response.detections[0].label, format!("parts-{class}"));
        assert_eq!((response.image_width, response.image_height), (20, 10));
    }
    assert_eq!(daemon.control.take_executions(), [1, 5]);
    assert_eq!(daemon.metric("nv_inference_exec_count", &[]).await, 2.0);
    assert_eq!(daemon.metric("nv_inference_count", &[]).await, 6.0);
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_and_bad_images_in_one_request() {
    let daemon = Daemon::start(Setup::default()).await;
    let images = vec![
        encoded(png(good(1))),
        encoded(b"no picture".to_vec()),
        encoded(png(FAIL)),
        encoded(png(good(2))),
        encoded(png(PANIC)),
        wire::Image { source: None },
        encoded(png(good(3))),
    ];
    let request = wire::DetectBatchRequest { images, ..wire::DetectBatchRequest::default() };
    let response = daemon.client().await.detect_batch(request).await.unwrap().into_inner();
    let codes: Vec<_> = response
        .results
        .iter()
        .map(|result| match result.result.as_ref().unwrap() {
            wire::image_result::Result::Response(response) => Ok(response.detections[0].class_id),
            wire::image_result::Result::Error(error) => Err(Code::from(error.code)),
        })
        .collect();
    let (bad, broken) = (Err(Code::InvalidArgument), Err(Code::Internal));
    assert_eq!(codes, [Ok(1), bad, broken, Ok(2), broken, bad, Ok(3)]);
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_higher_priority_goes_first() {
    let daemon = Daemon::start(Setup {
        manifest: "[instances]\ncount = 1\n[batching]\nmax_batch_size = 1\n",
        ..Setup::default()
    })
    .await;
    let hold = daemon.control.hold();
    let mut calls = Vec::new();
    let sent = [wire::Priority::Normal, wire::Priority::Low, wire::Priority::Normal, wire::Priority::High];
    for (index, priority) in sent.into_iter().enumerate() {
        let mut client = daemon.client().await;
        calls.push(tokio::spawn(async move {
            client
                .detect(wire::DetectRequest { priority: priority.into(), ..request(good(index as u8)) })
                .await
                .unwrap();
        }));
        // The first one occupies the instance; each of the others is queued before the next one is sent.
        eventually("queued", || async { daemon.control.execution_count() == 1 && daemon.has_queued(index).await })
            .await;
    }
    drop(hold);
    for call in calls {
        call.await.unwrap();
    }
    let order = daemon.control.classes();
    assert_eq!(order[order.len() - 4..], [0, 3, 2, 1], "after the one that was running: high, normal, low");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_batch_goes_when_its_delay_is_over() {
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_delay_us = 50000\npreferred_batch_sizes = [4]\n";
    let daemon = Daemon::start(Setup { manifest, ..Setup::default() }).await;
    let start = std::time::Instant::now();
    let response = daemon.client().await.detect(request(good(1))).await.unwrap().into_inner();
    assert!(start.elapsed().as_millis() >= 50, "it waited for company");
    assert_eq!(response.timings.unwrap().batch_size, 1);
    daemon.control.take_executions();
    let images = vec![encoded(png(good(1))); 4];
    let batch = wire::DetectBatchRequest { images, ..wire::DetectBatchRequest::default() };
    daemon.client().await.detect_batch(batch).await.unwrap();
    assert_eq!(daemon.control.take_executions(), [4], "a preferred size goes together");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_tell_where_the_time_went() {
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 1\n";
    let daemon = Daemon::start(Setup { manifest, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let mut calls = Vec::new();
    for index in 0..2 {
        let mut client = daemon.client().await;
        calls.push(tokio::spawn(async move { client.detect(request(good(1))).await }));
        eventually("taken", || async { daemon.control.execution_count() == 1 && daemon.has_queued(index).await }).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    drop(hold);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let sum = async |name: &str| daemon.metric(&format!("nv_inference_{name}_duration_us"), &["version=\"1\""]).await;
    assert!(sum("queue").await >= 50_000.0, "the second one has waited");
    assert!(sum("request").await >= sum("queue").await + 50_000.0, "and the first one was executed meanwhile");
    assert_eq!(sum("compute_infer").await, 20.0, "as the engine says");
    assert!(sum("compute_input").await > 0.0);
    assert!(daemon.metric("nv_model_load_duration_secs", &["version=\"1\""]).await > 0.0);
    for stage in ["decode", "queue", "compute", "postprocess", "total"] {
        let stage = format!("stage=\"{stage}\"");
        assert_eq!(daemon.metric("detectd_stage_duration_seconds_count", &[&stage]).await, 2.0, "{stage}");
    }
    assert_eq!(daemon.metric("detectd_batch_size_count", &[]).await, 2.0);
}
