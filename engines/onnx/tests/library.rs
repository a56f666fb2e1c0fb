//! The library of ONNX Runtime that is not there.
#![cfg(feature = "onnxruntime")]

use std::fs;
use std::path::Path;

use detectd_engine::EngineError;
use detectd_onnx::onnxruntime::load_library;

#[test]
fn a_missing_or_wrong_library_is_a_load_error_and_can_be_tried_again() {
    let missing = load_library(Path::new("/nowhere/libonnxruntime.so"));
    let Err(EngineError::Load(message)) = missing else { panic!("{missing:?}") };
    assert!(message.contains("/nowhere/libonnxruntime.so") && message.contains("make onnxruntime"), "{message}");

    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("libonnxruntime.so");
    fs::write(&path, b"no library").unwrap();
    let wrong = load_library(&path);
    let Err(EngineError::Load(message)) = wrong else { panic!("{wrong:?}") };
    assert!(message.contains("libonnxruntime.so"), "{message}");

    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.onnxruntime/libonnxruntime.so");
    if library.is_file() {
        assert_eq!(load_library(&library), Ok(()));
    } else {
        eprintln!("skipped the rest: {} is missing, run `make onnxruntime`", library.display());
    }
}
