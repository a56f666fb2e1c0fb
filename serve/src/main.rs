//! `detectd`.

fn main() {}
