//! What does not fit is refused with `Shape`, and harms nothing.

use detectd_engine::{
    Batch, DetectScratch, Detected, Engine, EngineError, Picture, Stage, Tensor, TensorData, TensorSpec,
};
use detectd_vision::{DetectOptions, Image, Letterbox, Preprocess};

use crate::batches::{assert_close, batch};
use crate::{Bench, MAX_BATCH, networks};

pub fn tensors(bench: &Bench<'_>) {
    let network = networks::auxiliary();
    for fixed in [None, Some(3)] {
        let model = bench.load(&network, fixed, None);
        let mut engine = model.open().expect("opens");
        let size = fixed.unwrap_or(2);
        let good = batch(&network, size, 7);
        let expected = network.evaluate(&good);
        for (what, wrong) in misfits(&model.spec().inputs, &good, fixed) {
            match engine.infer(&wrong) {
                Err(EngineError::Shape(message)) => assert!(!message.is_empty(), "{what}: no message"),
                other => panic!("{what}: {other:?}, expected a Shape error"),
            }
            let outputs = engine.infer(&good).unwrap_or_else(|error| panic!("after {what}: {error}"));
            assert_close(&outputs, &expected, bench.suite.tolerance, &format!("after {what}"));
        }
    }
}

fn misfits(inputs: &[TensorSpec], good: &Batch, fixed: Option<usize>) -> Vec<(&'static str, Batch)> {
    let zeros = |input: usize, shape: &[usize]| {
        let data = TensorData::zeros(inputs[input].data_type, shape.iter().product());
        Tensor::new(shape.to_vec(), data).expect("as many zeros as the shape")
    };
    let with = |input: usize, tensor: Tensor| {
        let mut batch = good.clone();
        batch.inputs[input] = tensor;
        batch
    };
    // The same batch in all inputs.
    let of_size = |size: usize| Batch {
        inputs: (0..inputs.len())
            .map(|input| zeros(input, &[&[size], &good.inputs[input].shape()[1..]].concat()))
            .collect(),
    };
    let size = good.inputs[0].shape()[0];
    let mut excess = good.clone();
    excess.inputs.push(zeros(0, &[size, 2]));
    let integers = Tensor::new(vec![size, 2], TensorData::Int32(vec![0; 2 * size])).expect("two each");
    vec![
        ("no inputs", Batch::default()),
        ("an input too few", Batch { inputs: good.inputs[..2].to_vec() }),
        ("an input too many", excess),
        ("another element type", with(0, integers)),
        ("another rank", with(1, zeros(1, &[size, 3, 256]))),
        ("a scalar", with(0, zeros(0, &[]))),
        ("four channels", with(1, zeros(1, &[size, 4, 16, 16]))),
        ("another width", with(1, zeros(1, &[size, 3, 16, 17]))),
        ("no items", of_size(0)),
        ("a batch too large", of_size(fixed.unwrap_or(MAX_BATCH) + 1)),
        ("inputs with different batches", with(2, zeros(2, &[size - 1, 2]))),
    ]
}

pub fn pictures(bench: &Bench<'_>) {
    let network = networks::detector();
    let model = bench.load(&network, None, Some(networks::detector_options()));
    let mut engine = model.open().expect("opens");
    let mut scratch = DetectScratch::default();
    let good = Image::filled(40, 30, [200, 30, 90]);
    let good = super::detect::prepare(model.spec(), &good);
    let options = DetectOptions { score_threshold: 0.01, ..DetectOptions::default() };
    let many = vec![good.clone(); MAX_BATCH + 1];
    let wrong_stage = match model.spec().takes {
        Stage::Encoded | Stage::Letterboxed => Picture::Decoded(Image::filled(8, 8, [1, 2, 3])),
        Stage::Decoded => letterboxed(3 * 32 * 32),
    };
    let mut expected = None;
    let mut attempt = |what: &str, pictures: &[Picture], options: &[DetectOptions]| {
        let refused = engine.detect(pictures, options, &mut scratch);
        assert!(matches!(refused, Err(EngineError::Shape(_))), "{what}: {refused:?}, expected a Shape error");
        let answer = detections(&mut *engine, &good, &options[0], &mut scratch);
        let expected = expected.get_or_insert_with(|| answer.clone());
        assert_eq!(&answer, expected, "the answer after {what}");
    };
    attempt("a picture too many", &many, &vec![options.clone(); MAX_BATCH + 1]);
    attempt("options for one picture of two", &many[..2], &vec![options.clone(); 1]);
    attempt("options for two pictures of one", &many[..1], &vec![options.clone(); 2]);
    attempt("a picture at another stage", &[good.clone(), wrong_stage], &vec![options.clone(); 2]);
    if model.spec().takes == Stage::Letterboxed {
        attempt("an input too short", &[letterboxed(3 * 32 * 31)], &vec![options.clone(); 1]);
    }
    let nothing = engine.detect(&[], &[], &mut scratch).expect("no pictures are no error");
    assert_eq!(nothing.detections, Vec::<Vec<_>>::new());

    let plain = bench.load(&network, None, None);
    let mut engine = plain.open().expect("opens");
    let refused = engine.detect(&[good], &[options], &mut scratch);
    assert!(matches!(refused, Err(EngineError::Shape(_))), "no detector: {refused:?}, expected a Shape error");
}

fn letterboxed(len: usize) -> Picture {
    Picture::Letterboxed { input: vec![0.5; len], letterbox: Letterbox::new((32, 32), &Preprocess::yolov5(32, 32)) }
}

fn detections(
    engine: &mut dyn Engine,
    picture: &Picture,
    options: &DetectOptions,
    scratch: &mut DetectScratch,
) -> Vec<Vec<detectd_vision::Detection>> {
    let answer = engine.detect(std::slice::from_ref(picture), std::slice::from_ref(options), scratch);
    let Detected { detections, .. } = answer.expect("a good picture after a bad one");
    detections
}
