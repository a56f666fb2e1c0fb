//! Exports of ultralytics, made by `exports/export.py`, against ONNX Runtime's outputs. Skips when there are none.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use detectd_engine::{Batch, DetectorOptions, Device, EngineError, LoadOptions, Model, Precision, Tensor, TensorData};
use detectd_vision::{Family, Head};
use serde::Deserialize;

/// One exported model.
#[derive(Deserialize)]
struct Export {
    name: String,
    family: Family,
    classes: usize,
    cases: Vec<Case>,
}

/// One input and its outputs.
#[derive(Deserialize)]
struct Case {
    shape: Vec<usize>,
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    shape: Vec<usize>,
    largest: f32,
}

type Load = fn(&LoadOptions) -> Result<Arc<dyn Model>, EngineError>;

#[test]
fn the_embedded_engine_agrees_with_onnx_runtime() {
    run(detectd_onnx::load);
}

#[cfg(feature = "onnxruntime")]
#[test]
fn onnx_runtime_agrees_with_itself() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.onnxruntime/libonnxruntime.so");
    if !library.is_file() {
        eprintln!("skipped: {} is missing, run `make onnxruntime`", library.display());
        return;
    }
    detectd_onnx::onnxruntime::load_library(&library).unwrap();
    run(detectd_onnx::onnxruntime::load);
}

fn run(load: Load) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports/files");
    let Ok(list) = fs::read_to_string(folder.join("exports.json")) else {
        eprintln!("skipped: no exports in {}, see tests/exports/README.md", folder.display());
        return;
    };
    let exports: Vec<Export> = serde_json::from_str(&list).unwrap();
    assert!(!exports.is_empty());
    for export in exports {
        check(load, &folder, &export);
    }
}

fn check(load: Load, folder: &Path, export: &Export) {
    let name = &export.name;
    let size = |case: &Case| (case.shape[3] as u32, case.shape[2] as u32);
    let options = LoadOptions {
        path: folder.join(format!("{name}.onnx")),
        device: Device::Cpu,
        precision: None,
        threads: 1,
        max_batch: 4,
        detector: Some(DetectorOptions {
            family: Some(export.family),
            classes: export.classes,
            input_size: Some(size(&export.cases[0])),
            ..DetectorOptions::default()
        }),
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    let loaded = load(&options);
    if let (true, Err(EngineError::Load(message))) = (name.contains("nms"), &loaded)
        && message.starts_with("the onnx engine lacks")
    {
        assert!(message.contains("NonMaxSuppression at /NonMaxSuppression"), "{name}: {message}");
        println!("onnx {name}: refused because of NonMaxSuppression");
        return;
    }
    let model = loaded.unwrap_or_else(|error| panic!("{name}: {error}"));
    let spec = model.spec();
    let detector = spec.detector.as_ref().unwrap();
    let head = if name.contains("nms") { Head::EndToEnd } else { Head::Yolov8 };
    assert_eq!(detector.head, head, "{name}");
    let quantised = name.contains("int8");
    assert_eq!(spec.precision, if quantised { Precision::Int8 } else { Precision::Fp32 }, "{name}");

    let mut engine = model.open().unwrap();
    for (index, case) in export.cases.iter().enumerate() {
        let input = floats(&folder.join(format!("{name}.{index}.input")));
        let input = Tensor::new(case.shape.clone(), TensorData::Fp32(input)).unwrap();
        let outputs = engine.infer(&Batch { inputs: vec![input] }).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(outputs.len(), case.outputs.len(), "{name}");
        for (number, (got, expected)) in outputs.iter().zip(&case.outputs).enumerate() {
            assert_eq!(got.shape(), expected.shape, "{name} {:?}: {}", case.shape, expected.name);
            let TensorData::Fp32(got) = got.data() else { panic!("{name}: {}", got.data().data_type()) };
            let reference = floats(&folder.join(format!("{name}.{index}.output{number}")));
            // An output of zeros would compare nothing.
            assert!(expected.largest > 1.0, "{name}: {} holds nothing", expected.name);
            if detector.head == Head::EndToEnd {
                let (found, all) = matching_rows(got, &reference);
                println!("{} {name} {:?}: {found} of {all} boxes", spec.engine, case.shape);
                assert!(all > 0 && found == all, "{name}: {found} of {all} boxes");
                continue;
            }
            let (largest, mean) = difference(got, &reference);
            println!("{} {name} {:?}: largest difference {largest:.1e}, mean {mean:.1e}", spec.engine, case.shape);
            if quantised {
                // Rounding differs between a fused and an unfused quantised convolution, so single values may differ.
                assert!(mean < 0.01, "{name}: mean difference {mean}");
            } else {
                assert!(largest < 2e-3, "{name}: largest difference {largest}");
            }
        }
    }
}

/// How many of the expected boxes (corners, score, class) are among those that came, in any order.
fn matching_rows(got: &[f32], expected: &[f32]) -> (usize, usize) {
    let rows = |values: &[f32]| -> Vec<[f32; 6]> {
        let rows = values.as_chunks::<6>().0;
        rows.iter().filter(|row| row[4] > 0.0).copied().collect()
    };
    let (got, expected) = (rows(got), rows(expected));
    let near = |a: &[f32; 6], b: &[f32; 6]| {
        a[5] == b[5] && (a[4] - b[4]).abs() < 1e-3 && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.1)
    };
    let found = expected.iter().filter(|expected| got.iter().any(|got| near(got, expected)));
    (found.count(), expected.len().max(got.len()))
}

/// The largest and the mean difference, relative for values above 1.
fn difference(got: &[f32], expected: &[f32]) -> (f32, f64) {
    let mut largest = 0.0f32;
    let mut sum = 0.0;
    for (got, expected) in got.iter().zip(expected) {
        let difference = (got - expected).abs() / expected.abs().max(1.0);
        assert!(difference.is_finite(), "{got}, expected {expected}");
        largest = largest.max(difference);
        sum += f64::from(difference);
    }
    (largest, sum / expected.len() as f64)
}

fn floats(path: &PathBuf) -> Vec<f32> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
