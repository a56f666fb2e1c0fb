//! What TorchScript modules give, and which of it is served.
#![cfg(feature = "libtorch")]

mod support;

use detectd_engine::{Batch, BatchSize, DataType, EngineError, LoadOptions, TensorData, TensorSpec};
use detectd_libtorch::load;
use detectd_vision::{Family, Head};
use support::{input, options, random, returning, rewrite, trace, yolov5};
use tempfile::TempDir;

/// One input of six numbers for each row.
fn six() -> Vec<TensorSpec> {
    vec![TensorSpec { name: "x".into(), data_type: DataType::Fp32, dims: vec![None, Some(6)] }]
}

/// A module of three outputs, `2x [N, 6]`, `x + 1 [N, 2, 3]`, `-x [N, 3, 2]`, which gives them as `value` says.
fn nested(folder: &TempDir, kind: &str, value: impl Fn(&[&str]) -> String) -> LoadOptions {
    let path = folder.path().join("model.pt");
    trace(&path, &[random(&[2, 6], 1)], |inputs| {
        let x = &inputs[0];
        vec![x * 2.0, (x + 1.0).reshape([-1, 2, 3]), x.neg().reshape([-1, 3, 2])]
    });
    rewrite(&path, |code| returning(&code, kind, &value));
    LoadOptions { inputs: six(), ..options(path) }
}

