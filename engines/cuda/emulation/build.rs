//! Compiles the kernels as C++, where there is a compiler for it.

fn main() {
    for folder in ["../kernels", "cpp"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    println!("cargo::rerun-if-env-changed=CXX");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").include("../kernels").include("cpp").file("cpp/emulator.cpp");
    // What is undefined in C++ ends the program, in place of passing by chance.
    build.flag("-fsanitize=undefined").flag("-fsanitize-undefined-trap-on-error");
    // Jumps between stacks are meant.
    build.flag("-U_FORTIFY_SOURCE");
    // Every operation rounds by itself, as on the device.
    build.opt_level(2).flag("-ffp-contract=off").flag("-fno-strict-aliasing").warnings(false);
    let linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux");
    match build.try_get_compiler() {
        Ok(compiler) if linux && compiler.to_command().arg("--version").output().is_ok() => {
            build.compile("detectd_cuda_emulation");
            println!("cargo::rustc-cfg=has_compiler");
        }
        _ => println!("cargo::warning=no C++ compiler: the CUDA kernels are not run on the CPU"),
    }
}
