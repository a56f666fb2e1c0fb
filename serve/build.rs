//! The sample repository is part of the program; a file that is added to it must be noticed.

fn main() {
    println!("cargo::rerun-if-changed=../deploy/models");
}
