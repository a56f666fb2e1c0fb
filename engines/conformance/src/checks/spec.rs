//! [`ModelSpec`] against the file.

use detectd_engine::{BatchSize, LoadOptions, ModelSpec, Precision, TensorSpec};
use detectd_vision::{Head, Preprocess};

use crate::network::Port;
use crate::{Bench, MAX_BATCH, Network, networks};

pub fn declares(bench: &Bench<'_>) {
    for network in [networks::detector(), networks::auxiliary(), networks::typed()] {
        for fixed in [None, Some(3)] {
            let model = bench.load(&network, fixed, None);
            check(bench, model.spec(), &network, fixed);
            let engine = model.open().unwrap_or_else(|error| panic!("opening {}: {error}", network.name));
            assert_eq!(engine.spec(), model.spec(), "{}: the instance's spec", network.name);
        }
    }
}

fn check(bench: &Bench<'_>, spec: &ModelSpec, network: &Network, fixed: Option<usize>) {
    let name = network.name;
    let declared = |port: &Port| TensorSpec {
        name: port.name.into(),
        data_type: port.data_type,
        dims: std::iter::once(fixed).chain(port.dims.iter().copied().map(Some)).collect(),
    };
    assert_eq!(spec.engine, bench.suite.engine, "{name}: engine");
    assert_eq!(spec.device, bench.suite.device, "{name}: device");
    assert_eq!(spec.precision, Precision::Fp32, "{name}: precision");
    assert_eq!(spec.inputs, network.inputs.iter().map(declared).collect::<Vec<_>>(), "{name}: inputs");
    assert_eq!(spec.outputs, network.outputs.iter().map(declared).collect::<Vec<_>>(), "{name}: outputs");
    let batch = fixed.map_or(BatchSize::UpTo(MAX_BATCH), BatchSize::Fixed);
    assert_eq!(spec.batch, batch, "{name}: batch");
    assert_eq!(spec.detector, None, "{name}: detector");
}

pub fn resolves_detectors(bench: &Bench<'_>) {
    let model = bench.load(&networks::detector(), None, Some(networks::detector_options()));
    let detector = model.spec().detector.as_ref().expect("a detector was asked for");
    assert_eq!(detector.head, Head::Yolov8);
    assert_eq!(detector.preprocess, Preprocess::yolov5(32, 32));
    assert_eq!((detector.image_input, &detector.auxiliary[..]), (0, &[][..]));

    let model = bench.load(&networks::auxiliary(), None, Some(networks::auxiliary_options()));
    let detector = model.spec().detector.as_ref().expect("a detector was asked for");
    assert_eq!((detector.image_input, detector.auxiliary.len()), (1, 2));

    // What cannot be resolved is refused at load, not at the first picture.
    let wrong = detectd_engine::DetectorOptions { classes: 80, ..networks::detector_options() };
    let path = bench.path("detector");
    let options = LoadOptions { detector: Some(wrong), ..bench.options(path) };
    let error = (bench.suite.load)(&options).err().expect("80 classes in an output for 3");
    assert!(matches!(error, detectd_engine::EngineError::Load(_)), "{error:?}");
}
