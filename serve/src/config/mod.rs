//! Settings: defaults, a file, the environment and flags become one validated [`Config`].

mod error;
mod load;
mod raw;
mod reference;
mod sources;
#[cfg(test)]
mod tests;
mod validate;

pub use error::ConfigError;
pub use load::{DEFAULT_FILE, FILE_VARIABLE, Loaded, Sources};
pub use reference::{Setting, settings};

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything that can be set, validated. [`Config::load`] makes one from the sources.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Ports, shutdown and the limits of connections.
    pub server: ServerConfig,
    /// Which models are served, and from where.
    pub repository: RepositoryConfig,
    /// How much a single request may ask for.
    pub limits: LimitsConfig,
    /// The threads that decode pictures.
    pub cpu: CpuConfig,
    /// The log on stderr.
    pub log: LogConfig,
}

/// Section `server`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Where gRPC listens; port 0 takes a free one.
    pub grpc_address: SocketAddr,
    /// Where `/metrics`, the probes and the KServe protocol over HTTP listen; port 0 takes a free one.
    pub http_address: SocketAddr,
    /// How long running and queued work may take to finish after the shutdown began.
    pub grace_period: Duration,
    /// Between readiness turning false and new work being refused.
    pub shutdown_delay: Duration,
    /// Answer gRPC server reflection.
    pub reflection: bool,
    /// The largest gRPC message or HTTP body, in bytes, in both directions.
    pub max_message_bytes: usize,
    /// Bytes of the messages of all calls in work; more are answered RESOURCE_EXHAUSTED.
    pub max_bytes_in_flight: usize,
    /// Requests in work in the whole server; more are answered RESOURCE_EXHAUSTED.
    pub max_concurrent_requests: NonZeroUsize,
    /// Connections on each of the two ports; further ones are refused.
    pub max_connections: NonZeroUsize,
    /// HTTP/2 streams of one connection.
    pub max_concurrent_streams: NonZeroU32,
    /// Unanswered requests of one stream; the server reads no further one.
    pub max_stream_requests: NonZeroUsize,
    /// How often an idle connection is pinged; `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// How long the answer to a ping may take.
    pub keepalive_timeout: Duration,
    /// Connections are asked to end after it; `None`: never.
    pub max_connection_age: Option<Duration>,
    /// Compressions that are accepted, and used in answers when the client takes them.
    pub compression: Vec<Compression>,
    /// For requests that bring no deadline; `None`: none.
    pub default_deadline: Option<Duration>,
    /// Answer the KServe protocol over HTTP.
    pub rest: bool,
    /// Clients may register shared memory of this host.
    pub shared_memory: bool,
}

/// A message compression of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// Section `repository`.
#[derive(Clone, Debug, PartialEq)]
pub struct RepositoryConfig {
    /// The folder with one folder for each model.
    pub path: PathBuf,
    /// Only these models; empty means all in the folder.
    pub models: Vec<String>,
    /// A model none of whose versions can be loaded ends the start. Otherwise it is listed as failed and the others serve.
    pub strict: bool,
    /// How models come and go while the daemon runs.
    pub control: Control,
    /// How often the folder is looked at where file events do not come; `None`: events only.
    pub poll_interval: Option<Duration>,
    /// A model is read again when nothing in its folder has changed for this long.
    pub settle: Duration,
    /// A version whose file takes longer to load is refused; `None`: it may take for ever.
    pub load_timeout: Option<Duration>,
    /// Where it is written down which versions were rolled back; `None`: in the folder of models.
    pub decisions: Option<PathBuf>,
}

impl RepositoryConfig {
    /// Where it is written down which versions were rolled back.
    #[must_use]
    pub fn decisions_file(&self) -> PathBuf {
        self.decisions.clone().unwrap_or_else(|| self.path.join(".detectd-decisions.json"))
    }
}

/// How models come and go while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    /// They do not: what is there at the start is served.
    None,
    /// The folder is watched.
    Watch,
    /// By name, through an RPC.
    Explicit,
}

/// Section `limits`.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// The most pixels of a picture, checked in its header before it is decoded.
    pub max_image_pixels: u64,
    /// The most pictures of one request.
    pub max_images_per_request: NonZeroUsize,
    /// The most boxes that a request may ask for.
    pub max_detections: NonZeroUsize,
}

/// Section `cpu`.
#[derive(Clone, Debug, PartialEq)]
pub struct CpuConfig {
    /// Threads that decode and resize; the number of cores where the settings say 0.
    pub decode_threads: NonZeroUsize,
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged, as `tracing_subscriber::EnvFilter` reads it: `info`, or `warn,detectd=debug`.
    pub filter: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// The defaults, for the models in `repository`, on free ports of the loopback interface: what an embedded daemon
    /// and tests want.
    #[must_use]
    pub fn embedded(repository: impl Into<PathBuf>) -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let raw = raw::RawConfig::default();
        let mut config = validate::settings(&raw, &|key| key.to_owned()).expect("the defaults are valid");
        config.repository.path = repository.into();
        config.server.grpc_address = any_port;
        config.server.http_address = any_port;
        config
    }
}
