//! How many pictures a second a model makes on this machine: `throughput FILE SIZE INSTANCES THREADS BATCH [SECONDS]`.
//!
//! Dimensions that the file leaves open are taken as SIZE. With the feature `onnxruntime` and `ORT_DYLIB_PATH` set,
//! ONNX Runtime is measured in place of the embedded engine. The time of the processor is what to compare on a
//! machine that is busy with something else.

use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use detectd_engine::{Batch, Device, Engine, EngineError, LoadOptions, Model, ModelSpec, Tensor, TensorData};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ensure!(matches!(arguments.len(), 5 | 6), "usage: throughput FILE SIZE INSTANCES THREADS BATCH [SECONDS]");
    let number = |index: usize| -> Result<usize> {
        arguments.get(index).map_or(Ok(5), |text| text.parse().with_context(|| format!("{text} is no number")))
    };
    let (size, instances, threads, batch, seconds) = (number(1)?, number(2)?, number(3)?, number(4)?, number(5)?);
    let options = LoadOptions {
        path: PathBuf::from(&arguments[0]),
        device: Device::Cpu,
        precision: None,
        threads,
        max_batch: batch,
        detector: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    let start = Instant::now();
    let model = load(&options)?;
    println!("{}: loaded in {:.2} s", model.spec().engine, start.elapsed().as_secs_f64());

    let barrier = Barrier::new(instances + 1);
    let (rates, before) = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..instances)
            .map(|_| scope.spawn(|| run(&*model, size, batch, Duration::from_secs(seconds as u64), &barrier)))
            .collect();
        barrier.wait();
        let before = processor_seconds();
        let rates = handles.into_iter().map(|handle| handle.join().expect("an instance panicked"));
        rates.collect::<Result<Vec<_>>>().map(|rates| (rates, before))
    })?;
    let rate: f64 = rates.iter().map(|(pictures, seconds)| *pictures as f64 / seconds).sum();
    let pictures: usize = rates.iter().map(|(pictures, _)| pictures).sum();
    print!("{instances} instances x {threads} threads, batch {batch}: {rate:.1} pictures/s");
    match processor_seconds().zip(before) {
        Some((after, before)) => println!(", {:.1} ms of processor each", (after - before) * 1000.0 / pictures as f64),
        None => println!(),
    }
    Ok(())
}

fn load(options: &LoadOptions) -> Result<Arc<dyn Model>, EngineError> {
    #[cfg(feature = "onnxruntime")]
    if std::env::var_os(detectd_onnx::onnxruntime::LIBRARY_VARIABLE).is_some() {
        return detectd_onnx::onnxruntime::load(options);
    }
    detectd_onnx::load(options)
}

/// What this process has used so far, on Linux: fields 14 and 15 of its status, in hundredths of a second.
fn processor_seconds() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in brackets, may hold spaces.
    let fields: Vec<&str> = status.rsplit_once(") ")?.1.split(' ').collect();
    let field = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((field(11)? + field(12)?) / 100.0)
}

/// What one instance has done, and in how many seconds.
fn run(model: &dyn Model, size: usize, batch: usize, time: Duration, barrier: &Barrier) -> Result<(usize, f64)> {
    let ready = open(model, size, batch);
    barrier.wait();
    let (mut engine, inputs) = ready?;
    let start = Instant::now();
    let mut pictures = 0;
    while start.elapsed() < time {
        engine.infer(&inputs)?;
        pictures += model.spec().batch.executed(batch);
    }
    Ok((pictures, start.elapsed().as_secs_f64()))
}

/// An instance that is warm.
fn open(model: &dyn Model, size: usize, batch: usize) -> Result<(Box<dyn Engine>, Batch)> {
    let mut engine = model.open()?;
    let inputs = inputs(model.spec(), size, batch)?;
    engine.infer(&inputs)?;
    Ok((engine, inputs))
}

fn inputs(spec: &ModelSpec, size: usize, batch: usize) -> Result<Batch> {
    let mut inputs = Vec::new();
    for input in &spec.inputs {
        let open = |(index, dim): (usize, &Option<usize>)| dim.unwrap_or(if index == 0 { batch } else { size });
        let shape: Vec<usize> = input.dims.iter().enumerate().map(open).collect();
        let len = shape.iter().product();
        inputs.push(Tensor::new(shape, TensorData::zeros(input.data_type, len))?);
    }
    Ok(Batch { inputs })
}