/// A type, a value of it, and the name and the origin of each output that comes of it.
type Nesting<'a> = (&'a str, &'a dyn Fn(&[&str]) -> String, &'a [(&'a str, usize)]);

#[test]
fn every_nesting_is_flattened_in_order() {
    let folder = TempDir::new().unwrap();
    let cases: [Nesting<'_>; 7] = [
        ("Tensor", &|v| v[1].into(), &[("output0", 1)]),
        ("Tuple[Tensor, Tensor]", &|v| format!("({}, {})", v[2], v[0]), &[("output0", 2), ("output1", 0)]),
        ("List[Tensor]", &|v| format!("[{}, {}]", v[1], v[0]), &[("output0", 1), ("output1", 0)]),
        (
            "Dict[str, Tensor]",
            &|v| format!("{{\"scores\": {}, \"boxes\": {}}}", v[0], v[2]),
            &[("scores", 0), ("boxes", 2)],
        ),
        (
            "Tuple[Tensor, List[Tensor]]",
            &|v| format!("({}, [{}, {}])", v[1], v[0], v[2]),
            &[("output0", 1), ("output1", 0), ("output2", 2)],
        ),
        (
            "Tuple[Dict[str, Tensor], Tuple[Tensor, Tensor]]",
            &|v| format!("({{\"first\": {}}}, ({}, {}))", v[2], v[1], v[0]),
            &[("first", 2), ("output1", 1), ("output2", 0)],
        ),
        // The same key twice names neither.
        (
            "List[Dict[str, Tensor]]",
            &|v| format!("[{{\"boxes\": {}}}, {{\"boxes\": {}}}]", v[0], v[1]),
            &[("output0", 0), ("output1", 1)],
        ),
    ];
    let x = input(&[3, 6], 7);
    let TensorData::Fp32(values) = x.data() else { panic!("floats") };
    let values = [
        values.iter().map(|x| x * 2.0).collect::<Vec<f32>>(),
        values.iter().map(|x| x + 1.0).collect(),
        values.iter().map(|x| -x).collect(),
    ];
    let dims: [&[usize]; 3] = [&[6], &[2, 3], &[3, 2]];
    for (kind, value, expected) in cases {
        let model = load(&nested(&folder, kind, value)).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let outputs = model.open().unwrap().infer(&Batch { inputs: vec![x.clone()] }).unwrap();
        assert_eq!(outputs.len(), expected.len(), "{kind}");
        for ((output, spec), &(name, which)) in outputs.iter().zip(&model.spec().outputs).zip(expected) {
            let shape: Vec<Option<usize>> =
                std::iter::once(None).chain(dims[which].iter().copied().map(Some)).collect();
            assert_eq!((spec.name.as_str(), &spec.dims), (name, &shape), "{kind}");
            assert_eq!(output.shape(), [&[3], dims[which]].concat(), "{kind}");
            assert_eq!(output.data(), &TensorData::Fp32(values[which].clone()), "{kind}");
        }
    }
}

#[test]
fn what_is_no_tensor_is_refused_and_nothing_is_left_out() {
    let folder = TempDir::new().unwrap();
    let refused = |kind: &str, value: &dyn Fn(&[&str]) -> String| match load(&nested(&folder, kind, value)) {
        Err(EngineError::Load(message)) => message,
        Err(other) => panic!("{kind}: {other:?}"),
        Ok(_) => panic!("{kind} was loaded"),
    };
    let message = refused("Tuple[Tensor, str]", &|v| format!("({}, \"done\")", v[0]));
    assert!(message.contains("String"), "{message}");
    let message = refused("Tuple[Tensor, int]", &|v| format!("({}, 3)", v[0]));
    assert!(message.contains("Int"), "{message}");
    let message = refused("List[Tensor]", &|_| "annotate(List[Tensor], [])".into());
    assert!(message.contains("gives no tensor"), "{message}");
    let model = load(&nested(&folder, "Tuple[Tensor, NoneType]", |v| format!("({}, None)", v[0]))).unwrap();
    assert_eq!(model.spec().outputs.len(), 1, "None stands for an output that is not there");
}

#[test]
fn outputs_are_chosen_by_name() {
    let folder = TempDir::new().unwrap();
    let all = nested(&folder, "List[Tensor]", |v| format!("[{}, {}, {}]", v[0], v[1], v[2]));
    let chosen = LoadOptions { outputs: vec!["output2".into(), "output0".into()], ..all.clone() };
    let model = load(&chosen).unwrap();
    let outputs = model.open().unwrap().infer(&Batch { inputs: vec![input(&[1, 6], 3)] }).unwrap();
    assert_eq!([outputs[0].shape(), outputs[1].shape()], [&[1, 3, 2][..], &[1, 6]]);
    let message = load(&LoadOptions { outputs: vec!["boxes".into()], ..all }).err().unwrap().to_string();
    assert!(message.contains("boxes") && message.contains("output1: FP32 [?, 2, 3]"), "{message}");
}

#[test]
fn inputs_must_be_declared_as_the_module_has_them() {
    let folder = TempDir::new().unwrap();
    let good = nested(&folder, "Tensor", |v| v[1].into());
    let message = load(&LoadOptions { inputs: Vec::new(), ..good.clone() }).err().unwrap().to_string();
    assert!(message.contains("takes 1 inputs") && message.contains("inputs = ["), "{message}");
    let wrong = |dims: &[Option<usize>], max_batch| {
        let mut inputs = six();
        inputs[0].dims = dims.to_vec();
        load(&LoadOptions { inputs, max_batch, ..good.clone() })
    };
    let message = wrong(&[None, Some(7)], 4).err().unwrap().to_string();
    assert!(message.contains("reshape") && message.contains("invalid"), "the operator is named: {message}");
    assert_eq!(wrong(&[Some(5), Some(6)], 4).unwrap().spec().batch, BatchSize::Fixed(5));
    assert_eq!(wrong(&[Some(5), Some(6)], 0).unwrap().spec().batch, BatchSize::Absent);
    // An open side beside the batch: what the module refuses is the caller's mistake.
    let open = wrong(&[None, None], 4).unwrap_or_else(|error| panic!("{error}"));
    let refused = open.open().unwrap().infer(&Batch { inputs: vec![input(&[1, 7], 1)] });
    assert!(matches!(&refused, Err(EngineError::Shape(message)) if message.contains("reshape")), "{refused:?}");
}

/// The heads of a YOLOv5 with two classes at 64x64, from a picture of any size that is a multiple of 32: raw levels,
/// and decoded rows.
fn heads(x: &tch::Tensor) -> (Vec<tch::Tensor>, tch::Tensor) {
    let levels: Vec<tch::Tensor> = [8i64, 16, 32]
        .iter()
        .map(|&stride| {
            let pooled = x.avg_pool2d([stride; 2], [stride; 2], [0, 0], false, true, None::<i64>);
            pooled.repeat([1, 7, 1, 1])
        })
        .collect();
    let rows: Vec<tch::Tensor> = levels
        .iter()
        .map(|level| {
            let (_, _, height, width) = level.size4().unwrap();
            level.view([-1, 3, 7, height, width]).permute([0, 1, 3, 4, 2]).reshape([-1, 3 * height * width, 7])
        })
        .collect();
    let rows = tch::Tensor::cat(&rows, 1);
    (levels, rows)
}

#[test]
fn detectors_are_recognised() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.pt");
    let picture = random(&[1, 3, 64, 64], 2);
    let of_64 = LoadOptions {
        detector: Some(detectd_engine::DetectorOptions { input_size: Some((64, 64)), ..yolov5(2) }),
        ..options(path.clone())
    };
    let head = |of_64: &LoadOptions| {
        let model = load(of_64).unwrap_or_else(|error| panic!("{error}"));
        let detector = model.spec().detector.clone().unwrap();
        (detector.head, model.spec().outputs.len())
    };

    trace(&path, std::slice::from_ref(&picture), |inputs| vec![heads(&inputs[0]).1]);
    assert_eq!(head(&of_64), (Head::Yolov5, 1), "decoded rows");
    trace(&path, std::slice::from_ref(&picture), |inputs| heads(&inputs[0]).0);
    assert!(matches!(head(&of_64), (Head::Yolov5Levels { .. }, 3)), "raw levels");
    // YOLOv5's own exports give the decoded rows and the raw levels beside them.
    trace(&path, std::slice::from_ref(&picture), |inputs| {
        let (levels, rows) = heads(&inputs[0]);
        std::iter::once(rows).chain(levels).collect()
    });
    rewrite(&path, |code| {
        returning(&code, "Tuple[Tensor, List[Tensor]]", |v| format!("({}, [{}, {}, {}])", v[0], v[1], v[2], v[3]))
    });
    assert_eq!(head(&of_64), (Head::Yolov5, 1), "the rows of both");
    // NMS inside.
    let boxes = random(&[1, 20, 6], 5);
    trace(&path, std::slice::from_ref(&picture), |inputs| vec![inputs[0].mean(tch::Kind::Float) + &boxes]);
    let finished = detectd_engine::DetectorOptions { input_size: Some((64, 64)), ..yolov5(2) };
    let fixed = LoadOptions { detector: Some(finished), ..options(path.clone()) };
    let model = load(&fixed).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.spec().detector.as_ref().unwrap().head, Head::EndToEnd);
    assert_eq!(model.spec().batch, BatchSize::Fixed(1), "its output does not follow the batch");

    // Twice the same: which one is meant must be said.
    trace(&path, std::slice::from_ref(&picture), |inputs| vec![heads(&inputs[0]).1, heads(&inputs[0]).1 * 2.0]);
    let message = load(&of_64).err().unwrap().to_string();
    assert!(message.contains("outputs = [\"output0\"] or outputs = [\"output1\"]"), "{message}");
    let stated = LoadOptions { outputs: vec!["output1".into()], ..of_64.clone() };
    assert_eq!(head(&stated), (Head::Yolov5, 1));
    // Raw levels without a family: the message says what to write.
    trace(&path, std::slice::from_ref(&picture), |inputs| heads(&inputs[0]).0);
    let mut unknown = of_64;
    unknown.detector.as_mut().unwrap().family = None;
    unknown.detector.as_mut().unwrap().preprocess = Some(detectd_vision::Preprocess::yolov5(64, 64));
    let message = load(&unknown).err().unwrap().to_string();
    assert!(message.contains("family = \"yolov5\"") && message.contains("outputs = ["), "{message}");
}

