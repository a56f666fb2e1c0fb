//! The log on stderr, and changing its level while the daemon runs.

use std::io::IsTerminal as _;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// The running log of this process.
#[derive(Clone)]
pub struct LogControl {
    format: LogFormat,
    level: Arc<Mutex<LevelFilter>>,
    reload: Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

/// Sets up the log of this process; the first call counts.
///
/// # Errors
/// The filter cannot be read, or there is a log already.
pub fn start(config: &LogConfig) -> Result<LogControl, String> {
    let filter = EnvFilter::builder().parse(&config.filter).map_err(|error| format!("log.level: {error}"))?;
    // What the filter lets through at most; it may say less for some modules.
    let level = filter.max_level_hint().unwrap_or(LevelFilter::TRACE);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let (reload, started) = match config.format {
        LogFormat::Text => {
            let log = log.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            (reloader(log.reload_handle()), log.try_init())
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_current_span(true).with_span_list(false);
            let log = log.with_filter_reloading();
            (reloader(log.reload_handle()), log.try_init())
        }
    };
    started.map_err(|error| error.to_string())?;
    Ok(LogControl { format: config.format, level: Arc::new(Mutex::new(level)), reload })
}

fn reloader<S: 'static>(
    handle: tracing_subscriber::reload::Handle<EnvFilter, S>,
) -> Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync> {
    Arc::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
}

impl LogControl {
    /// How a line looks.
    #[must_use]
    pub fn format(&self) -> LogFormat {
        self.format
    }

    /// The most that is logged.
    #[must_use]
    pub fn level(&self) -> LevelFilter {
        *self.level.lock()
    }

    /// Logs at `level` from now on, in place of what the settings said. Below `info` only the daemon itself gets more
    /// to say: its libraries would drown it.
    ///
    /// # Errors
    /// The log has ended.
    pub fn set_level(&self, level: LevelFilter) -> Result<(), String> {
        let filter = format!("{},detectd={level}", level.min(LevelFilter::INFO));
        let filter = EnvFilter::builder().parse(&filter).map_err(|error| error.to_string())?;
        let mut current = self.level.lock();
        (self.reload)(filter)?;
        *current = level;
        Ok(())
    }
}
