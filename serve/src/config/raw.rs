//! The settings as they are written, before anything is checked. The comments here are what `detectd serve --help`,
//! `detectd check --print-config` and the README print.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) server: RawServer,
    pub(super) repository: RawRepository,
    pub(super) limits: RawLimits,
    pub(super) cpu: RawCpu,
    pub(super) log: RawLog,
}

/// Ports, shutdown and the limits of connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawServer {
    /// Where gRPC listens: an IP address and a port; port 0 takes a free one.
    pub(super) grpc_address: String,
    /// Where `/metrics`, `/livez`, `/readyz`, the status page and, under `/v2`, the KServe protocol listen.
    pub(super) http_address: String,
    /// After SIGTERM, how long running and queued work may take to finish.
    pub(super) grace_period_ms: u64,
    /// After SIGTERM, how long readiness is false before new work is refused. Set it to the time that your load
    /// balancer needs to notice.
    pub(super) shutdown_delay_ms: u64,
    /// Answer gRPC server reflection, which tools such as grpcurl use.
    pub(super) reflection: bool,
    /// The largest gRPC message or HTTP body, in both directions.
    pub(super) max_message_bytes: u64,
    /// Bytes of the messages of all calls in work, as they come over the wire, of those of a stream until they are taken,
    /// of HTTP bodies decompressed; more are answered RESOURCE_EXHAUSTED. At least the largest message.
    pub(super) max_bytes_in_flight: u64,
    /// Requests in work in the whole server; more are answered RESOURCE_EXHAUSTED.
    pub(super) max_concurrent_requests: u64,
    /// Connections on each of the two ports. Further ones are answered 503 over HTTP, and closed over gRPC.
    pub(super) max_connections: u64,
    /// HTTP/2 streams of one connection.
    pub(super) max_concurrent_streams: u64,
    /// Unanswered requests of one stream; the server reads no further one.
    pub(super) max_stream_requests: u64,
    /// How often an idle connection is pinged; 0: never.
    pub(super) keepalive_interval_ms: u64,
    /// How long the answer to a ping may take before the connection is closed.
    pub(super) keepalive_timeout_ms: u64,
    /// Connections are asked to end after it, which spreads clients over servers; 0: never.
    pub(super) max_connection_age_ms: u64,
    /// Compressions of gRPC that are accepted, and used in answers to clients that take them: "gzip", "zstd". HTTP takes
    /// gzip and deflate.
    pub(super) compression: Vec<String>,
    /// The deadline of requests that bring none; 0: none. A request that is no stream and of which nothing comes for 30
    /// seconds is answered DEADLINE_EXCEEDED in any case.
    pub(super) default_deadline_ms: u64,
    /// Answer the KServe protocol over HTTP, under `/v2`. If false, the HTTP port has metrics, probes and the status page.
    pub(super) rest: bool,
    /// Clients of the KServe protocol on this host may pass tensors in POSIX shared memory. Turn it on only where every
    /// client may read and write all of this server's user's shared memory.
    pub(super) shared_memory: bool,
}

/// Which models are served, and from where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRepository {
    /// The folder with one folder for each model. A relative path is taken from the working directory.
    pub(super) path: String,
    /// Only these models; empty: all in the folder. With control "explicit": those to load at the start; empty: none.
    pub(super) models: Vec<String>,
    /// A model none of whose versions can be loaded ends the start. If false, it is listed as failed and the others serve.
    pub(super) strict: bool,
    /// How models come and go while the daemon runs: "none", "watch" (the folder is watched), or "explicit" (by name,
    /// through an RPC or `detectd models`).
    pub(super) control: String,
    /// With control "watch": how often the folder is looked at, for volumes without file events; 0: events only.
    pub(super) poll_interval_ms: u64,
    /// With control "watch": a model is read again when nothing in its folder has changed for this long.
    pub(super) settle_ms: u64,
    /// How long the engine may take to load a version's file, before the first run; then the version is refused, and what
    /// serves goes on. 0: as long as it likes.
    pub(super) load_timeout_ms: u64,
    /// The file that remembers over restarts which versions were rolled back; empty: `.detectd-decisions.json` in the
    /// folder of models.
    pub(super) decisions: String,
}

/// How much a single request may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimits {
    /// The most pixels of a picture, checked in its header before it is decoded.
    pub(super) max_image_pixels: u64,
    /// The most pictures of one request.
    pub(super) max_images_per_request: u64,
    /// The most boxes for one picture that a request may ask for.
    pub(super) max_detections: u64,
}

/// The threads that decode pictures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCpu {
    /// Threads that decode and resize; 0: as many as there are cores.
    pub(super) decode_threads: u64,
}

/// The log on stderr.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLog {
    /// "text" for people, "json" for one object a line.
    pub(super) format: String,
    /// What is logged: "error", "warn", "info", "debug" or "trace", or by module, as in "warn,detectd=debug".
    pub(super) level: String,
}

impl Default for RawServer {
    fn default() -> Self {
        Self {
            grpc_address: "127.0.0.1:8001".into(),
            http_address: "127.0.0.1:8002".into(),
            grace_period_ms: 30_000,
            shutdown_delay_ms: 0,
            reflection: true,
            max_message_bytes: 64 << 20,
            max_bytes_in_flight: 1 << 30,
            max_concurrent_requests: 1024,
            max_connections: 4096,
            max_concurrent_streams: 256,
            max_stream_requests: 64,
            keepalive_interval_ms: 30_000,
            keepalive_timeout_ms: 20_000,
            max_connection_age_ms: 0,
            compression: vec!["gzip".into(), "zstd".into()],
            default_deadline_ms: 0,
            rest: true,
            shared_memory: false,
        }
    }
}

impl Default for RawRepository {
    fn default() -> Self {
        Self {
            path: "models".into(),
            models: Vec::new(),
            strict: true,
            control: "none".into(),
            poll_interval_ms: 5000,
            settle_ms: 500,
            load_timeout_ms: 30 * 60 * 1000,
            decisions: String::new(),
        }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        Self { max_image_pixels: 50_000_000, max_images_per_request: 64, max_detections: 1000 }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self { format: "text".into(), level: "info".into() }
    }
}
