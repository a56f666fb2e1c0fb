//! `detectd-train`: the offline tool.

use clap::Parser;

mod cli;
mod commands;

fn main() -> anyhow::Result<()> {
    #[cfg(feature = "libtorch")]
    detectd_libtorch::memory::keep_freed_memory();
    commands::run(cli::Arguments::parse())
}
