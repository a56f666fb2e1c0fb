//! Precisions, memory, threads and devices.
#![cfg(feature = "libtorch")]

mod support;

use std::path::Path;

use detectd_engine::{
    Batch, BatchSize, DataType, Device, EngineError, LoadOptions, Model, Precision, Tensor, TensorData, TensorSpec,
};
use detectd_libtorch::load;
use support::{input, options, random, returning, rewrite, trace};
use tempfile::TempDir;

const SHAPE: [usize; 4] = [2, 3, 32, 32];

fn picture() -> Vec<TensorSpec> {
    let dims = vec![None, Some(3), Some(32), Some(32)];
    vec![TensorSpec { name: "x".into(), data_type: DataType::Fp32, dims }]
}

/// Three convolutions with a normalisation in the picture and constants in 32 bits around them, as exports have.
fn convolutions(path: &Path) -> LoadOptions {
    let weights = [random(&[16, 3, 3, 3], 1) * 0.3, random(&[16, 16, 3, 3], 2) * 0.15, random(&[8, 16, 1, 1], 3) * 0.5];
    let biases = [random(&[16], 4), random(&[16], 5), random(&[8], 6)];
    let (mean, offset) = (random(&[1, 3, 1, 1], 7), random(&[1, 8, 1], 8) * 100.0);
    trace(path, &[random(&[1, 3, 32, 32], 9)], |inputs| {
        let mut x = &inputs[0] - &mean;
        for (weight, bias) in weights.iter().zip(&biases) {
            let padding = weight.size()[2] / 2;
            x = x.conv2d(weight, Some(bias), [1, 1], [padding; 2], [1, 1], 1).silu();
        }
        vec![x.flatten(2, 3) + &offset]
    });
    LoadOptions { inputs: picture(), ..options(path.to_path_buf()) }
}

fn run(model: &dyn Model, batch: usize) -> Vec<f32> {
    let shape = [&[batch], &SHAPE[1..]].concat();
    let outputs = model.open().unwrap().infer(&Batch { inputs: vec![input(&shape, 11)] });
    let TensorData::Fp32(values) = outputs.unwrap().remove(0).into_data() else { panic!("floats") };
    values
}

/// The mean of the differences, and the largest.
fn difference(a: &[f32], b: &[f32]) -> (f32, f32) {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    (each.clone().sum::<f32>() / a.len() as f32, each.fold(0.0, f32::max))
}

#[test]
fn half_precisions_stay_near_32_bits() {
    let folder = TempDir::new().unwrap();
    let plain = convolutions(&folder.path().join("model.pt"));
    let model = load(&plain).unwrap();
    assert_eq!(model.spec().precision, Precision::Fp32);
    let exact = run(&*model, 2);
    // Values are of the order of 1: 8 and 11 bits of mantissa, a few roundings after one another.
    for (precision, mean, most) in [(Precision::Bf16, 0.01, 0.1), (Precision::Fp16, 0.0015, 0.015)] {
        let model = load(&LoadOptions { precision: Some(precision), ..plain.clone() })
            .unwrap_or_else(|error| panic!("{precision}: {error}"));
        assert_eq!(model.spec().precision, precision);
        let (found_mean, found_most) = difference(&run(&*model, 2), &exact);
        println!("{precision}: mean difference {found_mean}, largest {found_most}");
        assert!(found_mean < mean && found_most < most, "{precision}: {found_mean}, {found_most}");
        assert!(found_most > 0.0, "{precision} computes as fp32 does");
    }
    let same = load(&LoadOptions { precision: Some(Precision::Fp32), ..plain.clone() }).unwrap();
    assert_eq!(run(&*same, 2), exact);
    let message = load(&LoadOptions { precision: Some(Precision::Int8), ..plain }).err().unwrap().to_string();
    assert!(message.contains("int8") && message.contains("quantised before"), "{message}");
}

