//! The log on stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Sets up the log of this process; the first call counts.
///
/// # Errors
/// The filter cannot be read, or there is a log already.
pub fn start(config: &LogConfig) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(&config.filter).map_err(|error| format!("log.level: {error}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    started.map_err(|error| error.to_string())
}
