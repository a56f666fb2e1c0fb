//! The committed code must be what the definitions generate. `DETECTD_WRITE_PROTO=1` writes it anew.

use std::path::Path;
use std::{env, fs};

use prost::Message as _;

const DEFINITIONS: [&str; 3] =
    ["detect/v1/detect.proto", "inference/grpc_service.proto", "inference/model_config.proto"];

#[test]
fn committed_code_is_what_the_definitions_generate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().unwrap();
    let mut descriptors = protox::compile(DEFINITIONS, [root]).unwrap();
    // Reflection shows names and types; comments and positions would only make it larger.
    let with_comments = descriptors.clone();
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    fs::write(fresh.path().join("descriptors.bin"), descriptors.encode_to_vec()).unwrap();
    tonic_prost_build::configure().bytes(".").out_dir(fresh.path()).compile_fds(with_comments).unwrap();

    let committed = root.join("src/gen");
    let write = env::var_os("DETECTD_WRITE_PROTO").is_some();
    let mut names = Vec::new();
    for entry in fs::read_dir(fresh.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        let generated = fs::read(&path).unwrap();
        if write {
            fs::write(committed.join(&name), &generated).unwrap();
        }
        let stored = fs::read(committed.join(&name)).unwrap_or_default();
        assert!(stored == generated, "{} differs from its definition: run `make proto`", Path::new(&name).display());
        names.push(name);
    }
    assert!(names.len() >= 3, "nothing was generated");
}
