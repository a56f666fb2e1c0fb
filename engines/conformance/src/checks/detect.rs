//! Pictures in, boxes out, against the reference network followed by `detectd-vision`.

use detectd_engine::{
    Auxiliary, Batch, DetectScratch, Detector, DetectorOptions, ModelSpec, Picture, Stage, Tensor, TensorData,
};
use detectd_vision::{
    DetectOptions, Detection, GreedyNms, Image, Letterbox, MatrixKernel, MatrixNms, Nms, NmsScratch, OutputData,
    OutputView, Resizer, SoftNms,
};

use crate::batches::picture;
use crate::{Bench, MAX_BATCH, Network, networks};

pub fn every_batch_size(bench: &Bench<'_>) {
    compare(bench, &networks::detector(), &networks::detector_options(), None);
}

pub fn fixed_batch(bench: &Bench<'_>) {
    compare(bench, &networks::detector(), &networks::detector_options(), Some(4));
    // Filling up must not divide by a scale factor of zero.
    compare(bench, &networks::auxiliary(), &networks::auxiliary_options(), Some(4));
}

pub fn auxiliary_inputs(bench: &Bench<'_>) {
    compare(bench, &networks::auxiliary(), &networks::auxiliary_options(), None);
}

fn compare(bench: &Bench<'_>, network: &Network, wanted: &DetectorOptions, fixed: Option<usize>) {
    let model = bench.load(network, fixed, Some(wanted.clone()));
    let spec = model.spec();
    let detector = spec.detector.as_ref().expect("a detector was asked for");
    let mut engine = model.open().expect("opens");
    let mut scratch = DetectScratch::default();
    let mut found = 0;
    for size in (1..=fixed.unwrap_or(MAX_BATCH)).chain([1]) {
        let images: Vec<Image> = (0..size).map(|index| picture(index as u64)).collect();
        let options: Vec<DetectOptions> = (0..size).map(options).collect();
        let pictures: Vec<Picture> = images.iter().map(|image| prepare(spec, image)).collect();
        let answer = engine.detect(&pictures, &options, &mut scratch);
        let answer = answer.unwrap_or_else(|error| panic!("{}, {size} pictures: {error}", network.name));
        let expected = expected(network, detector, &images, &options);
        assert_eq!(answer.detections.len(), size, "{}: answers for {size} pictures", network.name);
        for (index, (got, expected)) in answer.detections.iter().zip(&expected).enumerate() {
            let what = format!("{}, picture {index} of {size}", network.name);
            assert_same(got, expected, bench.suite.tolerance, &what);
            found += got.len();
        }
    }
    assert!(found > 20, "{}: only {found} detections were compared", network.name);
}

/// Options that differ from picture to picture.
fn options(index: usize) -> DetectOptions {
    let nms = match index % 4 {
        0 => Nms::Matrix(MatrixNms { post_threshold: 0.05, ..MatrixNms::default() }),
        1 => Nms::Greedy(GreedyNms::default()),
        2 => Nms::Soft(SoftNms { minimum_score: 0.1, ..SoftNms::default() }),
        _ => Nms::Matrix(MatrixNms { kernel: MatrixKernel::Gaussian, post_threshold: 0.1, ..MatrixNms::default() }),
    };
    DetectOptions {
        score_threshold: 0.2 + 0.1 * index as f32,
        nms,
        max_detections: 20 - index,
        classes: (index == 1).then(|| vec![0, 2]),
        class_agnostic: index == 2,
        multi_label: index == 3,
    }
}

/// The picture as far as the engine wants it.
pub fn prepare(spec: &ModelSpec, image: &Image) -> Picture {
    let detector = spec.detector.as_ref().expect("only detectors take pictures");
    match spec.takes {
        Stage::Decoded => Picture::Decoded(image.clone()),
        Stage::Letterboxed => {
            let (input, letterbox) = letterbox(detector, image);
            Picture::Letterboxed { input, letterbox }
        }
        Stage::Encoded => panic!("the suite has no encoded pictures"),
    }
}

fn letterbox(detector: &Detector, image: &Image) -> (Vec<f32>, Letterbox) {
    let mut input = vec![0.0; detector.preprocess.input_len()];
    let letterbox = detector.preprocess.run(image, &mut input, &mut Resizer::default()).expect("a small picture");
    (input, letterbox)
}

/// What the reference says of the pictures.
fn expected(
    network: &Network,
    detector: &Detector,
    images: &[Image],
    options: &[DetectOptions],
) -> Vec<Vec<Detection>> {
    let prepared: Vec<(Vec<f32>, Letterbox)> = images.iter().map(|image| letterbox(detector, image)).collect();
    let input = |index: usize| {
        let mut data = Vec::new();
        for (input, letterbox) in &prepared {
            let (scale_x, scale_y) = letterbox.scale();
            match detector.auxiliary.iter().find(|(input, _)| *input == index) {
                None => data.extend_from_slice(input),
                Some((_, Auxiliary::ImShape)) => {
                    data.extend([detector.preprocess.height as f32, detector.preprocess.width as f32]);
                }
                Some((_, Auxiliary::ScaleFactor)) => data.extend([scale_y as f32, scale_x as f32]),
            }
        }
        let shape = [&[images.len()], &network.inputs[index].dims[..]].concat();
        Tensor::new(shape, TensorData::Fp32(data)).expect("as many values as the shape")
    };
    let outputs = network.evaluate(&Batch { inputs: (0..network.inputs.len()).map(input).collect() });
    let views: Vec<OutputView<'_>> =
        network.outputs.iter().zip(&outputs).map(|(port, tensor)| view(port.name, tensor)).collect();
    let mut scratch = NmsScratch::default();
    let detections = prepared.iter().zip(options).enumerate().map(|(index, ((_, letterbox), options))| {
        detector.head.detect(&views, index, letterbox, options, &mut scratch).expect("outputs of this head")
    });
    detections.collect()
}

fn view<'a>(name: &'a str, tensor: &'a Tensor) -> OutputView<'a> {
    match tensor.data() {
        TensorData::Fp32(data) => OutputView { name, shape: tensor.shape(), data: OutputData::F32(data) },
        other => panic!("output {name} is {}", other.data_type()),
    }
}

/// Boxes may differ by the tolerance in a picture's 100 pixels.
fn assert_same(got: &[Detection], expected: &[Detection], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: {got:?}, expected {expected:?}");
    for (got, expected) in got.iter().zip(expected) {
        let sides = |detection: &Detection| {
            let bbox = detection.bbox;
            [bbox.x1, bbox.y1, bbox.x2, bbox.y2]
        };
        let near =
            sides(got).iter().zip(sides(expected)).all(|(got, expected)| (got - expected).abs() <= 100.0 * tolerance);
        let same = got.class_id == expected.class_id && (got.score - expected.score).abs() <= tolerance && near;
        assert!(same, "{what}: {got:?}, expected {expected:?}");
    }
}
