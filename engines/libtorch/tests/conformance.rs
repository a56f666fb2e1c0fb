//! The suite that every engine passes, on the CPU or on the device that `DETECTD_TEST_DEVICE` names.
#![cfg(feature = "libtorch")]

mod support;

use detectd_conformance::Suite;

#[test]
fn torchscript_conforms() {
    let suite = Suite {
        engine: "libtorch",
        load: &support::load_with_note,
        write: &support::write,
        extension: "pt",
        device: support::device(),
        tolerance: 1e-4,
    };
    suite.run();
}
