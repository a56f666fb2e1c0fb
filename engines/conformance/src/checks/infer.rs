//! Tensors in, tensors out, against the reference.

use crate::batches::{assert_close, batch};
use crate::{Bench, MAX_BATCH, Network, networks};

pub fn every_batch_size(bench: &Bench<'_>) {
    for network in [networks::detector(), networks::auxiliary()] {
        let model = bench.load(&network, None, None);
        let mut engine = model.open().expect("opens");
        // Down again, in case buffers of a larger batch remain.
        for size in (1..=MAX_BATCH).chain([2, 1]) {
            compare(bench, &mut *engine, &network, size);
        }
    }
}

pub fn fixed_batch(bench: &Bench<'_>) {
    let network = networks::detector();
    for size in [1, 3] {
        let model = bench.load(&network, Some(size), None);
        compare(bench, &mut *model.open().expect("opens"), &network, size);
    }
}

pub fn every_data_type(bench: &Bench<'_>) {
    let network = networks::typed();
    let model = bench.load(&network, None, None);
    let mut engine = model.open().expect("opens");
    for size in 1..=MAX_BATCH {
        compare(bench, &mut *engine, &network, size);
    }
}

fn compare(bench: &Bench<'_>, engine: &mut dyn detectd_engine::Engine, network: &Network, size: usize) {
    let what = format!("{}, batch of {size}", network.name);
    let batch = batch(network, size, size as u64);
    let outputs = engine.infer(&batch).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_close(&outputs, &network.evaluate(&batch), bench.suite.tolerance, &what);
}
