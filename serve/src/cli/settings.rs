//! The flags that `serve` and `check` share: where the settings come from.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::config::{self, Sources};

#[derive(Debug, clap::Args)]
pub(super) struct SettingArgs {
    /// The configuration file, in TOML [default: $DETECTD_CONFIG, or ./detectd.toml if it is there].
    #[arg(short, long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// The folder of models (repository.path).
    #[arg(short, long, value_name = "FOLDER")]
    repository: Option<String>,
    /// Serve only this model; may be repeated (repository.models).
    #[arg(short, long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Where gRPC listens (server.grpc_address).
    #[arg(long, value_name = "IP:PORT")]
    grpc_address: Option<String>,
    /// Where metrics and probes listen (server.http_address).
    #[arg(long, value_name = "IP:PORT")]
    http_address: Option<String>,
    /// What is logged: error, warn, info, debug, trace (log.level).
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json (log.format).
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any other setting, as in --set limits.max_detections=100; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

impl SettingArgs {
    /// This process's sources with these flags on top.
    pub(super) fn sources(&self) -> Sources {
        let mut flags: Vec<_> = self.set.iter().map(|(key, value)| (key.as_str(), value.clone(), "--set")).collect();
        let named = [
            ("repository.path", &self.repository, "--repository"),
            ("server.grpc_address", &self.grpc_address, "--grpc-address"),
            ("server.http_address", &self.http_address, "--http-address"),
            ("log.level", &self.log_level, "--log-level"),
            ("log.format", &self.log_format, "--log-format"),
        ];
        flags.extend(named.into_iter().filter_map(|(key, value, flag)| Some((key, value.clone()?, flag))));
        if !self.models.is_empty() {
            flags.push(("repository.models", self.models.join(","), "--model"));
        }
        let flags = flags.into_iter().map(|(key, value, flag)| (key.to_owned(), value, flag.to_owned()));
        Sources { file: self.config.clone(), flags: flags.collect(), ..Sources::of_process() }
    }
}

/// Every setting, for the end of the long help.
pub(super) fn help() -> String {
    let mut text = String::from(
        "Settings come from built-in defaults, the configuration file, environment variables and flags; the later \
         ones win. In the file, a key stands in its section:\n\n    [server]\n    grpc_address = \"0.0.0.0:8001\"\n\n\
         A variable or a flag takes a list as a,b or as in the file, [\"a\", \"b\"].\n\n\
         `detectd check --print-config` prints the settings in effect as such a file.\n\nSettings:\n",
    );
    for setting in config::settings() {
        let (key, default, variable) = (&setting.key, &setting.default, setting.variable());
        let _ = write!(text, "\n  {key} = {default}  [env: {variable}]\n      {}\n", setting.description);
    }
    text
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}
