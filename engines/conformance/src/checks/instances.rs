//! Instances: on their own threads, independent, repeatable, and gone when they are dropped.

use std::sync::{Arc, Barrier};
use std::thread;

use detectd_engine::{Model, Tensor};

use crate::batches::{assert_close, batch};
use crate::{Bench, MAX_BATCH, networks};

pub fn concurrent(bench: &Bench<'_>) {
    const THREADS: usize = 4;
    let network = networks::detector();
    let model = bench.load(&network, None, None);
    let (barrier, tolerance) = (Barrier::new(THREADS), bench.suite.tolerance);
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (model, network, barrier) = (&model, &network, &barrier);
            scope.spawn(move || {
                let mut engine = model.open().expect("opens");
                barrier.wait();
                for round in 0..10 {
                    let size = 1 + (index + round) % MAX_BATCH;
                    let batch = batch(network, size, (100 * index + round) as u64);
                    let outputs = engine.infer(&batch).unwrap_or_else(|error| panic!("thread {index}: {error}"));
                    let what = format!("thread {index}, round {round}");
                    assert_close(&outputs, &network.evaluate(&batch), tolerance, &what);
                }
            });
        }
    });
}

pub fn repeatable(bench: &Bench<'_>) {
    let network = networks::detector();
    let model = bench.load(&network, None, None);
    let batch = batch(&network, 3, 11);
    let mut first: Option<Vec<Tensor>> = None;
    for _ in 0..3 {
        let mut engine = model.open().expect("opens");
        for _ in 0..3 {
            let outputs = engine.infer(&batch).expect("runs");
            let first = first.get_or_insert_with(|| outputs.clone());
            assert!(*first == outputs, "the same batch gave two answers");
        }
    }
}

/// An engine that cannot be resized is loaded again, and has nothing to show here.
pub fn resized(bench: &Bench<'_>) {
    let network = networks::detector();
    let model = bench.load(&network, None, None);
    let larger = MAX_BATCH + 3;
    let Some(resized) = model.resized(larger, 2) else { return };
    assert!(resized.spec().batch.max() >= larger, "{:?}", resized.spec().batch);
    assert!(model.resized(0, 1).is_none(), "a batch does not go by resizing");
    let batch = batch(&network, larger, 14);
    let refused = model.open().expect("opens").infer(&batch);
    assert!(refused.is_err(), "the first one keeps its size");
    drop(model);
    let outputs = resized.open().expect("opens").infer(&batch).expect("runs");
    assert_close(&outputs, &network.evaluate(&batch), bench.suite.tolerance, "resized");
}

pub fn outlive_the_model(bench: &Bench<'_>) {
    let network = networks::detector();
    let model = bench.load(&network, None, None);
    let mut engine = model.open().expect("opens");
    drop::<Arc<dyn Model>>(model);
    let batch = batch(&network, 2, 12);
    let outputs = engine.infer(&batch).expect("runs");
    assert_close(&outputs, &network.evaluate(&batch), bench.suite.tolerance, "after the model was dropped");
}

/// Kept memory is visible only in the process as a whole, so the bound is generous; a leak of one instance's threads
/// or of the weights passes it.
pub fn keep_memory(bench: &Bench<'_>) {
    const BOUND: usize = 48 << 20;
    let network = networks::detector();
    let model = bench.load(&network, None, None);
    let batch = batch(&network, MAX_BATCH, 13);
    let open = || model.open().expect("opens").infer(&batch).map(drop).expect("runs");
    let load = || bench.load(&network, None, None).open().expect("opens").infer(&batch).map(drop).expect("runs");
    for _ in 0..10 {
        open();
        load();
    }
    let (Some(before), threads) = (resident(), threads()) else { return };
    for _ in 0..100 {
        open();
    }
    for _ in 0..30 {
        load();
    }
    let after = resident().unwrap_or_default();
    assert!(after < before + BOUND, "{} MiB grew to {} MiB", before >> 20, after >> 20);
    let (before, after) = (threads, self::threads());
    assert!(after <= before + 8, "{before} threads grew to {after}");
}

/// Bytes of memory that the process has, where the system says.
fn resident() -> Option<usize> {
    let kib = status("VmRSS:")?;
    Some(kib << 10)
}

fn threads() -> usize {
    status("Threads:").unwrap_or_default()
}

fn status(field: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}
