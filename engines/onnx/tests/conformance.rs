//! The suite that every engine passes, for both engines of this crate.

use detectd_conformance::{Suite, onnx};
use detectd_engine::Device;

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
    suite.run();
}
