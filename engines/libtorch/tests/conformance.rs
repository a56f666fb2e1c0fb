//! The suite that every engine passes, on the CPU.
#![cfg(feature = "libtorch")]

mod support;

use detectd_conformance::Suite;
use detectd_engine::Device;

#[test]
fn torchscript_on_the_cpu_conforms() {
    let suite = Suite {
        engine: "libtorch",
        load: &support::load_with_note,
        write: &support::write,
        extension: "pt",
        device: Device::Cpu,
        tolerance: 1e-4,
    };
    suite.run();
}
