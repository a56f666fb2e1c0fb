//! `detectd`: see `detectd --help`.

fn main() -> std::process::ExitCode {
    detectd::engines::Engines::prepare_process();
    detectd::cli::main()
}
