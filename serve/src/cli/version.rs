//! `detectd version`.

use std::process::ExitCode;

use crate::engines::Engines;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let engines = Engines::built_in();
    println!("detectd {}", env!("CARGO_PKG_VERSION"));
    println!("engines: {}", engines.names().collect::<Vec<_>>().join(", "));
    println!("target: {}-{}", std::env::consts::ARCH, std::env::consts::OS);
    Ok(ExitCode::SUCCESS)
}
