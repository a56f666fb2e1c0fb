//! `detectd-train publish`

use anyhow::Result;
use detectd_train::publish::publish;
use detectd_train::scenes::CLASSES;
use detectd_train::training::TrainedModel;

use super::evaluate::held_out;
use crate::cli;

/// Size of the held-out scenes that the model card's figures are measured on.
const SIZE: [u32; 2] = [480, 480];

/// Measures, then writes the version.
pub fn run(arguments: &cli::Publish) -> Result<()> {
    let model = TrainedModel::read(&arguments.weights)?;
    let metrics = held_out(&model, arguments.count, SIZE, arguments.threads)?;
    super::score::print(&metrics, &CLASSES.map(str::to_owned), false)?;
    let history = arguments.weights.with_file_name("results.csv");
    let history = history.is_file().then_some(history.as_path());
    let folder = publish(&model, history, &metrics, SIZE, &arguments.models, arguments.version)?;
    println!("published: {}", folder.display());
    Ok(())
}
