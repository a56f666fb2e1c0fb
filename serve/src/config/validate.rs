//! From settings as they are written to a [`Config`]: every value is checked, every problem is listed.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::raw::RawConfig;
use super::{
    Compression, Config, ConfigError, Control, CpuConfig, LimitsConfig, LogConfig, LogFormat, RepositoryConfig,
    ServerConfig,
};

/// A duration in milliseconds may be up to a day: beyond is a unit mistaken.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Checks all of `raw`. `place` says for a key where its value came from.
///
/// # Errors
/// Every value that cannot be used, with its key, what was expected, what came and its place.
pub(super) fn settings(raw: &RawConfig, place: &dyn Fn(&str) -> String) -> Result<Config, ConfigError> {
    let check = &mut Check { problems: Vec::new(), place };
    let config = Config {
        server: server(raw, check),
        repository: RepositoryConfig {
            path: check.not_empty("repository.path", &raw.repository.path).into(),
            models: raw.repository.models.clone(),
            strict: raw.repository.strict,
            control: check.one_of(
                "repository.control",
                &raw.repository.control,
                &[("none", Control::None), ("watch", Control::Watch), ("explicit", Control::Explicit)],
            ),
            poll_interval: check.optional_duration("repository.poll_interval_ms", raw.repository.poll_interval_ms),
            settle: check.duration("repository.settle_ms", raw.repository.settle_ms, 0),
            load_timeout: check.optional_duration("repository.load_timeout_ms", raw.repository.load_timeout_ms),
            decisions: Some(&raw.repository.decisions).filter(|path| !path.is_empty()).map(PathBuf::from),
        },
        limits: LimitsConfig {
            max_image_pixels: check.range("limits.max_image_pixels", raw.limits.max_image_pixels, 1, 1 << 32),
            max_images_per_request: check.count(
                "limits.max_images_per_request",
                raw.limits.max_images_per_request,
                4096,
            ),
            max_detections: check.count("limits.max_detections", raw.limits.max_detections, 100_000),
        },
        cpu: CpuConfig {
            decode_threads: match check.range("cpu.decode_threads", raw.cpu.decode_threads, 0, 1024) {
                0 => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
                threads => non_zero(threads),
            },
        },
        log: LogConfig {
            format: check.one_of(
                "log.format",
                &raw.log.format,
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            ),
            filter: check.filter("log.level", &raw.log.level),
        },
    };
    let (grpc, http) = (config.server.grpc_address, config.server.http_address);
    if grpc == http && grpc.port() != 0 {
        check.problem("server.http_address", "another address than server.grpc_address", &http);
    }
    if check.problems.is_empty() { Ok(config) } else { Err(ConfigError::new(std::mem::take(&mut check.problems))) }
}

