//! What the endpoints tell beside inference, and what they change.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use detectd::config::{Config, Control};
use detectd_conformance::{Network, Operation, Port, Step, onnx};
use detectd_engine::DataType;
use serde_json::json;

use super::{Http, INFER, base64, binary_pictures, output, pictures};
use crate::support::{Daemon, Setup, eventually, good, png};
use crate::swap::{publish, rollout, watching};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_and_its_models_describe_themselves() {
    let daemon = Daemon::start(Setup::default()).await;
    let http = Http::to(&daemon);
    let server = http.get("/v2").await.json();
    assert_eq!(server["name"], "detectd");
    let extensions = server["extensions"].as_array().unwrap();
    assert!(extensions.contains(&json!("binary_tensor_data")) && extensions.contains(&json!("statistics")), "{server}");
    let metadata = http.get("/v2/models/parts").await.json();
    assert_eq!(metadata["inputs"][1], json!({ "name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3] }));
    assert_eq!((&metadata["versions"], &metadata["name"]), (&json!(["1"]), &json!("parts")));
    assert_eq!(http.get("/v2/models/parts/versions/1").await.json(), metadata);
    let config = http.get("/v2/models/parts/config").await.json();
    assert_eq!(config["input"][0]["data_type"], "TYPE_STRING");
    assert_eq!(config["instance_group"][0], json!({ "name": "parts_0", "kind": "KIND_CPU", "count": 1, "gpus": [] }));
    assert_eq!(config["dynamic_batching"]["priority_levels"], 3);
    assert_eq!(http.get("/v2/models/parts/versions/1/config").await.json(), config);
    for (path, status, expected) in [
        ("/v2/models/nothing", 404, "nothing"),
        ("/v2/models/parts/versions/9", 404, "no version 9"),
        ("/v2/models/parts/versions/x/config", 400, "got `x`"),
        ("/v2/models/nothing/stats", 404, "nothing"),
        ("/v2/models/nothing/trace/setting", 404, "nothing"),
        ("/v2/nothing", 404, "there is no endpoint /v2/nothing"),
        ("/v2/models/parts/infer", 405, "expected another method than GET"),
    ] {
        let (got, message) = http.get(path).await.error();
        assert!(got == status && message.contains(expected), "{path}: {got} {message}");
    }
    assert!(http.get("/metrics").await.status == 200 && http.get("/").await.status == 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_is_a_status() {
    let configure = |config: &mut Config| config.server.shutdown_delay = Duration::from_secs(30);
    let mut daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let http = Http::to(&daemon);
    for (path, status) in [
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/parts/ready", 200),
        ("/v2/models/parts/versions/1/ready", 200),
        ("/v2/models/parts/versions/2/ready", 404),
        ("/v2/models/nothing/ready", 404),
        ("/v2/models/parts/versions/one/ready", 400),
    ] {
        assert_eq!(http.get(path).await.status, status, "{path}");
    }
    daemon.begin_stop();
    eventually("readiness ends", async || http.get("/v2/health/ready").await.status == 503).await;
    let (status, message) = http.get("/v2/models/parts/ready").await.error();
    assert!(status == 503 && message.contains("shutting down"), "{message}");
    assert_eq!(http.get("/v2/health/live").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_count_exactly() {
    let daemon = Daemon::start(Setup::default()).await;
    let http = Http::to(&daemon);
    let before = http.get("/v2/models/parts/stats").await.json();
    let before = before["model_stats"][0]["inference_count"].as_u64().unwrap();
    for _ in 0..3 {
        http.post(INFER, &pictures(&[png(good(1))])).await.json();
    }
    for path in ["/v2/models/parts/versions/1/stats", "/v2/models/parts/stats", "/v2/models/stats"] {
        let statistics = http.get(path).await.json();
        let model = &statistics["model_stats"][0];
        assert_eq!((&model["name"], &model["version"]), (&json!("parts"), &json!("1")));
        assert_eq!(model["inference_count"], before + 3, "{path}");
        assert_eq!(model["inference_stats"]["success"]["count"], 3);
        assert!(model["inference_stats"]["compute_infer"]["ns"].as_u64().unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_loaded_and_unloaded_by_name() {
    let configure = |config: &mut Config| {
        config.repository.control = Control::Explicit;
        config.repository.models = vec!["parts".into()];
    };
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let http = Http::to(&daemon);
    let index = async |body: &str| http.send("POST", "/v2/repository/index", &[], body.to_owned()).await.json();
    let ready = json!([{ "name": "parts", "version": "1", "state": "READY", "reason": "" }]);
    assert_eq!(index("").await, ready);
    http.post("/v2/repository/models/parts/unload", &json!({ "parameters": { "unload_dependents": false } }))
        .await
        .json();
    let unloaded = json!([{ "name": "parts", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded" }]);
    assert_eq!(index("{}").await, unloaded);
    assert_eq!(index(r#"{"ready": true}"#).await, json!([]));
    assert_eq!(http.get("/v2/models/parts/ready").await.status, 503);
    let (status, message) = http.post(INFER, &pictures(&[png(good(1))])).await.error();
    assert!(status == 503 && message.contains("unloaded"), "{message}");

    http.send("POST", "/v2/repository/models/parts/load", &[], "").await.json();
    assert_eq!(index("").await, ready);
    let config = r#"{"engine": "controlled", "file": "model.test", "labels": ["a", "b", "c", "d"]}"#;
    let load = json!({ "parameters": { "config": config, "file:7/model.test": base64(b"") } });
    http.post("/v2/repository/models/parts/load", &load).await.json();
    let answer = http.post(INFER, &pictures(&[png(good(1))])).await.json();
    assert_eq!((&answer["model_version"], &output(&answer, "classes")["data"][0]), (&json!("7"), &json!(1)));

    let load = |parameters| json!({ "parameters": parameters });
    for (path, body, status, expected) in [
        ("nothing/load", load(json!({})), 404, "model.toml"),
        ("parts/load", load(json!({ "file:1/model.test": "?" })), 400, "parameters.file:1/model.test: expected base64"),
        ("parts/load", load(json!({ "file:../evil": base64(b"x") })), 400, "file:<version>/<name>"),
        ("parts/load", load(json!({ "config": 7 })), 400, "parameters.config: expected a string"),
        ("parts/load", load(json!({ "config": "{" })), 400, "config: "),
        ("parts/load", json!(7), 400, "the body: invalid type: integer `7`, expected an object"),
        ("parts/load", json!([null]), 400, "the body: invalid type: sequence, expected an object"),
        ("..%2Fparts/load", load(json!({})), 400, "no name of a model"),
        ("parts/unload", load(json!({ "unload_dependents": "yes" })), 400, "unload_dependents"),
        ("nothing/unload", load(json!({})), 404, "nothing"),
    ] {
        let (got, message) = http.post(&format!("/v2/repository/models/{path}"), &body).await.error();
        assert!(got == status && message.contains(expected), "{path} {body}: {got} {message}");
    }
    let fixed = Daemon::start(Setup::default()).await;
    let (status, message) = Http::to(&fixed).post("/v2/repository/models/parts/load", &json!({})).await.error();
    assert!(status == 400 && message.contains("repository.control"), "{status} {message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_tells_what_could_be_loaded_and_why_the_newest_content_does_not_serve() {
    let configure = |config: &mut Config| {
        config.repository.control = Control::Explicit;
        config.repository.models = vec!["parts".into()];
    };
    let daemon = Daemon::start(Setup { models: vec!["parts", "other"], configure, ..Setup::default() }).await;
    let http = Http::to(&daemon);
    let index = async |body: &str| http.send("POST", "/v2/repository/index", &[], body.to_owned()).await.json();
    let other = json!({ "name": "other", "version": "", "state": "UNAVAILABLE", "reason": "it is not loaded" });
    let parts = json!({ "name": "parts", "version": "1", "state": "READY", "reason": "" });
    assert_eq!(index("").await, json!([other, parts]));
    assert_eq!(index(r#"{"ready": true}"#).await, json!([parts]));
    http.send("POST", "/v2/repository/models/other/load", &[], "").await.json();
    let other = json!({ "name": "other", "version": "1", "state": "READY", "reason": "" });
    assert_eq!(index("").await, json!([other, parts]));
    publish(&daemon, 1, "load_fails");
    http.send("POST", "/v2/repository/models/parts/load", &[], "").await.error();
    let index = index("").await;
    assert_eq!(index[1]["state"], "READY", "what served before goes on");
    assert!(index[1]["reason"].as_str().unwrap().contains("wants the loader to fail"), "{index}");
    http.post(INFER, &pictures(&[png(good(1))])).await.json();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protocol_can_be_switched_off() {
    let configure = |config: &mut Config| config.server.rest = false;
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let http = Http::to(&daemon);
    for path in ["/v2", "/v2/health/ready", "/v2/models/parts"] {
        let (status, message) = http.get(path).await.error();
        assert!(status == 404 && message.contains("`server.rest = true`"), "{path}: {status} {message}");
    }
    assert_eq!(http.post(INFER, &pictures(&[png(good(1))])).await.error().0, 404);
    assert_eq!((http.get("/readyz").await.status, http.get("/metrics").await.status), (200, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_lie_in_shared_memory_where_that_is_on() {
    let configure = |config: &mut Config| config.server.shared_memory = true;
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let http = Http::to(&daemon);
    let memory = tempfile::Builder::new().prefix("detectd-it-rest-").tempfile_in("/dev/shm").unwrap();
    let (_, raw) = binary_pictures(&[png(good(2))]);
    memory.as_file().set_len(raw.len() as u64 + 16).unwrap();
    memory.as_file().write_all_at(&raw, 0).unwrap();
    let key = format!("/{}", memory.path().file_name().unwrap().to_str().unwrap());
    let size = raw.len() + 16;
    let region = json!({ "key": key, "offset": 0, "byte_size": size });
    http.post("/v2/systemsharedmemory/region/all/register", &region).await.json();
    let expected = json!([{ "name": "all", "key": key, "offset": 0, "byte_size": size }]);
    assert_eq!(http.get("/v2/systemsharedmemory/status").await.json(), expected);
    assert_eq!(http.get("/v2/systemsharedmemory/region/all/status").await.json(), expected);
    let at = |offset: usize, length: usize| json!({ "shared_memory_region": "all", "shared_memory_offset": offset, "shared_memory_byte_size": length });
    let input = json!({ "name": "image", "datatype": "BYTES", "shape": [1], "parameters": at(0, raw.len()) });
    let outputs = json!([{ "name": "classes", "parameters": at(raw.len(), 16) }, { "name": "num_detections" }]);
    let request = json!({ "inputs": [input], "outputs": outputs, "parameters": { "max_detections": 4, "binary_data_output": false } });
    let answer = http.post(INFER, &request).await.json();
    assert_eq!(output(&answer, "num_detections")["data"], json!([1]));
    let classes = output(&answer, "classes");
    assert!(classes.get("data").is_none(), "{classes}");
    assert_eq!(classes["parameters"], at(raw.len(), 16));
    let mut written = [0; 16];
    memory.as_file().read_exact_at(&mut written, raw.len() as u64).unwrap();
    assert_eq!(written[..8], [2i32.to_le_bytes(), (-1i32).to_le_bytes()].concat());

    for (path, body, status, expected) in [
        ("region/more/register", json!({ "key": key, "byte_size": size + 1 }), 400, "region `more`"),
        ("region/more/register", json!({ "key": "/../etc/passwd", "byte_size": 1 }), 400, "slash"),
        ("region/more/register", json!({ "byte_size": 1 }), 400, "missing field `key`"),
        ("region/more/register", json!({ "key": key, "byte_size": -1 }), 400, "the body: "),
        ("region/all/register", region.clone(), 400, "already"),
    ] {
        let (got, message) = http.post(&format!("/v2/systemsharedmemory/{path}"), &body).await.error();
        assert!(got == status && message.contains(expected), "{path}: {got} {message}");
    }
    http.send("POST", "/v2/systemsharedmemory/region/all/unregister", &[], "").await.json();
    assert_eq!(http.get("/v2/systemsharedmemory/region/all/status").await.error().0, 404);
    http.send("POST", "/v2/systemsharedmemory/unregister", &[], "").await.json();

    let handle = json!({ "raw_handle": { "b64": base64(&[0; 64]) }, "device_id": 0, "byte_size": 64 });
    let (status, message) = http.post("/v2/cudasharedmemory/region/x/register", &handle).await.error();
    assert!(status == 501 && message.contains("GPU"), "{message}");
    assert_eq!(http.get("/v2/cudasharedmemory/status").await.json(), json!([]));
    assert_eq!(http.get("/v2/cudasharedmemory/region/x/status").await.error().0, 404);
    http.send("POST", "/v2/cudasharedmemory/unregister", &[], "").await.json();

    let off = Daemon::start(Setup::default()).await;
    let (status, message) = Http::to(&off).post("/v2/systemsharedmemory/region/a/register", &region).await.error();
    assert!(status == 501 && message.contains("server.shared_memory"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_changed_say_so() {
    let daemon = Daemon::start(Setup::default()).await;
    let http = Http::to(&daemon);
    let off = json!({ "trace_level": ["OFF"] });
    assert_eq!(http.get("/v2/trace/setting").await.json(), off);
    assert_eq!(http.post("/v2/trace/setting", &json!({ "trace_level": "OFF", "trace_rate": null })).await.json(), off);
    assert_eq!(http.post("/v2/models/parts/trace/setting", &off).await.json(), off);
    let (status, message) = http.post("/v2/trace/setting", &json!({ "trace_rate": 5 })).await.error();
    assert!(status == 501 && message.contains("not traced, got `5`"), "{message}");
    let (status, message) = http.post("/v2/trace/setting", &json!({ "level": "OFF" })).await.error();
    assert!(status == 400 && message.contains("there is no `level`"), "{message}");
    // The tests' daemon has no log that it may change.
    let (status, message) = http.get("/v2/logging").await.error();
    assert!(status == 501 && message.contains("log"), "{message}");
    let (status, message) = http.post("/v2/logging", &json!({ "log_info": [] })).await.error();
    assert!(status == 400 && message.contains("log_info: expected true or false"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_answers_with_and_without_a_slash() {
    let daemon = Daemon::start(Setup::default()).await;
    let http = Http::to(&daemon);
    let expected = http.get("/v2").await.json();
    assert!(expected["name"].is_string(), "{expected}");
    assert_eq!(http.get("/v2/").await.json(), expected);
    let (status, message) = http.send("DELETE", "/v2/", &[], "").await.error();
    assert!(status == 405 && message.starts_with("/v2/: "), "{status} {message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_answered_is_named_also_where_the_canary_has_failed() {
    let manifest = "[instances]\ncount = 1\n[rollout]\nstrategy = \"canary\"\nshare = 1.0\nwindow_s = 86400\n\
                    min_requests = 1000000\n";
    let daemon = Daemon::start(Setup { manifest, ..watching() }).await;
    publish(&daemon, 2, "fails_at 1\nmoves_boxes");
    eventually("it is on trial", async || rollout(&daemon).await.trial.is_some()).await;
    let http = Http::to(&daemon);
    let ask = async |class| {
        let answer = http.post(INFER, &pictures(&[png(good(class))])).await.json();
        let left = output(&answer, "boxes")["data"][0].as_f64().unwrap();
        (answer["model_version"].as_str().unwrap().to_owned(), left > 0.0)
    };
    assert_eq!(ask(2).await, ("2".to_owned(), true), "the one on trial moves its boxes");
    for _ in 0..3 {
        assert_eq!(ask(1).await, ("1".to_owned(), false));
    }
    let statistics = http.get("/v2/models/parts/stats").await.json();
    for (version, succeeded, failed) in [("1", 3, 0), ("2", 1, 3)] {
        let of = statistics["model_stats"].as_array().unwrap().iter().find(|of| of["version"] == version).unwrap();
        let figures = &of["inference_stats"];
        assert_eq!(figures["success"]["count"], succeeded, "{of}");
        assert_eq!(figures["fail"]["count"], failed, "{of}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_json_cannot_hold_is_refused_with_the_advice_to_take_binary_data() {
    let port = |name| Port { name, data_type: DataType::Fp32, dims: vec![1, 2] };
    let large = Operation::Affine { scale: vec![1.0, 3e38], offset: vec![0.0; 2], columns: true };
    let steps = vec![Step { operation: large, inputs: vec!["x"], output: "y" }];
    let network = Network { name: "large", inputs: vec![port("x")], steps, outputs: vec![port("y")] };
    let repository = tempfile::tempdir().unwrap();
    let folder = repository.path().join("large/1");
    fs::create_dir_all(&folder).unwrap();
    onnx::write(&network, None, &folder.join("model.onnx")).unwrap();
    fs::write(folder.join("../model.toml"), "task = \"tensor\"\n[instances]\ncount = 1\n").unwrap();
    let daemon = Daemon::start_in(repository, Setup { models: Vec::new(), ..Setup::default() }).await;
    let http = Http::to(&daemon);
    let ask = async |x: f32, binary: bool| {
        let input = json!({ "name": "x", "datatype": "FP32", "shape": [1, 1, 2], "data": [1.0, x] });
        let output = json!({ "name": "y", "parameters": { "binary_data": binary } });
        http.post("/v2/models/large/infer", &json!({ "inputs": [input], "outputs": [output] })).await
    };
    let finite = ask(0.5, false).await.json();
    assert_eq!(output(&finite, "y")["data"][1].as_f64().map(|value| value as f32), Some(1.5e38));
    let (status, error) = ask(2.0, false).await.error();
    assert_eq!(status, 400);
    assert!(error.starts_with("output `y`: element 1 is inf") && error.contains("binary_data"), "{error}");
    let infinite = ask(2.0, true).await;
    assert_eq!(infinite.binary().1, [1f32.to_le_bytes(), f32::INFINITY.to_le_bytes()].concat());
}
