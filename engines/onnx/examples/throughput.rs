//! How many pictures a second a model makes on this machine: `throughput FILE SIZE INSTANCES THREADS BATCH [SECONDS]`.
//!
//! Dimensions that the file leaves open are taken as SIZE. With the feature `onnxruntime` and `ORT_DYLIB_PATH` set,
//! ONNX Runtime is measured in place of the embedded engine.

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use detectd_engine::{Batch, Device, LoadOptions, Model, ModelSpec, Tensor, TensorData};

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
    };
    let start = Instant::now();
    let model = detectd_onnx::load(&options)?;
    println!("{}: loaded in {:.2} s", model.spec().engine, start.elapsed().as_secs_f64());

    let barrier = Barrier::new(instances);
    let rates = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..instances)
            .map(|_| scope.spawn(|| run(&*model, size, batch, Duration::from_secs(seconds as u64), &barrier)))
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("an instance panicked")).collect::<Result<Vec<_>>>()
    })?;
    let total: f64 = rates.iter().sum();
    println!("{instances} instances x {threads} threads, batch {batch}: {total:.1} pictures/s");
    Ok(())
}

/// Pictures a second of one instance.
fn run(model: &dyn Model, size: usize, batch: usize, time: Duration, barrier: &Barrier) -> Result<f64> {
    let mut engine = model.open()?;
    let inputs = inputs(model.spec(), size, batch)?;
    engine.infer(&inputs)?;
    barrier.wait();
    let start = Instant::now();
    let mut pictures = 0;
    while start.elapsed() < time {
        engine.infer(&inputs)?;
        pictures += model.spec().batch.executed(batch);
    }
    Ok(pictures as f64 / start.elapsed().as_secs_f64())
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
