//! Builds what is written in C++, and tells the programs above where libtorch lies, so that they start without
//! `LD_LIBRARY_PATH`.

use std::env;
use std::path::PathBuf;

fn main() {
    if env::var_os("CARGO_FEATURE_LIBTORCH").is_none() {
        return;
    }
    // Where torch-sys has found libtorch's libraries.
    let Some(libraries) = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        panic!("torch-sys does not say where libtorch is; run `make libtorch` and set LIBTORCH=$PWD/.libtorch/torch");
    };
    compile(&libraries);
    // Read by the build scripts of dependents as DEP_DETECTD_LIBTORCH_LIBRARIES.
    println!("cargo::metadata=libraries={}", libraries.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libraries.display());
}

#[cfg(feature = "libtorch")]
fn compile(libraries: &std::path::Path) {
    println!("cargo::rerun-if-changed=src/script/module.cpp");
    println!("cargo::rerun-if-changed=src/script/module.h");
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let include = libraries.with_file_name("include");
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/script/module.cpp")
        .compile("detectd_module");
}

#[cfg(not(feature = "libtorch"))]
fn compile(_: &std::path::Path) {}
