//! Tensor models: what is executed together, what comes back, and what is refused.

use std::sync::Arc;

use detectd::batch::Priority;
use detectd::engines::Engines;
use detectd::error::ErrorCode;
use detectd::pipeline::{DetectJob, ImageSource, TensorJob};
use detectd_engine::{Batch, Engine, EngineError, Model, ModelSpec, Tensor, TensorData};

use crate::engine;
use crate::support::{good, png};
use crate::tensor_engine::{Control, FAIL, LOSE, PANIC};
use crate::tensor_support::{Served, assert_added, job, pipeline, rows, tensor};

#[tokio::test]
async fn rows_of_several_requests_leave_in_one_execution() {
    let served = Served::start("");
    let hold = served.control.hold(0);
    let mut calls = vec![served.send(rows(0, 1), Priority::Normal, 0).await];
    for mark in 1..=3 {
        calls.push(served.send(rows(mark, mark.into()), Priority::Normal, mark.into()).await);
    }
    drop(hold);
    for (mark, call) in (0..).zip(calls) {
        let answer = call.await.unwrap().unwrap();
        assert_added(&answer, mark, &[usize::from(mark).max(1), 3]);
        assert_eq!(answer.batch_size, if mark == 0 { 1 } else { 6 });
        assert_eq!((answer.version.name(), answer.version.version()), ("adder", 1));
    }
    assert_eq!(served.control.executions(), [vec![0], vec![1, 2, 2, 3, 3, 3]]);
    assert_eq!(served.metric("nv_inference_exec_count", ""), 2.0);
    assert_eq!(served.metric("nv_inference_count", ""), 7.0);
    assert_eq!(served.metric("nv_inference_request_success", ""), 4.0);
    served.nothing_pending();
}

#[tokio::test]
async fn other_shapes_are_executed_by_themselves() {
    let served = Served::start("");
    let hold = served.control.hold(0);
    let mut calls = vec![served.send(rows(0, 1), Priority::Normal, 0).await];
    let shapes = [[1, 2], [2, 2], [1, 5], [1, 2], [1, 2]];
    for (index, shape) in shapes.iter().enumerate() {
        calls.push(served.send(tensor(index as u8 + 1, shape), Priority::Normal, index + 1).await);
    }
    drop(hold);
    for (index, call) in calls.into_iter().enumerate().skip(1) {
        assert_added(&call.await.unwrap().unwrap(), index as u8, &shapes[index - 1]);
    }
    assert_eq!(
        served.control.executions(),
        [vec![0], vec![1, 2, 2], vec![3], vec![4, 5]],
        "and in the order they came"
    );
}

#[tokio::test]
async fn a_fixed_batch_is_filled_up_and_its_filling_left_out() {
    let served = Served::with_dims("[batching]\nmax_batch_size = 2\n", &[Some(4), Some(3)]);
    let warm_up = served.control.executions().len();
    assert!(served.control.executions().iter().all(|rows| *rows == [0; 4]), "warm-up");
    let answer = served.pipeline.infer(job(rows(5, 3))).await.unwrap();
    assert_added(&answer, 5, &[3, 3]);
    assert_eq!(answer.batch_size, 3);
    assert_eq!(served.control.executions()[warm_up], [5, 5, 5, 0]);
    let answer = served.pipeline.infer(job(rows(6, 4))).await.unwrap();
    assert_added(&answer, 6, &[4, 3]);
    let error = served.pipeline.infer(job(rows(7, 5))).await.err().unwrap();
    assert_eq!(error.message, "model `adder` version 1: a batch of 5, the model takes 1 to 4");
}

#[tokio::test]
async fn without_a_batch_requests_are_run_one_by_one() {
    let served = Served::with_dims("[batching]\nmax_batch_size = 0\n", &[Some(3), Some(2)]);
    let hold = served.control.hold(1);
    let mut calls = vec![served.send(tensor(1, &[3, 2]), Priority::Normal, 0).await];
    for queued in 1..=2 {
        calls.push(served.send(tensor(queued + 1, &[3, 2]), Priority::Normal, queued.into()).await);
    }
    drop(hold);
    for (mark, call) in (1..).zip(calls) {
        let answer = call.await.unwrap().unwrap();
        assert_added(&answer, mark, &[3, 2]);
        assert_eq!(answer.batch_size, 1);
    }
    assert_eq!(served.control.executions(), [[0], [1], [2], [3]], "the rehearsal first");
    let error = served.pipeline.infer(job(tensor(1, &[2, 2]))).await.err().unwrap();
    assert!(error.message.contains("expected FP32 [3, 2], got FP32 [2, 2]"), "{error}");
}

