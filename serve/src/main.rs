//! `detectd`: see `detectd --help`.

/// The system's allocator keeps an arena for each of the threads that come and go with every version, and what they
/// freed: after a few swaps that is several times what is in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    detectd::cli::main()
}
