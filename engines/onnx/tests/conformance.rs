//! The suite that every engine passes, for both engines of this crate.

use std::sync::{Mutex, PoisonError};

use detectd_conformance::{Suite, onnx};
use detectd_engine::Device;

/// The suite watches the memory of the process, so nothing else may run beside it.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn the_embedded_engine_conforms() {
    let suite = Suite {
        engine: "onnx",
        load: &detectd_onnx::load,
        write: &onnx::write,
        extension: "onnx",
        device: Device::Cpu,
        tolerance: 1e-4,
    };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    suite.run();
}

#[cfg(feature = "onnxruntime")]
#[test]
fn onnx_runtime_conforms() {
    let library = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.onnxruntime/libonnxruntime.so");
    if !library.is_file() {
        eprintln!("skipped: {} is missing, run `make onnxruntime`", library.display());
        return;
    }
    detectd_onnx::onnxruntime::load_library(&library).unwrap();
    let suite = Suite {
        engine: "onnxruntime",
        load: &detectd_onnx::onnxruntime::load,
        write: &onnx::write,
        extension: "onnx",
        device: Device::Cpu,
        tolerance: 1e-4,
    };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    suite.run();
}
