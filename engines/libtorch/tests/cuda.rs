//! The engine on a GPU. Without one, or without libtorch's part for CUDA, every test says so and passes.
//!
//! Built with `cargo test --no-run`, the program runs on a machine with PyTorch and without cargo.
#![cfg(feature = "libtorch")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use detectd_conformance::Suite;
use detectd_engine::{
    Batch, DetectScratch, Device, Engine, EngineError, LoadOptions, Model, ModelSpec, Picture, Precision, Tensor,
    TensorData, boxes_on_cpu,
};
use detectd_libtorch::load;
use detectd_libtorch::network::{Architecture, ModelYaml, Network, Pass, Scale, write_safetensors};
use detectd_vision::{DetectOptions, Detection, GreedyNms, Image, Letterbox, MatrixNms, Nms, Resizer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{options, yolov5};
use tempfile::TempDir;

/// The last device that libtorch has.
fn device() -> Option<Device> {
    let folder = TempDir::new().expect("a folder");
    let plain = yolov5s(folder.path(), 8, 64);
    for index in (0..16).rev() {
        match load(&LoadOptions { device: Device::Cuda(index), ..plain.clone() }) {
            Ok(_) => return Some(Device::Cuda(index)),
            Err(EngineError::Load(message)) if message.contains("is not there") => {}
            Err(error) => {
                println!("SKIPPED: no GPU for libtorch: {error}");
                return None;
            }
        }
    }
    println!("SKIPPED: no GPU for libtorch");
    None
}

/// A YOLOv5s with fresh weights.
fn yolov5s(folder: &Path, classes: usize, side: u32) -> LoadOptions {
    let model = ModelYaml::released(Architecture::V6, Scale::S, classes).expect("a released network");
    let text = include_str!("../models/yolov5-v6.yaml").replace("nc: 80", &format!("nc: {classes}"));
    fs::write(folder.join("model.yaml"), text).expect("written");
    let network = Network::new(&model, 7).expect("made");
    write_safetensors(&folder.join("model.safetensors"), network.weights(), BTreeMap::new()).expect("written");
    let detector = detectd_engine::DetectorOptions { input_size: Some((side, side)), ..yolov5(classes) };
    LoadOptions { detector: Some(detector), max_batch: 16, ..options(folder.join("model.yaml")) }
}

#[test]
fn torchscript_on_a_gpu_conforms() {
    let Some(device) = device() else { return };
    let suite = Suite {
        engine: "libtorch",
        load: &support::load_with_note,
        write: &support::write,
        extension: "pt",
        device,
        tolerance: 1e-4,
    };
    suite.run();
}

/// In every precision, what the device makes of pictures is what the CPU makes of the same network's outputs.
#[test]
fn pictures_and_boxes_on_the_device_are_those_of_the_cpu() {
    let Some(device) = device() else { return };
    for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16] {
        let folder = TempDir::new().expect("a folder");
        let plain = yolov5s(folder.path(), 8, 320);
        let model = load(&LoadOptions { device, precision: Some(precision), ..plain }).expect("loads");
        assert_eq!((model.spec().precision, model.spec().device), (precision, device));
        let mut engine = model.open().expect("opens");
        let (mut boxes, mut alike) = (0, 0);
        for size in [1, 3, 16, 2] {
            let images = images(size, size as u64, 50..700);
            let options: Vec<DetectOptions> = (0..size).map(chosen).collect();
            let pictures: Vec<Picture> = images.iter().cloned().map(Picture::Decoded).collect();
            let got = engine.detect(&pictures, &options, &mut DetectScratch::default()).expect("detects");
            let expected = around(engine.as_mut(), &images, &options);
            for (got, expected) in got.detections.iter().zip(&expected) {
                boxes += expected.len();
                alike += expected.iter().filter(|one| got.iter().any(|other| same(one, other))).count();
                assert!(got.len().abs_diff(expected.len()) <= 1 + expected.len() / 50, "{precision}, {size} pictures");
            }
        }
        println!("{precision}: {alike} of {boxes} boxes are those of the CPU");
        assert!(boxes > 200 && alike * 100 >= boxes * 99, "{precision}: {alike} of {boxes}");
    }
}