#[test]
fn an_operator_that_does_not_take_the_precision_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.pt");
    let (weight, square) = (random(&[4, 3, 1, 1], 1), random(&[1, 4, 4], 2));
    trace(&path, &[random(&[1, 3, 32, 32], 9)], |inputs| {
        let x = inputs[0].conv2d(&weight, None::<tch::Tensor>, [1, 1], [0, 0], [1, 1], 1);
        vec![
            x.adaptive_avg_pool2d([4, 1])
                .flatten(2, 3)
                .matmul(&x.adaptive_avg_pool2d([1, 4]).flatten(1, 2).unsqueeze(1))
                .inverse()
                .matmul(&square),
        ]
    });
    let plain = LoadOptions { inputs: picture(), ..options(path) };
    let message = load(&LoadOptions { precision: Some(Precision::Bf16), ..plain }).err().unwrap().to_string();
    assert!(message.contains("bf16") && message.contains("operator torch.linalg_inv"), "{message}");
}

#[test]
fn a_quantised_module_runs_in_int8() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.pt");
    let weight = random(&[8, 3, 3, 3], 1);
    trace(&path, &[random(&[1, 3, 32, 32], 9)], |inputs| {
        vec![inputs[0].conv2d(&weight, None::<tch::Tensor>, [1, 1], [1, 1], [1, 1], 1)]
    });
    let plain = LoadOptions { inputs: picture(), ..options(path.clone()) };
    let exact = run(&*load(&plain).unwrap(), 2);

    // The same convolution with weights in 8 bits, on inputs in 8 bits, as quantisation leaves it in an export.
    rewrite(&path, |code| {
        let (weight, rest) = code.split_once("CONSTANTS.").map(|(_, rest)| rest.split_at(2)).unwrap();
        assert!(weight.starts_with('c') && rest.starts_with([',', ')']), "{code}");
        let quantised = format!(
            "xq = torch.quantize_per_tensor(INPUT, 0.0078125, 128, 13)\n    \
               wq = torch.quantize_per_tensor(CONSTANTS.{weight}, 0.0078125, 0, 12)\n    \
               packed = ops.quantized.conv2d_prepack(wq, None, [1, 1], [1, 1], [1, 1], 1)\n    \
               y = ops.quantized.conv2d(xq, packed, 0.0625, 128)\n    \
               return torch.dequantize(y)\n"
        );
        let argument = code.split_once("def forward(self").unwrap().1.split_once(": Tensor").unwrap().0;
        let argument = argument.rsplit([',', ' ', '\n']).next().unwrap();
        let body = code.find("-> Tensor:\n").unwrap() + "-> Tensor:\n".len();
        format!("{}    {}", &code[..body], quantised.replace("INPUT", argument))
    });
    let model = load(&plain).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.spec().precision, Precision::Int8);
    let (mean, most) = difference(&run(&*model, 2), &exact);
    println!("int8: mean difference {mean}, largest {most}");
    // Steps of 1/16 in the output, 1/128 in each of 27 products.
    assert!(mean < 0.04 && most < 0.2, "{mean}, {most}");
    load(&LoadOptions { precision: Some(Precision::Int8), ..plain.clone() }).unwrap();
    let message = load(&LoadOptions { precision: Some(Precision::Bf16), ..plain }).err().unwrap().to_string();
    assert!(message.contains("the module is int8"), "{message}");
}

#[test]
fn without_memory_the_error_says_so_and_the_engine_goes_on() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.pt");
    trace(&path, &[random(&[1, 6], 1)], |inputs| vec![&inputs[0] * 2.0]);
    // Three rows need 2^46 floats: 256 TiB, twice what a process can address, whatever the system overcommits.
    rewrite(&path, |code| {
        let argument = code.split_once("def forward(self").unwrap().1.split_once(": Tensor").unwrap().0;
        let argument = argument.rsplit([',', ' ', '\n']).next().unwrap().to_owned();
        returning(&code, "Tensor", |v| {
            format!("torch.add({}, torch.sum(torch.ones([torch.pow(torch.size({argument}, 0) - 1, 46)])))", v[0])
        })
        .replace("torch.pow(", "int(torch.pow(")
        .replace(", 46)", ", 46))")
    });
    let inputs = vec![TensorSpec { name: "x".into(), data_type: DataType::Fp32, dims: vec![None, Some(6)] }];
    let model = load(&LoadOptions { inputs, ..options(path) }).unwrap_or_else(|error| panic!("{error}"));
    let mut engine = model.open().unwrap();
    let mut run = |rows: usize| engine.infer(&Batch { inputs: vec![input(&[rows, 6], 1)] });
    for _ in 0..3 {
        let refused = run(3);
        assert!(matches!(refused, Err(EngineError::OutOfMemory(_))), "{refused:?}");
        run(2).expect("a smaller batch passes");
    }
}

