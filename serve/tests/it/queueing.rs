//! What waits, for how long, and in which order it leaves.

use std::time::{Duration, Instant};

use detectd::batch::Priority;
use detectd::error::ErrorCode;
use detectd::pipeline::TensorJob;

use crate::support::eventually;
use crate::tensor_support::{Answered, Served, assert_added, job, rows};

/// Requests of `count` rows each, marked from 1, behind one that is held and marked 0.
async fn fill(served: &Served, counts: &[usize]) -> Vec<Answered> {
    let mut calls = vec![served.send(rows(0, 1), Priority::Normal, 0).await];
    for (index, count) in counts.iter().enumerate() {
        calls.push(served.send(rows(index as u8 + 1, *count), Priority::Normal, index + 1).await);
    }
    calls
}

async fn all_answered(calls: Vec<Answered>) {
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn no_execution_is_larger_than_the_maximum() {
    let served = Served::start("[batching]\nmax_batch_size = 4\n");
    let hold = served.control.hold(0);
    let calls = fill(&served, &[1, 2, 2, 4, 1]).await;
    drop(hold);
    all_answered(calls).await;
    let executions = [vec![0], vec![1, 2, 2], vec![3, 3], vec![4; 4], vec![5]];
    assert_eq!(served.control.executions(), executions, "a request is never divided");
}

#[tokio::test]
async fn a_preferred_size_goes_at_once_and_another_waits_for_its_delay() {
    let long_delay = "[batching]\npreferred_batch_sizes = [4, 6]\nmax_delay_us = 60000000\n";
    let served = Served::start(long_delay);
    let first = served.send(rows(1, 3), Priority::Normal, 1).await;
    let second = served.send(rows(2, 1), Priority::Normal, 0).await;
    all_answered(vec![first, second]).await;
    assert_eq!(served.control.executions(), [[1, 1, 1, 2]]);

    let served = Served::start("[batching]\npreferred_batch_sizes = [4]\nmax_delay_us = 50000\n");
    let start = Instant::now();
    served.pipeline.infer(job(rows(1, 3))).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50), "it waited for company");
}

#[tokio::test]
async fn a_full_batch_does_not_wait_for_its_delay() {
    let served = Served::start("[batching]\nmax_batch_size = 4\nmax_delay_us = 60000000\n");
    let first = served.send(rows(1, 2), Priority::Normal, 1).await;
    let second = served.send(rows(2, 2), Priority::Normal, 0).await;
    all_answered(vec![first, second]).await;
    assert_eq!(served.control.executions(), [[1, 1, 2, 2]]);
}

#[tokio::test]
async fn a_higher_priority_goes_first_and_each_in_the_order_it_came() {
    let served = Served::start("[batching]\nmax_batch_size = 2\n");
    let hold = served.control.hold(0);
    let mut calls = fill(&served, &[]).await;
    let sent = [Priority::Low, Priority::Normal, Priority::High, Priority::Normal, Priority::High, Priority::Low];
    for (index, priority) in sent.into_iter().enumerate() {
        calls.push(served.send(rows(index as u8 + 1, 1), priority, index + 1).await);
    }
    drop(hold);
    all_answered(calls).await;
    assert_eq!(served.control.executions(), [vec![0], vec![3, 5], vec![2, 4], vec![1, 6]]);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let served = Served::start("[batching]\nqueue_capacity = 2\n");
    let hold = served.control.hold(0);
    let calls = fill(&served, &[1, 1]).await;
    for _ in 0..3 {
        let error = served.pipeline.infer(job(rows(9, 1))).await.err().unwrap();
        assert_eq!(error.code, ErrorCode::ResourceExhausted);
        assert_eq!(error.message, "the queue of model `adder` version 1 is full: 2 requests wait");
        assert!(error.retry_after.is_some());
    }
    assert_eq!(served.metric("nv_inference_request_failure", "REJECTED"), 3.0);
    drop(hold);
    all_answered(calls).await;
    served.pipeline.infer(job(rows(9, 1))).await.expect("there is room again");
    served.nothing_pending();
}

