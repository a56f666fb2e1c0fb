//! What the KServe v2 service tells beside inference: readiness, statistics, metadata, settings, shared memory.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;

use detectd::config::Config;
use detectd_proto::inference as wire;
use detectd_proto::inference::model_config::SchedulingChoice;
use detectd_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tonic::Code;

use super::{Client, client, input, ints, number, parameters, request, text};
use crate::support::{Daemon, Setup, eventually, good, png, request as detect_request};
use crate::swap::{publish, watching};

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
async fn statistics_tell_the_size_of_the_weights_that_serve() {
    let daemon = Daemon::start(watching()).await;
    let mut client = client(&daemon).await;
    let mut memory = async || {
        let of = wire::ModelStatisticsRequest { name: "parts".into(), ..Default::default() };
        let statistics = client.model_statistics(of).await.unwrap().into_inner().model_stats.remove(0);
        (statistics.version, statistics.memory_usage)
    };
    assert_eq!(memory().await, ("1".to_owned(), vec![]), "an empty file says nothing");
    publish(&daemon, 2, "takes 1\n");
    let expected = wire::MemoryUsage { r#type: "CPU".into(), id: 0, byte_size: 8 };
    eventually("version 2 serves", async || memory().await == ("2".to_owned(), vec![expected.clone()])).await;
    // What does not serve is not counted.
    publish(&daemon, 2, "load_fails and is longer");
    eventually("it is refused", || async {
        daemon.metric("detectd_model_swaps_total", &["outcome=\"failed\""]).await >= 1.0
    })
    .await;
    assert_eq!(memory().await, ("2".to_owned(), vec![expected]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_and_its_models_describe_themselves() {
    let manifest = "[batching]\npreserve_order = true\nqueue_timeout_ms = 9000\nqueue_capacity = 33\n";
    let daemon = Daemon::start(Setup { models: vec!["parts", "other"], manifest, ..Setup::default() }).await;
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
    assert_eq!((config.backend.as_str(), config.default_model_filename.as_str()), ("controlled", "model.test"));
    let latest =
        wire::model_version_policy::PolicyChoice::Latest(wire::model_version_policy::Latest { num_versions: 1 });
    assert_eq!(config.version_policy.unwrap().policy_choice, Some(latest));
    let Some(SchedulingChoice::DynamicBatching(batching)) = config.scheduling_choice else { panic!("no batching") };
    let policy = batching.default_queue_policy.unwrap();
    assert!(batching.preserve_ordering);
    assert_eq!((policy.default_timeout_microseconds, policy.max_queue_size), (9_000_000, 33));
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
async fn reflection_knows_the_service() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

    let daemon = Daemon::start(Setup::default()).await;
    let question = MessageRequest::FileContainingSymbol("inference.GRPCInferenceService".into());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(daemon.channel().await);
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer: ServerReflectionResponse = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else { panic!("{answer:?}") };
    let name = b"inference/grpc_service.proto";
    assert!(files.file_descriptor_proto.iter().any(|file| file.windows(name.len()).any(|part| part == name)));
}
