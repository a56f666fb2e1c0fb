//! TorchScript files for tests, made without Python: functions are traced, and the code in the archive is rewritten
//! where tracing cannot say what is wanted.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use detectd_conformance::{Network, Operation, Port, Step};
use detectd_engine::{
    DataType, DetectorOptions, Device, EngineError, LoadOptions, Model, Tensor, TensorData, TensorSpec,
};
use std::collections::HashMap;
use std::sync::Arc;
use tch::{CModule, Kind};

/// Where the tests run: `cpu`, or what `DETECTD_TEST_DEVICE` says, such as `cuda:1`.
pub fn device() -> Device {
    let wanted = std::env::var("DETECTD_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    wanted.parse().unwrap_or_else(|error| panic!("DETECTD_TEST_DEVICE: {error}"))
}

/// Options that say nothing.
pub fn options(path: PathBuf) -> LoadOptions {
    LoadOptions {
        path,
        device: Device::Cpu,
        precision: None,
        threads: 1,
        max_batch: 4,
        detector: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
    }
}

/// What a manifest says of a YOLOv5 with so many classes.
pub fn yolov5(classes: usize) -> DetectorOptions {
    DetectorOptions { family: Some(detectd_vision::Family::Yolov5), classes, ..DetectorOptions::default() }
}

/// A float tensor of values without a pattern, small enough for 16 bits.
pub fn random(shape: &[i64], seed: u64) -> tch::Tensor {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.random_range(-1.0..1.0)).collect();
    tch::Tensor::from_slice(&values).view(shape)
}

/// An input for one execution.
pub fn input(shape: &[usize], seed: u64) -> Tensor {
    let signed: Vec<i64> = shape.iter().map(|&side| side as i64).collect();
    let values = Vec::<f32>::try_from(random(&signed, seed).reshape([-1])).expect("floats");
    Tensor::new(shape.to_vec(), TensorData::Fp32(values)).expect("as many values")
}

/// Traces a function on examples and writes it. Several outputs are given as a tuple.
pub fn trace(path: &Path, examples: &[tch::Tensor], function: impl Fn(&[tch::Tensor]) -> Vec<tch::Tensor>) {
    let several = tch::no_grad(|| function(examples)).len() > 1;
    // A traced function has one output: several are joined, and taken apart in the code.
    let mut joined = |inputs: &[tch::Tensor]| {
        let outputs = function(inputs);
        if !several {
            return outputs;
        }
        let flat: Vec<tch::Tensor> = outputs.iter().map(|output| output.reshape([-1])).collect();
        vec![tch::Tensor::cat(&flat, 0)]
    };
    let module = tch::no_grad(|| CModule::create_by_tracing("Traced", "forward", examples, &mut joined));
    module.expect("traced").save(path).expect("written");
    if several {
        rewrite(path, |code| taken_apart(&code));
    }
}

/// Lets code that ends with `torch.cat([torch.reshape(a, [-1]), …])` return `(a, …)`.
fn taken_apart(code: &str) -> String {
    // An expression may have got a line and a name of its own.
    let meant = |expression: &str| -> String {
        let line = code.lines().find_map(|line| line.trim().strip_prefix(expression)?.strip_prefix(" = "));
        line.unwrap_or(expression).to_owned()
    };
    let (_, joined) = code.rsplit_once("torch.cat(").expect("a concatenation");
    let list = meant(&parts(joined.rsplit_once(')').expect("its end").0)[0]);
    let list = list.strip_prefix('[').and_then(|list| list.strip_suffix(']')).expect("a list");
    let outputs: Vec<String> = parts(list)
        .iter()
        .map(|part| {
            let flat = meant(part);
            let output = flat.strip_prefix("torch.reshape(").and_then(|rest| rest.strip_suffix(", [-1])"));
            output.unwrap_or_else(|| panic!("{flat} in:\n{code}")).to_owned()
        })
        .collect();
    let kind = format!("Tuple[{}]", vec!["Tensor"; outputs.len()].join(", "));
    returning(code, &kind, |_| format!("({})", outputs.join(", ")))
}

/// What commas separate, not looking inside brackets.
fn parts(list: &str) -> Vec<String> {
    let mut depth = 0;
    let separator = |character: char| {
        depth += i32::from("([".contains(character)) - i32::from(")]".contains(character));
        character == ',' && depth == 0
    };
    list.split(separator).map(|part| part.trim().to_owned()).collect()
}

/// Changes the code of an archive.
pub fn rewrite(path: &Path, change: impl Fn(String) -> String) {
    let mut old = zip::ZipArchive::new(File::open(path).expect("an archive")).expect("an archive");
    let mut parts = Vec::new();
    for index in 0..old.len() {
        let mut part = old.by_index(index).expect("a part");
        let mut bytes = Vec::new();
        part.read_to_end(&mut bytes).expect("reads");
        let name = part.name().to_owned();
        if name.contains("/code/") && name.ends_with(".py") {
            let code = String::from_utf8(bytes).expect("text");
            let changed = change(code.clone());
            assert_ne!(code, changed, "nothing was changed in:\n{code}");
            bytes = changed.into_bytes();
        }
        parts.push((name, bytes));
    }
    let mut new = zip::ZipWriter::new(File::create(path).expect("creates"));
    let stored = zip::write::FileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in parts {
        new.start_file(name, stored).expect("starts");
        new.write_all(&bytes).expect("writes");
    }
    new.finish().expect("ends");
}

