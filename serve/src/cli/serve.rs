//! `detectd serve`.

use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::settings::SettingArgs;
use crate::app::App;
use crate::config::{Config, Loaded};
use crate::logging::{self, LogControl};

/// Exit status after a second signal: nothing was waited for.
const ENDED_AT_ONCE: i32 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingArgs,
}

/// Serves until the first SIGTERM or SIGINT, then drains. A second one ends the process at once.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Loaded { config, file, .. } = Config::load(&args.settings.sources())?;
    let log = logging::start(&config.log).map_err(anyhow::Error::msg)?;
    match file {
        Some(file) => info!(file = %file.display(), "settings read"),
        None => info!("no configuration file; defaults, environment and flags count"),
    }
    let runtime = super::runtime()?;
    let ended = runtime.block_on(serve(config, log));
    // Models that are still loading end with the process; dropping the runtime would wait for them.
    runtime.shutdown_background();
    ended
}

async fn serve(config: Config, log: LogControl) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new().context("cannot watch for signals")?;
    let app = tokio::select! {
        app = App::start(config) => app?,
        name = signals.next() => {
            info!(signal = name, "ended while starting");
            return Ok(ExitCode::SUCCESS);
        }
    };
    app.attach_log(log);
    let shutdown = async move {
        let name = signals.next().await;
        info!(signal = name, "shutdown asked for; a second signal ends at once");
        tokio::spawn(async move {
            let name = signals.next().await;
            warn!(signal = name, "ended at once; what was in work is lost");
            std::process::exit(ENDED_AT_ONCE);
        });
    };
    app.run(shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
