//! The command line: `serve`, `check`, `detect`, `models`, `demo`, `version`.

mod check;
mod demo;
mod detect;
mod models;
mod options;
mod pictures;
mod report;
mod scrape;
mod serve;
mod settings;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// Serves object detectors over gRPC.
///
/// Try `detectd demo` first: it needs nothing but this program.
#[derive(Debug, Parser)]
#[command(name = "detectd", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the models of a repository until SIGTERM or Ctrl-C.
    Serve(serve::Args),
    /// Check the settings and load every model, then print what would be served.
    Check(check::Args),
    /// Send pictures to a server and print the boxes.
    Detect(detect::Args),
    /// See and change what a server serves: load, unload, promote, roll back, watch.
    Models(models::Args),
    /// See it work: start a server on the bundled model and send it the bundled pictures.
    Demo(demo::Args),
    /// Print the version and the engines of this build.
    Version,
}

/// Runs the command of this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Detect(args) => detect::run(args),
        Command::Models(args) => models::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Version => version::run(),
    };
    result.unwrap_or_else(|error| {
        let cause = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if cause == Some(std::io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        let word = console::style("error:").for_stderr().red().bold();
        eprintln!("{word} {error:#}");
        ExitCode::FAILURE
    })
}

/// The commands, with every setting explained in `serve --help` and `check --help`.
fn command() -> clap::Command {
    let help = settings::help();
    Cli::command()
        .mut_subcommand("serve", |command| command.after_long_help(help.clone()))
        .mut_subcommand("check", |command| command.after_long_help(help))
}

/// A runtime for a command; its threads have a name.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("detectd-io").build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_help_of_serve_explains_every_setting() {
        let mut command = command();
        let serve = command.find_subcommand_mut("serve").expect("there is serve");
        let help = serve.render_long_help().to_string();
        for setting in crate::config::settings() {
            assert!(help.contains(&setting.key) && help.contains(&setting.variable()), "{}", setting.key);
        }
    }
}