fn server(raw: &RawConfig, check: &mut Check<'_>) -> ServerConfig {
    let raw = &raw.server;
    let compressions = [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
    let compression = raw.compression.iter().map(|name| check.one_of("server.compression", name, &compressions));
    ServerConfig {
        compression: compression.collect(),
        grpc_address: check.address("server.grpc_address", &raw.grpc_address),
        http_address: check.address("server.http_address", &raw.http_address),
        grace_period: check.duration("server.grace_period_ms", raw.grace_period_ms, 0),
        shutdown_delay: check.duration("server.shutdown_delay_ms", raw.shutdown_delay_ms, 0),
        reflection: raw.reflection,
        // HTTP/2 frames and protobuf lengths end at 2 GiB.
        max_message_bytes: check.range("server.max_message_bytes", raw.max_message_bytes, 1024, (1 << 31) - 1) as usize,
        // A message that can never have room would be told to come again.
        max_bytes_in_flight: check.range(
            "server.max_bytes_in_flight",
            raw.max_bytes_in_flight,
            raw.max_message_bytes.clamp(1024, (1 << 31) - 1),
            1 << 40,
        ) as usize,
        max_concurrent_requests: check.count("server.max_concurrent_requests", raw.max_concurrent_requests, 1 << 20),
        max_connections: check.count("server.max_connections", raw.max_connections, 1 << 20),
        max_concurrent_streams: {
            let streams = check.range("server.max_concurrent_streams", raw.max_concurrent_streams, 1, 1 << 20);
            NonZeroU32::new(streams as u32).unwrap_or(NonZeroU32::MIN)
        },
        max_stream_requests: check.count("server.max_stream_requests", raw.max_stream_requests, 1 << 16),
        keepalive_interval: check.optional_duration("server.keepalive_interval_ms", raw.keepalive_interval_ms),
        keepalive_timeout: check.duration("server.keepalive_timeout_ms", raw.keepalive_timeout_ms, 1),
        max_connection_age: check.optional_duration("server.max_connection_age_ms", raw.max_connection_age_ms),
        default_deadline: check.optional_duration("server.default_deadline_ms", raw.default_deadline_ms),
        rest: raw.rest,
        shared_memory: raw.shared_memory,
    }
}

/// Gathers what is wrong. Each check gives back a value in any case, so that the rest is checked too.
struct Check<'a> {
    problems: Vec<String>,
    place: &'a dyn Fn(&str) -> String,
}

impl Check<'_> {
    fn problem(&mut self, key: &str, expected: &str, came: &dyn std::fmt::Display) {
        let place = (self.place)(key);
        self.problems.push(format!("{key}: expected {expected}, got {came} ({place})"));
    }

    fn range(&mut self, key: &str, value: u64, least: u64, most: u64) -> u64 {
        if !(least..=most).contains(&value) {
            self.problem(key, &format!("a number from {least} to {most}"), &value);
        }
        value.clamp(least, most)
    }

    fn count(&mut self, key: &str, value: u64, most: u64) -> NonZeroUsize {
        non_zero(self.range(key, value, 1, most))
    }

    fn duration(&mut self, key: &str, milliseconds: u64, least: u64) -> Duration {
        Duration::from_millis(self.range(key, milliseconds, least, DAY_MS))
    }

    fn optional_duration(&mut self, key: &str, milliseconds: u64) -> Option<Duration> {
        Some(self.duration(key, milliseconds, 0)).filter(|duration| !duration.is_zero())
    }

    fn address(&mut self, key: &str, value: &str) -> SocketAddr {
        value.parse().unwrap_or_else(|_| {
            self.problem(key, "an IP address and a port, as in 127.0.0.1:8001", &format_args!("{value:?}"));
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    fn not_empty(&mut self, key: &str, value: &str) -> String {
        if value.is_empty() {
            self.problem(key, "a path", &"an empty one");
        }
        value.to_owned()
    }

    fn one_of<T: Copy>(&mut self, key: &str, value: &str, allowed: &[(&str, T)]) -> T {
        let found = allowed.iter().find(|(name, _)| *name == value);
        found
            .unwrap_or_else(|| {
                let names: Vec<_> = allowed.iter().map(|(name, _)| format!("{name:?}")).collect();
                self.problem(key, &names.join(" or "), &format_args!("{value:?}"));
                &allowed[0]
            })
            .1
    }

    fn filter(&mut self, key: &str, value: &str) -> String {
        let expected = "a level (error, warn, info, debug, trace, off) or a list as in warn,detectd=debug";
        // A mistyped level is a module's name to the filter, and would silence everything else.
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        let stray = value.split(',').map(str::trim).find(|part| !part.contains('=') && !levels.contains(part));
        if let Some(stray) = stray {
            self.problem(key, expected, &format_args!("{stray:?} in {value:?}"));
        } else if let Err(error) = EnvFilter::builder().parse(value) {
            self.problem(key, expected, &format_args!("{value:?}: {error}"));
        }
        value.to_owned()
    }
}

fn non_zero(value: u64) -> NonZeroUsize {
    usize::try_from(value).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN)
}
