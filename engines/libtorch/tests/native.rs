//! Networks from their yaml, with safetensors beside it.
#![cfg(feature = "libtorch")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use detectd_engine::{Batch, BatchSize, DetectorOptions, LoadOptions, Precision, TensorData};
use detectd_libtorch::load;
use detectd_libtorch::network::{
    Architecture, Decoder, ModelYaml, Network, Pass, Plan, read_safetensors, write_safetensors,
};
use detectd_vision::{Family, Head};
use support::{input, options, yolov5};
use tempfile::TempDir;

const CLASSES: usize = 8;

/// Writes a network as a version's folder has it: v6 with the bundled detector's weights, v5.0 with fresh ones.
fn write(folder: &Path, architecture: Architecture) -> (Network, LoadOptions) {
    let text = match architecture {
        Architecture::V5 => include_str!("../models/yolov5-v5.0.yaml"),
        Architecture::V6 => include_str!("../models/yolov5-v6.yaml"),
    };
    let text = text.replace("nc: 80", &format!("nc: {CLASSES}"));
    let text = text.replace("width_multiple: 0.50", "width_multiple: 0.25");
    fs::write(folder.join("model.yaml"), &text).unwrap();
    let model = ModelYaml::parse(&text).unwrap();
    let network = match architecture {
        Architecture::V5 => Network::new(&model, 7).unwrap(),
        Architecture::V6 => {
            let trained = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/training/workbench.safetensors");
            let (weights, _) = read_safetensors(&trained).unwrap();
            Network::with_weights(Plan::new(&model).unwrap(), weights).unwrap()
        }
    };
    write_safetensors(&folder.join("model.safetensors"), network.weights(), BTreeMap::new()).unwrap();
    let detector = DetectorOptions { input_size: Some((96, 64)), ..yolov5(CLASSES) };
    (network, LoadOptions { detector: Some(detector), ..options(folder.join("model.yaml")) })
}

fn run(options: &LoadOptions, batch: &Batch) -> Vec<f32> {
    let outputs = load(options).unwrap_or_else(|error| panic!("{error}")).open().unwrap().infer(batch).unwrap();
    let TensorData::Fp32(values) = outputs[0].data() else { panic!("floats") };
    values.clone()
}

#[test]
fn both_layouts_compute_what_the_network_does() {
    for architecture in [Architecture::V5, Architecture::V6] {
        let folder = TempDir::new().unwrap();
        let (network, plain) = write(folder.path(), architecture);
        let model = load(&plain).unwrap_or_else(|error| panic!("{architecture:?}: {error}"));
        let spec = model.spec();
        let rows = 3 * (8 * 12 + 4 * 6 + 2 * 3);
        assert_eq!(spec.outputs[0].dims, [None, Some(rows), Some(5 + CLASSES)]);
        assert_eq!(spec.inputs[0].dims, [None, Some(3), Some(64), Some(96)]);
        assert_eq!((spec.batch, spec.precision), (BatchSize::UpTo(4), Precision::Fp32));
        assert_eq!(spec.detector.as_ref().unwrap().head, Head::Yolov5);

        let picture = input(&[2, 3, 64, 96], 5);
        let TensorData::Fp32(values) = picture.data() else { panic!("floats") };
        let tensor = tch::Tensor::from_slice(values).view([2, 3, 64, 96]);
        let expected = tch::no_grad(|| {
            let levels = network.forward(&tensor, Pass::INFERENCE).unwrap();
            Decoder::new(&network.plan().detect).unwrap().decode(&levels).unwrap()
        });
        let expected = Vec::<f32>::try_from(expected.reshape([-1])).unwrap();
        let batch = Batch { inputs: vec![picture] };
        // In pixels, of boxes up to 400 wide, and in probability.
        for (precision, pixels, probability) in
            [(Precision::Fp32, 0.01, 1e-4), (Precision::Bf16, 2.0, 0.06), (Precision::Fp16, 0.2, 0.008)]
        {
            let found = run(&LoadOptions { precision: Some(precision), ..plain.clone() }, &batch);
            assert_eq!(found.len(), expected.len());
            let rows = found.chunks_exact(5 + CLASSES).zip(expected.chunks_exact(5 + CLASSES));
            let (mut sides, mut scores) = (0.0f32, 0.0f32);
            for (found, expected) in rows {
                let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
                for (index, difference) in differences.enumerate() {
                    let largest = if index < 4 { &mut sides } else { &mut scores };
                    *largest = largest.max(difference);
                }
            }
            println!("{architecture:?} {precision}: largest differences {sides} pixels, {scores}");
            assert!(sides < pixels && scores < probability, "{architecture:?} {precision}: {sides}, {scores}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = TempDir::new().unwrap();
    let (_, plain) = write(folder.path(), Architecture::V6);
    let refused = |options: &LoadOptions| load(options).err().expect("does not fit").to_string();
    let with = |change: fn(&mut DetectorOptions)| {
        let mut detector = plain.detector.clone().unwrap();
        change(&mut detector);
        LoadOptions { detector: Some(detector), ..plain.clone() }
    };
    let message = refused(&with(|detector| detector.classes = 4));
    assert!(message.contains("nc: 8") && message.contains("4 labels"), "{message}");
    let message = refused(&with(|detector| detector.family = Some(Family::Yolox)));
    assert!(message.contains("yolov5"), "{message}");
    let message = refused(&with(|detector| detector.head = Some(Head::Yolov8)));
    assert!(message.contains("head"), "{message}");
    let message = refused(&with(|detector| detector.input_size = None));
    assert!(message.contains("input_size"), "{message}");
    let message = refused(&with(|detector| detector.input_size = Some((100, 64))));
    assert!(message.contains("100x64"), "{message}");
    let message = refused(&LoadOptions { detector: None, ..plain.clone() });
    assert!(message.contains("detector"), "{message}");
    let message = refused(&LoadOptions { precision: Some(Precision::Int8), ..plain.clone() });
    assert!(message.contains("int8"), "{message}");

    let weights = folder.path().join("model.safetensors");
    let (mut tensors, _) = read_safetensors(&weights).unwrap();
    tensors.remove("model.9.cv1.conv.weight");
    write_safetensors(&weights, &tensors, BTreeMap::new()).unwrap();
    let message = refused(&plain);
    assert!(message.contains("model.9.cv1.conv.weight") && message.contains("missing"), "{message}");
    fs::write(&weights, b"nothing").unwrap();
    assert!(refused(&plain).contains("model.safetensors"));
    fs::remove_file(&weights).unwrap();
    assert!(refused(&plain).contains("model.safetensors"));
    let layers = fs::read_to_string(&plain.path).unwrap().replace("SPPF", "SPPG");
    fs::write(&plain.path, layers).unwrap();
    assert!(refused(&plain).contains("SPPG"));
}
