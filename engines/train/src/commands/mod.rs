//! What each subcommand does.

#[cfg(feature = "libtorch")]
mod evaluate;
#[cfg(feature = "libtorch")]
mod export;
#[cfg(feature = "libtorch")]
mod publish;
mod scenes;
mod score;
#[cfg(feature = "libtorch")]
mod train;

use anyhow::Result;

use crate::cli::{Arguments, Command};

/// Does what the command line asks.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Scenes(arguments) => scenes::run(&arguments),
        Command::Score(arguments) => score::run(&arguments),
        #[cfg(feature = "libtorch")]
        Command::Train(arguments) => train::run(&arguments),
        #[cfg(feature = "libtorch")]
        Command::Evaluate(arguments) => evaluate::run(&arguments),
        #[cfg(feature = "libtorch")]
        Command::Export(arguments) => export::run(&arguments),
        #[cfg(feature = "libtorch")]
        Command::Publish(arguments) => publish::run(&arguments),
        #[cfg(not(feature = "libtorch"))]
        Command::Train(_) | Command::Evaluate(_) | Command::Export(_) | Command::Publish(_) => anyhow::bail!(
            "this build of detectd-train has no libtorch, which networks need. In the repository:\n\
             \x20 make libtorch\n\
             \x20 LIBTORCH=\"$PWD/.libtorch/torch\" cargo build --release -p detectd-train --features libtorch"
        ),
    }
}