#[tokio::test]
async fn inputs_that_do_not_fit_are_named() {
    let served = Served::with_dims("[batching]\nmax_batch_size = 4\n", &[None, Some(3)]);
    let integers = Tensor::new(vec![1, 3], TensorData::Int32(vec![1; 3])).unwrap();
    let cases = [
        (vec![], "0 inputs, the model takes 1"),
        (vec![rows(1, 1), rows(1, 1)], "2 inputs, the model takes 1"),
        (vec![integers], "input x: expected FP32 [?, 3], got INT32 [1, 3]"),
        (vec![tensor(1, &[1, 4])], "input x: expected FP32 [?, 3], got FP32 [1, 4]"),
        (vec![tensor(1, &[3])], "input x: expected FP32 [?, 3], got FP32 [3]"),
        (vec![tensor(1, &[])], "input x: expected FP32 [?, 3], got FP32 []"),
        (vec![rows(1, 0)], "a batch of 0, the model takes 1 to 4"),
        (vec![rows(1, 5)], "a batch of 5, the model takes 1 to 4"),
    ];
    let executed = served.control.executions().len();
    for (inputs, expected) in cases {
        let error = served.pipeline.infer(TensorJob { inputs, ..job(rows(1, 1)) }).await.err().unwrap();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert_eq!(error.message, format!("model `adder` version 1: {expected}"));
    }
    assert_eq!(served.control.executions().len(), executed, "nothing of that was executed");
    assert_eq!(served.metric("nv_inference_request_failure", "OTHER"), 8.0);
    let missing = TensorJob { model: "other".into(), ..job(rows(1, 1)) };
    assert_eq!(served.pipeline.infer(missing).await.err().unwrap().code, ErrorCode::NotFound);
    served.nothing_pending();
}

#[tokio::test]
async fn a_request_that_fails_does_not_fail_its_neighbours() {
    let served = Served::start("");
    let hold = served.control.hold(0);
    let mut calls = vec![served.send(rows(0, 1), Priority::Normal, 0).await];
    let marks = [1, FAIL, 2, PANIC, LOSE, 3];
    for (index, mark) in marks.into_iter().enumerate() {
        calls.push(served.send(rows(mark, 1), Priority::Normal, index + 1).await);
    }
    drop(hold);
    for (mark, call) in [0].into_iter().chain(marks).zip(calls) {
        let expected = match mark {
            FAIL => "makes the engine fail",
            PANIC => "makes the engine panic",
            LOSE => "output y came as FP32 [0, 3] from a batch of 1: its first dimension must be the batch",
            good => {
                assert_added(&call.await.unwrap().unwrap(), good, &[1, 3]);
                continue;
            }
        };
        let error = call.await.unwrap().err().unwrap();
        assert_eq!(error.code, ErrorCode::Internal);
        assert!(error.message.contains("adder/1") && error.message.contains(expected), "{error}");
    }
    assert_eq!(served.metric("nv_inference_request_failure", "BACKEND"), 3.0);
    served.nothing_pending();
}

#[tokio::test]
async fn warm_up_runs_every_size_and_its_failure_keeps_the_model_out() {
    let manifest = "[batching]\nmax_batch_size = 5\npreferred_batch_sizes = [2]\n";
    let served = Served::with_dims(manifest, &[None, Some(3)]);
    assert_eq!(served.control.executions(), [vec![0], vec![0; 2], vec![0; 5]]);

    let control = Arc::new(Control::default());
    let load = control.loader(&[None, Some(3)]);
    let engines = Engines::built_in()
        .with("transposed", move |options| load(options).map(|model| Arc::new(Transposed(model)) as Arc<dyn Model>));
    let manifest = "task = \"tensor\"\nengine = \"transposed\"\n[instances]\ncount = 2\n";
    let (pipeline, _) = pipeline(&[("adder", manifest, "model.onnx", b"")], &engines);
    assert!(!pipeline.repository().is_ready());
    let error = pipeline.infer(job(rows(1, 1))).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.message.contains("output y came as FP32 [3, 1] from a batch of 1"), "{error}");
}

/// Exchanges rows and columns of its outputs, against what its spec says.
struct Transposed<T>(T);

impl Model for Transposed<Arc<dyn Model>> {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(Transposed(self.0.open()?)))
    }
}

impl Engine for Transposed<Box<dyn Engine>> {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    fn infer(&mut self, batch: &Batch) -> Result<Vec<Tensor>, EngineError> {
        let outputs = self.0.infer(batch)?.into_iter();
        outputs
            .map(|output| {
                let shape = output.shape().iter().rev().copied().collect();
                Tensor::new(shape, output.into_data())
            })
            .collect()
    }
}

#[tokio::test]
async fn the_wrong_kind_of_request_is_told_what_the_model_is() {
    let adder = Arc::new(Control::default());
    let detector = Arc::new(engine::Control::default());
    let engines =
        Engines::built_in().with("adder", adder.loader(&[None, Some(3)])).with("controlled", detector.loader());
    let models: &[(&str, &str, &str, &[u8])] = &[
        ("adder", "task = \"tensor\"\nengine = \"adder\"\n", "model.onnx", b""),
        ("parts", "engine = \"controlled\"\nlabels = [\"a\", \"b\", \"c\", \"d\"]\n", "model.onnx", b""),
    ];
    let (pipeline, _) = pipeline(models, &engines);
    let picture = |model: &str| DetectJob {
        model: model.into(),
        rollout_key: String::new(),
        version: 0,
        image: ImageSource::Encoded(png(good(1)).into()),
        options: Arc::default(),
        priority: Priority::Normal,
        deadline: None,
    };
    assert_eq!(pipeline.detect(picture("parts")).await.unwrap().detections.len(), 1);
    let error = pipeline.detect(picture("adder")).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert_eq!(error.message, "model `adder` version 1 is a tensor model: it takes tensors, not pictures");
    let error = pipeline.infer(TensorJob { model: "parts".into(), ..job(rows(1, 1)) }).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert_eq!(error.message, "model `parts` version 1 is a detector: it takes pictures, not tensors");
}
