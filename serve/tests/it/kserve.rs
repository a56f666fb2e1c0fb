//! The KServe v2 service, as its clients call it.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;

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
use crate::support::{Daemon, Setup, eventually, good, png, request as detect_request};

type Client = GrpcInferenceServiceClient<Channel>;

async fn client(daemon: &Daemon) -> Client {
    GrpcInferenceServiceClient::new(daemon.channel().await)
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), ..Default::default() }
}

/// A request for encoded pictures, raw.
fn request(pictures: &[Vec<u8>]) -> wire::ModelInferRequest {
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
async fn overload_refuses_inference_and_answers_health() {
    let configure = |config: &mut Config| {
        config.server.max_concurrent_requests = NonZeroUsize::new(1).unwrap();
    };
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let hold = daemon.control.hold();
    let mut detect = daemon.client().await;
    let busy = tokio::spawn(async move { detect.detect(detect_request(good(1))).await });
    eventually("busy", || async { daemon.metric("nv_inference_pending_request_count", &[]).await == 1.0 }).await;
    let mut client = client(&daemon).await;
    let status = client.model_infer(request(&[png(good(1))])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.metadata().contains_key("retry-after-ms"));
    let ready = client.model_ready(wire::ModelReadyRequest { name: "parts".into(), ..Default::default() }).await;
    assert!(ready.unwrap().into_inner().ready);
    assert!(client.server_ready(wire::ServerReadyRequest {}).await.unwrap().into_inner().ready);
    client.model_statistics(wire::ModelStatisticsRequest::default()).await.unwrap();
    drop(hold);
    busy.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_is_that_of_the_health_service() {
    let configure = |config: &mut Config| config.server.shutdown_delay = std::time::Duration::from_secs(30);
    let mut daemon = Daemon::start(Setup { models: vec!["parts", "other"], configure, ..Setup::default() }).await;
    let mut client = client(&daemon).await;
    let ready = async |client: &mut Client, name: &str, version: &str| {
        let request = wire::ModelReadyRequest { name: name.into(), version: version.into() };
        client.model_ready(request).await.map(|answer| answer.into_inner().ready).map_err(|status| status.code())
    };
    assert!(client.server_live(wire::ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(wire::ServerReadyRequest {}).await.unwrap().into_inner().ready);
    assert_eq!(ready(&mut client, "other", "").await, Ok(true));
    assert_eq!(ready(&mut client, "parts", "1").await, Ok(true));
    assert_eq!(ready(&mut client, "parts", "2").await, Ok(false));
    assert_eq!(ready(&mut client, "nothing", "").await, Ok(false));
    assert_eq!(ready(&mut client, "parts", "one").await, Err(Code::InvalidArgument));
    daemon.begin_stop();
    eventually("readiness ends", async || {
        !client.server_ready(wire::ServerReadyRequest {}).await.unwrap().into_inner().ready
    })
    .await;
    assert_eq!(ready(&mut client, "parts", "").await, Ok(false));
    assert!(client.server_live(wire::ServerLiveRequest {}).await.unwrap().into_inner().live);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_count_exactly() {
    let manifest = "[instances]\ncount = 1\n[batching]\nmax_batch_size = 2\nmax_delay_us = 30000000\n";
    let daemon = Daemon::start(Setup { manifest, ..Setup::default() }).await;
    let mut client = client(&daemon).await;
    for _ in 0..3 {
        client.model_infer(request(&[png(good(1)), png(good(2))])).await.unwrap();
    }
    client.model_infer(request(&[b"no picture".to_vec()])).await.unwrap_err();
    let of = |name: &str| wire::ModelStatisticsRequest { name: name.into(), ..Default::default() };
    let all = client.model_statistics(of("")).await.unwrap().into_inner();
    assert_eq!(client.model_statistics(of("parts")).await.unwrap().into_inner(), all);
    let [statistics] = &all.model_stats[..] else { panic!("{all:?}") };
    assert_eq!((statistics.inference_count, statistics.execution_count), (6, 3));
    assert!(statistics.last_inference > 1_600_000_000_000, "milliseconds of this century");
    let sums = statistics.inference_stats.as_ref().unwrap();
    assert_eq!((sums.success.unwrap().count, sums.fail.unwrap().count), (6, 1));
    assert_eq!(sums.queue.unwrap().count, 6);
    assert_eq!(
        sums.compute_infer,
        Some(wire::StatisticDuration { count: 6, ns: 60_000 }),
        "10 us each, as the engine says"
    );
    assert!(sums.success.unwrap().ns > sums.queue.unwrap().ns);
    let [batch] = &statistics.batch_stats[..] else { panic!("{statistics:?}") };
    assert_eq!(batch.batch_size, 2);
    assert_eq!(batch.compute_infer, Some(wire::StatisticDuration { count: 3, ns: 30_000 }));
    let status = client.model_statistics(of("nothing")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_and_its_models_describe_themselves() {
    let daemon = Daemon::start(Setup { models: vec!["parts", "other"], ..Setup::default() }).await;
    let mut client = client(&daemon).await;
    let server = client.server_metadata(wire::ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(server.name, "detectd");
    assert!(server.extensions.contains(&"statistics".to_owned()), "{server:?}");
    assert!(!server.extensions.contains(&"system_shared_memory".to_owned()), "it is off");

    let named = wire::ModelMetadataRequest { name: "parts".into(), ..Default::default() };
    let model = client.model_metadata(named).await.unwrap().into_inner();
    assert_eq!((model.versions, model.platform.as_str()), (vec!["1".to_owned()], "detectd_controlled"));
    assert_eq!(model.properties["labels"], r#"["parts-0","parts-1","parts-2","parts-3"]"#);
    let named = wire::ModelConfigRequest { name: "parts".into(), version: "1".into() };
    let config = client.model_config(named).await.unwrap().into_inner().config.unwrap();
    assert_eq!(config.backend, "controlled");
    // A batch of what the configuration says is what the metadata says.
    for (metadata, input) in model.inputs.iter().zip(&config.input) {
        assert_eq!((metadata.name.as_str(), &metadata.shape[1..]), (input.name.as_str(), &input.dims[..]));
    }
    for (metadata, output) in model.outputs.iter().zip(&config.output) {
        assert_eq!((metadata.name.as_str(), &metadata.shape[1..]), (output.name.as_str(), &output.dims[..]));
    }
    let unknown = wire::ModelConfigRequest { name: "nothing".into(), ..Default::default() };
    assert_eq!(client.model_config(unknown).await.unwrap_err().code(), Code::NotFound);

    let index = client.repository_index(wire::RepositoryIndexRequest::default()).await.unwrap().into_inner();
    let models: Vec<_> = index.models.iter().map(|model| (model.name.as_str(), model.state.as_str())).collect();
    assert_eq!(models, [("other", "READY"), ("parts", "READY")]);
    let named = wire::RepositoryIndexRequest { repository_name: "elsewhere".into(), ready: false };
    assert_eq!(client.repository_index(named).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_lie_in_shared_memory_where_that_is_on() {
    let configure = |config: &mut Config| {
        config.server.shared_memory = true;
        config.server.max_message_bytes = 100_000;
    };
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let mut client = client(&daemon).await;
    let memory = tempfile::Builder::new().prefix("detectd-it-").tempfile_in("/dev/shm").unwrap();
    let file = memory.as_file();
    file.set_len(1 << 20).unwrap();
    let pixels = good(3).repeat(50);
    file.write_all_at(&pixels, 100).unwrap();
    let key = format!("/{}", memory.path().file_name().unwrap().to_string_lossy());
    let register = wire::SystemSharedMemoryRegisterRequest { name: "mine".into(), key, offset: 0, byte_size: 1 << 20 };
    client.system_shared_memory_register(register.clone()).await.unwrap();

    let place = |offset, byte_size| {
        parameters(&[
            ("shared_memory_region", text("mine")),
            ("shared_memory_offset", number(offset)),
            ("shared_memory_byte_size", number(byte_size)),
        ])
    };
    let ask = |from: (i64, i64), to: (i64, i64)| wire::ModelInferRequest {
        inputs: vec![InferInputTensor {
            parameters: place(from.0, from.1),
            ..input("images", "UINT8", &[1, 5, 10, 3])
        }],
        outputs: vec![
            InferRequestedOutputTensor { name: "classes".into(), parameters: place(to.0, to.1) },
            InferRequestedOutputTensor { name: "num_detections".into(), ..Default::default() },
        ],
        parameters: parameters(&[("max_detections", number(2))]),
        ..wire::ModelInferRequest::default()
    };
    let response = client.model_infer(ask((100, 150), (1000, 64))).await.unwrap().into_inner();
    assert_eq!(ints(&response, "num_detections"), [1]);
    assert!(response.raw_output_contents[0].is_empty(), "it lies in the memory");
    assert_eq!(response.outputs[0].parameters["shared_memory_byte_size"], number(8));
    let mut classes = [0; 8];
    file.read_exact_at(&mut classes, 1000).unwrap();
    assert_eq!(classes, [3, 0, 0, 0, 255, 255, 255, 255]);

    let cases = [
        (ask((100, 149), (1000, 64)), Code::InvalidArgument, "expected 150 elements of UINT8"),
        (ask((1 << 20, 150), (1000, 64)), Code::InvalidArgument, "a part of its 1048576 bytes"),
        (ask((0, 100_001), (1000, 64)), Code::InvalidArgument, "at most 100000 bytes"),
        (ask((100, 150), (1000, 7)), Code::InvalidArgument, "the output has 8 bytes, more than 7"),
    ];
    for (request, code, expected) in cases {
        let status = client.model_infer(request).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(expected), "{}", status.message());
    }
    file.set_len(200).unwrap();
    let status = client.model_infer(ask((100, 150), (1000, 64))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("200 bytes now"), "{}", status.message());

    client.system_shared_memory_unregister(wire::SystemSharedMemoryUnregisterRequest::default()).await.unwrap();
    let status = client.model_infer(ask((100, 150), (1000, 64))).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);

    let off = Daemon::start(Setup::default()).await;
    let status = self::client(&off).await.system_shared_memory_register(register).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("server.shared_memory"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_says_so() {
    let daemon = Daemon::start(Setup::default()).await;
    let mut client = client(&daemon).await;
    let cuda = wire::CudaSharedMemoryRegisterRequest { name: "x".into(), ..Default::default() };
    assert_eq!(client.cuda_shared_memory_register(cuda).await.unwrap_err().code(), Code::Unimplemented);
    let status = client.log_settings(wire::LogSettingsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "an embedded daemon's log belongs to its process");
    let trace = |name: &str, value: &str| {
        let value = wire::trace_setting_request::SettingValue { value: vec![value.into()] };
        wire::TraceSettingRequest { settings: HashMap::from([(name.into(), value)]), model_name: String::new() }
    };
    let off = client.trace_setting(trace("trace_level", "OFF")).await.unwrap().into_inner();
    assert_eq!(off.settings["trace_level"].value, ["OFF"]);
    let on = client.trace_setting(trace("trace_level", "TIMESTAMPS")).await.unwrap_err();
    assert_eq!(on.code(), Code::Unimplemented);
    assert_eq!(client.trace_setting(trace("level", "OFF")).await.unwrap_err().code(), Code::InvalidArgument);
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
