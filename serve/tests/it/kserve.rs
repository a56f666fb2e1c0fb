//! The KServe v2 service, as its clients call it: inference.

mod server;
mod tensors;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;

use bytes::Bytes;
use detectd::config::Config;
use detectd_proto::inference as wire;
use detectd_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use detectd_proto::inference::infer_parameter::ParameterChoice;
use detectd_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::engine::FAIL;
use crate::support::{Daemon, Setup, eventually, good, png};

type Client = GrpcInferenceServiceClient<Channel>;

async fn client(daemon: &Daemon) -> Client {
    GrpcInferenceServiceClient::new(daemon.channel().await)
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), ..Default::default() }
}

/// A request for encoded pictures, raw.
pub fn request(pictures: &[Vec<u8>]) -> wire::ModelInferRequest {
    let mut raw = Vec::new();
    for picture in pictures {
        raw.extend((picture.len() as u32).to_le_bytes());
        raw.extend(picture);
    }
    wire::ModelInferRequest {
        model_name: "parts".into(),
        id: "7".into(),
        inputs: vec![input("image", "BYTES", &[pictures.len() as i64])],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    }
}

fn text(value: &str) -> wire::InferParameter {
    wire::InferParameter { parameter_choice: Some(ParameterChoice::StringParam(value.into())) }
}

fn number(value: i64) -> wire::InferParameter {
    wire::InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(value)) }
}

fn parameters(pairs: &[(&str, wire::InferParameter)]) -> HashMap<String, wire::InferParameter> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn shape(response: &wire::ModelInferResponse, name: &str) -> Vec<i64> {
    response.outputs.iter().find(|output| output.name == name).unwrap().shape.clone()
}

fn raw(response: &wire::ModelInferResponse, name: &str) -> Bytes {
    let index = response.outputs.iter().position(|output| output.name == name).unwrap();
    response.raw_output_contents[index].clone()
}

fn ints(response: &wire::ModelInferResponse, name: &str) -> Vec<i32> {
    raw(response, name).as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
}

