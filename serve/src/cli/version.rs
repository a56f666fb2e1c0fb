//! `detectd version`.

use std::process::ExitCode;

use super::report;
use crate::engines::Engines;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let engines = Engines::built_in();
    report::say(format_args!("detectd {}", env!("CARGO_PKG_VERSION")))?;
    report::say(format_args!("engines: {}", engines.names().collect::<Vec<_>>().join(", ")))?;
    report::say(format_args!("target: {}-{}", std::env::consts::ARCH, std::env::consts::OS))?;
    Ok(ExitCode::SUCCESS)
}
