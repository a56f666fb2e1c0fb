//! `detectd`: see `detectd --help`.

fn main() -> std::process::ExitCode {
    detectd::cli::main()
}