fn floats(response: &wire::ModelInferResponse, name: &str) -> Vec<f32> {
    raw(response, name).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_are_answered_with_padded_tensors() {
    let daemon = Daemon::start(Setup::default()).await;
    let mut client = client(&daemon).await;
    let mut two = request(&[png(good(2)), png([1, 0, 0])]);
    two.parameters = parameters(&[("max_detections", number(3))]);
    let response = client.model_infer(two.clone()).await.unwrap().into_inner();
    assert_eq!((response.model_name.as_str(), response.model_version.as_str()), ("parts", "1"));
    assert_eq!(response.id, "7");
    let names: Vec<_> =
        response.outputs.iter().map(|output| (output.name.as_str(), output.datatype.as_str())).collect();
    let expected = [("num_detections", "INT32"), ("boxes", "FP32"), ("scores", "FP32"), ("classes", "INT32")];
    assert_eq!(names, expected);
    assert_eq!(shape(&response, "num_detections"), [2, 1]);
    assert_eq!(shape(&response, "boxes"), [2, 3, 4]);
    assert_eq!(ints(&response, "num_detections"), [1, 0], "the second one scores nothing");
    assert_eq!(ints(&response, "classes"), [2, -1, -1, -1, -1, -1]);
    assert_eq!(floats(&response, "scores"), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let boxes = floats(&response, "boxes");
    assert_eq!(boxes.len(), 24);
    assert_eq!(boxes[..8], [0.0, 0.0, 20.0, 10.0, 0.0, 0.0, 0.0, 0.0], "in the picture's own pixels");

    // The same typed, and as a column.
    let typed = wire::InferTensorContents {
        bytes_contents: vec![png(good(2)).into(), png([1, 0, 0]).into()],
        ..Default::default()
    };
    let mut column = input("image", "BYTES", &[2, 1]);
    column.contents = Some(typed);
    let same = wire::ModelInferRequest { inputs: vec![column], raw_input_contents: Vec::new(), ..two.clone() };
    assert_eq!(client.model_infer(same).await.unwrap().into_inner(), response);

    // The same as pixels.
    let pixels = [good(2).repeat(200), [1, 0, 0].repeat(200)].concat();
    let same = wire::ModelInferRequest {
        inputs: vec![input("images", "UINT8", &[2, 10, 20, 3])],
        raw_input_contents: vec![pixels.into()],
        ..two.clone()
    };
    assert_eq!(client.model_infer(same).await.unwrap().into_inner(), response);

    // What is asked for, in the order in which it is asked for.
    let outputs = ["classes", "num_detections"];
    let outputs = outputs.map(|name| InferRequestedOutputTensor { name: name.into(), ..Default::default() });
    let some = wire::ModelInferRequest { outputs: outputs.to_vec(), ..two };
    let response = client.model_infer(some).await.unwrap().into_inner();
    assert_eq!(response.raw_output_contents.len(), 2);
    assert_eq!((response.outputs[0].name.as_str(), ints(&response, "num_detections")), ("classes", vec![1, 0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_arrive_as_those_of_the_detection_service_do() {
    let daemon = Daemon::start(Setup::default()).await;
    let mut client = client(&daemon).await;
    let half = png([2, 127, 0]);
    let cases = [
        (vec![("score_threshold", text("0.4"))], 1),
        (vec![("score_threshold", text("0.6"))], 0),
        (vec![("class_ids", text("1,2"))], 1),
        (vec![("class_ids", text("1"))], 0),
        (vec![("class_labels", text("parts-2"))], 1),
        (vec![("class_labels", text("parts-0,parts-3"))], 0),
        (vec![("nms", text("greedy")), ("nms_iou_threshold", text("0.5"))], 1),
    ];
    for (options, expected) in cases {
        let mut request = request(std::slice::from_ref(&half));
        request.parameters = parameters(&options);
        let response = client.model_infer(request).await.unwrap().into_inner();
        assert_eq!(ints(&response, "num_detections"), [expected], "{options:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_of_one_request_are_gathered() {
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 4\nmax_delay_us = 30000000\n";
    let daemon = Daemon::start(Setup { manifest, ..Setup::default() }).await;
    let pictures: Vec<_> = (0..4).map(|class| png(good(class))).collect();
    let response = client(&daemon).await.model_infer(request(&pictures)).await.unwrap().into_inner();
    assert_eq!(ints(&response, "num_detections"), [1; 4]);
    assert_eq!(daemon.control.take_executions(), [4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_not_refused_for_its_own_number_of_images() {
    let manifest = "[instances]\ncount = 1\n[batching]\nqueue_capacity = 4\n[options]\nmax_detections = 100000\n";
    let daemon = Daemon::start(Setup { manifest, ..Setup::default() }).await;
    let pictures: Vec<_> = (0..16).map(|index| png(good(index % 4))).collect();
    let response = client(&daemon).await.model_infer(request(&pictures)).await.unwrap().into_inner();
    assert_eq!(ints(&response, "num_detections"), [1; 16]);
    let boxes = response.outputs.iter().find(|output| output.name == "boxes").unwrap();
    assert_eq!(boxes.shape, [16, 1000, 4], "as many places as limits.max_detections allows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_inferred_is_named() {
    let configure = |config: &mut Config| {
        config.limits.max_images_per_request = NonZeroUsize::new(4).unwrap();
        config.limits.max_image_pixels = 1000;
    };
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let mut client = client(&daemon).await;
    let base = || request(&[png(good(1))]);
    let with = |change: &dyn Fn(&mut wire::ModelInferRequest)| {
        let mut request = base();
        change(&mut request);
        request
    };
    let tensor = |name: &str, datatype: &str, shape: &[i64], bytes: usize| {
        let mut request = base();
        request.inputs = vec![input(name, datatype, shape)];
        request.raw_input_contents = vec![vec![0; bytes].into()];
        request
    };
    let output = |name: &str| InferRequestedOutputTensor { name: name.into(), ..Default::default() };
    let cases: Vec<(wire::ModelInferRequest, Code, &str)> = vec![
        (with(&|r| r.model_name = "nothing".into()), Code::NotFound, "nothing"),
        (with(&|r| r.model_version = "9".into()), Code::NotFound, "no version 9"),
        (with(&|r| r.model_version = "-1".into()), Code::InvalidArgument, "got `-1`"),
        (with(&|r| r.model_version = "0".into()), Code::InvalidArgument, "got `0`"),
        (with(&|r| r.id = "x".repeat(129)), Code::InvalidArgument, "at most 128 bytes, got 129"),
        (with(&|r| r.inputs.clear()), Code::InvalidArgument, "raw_input_contents: expected 0"),
        (
            with(&|r| {
                r.inputs.clear();
                r.raw_input_contents.clear();
            }),
            Code::InvalidArgument,
            "inputs: expected one, `image` or `images`, got 0",
        ),
        (with(&|r| r.raw_input_contents.clear()), Code::InvalidArgument, "input `image` has no contents"),
        (with(&|r| r.raw_input_contents.push(Bytes::new())), Code::InvalidArgument, "expected 1, one for each"),
        (
            with(&|r| r.inputs[0].contents = Some(wire::InferTensorContents::default())),
            Code::InvalidArgument,
            "beside raw_input_contents",
        ),
        (
            with(&|r| {
                r.inputs.push(input("image", "BYTES", &[1]));
                r.raw_input_contents.push(Bytes::new());
            }),
            Code::InvalidArgument,
            "`image` is there twice",
        ),
        (with(&|r| r.inputs[0].parameters = parameters(&[("x", text("y"))])), Code::InvalidArgument, "there is no `x`"),
        (with(&|r| r.parameters = parameters(&[("sigma", text("1"))])), Code::InvalidArgument, "there is no `sigma`"),
        (
            with(&|r| r.parameters = parameters(&[("max_detections", number(0))])),
            Code::InvalidArgument,
            "max_detections",
        ),
        (
            with(&|r| r.parameters = parameters(&[("class_labels", text("cat"))])),
            Code::InvalidArgument,
            "no class `cat`",
        ),
        (with(&|r| r.outputs = vec![output("masks")]), Code::InvalidArgument, "no output `masks`"),
        (with(&|r| r.outputs = vec![output("boxes"), output("boxes")]), Code::InvalidArgument, "twice"),
        (tensor("picture", "BYTES", &[1], 4), Code::InvalidArgument, "no input `picture`"),
        (tensor("image", "FP8", &[1], 4), Code::InvalidArgument, "got `FP8`"),
        (tensor("image", "UINT8", &[4], 4), Code::InvalidArgument, "expected BYTES [N], picture files, got UINT8 [4]"),
        (tensor("image", "BYTES", &[1, 2], 8), Code::InvalidArgument, "got BYTES [1, 2]"),
        (tensor("image", "BYTES", &[], 4), Code::InvalidArgument, "got BYTES []"),
        (tensor("image", "BYTES", &[0], 0), Code::InvalidArgument, "expected 1 to 4 images"),
        (tensor("image", "BYTES", &[5], 20), Code::InvalidArgument, "expected 1 to 4 images"),
        (tensor("image", "BYTES", &[1], 4), Code::InvalidArgument, "0 bytes"),
        (tensor("images", "UINT8", &[1, 5, 5, 3], 74), Code::InvalidArgument, "expected 75 elements of UINT8"),
        (tensor("images", "UINT8", &[5, 5, 3], 75), Code::InvalidArgument, "expected UINT8 [N, H, W, 3]"),
        (tensor("images", "UINT8", &[1, 3, 5, 5], 75), Code::InvalidArgument, "expected UINT8 [N, H, W, 3]"),
        (tensor("images", "UINT8", &[1, 0, 5, 3], 0), Code::InvalidArgument, "5x0"),
        (tensor("images", "UINT8", &[1, 100, 100, 3], 30_000), Code::InvalidArgument, "10000 pixels"),
        (tensor("images", "FP32", &[1, 3, 8, 8], 768), Code::InvalidArgument, "FP32 [N, 3, 32, 32]"),
        (
            tensor("images", "FP32", &[1, 3, 32, 32], 12_288),
            Code::InvalidArgument,
            "the engine `controlled` prepares images by itself",
        ),
        (request(&[png(good(1)), b"GIF89a".to_vec()]), Code::InvalidArgument, "image 1: image: "),
        (request(&[png(FAIL)]), Code::Internal, "makes the engine fail"),
    ];
    for (request, code, expected) in cases {
        let status = client.model_infer(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{expected}: {}", status.message());
        assert!(status.message().contains(expected), "{expected}: {}", status.message());
    }
    client.model_infer(base()).await.expect("it still answers");
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_answers_each_request_under_its_id() {
    let daemon = Daemon::start(Setup::default()).await;
    let requests: Vec<_> = (0..30u8)
        .map(|index| {
            let mut one = request(&[if index % 5 == 2 { b"no picture".to_vec() } else { png(good(index % 4)) }]);
            one.id = index.to_string();
            one
        })
        .collect();
    let mut answers =
        client(&daemon).await.model_stream_infer(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut seen = BTreeSet::new();
    while let Some(answer) = answers.next().await {
        let wire::ModelStreamInferResponse { error_message, infer_response } = answer.unwrap();
        let response = infer_response.unwrap();
        let index: i32 = response.id.parse().unwrap();
        if index % 5 == 2 {
            let expected = format!("[request id: {index}] INVALID_ARGUMENT: image: ");
            assert!(error_message.starts_with(&expected), "{error_message}");
        } else {
            assert_eq!(error_message, "");
            assert_eq!(ints(&response, "classes")[0], index % 4);
        }
        assert!(response.parameters.contains_key("triton_final_response"));
        assert!(seen.insert(index), "answered twice");
    }
    assert_eq!(seen.len(), 30);
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_is_kept_whoever_states_it() {
    let daemon = Daemon::start(Setup::default()).await;
    let hold = daemon.control.hold();
    let mut client = client(&daemon).await;
    let mut late = request(&[png(good(1))]);
    late.parameters = parameters(&[("timeout", number(20_000))]);
    let status = client.model_infer(late).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{}", status.message());
    drop(hold);
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_leaves_nothing_behind() {
    let daemon = Daemon::start(Setup::default()).await;
    let hold = daemon.control.hold();
    let mut client = client(&daemon).await;
    let call = tokio::spawn(async move {
        client.model_infer(Request::new(request(&[png(good(1)), png(good(2)), png(good(3))]))).await
    });
    eventually("three images wait", || async { daemon.metric("nv_inference_pending_request_count", &[]).await == 3.0 })
        .await;
    call.abort();
    daemon.nothing_pending().await;
    drop(hold);
    assert_eq!(daemon.metric("nv_inference_request_failure", &["CANCELED"]).await, 3.0);
}