#[test]
fn the_size_of_the_input_is_found_or_asked_for() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.pt");
    let unsized_options = LoadOptions { detector: Some(yolov5(2)), max_batch: 2, ..options(path.clone()) };

    // Traced for 96x96 only, for any batch.
    let weight = random(&[1, 3 * (144 + 36 + 9), 7], 4);
    trace(&path, &[random(&[1, 3, 96, 96], 2)], |inputs| vec![heads(&inputs[0]).1 * &weight]);
    let model = load(&unsized_options).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.spec().inputs[0].dims, [None, Some(3), Some(96), Some(96)]);
    assert_eq!(model.spec().batch, BatchSize::UpTo(2));

    // No square of the list: the message says what was tried and what to write.
    let weight = random(&[1, 3 * (8 * 4 + 4 * 2 + 2), 7], 4);
    trace(&path, &[random(&[1, 3, 32, 64], 2)], |inputs| vec![heads(&inputs[0]).1 * &weight]);
    let message = load(&unsized_options).err().unwrap().to_string();
    assert!(message.contains("640, 320") && message.contains("input_size = [width, height]"), "{message}");
    let mut stated = unsized_options.clone();
    stated.detector.as_mut().unwrap().input_size = Some((64, 32));
    assert_eq!(load(&stated).unwrap().spec().inputs[0].dims, [None, Some(3), Some(32), Some(64)]);
    stated.detector.as_mut().unwrap().input_size = Some((64, 64));
    let message = load(&stated).err().unwrap().to_string();
    assert!(message.contains("64x64"), "{message}");

    // Any size: it must be stated.
    trace(&path, &[random(&[1, 3, 64, 64], 2)], |inputs| {
        let x = inputs[0].avg_pool2d([8; 2], [8; 2], [0, 0], false, true, None::<i64>);
        vec![x.repeat([1, 7, 1, 1]).flatten(2, 3)]
    });
    let message = load(&unsized_options).err().unwrap().to_string();
    assert!(message.contains("input_size"), "{message}");
}

#[test]
fn a_family_that_does_not_fit_is_told() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.pt");
    trace(&path, &[random(&[1, 3, 64, 64], 2)], |inputs| vec![heads(&inputs[0]).1]);
    let detector = detectd_engine::DetectorOptions {
        family: Some(Family::Yolov8),
        input_size: Some((64, 64)),
        classes: 2,
        ..Default::default()
    };
    let message = load(&LoadOptions { detector: Some(detector), ..options(path) }).err().unwrap().to_string();
    assert!(message.contains("[?, 252, 7]") && message.contains("2 classes"), "{message}");
}
