//! With libtorch, lets the programs find its libraries where they were found at build time.

fn main() {
    if let Ok(libraries) = std::env::var("DEP_DETECTD_LIBTORCH_LIBRARIES") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{libraries}");
    }
}
