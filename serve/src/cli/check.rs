//! `detectd check`.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::report;
use super::settings::SettingArgs;
use crate::config::{Config, Loaded};
use crate::engines::Engines;
use crate::metrics::Metrics;
use crate::repository::{Repository, manifest};
use crate::status_page;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingArgs,
    /// Print the settings in effect as a configuration file, and do nothing else.
    #[arg(long, conflicts_with = "json")]
    print_config: bool,
    /// Explain every key of a model's manifest, model.toml, and do nothing else.
    #[arg(long, conflicts_with_all = ["json", "print_config"])]
    explain: bool,
    /// Print the JSON Schema of model.toml, which editors use, and do nothing else.
    #[arg(long, conflicts_with_all = ["json", "print_config", "explain"])]
    schema: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Loads everything as `serve` would, without listening. Fails if there is any problem.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.schema {
        report::say(format_args!("{:#}", manifest::schema()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.explain {
        manifest::keys().iter().try_for_each(explain)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Loaded { config, text, file } = Config::load(&args.settings.sources())?;
    if args.print_config {
        report::say(text.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let metrics = Metrics::new().context("metrics")?;
    let repository = Repository::load_all(config.repository.clone(), &Engines::built_in(), &metrics)
        .map_err(anyhow::Error::msg)
        .context("repository")?;
    let status = status_page::status(&repository.index());
    let problems = repository.failures();
    repository.drain();
    if args.json {
        report::say(json!({ "ok": problems.is_empty(), "models": status["models"], "problems": problems }))?;
    } else {
        let file = file.map_or("no configuration file".to_owned(), |file| file.display().to_string());
        let (grpc, http) = (config.server.grpc_address, config.server.http_address);
        let rest = if config.server.rest { "" } else { ", without the KServe protocol" };
        report::say(format_args!("settings: valid ({file})\ngRPC on {grpc}, HTTP on {http}{rest}"))?;
        report::say(format_args!("models of {}:\n\n{}\n", config.repository.path.display(), table(&status)))?;
        problems.iter().try_for_each(|problem| report::say(format_args!("problem: {problem}")))?;
        report::say(summary(problems.len()))?;
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn explain(key: &manifest::Key) -> anyhow::Result<()> {
    let default = key.default.as_ref().map_or(String::new(), |default| format!(" = {default}"));
    report::say(format_args!("{}{default}\n    {}\n", console::style(&key.path).bold(), key.description))
}

fn summary(problems: usize) -> String {
    match problems {
        0 => console::style("ok").green().to_string(),
        1 => console::style("1 problem").red().to_string(),
        count => console::style(format!("{count} problems")).red().to_string(),
    }
}

fn table(status: &Value) -> comfy_table::Table {
    const COLUMNS: [(&str, &str); 11] = [
        ("model", "model"),
        ("version", "version"),
        ("state", "state"),
        ("task", "task"),
        ("family", "family"),
        ("engine", "engine"),
        ("precision", "precision"),
        ("input_size", "input"),
        ("classes", "classes"),
        ("max_batch_size", "batch"),
        ("instances", "instances"),
    ];
    let mut table = report::table(COLUMNS.map(|(_, title)| title));
    for model in status["models"].as_array().into_iter().flatten() {
        table.add_row(COLUMNS.map(|(key, _)| match &model[key] {
            // A tensor model has inputs of any shape in place of a picture's size.
            Value::Null if key == "input_size" => model["inputs"].as_str().unwrap_or("-").to_owned(),
            Value::Null => "-".to_owned(),
            // The model itself failed: no version of it is known.
            Value::Number(number) if key == "version" && number.as_u64() == Some(0) => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(sides) => sides.iter().map(Value::to_string).collect::<Vec<_>>().join("x"),
            other => other.to_string(),
        }));
    }
    table
}
