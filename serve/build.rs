//! The sample repository is part of the program; a file that is added to it must be noticed. With libtorch, the program
//! is told where its libraries were at build time, so that it starts without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo::rerun-if-changed=../deploy/models");
    if let Ok(libraries) = std::env::var("DEP_DETECTD_LIBTORCH_LIBRARIES") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{libraries}");
    }
}