#[test]
fn instances_of_any_thread_count_agree() {
    let folder = TempDir::new().unwrap();
    let plain = convolutions(&folder.path().join("model.pt"));
    let one = run(&*load(&plain).unwrap(), 3);
    for threads in [0, 2, 5] {
        let other = run(&*load(&LoadOptions { threads, ..plain.clone() }).unwrap(), 3);
        let (_, most) = difference(&other, &one);
        assert!(most < 1e-4, "{threads} threads: {most}");
    }
}

#[test]
fn other_sizes_share_the_weights() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.pt");
    let plain = LoadOptions { max_batch: 2, ..convolutions(&path) };
    let (pair, single) = (load(&plain).unwrap(), load(&LoadOptions { max_batch: 1, ..plain }).unwrap());
    // What comes now cannot come from the file.
    std::fs::remove_file(&path).unwrap();
    let exact = run(&*pair, 2);
    let more = pair.resized(6, 2).expect("only the sizes differ");
    assert_eq!((more.spec().batch, pair.spec().batch), (BatchSize::UpTo(6), BatchSize::UpTo(2)));
    let (_, most) = difference(&run(&*more, 6)[..exact.len()], &exact);
    assert!(most < 1e-4, "{most}");
    assert_eq!(run(&*more.resized(2, 1).expect("and back"), 2), exact);
    // Nobody has seen it run two rows: its file must be looked at again.
    assert_eq!(single.spec().batch, BatchSize::UpTo(1));
    assert!(single.resized(2, 1).is_none());
    run(&*single.resized(1, 2).expect("only the threads differ"), 1);
}

#[test]
fn cuda_that_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    let plain = convolutions(&folder.path().join("model.pt"));
    let message = load(&LoadOptions { device: Device::Cuda(99), ..plain.clone() }).err().unwrap().to_string();
    assert!(message.contains("libtorch_cuda.so") || message.contains("cuda:99"), "{message}");
    load(&plain).expect("the CPU is as it was");
}

#[test]
fn archives_that_hold_no_module_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.pt");
    let refused = |path: &Path| load(&options(path.to_path_buf())).err().unwrap().to_string();

    // Weights alone, as torch.save writes them.
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    archive.start_file("model/data.pkl", zip::write::FileOptions::default()).unwrap();
    archive.finish().unwrap();
    let message = refused(&path);
    assert!(message.contains("no code") && message.contains("torch.jit"), "{message}");

    trace(&path, &[random(&[1, 6], 1)], |inputs| vec![&inputs[0] * 2.0]);
    rewrite(&path, |code| code.replace("torch.mul(", "torch.no_such_operator("));
    let message = refused(&path);
    assert!(message.contains("no_such_operator"), "{message}");
    trace(&path, &[random(&[1, 6], 1)], |inputs| vec![&inputs[0] * 2.0]);
    rewrite(&path, |code| code.replace("def forward(", "def backward("));
    let message = refused(&path);
    assert!(message.contains("forward"), "{message}");
}

#[test]
fn values_of_a_tensor_are_kept_by_reference_nowhere() {
    // A module that gives its input back: the answer must not change with the caller's memory.
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.pt");
    trace(&path, &[random(&[1, 6], 1)], |inputs| vec![inputs[0].reshape([-1, 6])]);
    let inputs = vec![TensorSpec { name: "x".into(), data_type: DataType::Fp32, dims: vec![None, Some(6)] }];
    let model = load(&LoadOptions { inputs, ..options(path) }).unwrap();
    let mut engine = model.open().unwrap();
    let first: Vec<Tensor> = engine.infer(&Batch { inputs: vec![input(&[2, 6], 1)] }).unwrap();
    engine.infer(&Batch { inputs: vec![input(&[2, 6], 2)] }).unwrap();
    assert_eq!(first, [input(&[2, 6], 1)]);
}