#[tokio::test]
async fn the_queue_timeout_is_answered_while_the_instance_is_busy() {
    let served = Served::start("[batching]\nqueue_timeout_ms = 20\nqueue_capacity = 2\n");
    let hold = served.control.hold(0);
    let mut calls = fill(&served, &[]).await;
    for _ in 0..2 {
        // Both places are taken, and come back.
        let waiting = [1, 2].map(|mark| served.pipeline.infer(job(rows(mark, 1))));
        let results = tokio::time::timeout(Duration::from_secs(30), futures_util::future::join_all(waiting));
        for result in results.await.expect("answered while the instance is held") {
            let error = result.err().unwrap();
            assert_eq!(error.code, ErrorCode::Unavailable);
            assert_eq!(error.message, "the request waited in the queue for the model's batching.queue_timeout_ms, 20");
        }
    }
    assert_eq!(served.control.ended(), 0, "the instance is still busy");
    assert_eq!(served.metric("nv_inference_request_failure", "REJECTED"), 4.0);
    assert_eq!(served.waiting(), 0);
    drop(hold);
    // What an instance has taken in time is answered, however long it runs.
    assert_added(&calls.remove(0).await.unwrap().unwrap(), 0, &[1, 3]);
    assert_eq!(served.control.executions(), [[0]], "what was refused was never run");
    served.nothing_pending();
}

#[tokio::test]
async fn deadlines_and_callers_that_leave_free_their_places() {
    let served = Served::start("[batching]\nqueue_capacity = 1\n");
    let hold = served.control.hold(0);
    let calls = fill(&served, &[]).await;
    for _ in 0..3 {
        let deadline = Some(Instant::now() + Duration::from_millis(20));
        let error = served.pipeline.infer(TensorJob { deadline, ..job(rows(1, 1)) }).await.err().unwrap();
        assert_eq!(error.code, ErrorCode::DeadlineExceeded);
    }
    for _ in 0..3 {
        let call = served.send(rows(2, 1), Priority::Normal, 1).await;
        call.abort();
        assert!(call.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(served.waiting(), 0);
    }
    assert_eq!(served.metric("nv_inference_request_failure", "CANCELED"), 6.0);
    assert_eq!(served.metric("nv_inference_pending_request_count", ""), 1.0, "the one that is executed");
    drop(hold);
    all_answered(calls).await;
    assert_eq!(served.control.executions(), [[0]]);
    served.nothing_pending();
}

/// Two instances: the second one is done first.
async fn overtaking(manifest: &str) -> (Served, crate::tensor_engine::Hold, Answered, Answered) {
    let served = Served::start(&format!("[instances]\ncount = 2\n[batching]\n{manifest}"));
    let hold = served.control.hold(1);
    let first = served.send(rows(1, 1), Priority::Normal, 0).await;
    let second = served.send(rows(2, 1), Priority::Normal, 0).await;
    eventually("the second one was executed", async || served.control.ended() == 1).await;
    (served, hold, first, second)
}

#[tokio::test]
async fn answers_leave_in_the_order_they_came_where_that_is_asked_for() {
    let (served, hold, first, mut second) = overtaking("preserve_order = true\n").await;
    let early = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
    assert!(early.is_err(), "the first one has no answer yet");
    drop(hold);
    assert_added(&second.await.unwrap().unwrap(), 2, &[1, 3]);
    assert_added(&first.await.unwrap().unwrap(), 1, &[1, 3]);
    assert_eq!(served.control.executions(), [[1], [2]]);
    served.nothing_pending();
}

#[tokio::test]
async fn a_caller_that_leaves_and_a_panic_end_their_turns() {
    let (served, hold, first, second) = overtaking("preserve_order = true\n").await;
    first.abort();
    let third = served.send(rows(crate::tensor_engine::PANIC, 1), Priority::Normal, 1).await;
    drop(hold);
    assert_added(&second.await.unwrap().unwrap(), 2, &[1, 3]);
    assert_eq!(third.await.unwrap().err().unwrap().code, ErrorCode::Internal);
    served.pipeline.infer(job(rows(4, 1))).await.expect("serving goes on");
    served.nothing_pending();
}

#[tokio::test]
async fn elsewhere_an_answer_overtakes_a_slow_one() {
    let (served, hold, first, second) = overtaking("").await;
    assert_added(&second.await.unwrap().unwrap(), 2, &[1, 3]);
    assert!(!first.is_finished());
    drop(hold);
    assert_added(&first.await.unwrap().unwrap(), 1, &[1, 3]);
    served.nothing_pending();
}
