//! `detectd models`: what a server serves, and how that is changed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use detectd_proto::detect::v1 as wire;
use detectd_proto::detect::v1::admin_service_client::AdminServiceClient;
use detectd_proto::detect::v1::detect_service_client::DetectServiceClient;
use tonic::transport::Channel;

use super::report;
use crate::client::{self, ClientError};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server's gRPC address.
    #[arg(short, long, global = true, default_value = "127.0.0.1:8001", value_name = "HOST:PORT")]
    server: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List every model with the state of its versions.
    List,
    /// Load a model by name, or load it anew; waits until it serves. The server needs repository.control = "explicit".
    Load {
        /// The folder's name in the repository.
        model: String,
        /// A file in place of the repository's model.toml: JSON with its keys.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Take a model out of service; what it has taken is answered. The server needs repository.control = "explicit".
    Unload {
        /// The model's name.
        model: String,
    },
    /// Show which version answers, which is on trial and with which figures, and which is kept for a rollback.
    Rollout {
        /// The model's name; may be left out where there is only one.
        #[arg(default_value = "")]
        model: String,
    },
    /// End a trial: the new version answers from now on.
    Promote {
        /// The model's name; may be left out where there is only one.
        #[arg(default_value = "")]
        model: String,
    },
    /// Take the new version back: the one on trial, or else the one that answers.
    Rollback {
        /// The model's name; may be left out where there is only one.
        #[arg(default_value = "")]
        model: String,
        /// Stands in the log and in the model's state.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Print what happens to models, until interrupted.
    Watch {
        /// Only this model's events.
        #[arg(default_value = "")]
        model: String,
    },
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::runtime()?.block_on(async {
        let channel = client::connect(&args.server).await?;
        let said = send(channel, args.command).await.with_context(|| format!("server {}", args.server))?;
        if !said.is_empty() {
            report::say(said)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn send(channel: Channel, command: Command) -> anyhow::Result<String> {
    let mut admin = AdminServiceClient::new(channel.clone());
    let text = match command {
        Command::List => {
            let mut detect = DetectServiceClient::new(channel);
            let models = detect.list_models(wire::ListModelsRequest {}).await.map_err(ClientError::from)?;
            list(&models.into_inner())
        }
        Command::Load { model, config } => {
            let config = match config {
                Some(path) => std::fs::read_to_string(&path).with_context(|| path.display().to_string())?,
                None => String::new(),
            };
            let request = wire::LoadModelRequest { model: model.clone(), config, ..Default::default() };
            admin.load_model(request).await.map_err(ClientError::from)?;
            format!("{model} serves")
        }
        Command::Unload { model } => {
            let request = wire::UnloadModelRequest { model: model.clone() };
            admin.unload_model(request).await.map_err(ClientError::from)?;
            format!("{model} is out of service")
        }
        Command::Rollout { model } => {
            let rollout = admin.get_rollout(wire::GetRolloutRequest { model }).await.map_err(ClientError::from)?;
            self::rollout(&rollout.into_inner())
        }
        Command::Promote { model } => {
            admin.promote(wire::PromoteRequest { model }).await.map_err(ClientError::from)?;
            "promoted".into()
        }
        Command::Rollback { model, reason } => {
            admin.rollback(wire::RollbackRequest { model, reason }).await.map_err(ClientError::from)?;
            "rolled back".into()
        }
        Command::Watch { model } => {
            let events = admin.watch_events(wire::WatchEventsRequest { model }).await.map_err(ClientError::from)?;
            let mut events = events.into_inner();
            while let Some(event) = events.message().await.map_err(ClientError::from)? {
                report::say(self::event(&event))?;
            }
            String::new()
        }
    };
    Ok(text)
}

fn list(models: &wire::ListModelsResponse) -> String {
    let mut table = report::table(["model", "version", "state", ""]);
    for model in &models.models {
        for version in &model.versions {
            let state = version.state().as_str_name().trim_start_matches("MODEL_STATE_").to_lowercase();
            let default = if version.is_default { "answers where no version is named" } else { "" };
            let reason = on_one_line(&version.reason);
            let remark = if reason.is_empty() { default } else { &reason };
            table.add_row([model.name.as_str(), &version.version.to_string(), &state, remark]);
        }
    }
    table.to_string()
}

/// Without line breaks and what else a terminal acts upon.
fn on_one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, character| {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
        line
    })
}

fn rollout(rollout: &wire::GetRolloutResponse) -> String {
    let mut lines = vec![format!("version {} answers", rollout.answering)];
    if let Some(trial) = &rollout.trial {
        let strategy = trial.strategy().as_str_name().trim_start_matches("STRATEGY_").to_lowercase();
        let seconds = Duration::from_millis(trial.elapsed_ms).as_secs_f64();
        lines.push(format!("version {} is on trial as a {strategy}, for {seconds:.1} s", trial.version));
        for (name, requests) in
            [("old", trial.baseline.unwrap_or_default()), ("new", trial.candidate.unwrap_or_default())]
        {
            let wire::Requests { good, failed, mean_latency_ms } = requests;
            let latency = if good > 0 { format!(", mean latency {mean_latency_ms:.2} ms") } else { String::new() };
            lines.push(format!("  {name}: {good} answered, {failed} failed{latency}"));
        }
        lines.push(match trial.compared {
            0 => "  no picture compared yet".to_owned(),
            compared => format!(
                "  {compared} pictures compared: agreement {:.3}, {} boxes of another class, scores {:+.4}",
                trial.agreement, trial.class_changes, trial.score_shift
            ),
        });
    }
    if rollout.previous > 0 {
        let seconds = Duration::from_millis(rollout.previous_for_ms).as_secs();
        lines.push(format!("version {} is kept warm for a rollback, for {seconds} s more", rollout.previous));
    }
    lines.join("\n")
}

fn event(event: &wire::Event) -> String {
    let kind = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_lowercase();
    let wire::Event { unix_ms, model, version, detail, .. } = event;
    let detail = on_one_line(detail);
    format!("{}.{:03}  {model}/{version}  {kind}  {detail}", unix_ms / 1000, unix_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_stays_on_its_line() {
        let reason = "review \n \"ü\"\x1b[2J".to_owned();
        let version = wire::VersionStatus { version: 2, reason, ..Default::default() };
        let model = wire::ModelStatus { name: "parts".into(), versions: vec![version] };
        let text = list(&wire::ListModelsResponse { models: vec![model] });
        assert!(text.contains(r#"review \n "ü"\u{1b}[2J"#), "{text}");
    }
}