fn images(count: usize, seed: u64, sides: std::ops::Range<u32>) -> Vec<Image> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let image = |_| {
        let (width, height) = (random.random_range(sides.clone()), random.random_range(sides.clone()));
        let pixels = (0..width * height * 3).map(|_| random.random()).collect();
        Image::new(width, height, pixels).expect("as many bytes")
    };
    (0..count).map(image).collect()
}

/// Fresh weights are sure of nothing, so the threshold is low.
fn chosen(index: usize) -> DetectOptions {
    let nms = match index % 2 {
        0 => Nms::Matrix(MatrixNms { post_threshold: 0.0, ..MatrixNms::default() }),
        _ => Nms::Greedy(GreedyNms::default()),
    };
    DetectOptions { score_threshold: 1e-5, nms, max_detections: 30, ..DetectOptions::default() }
}

/// The same network with everything around it on the CPU.
fn around(engine: &mut dyn Engine, images: &[Image], options: &[DetectOptions]) -> Vec<Vec<Detection>> {
    let spec: ModelSpec = engine.spec().clone();
    let preprocess = &spec.detector.as_ref().expect("a detector").preprocess;
    let mut values = vec![0.0; images.len() * preprocess.input_len()];
    let inputs = values.chunks_exact_mut(preprocess.input_len()).zip(images);
    let letterboxes: Vec<Letterbox> =
        inputs.map(|(input, image)| preprocess.run(image, input, &mut Resizer::default()).expect("prepared")).collect();
    let shape = vec![images.len(), 3, preprocess.height as usize, preprocess.width as usize];
    let input = Tensor::new(shape, TensorData::Fp32(values)).expect("as many values");
    let outputs = engine.infer(&Batch { inputs: vec![input] }).expect("computes");
    boxes_on_cpu(&spec, &outputs, &letterboxes, options, &mut DetectScratch::default()).expect("decodes")
}

fn same(a: &Detection, b: &Detection) -> bool {
    a.class_id == b.class_id && (a.score - b.score).abs() <= 1e-3 + 0.02 * a.score && a.bbox.iou(&b.bbox) > 0.95
}

/// What a batch of 16 takes, in milliseconds: the network alone, and pictures to boxes. The last line is one JSON object.
#[test]
#[ignore = "measures"]
fn measures_a_batch_of_16() {
    let Some(device) = device() else { return };
    let folder = TempDir::new().expect("a folder");
    let plain = LoadOptions { device, precision: Some(Precision::Fp16), ..yolov5s(folder.path(), 80, 640) };
    let model: Arc<dyn Model> = load(&plain).expect("loads");
    let Device::Cuda(index) = device else { return };
    let on = tch::Device::Cuda(index as usize);
    let yaml = ModelYaml::released(Architecture::V6, Scale::S, 80).expect("a released network");
    let network = Network::new(&yaml, 7).and_then(|network| network.folded()?.converted(on, tch::Kind::Half));
    let network = network.expect("made");
    let input = tch::Tensor::zeros([16, 640, 640, 3], (tch::Kind::Half, on)).permute([0, 3, 1, 2]);
    let pass = Pass { training: false, precision: tch::Kind::Half };
    let forward = milliseconds(|| {
        drop(tch::no_grad(|| network.forward(&input, pass)).expect("computes"));
        tch::Cuda::synchronize(i64::from(index));
    });
    let images = images(16, 1, 700..701);
    let mut engine = model.open().expect("opens");
    let pictures: Vec<Picture> = images.into_iter().map(Picture::Decoded).collect();
    let options = vec![DetectOptions { score_threshold: 1e-4, ..DetectOptions::default() }; 16];
    let mut scratch = DetectScratch::default();
    let whole = milliseconds(|| drop(engine.detect(&pictures, &options, &mut scratch).expect("detects")));
    println!("{}", serde_json::json!({ "forward_ms": forward, "pictures_to_boxes_ms": whole, "batch": 16 }));
}

/// The least of many, after some to warm up.
fn milliseconds(mut work: impl FnMut()) -> f64 {
    (0..10).for_each(|_| work());
    let each = (0..50).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64() * 1e3
    });
    each.fold(f64::INFINITY, f64::min)
}
