//! The KServe v2 protocol over HTTP: JSON and binary tensors, what clients beside the Python one may send, and errors.

mod limits;
mod server;

use std::fs;
use std::io::{Read as _, Write as _};

use bytes::Bytes;
use detectd_conformance::{Network, Operation, Port, Step, onnx};
use detectd_engine::DataType;
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tonic::codegen::http::{HeaderMap, Request};

use crate::engine::FAIL;
use crate::support::{Daemon, Setup, good, png};

const INFER: &str = "/v2/models/parts/infer";
const HEADER_LENGTH: &str = "inference-header-content-length";

/// A client that keeps its connections, and where it sends.
struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    address: std::net::SocketAddr,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Http {
    fn to(daemon: &Daemon) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), address: daemon.http }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.client.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// Posts JSON with binary data behind it.
    async fn binary(&self, path: &str, json: &Value, data: &[u8]) -> Answer {
        let json = json.to_string();
        let length = json.len().to_string();
        self.send("POST", path, &[(HEADER_LENGTH, &length)], [json.as_bytes(), data].concat()).await
    }
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    fn error(&self) -> (u16, String) {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"));
        (self.status, body["error"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned())
    }

    /// The JSON before binary data, and the data.
    #[track_caller]
    fn binary(&self) -> (Value, &[u8]) {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/octet-stream");
        let length: usize = self.headers[HEADER_LENGTH].to_str().unwrap().parse().unwrap();
        (serde_json::from_slice(&self.body[..length]).unwrap(), &self.body[length..])
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A request for pictures in base64.
fn pictures(pictures: &[Vec<u8>]) -> Value {
    let data: Vec<_> = pictures.iter().map(|picture| base64(picture)).collect();
    json!({ "inputs": [{
        "name": "image", "datatype": "BYTES", "shape": [pictures.len()],
        "parameters": { "content_type": "base64" }, "data": data,
    }]})
}

/// The same as binary data: what goes before, and the data.
fn binary_pictures(pictures: &[Vec<u8>]) -> (Value, Vec<u8>) {
    let mut raw = Vec::new();
    for picture in pictures {
        raw.extend((picture.len() as u32).to_le_bytes());
        raw.extend(picture);
    }
    let parameters = json!({ "binary_data_size": raw.len() });
    let input = json!({ "name": "image", "datatype": "BYTES", "shape": [pictures.len()], "parameters": parameters });
    (json!({ "inputs": [input] }), raw)
}

fn output<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let outputs = answer["outputs"].as_array().unwrap();
    outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("no {name} in {answer}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_get_the_same_answer_in_every_form() {
    let daemon = Daemon::start(Setup::default()).await;
    let http = Http::to(&daemon);
    let two = [png(good(2)), png([1, 0, 0])];
    let mut request = pictures(&two);
    request["id"] = json!("7");
    request["parameters"] = json!({ "max_detections": 2 });
    let answer = http.post(INFER, &request).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert!(!answer.headers.contains_key(HEADER_LENGTH));
    let answer = answer.json();
    let expected = json!({
        "id": "7", "model_name": "parts", "model_version": "1",
        "outputs": [
            { "name": "num_detections", "datatype": "INT32", "shape": [2, 1], "data": [1, 0] },
            { "name": "boxes", "datatype": "FP32", "shape": [2, 2, 4],
              "data": [0.0, 0.0, 20.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0] },
            { "name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 0.0, 0.0, 0.0] },
            { "name": "classes", "datatype": "INT32", "shape": [2, 2], "data": [2, -1, -1, -1] },
        ],
    });
    assert_eq!(answer, expected);

    // Binary, with the version in the path.
    let (mut json, raw) = binary_pictures(&two);
    json["id"] = json!("7");
    json["parameters"] = json!({ "max_detections": 2 });
    assert_eq!(http.binary("/v2/models/parts/versions/1/infer", &json, &raw).await.json(), expected);

    // Pixels, flat and nested.
    let pixels = |first: [u8; 3]| vec![vec![first; 20]; 10];
    let nested = json!([pixels(good(2)), pixels([1, 0, 0])]);
    let flat: Vec<u8> = [good(2).repeat(200), [1, 0, 0].repeat(200)].concat();
    for data in [nested, json!(flat)] {
        let input = json!({ "name": "images", "datatype": "UINT8", "shape": [2, 10, 20, 3], "data": data });
        let request = json!({ "id": "7", "inputs": [input], "parameters": { "max_detections": 2 } });
        assert_eq!(http.post(INFER, &request).await.json(), expected);
    }

    // Nothing but a picture; the answer is binary.
    let answer = http.send("POST", INFER, &[(HEADER_LENGTH, "0")], two[0].clone()).await;
    let (json, data) = answer.binary();
    assert_eq!(output(&json, "num_detections")["parameters"]["binary_data_size"], 4);
    assert_eq!(data[..4], 1i32.to_le_bytes());
    daemon.nothing_pending().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_output_has_the_form_that_is_asked_for() {
    let daemon = Daemon::start(Setup::default()).await;
    let http = Http::to(&daemon);
    let mut request = pictures(&[png(good(3))]);
    request["parameters"] = json!({ "binary_data_output": true, "max_detections": 1 });
    request["outputs"] = json!([
        { "name": "classes" },
        { "name": "num_detections", "parameters": { "binary_data": false } },
        { "name": "scores", "parameters": { "binary_data": true } },
    ]);
    let answer = http.post(INFER, &request).await;
    let (json, data) = answer.binary();
    let expected = json!([
        { "name": "classes", "datatype": "INT32", "shape": [1, 1], "parameters": { "binary_data_size": 4 } },
        { "name": "num_detections", "datatype": "INT32", "shape": [1, 1], "data": [1] },
        { "name": "scores", "datatype": "FP32", "shape": [1, 1], "parameters": { "binary_data_size": 4 } },
    ]);
    assert_eq!(json["outputs"], expected);
    assert_eq!(data, [3i32.to_le_bytes(), 1f32.to_le_bytes()].concat());
}

/// `y = sigmoid(x W)`, and with `second` another input that is copied.
pub fn tensor_model(name: &'static str, second: bool) -> Network {
    let port = |name, dims: &[usize]| Port { name, data_type: DataType::Fp32, dims: dims.to_vec() };
    let weight = vec![0.5, -0.5, 1.0, 0.25];
    let step = |operation, input, output| Step { operation, inputs: vec![input], output };
    let mut network = Network {
        name,
        inputs: vec![port("x", &[2])],
        steps: vec![
            step(Operation::Linear { weight, bias: vec![0.0, 0.0] }, "x", "sum"),
            step(Operation::Sigmoid, "sum", "y"),
        ],
        outputs: vec![port("y", &[2])],
    };
    if second {
        network.inputs.push(port("n", &[2, 1]));
        network.steps.push(step(Operation::Reshape { dims: vec![2] }, "n", "copy"));
        network.outputs.push(port("copy", &[2]));
    }
    network
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensor_models_take_json_and_raw_binary() {
    let repository = tempfile::tempdir().unwrap();
    for (model, second) in [("one", false), ("two", true)] {
        let folder = repository.path().join(model).join("1");
        fs::create_dir_all(&folder).unwrap();
        onnx::write(&tensor_model(model, second), None, &folder.join("model.onnx")).unwrap();
        fs::write(folder.join("../model.toml"), "task = \"tensor\"\n[instances]\ncount = 1\n").unwrap();
    }
    let daemon = Daemon::start_in(repository, Setup { models: Vec::new(), ..Setup::default() }).await;
    let http = Http::to(&daemon);
    let x = json!({ "name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1.0, 2.0], [0, -1.5]] });
    let answer = http.post("/v2/models/one/infer", &json!({ "inputs": [x] })).await.json();
    let got: Vec<f64> = serde_json::from_value(output(&answer, "y")["data"].clone()).unwrap();
    let (x, weight) = ([[1.0, 2.0], [0.0, -1.5]], [[0.5, -0.5], [1.0, 0.25]]);
    let expected = x.iter().flat_map(|x| [0, 1].map(|out| x[0] * weight[out][0] + x[1] * weight[out][1]));
    for (got, sum) in got.iter().zip(expected) {
        let expected = 1.0 / (1.0 + f64::exp(-sum));
        assert!((got - expected).abs() < 1e-5, "{got} {expected}");
    }
    assert_eq!(got.len(), 4);

    // One row, known by its size.
    let row = [1f32, 2.0].map(f32::to_le_bytes).concat();
    let answer = http.send("POST", "/v2/models/one/infer", &[(HEADER_LENGTH, "0")], row.clone()).await;
    let (json, data) = answer.binary();
    assert_eq!(output(&json, "y")["shape"], json!([1, 2]));
    assert!((f64::from(f32::from_le_bytes(*data.first_chunk().unwrap())) - got[0]).abs() < 1e-6);
    let raw = async |model: &str, bytes: &[u8]| {
        let path = format!("/v2/models/{model}/infer");
        http.send("POST", &path, &[(HEADER_LENGTH, "0")], bytes.to_vec()).await.error()
    };
    let (status, message) = raw("one", &row[..7]).await;
    assert!(status == 400 && message.contains("expected 8 bytes, got 7"), "{message}");
    let (status, message) = raw("two", &row).await;
    assert!(status == 400 && message.contains("a model with one input, it has 2"), "{message}");
    let (status, message) = raw("three", &row).await;
    assert!(status == 404 && message.contains("three"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_may_be_compressed_both_ways() {
    let configure = |config: &mut detectd::config::Config| config.server.max_message_bytes = 100_000;
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let http = Http::to(&daemon);
    let request = pictures(&[png(good(1))]);
    let expected = http.post(INFER, &request).await.json();
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = |bytes: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let text = request.to_string();
    for (encoding, body) in [("gzip", gzip(text.as_bytes())), ("deflate", deflate(text.as_bytes()))] {
        let headers = [("content-encoding", encoding), ("accept-encoding", encoding)];
        let answer = http.send("POST", INFER, &headers, body).await;
        assert_eq!((answer.status, &answer.headers["content-encoding"]), (200, &encoding.parse().unwrap()));
        let mut decoded = String::new();
        match encoding {
            "gzip" => GzDecoder::new(&answer.body[..]).read_to_string(&mut decoded).unwrap(),
            _ => ZlibDecoder::new(&answer.body[..]).read_to_string(&mut decoded).unwrap(),
        };
        assert_eq!(serde_json::from_str::<Value>(&decoded).unwrap(), expected);
    }
    // Clients that take compressed answers do not decompress these.
    let accept = [("accept-encoding", "gzip, deflate")];
    for (path, status) in [("/v2/models/parts", 200), ("/v2/models/nothing", 404)] {
        let answer = http.send("GET", path, &accept, "").await;
        assert_eq!((answer.status, answer.headers.get("content-encoding")), (status, None), "{path}");
    }
    let refused = http.send("POST", INFER, &accept, "{}").await;
    assert_eq!((refused.status, refused.headers.get("content-encoding")), (400, None));

    let (status, message) = http.send("POST", INFER, &[("content-encoding", "br")], "x").await.error();
    assert!(status == 501 && message.contains("expected gzip, deflate or none, got `br`"), "{message}");
    let (status, message) = http.send("POST", INFER, &[("content-encoding", "gzip")], "no gzip").await.error();
    assert!(status == 400 && message.contains("cannot be read"), "{message}");
    // Small on the wire, large when it is decompressed.
    let bomb = gzip(&vec![b' '; 300_000]);
    assert!(bomb.len() < 3_000);
    for (encoding, body) in [("gzip", bomb), ("identity", vec![b' '; 110_000])] {
        let (status, message) = http.send("POST", INFER, &[("content-encoding", encoding)], body).await.error();
        assert_eq!(status, 400);
        assert!(message.contains("at most 100000 bytes, server.max_message_bytes"), "{message}");
    }
    assert_eq!(http.post(INFER, &request).await.json(), expected);
    assert_eq!(daemon.metric("detectd_request_bytes_in_flight", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_inferred_is_named() {
    let configure = |config: &mut detectd::config::Config| config.limits.max_image_pixels = 1000;
    let daemon = Daemon::start(Setup { configure, ..Setup::default() }).await;
    let http = Http::to(&daemon);
    let with = |key: &str, value: Value| {
        let mut request = pictures(&[png(good(1))]);
        request[key] = value;
        request
    };
    let tensor = |name: &str, datatype: &str, shape: Value, data: Value| json!({ "inputs": [{ "name": name, "datatype": datatype, "shape": shape, "data": data }] });
    let cases = [
        (json!([]), 400, "the request: invalid type: sequence, expected an object"),
        (json!({}), 400, "missing field `inputs`"),
        (json!({ "inputs": [] }), 400, "expected one, `image` or `images`, got 0"),
        (with("id", json!("x".repeat(129))), 400, "at most 128 bytes, got 129"),
        (with("parameters", json!({ "sigma": 1 })), 400, "there is no `sigma`"),
        (with("parameters", json!({ "score_threshold": "high" })), 400, "expected a number, got `high`"),
        (with("parameters", json!({ "class_ids": [1] })), 400, "parameters.class_ids: expected a number, a string"),
        (with("outputs", json!([{ "name": "masks" }])), 400, "no output `masks`"),
        (with("outputs", json!([{ "name": "boxes", "parameters": { "classification": 1 } }])), 400, "`classification`"),
        (tensor("picture", "BYTES", json!([1]), json!(["x"])), 400, "no input `picture`"),
        (tensor("image", "BYTES", json!([1]), json!(["no picture"])), 400, "JPEG, PNG, WebP, BMP"),
        (tensor("image", "FLOAT", json!([1]), json!([1])), 400, "input `image`: datatype: expected one of BOOL"),
        (
            tensor("image", "BYTES", json!([-1]), json!(["x"])),
            400,
            "input `image`: shape: expected sizes of 0 and above",
        ),
        (tensor("image", "BYTES", json!(["1"]), json!(["x"])), 400, "expected i64"),
        (tensor("image", "BYTES", json!([2]), json!(["x"])), 400, "expected 2 elements, as the shape [2] says, got 1"),
        (tensor("images", "UINT8", json!([1, 1, 1, 3]), json!([1, 2, 300])), 400, "element 2: 300 is no UINT8"),
        (tensor("images", "INT32", json!([1, 1, 1, 3]), json!([1, 2, 3])), 400, "got INT32"),
        (pictures(&[png(FAIL)]), 500, "makes the engine fail"),
    ];
    for (request, status, expected) in cases {
        let (got, message) = http.post(INFER, &request).await.error();
        assert!(got == status && message.contains(expected), "{expected}: {got} {message}");
    }
    let (json, raw) = binary_pictures(&[png(good(1))]);
    let (_, message) = http.binary(INFER, &json, &raw[..raw.len() - 1]).await.error();
    assert!(message.contains("behind the JSON that are left"), "{message}");
    let (_, message) = http.binary(INFER, &json, &[raw.as_slice(), b"more"].concat()).await.error();
    assert!(message.contains("got 4 bytes more"), "{message}");
    let (_, message) = http.send("POST", INFER, &[(HEADER_LENGTH, "ten")], "{}").await.error();
    assert!(message.contains("Inference-Header-Content-Length: expected a number of bytes, got `ten`"), "{message}");
    let (_, message) = http.send("POST", INFER, &[(HEADER_LENGTH, "9")], "{}").await.error();
    assert!(message.contains("at most the 2 bytes of the body, got 9"), "{message}");
    let (_, message) = http.send("POST", INFER, &[], "{\"inputs\": [").await.error();
    assert!(message.contains("EOF"), "{message}");
    let picture = pictures(&[png(good(1))]);
    for (path, status, expected) in [
        ("/v2/models/nothing/infer", 404, "no model `nothing`"),
        ("/v2/models/parts/versions/9/infer", 404, "no version 9"),
        ("/v2/models/parts/versions/one/infer", 400, "got `one`"),
        ("/v2/models/p%FFarts/infer", 400, "UTF-8"),
    ] {
        let (got, message) = http.post(path, &picture).await.error();
        assert!(got == status && message.contains(expected), "{path}: {got} {message}");
    }
    http.post(INFER, &picture).await.json();
    daemon.nothing_pending().await;
}
