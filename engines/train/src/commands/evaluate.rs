//! `detectd-train evaluate`

use anyhow::{Result, ensure};
use detectd_train::dataset::{Scenes, Split};
use detectd_train::evaluation::Metrics;
use detectd_train::scenes::CLASSES;
use detectd_train::training::{Predictor, TrainedModel, measure};
use tch::Kind;

use crate::cli;

/// Pictures per forward pass.
const BATCH: usize = 16;

/// Measures and prints.
pub fn run(arguments: &cli::Evaluate) -> Result<()> {
    let model = TrainedModel::read(&arguments.weights)?;
    let metrics = held_out(&model, arguments.count, arguments.size, arguments.threads)?;
    super::score::print(&metrics, &CLASSES.map(str::to_owned), arguments.json)
}

/// What a model reaches on the first `count` held-out scenes of the given size, computed in f32.
pub fn held_out(model: &TrainedModel, count: u32, size: [u32; 2], threads: usize) -> Result<Metrics> {
    ensure!(count > 0, "the number of held-out scenes must be at least 1");
    ensure!((1..=256).contains(&threads), "the number of threads must be between 1 and 256, not {threads}");
    tch::set_num_threads(i32::try_from(threads)?);
    let scenes = Scenes { first: Split::HeldOut.seeds(count).start, count: count as usize, sizes: vec![size] };
    let samples = scenes.draw(None, threads)?;
    let mut predictor = Predictor::new(&model.network, model.settings.input, Kind::Float);
    measure(&mut predictor, &samples, BATCH)
}