/// The module's code, which gives a value of type `kind` made of the expressions of the traced outputs.
pub fn returning(code: &str, kind: &str, value: impl Fn(&[&str]) -> String) -> String {
    let start = code.find("-> ").expect("a return type") + 3;
    let end = start + code[start..].find(":\n").expect("the end of the type");
    let last = code.rfind("return ").expect("a return");
    let returned = code[last + 7..].trim();
    let tuple = returned.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(returned);
    let outputs = parts(tuple);
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    format!("{}{kind}{}return {}\n", &code[..start], &code[end..last], value(&outputs))
}

/// Writes a network of the conformance suite, with a note of its inputs beside it, as a manifest would declare them.
pub fn write(network: &Network, batch: Option<usize>, path: &Path) -> io::Result<()> {
    let examples: Vec<tch::Tensor> = network
        .inputs
        .iter()
        .map(|port| {
            let shape: Vec<i64> = sides(batch.unwrap_or(2), &port.dims);
            tch::Tensor::zeros(shape, (kind(port.data_type), tch::Device::Cpu))
        })
        .collect();
    let steps: Vec<(&Step, Vec<tch::Tensor>)> = network.steps.iter().map(|step| (step, constants(step))).collect();
    trace(path, &examples, |inputs| {
        let ports = network.inputs.iter().zip(inputs);
        let mut values: HashMap<&str, tch::Tensor> =
            ports.map(|(port, input)| (port.name, input.shallow_clone())).collect();
        for (step, constants) in &steps {
            let value = apply(step, constants, &values, batch);
            values.insert(step.output, value);
        }
        network.outputs.iter().map(|port| values[port.name].shallow_clone()).collect()
    });
    if network.outputs.len() > 1 {
        rewrite(path, |code| {
            returning(&code, "Dict[str, Tensor]", |values| {
                let named = network.outputs.iter().zip(values);
                let entries: Vec<String> = named.map(|(port, value)| format!("\"{}\": {value}", port.name)).collect();
                format!("{{{}}}", entries.join(", "))
            })
        });
    }
    let declared = |port: &Port| TensorSpec {
        name: port.name.into(),
        data_type: port.data_type,
        dims: std::iter::once(batch).chain(port.dims.iter().copied().map(Some)).collect(),
    };
    let inputs: Vec<TensorSpec> = network.inputs.iter().map(declared).collect();
    fs::write(note(path), serde_json::to_vec(&inputs)?)
}

/// Loads a file with the inputs that its note declares.
pub fn load_with_note(options: &LoadOptions) -> Result<Arc<dyn Model>, EngineError> {
    let inputs = fs::read(note(&options.path)).ok().and_then(|note| serde_json::from_slice(&note).ok());
    detectd_libtorch::load(&LoadOptions { inputs: inputs.unwrap_or_default(), ..options.clone() })
}

fn note(path: &Path) -> PathBuf {
    path.with_extension("inputs.json")
}

fn sides(batch: usize, dims: &[usize]) -> Vec<i64> {
    std::iter::once(batch).chain(dims.iter().copied()).map(|side| side as i64).collect()
}

fn kind(data_type: DataType) -> Kind {
    match data_type {
        DataType::Fp32 => Kind::Float,
        DataType::Int32 => Kind::Int,
        DataType::Int64 => Kind::Int64,
        DataType::Uint8 => Kind::Uint8,
        DataType::Int8 => Kind::Int8,
    }
}

/// The weights of a step, made before the trace.
fn constants(step: &Step) -> Vec<tch::Tensor> {
    let tensor = |values: &[f32], shape: &[i64]| tch::Tensor::from_slice(values).view(shape);
    match &step.operation {
        Operation::Convolution { weight, bias, kernel, .. } => {
            let kernel = *kernel as i64;
            vec![tensor(weight, &[bias.len() as i64, -1, kernel, kernel]), tensor(bias, &[-1])]
        }
        Operation::Linear { weight, bias } => {
            vec![tensor(weight, &[bias.len() as i64, -1]), tensor(bias, &[-1])]
        }
        Operation::Affine { scale, offset, columns } => {
            let shape = if *columns { [1, 1, -1] } else { [1, -1, 1] };
            vec![tensor(scale, &shape), tensor(offset, &shape)]
        }
        _ => Vec::new(),
    }
}

fn apply(
    step: &Step,
    constants: &[tch::Tensor],
    values: &HashMap<&str, tch::Tensor>,
    batch: Option<usize>,
) -> tch::Tensor {
    let x = &values[step.inputs[0]];
    match &step.operation {
        Operation::Convolution { stride, padding, .. } => {
            let (stride, padding) = (*stride as i64, *padding as i64);
            x.conv2d(&constants[0], Some(&constants[1]), [stride; 2], [padding; 2], [1, 1], 1)
        }
        Operation::Linear { .. } => x.linear(&constants[0], Some(&constants[1])),
        Operation::Silu => x.silu(),
        Operation::Sigmoid => x.sigmoid(),
        Operation::MaxPool => x.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false),
        Operation::Affine { .. } => x * &constants[0] + &constants[1],
        Operation::Add => x + &values[step.inputs[1]],
        Operation::Concatenate => {
            let parts: Vec<&tch::Tensor> = step.inputs.iter().map(|name| &values[name]).collect();
            tch::Tensor::cat(&parts, 1)
        }
        Operation::Reshape { dims } => {
            let mut shape = sides(0, dims);
            shape[0] = batch.map_or(-1, |batch| batch as i64);
            x.reshape(shape)
        }
    }
}
